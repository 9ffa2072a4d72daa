"""Times of collectives by the alpha-beta model, on one scale-up domain or over the network between domains.

Each step of a collective takes alpha = latency + overhead. The latency is the way through the fabric (endpoints and
hops). The overhead is the software of a message; a load/store fabric has none. Each byte takes beta = 1 / bandwidth.
The n devices of a group stand next to each other. A group that is larger than a domain has `min(n, domain)` members in
each of `ceil(n / domain)` domains. Each device has its own port to the network.

Sizes are per device [byte]. A group of one device takes no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray, ceil_div

IN_SWITCH = 0.65
"""Bandwidth of an all-reduce in the switch / bandwidth of the other algorithms [-]. Measured: NCCL with NVLink SHARP on
8 H100 and 8 B200, 64 MB to 512 MB (aiconfigurator-core 0.12.0, NCCL and custom all-reduce tables)."""


@dataclass(frozen=True, slots=True)
class LinkRates:
    """The rates that one device achieves on one level of the interconnect.

    Parameters
    ----------
    bandwidth : bandwidth of a device in one direction [byte/s]
    pair : the part of this bandwidth that one peer can use [byte/s]
    alpha : latency of one step: endpoints, hops and message software [s]
    start : time of a phase before its first byte: kernel launch, and waiting for the other devices [s]
    ring : shortest time of one step around a ring; libraries gather by rings even where a device reaches all others
        directly [s]
    direct : True for load/store, where a device reaches all others in one step; False for messages, which go by rings
        and trees
    in_switch : True if the switch can add the buffers of an all-reduce
    """

    bandwidth: float
    pair: float
    alpha: float
    start: float
    ring: float
    direct: bool
    in_switch: bool


def spread(n: FloatArray, domain: FloatArray) -> tuple[FloatArray, FloatArray]:
    """How a group lies over domains.

    Parameters
    ----------
    n : devices of the group [count]
    domain : devices of a scale-up domain [count]

    Returns
    -------
    Members of the group in its fullest domain, and number of domains that it spans [count, count].
    """
    return np.minimum(n, domain), ceil_div(n, domain)


def exchange_rate(n: FloatArray, link: LinkRates) -> FloatArray:
    """Rate at which a device sends to all n - 1 others at once: min(B, (n - 1) pair).

    Parameters
    ----------
    n : devices of the group [count]
    link : the level of the interconnect, with bandwidth B and pair

    Returns
    -------
    Send rate of one device [byte/s].
    """
    return np.minimum(link.bandwidth, np.maximum(n - 1, 1) * link.pair)


def _flat_all_reduce(size: FloatArray, n: FloatArray, link: LinkRates) -> FloatArray:
    """Time of the fastest algorithm that one level has [s].

    b is `start`, a is `alpha`, s is the size, B is the bandwidth, u is `IN_SWITCH`.

    Load/store:
        one-shot   b + a + (n - 1) s / B                    each device reads the buffers of all others
        two-shot   2 (b + a) + 2 (n - 1) / n s / B          reduce-scatter, then all-gather
    Messages:
        ring       b + 2 (n - 1) a + 2 (n - 1) / n s / B    as many bytes as two-shot, from neighbour to neighbour
        tree       b + 2 ceil(log2 n) a + 2 s / B           double binary tree, pipelined
    A switch that adds:
        in-switch  2 (b + a) + (n + 1) / n s / (B u)        each device sends its share once and receives the sum once
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
    """Time of an all-gather around a ring of n - 1 steps, as NCCL does it [s]. A reduce-scatter takes as long."""
    step: FloatArray = np.maximum(link.ring, link.alpha)
    return link.start + (n - 1) * step + (n - 1) / n * size / exchange_rate(n, link)


def all_reduce(
    size: FloatArray, n: FloatArray, *, domain: FloatArray, inner: LinkRates, outer: LinkRates | None
) -> FloatArray:
    """Time of an all-reduce: every device ends with the sum of the n buffers.

    Inside one domain, the fastest algorithm of `_flat_all_reduce` runs. Over D domains of L devices the all-reduce is
    hierarchical: reduce-scatter in each domain, all-reduce of s / L between domains over all ports at once, all-gather
    in each domain.

    Parameters
    ----------
    size : s, buffer of one device [byte]
    n : devices of the group [count]
    domain : devices of a scale-up domain [count]
    inner : rates inside a domain
    outer : rates between domains; None if the machine has no network

    Returns
    -------
    Time; 0 for a group of one device [s].

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
    """Time of an all-gather: every device ends with all n pieces. A reduce-scatter takes as long.

        t = start + (n - 1) max(ring, alpha) + (n - 1) / n s / B     inside one domain

    Over D domains of L devices, the pieces of size s / n go between domains first (buffers of s / L), then inside.

    Parameters
    ----------
    size : s, the gathered buffer, all n pieces together [byte]
    n : devices of the group [count]
    domain : devices of a scale-up domain [count]
    inner : rates inside a domain
    outer : rates between domains; None if the machine has no network

    Returns
    -------
    Time; 0 for a group of one device [s].

    References
    ----------
    [1] Thakur, Rabenseifner, Gropp, Optimization of collective communication in MPICH, IJHPCA 19(1), 2005, section 4.1.
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
    """Time of an all-to-all. The fabric inside a domain and the network between domains work at the same time.

        t = max(start_in + a_in + s_in / B_in, start_out + a_out + s_out / B_out)

    Parameters
    ----------
    inside : s_in, bytes that the busiest device sends to devices of its own domain [byte]
    outside : s_out, bytes that the busiest device sends to other domains [byte]
    n : devices of the group [count]
    domain : devices of a scale-up domain [count]
    inner : rates inside a domain
    outer : rates between domains; None if the machine has no network

    Returns
    -------
    Time; 0 for a group of one device [s].
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
    """Time of a message from one device to another: t = start + alpha + s / min(B, pair).

    Parameters
    ----------
    size : s, bytes of the message [byte]
    distance : devices between sender and receiver; 0 means that no message is sent [count]
    span : number of devices that hold all pairs of senders and receivers; if it is larger than a domain, some pair
        crosses the network, and the slower fabric sets the time [count]
    domain : devices of a scale-up domain [count]
    inner : rates inside a domain
    outer : rates between domains; None if the machine has no network

    Returns
    -------
    Time [s].
    """
    peer: float = np.minimum(inner.bandwidth, inner.pair)
    near = inner.start + inner.alpha + size / peer
    if outer is None:
        return (distance > 0) * near
    far = outer.start + outer.alpha + size / outer.bandwidth
    seconds: FloatArray = np.where(span > domain, np.maximum(near, far), near)
    return (distance > 0) * seconds
