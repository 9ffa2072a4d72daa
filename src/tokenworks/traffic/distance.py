"""Reuse of blocks between requests, and its exact LRU stack distance, in O(r log r) for r pieces of runs, as arrays.

Blocks that always come together form one piece. So the work grows with the runs of a trace, not with its blocks.
Hashes are chained: two requests that share a block share all blocks before it. Therefore the LRU stack distance
(Mattson et al., IBM Systems Journal 9(2), 1970) is the same for all blocks of request i that request j used last: the
number of different blocks in requests j ... i - 1. Request p has t(p) blocks. Request q has w(p, q) blocks that request
p used last. Then

    D(j, i) = sum of t(p) over j <= p < i  -  sum of w(p, q) over j <= p and q < i.

This counts every block once, at its last use before i. The second sum is a weighted count of points in a quadrant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Ints
from tokenworks.specs.trace import Trace, ranges


@dataclass(frozen=True, slots=True)
class Reuses:
    """Hits of a prefix cache of unlimited size.

    Parameters
    ----------
    leading : for each request, the number of its leading blocks that an earlier request had [block]
    distance : reuse distances; one entry for each pair of requests that share blocks [block]
    blocks : for each entry of `distance`, the number of hit blocks with this distance [block]
    unique_blocks : number of different blocks in the trace [block]
    """

    leading: Ints
    distance: Ints
    blocks: Ints
    unique_blocks: int


def reuses(trace: Trace) -> Reuses:
    """All reuses of blocks between the requests of a trace.

    Parameters
    ----------
    trace : a trace with block hashes

    Returns
    -------
    Hits of each request, and reuse distances.
    """
    n = len(trace)
    bounds, piece, pieces = _pieces(trace)
    run_request = np.repeat(np.arange(n), np.diff(trace.run_offsets))
    request = np.repeat(run_request, pieces)
    size = np.diff(bounds)[piece]
    last = _last_use(piece, request)

    # Leading pieces of a request: those before its first piece that no earlier request had.
    unseen = np.cumsum(np.append(0, last < 0))
    first = np.searchsorted(request, np.arange(n))
    leads = unseen[1:] == unseen[first[request]]
    leading = np.bincount(request, weights=size * leads, minlength=n).astype(np.int64)

    touched = np.bincount(request, weights=size, minlength=n).astype(np.int64)
    seen = last >= 0
    pair, where = np.unique(last[seen] * n + request[seen], return_inverse=True)
    weight = np.bincount(where, weights=size[seen]).astype(np.int64)
    hits = np.bincount(where, weights=(size * leads)[seen]).astype(np.int64)
    j, i = pair // n, pair % n
    total = np.append(0, touched.cumsum())
    distance = total[i] - total[j] - quadrant(j, i, weight, n)
    between = (hits > 0) & (j < i)
    return Reuses(leading, distance[between], hits[between], int(size[~seen].sum()))


def _pieces(trace: Trace) -> tuple[Ints, Ints, Ints]:
    """Bounds of the pieces, the pieces of all runs one run after the other, and the number of pieces of each run."""
    ends = np.concatenate([trace.run_start, trace.run_start + trace.run_length])
    bounds, place = np.unique(ends, return_inverse=True)
    low, high = np.split(place, 2)
    return bounds, ranges(low, high - low), high - low


def _last_use(piece: Ints, request: Ints) -> Ints:
    """For each piece, the last request that used the same piece before; -1 if there is none."""
    order = np.argsort(piece, kind="stable")
    last = np.full(len(piece), -1)
    again = piece[order][1:] == piece[order][:-1]
    last[order[1:][again]] = request[order[:-1][again]]
    return last


def quadrant(j: Ints, i: Ints, weight: Ints, n: int) -> Ints:
    """For each k, the sum of weight[m] over all m with j[m] >= j[k] and i[m] < i[k].

    The function builds a wavelet matrix [1]. It splits the points by the bits of i, highest bit first, and keeps the
    order of j in each half. A query follows the bits of its own i with an interval of points. If its bit is 1, all
    points of the interval with bit 0 have a smaller i, so their weight counts.

    Parameters
    ----------
    j : first coordinate of the points, in ascending order
    i : second coordinate of the points, below n
    weight : weight of each point
    n : bound of i

    References
    ----------
    [1] Claude and Navarro, The wavelet matrix, SPIRE 2012.
    """
    low, high = np.searchsorted(j, j), np.full(len(j), len(j))
    values, weights = np.asarray(i), np.asarray(weight)
    sums = np.zeros(len(j), dtype=np.int64)
    for bit in reversed(range(max(1, int(n).bit_length()))):
        one = (values >> bit & 1).astype(bool)
        zeros_before = np.append(0, np.cumsum(~one))
        weight_before = np.append(0, np.cumsum(np.where(one, 0, weights)))
        up = (i >> bit & 1).astype(bool)
        sums += np.where(up, weight_before[high] - weight_before[low], 0)
        zeros = zeros_before[-1]
        low = np.where(up, zeros + low - zeros_before[low], zeros_before[low])
        high = np.where(up, zeros + high - zeros_before[high], zeros_before[high])
        order = np.concatenate([np.flatnonzero(~one), np.flatnonzero(one)])
        values, weights = values[order], weights[order]
    return sums
