# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The order of waiting requests: by arrival, or by uncached tokens with an age (`types.Limits.ageing_s`)."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import NEVER, QUEUED, apart, inline
from tokenworks.engine.kernel.lists import wait
from tokenworks.engine.kernel.loads import look
from tokenworks.engine.kernel.names import place_of
from tokenworks.engine.kernel.tiers import after_hbm


@inline
def uncached(s, r, q):
    """Tokens of `q` to prefill that neither the cache of the rank nor a KV tier has now. The lookup changes nothing."""
    me, world = s.request[q], s.world[0]
    pool = s.pool[s.rank[r].pool]
    if me.remote:
        return np.int64(0)
    blocks = np.int64(0)
    if pool.prefix:
        first = s.offsets[q]
        most = min(np.int64(me.goal - 1) // pool.block_tokens, s.named[q])
        while blocks < most and s.table[place_of(s, r, s.ids[first + blocks])] >= 0:
            blocks += 1
        if world.tiers and blocks < most:
            run, i = after_hbm(s, r, q, blocks)
            blocks += look(s, r, q, blocks, most, (1 << world.tiers) - 1, run, i, False)
    return me.goal - blocks * pool.block_tokens


@inline
def take_place(s, r, q, now):
    """Note the place of `q` in the queue of its class, by what is cached now (`types.Limits.ageing_s`)."""
    pool = s.pool[s.rank[r].pool]
    if pool.ageing > 0.0:
        s.request[q].place_s = now + pool.ageing * uncached(s, r, q)


@inline
def comes_after(one, me, by_place):
    """Whether a waiting request stands behind `me`: by its place in the queue, or by its number."""
    return one.place_s > me.place_s if by_place else one.number > me.number


@apart
def insert(s, r, q, by_place):
    """Queue `q` in its class behind all requests that do not come after it."""
    rank, me = s.rank[r], s.request[q]
    c = me.priority
    before = rank.tail[c]
    while before >= 0 and comes_after(s.request[before], me, by_place):
        before = s.request[before].prev
    after = rank.head[c] if before < 0 else s.request[before].next
    me.prev, me.next = before, after
    if before >= 0:
        s.request[before].next = q
    else:
        rank.head[c] = q
    if after >= 0:
        s.request[after].prev = q
    else:
        rank.tail[c] = q
    rank.waiting += 1
    me.status = QUEUED


@inline
def join_after_prefetch(s, r, q):
    """Queue `q`, whose prefetch is over: by its place if requests age, else by its number."""
    insert(s, r, q, s.pool[s.rank[r].pool].ageing > 0.0)


@inline
def join_queue(s, r, q, now):
    """Add `q` to the waiting requests of its class."""
    if s.pool[s.rank[r].pool].ageing > 0.0:
        take_place(s, r, q, now)
        insert(s, r, q, True)
    else:
        wait(s, r, q, False)


@inline
def requeue(s, r, q, now):
    """Queue a preempted request again: before all others of its class, or as a new one, by the policy."""
    if s.pool[s.rank[r].pool].requeues_first:
        s.request[q].place_s = -NEVER
        wait(s, r, q, True)
    else:
        join_queue(s, r, q, now)
