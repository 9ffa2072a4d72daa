"""Reuse of blocks between requests and its exact LRU stack distance, in O(r log r) of the runs' pieces, as arrays.

Blocks that always come together are one piece, so work grows with the runs of a trace, not with its blocks. As hashes
are chained, two requests that share a block share all blocks before it; the LRU stack distance (Mattson et al., IBM
Systems Journal 9(2), 1970) of a block of request i that was last used by request j is then the number of different
blocks in requests j ... i - 1, whichever block it is. For the pairs (j, i) that occur, with w(p, q) blocks of q last
used by p and t(p) blocks in p,

    D(j, i) = sum of t(p), j <= p < i, less the sum of w(p, q), j <= p and q < i,

which counts every block at its last use before i. The second sum is a weighted count of points in a quadrant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Ints
from tokenworks.specs.trace import Trace, ranges


@dataclass(frozen=True, slots=True)
class Reuses:
    """Hits of a prefix cache without an end.

    leading : of each request, how many of its leading blocks an earlier request had
    distance, blocks : reuse distance [block] of that many of these blocks; one entry for each pair of requests
    """

    leading: Ints
    distance: Ints
    blocks: Ints
    unique_blocks: int


def reuses(trace: Trace) -> Reuses:
    """All reuses of blocks between the requests of a trace."""
    n = len(trace)
    bounds = np.unique(np.concatenate([trace.run_start, trace.run_start + trace.run_length]))
    low = np.searchsorted(bounds, trace.run_start)
    pieces = np.searchsorted(bounds, trace.run_start + trace.run_length) - low
    piece = ranges(low, pieces)
    run_request = np.repeat(np.arange(n), np.diff(trace.run_offsets))
    request = np.repeat(run_request, pieces)
    size = np.diff(bounds)[piece]
    last = _last_use(piece, request)

    # Leading: before the first piece of a request that nobody had.
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
    real = (hits > 0) & (j < i)
    return Reuses(leading, distance[real], hits[real], int(size[~seen].sum()))


def _last_use(piece: Ints, request: Ints) -> Ints:
    """The request that used the same piece before, -1 none."""
    order = np.argsort(piece, kind="stable")
    last = np.full(len(piece), -1)
    again = piece[order][1:] == piece[order][:-1]
    last[order[1:][again]] = request[order[:-1][again]]
    return last


def quadrant(j: Ints, i: Ints, weight: Ints, n: int) -> Ints:
    """For each k the sum of weight[m] over all m with j[m] >= j[k] and i[m] < i[k]; j sorted; i below n.

    A wavelet matrix (Claude and Navarro, SPIRE 2012): the points are split bit by bit of i, highest first, each half
    in order of j. A query walks down with its interval; where its bit is 1 the points with bit 0 are all below it.
    """
    low, high = np.searchsorted(j, j), np.full(len(j), len(j))
    values, weights = np.asarray(i), np.asarray(weight)
    found = np.zeros(len(j), dtype=np.int64)
    for bit in reversed(range(max(1, int(n).bit_length()))):
        one = (values >> bit & 1).astype(bool)
        zeros_before = np.append(0, np.cumsum(~one))
        weight_before = np.append(0, np.cumsum(np.where(one, 0, weights)))
        up = (i >> bit & 1).astype(bool)
        found += np.where(up, weight_before[high] - weight_before[low], 0)
        zeros = zeros_before[-1]
        low = np.where(up, zeros + low - zeros_before[low], zeros_before[low])
        high = np.where(up, zeros + high - zeros_before[high], zeros_before[high])
        order = np.concatenate([np.flatnonzero(~one), np.flatnonzero(one)])
        values, weights = values[order], weights[order]
    return found
