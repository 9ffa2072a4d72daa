"""The driver plays the engine on a clock: on a clock without delays its times are those of `simulate`, exactly."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.engine import cases
from tokenworks.engine import simulator
from tokenworks.engine.types import Cluster, Requests, Status
from tokenworks.serving.driver import Driver, Job


class Handle:
    """A call that may be cancelled."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    """An event loop whose clock jumps to the next call."""

    def __init__(self) -> None:
        self.now, self.order = 5.0, itertools.count()
        self.calls: list[tuple[float, int, Handle]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Handle:
        handle = Handle(call)
        heapq.heappush(self.calls, (max(when, self.now), next(self.order), handle))
        return handle

    def call_later(self, delay: float, call: Callable[[], None]) -> Handle:
        return self.call_at(self.now + delay, call)

    def call_soon(self, call: Callable[[], None]) -> Handle:
        return self.call_at(self.now, call)

    def run(self, until: float) -> None:
        while self.calls and self.calls[0][0] < until:
            self.now, _, handle = heapq.heappop(self.calls)
            if handle.call is not None:
                handle.call()


class Taker:
    """Receives the tokens of a job, and notes when they come."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.times, self.tokens = driver, list[float](), list[int]()
        self.status: Status | None = None

    def produced(self, job: Job, tokens: int) -> None:
        assert self.status is None
        assert not self.tokens or tokens > self.tokens[-1]
        self.times.append(self.driver.now())
        self.tokens.append(tokens)

    def ended(self, job: Job, status: Status) -> None:
        assert self.status is None
        self.status = status


def played(cluster: Cluster, requests: Requests, speed: float) -> list[Job]:
    """Jobs of a driver to which the requests come at their arrival times."""
    loop, jobs = Loop(), list[Job]()
    driver = Driver(cluster, speed)
    driver.start(loop, loop.time)  # type: ignore[arg-type]
    driver.observe = lambda seen: None
    offsets = requests.block_offsets

    def submit(i: int) -> None:
        names = requests.block_ids[offsets[i] : offsets[i + 1]]
        jobs.append(Job(
            Taker(driver), int(requests.input_tokens[i]), int(requests.output_tokens[i]), names, driver.now(),
            int(requests.priority[i]),
        ))  # fmt: skip
        driver.submit(jobs[-1])

    for i, arrival in enumerate(requests.arrival_s):
        loop.call_at(5.0 + float(arrival) / speed, lambda i=i: submit(i))  # type: ignore[misc]
    loop.run(3000.0)
    return jobs


@pytest.mark.parametrize("speed", [1.0, 16.0])
@pytest.mark.parametrize("seed", range(12))
def test_times_of_the_simulation(seed: int, speed: float) -> None:
    """First and last tokens come when they come in the simulation, with all features of the engine."""
    from dataclasses import replace

    rng = np.random.default_rng(900 + seed)
    cluster, requests = cases.cluster(rng), cases.requests(rng, 25)
    cluster = replace(cluster, concurrency=0, window_s=0.0)
    arrival = np.cumsum(rng.exponential(0.03, 25)) + 0.001
    requests = replace(requests, after=np.full(25, -1, np.int32), group=np.zeros(25, np.int8), arrival_s=arrival)
    whole = simulator.run(cluster, requests)
    jobs = played(cluster, requests, speed)
    takers = [job.receiver for job in jobs]
    assert [taker.status for taker in takers] == [Status(one) for one in whole.status]  # type: ignore[attr-defined]
    done = whole.status == Status.COMPLETED
    assert done.any()
    for name, expected in (("first_s", whole.first_token_s), ("last_s", whole.end_s)):
        times = np.array([getattr(job, name) for job in jobs])
        np.testing.assert_allclose(times[done], expected[done], rtol=0, atol=1e-6)
    for job, cached in zip(jobs, whole.cached_tokens, strict=True):
        taker: Any = job.receiver
        if taker.status == Status.COMPLETED:
            assert job.cached_tokens == cached
            if taker.times:
                assert job.first_s - 1e-6 <= taker.times[0] <= job.first_s + 0.0022 * speed


def test_a_cancelled_job_frees_what_it_holds() -> None:
    rng = np.random.default_rng(3)
    cluster = cases.cluster(rng)
    loop, driver = Loop(), Driver(cluster)
    driver.start(loop, loop.time)  # type: ignore[arg-type]
    jobs = [Job(Taker(driver), 5, 30, np.zeros(0, np.int64), 0.0) for _ in range(6)]
    ended = list[Status]()
    driver.over = lambda job, status: ended.append(status)
    for job in jobs[:5]:
        driver.submit(job)
    driver.cancel(jobs[4])  # it was never submitted
    loop.run(5.0 + 0.02)
    for job in jobs[:4]:
        driver.cancel(job)
        driver.cancel(job)
    driver.cancel(jobs[5])
    loop.run(60.0)
    assert ended == [Status.CANCELLED] * 5
    assert not driver.in_flight
    levels = driver.levels()
    assert not levels.running.any()
    assert not levels.waiting.any()
    assert all(job.receiver.status is None for job in jobs)  # type: ignore[attr-defined]
