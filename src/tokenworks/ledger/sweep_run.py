"""How the points of a sweep are computed: in chunks, by local processes or on a Ray cluster, with the same results."""

from __future__ import annotations

import socket
from collections.abc import Generator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tokenworks.errors import SpecError
from tokenworks.ledger.sweep_point import SweepJob, SweepRunner
from tokenworks.processes import follow_parent, processes
from tokenworks.specs.shown import Record

Chunk = tuple[int, ...]
"""Numbers of points that one process computes in a row."""

Finished = list[tuple[int, Record]]
"""Finished points: their numbers and records."""

MOST_CHUNK = {"simulate": 16, "plan": 1, "estimate": 16}
"""Most points of a chunk, by question. A crash loses at most the chunks that are not finished [count]."""

ANSWER_S = 5.0
"""Time in which a Ray cluster must answer [s]."""

SHARES = 16
"""A process gets at least this number of chunks, so that all processes end at about the same time [count]."""


def chunks_of(job: SweepJob, missing: Sequence[int], workers: int) -> list[Chunk]:
    """The points that are to be computed, in chunks. Points that use the same step times stand together.

    Parameters
    ----------
    job : the sweep
    missing : numbers of the points
    workers : processes [count]
    """
    places: dict[Any, int] = {}
    groups = {number: places.setdefault(job.alike(number), len(places)) for number in missing}
    ordered = sorted(missing, key=lambda number: (groups[number], number))
    size = max(1, min(MOST_CHUNK[job.file.do], len(ordered) // (workers * SHARES)))
    return [tuple(ordered[low : low + size]) for low in range(0, len(ordered), size)]


def in_processes(job: SweepJob, chunks: Sequence[Chunk], workers: int) -> Generator[Finished, None, None]:
    """Compute chunks with local processes; with one process in this one.

    Parameters
    ----------
    job : the sweep
    chunks : the points
    workers : processes [count]

    Yields
    ------
    The finished points of each chunk, in any order.
    """
    if workers == 1:
        runner = SweepRunner(job)
        for chunk in chunks:
            yield [(number, runner.run(number)) for number in chunk]
        return
    try:
        with processes(min(workers, len(chunks)), _start, job) as pool:
            futures: list[Future[Finished]] = [pool.submit(_run, chunk) for chunk in chunks]
            for future in as_completed(futures):
                yield future.result()
    except BrokenProcessPool:
        raise SpecError(
            "a process of the sweep ended before its work was done",
            where="--workers",
            hint="if memory was short, give fewer workers; in a Python script, call sweep() below "
            "`if __name__ == '__main__':`; the same command goes on from the finished points",
        ) from None


_runner: SweepRunner | None = None
"""The runner of a process that `in_processes` started."""


def _start(job: SweepJob) -> None:
    """Prepare a process."""
    global _runner  # noqa: PLW0603 - an initializer can give its result to later calls in no other way
    follow_parent()
    _runner = SweepRunner(job)


def _run(chunk: Chunk) -> Finished:
    """Compute a chunk in a process that `_start` prepared."""
    assert _runner is not None
    return [(number, _runner.run(number)) for number in chunk]


def on_ray(
    job: SweepJob, chunks: Sequence[Chunk], address: str, workers: int | None
) -> Generator[Finished, None, None]:
    """Compute chunks on a Ray cluster. Each actor is one process with one CPU, and keeps what its points share.

    Parameters
    ----------
    job : the sweep. The files that it names must have the same paths on all nodes
    chunks : the points
    address : address of the cluster, as `ray.init` takes it: "auto", "127.0.0.1:6379"; "local" starts one
    workers : actors; None: one per CPU of the cluster [count]

    Yields
    ------
    The finished points of each chunk, in any order.
    """
    ray = must_have_ray()
    _must_answer(address)
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "start one with `ray start --head`, and give its address, such as 127.0.0.1:6379"
        raise SpecError(f"there is no Ray cluster: {words}", where=f"--ray {address}", hint=hint) from None
    try:
        count = min(workers or max(1, int(ray.cluster_resources().get("CPU", 1))), len(chunks))
        shared, actor = ray.put(job), ray.remote(num_cpus=1)(_RayRunner)
        actors = [actor.remote(shared) for _ in range(count)]
        left = iter(chunks)
        running = {one.run.remote(chunk): one for one, chunk in zip(actors, left, strict=False)}
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            one = running.pop(ready)
            if (chunk := next(left, None)) is not None:
                running[one.run.remote(chunk)] = one
            yield ray.get(ready)
    except ray.exceptions.RayError as error:
        words = str(error).splitlines()[0]
        hint = "each node needs this version of tokenworks; the same command goes on from the finished points"
        raise SpecError(f"a process of the sweep failed: {words}", where=f"--ray {address}", hint=hint) from None
    finally:
        ray.shutdown()


def _must_answer(address: str) -> None:
    """Refuse the address HOST:PORT of a cluster that does not answer: Ray itself would try for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        hint = "start one with `ray start --head`, and give its address, such as 127.0.0.1:6379"
        words = getattr(error, "strerror", None) or error
        raise SpecError(f"there is no Ray cluster: {words}", where=f"--ray {address}", hint=hint) from None


def must_have_ray() -> Any:
    """The module `ray`; a message that names the extra if it is not installed."""
    try:
        import ray
    except ImportError:
        hint = 'install the extra, pip install "tokenworks[ray]", or leave --ray out for local processes'
        raise SpecError("Ray is not installed", where="--ray", hint=hint) from None
    return ray


class _RayRunner:
    """A `SweepRunner` in a process of a Ray cluster."""

    def __init__(self, job: SweepJob) -> None:
        self.runner = SweepRunner(job)

    def run(self, chunk: Chunk) -> Finished:
        return [(number, self.runner.run(number)) for number in chunk]
