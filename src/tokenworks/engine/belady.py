"""Belady's bound: the most blocks that any eviction policy can serve from caches of a given total size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Floats, Ints
from tokenworks.engine import kernel
from tokenworks.engine.types import Requests


@dataclass(frozen=True)
class BeladyBound:
    """Upper bounds of the blocks that first admissions can find.

    looked_up : blocks that all requests look up [block]
    known : looked-up blocks that an earlier request had: the hits of unlimited caches [block]
    capacity_blocks, hit_blocks : capacities, and the most hits with each of them [block]
    """

    looked_up: int
    known: int
    capacity_blocks: Ints
    hit_blocks: Ints


def belady(
    requests: Requests, admitted_s: Floats, end_s: Floats, *, block_tokens: int, capacity_blocks: Sequence[int]
) -> BeladyBound:
    """Most block hits of requests that were served at given times, for caches of any eviction policy.

    A request looks up the full blocks of its prompt when it is admitted, but not the block of its last token, which is
    always computed. From then to its end it has all its full blocks in HBM. So a block must be kept in a cache only
    from the end of the last request that had it to the admission of the next one. One block in one cache serves each
    such interval, or nobody keeps the block. The bound is the largest number of intervals of which no more than the
    capacity overlap. To drop the interval with the latest end, whenever too many overlap, is optimal [1, 2].

    The bound holds for HBM and KV tiers together: their capacities add up. It ignores that a hit needs all blocks
    before it, that running requests need HBM, and that a rank cannot use the HBM of another rank.

    Parameters
    ----------
    requests : the requests, with block ids
    admitted_s : time of the first admission of each request, NaN = never; `Outcome.scheduled_s` [s]
    end_s : time of the end of each request, NaN = after all others; `Outcome.end_s` [s]
    block_tokens : size of a block [token]
    capacity_blocks : total capacities, each for one bound [block]

    References
    ----------
    [1] Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2), 1966.
    [2] Carlisle and Lloyd, "On the k-coloring of intervals", Discrete Applied Mathematics 59(3), 1995.
    """
    begin, end, looked_up, known = _intervals(requests, admitted_s, np.nan_to_num(end_s, nan=np.inf), block_tokens)
    event, count = _events(begin, end), len(begin)
    hits = [known - count + _most_kept(event, count, int(room)) for room in capacity_blocks]
    return BeladyBound(looked_up, known, np.array(capacity_blocks, np.int64), np.array(hits, np.int64))


def _intervals(requests: Requests, admitted_s: Floats, end_s: Floats, size: int) -> tuple[Floats, Floats, int, int]:
    """Begins and ends of the intervals in which a block must be kept, and the counts of `BeladyBound`.

    Blocks that a request has and does not look up come before look-ups at the same time: another request may find them.
    """
    looked = np.minimum((requests.input_tokens - 1) // size, np.diff(requests.block_offsets))
    had = np.minimum((requests.input_tokens + requests.output_tokens - 1) // size, np.diff(requests.block_offsets))
    admitted = np.flatnonzero(~np.isnan(admitted_s))
    admitted = admitted[np.argsort(admitted_s[admitted], kind="stable")]
    owner = np.repeat(admitted, had[admitted])
    place = np.arange(len(owner)) - np.repeat(np.cumsum(had[admitted]) - had[admitted], had[admitted])
    name, looks = requests.block_ids[requests.block_offsets[owner] + place], place < looked[owner]
    order = np.argsort(looks, kind="stable")  # of equal times, those without a look-up first
    order = order[np.argsort(admitted_s[owner[order]], kind="stable")]
    order = order[np.argsort(name[order], kind="stable")]
    name, owner, looks = name[order], owner[order], looks[order]
    first = np.diff(name, prepend=name[:1] - 1) != 0
    rank = np.unique(end_s, return_inverse=True)
    latest = np.maximum.accumulate(np.cumsum(first) * (len(end_s) + 1) + rank[1][owner]) % (len(end_s) + 1)
    again = np.flatnonzero(looks & ~first)
    begin, end = rank[0][latest[again - 1]], admitted_s[owner[again]]
    kept = begin < end
    return begin[kept], end[kept], int(looks.sum()), len(again)


def _events(begin: Floats, end: Floats) -> NDArray[np.int32]:
    """Begins and ends in the order of time, as `kernel.belady.most_kept` reads them; ends before begins."""
    order = np.argsort(end, kind="stable")
    number = np.arange(1, len(order) + 1, dtype=np.int32)
    times = np.concatenate([end[order], begin[order]])
    return np.concatenate([-number, number])[np.argsort(times, kind="stable")]


def _most_kept(event: NDArray[np.int32], count: int, room: int) -> int:
    return int(kernel.most_kept(event, room, np.empty(count + 1, np.int32), np.zeros(count + 1, np.int8)))
