"""Collectives by alpha and beta on the real topology: one scale-up domain, and the network between domains.

One step of a collective takes alpha = latency + overhead: the way through the fabric (endpoints and hops), and what
the software of a message adds, which a load/store fabric does not pay. Bytes take beta = 1 / bandwidth. A group of n
devices lies on consecutive devices; where it does not fit in a domain it has `min(n, domain)` members in each of
`ceil(n / domain)` domains, and each device has its own port to the network.

Sizes are per device [byte]. A group of one costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray, ceil_div

IN_SWITCH = 0.65
"""What adding in the switch reaches of the rate that other algorithms reach [-]: NCCL with NVLink SHARP, 8 H100 and 8
B200, 64 MB to 512 MB (aiconfigurator-core 0.12.0, NCCL and custom all-reduce tables)."""


@dataclass(frozen=True, slots=True)
class LinkRates:
    """One level of the interconnect as a device sees it, at the rates it achieves.

    bandwidth : [byte/s] per direction; pair : the most of it that one peer can take [byte/s]
    alpha : one step, endpoints, hops and message software [s]
    start : what a phase costs before its first byte: launch, and waiting for each other [s]
    ring : what a step around a ring takes at least, by which libraries gather even where all are reached directly [s]
    direct : load/store: a device reaches all others in one step; messages walk rings and trees
    in_switch : the switch adds
    """

    bandwidth: float
    pair: float
    alpha: float
    start: float
    ring: float
    direct: bool
    in_switch: bool


def spread(n: FloatArray, domain: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Members of a group in its fullest domain, and the number of domains it spans."""
    return np.minimum(n, domain), ceil_div(n, domain)


def exchange_rate(n: FloatArray, link: LinkRates) -> FloatArray:
    """What a device sends when it talks to all n - 1 others at once [byte/s]: min(B, (n - 1) pair)."""
    return np.minimum(link.bandwidth, np.maximum(n - 1, 1) * link.pair)


def _flat_all_reduce(size: FloatArray, n: FloatArray, link: LinkRates) -> FloatArray:
    """The best of the algorithms that one level offers [s]; b is `start`, what waiting for each other costs.

    Load/store:
        one-shot   b + a + (n - 1) s / B                    everybody reads everybody
        two-shot   2 (b + a) + 2 (n - 1) / n s / B          reduce-scatter, then all-gather
    Messages:
        ring       b + 2 (n - 1) a + 2 (n - 1) / n s / B    the same bytes by neighbours
        tree       b + 2 ceil(log2 n) a + 2 s / B           double binary tree, pipelined
    A switch that adds:
        in-switch  2 (b + a) + (n + 1) / n s / (B u)        each sends its share up once, and gets the sum once
    """
    moved = size / exchange_rate(n, link)
    both_ways = 2 * (n - 1) / n * moved
    phase = link.start + link.alpha
    if link.direct:
        best = np.minimum(phase + (n - 1) * moved, 2 * phase + both_ways)
    else:
        ring = 2 * (n - 1) * link.alpha + both_ways
        best = link.start + np.minimum(ring, 2 * np.ceil(np.log2(n)) * link.alpha + 2 * moved)
    if link.in_switch:
        best = np.minimum(best, 2 * phase + (n + 1) / n * moved / IN_SWITCH)
    return best


def _flat_gather(size: FloatArray, n: FloatArray, link: LinkRates) -> FloatArray:
    """Around a ring of n - 1 steps, as NCCL gathers and scatters [s]."""
    return link.start + (n - 1) * max(link.ring, link.alpha) + (n - 1) / n * size / exchange_rate(n, link)


def all_reduce(
    size: FloatArray, n: FloatArray, *, domain: FloatArray, inner: LinkRates, outer: LinkRates | None
) -> FloatArray:
    """Every device ends with the sum of n buffers of `size` bytes [s].

    In one domain the best algorithm of `_flat_all_reduce`. Over D domains of L devices it is hierarchical:
    reduce-scatter inside, all-reduce of s / L between domains by all ports at once, all-gather inside.

    Parameters
    ----------
    size : buffer of one device [byte]; n : devices of the group
    domain : devices of a scale-up domain; inner, outer : the two fabrics; outer is None where there is no network

    References
    ----------
    [1] Thakur, Rabenseifner, Gropp, Optimization of collective communication in MPICH, IJHPCA 19(1), 2005.
    [2] Sanders, Speck, Träff, Two-tree algorithms, Parallel Computing 35(12), 2009.
    """
    local, domains = spread(n, domain)
    inside = _flat_all_reduce(size, local, inner)
    if outer is None:
        return (n > 1) * inside
    across = 2 * _flat_gather(size, local, inner) + _flat_all_reduce(size / local, domains, outer)
    seconds: FloatArray = np.where(domains > 1, across, inside)
    return (n > 1) * seconds


def all_gather(
    size: FloatArray, n: FloatArray, *, domain: FloatArray, inner: LinkRates, outer: LinkRates | None
) -> FloatArray:
    """Every device ends with all n pieces, `size` bytes together [s]. A reduce-scatter takes as long, mirrored.

        t = alpha + (n - 1) / n s / B     in a domain; between domains first, D - 1 pieces of s / n each, then inside

    Parameters
    ----------
    size : the gathered buffer [byte]; the rest as `all_reduce`
    """
    local, domains = spread(n, domain)
    inside = _flat_gather(size, local, inner)
    if outer is None:
        return (n > 1) * inside
    return (n > 1) * (inside + (domains > 1) * _flat_gather(size / local, domains, outer))


def exchange(
    inside: FloatArray,
    outside: FloatArray,
    n: FloatArray,
    *,
    domain: FloatArray,
    inner: LinkRates,
    outer: LinkRates | None,
) -> FloatArray:
    """All-to-all whose bytes are known by destination [s]: the two fabrics carry their shares at the same time.

        t = max(start_in + a_in + s_in / B_in, start_out + a_out + s_out / B_out)

    Parameters
    ----------
    inside, outside : what the busiest device sends to its own domain and to others [byte]
    n : devices of the group; the rest as `all_reduce`
    """
    local, domains = spread(n, domain)
    near = inner.start + inner.alpha + inside / exchange_rate(local, inner)
    if outer is None:
        return (n > 1) * near
    far = (domains > 1) * (outer.start + outer.alpha + outside / outer.bandwidth)
    seconds: FloatArray = np.maximum(near, far)
    return (n > 1) * seconds


def p2p(size: FloatArray, distance: FloatArray, *, span: FloatArray, domain: FloatArray, inner: LinkRates,
        outer: LinkRates | None) -> FloatArray:  # fmt: skip
    """One device sends `size` bytes to the one `distance` further on [s]: t = start + alpha + s / min(B, pair).

    Parameters
    ----------
    distance : 0 where there is nobody to send to; span : devices among which all such pairs lie; where they do not fit
        in a domain, some pair crosses, and the slowest counts
    """
    near = inner.start + inner.alpha + size / min(inner.bandwidth, inner.pair)
    if outer is None:
        return (distance > 0) * near
    far = outer.start + outer.alpha + size / outer.bandwidth
    seconds: FloatArray = np.where(span > domain, np.maximum(near, far), near)
    return (distance > 0) * seconds
