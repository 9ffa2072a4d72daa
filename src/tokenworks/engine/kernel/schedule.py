# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The scheduler of a rank: which sequences run in a step, are admitted, and are preempted."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.admit import admit_waiting, chunk, part_of_prompt, pop_ready, victim_of
from tokenworks.engine.kernel.base import DECODE, RUNNING, inline, jit
from tokenworks.engine.kernel.cache import take
from tokenworks.engine.kernel.leave import preempt
from tokenworks.engine.kernel.lists import run_before
from tokenworks.engine.kernel.reserve import schedule_prefill_first
from tokenworks.engine.kernel.tokens import blocks_for, clock_at, computed, decode, growth_between


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
        tokens = np.int64(1 + pool.draft) if me.decoding else part_of_prompt(pool, me, budget)
        need = blocks_for(pool, computed(s, r, q) + (rank.gain if me.decoding else tokens)) - me.blocks
        need = max(need, np.int64(0))  # a request that waited for a load has all blocks of its prompt
        follower = me.next
        while need > rank.free and me.status == RUNNING:
            victim = victim_of(s, r)
            if victim == follower:
                follower = s.request[victim].next
            if victim != q and s.request[victim].chunk:
                budget += 1 + pool.draft if s.request[victim].decoding else s.request[victim].chunk
                s.request[victim].chunk = 0
            preempt(s, r, victim, np.int64(s.request[victim].blocks), now)
        if me.status == RUNNING:
            take(s, r, need, now)
            me.blocks += need
            budget -= tokens
            me.chunk = 1 if me.decoding else tokens
        q = follower
    return budget


@inline
def schedule_mixed(s, r, now):
    """Plan a step in which decodes and prefill share the budget: running sequences first, then waiting requests."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    budget = np.int64(pool.token_budget)
    grown = growth_between(s, r, rank.clock, rank.clock + rank.gain) if rank.decodes else 0
    need, left = np.int64(0), budget - rank.decodes * (1 + pool.draft)
    q = rank.prefill
    while q >= 0:
        me = s.request[q]
        tokens = part_of_prompt(pool, me, left)
        need += max(blocks_for(pool, me.computed + tokens) - me.blocks, np.int64(0))
        left -= tokens
        q = me.next
    if grown + need > rank.free:
        budget = squeeze(s, r, budget, now)
    else:
        take(s, r, grown, now)
        budget -= rank.decodes * (1 + pool.draft)
        q = rank.prefill
        while q >= 0 and budget > 0:
            me = s.request[q]
            tokens = part_of_prompt(pool, me, budget)
            more = max(blocks_for(pool, me.computed + tokens) - me.blocks, np.int64(0))
            take(s, r, more, now)
            me.blocks += more
            me.chunk = tokens
            budget -= tokens
            q = me.next
    q = rank.prefill
    while q >= 0:
        if s.request[q].chunk:
            chunk(s, r, q, np.int64(s.request[q].chunk), now)
        q = s.request[q].next
    if not rank.preempted:
        admit_waiting(s, r, budget, now)
    rank.batch = rank.decodes


@inline
def join(s, r):
    """Add sequences whose KV transfer has ended to the running ones, before an unfinished prefill."""
    rank = s.rank[r]
    if s.pool[rank.pool].role != DECODE:
        return
    while rank.ready >= 0:
        q = pop_ready(s, r)
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
