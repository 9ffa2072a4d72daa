"""Routed experts: touched experts, load of the hottest rank, and token copies of dispatch and combine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray, ceil_div

# Expected maximum of n standard normals for n = 1, 2, 4, ... 2^14, by numerical integration of n x phi(x) Phi(x)^(n-1).
# Up to n = 400 the values agree with Harter, Expected values of normal order statistics, Biometrika 48, 1961, table 1.
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
    """Expected maximum of n independent standard normal variables, interpolated in log2 n.

    Parameters
    ----------
    n : number of variables, 1 to 16,384 [count]

    Returns
    -------
    Expected maximum [-].

    References
    ----------
    [1] Harter, Expected values of normal order statistics, Biometrika 48, 1961, table 1.
    """
    largest: FloatArray = np.interp(np.log2(n), _LOG2_N, _NORMAL_MAX)
    return largest


def normal_tail(q: FloatArray) -> FloatArray:
    """Upper quantile of the standard normal distribution: the z with P(x > z) = q.

    Parameters
    ----------
    q : probability, above 0 and at most 1/2 [-]

    Returns
    -------
    z, with an error below 4.5e-4 [-].

    References
    ----------
    [1] Abramowitz and Stegun, Handbook of Mathematical Functions, 26.2.23.
    """
    t: FloatArray = np.sqrt(-2 * np.log(q))
    top = 2.515517 + t * (0.802853 + t * 0.010328)
    return t - top / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))


@dataclass(frozen=True, slots=True)
class Balance:
    """Known balance of the ranks, in place of the calibrated skew: hottest rank and touched experts by batch.

    Parameters
    ----------
    tokens : tokens that are routed in a step, all ranks, rising [token]
    hot : load of the hottest rank / mean load for these tokens [-]
    touched : experts with at least one token on the rank that touches most, for these tokens [count]
    limit : load of the hottest rank / mean load for very many tokens [-]
    """

    tokens: tuple[float, ...]
    hot: tuple[float, ...]
    touched: tuple[float, ...]
    limit: float

    def hottest_load(self, tokens: FloatArray) -> FloatArray:
        """Load of the hottest rank / mean load, interpolated in the logarithm of the tokens [-].

        Parameters
        ----------
        tokens : tokens that are routed in a step, all ranks [token]
        """
        return self._at(tokens, self.hot)

    def hottest_touched(self, tokens: FloatArray) -> FloatArray:
        """Touched experts on the rank that touches most, interpolated in the logarithm of the tokens [count].

        Parameters
        ----------
        tokens : tokens that are routed in a step, all ranks [token]
        """
        few = np.minimum(tokens / self.tokens[0], 1.0)  # below the first batch, in proportion to the tokens
        return self._at(tokens, self.touched) * few

    def _at(self, tokens: FloatArray, values: tuple[float, ...]) -> FloatArray:
        inside = np.clip(tokens, self.tokens[0], self.tokens[-1])
        between: FloatArray = np.interp(np.log2(inside), np.log2(self.tokens), values)
        return between


def local_experts(experts: FloatArray, redundant: FloatArray, ep: FloatArray) -> FloatArray:
    """Experts on the rank that holds most, with redundant copies: ceil((E + R) / ep).

    Parameters
    ----------
    experts : E, routed experts of a layer [count]
    redundant : R, redundant copies [count]
    ep : expert-parallel ranks [count]

    Returns
    -------
    Number of experts [count].
    """
    return ceil_div(experts + redundant, ep)


def touched_experts(
    tokens: FloatArray, *, experts: FloatArray, topk: FloatArray, local: FloatArray, skew: FloatArray
) -> FloatArray:
    """Expected number of experts of one rank that get at least one token: L E[1 - (1 - x k/E)^T].

    x is the popularity of an expert / the mean popularity. It is lognormal with log-deviation `skew`, as in
    `hottest_load`. Larger differences of popularity mean fewer touched experts. The mean over x is a Gauss quadrature
    with three points.

    Parameters
    ----------
    tokens : T, tokens that are routed in this step, all ranks [token]
    experts : E, routed experts of a layer [count]
    topk : k, experts that a token visits [count]
    local : L, experts on the rank [count]
    skew : log-deviation of expert popularity; 0 = all experts are equally popular [-]

    Returns
    -------
    Number of touched experts [count].

    References
    ----------
    [1] Feller, An Introduction to Probability Theory 1, 1968, section IV.2 (occupancy), with k draws for each token.
    """
    untouched: FloatArray = 0.0
    for z, weight in _THREE:
        chosen = np.minimum(np.exp(skew * z - skew**2 / 2) * topk / experts, 1 - 1e-9)
        untouched = untouched + weight * np.exp(tokens * np.log1p(-chosen))
    return local * (1 - untouched)


_THREE = ((0.0, 2 / 3), (3**0.5, 1 / 6), (-(3**0.5), 1 / 6))
"""Points and weights of the Gauss-Hermite quadrature for the standard normal distribution."""


def hottest_touched(
    tokens: FloatArray, *, experts: FloatArray, topk: FloatArray, local: FloatArray, ep: FloatArray, skew: FloatArray
) -> FloatArray:
    """Expected number of touched experts on the rank that touches most. Their weights set the time of a small batch.

    Each of the L local experts is touched with probability p. The number of touched experts is nearly normal. The
    largest of ep such numbers is

        min(L, L p + z(ep) sqrt(L p (1 - p)))

    Parameters
    ----------
    tokens : tokens that are routed in this step, all ranks [token]
    experts : routed experts of a layer [count]
    topk : experts that a token visits [count]
    local : L, experts on a rank [count]
    ep : expert-parallel ranks [count]
    skew : log-deviation of expert popularity [-]

    Returns
    -------
    Number of touched experts [count].
    """
    mean = touched_experts(tokens, experts=experts, topk=topk, local=local, skew=skew)
    return np.minimum(local, mean + normal_max(ep) * np.sqrt(mean * (1 - mean / local)))


def hottest_load(
    choices: FloatArray, *, experts: FloatArray, redundant: FloatArray, ep: FloatArray, skew: FloatArray
) -> FloatArray:
    """Expected load of the hottest rank / mean load of the ranks.

    The popularity of an expert is lognormal with log-deviation `skew`: what the placement of experts leaves, which is
    less than the popularity within one step (`touched_experts`). The load of a rank is the sum over its
    L = E / ep experts. The random choices of N tokens add variance. So the load of a rank / the mean load has about

        c^2 = (1 - 1/ep) ((exp(skew^2) - 1) / L + 1 / N),      s^2 = log(1 + c^2)

    A sum of lognormal variables is nearly lognormal [1], so the hottest of ep ranks has exp(s z(ep) - s^2 / 2).
    With redundant experts (EPLB), the R most popular experts have copies, and the placement balances the rest [2]. Then
    two things remain: the random choices, and the most popular expert without a copy, if this expert alone is more than
    the share of a rank.

    Parameters
    ----------
    choices : N, mean number of token choices that a rank receives [count]
    experts : E, routed experts of a layer [count]
    redundant : R, redundant copies [count]
    ep : expert-parallel ranks [count]
    skew : log-deviation of expert popularity; 0 = all experts are equally popular [-]

    Returns
    -------
    Load of the hottest rank / mean load, 1 to ep [-].

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
    """Expected number of ranks that hold at least one expert of a token: R (1 - (1 - 1/R)^k).

    Parameters
    ----------
    topk : k, experts that a token visits [count]
    ranks : R, ranks over which the experts are spread [count]

    Returns
    -------
    Number of ranks [count].
    """
    missed: FloatArray = (1 - 1 / ranks) ** topk
    return ranks * (1 - missed)


