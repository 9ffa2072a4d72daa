# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The scheduler that prefills first and keeps room for output (SGLang: schedule_policy.py, `PrefillAdder`)."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.admit import (
    admit_waiting,
    chunk,
    count_hits,
    find_prefix,
    generated,
    hold_prefix,
    next_waiting,
    pop_ready,
    start_prefill,
    take_loads,
    victim_of,
    wait_for_load,
)
from tokenworks.engine.kernel.base import DECODE, PREFILL, inline, jit
from tokenworks.engine.kernel.cache import evict_nodes, take, touch
from tokenworks.engine.kernel.leave import preempt
from tokenworks.engine.kernel.lists import unwait
from tokenworks.engine.kernel.prefetch import cut
from tokenworks.engine.kernel.tokens import blocks_for, computed, growth_between
from tokenworks.engine.policies import MOST_RESERVED, MOST_TOUCHED, RETRACT_TOKENS, TOUCH_PASSES
from tokenworks.engine.types import PRIORITIES


@jit
def output_to_come(s, r):
    """Output tokens that the decoding sequences will still generate, at most `MOST_RESERVED` of each sequence."""
    rank = s.rank[r]
    if rank.longest - rank.clock <= MOST_RESERVED:
        return rank.targets - rank.decodes * rank.clock
    total = np.int64(0)
    q = rank.first
    while q >= 0:
        me = s.request[q]
        if me.decoding:
            total += min(me.target - rank.clock, MOST_RESERVED)
        q = me.next
    return total


