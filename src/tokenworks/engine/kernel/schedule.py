# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The scheduler of a rank: which sequences run in a step, are admitted, and are preempted."""

from __future__ import annotations

import math

import numpy as np

from tokenworks.engine.kernel.base import RUNNING, inline, jit
from tokenworks.engine.kernel.cache import place_of, pull_free, store, take
from tokenworks.engine.kernel.leave import preempt
from tokenworks.engine.kernel.lists import run_before, unwait
from tokenworks.engine.kernel.tokens import blocks_for, clock_at, computed, decode, growth_between
from tokenworks.engine.types import PRIORITIES


@jit
def find_prefix(s, r, q):
    """Look up the longest cached prefix of `q`. Returns its blocks, and the number of them in use; sets `held`."""
    me, rank = s.request[q], s.rank[r]
    first = s.offsets[q]
    most = min((me.goal - 1) // s.pool[rank.pool].block_tokens, s.named[q])
    blocks = shared = 0
    while blocks < most:
        node = s.table[place_of(s, r, s.ids[first + blocks])]
        if node < 0:
            break
        s.held[first + blocks] = node
        shared += s.node[node].users > 0
        blocks += 1
    return blocks, shared


@inline
def admit(s, r, q, budget, now):
    """Admit the waiting `q` if its whole prompt fits now. Returns its tokens in this step, 0 if it is not admitted."""
    me, rank = s.request[q], s.rank[r]
    pool = s.pool[rank.pool]
    cached = shared = np.int64(0)
    if pool.prefix:
        cached, shared = find_prefix(s, r, q)
    margin = np.int64(pool.watermark) if rank.running + rank.loading + rank.readied else np.int64(0)
    margin += (pool.reserve * rank.running + pool.block_tokens - 1) // pool.block_tokens
    if blocks_for(pool, np.int64(me.goal)) - shared + margin > rank.free:
        return 0
    if pool.prefix:
        first = s.offsets[q]
        for i in range(first, first + cached):
            node = s.held[i]
            if s.node[node].users == 0:
                pull_free(s, r, node)
                rank.free -= 1
            s.node[node].users += 1
        me.chained = me.owned = cached
    me.computed = cached * pool.block_tokens
    tokens = min(me.goal - me.computed, budget)
    me.blocks = blocks_for(pool, np.int64(me.goal if me.remote else me.computed + tokens))
    take(s, r, me.blocks - cached, now)
    if me.preemptions == 0 and not me.remote:
        rank.queries += me.goal
        rank.hits += me.computed
        me.hit = me.computed
    unwait(s, r, q)
    me.status = RUNNING
    if math.isnan(me.scheduled_s):
        me.scheduled_s = now
    return tokens


@inline
def next_waiting(s, r):
    """First waiting request of the first class that has any, or -1."""
    for c in range(PRIORITIES):
        q = s.rank[r].head[c]
        if q >= 0:
            return q
    return -1


@inline
def chunk(s, r, q, tokens, now):
    """Add `tokens` of the prompt of `q` to the step."""
    me, rank = s.request[q], s.rank[r]
    pool = s.pool[rank.pool]
    me.chunk = tokens
    rank.tokens += tokens
    rank.square += np.int64(tokens) * me.computed + np.int64(tokens) * (tokens + 1) // 2
    if pool.prefix and pool.finds_scheduled:
        store(s, r, q, me.computed + tokens, now)


@inline
def admit_waiting(s, r, budget, now):
    """Admit waiting requests in the order of class and arrival, until one does not fit."""
    rank = s.rank[r]
    most = s.pool[rank.pool].max_sequences
    while rank.waiting and budget and rank.running + rank.loading < most:
        q = next_waiting(s, r)
        tokens = admit(s, r, q, budget, now)
        if tokens == 0:
            return
        if s.request[q].remote:
            rank.loading += 1
            instance = s.instance[rank.instance]
            s.request[q].cnext = -1
            if instance.load >= 0:
                s.request[instance.load_last].cnext = q
            else:
                instance.load = q
            instance.load_last = q
            continue
        run_before(s, r, q, -1)
        if rank.prefill < 0:
            rank.prefill = q
        chunk(s, r, q, tokens, now)
        budget -= tokens


@inline
def generated(s, r, q):
    """Output tokens of the running `q` so far."""
    me = s.request[q]
    return me.output - (me.target - s.rank[r].clock) if me.decoding else np.int64(me.generated)


@jit
def victim_of(s, r):
    """The running sequence to preempt next, by the traits of the policy (`policies.Policy`)."""
    rank = s.rank[r]
    fewest = s.pool[rank.pool].preempts_fewest
    q = victim = rank.last
    while q >= 0:
        a, b = s.request[q], s.request[victim]
        if fewest:
            less = generated(s, r, victim) - generated(s, r, q)
            worse = less > 0 or (less == 0 and a.input > b.input)
        else:
            worse = a.priority > b.priority
        if worse:
            victim = q
        q = a.prev
    return victim


@jit
def squeeze(s, r, budget, now):
    """Plan the running sequences one by one, with preemptions, when blocks are short. Returns the remaining budget."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    q = rank.first
    while q >= 0:
        me = s.request[q]
        if me.decoding:
            me.blocks, me.chunk = blocks_for(pool, computed(s, r, q)), 0
        q = me.next
    q = rank.first
    while q >= 0:
        me = s.request[q]
        tokens = np.int64(1 + pool.draft) if me.decoding else min(np.int64(me.goal - me.computed), budget)
        need = blocks_for(pool, computed(s, r, q) + (rank.gain if me.decoding else tokens)) - me.blocks
        follower = me.next
        while need > rank.free and me.status == RUNNING:
            victim = victim_of(s, r)
            if victim == follower:
                follower = s.request[victim].next
            if victim != q and s.request[victim].decoding and s.request[victim].chunk:
                budget += 1 + pool.draft
            preempt(s, r, victim, np.int64(s.request[victim].blocks), now)
        if me.status == RUNNING:
            take(s, r, need, now)
            me.blocks += need
            budget -= tokens
            if me.decoding:
                me.chunk = 1
            else:
                chunk(s, r, q, tokens, now)
        q = follower
    return budget


@inline
def schedule_mixed(s, r, now):
    """Plan a step in which decodes and prefill share the budget: running sequences first, then waiting requests."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    budget = np.int64(pool.token_budget)
    grown = growth_between(s, r, rank.clock, rank.clock + rank.gain) if rank.decodes else 0
    q, need, tokens = rank.prefill, np.int64(0), np.int64(0)
    if q >= 0:
        me = s.request[q]
        tokens = min(np.int64(me.goal - me.computed), budget - rank.decodes * (1 + pool.draft))
        need = blocks_for(pool, me.computed + tokens) - me.blocks
    if grown + need > rank.free:
        budget = squeeze(s, r, budget, now)
    else:
        take(s, r, grown, now)
        budget -= rank.decodes * (1 + pool.draft)
        if q >= 0:
            take(s, r, need, now)
            s.request[q].blocks += need
            chunk(s, r, q, tokens, now)
            budget -= tokens
    if not rank.preempted:
        admit_waiting(s, r, budget, now)
    rank.batch = rank.decodes


@jit
def retract(s, r, now):
    """Preempt running sequences until the free blocks suffice for all others to decode."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    while rank.running and growth_between(s, r, rank.clock, rank.clock + rank.gain) > rank.free:
        victim = victim_of(s, r)
        preempt(s, r, victim, blocks_for(pool, computed(s, r, victim)), now)


@inline
def schedule_prefill_first(s, r, now):
    """Plan a step of prefill only, if any request can be prefilled; else all running sequences decode."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    budget = np.int64(pool.token_budget)
    q = rank.prefill
    if q >= 0:
        me = s.request[q]
        tokens = min(np.int64(me.goal - me.computed), budget)
        need = blocks_for(pool, me.computed + tokens) - me.blocks
        take(s, r, need, now)
        me.blocks += need
        chunk(s, r, q, tokens, now)
        budget -= tokens
    admit_waiting(s, r, budget, now)
    rank.batch = 0
    if rank.tokens == 0 and rank.decodes:
        retract(s, r, now)
        take(s, r, growth_between(s, r, rank.clock, rank.clock + rank.gain), now)
        rank.batch = rank.decodes


@inline
def join(s, r):
    """Add sequences whose KV transfer has ended to the running ones, before an unfinished prefill."""
    rank = s.rank[r]
    while rank.ready >= 0:
        q = rank.ready
        rank.ready = s.request[q].next
        rank.readied -= 1
        run_before(s, r, q, rank.prefill)
        decode(s, r, q)
        s.request[q].fresh = 1
        rank.fresh += 1
        s.instance[rank.instance].anchored = 0


@inline
def schedule(s, r, now):
    """Plan the next step of one rank."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    rank.tokens, rank.square, rank.preempted = 0, 0, 0
    rank.gain = clock_at(pool, rank.ticks + 1) - rank.clock
    if pool.mixes:
        schedule_mixed(s, r, now)
    else:
        schedule_prefill_first(s, r, now)
