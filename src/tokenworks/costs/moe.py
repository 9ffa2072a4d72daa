"""Routed experts: how many are touched, how full the hottest device is, and what dispatch and combine carry."""

from __future__ import annotations

import numpy as np

from tokenworks.arrays import FloatArray, ceil_div

# Expected maximum of n standard normals, n = 1, 2, 4, ... 2^14, by numerical integration of n x phi(x) Phi(x)^(n-1);
# to n = 400 it is Harter, Expected values of normal order statistics, Biometrika 48, 1961, table 1.
_LOG2_N = np.arange(15.0)
_NORMAL_MAX = np.array(
    [
        0.0,
        0.5642,
        1.0294,
        1.4236,
        1.7660,
        2.0697,
        2.3437,
        2.5945,
        2.8269,
        3.0444,
        3.2496,
        3.4438,
        3.6288,
        3.8056,
        3.9751,
    ]
)


def normal_max(n: FloatArray) -> FloatArray:
    """Expected maximum of n independent standard normals [-], interpolated in log2 n."""
    largest: FloatArray = np.interp(np.log2(n), _LOG2_N, _NORMAL_MAX)
    return largest


def normal_tail(q: FloatArray) -> FloatArray:
    """Z with P(normal > z) = q, for q <= 1/2 [-]. Abramowitz and Stegun 26.2.23: error below 4.5e-4."""
    t: FloatArray = np.sqrt(-2 * np.log(q))
    top = 2.515517 + t * (0.802853 + t * 0.010328)
    return t - top / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))


def local_experts(experts: FloatArray, redundant: FloatArray, ep: FloatArray) -> FloatArray:
    """Experts that the fullest rank holds, copies included [count]: ceil((E + R) / ep)."""
    return ceil_div(experts + redundant, ep)


def touched_experts(
    tokens: FloatArray, *, experts: FloatArray, topk: FloatArray, local: FloatArray, skew: FloatArray
) -> FloatArray:
    """Expected experts of one rank that get at least one token [count]: L E[1 - (1 - x k/E)^T].

    x is the popularity of an expert over the mean one, lognormal with log-deviation `skew` as in `hottest_load`: the
    more they differ, the fewer are touched. The mean over x is Gauss's quadrature of three points.

    Parameters
    ----------
    tokens : routed in this step, over all ranks; local : experts on the rank

    References
    ----------
    [1] The coupon problem with draws of k without repetition.
    """
    untouched: FloatArray = 0.0
    for z, weight in _THREE:
        chosen = np.minimum(np.exp(skew * z - skew**2 / 2) * topk / experts, 1 - 1e-9)
        untouched = untouched + weight * np.exp(tokens * np.log1p(-chosen))
    return local * (1 - untouched)


_THREE = ((0.0, 2 / 3), (3**0.5, 1 / 6), (-(3**0.5), 1 / 6))
"""Points and weights of the normal distribution."""


def hottest_touched(
    tokens: FloatArray, *, experts: FloatArray, topk: FloatArray, local: FloatArray, ep: FloatArray, skew: FloatArray
) -> FloatArray:
    """Expected touched experts on the rank that touches most [count]: their weights set the time of a small batch.

    Each of L local experts is touched with probability p; the count is near normal, and the largest of ep such is

        min(L, L p + z(ep) sqrt(L p (1 - p)))
    """
    mean = touched_experts(tokens, experts=experts, topk=topk, local=local, skew=skew)
    return np.minimum(local, mean + normal_max(ep) * np.sqrt(mean * (1 - mean / local)))