@inline
def share_of_output(s, r):
    """Share of the output to come that admission keeps free, see `policies.Reserve`."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    steps = rank.ticks - rank.ratio_ticks
    return rank.ratio if steps <= 0 else max(rank.ratio - steps * pool.decay, pool.least_ratio)


@inline
def own_output(pool, me, done):
    """Output tokens that admission expects of a sequence that has generated `done` tokens."""
    return np.int64(1) if pool.role == PREFILL else min(np.int64(me.output) - done, MOST_RESERVED)


@inline
def charge(pool, tokens):
    """Room that admission keeps for the prefill of `tokens`: whole blocks and one more block [token]."""
    return blocks_for(pool, tokens) * pool.block_tokens + pool.block_tokens


@jit
def touch_waiting(s, r):
    """Let the cached prefixes of the first waiting requests count as used, the first request last."""
    rank = s.rank[r]
    count, c, q = 0, 0, np.int64(-1)
    for priority in range(PRIORITIES):
        other = rank.head[priority]
        while other >= 0 and count < MOST_TOUCHED:
            q, c = other, priority
            count += 1
            other = s.request[other].next
    while count:
        touch(s, r, q, find_prefix(s, r, q, np.int64(s.request[q].goal))[0])
        count -= 1
        q = s.request[q].prev
        while q < 0 and c > 0:
            c -= 1
            q = rank.tail[c]


@inline
def whole(pool, tokens):
    """`tokens`, rounded up to whole blocks [token]."""
    return (tokens + pool.block_tokens - 1) // pool.block_tokens * pool.block_tokens


@jit
def add(s, r, q, tokens, now):
    """Add `tokens` of the prompt of `q` to the step, and count what they need."""
    me, rank = s.request[q], s.rank[r]
    pool = s.pool[rank.pool]
    blocks = max(blocks_for(pool, me.computed + tokens), np.int64(me.blocks))
    rank.due += blocks - me.blocks
    me.blocks = blocks
    last = me.computed + tokens == me.goal
    chunk(s, r, q, tokens, now)
    rank.admitted += 1
    rank.soon += charge(pool, tokens)
    rank.kept += charge(pool, tokens) + (own_output(pool, me, 0) if last else 0)
    rank.budget -= whole(pool, tokens)


@inline
def go_on(s, r, now):
    """Continue the unfinished prefill of a rank, if there is one."""
    rank = s.rank[r]
    q = rank.prefill
    if q >= 0:
        me = s.request[q]
        tokens = min(np.int64(me.goal - me.computed), rank.budget)
        room = np.int64(rank.free * s.pool[rank.pool].block_tokens - rank.kept)
        add(s, r, q, min(tokens, room) if room > 0 else tokens, now)


@inline
def admit_ready(s, r, now):
    """Start the prefill of requests whose load from KV tiers has ended, unless another prefill is unfinished."""
    rank = s.rank[r]
    if (
        rank.prefill >= 0
        and s.request[rank.prefill].computed + s.request[rank.prefill].chunk < s.request[rank.prefill].goal
    ):
        return
    while rank.ready >= 0 and rank.budget > 0:
        q = rank.ready
        tokens = part(s, r, np.int64(s.request[q].goal - s.request[q].computed))
        if tokens == 0:
            return
        pop_ready(s, r)
        start_prefill(s, r, q)
        add(s, r, q, tokens, now)


@inline
def has_slot(s, r):
    """Whether one more sequence may run."""
    rank = s.rank[r]
    return rank.running + rank.loading < s.pool[rank.pool].max_sequences


@inline
def part(s, r, want):
    """Tokens of a prompt of `want` tokens that this step computes: all of them, or whole blocks within the budget."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    if whole(pool, want) <= rank.budget:
        return want
    tokens = min(want, rank.budget // pool.block_tokens * pool.block_tokens)
    return tokens if tokens or rank.admitted else min(want, rank.budget)


@jit
def admit_next(s, r, now):
    """Admit the next waiting request. Returns whether the admission may go on."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    size = pool.block_tokens
    if not has_slot(s, r):
        rank.full = rank.decodes > 0
        return False
    q = next_waiting(s, r)
    me = s.request[q]
    cached = shared = np.int64(0)
    if me.flows:
        cut(s, r, q, now)
    if pool.prefix:
        cached, shared = find_prefix(s, r, q, np.int64(me.goal - 1))
    free = rank.free - (cached - shared)
    want = np.int64(me.goal - cached * size)
    need = want + own_output(pool, me, me.generated) + size + pool.draft
    fits = need < free * size - rank.kept
    if not fits and rank.running + rank.loading + rank.readied == 0:
        fits = blocks_for(pool, np.int64(me.goal)) - cached <= free
    if not fits or part(s, r, want) == 0:
        touch(s, r, q, cached)
        if not fits:
            rank.full = rank.decodes > 0
        return False
    hold_prefix(s, r, q, cached)
    loaded, end = np.int64(0), -1.0
    if s.world[0].tiers and pool.prefix:
        loaded, end = take_loads(s, r, q, cached, now)
    waits = end >= 0.0 and not s.world[0].layerwise
    me.computed, me.blocks = (cached + loaded) * size, cached + loaded
    if waits:
        me.blocks = blocks_for(pool, np.int64(me.goal))
    if end >= 0.0:
        take(s, r, me.blocks - cached, now)
    unwait(s, r, q)
    count_hits(s, r, q, now)
    if waits:
        wait_for_load(s, r, q, end)
    else:
        start_prefill(s, r, q)
        add(s, r, q, part(s, r, np.int64(me.goal - me.computed)), now)
    if rank.free * size <= max(np.float64(rank.soon), rank.kept):
        rank.full = rank.decodes > 0
        return False
    return True


@jit
def admit_reserving(s, r, now):
    """Continue an unfinished prefill and admit waiting requests, in the order of class and arrival, while they fit.

    A request fits if the free blocks hold its prompt and its own output beside the output that the decoding sequences
    are expected to generate. Blocks are taken for all admitted requests together, at the end.
    """
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    size = pool.block_tokens
    rank.budget, rank.due, rank.soon, rank.admitted = pool.token_budget, 0, 0, 0
    rank.kept = share_of_output(s, r) * output_to_come(s, r)
    if rank.running + rank.loading:
        rank.kept += pool.watermark * size
    go_on(s, r, now)
    if rank.ready >= 0:
        admit_ready(s, r, now)
    if rank.decodes == 0:
        rank.full = 0
    if rank.waiting and (rank.admitted or not rank.full):
        if not rank.admitted and not has_slot(s, r):
            rank.full = rank.decodes > 0
        elif pool.prefix:
            if rank.passes % TOUCH_PASSES == 0:
                touch_waiting(s, r)
            rank.passes += 1
    while rank.waiting and not rank.full and rank.budget > 0:
        if not admit_next(s, r, now):
            break
    if rank.admitted:
        if pool.prefix:
            more = 0 if size == 1 else rank.admitted * size
            evict_nodes(s, r, (rank.tokens + more + size - 1) // size, now)
        take(s, r, rank.due, now)


@inline
def admit_prompts(s, r, now):
    """Continue an unfinished prefill and admit requests whose prompt fits, on a decode rank: it keeps no room."""
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


@jit
def retract(s, r, now):
    """Preempt running sequences until the free blocks suffice for all others to decode."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    cached = pool.prefix
    if cached:
        evict_nodes(s, r, np.int64(rank.free), now)
    while rank.running and growth_between(s, r, rank.clock, rank.clock + rank.gain) > rank.free:
        victim = victim_of(s, r)
        preempt(s, r, victim, blocks_for(pool, computed(s, r, victim)), now)
        if cached:
            room = rank.decodes * RETRACT_TOKENS
            evict_nodes(s, r, (room + pool.block_tokens - 1) // pool.block_tokens, now)
    output = done = np.int64(0)
    q = rank.first
    while q >= 0:
        output += s.request[q].output
        done += generated(s, r, q)
        q = s.request[q].next
    rank.ratio = min(1.0, (done + RETRACT_TOKENS * rank.decodes) / (output + 1))
    rank.ratio_ticks = rank.ticks + 1


@inline
def schedule_prefill_first(s, r, now):
    """Plan a step of prefill only, if any request can be prefilled; else all running sequences decode."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    if pool.role != DECODE:
        admit_reserving(s, r, now)
    else:
        admit_prompts(s, r, now)
    rank.batch = 0
    if rank.tokens == 0 and rank.decodes:
        if growth_between(s, r, rank.clock, rank.clock + rank.gain) > rank.free:
            retract(s, r, now)
        if pool.prefix:
            evict_nodes(s, r, np.int64(rank.decodes), now)
        take(s, r, growth_between(s, r, rank.clock, rank.clock + rank.gain), now)
        rank.batch = rank.decodes
