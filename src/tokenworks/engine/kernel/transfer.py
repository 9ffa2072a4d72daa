# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""KV transfers from prefill to decode."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import CANCELLED, FAILED, inline, jit
from tokenworks.engine.kernel.cache import release_cached
from tokenworks.engine.kernel.leave import end
from tokenworks.engine.kernel.lists import push_load
from tokenworks.engine.kernel.steps import interrupt
from tokenworks.engine.kernel.tiers import flush
from tokenworks.engine.kernel.tokens import blocks_for, release


@jit
def let_go(s, q, now):
    """Free the KV of `q` at its prefill rank."""
    me = s.request[q]
    r = me.route
    rank = s.rank[r]
    blocks = blocks_for(s.pool[rank.pool], np.int64(me.goal))
    if s.pool[rank.pool].prefix:
        release_cached(s, r, q, blocks, np.int64(me.goal))
    else:
        rank.free += blocks
    me.remote = 0
    flush(s, r, now)
    interrupt(s, rank.instance, now)


@inline
def book(s, links, seconds, now):
    """Book a flow that occupies all `links` for `seconds`, as soon as all of them are free. Returns its end [s]."""
    begin = now
    for link in links:
        begin = max(begin, s.link[link].free_s)
    done = begin + seconds
    for link in links:
        s.link[link].free_s = done
        s.link[link].busy_s += seconds
        s.link[link].flows += 1
    return done


@jit
def fetch(s, i, now):
    """Start the KV transfers of requests that instance i admitted, in the order of admission."""
    instance, world = s.instance[i], s.world[0]
    q = instance.load
    while q >= 0:
        me = s.request[q]
        source = s.instance[s.rank[me.route].instance]
        done = book(s, (source.link, instance.link), world.latency_s + me.goal * world.token_s, now)
        push_load(s, q, done)
        q = me.cnext
    instance.load = instance.load_last = -1


@jit
def loaded(s, q, now):
    """The KV transfer of `q` has ended: the prefill rank frees the KV, and `q` decodes from the next step on.

    Or the load of `q` from KV tiers has ended: its prefill starts in the next step.
    """
    me = s.request[q]
    r = me.at
    rank = s.rank[r]
    if me.remote:
        let_go(s, q, now)
        me.computed = me.goal
    rank.loading -= 1
    if me.cancelled or me.failed:
        rank.cancels -= me.cancelled
        rank.load -= 1
        release(s, r, q, np.int64(me.blocks), now)
        end(s, q, CANCELLED if me.cancelled else FAILED, now)
    else:
        me.next = -1
        if rank.ready >= 0:
            s.request[rank.ready_last].next = q
        else:
            rank.ready = q
        rank.ready_last = q
        rank.readied += 1
    flush(s, r, now)
    interrupt(s, rank.instance, now)
