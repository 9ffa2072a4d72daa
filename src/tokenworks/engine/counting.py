"""The counters of a simulation, read from the state of the engine."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.faults import FaultCounts
from tokenworks.engine.outcome import Counts, PoolCounts
from tokenworks.engine.state import EngineState
from tokenworks.engine.tiers import TierCounts
from tokenworks.engine.types import Cluster

_TIER_COUNTERS = ("read_blocks", "written_blocks", "evictions", "failed")
_COUNTERS = ("decode_sequences", "output_tokens", "prefill_tokens", "preemptions", "evictions")
_LOSSES = {
    "lost_requests": "requests", "retries": "retries", "lost_output_tokens": "output_tokens",
    "lost_kv_tokens": "kv_tokens",
}  # fmt: skip


def counts_of(state: EngineState, cluster: Cluster) -> Counts:
    """All counters up to now.

    Parameters
    ----------
    state : state of the engine
    cluster : the cluster that is simulated
    """
    now, pools = float(state.world["now"][0]), range(len(state.pool))
    return Counts(
        now, int(state.world["sent"][0]), tuple(_pool(state, number) for number in pools), state.itl.copy(),
        _tiers(state, cluster), tuple(_faults(state, number, now) for number in pools),
    )  # fmt: skip


def _pool(s: EngineState, number: int) -> PoolCounts:
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


def _tiers(s: EngineState, cluster: Cluster) -> tuple[TierCounts, ...]:
    all_counts, first = [], 0
    for row, store in zip(s.tier, cluster.tiers.stores, strict=False):
        own = s.store[first : first + len(set(store.stores))]
        first += len(own)
        counters = {name: int(row[name]) for name in _TIER_COUNTERS}
        all_counts.append(TierCounts(
            **counters, hit_blocks=int(row["hits"]), late_blocks=int(row["late"]), used=int(own["used"].sum()),
            total=store.blocks * len(own), read_s=float(row["read_s"]), write_s=float(row["write_s"]),
        ))  # fmt: skip
    return tuple(all_counts)


def _faults(s: EngineState, number: int, now: float) -> FaultCounts:
    ranks, own = s.loss[s.rank["pool"] == number], s.halt[s.instance["pool"] == number]
    down = own["down_s"] + np.where(own["stopped"], now - own["stopped_s"], 0.0)
    return FaultCounts(
        lost_steps=int(own["lost_steps"].sum()), down_s=float(down.sum()),
        **{name: int(ranks[field].sum()) for name, field in _LOSSES.items()},
    )  # fmt: skip
