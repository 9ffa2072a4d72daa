"""Roofline bound on the request rate of a deployment: no schedule of its steps serves more requests per second."""

from __future__ import annotations

import numpy as np

from tokenworks.costs.requests import MeanRequest
from tokenworks.engine.types import Cluster, Pool


def rate_bound(cluster: Cluster, request: MeanRequest) -> float:
    """Bound on the request rate of a cluster, from the step times of its pools.

    A step with m tokens takes at least f(m), plus the own times of its sequences and prompt tokens (`StepCost`: the
    maximum over R ranks, times R, is at least the sum over the ranks). So a mean request, which takes part in d decode
    steps with w tokens each and computes u prompt tokens, occupies an instance for at least

        (u + d w) min over m of f(m) / m + d (a + b context) + u (e + (c or d) seen)                          [s]

    Several pools work in series; the slowest pool sets the bound.

    Parameters
    ----------
    cluster : pools with their step times
    request : the mean request; its prefix hits are the hits of a cache that forgets nothing

    Returns
    -------
    Highest rate of requests that fit into the cluster [1/s].

    References
    ----------
    [1] Williams et al., Roofline, CACM 52(4), 2009.
    """
    return min(pool.instances / _least_s(pool, request) for pool in cluster.pools)


def _least_s(pool: Pool, request: MeanRequest) -> float:
    """Least time that a mean request occupies one instance of a pool [s]."""
    cost, limits = pool.cost, pool.limits
    table = cost.by_tokens[1 : pool.ranks * limits.token_budget + 1]
    token_s = float((table / np.arange(1, len(table) + 1)).min())
    prompt = 0.0 if pool.role == "decode" else request.uncached
    steps = 0.0 if pool.role == "prefill" else max(request.osl - 1, 0.0) / limits.tokens_per_step
    seen_s = cost.prefill_context_s or cost.together_context_s
    own_s = steps * (cost.decode_sequence_s + cost.decode_context_s * request.context)
    own_s += prompt * (cost.prefill_token_s + seen_s * request.seen)
    return max((prompt + steps * (1 + limits.draft_tokens)) * token_s + own_s, 1e-12)


def places(cluster: Cluster) -> int:
    """Most sequences that run at the same time, over all pools [count]."""
    return sum(pool.instances * pool.ranks * pool.limits.max_sequences for pool in cluster.pools)
