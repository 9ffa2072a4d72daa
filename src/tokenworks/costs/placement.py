"""Where copies of experts lie: the plain placement, the balanced one (EPLB), balance of the ranks, and moved weights.

A placement is an array by layer and slot: the number of the expert in each slot. The slots of a rank stand side by
side, and all ranks have equally many. Loads and counts are arrays by layer and expert. The tokens of an expert are
divided equally among its copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Bools, Floats, Ints
from tokenworks.costs.collectives import LinkRates
from tokenworks.costs.moe import Balance
from tokenworks.errors import SpecError

TOKENS = tuple(2.0**i for i in range(19))
"""Batches for which `balance` computes hottest rank and touched experts: 1 to 262,144 routed tokens [token]."""

_GRID = 33
"""Points of the numerical integral of `expected_max`: it is exact to three digits [count]."""
_WIDE = 4.0
"""Standard deviations around the means that this integral covers [-]."""


def plain(layers: int, experts: int, redundant: int, ep: int) -> Ints:
    """The placement that engines start with: experts in their order, then copies of the first ones.

    Parameters
    ----------
    layers : layers with routed experts [count]
    experts : E, routed experts of a layer [count]
    redundant : R, redundant copies [count]
    ep : expert-parallel ranks, which must divide E + R [count]

    Returns
    -------
    The placement.

    Raises
    ------
    SpecError : the copies do not divide by the ranks, or there are more copies than slots

    References
    ----------
    [1] vLLM 0.33.0, distributed/eplb; SGLang 0.5.23, `--init-expert-location trivial`.
    """
    if (experts + redundant) % ep:
        short = -(experts + redundant) % ep
        raise SpecError(
            f"{experts} experts and {redundant} redundant ones do not divide by ep={ep}", where="redundant_experts",
            hint=f"add {short} redundant experts",
        )  # fmt: skip
    return np.tile(np.arange(experts + redundant) % experts, (layers, 1))


def copy_counts(placement: Ints, experts: int) -> Ints:
    """Number of copies of each expert.

    Parameters
    ----------
    placement : the placement
    experts : routed experts of a layer [count]

    Returns
    -------
    Copies, by layer and expert [count].
    """
    layers = len(placement)
    numbers = placement + experts * np.arange(layers)[:, None]
    return np.bincount(numbers.ravel(), minlength=layers * experts).reshape(layers, experts)


def slot_loads(loads: Floats, placement: Ints) -> Floats:
    """Load of each slot: load of its expert / copies of this expert.

    Parameters
    ----------
    loads : load of each expert, by layer
    placement : the placement

    Returns
    -------
    Load of each slot, by layer.
    """
    by_copy = loads / np.maximum(copy_counts(placement, loads.shape[1]), 1)
    return np.take_along_axis(by_copy, placement, axis=1)


def rank_loads(loads: Floats, placement: Ints, ep: int) -> Floats:
    """Load of each rank / mean load of the ranks of its layer.

    Parameters
    ----------
    loads : load of each expert, by layer
    placement : the placement
    ep : expert-parallel ranks [count]

    Returns
    -------
    Relative load, by layer and rank; the mean over the ranks is 1 [-].
    """
    by_rank = slot_loads(loads, placement).reshape(len(placement), ep, -1).sum(axis=2)
    relative: Floats = by_rank * (ep / np.maximum(by_rank.sum(axis=1, keepdims=True), 1e-300))
    return relative


def hottest(loads: Floats, placement: Ints, ep: int) -> Floats:
    """Load of the hottest rank / mean load, of each layer, for very many tokens [-].

    Parameters
    ----------
    loads : load of each expert, by layer
    placement : the placement
    ep : expert-parallel ranks [count]
    """
    most: Floats = rank_loads(loads, placement, ep).max(axis=1)
    return most


# ── EPLB ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def replicated(counts: Floats, slots: int) -> Ints:
    """Copies of each expert: one, and then one more copy of the expert with the most load per copy, slot by slot.

    Parameters
    ----------
    counts : counted tokens of each expert, by row
    slots : slots of a row, at least one for each expert [count]

    Returns
    -------
    Experts of the copies, by row: all experts first, then the redundant copies in the order in which they were chosen.

    References
    ----------
    [1] deepseek-ai/EPLB: the most loaded copy is divided first.
    """
    rows, experts = counts.shape
    copies = np.ones((rows, experts))
    chosen = np.tile(np.arange(slots) % experts, (rows, 1))
    every = np.arange(rows)
    for slot in range(experts, slots):
        most = np.argmax(counts / copies, axis=1)
        chosen[:, slot] = most
        copies[every, most] += 1
    return chosen


def packed(loads: Floats, bins: int) -> Ints:
    """Items in bins of equally many items: the heaviest item first, each into the lightest bin that has room.

    Parameters
    ----------
    loads : load of each item, by row; the bins divide the items
    bins : number of bins [count]

    Returns
    -------
    The items of each bin, the first bin first, by row.

    References
    ----------
    [1] Graham, Bounds on multiprocessing timing anomalies, SIAM J. Appl. Math. 17, 1969 (longest first).
    [2] deepseek-ai/EPLB: bins have equally many experts.
    """
    rows, items = loads.shape
    room, every = items // bins, np.arange(rows)
    weight, held = np.zeros((rows, bins)), np.zeros((rows, bins), np.int64)
    content = np.empty((rows, bins, room), np.int64)
    for item in np.argsort(-loads, axis=1, kind="stable").T:
        lightest = np.argmin(weight, axis=1)
        place = held[every, lightest]
        content[every, lightest, place] = item
        held[every, lightest] = place + 1
        more = weight[every, lightest] + loads[every, item]
        weight[every, lightest] = np.where(place + 1 < room, more, np.inf)  # a full bin is never the lightest
    return content.reshape(rows, items)


def balanced(counts: Floats, redundant: int, ep: int, *, groups: int = 1, hosts: int = 1) -> Ints:
    """The placement that EPLB makes from counts.

    The redundant slots hold further copies of the most loaded experts, and the copies are packed onto the ranks. If
    the hosts divide the groups of the router, a group stays on one host: groups are packed onto hosts, and copies and
    packing are made in each host. A layer keeps the plain placement if this has no hotter rank by the same counts. An
    engine has no such exception, and it is rare.

    Parameters
    ----------
    counts : counted tokens of each expert, by layer
    redundant : redundant copies [count]
    ep : expert-parallel ranks [count]
    groups : groups of experts that the router chooses first (`n_group` of a config.json); 1 = no groups [count]
    hosts : hosts that the ranks are on [count]

    Returns
    -------
    The placement.

    Raises
    ------
    SpecError : the copies do not divide by the ranks

    References
    ----------
    [1] DeepSeek-V3, arXiv:2412.19437, section 3.4; deepseek-ai/EPLB, hierarchical and global policy.
    [2] vLLM 0.33.0, distributed/eplb/policy/default.py, and SGLang 0.5.23, srt/eplb: the same two policies.
    """
    layers, experts = counts.shape
    start = plain(layers, experts, redundant, ep)
    parts = hosts if groups % hosts == 0 and experts % groups == 0 and ep % hosts == 0 else 1
    inside = (experts + redundant) // parts
    by_group = counts.reshape(layers, groups if parts > 1 else 1, -1)
    group_order = packed(by_group.sum(axis=2), parts) if parts > 1 else np.zeros((layers, 1), np.int64)
    size = by_group.shape[2]
    local = (group_order[:, :, None] * size + np.arange(size)).reshape(layers * parts, -1)  # experts of each host
    own = np.take_along_axis(np.repeat(counts, parts, axis=0), local, axis=1)
    copies = replicated(own, inside)
    order = packed(slot_loads(own, copies), ep // parts)
    chosen = np.take_along_axis(local, np.take_along_axis(copies, order, axis=1), axis=1).reshape(layers, -1)
    better = hottest(counts, chosen, ep) < hottest(counts, start, ep)
    return np.where(better[:, None], chosen, start)


@dataclass(frozen=True, slots=True)
class Moves:
    """Copies of experts that a new placement needs on ranks that do not have them.

    Parameters
    ----------
    inside, outside : copies that come from a rank of the same domain, and from another domain, all layers [count]
    most_inside, most_outside : the same for the rank that receives most, or sends most if the senders have more
        [count]
    """

    inside: int
    outside: int
    most_inside: int
    most_outside: int


def moves(old: Ints, new: Ints, ep: int, domain: int) -> Moves:
    """The copies that ranks must get to change from one placement to another.

    A rank keeps the experts that it has. It gets each other one from a rank of its own domain, if one there has this
    expert, else from another domain. Among several such ranks, the copies are sent by the ranks in turn.

    Parameters
    ----------
    old, new : the placements
    ep : expert-parallel ranks [count]
    domain : ranks of a scale-up domain [count]

    Returns
    -------
    Number of copies.
    """
    layers, slots = old.shape
    experts = int(max(old.max(), new.max())) + 1
    has, needs = np.zeros((2, layers, ep, experts), np.bool_)
    layer, rank = np.arange(layers)[:, None], np.arange(slots)[None, :] // (slots // ep)
    has[layer, rank, old], needs[layer, rank, new] = True, True
    missing: Bools = needs & ~has
    home, starts = np.arange(ep) // domain, np.arange(0, ep, domain)
    in_domain = np.add.reduceat(has, starts, axis=1, dtype=np.int32)
    near = missing & (in_domain > 0)[:, home]
    far = missing & ~near
    # Each holder sends an equal share of the copies that ranks of its domain, or of other domains, lack.
    wanted = np.add.reduceat(near, starts, axis=1, dtype=np.int32)
    sent_near = has * (wanted / np.maximum(in_domain, 1))[:, home]
    sent_far = has * (far.sum(axis=1) / np.maximum(has.sum(axis=1), 1))[:, None]
    received = [one.sum(axis=(0, 2)).max() for one in (near, far)]
    sent = [np.ceil(one.sum(axis=(0, 2)).max() - 1e-9) for one in (sent_near, sent_far)]
    most = [int(max(pair)) for pair in zip(received, sent, strict=True)]
    return Moves(int(near.sum()), int(far.sum()), *most)


# ── balance by size of the batch ──────────────────────────────────────────────────────────────────────────────────


def normal_below(x: Floats) -> Floats:
    """Probability that a standard normal variable is below x, with an error below 2e-4 [-].

    Parameters
    ----------
    x : value [-]

    References
    ----------
    [1] Page, Approximations to the cumulative normal function and its inverse, Applied Statistics 26, 1977.
    """
    share: Floats = 0.5 + 0.5 * np.tanh(np.sqrt(2 / np.pi) * x * (1 + 0.044715 * x**2))
    return share


def expected_max(mean: Floats, deviation: Floats) -> Floats:
    """Expected maximum of independent normal variables with different means and deviations.

        E = b - integral from a to b of the product over r of Phi((x - m_r) / s_r)

    Parameters
    ----------
    mean, deviation : m and s of each variable, in the last axis; the results have the other axes

    Returns
    -------
    Expected maximum.

    References
    ----------
    [1] David, Nagaraja, Order Statistics, 3rd edition, 2003, section 3.1.
    """
    spread = np.maximum(deviation, 1e-9 * (1 + np.abs(mean)))
    low = (mean - _WIDE * spread).max(axis=-1)
    high = (mean + _WIDE * spread).max(axis=-1)
    x = low + (high - low) * np.linspace(0, 1, _GRID).reshape(-1, *([1] * low.ndim))
    below = normal_below((x[..., None] - mean) / spread).prod(axis=-1)
    largest: Floats = high - np.trapezoid(below, x, axis=0)
    return largest


def balance(chosen: Floats, placement: Ints, ep: int) -> Balance:
    """Hottest rank and touched experts of a placement, by size of the batch, as means over the layers.

    A token visits expert e with probability v_e, so a copy of c gets v_e / c. In a batch of T tokens, the load of a
    rank has the mean T sum v_e / c and the variance of independent tokens. A copy is touched with probability
    1 - (1 - v_e / c)^T. Both numbers of ranks are taken as normal variables, and `expected_max` gives the largest.

    Parameters
    ----------
    chosen : v, probability that a token visits each expert, by layer; see `popularity.visits` [-]
    placement : the placement
    ep : expert-parallel ranks [count]

    Returns
    -------
    Load of the hottest rank / mean load, and touched experts of the rank that touches most, for the batches `TOKENS`.
    """
    share = np.minimum(slot_loads(chosen, placement), 1 - 1e-9).reshape(len(placement), ep, -1)
    mean = share.sum(axis=2)
    relative = mean * (ep / mean.sum(axis=1, keepdims=True))
    choices = mean.sum(axis=1, keepdims=True) / ep  # choices that a rank gets from one token, on average
    hot, touched = [], []
    for tokens in TOKENS:
        deviation = np.sqrt(relative * (1 - relative / ep) / (tokens * choices)) if ep > 1 else 0 * relative
        hot.append(float(np.clip(expected_max(relative, deviation), 1, ep).mean()))
        hit = -np.expm1(tokens * np.log1p(-share))
        most = expected_max(hit.sum(axis=2), np.sqrt((hit * (1 - hit)).sum(axis=2)))
        touched.append(float(np.minimum(most, share.shape[2]).mean()))
    return Balance(TOKENS, tuple(hot), tuple(touched), float(hottest(chosen, placement, ep).mean()))


def move_time(moved: Moves, size: float, layers: int, *, inner: LinkRates, outer: LinkRates | None) -> float:
    """Time to move copies of experts. Both levels of the interconnect work at the same time, layer after layer.

        t = max over the levels (L (start + alpha) + n b / B)

    n are the copies of the rank that receives or sends most.

    Parameters
    ----------
    moved : the copies
    size : b, weights of one expert in one layer on one device [byte]
    layers : L, layers with routed experts [count]
    inner : rates inside a domain
    outer : rates between domains; None if the machine has no network

    Returns
    -------
    Time; 0 without copies [s].
    """
    levels = [(moved.most_inside, inner), (moved.most_outside, outer)]
    times = [layers * (link.start + link.alpha) + count * size / link.bandwidth
             for count, link in levels if count and link]  # fmt: skip
    return max(times, default=0.0)
