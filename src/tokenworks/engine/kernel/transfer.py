# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""KV transfers from prefill to decode."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import CANCELLED, inline, jit
from tokenworks.engine.kernel.cache import release_cached
from tokenworks.engine.kernel.leave import end
from tokenworks.engine.kernel.steps import interrupt
from tokenworks.engine.kernel.tokens import blocks_for, release


@jit
def let_go(s, q, now):
    """Free the KV of `q` at its prefill rank."""
    me = s.request[q]
    r = me.route
    rank = s.rank[r]
    blocks = blocks_for(s.pool[rank.pool], np.int64(me.input))
    if s.pool[rank.pool].prefix:
        release_cached(s, r, q, blocks, np.int64(me.input))
    else:
        rank.free += blocks
    me.remote = 0
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
        done = book(s, (source.link, instance.link), world.latency_s + me.input * world.token_s, now)
        at = world.loads
        world.loads += 1
        while at > 0:
            up = (at - 1) >> 1
            if s.load_s[up] < done or (s.load_s[up] == done and s.request[s.load[up]].number < me.number):
                break
            s.load_s[at], s.load[at] = s.load_s[up], s.load[up]
            at = up
        s.load_s[at], s.load[at] = done, q
        q = me.cnext
    instance.load = instance.load_last = -1


@jit
def pop_load(s):
    """Remove the transfer that ends first from the heap."""
    world = s.world[0]
    world.loads -= 1
    count = world.loads
    time, q, at = s.load_s[count], s.load[count], 0
    while 2 * at + 1 < count:
        down = 2 * at + 1
        if down + 1 < count:
            a, b = s.load_s[down], s.load_s[down + 1]
            if b < a or (b == a and s.request[s.load[down + 1]].number < s.request[s.load[down]].number):
                down += 1
        if time < s.load_s[down] or (time == s.load_s[down] and s.request[q].number < s.request[s.load[down]].number):
            break
        s.load_s[at], s.load[at] = s.load_s[down], s.load[down]
        at = down
    s.load_s[at], s.load[at] = time, q


@jit
def loaded(s, q, now):
    """The KV transfer of `q` has ended: the prefill rank frees the KV, and `q` decodes from the next step on."""
    me = s.request[q]
    r = me.at
    rank = s.rank[r]
    let_go(s, q, now)
    rank.loading -= 1
    me.computed, me.generated = me.input, 1
    if me.cancelled:
        rank.cancels -= 1
        rank.load -= 1
        release(s, r, q, np.int64(me.blocks), now)
        end(s, q, CANCELLED, now)
    else:
        me.next = -1
        if rank.ready >= 0:
            s.request[rank.ready_last].next = q
        else:
            rank.ready = q
        rank.ready_last = q
        rank.readied += 1
    interrupt(s, rank.instance, now)
