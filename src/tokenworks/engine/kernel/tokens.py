# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Progress of sequences: the token clock of a rank, blocks, the calendar of completions, the growth of blocks."""

from __future__ import annotations

import math

import numpy as np

from tokenworks.engine.kernel.base import inline
from tokenworks.engine.kernel.cache import release_cached, store
from tokenworks.engine.state import BUCKETS


@inline
def computed(s, r, q):
    """Tokens of `q` in the KV cache; of a decoding sequence they follow from the token clock."""
    me = s.request[q]
    if me.decoding:
        return me.input + me.output - 1 - (me.target - s.rank[r].clock)
    return np.int64(me.computed)


@inline
def blocks_for(pool, tokens):
    """Blocks for `tokens` and the draft tokens of a step."""
    return (tokens + pool.draft + pool.block_tokens - 1) // pool.block_tokens


@inline
def release(s, r, q, blocks, now):
    """Free all blocks of `q`."""
    me = s.request[q]
    if s.pool[s.rank[r].pool].prefix:
        tokens = min(computed(s, r, q), me.input + me.output - 1)
        store(s, r, q, tokens, now)
        release_cached(s, r, q, blocks, tokens)
    else:
        s.rank[r].free += blocks
    me.blocks = 0


@inline
def clock_at(pool, ticks):
    """Tokens that a sequence gains in the first `ticks` decode steps of the rank."""
    return np.int64(math.floor(ticks * pool.gain))


@inline
def decode(s, r, q):
    """Let `q` decode from the next step on."""
    me, rank = s.request[q], s.rank[r]
    pool = s.pool[rank.pool]
    me.target = rank.clock + me.output - me.generated
    me.decoding = 1
    s.growth[rank.growth + (rank.clock - me.computed - pool.draft) % pool.block_tokens] += 1
    rank.context += me.computed + 1
    rank.decodes += 1
    rank.targets += me.target
    rank.longest = max(rank.longest, me.target)
    rank.grouped[me.group] += 1
    rank.next_target = min(rank.next_target, me.target) if rank.decodes > 1 else me.target
    bucket = rank.calendar + 2 * (me.target & (BUCKETS - 1))
    last = s.calendar[bucket + 1]
    me.cprev, me.cnext = last, -1
    if last >= 0:
        s.request[last].cnext = q
    else:
        s.calendar[bucket] = q
    s.calendar[bucket + 1] = q


@inline
def last_decode(s, r):
    """Time of the last token of the decoding sequences that are not fresh [s]."""
    return s.rank[r].last_s


@inline
def stop_decoding(s, r, q):
    """Let `q` stop decoding: it leaves the calendar, and its tokens so far are noted."""
    me, rank = s.request[q], s.rank[r]
    pool = s.pool[rank.pool]
    me.computed = computed(s, r, q)
    me.generated = me.output - (me.target - rank.clock)
    me.decoding = 0
    s.growth[rank.growth + (rank.clock - me.computed - pool.draft) % pool.block_tokens] -= 1
    rank.context -= me.computed + 1
    rank.decodes -= 1
    rank.targets -= me.target
    rank.grouped[me.group] -= 1
    bucket = rank.calendar + 2 * (me.target & (BUCKETS - 1))
    if me.cprev >= 0:
        s.request[me.cprev].cnext = me.cnext
    else:
        s.calendar[bucket] = me.cnext
    if me.cnext >= 0:
        s.request[me.cnext].cprev = me.cprev
    else:
        s.calendar[bucket + 1] = me.cprev
    s.instance[rank.instance].anchored = 0
    if me.fresh:
        me.fresh = 0
        rank.fresh -= 1
    else:
        me.end_s = last_decode(s, r)


@inline
def growth_between(s, r, low, high):
    """New blocks of all decoding sequences while the token clock runs from `low` to `high`."""
    rank = s.rank[r]
    size = s.pool[rank.pool].block_tokens
    whole = (high - low) // size
    total = whole * rank.decodes
    at = (low + whole * size) % size
    for _ in range(low + whole * size, high):
        total += s.growth[rank.growth + at]
        at = at + 1 if at + 1 < size else 0
    return total
