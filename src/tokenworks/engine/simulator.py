"""The engine that other rooms use: `Simulator` drives the compiled kernel, `run` plays a whole trace."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenworks.arrays import Floats, Ints
from tokenworks.engine import kernel
from tokenworks.engine.counting import counts_of
from tokenworks.engine.outcome import SERIES, Counts, Ended, Outcome
from tokenworks.engine.outside import KINDS, OF_INSTANCES
from tokenworks.engine.progress import Levels, Progress
from tokenworks.engine.state import MANY, OUTSIDE, REQUEST, EngineState, allocate
from tokenworks.engine.tier_state import reserve
from tokenworks.engine.types import Cluster, Requests, Status
from tokenworks.errors import SpecError

_BATCH = 8192
_ALL = 1 << 62
_UNSENT = np.zeros((), REQUEST)
_UNSENT["scheduled_s"] = _UNSENT["first_s"] = _UNSENT["end_s"] = np.nan
_UNSENT["child"] = _UNSENT["cnext"] = _UNSENT["route"] = -1
_UNSENT["gated"] = 1
_BYTES = np.dtype((np.void, REQUEST.itemsize))
"""A record as bytes: copies of whole records are much faster than copies of their fields."""
_COLUMNS = {
    "arrival_s": "sent_s", "scheduled_s": "scheduled_s", "first_token_s": "first_s", "end_s": "end_s",
    "input_tokens": "input", "output_tokens": "output", "cached_tokens": "hit", "preemptions": "preemptions",
    "status": "status", "rank": "route", "retries": "retries",
}  # fmt: skip


def grown(array: NDArray[Any], count: int) -> NDArray[Any]:
    """`array` itself if it is ours and has room for `count` rows, else a longer copy; new rows hold anything.

    A copy is at least twice as long, so that the time for all copies is linear. `np.empty` gets huge pages, which are
    ten times as fast to touch on a virtual machine.
    """
    if count <= len(array) and array.flags.owndata:
        return array
    wide = np.empty((max(count, 2 * len(array)), *array.shape[1:]), array.dtype)
    wide[: len(array)] = array
    return wide


class Simulator:
    """A simulation of a cluster that the caller drives: `submit` requests, `advance` the clock, read the results.

    Times are on a logical clock that starts at 0 [s]. Requests are numbered in the order in which they are submitted.
    `outcome` returns all requests. A run without end calls `take` instead, which hands over the ended requests and
    reuses their memory. `reference.Reference` gives the same results.

    Parameters
    ----------
    cluster : the deployment to simulate
    names : different block ids of the requests, at most, if all are submitted at once: large caches of few blocks then
        need little memory [count]
    """

    def __init__(self, cluster: Cluster, names: int = MANY) -> None:
        self.cluster, self._most_names = cluster, names
        self._state: EngineState = allocate(cluster, names)
        self._table = kernel.Addresses()
        self._loses = False  # whether ranks are lost, so that requests are sent again
        self._ours = False  # whether `ids` is an array of the simulator, and not of the caller
        self._caches = any(pool.limits.prefix_caching for pool in cluster.pools)
        self._submitted = self._slots = self._named = self._names = self._taken = self._spares = 0
        self._spare = np.zeros(0, np.int32)

    @property
    def now(self) -> float:
        """Time of the logical clock [s]."""
        return float(self._state.world["now"][0])

    @property
    def sent(self) -> int:
        """Number of requests that have reached a rank so far."""
        return int(self._state.world["sent"][0])

    @property
    def ended(self) -> int:
        """Number of requests that have ended so far, or will never be sent because their parent did not complete."""
        return int(self._state.world["ended"][0])

    @property
    def slots(self) -> int:
        """Most requests that were in memory at the same time."""
        return self._slots

    # ---- submitting requests

    def submit(self, requests: Requests) -> None:
        """Add requests to the simulation.

        Parameters
        ----------
        requests : their arrival times must not lie before `now`; a parent from an earlier call must still be in flight

        Raises
        ------
        SpecError : an arrival lies before `now`, a parent has ended, or the simulator has room for one call alone
        """
        if self._most_names < MANY and self._submitted:
            raise SpecError("the memory is for the requests that were submitted", where="Simulator.submit",
                            hint="give the simulator no number of names")  # fmt: skip
        early = requests.arrival_s[requests.after < 0].min(initial=np.inf)
        if early < self.now:
            raise SpecError(f"{early} s lies before now, {self.now} s", where="Requests.arrival_s",
                            hint="submit requests before the clock passes their arrival")  # fmt: skip
        followers = np.flatnonzero(requests.after >= 0)
        followers = followers[np.argsort(requests.after[followers], kind="stable")]
        parents = requests.after[followers].astype(np.int64) - requests.earlier
        before = self._parents(parents[parents < 0], requests.earlier)
        more = len(requests.block_ids) if self._caches and (self._ours or self._submitted) else 0
        if self._named + more > len(self._state.ids):
            self._make_room(more)
        reused = min(len(requests), self._spares)
        slots = self._new_slots(len(requests), reused)
        record = grown(self._state.request, self._slots)
        new = np.empty(len(requests), REQUEST) if reused else record[self._slots - len(requests) : self._slots]
        self._fill(new, requests)
        eldest = np.diff(parents, prepend=parents[:1] - 1) != 0
        new["cnext"][followers[:-1][~eldest[1:]]] = slots[followers[1:][~eldest[1:]]]
        here, there = eldest & (parents >= 0), eldest & (parents < 0)
        new["child"][parents[here]] = slots[followers[here]]
        if reused:
            record[slots] = new
        for parent, child in zip(before[there[: len(before)]], slots[followers[there]], strict=True):
            _append_child(record, parent, child)
        heap = self._state.heap
        if len(followers) or self.cluster.concurrency or self.cluster.accept_s or self._loses:
            heap = grown(heap, self._slots)
        self._state = self._state._replace(request=record, heap=heap)
        self._open(slots[requests.after < 0])
        world = self._state.world
        world["groups"] = max(int(world["groups"][0]), int(requests.group.max(initial=0)) + 1)
        if self._caches:
            self._append_blocks(requests, slots)
        self._submitted += len(requests)
        if self.cluster.tiers.stores:
            self._names = min(self._names + len(requests.block_ids), self._most_names)
            self._state = reserve(self._state, self.cluster, self._names, self._named, self._slots)

    def _reserve(self, requests: int, names: int) -> None:
        """Reserve memory for the first requests, so that no table grows by copies. It is not touched before it is used.

        Parameters
        ----------
        requests, names : requests, and block ids of requests, that are in memory at the same time [count]
        """
        self._state = self._state._replace(
            request=np.empty(requests, REQUEST), offsets=np.empty(requests, np.int64),
            named=np.empty(requests, np.int32), ids=np.empty(names, np.int64), held=np.empty(names, np.int32),
        )  # fmt: skip
        self._ours = True

    def _parents(self, before: Ints, earlier: int) -> Ints:
        """Slots of parents that were submitted in earlier calls; `before` counts from the end, -1 = the last one."""
        if earlier not in {0, self._submitted}:
            raise SpecError(f"{earlier}, but {self._submitted} requests were submitted", where="Requests.earlier",
                            hint=f"give 0 or {self._submitted}")  # fmt: skip
        slots = self._slots_of(before + self._submitted)
        record = self._state.request
        for number, slot in zip((before + self._submitted).tolist(), slots.tolist(), strict=True):
            if slot < 0 or record["status"][slot] >= Status.COMPLETED or record["doomed"][slot]:
                raise SpecError(f"request {number} has ended and cannot be a parent", where="Requests.after",
                                hint="give -1, and an arrival time on the clock")  # fmt: skip
        return slots

    def _new_slots(self, count: int, reused: int) -> NDArray[np.int32]:
        """Slots for `count` new requests: `reused` slots of ended requests first, then fresh slots."""
        fresh = np.arange(self._slots, self._slots + count - reused, dtype=np.int32)
        self._slots += count - reused
        self._spares -= reused
        return np.concatenate([self._spare[self._spares : self._spares + reused], fresh]) if reused else fresh

    def _fill(self, new: NDArray[Any], requests: Requests) -> None:
        doomed = self.cluster.never_fits(requests.input_tokens, requests.output_tokens)
        later = 0.0 if self.cluster.concurrency else self.cluster.request_s  # with a gate, the gate adds `request_s`
        for low in range(0, len(new), _BATCH):  # a batch of records stays in the processor's cache while it is filled
            part = slice(low, low + _BATCH)
            batch = new[part]
            batch.view(_BYTES)[:] = _UNSENT.view(_BYTES)
            batch["number"] = np.arange(len(batch)) + (self._submitted + low)
            batch["sent_s"] = requests.arrival_s[part] + later
            batch["priority"], batch["group"] = requests.priority[part], requests.group[part]
            batch["doomed"] = doomed[part]
            batch["input"], batch["output"] = requests.input_tokens[part], requests.output_tokens[part]

    def _open(self, first: NDArray[np.int32]) -> None:
        """Merge the slots of new requests into the list of requests that have not arrived, in order of arrival."""
        s = self._state
        ahead = s.open[int(s.world["opened"][0]) :]
        open_ = np.concatenate([ahead, first])
        if len(ahead):
            open_ = open_[np.argsort(s.request["sent_s"][open_], kind="stable")]
        s.world["opened"] = 0
        self._state = s._replace(open=open_)

    def _append_blocks(self, requests: Requests, slots: NDArray[np.int32]) -> None:
        """Append the block ids of the new requests, and make room in `held` for one block number per id."""
        ids, offsets, counts = requests.block_ids, requests.block_offsets, np.diff(requests.block_offsets)
        s = self._state
        if self._ours or self._submitted:
            ids = s.ids
            ids[self._named : self._named + len(requests.block_ids)] = requests.block_ids
            offsets, named = grown(s.offsets, self._slots), grown(s.named, self._slots)
            offsets[slots], named[slots] = self._named + requests.block_offsets[:-1], counts
        else:  # the ids may be most of the memory of a run, so the first ones are not copied
            offsets, named = np.ascontiguousarray(offsets)[:-1], counts.astype(np.int32)
        self._named += len(requests.block_ids)
        origin = grown(s.origin, len(ids)) if self.cluster.tiers.stores else s.origin
        held = grown(s.held, len(ids))
        self._state = s._replace(ids=ids, offsets=offsets, named=named, held=held, origin=origin)

    def _make_room(self, more: int) -> None:
        """Drop the block ids of requests that were taken, and make room for `more` new ids and growth."""
        s = self._state
        here = np.flatnonzero(s.named[: self._slots])
        here = here[np.argsort(s.offsets[here])]
        counts, firsts = s.named[here].astype(np.int64), s.offsets[here]
        begins, self._named = np.cumsum(counts) - counts, int(counts.sum())
        size, offsets = max(len(s.ids), 2 * (self._named + more)), s.offsets.copy()
        offsets[here] = begins
        old: dict[str, NDArray[Any]] = {"ids": s.ids, "held": s.held}
        if self.cluster.tiers.stores:
            old["origin"] = s.origin
        stays = self._ours and size == len(s.ids)  # then each id moves towards the beginning, or not at all
        new = old if stays else {name: np.empty(size, array.dtype) for name, array in old.items()}
        for first, begin, count in zip(firsts.tolist(), begins.tolist(), counts.tolist(), strict=True):
            if first != begin or not stays:
                for name, array in old.items():
                    new[name][begin : begin + count] = array[first : first + count]
        self._state, self._ours = s._replace(offsets=offsets, **new), True

    # ---- playing events

    def at(self, time_s: ArrayLike, kind: str, index: ArrayLike, value: ArrayLike = 0.0) -> None:
        """Schedule events from outside, such as cancellations; all arguments but `kind` are numbers or arrays.

        `at(t, "cancel", i)` does the same as `advance(t)` followed by `cancel(i)`. Events at the same time happen in
        the order of the calls, after all arrivals, KV transfers and ends of steps at that time. An event has no effect
        on a request that has ended.

        Parameters
        ----------
        time_s : time of the event on the logical clock, not before `now` [s]
        kind : a name in `outside.KINDS`
        index : number of the request, instance or rank; instances and ranks are counted over all pools (`faults`)
        value : length of a pause [s], or number of a cost; other kinds have none

        Raises
        ------
        SpecError : the kind is unknown, a time lies before `now`, or the value is none that the kind can have
        IndexError : there is no request, instance or rank with this number
        """
        if kind not in KINDS:
            raise SpecError(f"unknown event {kind!r}", where="Simulator.at", hint=f"one of {', '.join(KINDS)}")
        times, numbers, values = np.broadcast_arrays(
            np.atleast_1d(np.asarray(time_s, np.float64)), np.asarray(index, np.int64), np.asarray(value, np.float64)
        )
        if not (np.isfinite(times) & (times >= self.now)).all():
            raise SpecError(f"want finite times that do not lie before now, {self.now} s", where="Simulator.at")
        s, new = self._state, np.zeros(len(times), OUTSIDE)
        new["time"], new["number"], new["kind"], new["value"] = times, numbers, KINDS[kind], values
        if kind == "cancel":
            new["slot"] = np.maximum(self._slots_of(numbers), 0)  # any slot for a taken request: the number decides
        else:
            self._check_event(kind, numbers, values)
        if kind == "lose" and not self._loses:
            self._loses = True
            s = s._replace(heap=grown(s.heap, self._slots))
        events = np.concatenate([s.outside[int(s.world["outside"][0]) :], new])
        s.world["outside"] = 0
        self._state = s._replace(outside=events[np.argsort(events["time"], kind="stable")])

    def _check_event(self, kind: str, numbers: Ints, values: Floats) -> None:
        """Raise an error if an event names no instance or rank, or has a value that its kind cannot have."""
        s, what = self._state, "instance" if kind in OF_INSTANCES else "rank"
        count = len(s.instance if kind in OF_INSTANCES else s.rank)
        unknown = numbers[(numbers < 0) | (numbers >= count)]
        if len(unknown):
            raise IndexError(f"no {what} {unknown[0]}; the cluster has {count}")
        ok, want = values == 0, "no value"
        if kind == "pause":
            ok, want = np.isfinite(values) & (values >= 0), "a finite time that is not negative"
        elif kind == "cost":
            most = np.array([len(pool.variants) for pool in self.cluster.pools])[s.instance["pool"][numbers]]
            ok, want = (
                (values >= 0) & (values <= most) & (values == np.floor(values)),
                "0, or a number of Pool.variants",
            )
        if not ok.all():
            raise SpecError(f"value {values[~ok][0]:g} of {kind!r} at {what} {numbers[~ok][0]}", where="Simulator.at",
                            hint=f"want {want}")  # fmt: skip

    def cancel(self, index: int) -> None:
        """Withdraw a request now. Its later turns are never sent.

        A waiting request ends at once, a running request at the end of its step. A request that is not sent yet ends
        at its sending time, or at the end of its parent.

        Parameters
        ----------
        index : number of the request
        """
        slot = int(self._slots_of(np.array([index]))[0])
        if slot >= 0:
            kernel.cancel(self._table.of(self._state), slot)

    def _slots_of(self, numbers: Ints) -> Ints:
        """Slots of requests by their numbers; -1 for requests that were taken."""
        unknown = numbers[(numbers < 0) | (numbers >= self._submitted)]
        if len(unknown):
            raise IndexError(f"no request {unknown[0]}")
        if not self._taken:
            return numbers
        own = self._state.request["number"][: self._slots]
        order = np.argsort(own)
        slots = order[np.searchsorted(own, numbers, sorter=order) % self._slots]
        return np.where(own[slots] == numbers, slots, -1)

    def advance(self, until: float = math.inf, *, sent: int | None = None) -> None:
        """Play all events up to a time.

        Parameters
        ----------
        until : last time to play, included [s]; by default play to the end
        sent : stop earlier, right after this number of requests has reached a rank; None = do not
        """
        while code := kernel.advance(self._table.of(self._state), float(until), _ALL if sent is None else sent):
            s = self._state
            if code == kernel.UNCHAINED:
                raise SpecError("equal block ids with different blocks before them", where="Requests.block_ids",
                                hint="give chained hashes: an id names a block and all blocks before it")  # fmt: skip
            if code == kernel.SERIES_FULL:
                self._state = s._replace(series=grown(s.series, len(s.series) + 1))
            elif code == kernel.CHANGES_FULL:
                self._state = s._replace(change=grown(s.change, len(s.change) + 1))
            else:
                first, count = int(s.world["events_first"][0]), int(s.world["events"][0])
                waiting = s.event[(first + np.arange(count)) & (len(s.event) - 1)]
                s.world["events_first"] = 0
                self._state = s._replace(event=grown(waiting, 2 * len(s.event)))

    # ---- results

    def progress(self, progress: Progress) -> None:
        """List the requests with output tokens that `progress` has not seen. Call it after `advance`, before `take`.

        Parameters
        ----------
        progress : what the caller has seen; the method changes it
        """
        progress.next_s = kernel.progress(self._table.of(self._state), self._slots, progress.table(self._slots))

    def levels(self) -> Levels:
        """Requests and KV blocks of each rank now."""
        rank, pool = self._state.rank, self._state.pool
        return Levels(
            rank["running"] + rank["loading"] + rank["readied"], rank["waiting"] + rank["unseen"],
            pool["kv_blocks"][rank["pool"]] - rank["free"], pool["kv_blocks"][rank["pool"]],
            rank["queries"].copy(), rank["hits"].copy(), rank["prefill_tokens"].copy(), rank["preemptions"].copy(),
            self._state.instance["busy_s"][rank["instance"]],
        )  # fmt: skip

    def take(self) -> Ended:
        """Results of the requests that have ended since the last call. Their memory is reused for later requests."""
        s, slots = self._state, np.empty(self.ended - self._taken, np.int32)
        kernel.collect(self._table.of(s), slots)
        record = s.request[slots]
        s.request["number"][slots] = -1
        if self._caches:
            s.named[slots] = 0
        self._taken += len(slots)
        spares = self._spares + len(slots)
        self._spare = grown(self._spare, spares)
        self._spare[self._spares : spares] = slots
        self._spares = spares
        return Ended(number=record["number"], **{name: record[field] for name, field in _COLUMNS.items()})

    def outcome(self) -> Outcome:
        """Results of all requests that were not taken, and all counters, up to now.

        The last row of the series is the window that is still open. The arrays are views of the simulator's memory if
        no request is in flight and none was taken.
        """
        s, columns = self._state, self._columns()
        series = np.zeros((0, len(SERIES)), np.int64)
        if self.cluster.window_s:
            kernel.sample(self._table.of(s), self.now)
            series = s.series[: int(s.world["rows"][0]) + 1].copy()
        counts = self.counts()
        return Outcome(
            now_s=self.now, **columns, pools=counts.pools, tiers=counts.tiers, faults=counts.faults,
            itl_counts=s.itl.copy(), window_s=self.cluster.window_s, series=series,
        )  # fmt: skip

    def late(self, start_s: float, ttft_s: Floats, tpot_s: Floats) -> tuple[int, Ints]:
        """How many requests are late, of those that have completed since a time. No request may have been taken.

        Parameters
        ----------
        start_s : the time [s]
        ttft_s, tpot_s : bounds of each group of requests; infinite without a bound [s]

        Returns
        -------
        Requests that ended before that time [count], and requests beyond both bounds: int[groups, 2].
        """
        counts = np.zeros(2 * len(ttft_s), np.int64)
        gone = kernel.late(self._table.of(self._state), self._slots, start_s, ttft_s, tpot_s, counts)
        return int(gone), counts.reshape(-1, 2)

    def _columns(self) -> dict[str, NDArray[Any]]:
        record = self._state.request[: self._slots]
        if self._taken:
            record = record[record["number"] >= 0]
            record = record[np.argsort(record["number"])]
        columns = {name: record[field] for name, field in _COLUMNS.items()}
        status = columns["status"]
        if len(status) and status.min() < Status.COMPLETED:
            columns["end_s"] = np.where(status >= Status.COMPLETED, columns["end_s"], np.nan)
        return columns

    def counts(self) -> Counts:
        """All counters up to now."""
        return counts_of(self._state, self.cluster)


def _append_child(record: NDArray[Any], parent: int, child: int) -> None:
    """Append `child`, and the siblings linked to it, to the children of `parent`."""
    last = record["child"][parent]
    if last < 0:
        record["child"][parent] = child
        return
    while record["cnext"][last] >= 0:
        last = record["cnext"][last]
    record["cnext"][last] = child


def run(cluster: Cluster, requests: Requests) -> Outcome:
    """Outcome of a cluster that serves all requests to the end.

    Parameters
    ----------
    cluster : the deployment to simulate
    requests : the requests that the client sends
    """
    simulator = Simulator(cluster)
    simulator.submit(requests)
    simulator.advance()
    return simulator.outcome()


def compiled() -> bool:
    """Whether the engine is compiled. If not, the first run compiles it, which takes about a minute."""
    return kernel.compiled()


def kept() -> bool:
    """Whether the compiled code is kept on disk for the next process."""
    return kernel.kept()


def warm_up() -> bool:
    """Compile the engine, or load the compiled code from disk.

    Returns
    -------
    True if the code on disk was damaged; it was deleted, and the engine was compiled again
    """
    return kernel.load()
