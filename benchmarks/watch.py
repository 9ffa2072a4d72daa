"""What `benchmarks/serve.py` sees beside the client: when the machine itself stands still, and when the server writes.

The clocks of all processes are one (CLOCK_MONOTONIC), so their times can be compared.

`Stalls` runs one program on each core. The program has the first place on its core (real-time priority, which needs
root) and wants to wake every millisecond. If it wakes `LEAST_S` later than it wanted, no program was in its way: the
core itself stood still, as cores of a virtual machine do.

As a program, `python -m benchmarks.watch FILE CORE serve ...` runs `tokenworks serve` on one core, and writes down when
each turn of the driver has written its tokens, how late they were, and when each stream came, began and ended. This
costs 1 %.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tokenworks.arrays import Floats

LEAST_S = 0.003
"""Shortest delay that counts as a stall [s]."""
AFTER_S = 0.02
"""Time after a stall in which the server makes up for it [s]."""

WATCHER = """
import os, sys, time
os.sched_setaffinity(0, {{{core}}})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
print("ready", flush=True)
seen, before = [], time.monotonic()
while os.getppid() == {parent}:
    time.sleep(0.001)
    now = time.monotonic()
    if now - before > 0.001 + {least}:
        print(before + 0.001, now, flush=True)
    before = now
"""


class Stalls:
    """When cores stood still, while this object was open. A list of (begin, end) for each core [s]."""

    def __init__(self) -> None:
        self.of = dict[int, Floats]()
        self.passed_s = 0.0

    @contextmanager
    def watched(self) -> Iterator[Stalls]:
        """Watch all cores. Without the right to real-time priority, no stall is seen, and a line says so."""
        cores, began = sorted(os.sched_getaffinity(0)), time.monotonic()
        programs = []
        for core in cores:
            code = WATCHER.format(core=core, least=LEAST_S, parent=os.getpid())
            command = [sys.executable, "-c", code]
            programs.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
        for program in programs:
            assert program.stdout is not None
            if program.stdout.readline() != b"ready\n":
                print("the watchers of stalls have no right to real-time priority: no stalls are seen")
        try:
            yield self
        finally:
            self.passed_s = time.monotonic() - began
            for core, program in zip(cores, programs, strict=True):
                program.kill()
                assert program.stdout is not None
                rows = [line.split() for line in program.stdout.read().decode().splitlines()]
                self.of[core] = np.array([row for row in rows if len(row) == 2], float).reshape(-1, 2)

    def during(self, core: int, begins: Floats, ends: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether the core stood still at some time of each span, or up to `AFTER_S` before it.

        Parameters
        ----------
        core : the core
        begins, ends : begin and end of each span [s]
        """
        stood = self.of.get(core, np.zeros((0, 2)))
        first = np.searchsorted(stood[:, 1] + AFTER_S, begins)  # the first stall that ends after the span begins
        return (first < len(stood)) & (np.append(stood[:, 0], np.inf)[first] < ends)

    def told(self, core: int) -> str:
        """A sentence about the stalls of a core."""
        spans = self.of[core][:, 1] - self.of[core][:, 0]
        share = 100 * spans.sum() / max(self.passed_s, 1e-9)
        return (
            f"core {core} stood still for {share:.1f} % of the time, {len(spans) / self.passed_s:.2f} times a second, "
            f"at most {1e3 * spans.max(initial=0):.0f} ms"
        )


class Writes:
    """What the server wrote down.

    times, lates : when each token was written, and how late it was [s]
    came, began, ended : of each stream, in the order of `came`: when the first byte of its request came, and when its
        first and its last token were written [s]
    """

    def __init__(self, file: Path) -> None:
        with np.load(file) as seen:
            self.times, self.lates = seen["times"], seen["lates"]
            self.came, self.began, self.ended = seen["streams"]


def written(file: str, streams: list[list[float]], turns: list[tuple[float, Any]]) -> None:
    """Write the file that `Writes` reads.

    Parameters
    ----------
    file : the file
    streams : `came`, `began` and `ended` of each stream
    turns : when each turn had written its tokens, and how late they were
    """
    lates = [late for _, late in turns] or [np.zeros(0)]
    times = np.repeat([when for when, _ in turns], [len(late) for _, late in turns])
    table = np.array(sorted(streams)).reshape(-1, 3).T
    np.savez(file, times=times, lates=np.concatenate(lates), streams=table)


def main() -> None:
    """Run `tokenworks serve`, and write down what it writes."""
    file, core, *arguments = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    from tokenworks.cli import main as tokenworks
    from tokenworks.serving.answers import StreamAnswer
    from tokenworks.serving.metrics import ServerMetrics
    from tokenworks.serving.server import Server

    turns, streams, came = list[tuple[float, Any]](), dict[Any, list[float]](), dict[Any, float]()
    observe, answer = ServerMetrics.observe, Server.answer
    start, end = StreamAnswer._start, StreamAnswer.ended

    def observed(self: Any, seen: Any) -> None:
        turns.append((time.monotonic(), seen.lates))
        observe(self, seen)

    def answered(self: Any, connection: Any, request: Any, *given: Any) -> None:
        came[connection] = request.received
        answer(self, connection, request, *given)

    def started(self: Any) -> None:
        start(self)
        streams[self] = [came.pop(self.connection), time.monotonic(), np.nan]

    def ended(self: Any, *given: Any) -> None:
        end(self, *given)
        streams[self][2] = time.monotonic()

    ServerMetrics.observe, Server.answer = observed, answered  # type: ignore[method-assign]
    StreamAnswer._start, StreamAnswer.ended = started, ended  # type: ignore[method-assign]
    sys.argv = ["tokenworks", *arguments]
    try:
        tokenworks()
    finally:
        written(file, list(streams.values()), turns)


if __name__ == "__main__":
    main()
