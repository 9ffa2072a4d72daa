"""Results of the reference engine: the time series, results of requests, and counters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenworks.engine.gaps import ITL_BINS
from tokenworks.engine.outcome import SERIES, Counts, Ended, Outcome
from tokenworks.engine.reference_faults import fault_counts
from tokenworks.engine.reference_instance import NEVER, ReferenceInstance, pool_counts
from tokenworks.engine.reference_rank import Rank, Sequence
from tokenworks.engine.reference_tiers import ReferenceTiers
from tokenworks.engine.types import GROUPS, Cluster

_COLUMNS: dict[str, tuple[str, type[Any]]] = {
    "arrival_s": ("sent_s", np.float64), "scheduled_s": ("scheduled_s", np.float64),
    "first_token_s": ("first_s", np.float64), "end_s": ("end_s", np.float64), "input_tokens": ("input", np.int32),
    "output_tokens": ("output", np.int32), "cached_tokens": ("hit", np.int32),
    "preemptions": ("preemptions", np.int32), "status": ("status", np.int8), "rank": ("route", np.int32),
    "retries": ("retries", np.int16),
}  # fmt: skip


class ReferenceResults:
    """The state of a reference engine that its results show.

    now : time of the logical clock [s]
    sequences : all requests; ended : those that have ended, in the order of their ends; taken : how many `take` has
    sent : requests that have reached a rank
    instances, pools : all instances, and the ranks of each pool
    itl, series : as in `outcome.Outcome`; tokens_seen : tokens up to the last row of the series
    """

    tiers: ReferenceTiers

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.now = cluster, 0.0
        self.sequences: list[Sequence] = []
        self.ended: list[Sequence] = []
        self.sent = self.taken = 0
        self.instances: list[ReferenceInstance] = []
        self.pools: list[list[Rank]] = []
        self.itl = np.zeros((GROUPS, ITL_BINS), dtype=np.int64)
        self.series: list[list[int]] = []
        self.tokens_seen = (0, 0)

    def state(self) -> list[int]:
        """A row of the time series (`types.SERIES`): three levels now, and two counts since the last window closed."""
        ranks = [rank for pool in self.pools for rank in pool]
        output, prefill = self.tokens_out()
        return [sum(len(r.running) + r.loading + len(r.ready) + len(r.loaded) for r in ranks),
               sum(r.queued() + r.outside() for r in ranks),
               sum(r.limits.kv_blocks - len(r.free) for r in ranks),
               output - self.tokens_seen[0], prefill - self.tokens_seen[1]]  # fmt: skip

    def tokens_out(self) -> tuple[int, int]:
        """Output tokens and prefill tokens of all instances so far."""
        return sum(i.output_tokens for i in self.instances), sum(i.prefill_tokens for i in self.instances)

    def sample(self, limit: float) -> None:
        """Close the windows that end before `limit`."""
        width = self.cluster.window_s
        while width and limit < NEVER and (len(self.series) + 1) * width < limit:
            self.series.append(self.state())
            self.tokens_seen = self.tokens_out()

    def outcome(self) -> Outcome:
        """Results of all requests up to now; the last row of the series is the window that is still open."""
        series = [*self.series, self.state()] if self.cluster.window_s else []
        return Outcome(
            now_s=self.now, **self._columns(self.sequences), pools=self.counts().pools, itl_counts=self.itl.copy(),
            tiers=self.tiers.counts(), faults=self.counts().faults, window_s=self.cluster.window_s,
            series=np.array(series, dtype=np.int64).reshape(-1, len(SERIES)),
        )  # fmt: skip

    def take(self) -> Ended:
        """Results of the requests that have ended since the last call."""
        new = self.ended[self.taken :]
        self.taken = len(self.ended)
        return Ended(number=np.array([q.index for q in new], np.int64), **self._columns(new))

    def counts(self) -> Counts:
        """All counters up to now."""
        pools = tuple(pool_counts([i for i in self.instances if i.pool is pool]) for pool in self.cluster.pools)
        faults = tuple(
            fault_counts([i for i in self.instances if i.pool is pool], self.now) for pool in self.cluster.pools
        )
        return Counts(self.now, self.sent, pools, self.itl.copy(), self.tiers.counts(), faults)

    @staticmethod
    def _columns(sequences: list[Sequence]) -> dict[str, NDArray[Any]]:
        return {name: np.array([getattr(q, own) for q in sequences], kind) for name, (own, kind) in _COLUMNS.items()}