def hottest_load(
    choices: FloatArray, *, experts: FloatArray, redundant: FloatArray, ep: FloatArray, skew: FloatArray
) -> FloatArray:
    """Load of the hottest rank over the mean [-], expected.

    Popularity of an expert is lognormal with log-deviation `skew`. A rank sums L = E / ep of them, and the draw of
    finitely many tokens adds its own variance, so a rank's load over the mean has about

        c^2 = (1 - 1/ep) ((exp(skew^2) - 1) / L + 1 / N),      s^2 = log(1 + c^2)

    (Fenton and Wilkinson: a sum of lognormals is near lognormal), and the hottest of ep is exp(s z(ep) - s^2 / 2).
    With redundant experts the R most popular are copied and the placement balances the rest (EPLB): what is left is the
    draw, and the most popular expert that has no copy, where that alone is more than a rank's share.

    Parameters
    ----------
    choices : N, mean token choices on a rank; experts, redundant : E, R; skew : 0 = uniform

    References
    ----------
    [1] Fenton, The sum of log-normal probability distributions, IRE Trans. CS-8, 1960.
    [2] DeepSeek-V3, arXiv:2412.19437, section 3.4 (redundant experts); deepseek-ai/EPLB.
    """
    local = experts / ep
    drawn = 1 / np.maximum(choices, 1e-9)
    balanced = redundant > 0
    popular = np.expm1(skew**2) * (1 - 1 / ep) / local * (1 - 1 * balanced)
    variance = np.log1p(popular + drawn * (1 - 1 / ep))
    hottest = np.exp(np.sqrt(variance) * normal_max(ep) - variance / 2)
    uncopied = normal_tail(np.minimum(np.maximum(redundant, 1) / experts, 0.5))
    alone = np.exp(skew * uncopied - skew**2 / 2) / local
    load: FloatArray = hottest * np.where(balanced, np.maximum(1, alone), 1)
    return np.clip(load, 1, ep)


def distinct_ranks(topk: FloatArray, ranks: FloatArray) -> FloatArray:
    """Ranks that hold at least one of a token's k experts, expected [count]: R (1 - (1 - 1/R)^k)."""
    missed: FloatArray = (1 - 1 / ranks) ** topk
    return ranks * (1 - missed)


def crossing_share(devices: FloatArray, domain: FloatArray) -> FloatArray:
    """Share of expert choices whose device lies in another domain [-]: 1 - min(domain, n) / n.

    40 devices in one domain of 40: 0. Over five domains of 8: 1 - 8/40 = 0.8.
    """
    return 1 - np.minimum(domain, devices) / devices


def direct_copies(
    topk: FloatArray, *, ep: FloatArray, expert_tp: FloatArray, domain: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Copies of a token that leave its device for its own domain and for others [count, count]: low-latency dispatch.

    Each expert that a token chose gets its own copy, straight from the source, or each rank where there are fewer ranks
    than choices; an expert in `expert_tp` slices takes as many. With ep = 1 this is an all-gather. The device itself
    needs no copy.

    References
    ----------
    [1] DeepEP (deepseek-ai/DeepEP), low-latency kernels: 7.0 copies of 8 cross from one host to seven others, and their
        bytes at 0.95 of the port are the measured time (256 tokens, 264 us on four hosts).
    """
    devices = ep * expert_tp
    copies = np.minimum(topk, ep) * expert_tp
    away = crossing_share(devices, domain)
    return copies * (1 - away - 1 / devices), copies * away


def forwarded_copies(
    topk: FloatArray, *, ep: FloatArray, expert_tp: FloatArray, domain: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The same for high-throughput dispatch: a token crosses once to each domain that wants it, and is forwarded there.

    Each device that holds one of its experts gets one copy over scale-up, whoever sends it.

    References
    ----------
    [1] DeepSeek-V3, arXiv:2412.19437, section 3.2.2; DeepEP, normal kernels.
    """
    devices = ep * expert_tp
    domains = devices / np.minimum(domain, devices)
    reached = distinct_ranks(topk, ep) * expert_tp
    spread = np.maximum(1, domains / ep)  # domains that the slices of one expert lie in
    wanted = distinct_ranks(topk, np.minimum(domains, ep)) * spread
    return reached * (1 - 1 / devices), wanted * (1 - 1 / domains)
