"""The engine on a real clock: requests enter the simulated scheduler when they come, tokens leave when steps end."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tokenworks.arrays import Floats, Ints
from tokenworks.engine.live import LiveSimulator
from tokenworks.engine.progress import Levels, Progress
from tokenworks.engine.types import Cluster, Requests, Status

if TYPE_CHECKING:
    from tokenworks.serving.chaos import LiveFaults
    from tokenworks.serving.kv_events import KvWatch
    from tokenworks.serving.lines import Lines
    from tokenworks.serving.tokens import Tokens

LATEST = 3600.0
"""Longest sleep of the driver. Then it looks at the clock again [s]."""


class Receiver(Protocol):
    """What gets the tokens of a job."""

    def produced(self, job: Job, tokens: int) -> None:
        """The job has `tokens` output tokens now. The last tokens come with `ended`."""

    def ended(self, job: Job, status: Status) -> None:
        """The job has ended."""


@dataclass(slots=True, eq=False)
class Job:
    """One request of the engine: a choice of an answer.

    Parameters
    ----------
    receiver : gets the tokens
    input_tokens, output_tokens : lengths [token]
    names : names of the blocks of prompt and answer; None: no prefix cache
    received_s : time at which the server received the request, on the logical clock [s]
    priority : 0 (served first) .. 7
    index : number of the choice in its answer
    pin : ranks that the job may go to (`ports.Door`)
    number : number of the request in the engine; -1 before it is submitted
    sent : output tokens that the receiver has sent [token]
    first_s, last_s : times of the first and the last token on the logical clock [s]
    cached_tokens : prompt tokens that the prefix cache served [token]
    queued_s : time from the arrival at a rank to the first admission [s]
    rank : number of the rank that the router chose; -1 = none
    stopped : whether the answer ends by itself, and not at the limit of the client
    tokens : tokens of prompt and answer, if changes of the prefix caches are watched
    more : what the receiver needs to write the tokens of the job
    slot : place of the request in the memory of the engine; -1 before its first token
    """

    receiver: Receiver
    input_tokens: int
    output_tokens: int
    names: Ints | None
    received_s: float
    priority: int = 0
    index: int = 0
    number: int = -1
    sent: int = 0
    first_s: float = math.nan
    last_s: float = math.nan
    cached_tokens: int = 0
    queued_s: float = 0.0
    rank: int = -1
    stopped: bool = False
    tokens: Tokens | None = None
    pin: int = 0
    more: Any = None
    slot: int = -1


@dataclass
class HandedOver:
    """What the driver tells its observer about tokens that it handed over in one turn.

    ranks, gaps, lates : of each token's request: number of its rank; time since the token before it, NaN for a first
        token [s]; time between the token's due time and the moment when it was written: the tokens of a turn are
        written one after the other, in equal times [s of the real clock]
    more : new tokens of each request [token]
    """

    ranks: Ints
    gaps: Floats
    lates: Floats
    more: Ints


@dataclass
class Driver:
    """Plays a cluster in real time.

    Parameters
    ----------
    cluster : the cluster; its `request_s` is waited for here, less the time that the real server took
    speed : seconds of the logical clock in a second of the real clock [-]
    observe : called with the tokens of each turn
    stepped : called after each turn with new tokens: steps of the instance of each rank so far, and tokens in them
    first : called with each job that has its first token
    over : called with each job that has ended, and its status
    faults : parts of the machine that fail and work again; None: nothing fails
    watched : whether changes of the prefix caches are handed to `watch`
    watch : publishes the changes
    lines : writes tokens of some jobs, which their receivers then do not get; None: receivers get all tokens
    jobs : jobs in the engine, by their numbers
    """

    cluster: Cluster
    speed: float = 1.0
    observe: Callable[[HandedOver], None] | None = None
    stepped: Callable[[Ints, Ints], None] | None = None
    first: Callable[[Job], None] | None = None
    over: Callable[[Job, Status], None] | None = None
    faults: LiveFaults | None = None
    watched: bool = False
    watch: KvWatch | None = None
    lines: Lines | None = None
    jobs: dict[int, Job] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.request_s = self.cluster.request_s
        played = replace(self.cluster, request_s=0.0, concurrency=0, window_s=0.0)
        self.simulator = LiveSimulator(played, watched=self.watched)
        self._progress = Progress()
        self._waiting: list[Job] = []
        self._held: list[tuple[float, int, Job, int, Status | None]] = []
        self._order = itertools.count()
        self._submitted = self._taken = 0
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Handle | None = None

    def start(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        """Start the logical clock at 0.

        Parameters
        ----------
        loop : what calls the driver; its own clock may have whole milliseconds only, as that of uvloop has
        clock : the real clock [s]
        """
        self._loop, self._clock, self._origin = loop, clock, clock()

    def now(self) -> float:
        """Time of the logical clock [s]."""
        return (self._clock() - self._origin) * self.speed

    @property
    def in_flight(self) -> int:
        """Jobs that have not ended."""
        return len(self.jobs) + len(self._waiting)

    def pending(self) -> Iterator[Job]:
        """Jobs that have not ended."""
        yield from self.jobs.values()
        yield from self._waiting

    def levels(self) -> Levels:
        """Requests and KV blocks of each rank."""
        return self.simulator.levels()

    # ---- requests

    def submit(self, job: Job) -> None:
        """Let a job enter the simulated scheduler, `request_s` after the server received it."""
        self._waiting.append(job)
        self._soon()

    def _soon(self) -> None:
        """Take a turn once all input that is ready was read: one turn for all requests that came together."""
        if self._flushing is None:
            self._flushing = self._loop.call_soon(self._turn)

    def cancel(self, job: Job) -> None:
        """Withdraw a job: its receiver hears no more of it, and the engine frees its slot and its KV blocks."""
        if job.number < 0:
            if job in self._waiting:
                self._waiting.remove(job)
                self._report(job, Status.CANCELLED)
            return
        if self.jobs.pop(job.number, None) is None:
            return
        if self.lines is not None:
            self.lines.leave(job)
        self.simulator.cancel(job.number)
        self._report(job, Status.CANCELLED)
        self._soon()

    def _submit_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        earliest = self.simulator.now
        times = [max(job.received_s + self.request_s, earliest) for job in waiting]
        order = sorted(range(len(waiting)), key=times.__getitem__)
        waiting = [waiting[i] for i in order]
        names = [job.names for job in waiting if job.names is not None]
        requests = Requests.of(
            [times[i] for i in order],
            [job.input_tokens for job in waiting],
            [job.output_tokens for job in waiting],
            priority=[job.priority for job in waiting],
            block_ids=np.concatenate(names) if names else None,
            block_offsets=np.cumsum([0, *(0 if job.names is None else len(job.names) for job in waiting)]),
        )
        self.simulator.submit(requests, [job.pin for job in waiting])
        for number, job in enumerate(waiting, self._submitted):
            if self.watch is not None and job.names is not None and job.tokens is not None:
                self.watch.submitted(number, job.tokens, job.names)
            job.number, job.names, job.tokens = number, None, None
            self.jobs[number] = job
        self._submitted += len(waiting)

    # ---- turns

    def _turn(self) -> None:
        """Submit what waits, play the engine up to now, and hand over the new tokens."""
        for handle in (self._timer, self._flushing):
            if handle is not None:
                handle.cancel()
        self._timer = self._flushing = None
        if self._waiting:
            self._submit_waiting()
        simulator, progress, now = self.simulator, self._progress, self.now()
        if self.faults is not None and self.faults.next_s <= now:
            self.faults.advance(now, simulator)
        simulator.advance(max(now, simulator.now))
        simulator.progress(progress)
        if self.watch is not None and simulator.has_changes:
            self.watch.changed(simulator.changes(), now)
        while self._held and self._held[0][0] <= now:  # before newer tokens of the same jobs
            _, _, job, tokens, status = heapq.heappop(self._held)
            self._release(job, tokens, status)
        if len(progress):
            self._hand_over(now)
        if simulator.ended > self._taken:
            self._end(now)
        self._schedule()

    def _hand_over(self, now: float) -> None:
        """Hand over the new tokens. What was due first is written first, by `lines`; then the rest in this order."""
        progress, times = self._progress, self._progress.times
        order, count = times.argsort(kind="stable"), len(times)
        written = 0 if self.lines is None else self.lines.write(progress, order, now)
        if written < count:
            self._hand_left(order[written:], now)
        if self.observe is not None:
            ends = np.empty(count)
            ends[order] = now + np.arange(1, count + 1) * ((self.now() - now) / count)
            lates = np.maximum(ends - times, 0.0) / self.speed
            self.observe(HandedOver(progress.ranks, progress.gaps, lates, progress.more))
        if self.stepped is not None:
            self.stepped(*self.simulator.work())

    def _hand_left(self, left: Ints, now: float) -> None:
        """Hand over new tokens to their receivers.

        Parameters
        ----------
        left : their requests in `_progress`
        now : later tokens are held [s]
        """
        progress = self._progress
        columns = (progress.numbers, progress.tokens, progress.times, progress.ranks, progress.slots)
        for number, tokens, when, rank, slot in zip(*[column[left].tolist() for column in columns], strict=True):
            job = self.jobs.get(number)
            if job is None:
                continue
            if job.first_s != job.first_s:  # NaN: the first token
                job.first_s, job.rank, job.slot = when, rank, slot
                if self.first is not None:
                    self.first(job)
            if tokens == job.output_tokens:
                continue  # they come with the end
            if when > now:
                heapq.heappush(self._held, (when, next(self._order), job, tokens, None))
            else:
                job.receiver.produced(job, tokens)

    def _end(self, now: float) -> None:
        ended = self.simulator.take()
        self._taken += len(ended.number)
        columns = (
            ended.number, ended.status, ended.first_token_s, ended.end_s, ended.cached_tokens, ended.rank,
            ended.scheduled_s, ended.arrival_s,
        )  # fmt: skip
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for number, status, first_s, end_s, cached, rank, scheduled_s, arrival_s in rows:
            if self.watch is not None:
                self.watch.ended(number)
            job = self.jobs.get(number)
            if job is None:
                continue
            job.first_s, job.last_s, job.cached_tokens, job.rank = first_s, end_s, cached, rank
            job.queued_s = scheduled_s - arrival_s
            if status == Status.COMPLETED and end_s > now:
                if self.lines is not None:  # another request may get the slot before the held tokens leave
                    self.lines.leave(job)
                heapq.heappush(self._held, (end_s, next(self._order), job, job.output_tokens, Status.COMPLETED))
            else:
                self._release(job, job.output_tokens, Status(status))

    def _release(self, job: Job, tokens: int, status: Status | None) -> None:
        if job.number not in self.jobs:
            return  # cancelled
        if status is None:
            job.receiver.produced(job, tokens)
            return
        del self.jobs[job.number]
        self._report(job, status)
        job.receiver.ended(job, status)

    def _report(self, job: Job, status: Status) -> None:
        if self.over is not None:
            self.over(job, status)

    def _schedule(self) -> None:
        """Sleep until the next event of the engine or the next held token."""
        due = self._progress.next_s
        if self._held:
            due = min(due, self._held[0][0])
        if self.faults is not None:
            due = min(due, self.faults.next_s)
        sleep = max(0.0, min(self._origin + due / self.speed - self._clock(), LATEST))
        # Timers count whole milliseconds. One that ends too early would let the driver turn until the event comes.
        self._timer = self._loop.call_later(math.ceil(sleep * 1000 + 1e-6) / 1000, self._turn)

    def wake(self) -> None:
        """Look at the clock again, as something outside of the engine has changed."""
        self._soon()

    def flush(self) -> bool:
        """Empty the prefix cache and the KV tiers.

        Returns False, and does nothing, while requests are in flight or instances are not whole.
        """
        if self.in_flight or self._held or (self.faults is not None and not self.faults.is_whole()):
            return False
        now = self.simulator.now
        self.simulator, self._progress = LiveSimulator(self.simulator.cluster, watched=self.watched), Progress()
        self.simulator.advance(now)
        self._submitted = self._taken = 0
        if self.stepped is not None:
            self.stepped(*self.simulator.work())
        if self.watch is not None:
            self.watch.cleared()
        return True

    def stop(self) -> None:
        """Take no more turns."""
        for handle in (self._timer, self._flushing):
            if handle is not None:
                handle.cancel()
