"""What `benchmarks/serve.py` sees beside the client: when the machine itself is slow, and when the server writes.

The clocks of all processes are one (CLOCK_MONOTONIC), so their times can be compared.

`Spells` runs one program on each core. The program has the first place on its core (real-time priority, which needs
root), and does the same small work every 2 ms. If the work takes more than `FACTOR` times as long as usual, no program
was in its way: the core itself was slow, as cores of a virtual machine are at times.

As a program, `python -m benchmarks.watch FILE CORE serve ...` runs `tokenworks serve` on one core, and writes down when
each turn of the driver has written its tokens, how late they were, and when each stream came, began and ended. This
costs 1 to 3 % of its time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tokenworks.arrays import Floats

FACTOR = 3.0
"""A core is slow while the same work takes so many times as long as usual [-]."""
AFTER_S = 0.1
"""Time after a slow spell in which the server makes up for it; at 60,000 tokens/s, with a third of a core [s]."""
WAIT_S = 0.002
"""Wait of the server for its core, between two turns, that counts as a slow spell: other programs ran [s]."""

WATCHER = """
import gc, os, time
gc.disable()
os.sched_setaffinity(0, {{{core}}})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
print("ready", flush=True)
while os.getppid() == {parent}:
    time.sleep(0.002)
    began = time.monotonic()
    for _ in range(1000):
        pass
    print(began, time.monotonic())
"""


class Spells:
    """When cores were slow, while this object was open.

    of : core -> begin and end of each work that took long [s]
    most : core -> how many times as long as usual the work took at most [-]
    passed_s : time for which cores were watched [s]
    seen : whether all watchers had the right to real-time priority
    """

    def __init__(self) -> None:
        self.of, self.most, self.passed_s, self.seen = dict[int, Floats](), dict[int, float](), 0.0, True

    @contextmanager
    def watched(self) -> Iterator[Spells]:
        """Watch all cores. Without the right to real-time priority, nothing is seen, and a line says so."""
        cores, began = sorted(os.sched_getaffinity(0)), time.monotonic()
        with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
            files = (first, second)
            programs = []
            for core, file in zip(cores, files, strict=False):
                code = WATCHER.format(core=core, parent=os.getpid())
                programs.append(subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=subprocess.DEVNULL))
            try:
                yield self
            finally:
                self.passed_s = time.monotonic() - began
                for core, program, file in zip(cores, programs, files, strict=False):
                    program.terminate()
                    program.wait()
                    file.seek(0)
                    self._read(core, file.read().decode())

    def _read(self, core: int, text: str) -> None:
        rows = [line.split() for line in text.splitlines()[1:-1]]
        spans = np.array(rows, float).reshape(-1, 2)
        if not len(spans):
            self.seen = False
            print(f"core {core}: the watcher has no right to real-time priority, so slow spells are not seen")
        took = spans[:, 1] - spans[:, 0]
        usual = float(np.median(took)) if len(took) else 1.0
        self.of[core], self.most[core] = spans[took > FACTOR * usual], float(took.max(initial=0)) / usual

    def told(self, core: int) -> str:
        """A sentence about the slow spells of a core."""
        slow = self.of[core]
        starts = 1 + int(np.sum(np.diff(slow[:, 0]) > 0.02)) if len(slow) else 0
        share = 100 * 0.0025 * len(slow) / max(self.passed_s, 1e-9)
        return (
            f"core {core}: more than {FACTOR:g} times as slow as usual in {share:.1f} % of the time, "
            f"{starts / self.passed_s:.2f} spells a second, at most {self.most[core]:.0f} times"
        )


class Writes:
    """What the server wrote down.

    times, lates : when each token was written, and how late it was [s]
    came, began, ended : of each stream, in the order of `came`: when the first byte of its request came, and when its
        first and its last token were written [s]
    waits : begin and end of turns in which the server waited for its core, as other programs ran [s]
    """

    def __init__(self, file: Path) -> None:
        with np.load(file) as seen:
            self.times, self.lates, self.waits = seen["times"], seen["lates"], seen["waits"]
            self.came, self.began, self.ended = seen["streams"]


def _counted(spells: tuple[Floats, ...]) -> tuple[Floats, Floats]:
    """Begins of spells, in order, and the times until which they count: `AFTER_S` after the last end so far [s]."""
    all_spells = np.concatenate([np.zeros((0, 2)), *spells])
    starts, stops = all_spells[np.argsort(all_spells[:, 0], kind="stable")].T
    return starts, np.maximum.accumulate(stops) + AFTER_S


def slow(begins: Floats, ends: Floats, *spells: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether there was a slow spell at some time of each span, or up to `AFTER_S` before it.

    Parameters
    ----------
    begins, ends : begin and end of each span [s]
    spells : rows of begin and end [s]
    """
    starts, untils = _counted(spells)
    first = np.searchsorted(untils, begins)
    return (first < len(starts)) & (np.append(starts, np.inf)[first] < ends)


def quiet(begin: float, end: float, *spells: Floats) -> tuple[float, float]:
    """Begin and end of the longest stretch of a span without a slow spell, also up to `AFTER_S` before it [s].

    Parameters
    ----------
    begin, end : the span [s]
    spells : rows of begin and end [s]
    """
    starts, untils = _counted(spells)
    froms = np.clip(np.append(begin, untils), begin, end)
    tos = np.clip(np.append(starts, end), begin, end)
    longest = int(np.argmax(tos - froms))
    return float(froms[longest]), float(tos[longest])


def written(file: str, streams: list[list[float]], turns: list[tuple[float, Any, float]]) -> None:
    """Write the file that `Writes` reads.

    Parameters
    ----------
    file : the file
    streams : `came`, `began` and `ended` of each stream
    turns : when each turn had written its tokens, how late they were, and the time that the process has waited so far
    """
    ends, waited = np.array([turn[0] for turn in turns]), np.array([turn[2] for turn in turns])
    long = np.flatnonzero(np.diff(waited) > WAIT_S)
    times = np.repeat(ends, [len(turn[1]) for turn in turns])
    np.savez(
        file, times=times, lates=np.concatenate([np.zeros(0), *(turn[1] for turn in turns)]),
        waits=np.c_[ends[long], ends[long + 1]], streams=np.array(sorted(streams)).reshape(-1, 3).T,
    )  # fmt: skip


def main() -> None:
    """Run `tokenworks serve`, and write down what it writes."""
    file, core, *arguments = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    from tokenworks.cli import main as tokenworks
    from tokenworks.serving.answers import StreamAnswer
    from tokenworks.serving.metrics import ServerMetrics
    from tokenworks.serving.server import Server

    turns, streams, came = list[tuple[float, Any, float]](), dict[Any, list[float]](), dict[Any, float]()
    observe, answer = ServerMetrics.observe, Server.answer
    start, end = StreamAnswer._start, StreamAnswer.ended

    schedule = os.open("/proc/self/schedstat", os.O_RDONLY)

    def observed(self: Any, seen: Any) -> None:
        waited = int(os.pread(schedule, 64, 0).split()[1])
        turns.append((time.monotonic(), seen.lates, 1e-9 * waited))
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

    patched: list[tuple[Any, str, Any]] = [
        (ServerMetrics, "observe", observed), (Server, "answer", answered), (StreamAnswer, "_start", started),
        (StreamAnswer, "ended", ended),
    ]  # fmt: skip
    for kind, name, function in patched:
        setattr(kind, name, function)
    sys.argv = ["tokenworks", *arguments]
    try:
        tokenworks()
    finally:
        written(file, list(streams.values()), turns)


if __name__ == "__main__":
    main()
