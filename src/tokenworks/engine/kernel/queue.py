# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The order of waiting requests: by arrival, or by uncached tokens with an age (`types.Limits.ageing_s`)."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import NEVER, QUEUED, inline, jit
from tokenworks.engine.kernel.cache import place_of
from tokenworks.engine.kernel.lists import wait


@inline
def uncached(s, r, q):
    """Tokens of `q` to prefill that the rank has not cached now. The lookup changes nothing."""
    me = s.request[q]
    pool = s.pool[s.rank[r].pool]
    if me.remote:
        return np.int64(0)
    blocks = np.int64(0)
    if pool.prefix:
        first = s.offsets[q]
        most = min(np.int64(me.goal - 1) // pool.block_tokens, s.named[q])
        while blocks < most and s.table[place_of(s, r, s.ids[first + blocks])] >= 0:
            blocks += 1
    return me.goal - blocks * pool.block_tokens


@jit
def wait_in_order(s, r, q, now):
    """Queue `q` in its class behind all requests whose place is not after its own."""
    rank, me = s.rank[r], s.request[q]
    c = me.priority
    me.place_s = now + s.pool[rank.pool].ageing * uncached(s, r, q)
    before = rank.tail[c]
    while before >= 0 and s.request[before].place_s > me.place_s:
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
def join_queue(s, r, q, now):
    """Add `q` to the waiting requests of its class."""
    if s.pool[s.rank[r].pool].ageing > 0.0:
        wait_in_order(s, r, q, now)
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
