"""The engine to use: a cluster driven in steps over the compiled kernel, and `run` for a whole trace."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenworks.engine import kernel
from tokenworks.engine.state import REQUEST, EngineState, allocate
from tokenworks.engine.types import SERIES, Cluster, Counts, Outcome, PoolCounts, Requests, Status
from tokenworks.errors import SpecError

_BATCH = 8192
_ALL = 1 << 62
_UNSENT = np.zeros((), REQUEST)
_UNSENT["scheduled_s"] = _UNSENT["first_s"] = _UNSENT["end_s"] = np.nan
_UNSENT["child"] = _UNSENT["sibling"] = _UNSENT["route"] = -1
_UNSENT["gated"] = 1
_COUNTERS = ("decode_sequences", "output_tokens", "prefill_tokens", "preemptions", "evictions")


def _grown(array: NDArray[Any], count: int) -> NDArray[Any]:
    """The array with room for `count`, at least doubled so that growing stays linear; what is new holds anything.

    NumPy asks for huge pages for what it does not have to clear: on a virtual machine ten times faster to touch.
    """
    if count <= len(array):
        return array
    wide = np.empty((max(count, 2 * len(array)), *array.shape[1:]), array.dtype)
    wide[: len(array)] = array
    return wide


class Simulator:
    """A cluster that is driven in steps; `reference.Reference` is its oracle.

    Times are on a logical clock that starts at 0 [s]. Requests are numbered in the order in which they are submitted.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._state: EngineState = allocate(cluster)
        self._count = 0

    @property
    def now(self) -> float:
        """The logical clock [s]."""
        return float(self._state.world["now"][0])

    def submit(self, requests: Requests) -> None:
        """Add requests; `after` counts from the first of this call. Arrivals must not lie before now."""
        s, base, count = self._state, self._count, self._count + len(requests)
        early = requests.arrival_s[requests.after < 0].min(initial=np.inf)
        if early < self.now:
            raise SpecError(f"{early} s lies before now, {self.now} s", where="Requests.arrival_s")
        record = _grown(s.request, count)
        new = record[base:count]
        doomed = self.cluster.never_fits(requests.input_tokens, requests.output_tokens)
        for low in range(0, len(new), _BATCH):  # the records stay in the processor's cache while they are filled
            part = slice(low, low + _BATCH)
            some = new[part]
            some[:] = _UNSENT
            some["sent_s"] = requests.arrival_s[part] + self.cluster.request_s
            some["priority"], some["group"] = requests.priority[part], requests.group[part]
            some["doomed"] = doomed[part]
            some["input"], some["output"] = requests.input_tokens[part], requests.output_tokens[part]
        followers = np.flatnonzero(requests.after >= 0)
        followers = followers[np.argsort(requests.after[followers], kind="stable")].astype(np.int32)
        parents = requests.after[followers]
        eldest = np.diff(parents, prepend=-1) > 0
        new["child"][parents[eldest]] = base + followers[eldest]
        new["sibling"][followers[:-1][~eldest[1:]]] = base + followers[1:][~eldest[1:]]
        first = base + np.flatnonzero(requests.after < 0).astype(np.int32)
        ahead = s.open[int(s.world["opened"][0]) :]
        open_ = np.concatenate([ahead, first])
        if len(ahead):
            open_ = open_[np.lexsort((open_, record["sent_s"][open_]))]
        s.world["opened"], s.world["groups"] = 0, max(int(s.world["groups"][0]), int(requests.group.max(initial=0)) + 1)
        heap = _grown(s.heap, count) if len(followers) or self.cluster.concurrency else s.heap
        self._state, self._count = s._replace(request=record, open=open_, heap=heap), count
        if any(pool.limits.prefix_caching for pool in self.cluster.pools):
            self._append_blocks(requests, base)

    def _append_blocks(self, requests: Requests, base: int) -> None:
        """Block names of the new requests, and a place for the block that each of them will hold."""
        s, used, count = self._state, int(self._state.offsets[base]), base + len(requests) + 1
        ids, offsets = requests.block_ids, requests.block_offsets
        if base:
            ids, offsets = _grown(s.ids, used + len(ids)), _grown(s.offsets, count)
            ids[used : used + len(requests.block_ids)] = requests.block_ids
            offsets[base:count] = used + requests.block_offsets
        self._state = s._replace(ids=ids, offsets=np.ascontiguousarray(offsets), held=_grown(s.held, len(ids)))

    def cancel(self, index: int) -> None:
        """Withdraw a request now; what runs is dropped at the end of its step. Its later turns are never sent."""
        if not 0 <= index < self._count:
            raise IndexError(f"no request {index}")
        kernel.cancel(self._state, index)

    @property
    def sent(self) -> int:
        """Requests sent so far."""
        return int(self._state.world["sent"][0])

    def advance(self, until: float = math.inf, *, sent: int | None = None) -> None:
        """Play all events up to and including `until` [s]; stop before that right after `sent` requests were sent."""
        while code := kernel.advance(self._state, float(until), _ALL if sent is None else sent):
            s = self._state
            if code == kernel.SERIES_FULL:
                self._state = s._replace(series=_grown(s.series, len(s.series) + 1))
            else:
                first, count = int(s.world["events_first"][0]), int(s.world["events"][0])
                waiting = s.event[(first + np.arange(count)) & (len(s.event) - 1)]
                s.world["events_first"] = 0
                self._state = s._replace(event=_grown(waiting, 2 * len(s.event)))

    def outcome(self) -> Outcome:
        """Everything so far, as views where nothing is in flight; the last row of the series is still open."""
        s, record = self._state, self._state.request[: self._count]
        status, end_s = record["status"], record["end_s"]
        if len(status) and status.min() < Status.COMPLETED:
            end_s = np.where(status >= Status.COMPLETED, end_s, np.nan)
        series = np.zeros((0, len(SERIES)), np.int64)
        if self.cluster.window_s:
            kernel.sample(s, self.now, False)
            series = s.series[: int(s.world["rows"][0]) + 1].copy()
        return Outcome(
            now_s=self.now, arrival_s=record["sent_s"], scheduled_s=record["scheduled_s"],
            first_token_s=record["first_s"], end_s=end_s, input_tokens=record["input"],
            output_tokens=record["output"], cached_tokens=record["hit"], preemptions=record["preemptions"],
            status=status, rank=record["route"], pools=self.counts().pools,
            itl_counts=s.itl.copy(), window_s=self.cluster.window_s, series=series,
        )  # fmt: skip

    def counts(self) -> Counts:
        """What has been counted so far."""
        pools = tuple(self._counts(i) for i in range(len(self._state.pool)))
        return Counts(self.now, self.sent, pools, self._state.itl.copy())

    def _counts(self, number: int) -> PoolCounts:
        s = self._state
        ranks, own = s.rank[s.rank["pool"] == number], s.instance[s.instance["pool"] == number]
        links = s.link[own["link"]]
        total = len(ranks) * int(s.pool["kv_blocks"][number])
        return PoolCounts(
            steps=int(own["steps"].sum()), busy_s=float(own["busy_s"].sum()),
            link_busy_s=float(links["busy_s"].sum()), link_flows=int(links["flows"].sum()),
            query_tokens=int(ranks["queries"].sum()), hit_tokens=int(ranks["hits"].sum()),
            kv_total=total, kv_used=total - int(ranks["free"].sum()),
            **{name: int(ranks[name].sum()) for name in _COUNTERS},
        )  # fmt: skip


def run(cluster: Cluster, requests: Requests) -> Outcome:
    """Play all requests to the end."""
    simulator = Simulator(cluster)
    simulator.submit(requests)
    simulator.advance()
    return simulator.outcome()


def compiled() -> bool:
    """Whether the engine starts at once; otherwise `warm_up` compiles it first, once for each machine (a minute)."""
    return kernel.compiled()


def warm_up() -> None:
    """Compile, or load what is compiled."""
    from tokenworks.engine.types import Limits, Pool, StepCost

    simulator = Simulator(Cluster((Pool(StepCost(np.ones(3)), Limits(1, 2, 1)),), window_s=1.0))
    simulator.submit(Requests.of([0.0], [1], [1]))
    simulator.cancel(0)
    simulator.advance()
    simulator.outcome()
