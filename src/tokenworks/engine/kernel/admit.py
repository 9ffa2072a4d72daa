# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Admission of waiting requests, lookups in the prefix cache, and the choice of a sequence to preempt."""

from __future__ import annotations

import math

import numpy as np

from tokenworks.engine.kernel.base import RUNNING, apart, inline, jit
from tokenworks.engine.kernel.cache import end_node, pull_free, store, take
from tokenworks.engine.kernel.lists import push_load, run_before, unwait
from tokenworks.engine.kernel.loads import hit_prefix, load, look
from tokenworks.engine.kernel.names import place_of
from tokenworks.engine.kernel.prefetch import cut
from tokenworks.engine.kernel.tiers import before
from tokenworks.engine.kernel.tokens import blocks_for
from tokenworks.engine.types import PRIORITIES


@jit
def find_prefix(s, r, q, tokens):
    """Look up the longest cached prefix of the first `tokens` of `q`, and set `held`.

    Returns the number of its blocks, and how many of them are in use.
    """
    rank = s.rank[r]
    first = s.offsets[q]
    most = min(tokens // s.pool[rank.pool].block_tokens, s.named[q])
    blocks = shared = 0
    while blocks < most:
        node = s.table[place_of(s, r, s.ids[first + blocks])]
        if node < 0:
            break
        s.held[first + blocks] = node
        shared += s.node[node].users > 0
        blocks += 1
    if blocks and not s.pool[rank.pool].mixes:
        end_node(s, r, s.held[first + blocks - 1])
    return blocks, shared


@jit
def hold_prefix(s, r, q, blocks):
    """Use the first `blocks` blocks that a lookup of `q` found."""
    me, rank = s.request[q], s.rank[r]
    first = s.offsets[q]
    for i in range(first, first + blocks):
        node = s.held[i]
        if s.node[node].users == 0:
            pull_free(s, r, node)
            rank.free -= 1
        s.node[node].users += 1
    me.chained = me.owned = blocks


@inline
def count_hits(s, r, q, now):
    """Count the hits of the first admission of `q`, and note its time."""
    me, rank = s.request[q], s.rank[r]
    if math.isnan(me.scheduled_s):
        rank.queries += me.goal
        rank.hits += me.computed
        me.hit = me.computed
        me.scheduled_s = now
    me.status = RUNNING


@apart
def take_loads(s, r, q, cached, now):
    """Take the blocks of `q` after the first `cached` ones from KV tiers, and note the failure of a load.

    Returns the number of these blocks, and the end of the load, -1 = there is none [s].
    """
    me, rank, world = s.request[q], s.rank[r], s.world[0]
    most = min((me.goal - 1) // s.pool[rank.pool].block_tokens, s.named[q])
    found = np.int64(0)
    if cached < most:
        run, i = before(s, q, cached)
        found = look(s, r, q, cached, most, ~world.prefetched, run, i, True)
    blocks, end = np.int64(0), -1.0
    if found:
        blocks, end, failed = load(s, r, q, cached, found, now)
        if failed and world.fails:
            me.failed = 1
            rank.cancels += world.layerwise
        instance = s.instance[rank.instance]
        if world.layerwise:
            instance.loaded_s = max(instance.loaded_s, end)
    if found or world.through:
        hit_prefix(s, r, q, cached, found, now)
    return blocks, end


@inline
def wait_for_load(s, r, q, end):
    """`q` waits for its load beside the queue."""
    s.rank[r].loading += 1
    push_load(s, q, end)


@inline
def part_of_prompt(pool, me, budget):
    """Tokens of an unfinished prompt that the step computes, if `budget` tokens of the step are left."""
    return min(np.int64(me.goal - me.computed), pool.most_of_prompt, budget)


@inline
def admit(s, r, q, budget, now):
    """Admit the waiting `q` if its whole prompt fits now.

    Returns its tokens in this step, 0 if it is not admitted, -1 if it waits for blocks from KV tiers first.
    """
    me, rank = s.request[q], s.rank[r]
    pool = s.pool[rank.pool]
    cached = shared = np.int64(0)
    if me.flows:
        cut(s, r, q, now)
    if pool.prefix:
        cached, shared = find_prefix(s, r, q, np.int64(me.goal - 1))
    margin = np.int64(pool.watermark) if rank.running + rank.loading + rank.readied else np.int64(0)
    if blocks_for(pool, np.int64(me.goal)) - shared + margin > rank.free:
        return 0
    if pool.prefix:
        hold_prefix(s, r, q, cached)
    loaded, end = np.int64(0), -1.0
    if s.world[0].tiers and pool.prefix:
        loaded, end = take_loads(s, r, q, cached, now)
    waits = end >= 0.0 and not s.world[0].layerwise
    me.computed = (cached + loaded) * pool.block_tokens
    tokens = part_of_prompt(pool, me, budget)
    me.blocks = blocks_for(pool, np.int64(me.goal if me.remote or waits else me.computed + tokens))
    take(s, r, me.blocks - cached, now)
    unwait(s, r, q)
    count_hits(s, r, q, now)
    if waits:
        wait_for_load(s, r, q, end)
        return np.int64(-1)
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
    if pool.prefix and pool.mixes:
        store(s, r, q, me.computed + tokens, now)


@inline
def pop_ready(s, r):
    """Take the first request whose KV transfer or load has ended out of its list."""
    rank = s.rank[r]
    q = rank.ready
    rank.ready = s.request[q].next
    rank.readied -= 1
    return q


@inline
def start_prefill(s, r, q):
    """Append `q` to the running list."""
    run_before(s, r, q, -1)
    if s.rank[r].prefill < 0:
        s.rank[r].prefill = q


@inline
def admit_waiting(s, r, budget, now):
    """Admit requests: those whose load has ended, then waiting ones by class and arrival, until one does not fit."""
    rank = s.rank[r]
    most = s.pool[rank.pool].max_sequences
    while rank.ready >= 0 and budget:
        q = pop_ready(s, r)
        tokens = part_of_prompt(s.pool[rank.pool], s.request[q], budget)
        start_prefill(s, r, q)
        chunk(s, r, q, tokens, now)
        budget -= tokens
    while rank.waiting and budget and rank.running + rank.loading < most:
        q = next_waiting(s, r)
        tokens = admit(s, r, q, budget, now)
        if tokens == 0:
            return
        if tokens < 0:
            continue
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
        start_prefill(s, r, q)
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