def limited_domains(topk: int, domains: int, *, groups: int, chosen: int) -> float:
    """Expected number of domains that hold an expert of a token, if the router first chooses groups of experts.

    A domain holds G / D groups. The router takes g of the G groups, and k experts in these. With j chosen groups in a
    domain, all k experts lie elsewhere with probability (1 - j / g)^k:

        D (1 - sum over j of P(j) (1 - j / g)^k),   P hypergeometric

    Parameters
    ----------
    topk : k, experts that a token visits [count]
    domains : D, domains that the experts are spread over; D must divide G [count]
    groups : G, groups of experts of the router (`n_group` of a config.json) [count]
    chosen : g, groups that the router takes (`topk_group`) [count]

    Returns
    -------
    Number of domains [count].

    References
    ----------
    [1] DeepSeek-V3, arXiv:2412.19437, section 2.1.2 (node-limited routing).
    """
    here = groups // domains
    missed = 0.0
    for j in range(max(0, chosen - (groups - here)), min(here, chosen) + 1):
        drawn = math.comb(here, j) * math.comb(groups - here, chosen - j) / math.comb(groups, chosen)
        missed += drawn * (1 - j / chosen) ** topk
    return domains * (1 - missed)


def crossing_share(devices: FloatArray, domain: FloatArray) -> FloatArray:
    """Share of the expert choices that go to a device in another domain: 1 - min(domain, n) / n.

    Example: 40 devices in one domain of 40 have a share of 0; in five domains of 8 the share is 1 - 8/40 = 0.8.

    Parameters
    ----------
    devices : n, devices over which the experts are spread [count]
    domain : devices of a scale-up domain [count]

    Returns
    -------
    Share [-].
    """
    return 1 - np.minimum(domain, devices) / devices


def direct_copies(
    topk: FloatArray, *, ep: FloatArray, expert_tp: FloatArray, domain: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Copies of a token that low-latency dispatch sends inside the domain, and to other domains.

    The device of the token sends one copy to each chosen expert. If there are fewer ranks than chosen experts, each
    rank gets one copy. An expert in `expert_tp` slices needs a copy for each slice. With ep = 1 this is an all-gather.
    The device sends no copy to itself.

    Parameters
    ----------
    topk : experts that a token visits [count]
    ep : expert-parallel ranks [count]
    expert_tp : devices that share one expert [count]
    domain : devices of a scale-up domain [count]

    Returns
    -------
    Copies inside the domain, and copies to other domains [count, count].

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
    """Copies of a token that high-throughput dispatch sends inside domains, and to other domains.

    A token goes once to each domain that holds one of its experts. A device of that domain forwards it. Each device
    that holds one of the experts gets one copy over scale-up.

    Parameters
    ----------
    topk : experts that a token visits [count]
    ep : expert-parallel ranks [count]
    expert_tp : devices that share one expert [count]
    domain : devices of a scale-up domain [count]

    Returns
    -------
    Copies inside domains, and copies to other domains [count, count].

    References
    ----------
    [1] DeepSeek-V3, arXiv:2412.19437, section 3.2.2; DeepEP, normal kernels.
    """
    devices = ep * expert_tp
    domains = devices / np.minimum(domain, devices)
    reached = distinct_ranks(topk, ep) * expert_tp
    spread = np.maximum(1, domains / ep)  # domains that hold the slices of one expert
    wanted = distinct_ranks(topk, np.minimum(domains, ep)) * spread
    return reached * (1 - 1 / devices), wanted * (1 - 1 / domains)
