"""Output of a simulation: counters, results of requests, and the time series, as plain numbers and arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Floats, Ints
from tokenworks.engine.faults import FaultCounts
from tokenworks.engine.tiers import TierCounts
from tokenworks.engine.types import Status


@dataclass(frozen=True)
class PoolCounts:
    """Counters of a pool, summed over its instances.

    steps : steps that have ended
    decode_sequences : decoding sequences, summed over steps
    output_tokens : tokens produced, first tokens included [token]
    prefill_tokens : prompt tokens computed, recomputed tokens included [token]
    query_tokens, hit_tokens : input tokens, and the part served by the prefix cache and the KV tiers; of first
        admissions only [token]
    preemptions : times that a running sequence was preempted
    evictions : cached blocks whose content was dropped
    busy_s : time in steps, summed over instances [s]
    link_busy_s, link_flows : time for which flows have booked the links, the future included [s], and their number; a
        KV transfer counts on both of its links
    kv_total, kv_used : blocks of the KV caches, and blocks in use now
    """

    steps: int
    decode_sequences: int
    output_tokens: int
    prefill_tokens: int
    query_tokens: int
    hit_tokens: int
    preemptions: int
    evictions: int
    busy_s: float
    link_busy_s: float
    link_flows: int
    kv_total: int
    kv_used: int

    def since(self, earlier: PoolCounts) -> PoolCounts:
        """Counters since an earlier time; `kv_total` and `kv_used` are the present values."""
        before = {**vars(earlier), "kv_total": 0, "kv_used": 0}
        return PoolCounts(**{name: value - before[name] for name, value in vars(self).items()})

    @property
    def mean_batch(self) -> float:
        """Decoding sequences in a step, on average over steps."""
        return self.decode_sequences / max(self.steps, 1)


@dataclass(frozen=True)
class Counts:
    """All counters of a simulation at a time.

    now_s : that time [s]
    sent : requests that have reached a rank
    pools : counters of each pool
    itl_counts : number of gaps between output tokens, by group and by bin of their duration (`gaps.itl_bin`)
    tiers : counters of each KV tier below HBM
    faults : counters of failures in each pool
    """

    now_s: float
    sent: int
    pools: tuple[PoolCounts, ...]
    itl_counts: Ints
    tiers: tuple[TierCounts, ...] = ()
    faults: tuple[FaultCounts, ...] = ()

    def since(self, earlier: Counts) -> Counts:
        """Counters since an earlier time."""
        pools = tuple(one.since(other) for one, other in zip(self.pools, earlier.pools, strict=True))
        tiers = tuple(one.since(other) for one, other in zip(self.tiers, earlier.tiers, strict=True))
        faults = tuple(one.since(other) for one, other in zip(self.faults, earlier.faults, strict=True))
        return Counts(self.now_s, self.sent - earlier.sent, pools, self.itl_counts - earlier.itl_counts, tiers, faults)


@dataclass(frozen=True)
class PerRequest:
    """Results of requests: arrays with one value for each request. Times that did not happen are NaN.

    arrival_s : time at which the client sent the request; undefined for a request that was never sent [s]
    scheduled_s : time at which the request was first admitted [s]
    first_token_s : time of the first output token [s]
    end_s : time of the last output token, or of the refusal or cancellation; with pipeline stages up to `Pool.lag_s`
        after now [s]
    input_tokens, output_tokens : lengths as requested [token]
    cached_tokens : input tokens that the prefix cache served at the first admission, tiers included [token]
    preemptions : times that the request was preempted
    status : a `Status`
    rank : number of the rank that the router chose last, -1 = none
    retries : times that the request was sent again after the loss of its rank
    """

    arrival_s: Floats
    scheduled_s: Floats
    first_token_s: Floats
    end_s: Floats
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    cached_tokens: NDArray[np.int32]
    preemptions: NDArray[np.int32]
    status: NDArray[np.int8]
    rank: NDArray[np.int32]
    retries: NDArray[np.int16]

    def count(self, status: Status) -> int:
        """Number of requests with this status."""
        return int((self.status == status).sum())


@dataclass(frozen=True)
class Ended(PerRequest):
    """Results of the requests that have ended since the last `take`, in the order of their ends.

    A request whose parent did not complete is never sent; its status is PENDING.

    number : number of each request in the order of submission
    """

    number: Ints


@dataclass(frozen=True)
class Outcome(PerRequest):
    """Results of all requests in the order of submission, counters of pools and tiers, and a time series.

    now_s, pools, itl_counts, tiers, faults : as in `Counts`
    window_s : width of a window of the time series [s]
    series : a row for each window: running, waiting, kv_used at its end, output_tokens, prefill_tokens during it
    """

    now_s: float
    pools: tuple[PoolCounts, ...]
    itl_counts: Ints
    window_s: float
    series: Ints
    tiers: tuple[TierCounts, ...] = ()
    faults: tuple[FaultCounts, ...] = ()

    @property
    def steps(self) -> int:
        """Steps of all instances."""
        return sum(pool.steps for pool in self.pools)


SERIES = ("running", "waiting", "kv_used", "output_tokens", "prefill_tokens")
