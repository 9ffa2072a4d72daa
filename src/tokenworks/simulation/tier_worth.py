"""Whether the KV tiers below HBM pay: a run beside the same run without tiers, and what no policy can pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.engine.belady import belady
from tokenworks.engine.metrics import Metrics
from tokenworks.engine.tiers import Store, Tiers
from tokenworks.engine.types import Pool
from tokenworks.simulation.play import requests_of
from tokenworks.specs.trace import Trace, ranges
from tokenworks.traffic.distance import reuses

if TYPE_CHECKING:
    from tokenworks.simulation.run import Simulation

ENOUGH = 0.99
"""A capacity with this share of the hits of an endless cache counts as enough [-]."""

GAIN = 0.01
"""Tiers pay if effective tokens, or else mean TTFT, improve by more than this share [-]."""


@dataclass(frozen=True)
class TierWorth:
    """What the KV tiers below HBM are worth for the requests of a run.

    Parameters
    ----------
    pays : whether the tiers add effective tokens, or add none and shorten the mean TTFT, by more than 1 %
    hit_share : share of the prompt tokens of all admitted requests that HBM and tiers served [-]
    belady_share : the share that the best eviction, which knows the future, could serve with the capacity of HBM and
        all tiers together: an upper bound for every policy (Belady, IBM Systems Journal 5(2), 1966) [-]
    endless_share : the share that a cache without an end would serve [-]
    enough_bytes : capacity from which on one shared LRU cache, asked in the order of admission, serves 99 % of these
        hits; None without hits [byte]
    """

    pays: bool
    hit_share: float
    belady_share: float
    endless_share: float
    enough_bytes: float | None


def tier_worth(run: Simulation, without: Simulation) -> TierWorth:
    """Compare a run with the same run without tiers.

    Parameters
    ----------
    run : a run with tiers, of requests that share prefixes
    without : the run without tiers
    """
    trace, outcome = run.traffic.trace, run.outcome
    pool, stores = run.cluster.pools[0], run.cluster.tiers.stores
    size, admitted = pool.limits.block_tokens, ~np.isnan(outcome.scheduled_s)
    asked = max(int(outcome.input_tokens[admitted].sum()), 1)
    blocks = pool.instances * pool.ranks * pool.limits.kv_blocks
    blocks += sum(store.blocks * len(set(store.stores)) for store in stores)
    bound = belady(
        requests_of(trace, run.traffic.classes), outcome.scheduled_s, outcome.end_s, block_tokens=size,
        capacity_blocks=[blocks],
    )  # fmt: skip
    seen = reuses(_as_admitted(trace, outcome.scheduled_s)) if admitted.any() else None
    return TierWorth(
        _pays(run.metrics, without.metrics),
        float(outcome.cached_tokens[admitted].sum()) / asked,
        int(bound.hit_blocks[0]) * size / asked,
        bound.known * size / asked,
        _enough(seen.distance, seen.blocks, run.block_bytes) if seen else None,
    )


def _as_admitted(trace: Trace, scheduled_s: Floats) -> Trace:
    """The admitted requests in the order of admission: in an overload, other requests come between two turns of a
    session than in the trace.

    Parameters
    ----------
    trace : the requests
    scheduled_s : time at which each request was first admitted; NaN: never [s]
    """
    kept = np.flatnonzero(~np.isnan(scheduled_s))
    counts = np.diff(trace.run_offsets)[kept]
    runs = ranges(trace.run_offsets[:-1][kept], counts)
    return Trace.of(
        scheduled_s[kept], trace.input_tokens[kept], trace.output_tokens[kept], run_start=trace.run_start[runs],
        run_length=trace.run_length[runs], run_offsets=np.concatenate([[0], np.cumsum(counts)]),
        hash_block_tokens=trace.hash_block_tokens if len(runs) else 0, name=trace.name,
    )  # fmt: skip


def _pays(metrics: Metrics, without: Metrics) -> bool:
    """Whether the run with tiers is better: by effective tokens, or if these are equal by mean TTFT."""
    more = metrics.effective_throughput - without.effective_throughput
    if abs(more) > GAIN * without.effective_throughput:
        return more > 0
    return metrics.mean_ttft_ms < (1 - GAIN) * without.mean_ttft_ms


def _enough(distance: np.ndarray, blocks: np.ndarray, block_bytes: float) -> float | None:
    """Capacity from which on an LRU cache has `ENOUGH` of the hits of an endless cache [byte]."""
    if not len(distance):
        return None
    order = np.argsort(distance, kind="stable")
    hits = np.cumsum(blocks[order])
    return float(distance[order][np.searchsorted(hits, ENOUGH * hits[-1])]) * block_bytes


def read_s(tiers: Tiers, store: Store, blocks: int) -> float:
    """Time to read `blocks` from a store into HBM over idle links, through its gateways [s]."""
    slowest = max(lane.block_s for lane in store.read)
    above = read_s(tiers, tiers.stores[store.gateway], blocks) if store.gateway >= 0 else 0.0
    return store.latency_s + blocks * slowest + above


def prefill_s(pool: Pool, tokens: int, seen: float | None = None) -> float:
    """Time in which one rank computes a prompt of `tokens` alone, in steps of its token budget [s].

    Parameters
    ----------
    pool : instances of the rank
    tokens : tokens to compute [token]
    seen : tokens that each token attends to on average; None: half of the prompt, as in a prompt without a prefix
    """
    cost, budget = pool.cost, pool.limits.token_budget
    passes = max(1.0, tokens / budget)
    shared = passes * float(np.interp(tokens / passes, np.arange(budget + 1), cost.by_tokens[: budget + 1]))
    context = tokens / 2 if seen is None else seen
    own = pool.ranks * (cost.prefill_context_s * context + cost.prefill_token_s) * tokens
    return shared + own + cost.together_context_s * context * tokens


def shortest_hit(tiers: Tiers, store: Store, pool: Pool, longest: int) -> int | None:
    """Shortest prefix that a store delivers sooner than one rank computes it.

    Parameters
    ----------
    tiers : all tiers
    store : the tier that holds the prefix
    pool : instances that would compute the prefix
    longest : longest prefix to try [token]

    Returns
    -------
    Whole blocks of tokens; None if computing is quicker up to the longest prefix [token].
    """
    size = pool.limits.block_tokens
    counts = np.unique(np.geomspace(1, max(longest // size, 1), 200).astype(int))
    for blocks in map(int, counts):
        if read_s(tiers, store, blocks) < prefill_s(pool, blocks * size):
            return blocks * size
    return None
