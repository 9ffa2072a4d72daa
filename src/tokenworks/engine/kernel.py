# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The compiled engine: `reference` without doing its work, by event compression; the only module that knows numba.

Between two events the batch of an instance is fixed, so its steps are one arithmetic series that is planned as a
whole and cut when something arrives. A request is touched when it arrives, is scheduled and leaves: completions wait
in a calendar keyed by the token clock of its rank, and blocks grow by counts of context mod block size. Free blocks
without content are one run in the LRU list. Function by function the rules are those of `reference`, cited there.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numba import njit

from tokenworks.engine.metrics import ITL_BASE, ITL_BINS, ITL_SHIFT
from tokenworks.engine.state import BUCKETS
from tokenworks.engine.types import PRIORITIES, Status

PENDING, QUEUED, RUNNING = int(Status.PENDING), int(Status.QUEUED), int(Status.RUNNING)
COMPLETED, REJECTED, CANCELLED = int(Status.COMPLETED), int(Status.REJECTED), int(Status.CANCELLED)
VLLM, SGLANG = 0, 1
PREFILL, DECODE = 1, 2
ROUND_ROBIN, LEAST_LOADED, POWER_OF_TWO = 0, 1, 2
DONE, SERIES_FULL, EVENTS_FULL = 0, 1, 2
NEVER = math.inf
GOLDEN = np.uint64(0x9E3779B97F4A7C15)

compile = njit(cache=True, error_model="numpy", _nrt=False)  # noqa: A001
inline = njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)


# ---- lists of requests: waiting or running, linked by prev and next


@inline
def unlink(request, q, first, last):
    """(first, last) of the list without `q`."""
    before, after = request[q].prev, request[q].next
    if before >= 0:
        request[before].next = after
    else:
        first = after
    if after >= 0:
        request[after].prev = before
    else:
        last = before
    return first, last


@inline
def wait(s, r, q, front):
    """Put `q` at the front or the end of its class."""
    rank, me = s.rank[r], s.request[q]
    c = me.priority
    if front:
        old = rank.head[c]
        me.prev, me.next = -1, old
        rank.head[c] = q
        if old >= 0:
            s.request[old].prev = q
        else:
            rank.tail[c] = q
    else:
        old = rank.tail[c]
        me.prev, me.next = old, -1
        rank.tail[c] = q
        if old >= 0:
            s.request[old].next = q
        else:
            rank.head[c] = q
    rank.waiting += 1
    me.status = QUEUED


@inline
def unwait(s, r, q):
    """Take `q` out of its class."""
    rank = s.rank[r]
    c = s.request[q].priority
    first, last = unlink(s.request, q, rank.head[c], rank.tail[c])
    rank.head[c], rank.tail[c] = first, last
    rank.waiting -= 1


@inline
def run_before(s, r, q, place):
    """Put `q` into the running list before `place`, or at its end for -1."""
    rank, me = s.rank[r], s.request[q]
    before = rank.last if place < 0 else s.request[place].prev
    me.prev, me.next = before, place
    if before >= 0:
        s.request[before].next = q
    else:
        rank.first = q
    if place >= 0:
        s.request[place].prev = q
    else:
        rank.last = q
    rank.running += 1


# ---- prefix cache: LRU list of free blocks, and a table from name to block


@inline
def slot_of(name, shift, mask):
    """Home of a name in an open-addressing table (Fibonacci hashing, Knuth vol. 3, 6.4)."""
    return np.int64((np.uint64(name) * GOLDEN) >> np.uint64(shift)) & mask


@inline
def find_block(s, r, name):
    """Node of a cached block, or -1."""
    rank = s.rank[r]
    mask = rank.mask
    slot = slot_of(name, rank.shift, mask)
    while True:
        node = s.table[rank.table + slot]
        if node < 0 or s.node[node].name == name:
            return node
        slot = (slot + 1) & mask


@inline
def add_to_table(s, r, node):
    """Make a block findable."""
    rank = s.rank[r]
    slot = slot_of(s.node[node].name, rank.shift, rank.mask)
    while s.table[rank.table + slot] >= 0:
        slot = (slot + 1) & rank.mask
    s.table[rank.table + slot] = node


@compile
def remove_from_table(s, r, node):
    """Forget a block; later entries of its cluster move up, so that no tombstone stays."""
    rank = s.rank[r]
    mask, base = rank.mask, rank.table
    hole = slot_of(s.node[node].name, rank.shift, mask)
    while s.table[base + hole] != node:
        hole = (hole + 1) & mask
    slot = hole
    while True:
        slot = (slot + 1) & mask
        other = s.table[base + slot]
        if other < 0:
            break
        home = slot_of(s.node[other].name, rank.shift, mask)
        if ((slot - home) & mask) >= ((slot - hole) & mask):
            s.table[base + hole] = other
            hole = slot
    s.table[base + hole] = -1


@inline
def push_free(s, r, node):
    """To the tail of the LRU list."""
    rank, me = s.rank[r], s.node[node]
    me.prev, me.next = rank.lru_last, -1
    if rank.lru_last >= 0:
        s.node[rank.lru_last].next = node
    else:
        rank.lru_first = node
    rank.lru_last = node


@inline
def pull_free(s, r, node):
    """Out of the LRU list."""
    rank, me = s.rank[r], s.node[node]
    if me.prev >= 0:
        s.node[me.prev].next = me.next
    else:
        rank.lru_first = me.next
    if me.next >= 0:
        s.node[me.next].prev = me.prev
    else:
        rank.lru_last = me.prev


@inline
def recycle(s, r, node):
    """A node without use."""
    s.node[node].next = s.rank[r].spare
    s.rank[r].spare = node


@inline
def fresh(s, r):
    """A node to use."""
    node = s.rank[r].spare
    s.rank[r].spare = s.node[node].next
    return node


@inline
def emit(s, r, name, stored, now):
    """A cache event on its way to the router."""
    world = s.world[0]
    if world.emit:
        at = (world.events_first + world.events) % len(s.event)
        event = s.event[at]
        event.time, event.name, event.rank, event.stored = now, name, s.rank[r].number, stored
        world.events += 1


@compile
def take_cached(s, r, count, now):
    """Take free blocks from the head of the LRU list; what they held is forgotten."""
    rank = s.rank[r]
    while count > 0:
        head = rank.lru_first
        node = s.node[head]
        if node.users < 0:
            taken = min(count, node.count)
            node.count -= taken
            count -= taken
            if node.count:
                break
        else:
            remove_from_table(s, r, head)
            emit(s, r, node.name, 0, now)
            rank.evictions += 1
            count -= 1
        pull_free(s, r, head)
        recycle(s, r, head)


@inline
def take(s, r, count, now):
    """Take free blocks; the caller has seen that there are enough."""
    rank = s.rank[r]
    rank.free -= count
    if s.pool[rank.pool].prefix and count > 0:
        take_cached(s, r, count, now)


@compile
def store(s, r, q, tokens, now):
    """Make the full blocks of the first `tokens` findable; a block whose name is taken stays as it is."""
    me, rank = s.request[q], s.rank[r]
    first = s.offsets[q]
    full = min(tokens // s.pool[rank.pool].block_tokens, s.offsets[q + 1] - first)
    for i in range(first + me.chained, first + full):
        name = s.ids[i]
        s.held[i] = -1
        if find_block(s, r, name) < 0:
            new = fresh(s, r)
            s.node[new].name, s.node[new].users = name, 1
            add_to_table(s, r, new)
            s.held[i] = new
            me.owned += 1
            emit(s, r, name, 1, now)
    me.chained = max(me.chained, full)


@compile
def release_cached(s, r, q, blocks):
    """Free `blocks` of which the chain's are kept findable: nameless ones first, then the chain from its end."""
    me, rank = s.request[q], s.rank[r]
    nameless = blocks - me.owned
    if nameless > 0:
        last = rank.lru_last
        if last >= 0 and s.node[last].users < 0:
            s.node[last].count += nameless
        else:
            new = fresh(s, r)
            s.node[new].users, s.node[new].count = -1, nameless
            push_free(s, r, new)
        rank.free += nameless
    first = s.offsets[q]
    for i in range(first + me.chained - 1, first - 1, -1):
        node = s.held[i]
        if node >= 0:
            s.node[node].users -= 1
            if s.node[node].users == 0:
                push_free(s, r, node)
                rank.free += 1
    me.chained, me.owned = 0, 0


@inline
def computed(s, r, q):
    """Tokens in the cache: of a decoding sequence what its clock says."""
    me = s.request[q]
    if me.decoding:
        return me.input + me.output - 1 - (me.target - s.rank[r].clock)
    return np.int64(me.computed)


@inline
def blocks_for(pool, tokens):
    """Blocks that hold `tokens` and the slots of the drafts ahead."""
    return (tokens + pool.draft + pool.block_tokens - 1) // pool.block_tokens


@inline
def release(s, r, q, blocks, now):
    """Free all blocks of `q`."""
    me = s.request[q]
    if s.pool[s.rank[r].pool].prefix:
        store(s, r, q, min(computed(s, r, q), me.input + me.output - 1), now)
        release_cached(s, r, q, blocks)
    else:
        s.rank[r].free += blocks
    me.blocks = 0


# ---- decoding: calendar of completions, counts of growth


@inline
def clock_at(pool, ticks):
    """Tokens gained by a sequence that decoded all the first `ticks` decode steps."""
    return np.int64(math.floor(ticks * pool.gain))


@inline
def decode(s, r, q):
    """`q` decodes from the next step on."""
    me, rank = s.request[q], s.rank[r]
    pool = s.pool[rank.pool]
    me.target = rank.clock + me.output - me.generated
    me.decoding = 1
    s.growth[rank.growth + (rank.clock - me.computed - pool.draft) % pool.block_tokens] += 1
    rank.context += me.computed + 1
    rank.decodes += 1
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
    """When the decoding sequences that are not fresh had their last token."""
    rank = s.rank[r]
    return s.instance[rank.instance].start_s if s.pool[rank.pool].policy == VLLM else rank.last_s


@inline
def stop_decoding(s, r, q):
    """`q` leaves the calendar; it keeps its tokens."""
    me, rank = s.request[q], s.rank[r]
    pool = s.pool[rank.pool]
    me.computed = computed(s, r, q)
    me.generated = me.output - (me.target - rank.clock)
    me.decoding = 0
    s.growth[rank.growth + (rank.clock - me.computed - pool.draft) % pool.block_tokens] -= 1
    rank.context -= me.computed + 1
    rank.decodes -= 1
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
    """Blocks that the decoding sequences need while the token clock runs from `low` to `high`."""
    rank = s.rank[r]
    size = s.pool[rank.pool].block_tokens
    whole = (high - low) // size
    total = whole * rank.decodes
    at = (low + whole * size) % size
    for _ in range(low + whole * size, high):
        total += s.growth[rank.growth + at]
        at = at + 1 if at + 1 < size else 0
    return total


# ---- leaving


@inline
def push_heap(s, q):
    """Add to the requests that followed another, by (time, number)."""
    heap, request = s.heap, s.request
    at = s.world[0].heaped
    s.world[0].heaped += 1
    time = request[q].sent_s
    while at > 0:
        up = (at - 1) >> 1
        other = heap[up]
        if request[other].sent_s < time or (request[other].sent_s == time and other < q):
            break
        heap[at] = other
        at = up
    heap[at] = q


@compile
def pop_heap(s):
    """Take the first."""
    heap, request = s.heap, s.request
    s.world[0].heaped -= 1
    count = s.world[0].heaped
    top, q = heap[0], heap[count]
    time, at = request[q].sent_s, 0
    while 2 * at + 1 < count:
        down = 2 * at + 1
        if down + 1 < count:
            a, b = heap[down], heap[down + 1]
            if request[b].sent_s < request[a].sent_s or (request[b].sent_s == request[a].sent_s and b < a):
                down += 1
        other = heap[down]
        if time < request[other].sent_s or (time == request[other].sent_s and q < other):
            break
        heap[at] = other
        at = down
    heap[at] = q
    return top


@compile
def open_gate(s, now):
    """A slot of the client is free: the next request takes it, or nobody."""
    world = s.world[0]
    while world.gate >= 0:
        q = world.gate
        me = s.request[q]
        world.gate = me.next
        if world.gate < 0:
            world.gate_last = -1
        if me.status == PENDING:
            me.gated = 0
            me.sent_s = now
            push_heap(s, q)
            return
    world.flying -= 1


@inline
def end(s, q, status, now):
    """The client hears of the end."""
    me = s.request[q]
    me.status, me.end_s = status, now
    if status == COMPLETED:
        child = me.child
        while child >= 0:
            if s.request[child].status == PENDING:
                s.request[child].sent_s += now
                push_heap(s, child)
            child = s.request[child].sibling
    if s.world[0].concurrency:
        open_gate(s, now)


@inline
def leave_running(s, r, q):
    """Out of the running list."""
    rank = s.rank[r]
    if rank.prefill == q:
        rank.prefill = s.request[q].next
    first, last = unlink(s.request, q, rank.first, rank.last)
    rank.first, rank.last = first, last
    rank.running -= 1


@inline
def drop(s, r, q, status, now):
    """A running `q` leaves its rank for good."""
    me, rank = s.request[q], s.rank[r]
    blocks = np.int64(me.blocks)
    if me.decoding:
        stop_decoding(s, r, q)
        blocks = blocks_for(s.pool[rank.pool], np.int64(me.computed))
    leave_running(s, r, q)
    rank.load -= 1
    release(s, r, q, blocks, now)
    end(s, q, status, now)


@compile
def preempt(s, r, q, blocks, now, front):
    """Drop the KV of `q`; it will be computed again."""
    me, rank = s.request[q], s.rank[r]
    if me.decoding:
        stop_decoding(s, r, q)
    leave_running(s, r, q)
    release(s, r, q, blocks, now)
    me.computed, me.goal = 0, me.input + me.generated
    me.preemptions += 1
    rank.preemptions += 1
    rank.preempted = 1
    wait(s, r, q, front)


# ---- scheduling a step of one rank


@compile
def find_prefix(s, r, q):
    """(blocks found, those of them in use) of the longest cached prefix; they are noted in `held`."""
    me, rank = s.request[q], s.rank[r]
    first = s.offsets[q]
    most = min((me.goal - 1) // s.pool[rank.pool].block_tokens, s.offsets[q + 1] - first)
    found = shared = 0
    while found < most:
        node = find_block(s, r, s.ids[first + found])
        if node < 0:
            break
        s.held[first + found] = node
        shared += s.node[node].users > 0
        found += 1
    return found, shared


@inline
def admit(s, r, q, budget, now):
    """Tokens to compute for a waiting `q` in this step, 0 if its whole sequence does not fit now."""
    me, rank = s.request[q], s.rank[r]
    pool = s.pool[rank.pool]
    found = shared = np.int64(0)
    if pool.prefix:
        found, shared = find_prefix(s, r, q)
    margin = np.int64(pool.watermark) if rank.running + rank.loading + rank.readied else np.int64(0)
    margin += (pool.reserve * rank.running + pool.block_tokens - 1) // pool.block_tokens
    if blocks_for(pool, np.int64(me.goal)) - shared + margin > rank.free:
        return 0
    if pool.prefix:
        first = s.offsets[q]
        for i in range(first, first + found):
            node = s.held[i]
            if s.node[node].users == 0:
                pull_free(s, r, node)
                rank.free -= 1
            s.node[node].users += 1
        me.chained = me.owned = found
    me.computed = found * pool.block_tokens
    tokens = min(me.goal - me.computed, budget)
    me.blocks = blocks_for(pool, np.int64(me.goal if me.remote else me.computed + tokens))
    take(s, r, me.blocks - found, now)
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
    """First of the first class that waits, or -1."""
    for c in range(PRIORITIES):
        q = s.rank[r].head[c]
        if q >= 0:
            return q
    return -1


@inline
def chunk(s, r, q, tokens, now):
    """`tokens` of `q` are computed in this step."""
    me, rank = s.request[q], s.rank[r]
    pool = s.pool[rank.pool]
    me.chunk = tokens
    rank.tokens += tokens
    rank.square += np.int64(tokens) * me.computed + np.int64(tokens) * (tokens + 1) // 2
    if pool.prefix and pool.policy == VLLM:
        store(s, r, q, me.computed + tokens, now)


@inline
def admit_waiting(s, r, budget, now):
    """First come, first served within a class, until one does not fit."""
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


@compile
def squeeze_vllm(s, r, budget, now):
    """The running requests of a step that finds too few free blocks, one by one; returns the budget left."""
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
            victim = other = rank.last
            while other >= 0:
                if s.request[other].priority > s.request[victim].priority:
                    victim = other
                other = s.request[other].prev
            if victim == follower:
                follower = s.request[victim].next
            if victim != q and s.request[victim].decoding and s.request[victim].chunk:
                budget += 1 + pool.draft
            preempt(s, r, victim, np.int64(s.request[victim].blocks), now, True)
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
def schedule_vllm(s, r, now):
    """What runs first, then what waits."""
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
        budget = squeeze_vllm(s, r, budget, now)
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


@compile
def retract_sglang(s, r, now):
    """Make room to decode: fewest generated tokens go first, then longest input, then youngest."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    while rank.running and growth_between(s, r, rank.clock, rank.clock + rank.gain) > rank.free:
        q = victim = rank.last
        while q >= 0:
            a, b = s.request[q], s.request[victim]
            less = (b.output - b.target) - (a.output - a.target)
            if less > 0 or (less == 0 and a.input > b.input):
                victim = q
            q = a.prev
        preempt(s, r, victim, blocks_for(pool, computed(s, r, victim)), now, False)


@inline
def schedule_sglang(s, r, now):
    """A prefill-only step if anything can be prefilled, else decode all."""
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
        retract_sglang(s, r, now)
        take(s, r, growth_between(s, r, rank.clock, rank.clock + rank.gain), now)
        rank.batch = rank.decodes


@inline
def join(s, r):
    """Sequences whose KV has arrived decode from this step on; an unfinished prefill stays last."""
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
    if pool.policy == VLLM:
        schedule_vllm(s, r, now)
    else:
        schedule_sglang(s, r, now)


# ---- the steps of an instance


@inline
def time_after(s, i, steps):
    """End of the step `steps` after the anchor [s]."""
    instance = s.instance[i]
    k = float(steps)
    return instance.anchor_s + (k * instance.step_s + instance.growth_s * (k * (k - 1.0) * 0.5))


@inline
def longest_plan(s, r):
    """Steps until a decoding sequence may end, or until blocks have to be looked at one step at a time."""
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    target = max(rank.next_target, rank.clock + 1)
    while s.calendar[rank.calendar + 2 * (target & (BUCKETS - 1))] < 0:
        target += 1
    rank.next_target = target
    steps = np.int64(target - rank.clock)
    if pool.gain != 1.0:
        steps = max(np.int64((target - 1) / pool.gain) - rank.ticks, np.int64(1))
        while clock_at(pool, rank.ticks + steps) < target:
            steps += 1
    room = rank.free
    if pool.prefix:
        head = rank.lru_first
        room = np.int64(s.node[head].count) if head >= 0 and s.node[head].users < 0 else np.int64(0)
    low = rank.clock + rank.gain
    high = clock_at(pool, rank.ticks + steps)
    if ((high - low) // pool.block_tokens + 1) * rank.decodes <= room:
        return steps
    at = 1
    while at < steps:
        high = clock_at(pool, rank.ticks + at + 1)
        room -= growth_between(s, r, low, high)
        if room < 0:
            break
        low = high
        at += 1
    return at


@inline
def itl_bin(gap):
    """Bin of a gap between two output tokens."""
    return min(max((np.float64(gap).view(np.int64) >> ITL_SHIFT) - ITL_BASE, 0), ITL_BINS - 1)


@inline
def plan(s, i, now):
    """Plan the next steps of an instance from `now`, or leave it idle."""
    instance = s.instance[i]
    pool = s.pool[instance.pool]
    first, stride, ranks = instance.first_rank, pool.instances, pool.ranks
    instance.start_s = now
    for number in range(ranks):
        join(s, first + number * stride)
    while True:
        busy = preempted = 0
        tokens = prefill = np.int64(0)
        hottest = 0.0
        for number in range(ranks):
            r = first + number * stride
            schedule(s, r, now)
            rank = s.rank[r]
            busy += rank.batch + rank.tokens
            preempted += rank.preempted
            prefill += rank.tokens
            tokens += rank.batch * (1 + pool.draft) + rank.tokens
            context = rank.context if rank.batch else np.int64(0)
            hot = pool.sequence_s * rank.batch + pool.context_s * context + pool.prefill_s * rank.square
            hottest = max(hottest, hot)
        if busy or not preempted:
            break
    if not busy:
        instance.end_s, instance.planned, instance.anchored = NEVER, 0, 0
        return
    pure = ranks == 1 and prefill == 0
    if not (pure and instance.anchored):
        instance.anchor_s, instance.done = now, 0
        instance.step_s = s.by_tokens[pool.by_tokens + tokens] + ranks * hottest
        instance.growth_s = pool.context_s * s.rank[first].batch * pool.gain
    instance.anchored = pure
    instance.planned = 1
    if pure and not preempted and not s.rank[first].fresh and last_decode(s, first) == now:
        instance.planned = longest_plan(s, first)
    instance.end_s = time_after(s, i, instance.done + instance.planned)


@compile
def fresh_gaps(s, r, now):
    """Gaps before the second token of those that did not decode in the step before; returns how many."""
    rank = s.rank[r]
    q = s.request[rank.prefill].prev if rank.prefill >= 0 else rank.last
    count = np.int64(rank.fresh)
    while rank.fresh:
        me = s.request[q]
        if me.fresh:
            me.fresh = 0
            rank.fresh -= 1
            s.itl[itl_bin(now - me.end_s)] += 1
        q = me.prev
    return count


@inline
def glide(s, i, steps):
    """`steps` planned steps have ended without an event, and as many have begun: blocks grow, tokens come out."""
    instance = s.instance[i]
    r = instance.first_rank
    rank = s.rank[r]
    pool = s.pool[rank.pool]
    low = rank.clock + rank.gain
    rank.ticks += steps
    clock = clock_at(pool, rank.ticks)
    gained = clock - rank.clock
    rank.gain = clock_at(pool, rank.ticks + 1) - clock
    take(s, r, growth_between(s, r, low, clock + rank.gain), instance.start_s)
    rank.clock = clock
    rank.context += rank.batch * gained
    rank.output_tokens += rank.batch * gained
    rank.decode_sequences += rank.batch * steps
    count_gaps(s, i, rank.batch, steps)
    instance.steps += steps
    instance.done += steps
    instance.planned -= steps
    ended = time_after(s, i, instance.done)
    rank.last_s = ended
    instance.busy_s += ended - instance.start_s
    instance.start_s = ended


@inline
def count_gaps(s, i, sequences, steps):
    """Gaps between tokens of the next `steps` steps; durations only grow."""
    done = s.instance[i].done
    before = s.instance[i].start_s
    after = time_after(s, i, done + 1)
    first = itl_bin(after - before)
    last = first if steps == 1 else itl_bin(time_after(s, i, done + steps) - time_after(s, i, done + steps - 1))
    if first == last:
        s.itl[first] += sequences * steps
        return
    for k in range(1, steps + 1):
        after = time_after(s, i, done + k)
        s.itl[itl_bin(after - before)] += sequences
        before = after


@inline
def settle(s, i, limit, inclusive):
    """Let the planned steps that end before (or at) `limit` glide by; one stays in flight."""
    instance = s.instance[i]
    low, high = np.int64(0), instance.planned - 1
    while low < high:
        middle = (low + high + 1) >> 1
        ended = time_after(s, i, instance.done + middle)
        if ended < limit or (inclusive and ended == limit):
            low = middle
        else:
            high = middle - 1
    if low > 0:
        glide(s, i, low)


@inline
def interrupt(s, i, now):
    """Something has changed: plan anew after the step in flight, or now."""
    instance, world = s.instance[i], s.world[0]
    if instance.planned == 0:
        instance.end_s = min(instance.end_s, now)
    elif instance.planned > 1:
        # Ends of steps at one moment come in the order of instances; has the turn of this one passed?
        settle(s, i, now, world.stepped_s == now and i < world.stepped)
        instance.planned = 1
        instance.end_s = time_after(s, i, instance.done + 1)


@inline
def produce_first(s, r, q, now):
    """The token that a finished prefill gives."""
    me, rank = s.request[q], s.rank[r]
    me.generated += 1
    rank.output_tokens += 1
    if math.isnan(me.first_s):
        me.first_s = now
    else:
        s.itl[itl_bin(now - me.end_s)] += 1
    me.end_s = now
    if me.generated == me.output:
        drop(s, r, q, COMPLETED, now)
    elif s.pool[rank.pool].role == PREFILL and not me.cancelled:
        hand_over(s, r, q, now)
    else:
        decode(s, r, q)
        if s.pool[rank.pool].policy == SGLANG:
            me.fresh = 1
            rank.fresh += 1


@inline
def finish_rank(s, i, r, now):
    """End of a step: tokens come out, sequences leave."""
    rank, instance = s.rank[r], s.instance[i]
    pool = s.pool[rank.pool]
    if rank.batch:
        fresh = fresh_gaps(s, r, now) if rank.fresh else 0
        s.itl[itl_bin(now - last_decode(s, r))] += rank.batch - fresh
        rank.last_s = now
        rank.decode_sequences += rank.batch
        rank.output_tokens += rank.batch * rank.gain
        rank.context += rank.batch * rank.gain
        rank.ticks += 1
        before = rank.clock
        rank.clock = before + rank.gain
        for target in range(max(before + 1, rank.next_target), rank.clock + 1):
            q = s.calendar[rank.calendar + 2 * (target & (BUCKETS - 1))]
            while q >= 0:
                follower = s.request[q].cnext
                if s.request[q].target == target:
                    rank.output_tokens -= rank.clock - target
                    drop(s, r, q, COMPLETED, now)
                q = follower
        if rank.next_target <= rank.clock:
            rank.next_target = rank.clock + 1
    q = rank.prefill
    while q >= 0:
        me = s.request[q]
        follower = me.next
        me.computed += me.chunk
        rank.prefill_tokens += me.chunk
        me.chunk = 0
        if pool.prefix and pool.policy == SGLANG:
            store(s, r, q, me.computed, now)
        if me.computed == me.goal:
            rank.prefill = follower
            instance.anchored = 0
            produce_first(s, r, q, now)
        q = follower


@compile
def drop_cancelled(s, r, now):
    """What was cancelled while it ran."""
    rank = s.rank[r]
    q = rank.first
    while q >= 0:
        follower = s.request[q].next
        if s.request[q].cancelled:
            rank.cancels -= 1
            s.request[q].end_s = now
            drop(s, r, q, CANCELLED, now)
        q = follower


@inline
def finish(s, i, now):
    """End of the step in flight of an instance, and of all before it in the plan."""
    instance = s.instance[i]
    if instance.planned == 0:
        return
    if instance.planned > 1:
        glide(s, i, instance.planned - 1)
    pool = s.pool[instance.pool]
    for number in range(pool.ranks):
        r = instance.first_rank + number * pool.instances
        finish_rank(s, i, r, now)
        if s.rank[r].cancels:
            drop_cancelled(s, r, now)
    instance.steps += 1
    instance.done += 1
    instance.busy_s += now - instance.start_s
    instance.planned = 0


# ---- prefill to decode


@inline
def enqueue(s, r, q, now):
    """Append to a rank's queue; behind others of its class or before a full rank nothing changes."""
    rank = s.rank[r]
    s.request[q].at = r
    rank.load += 1
    wait(s, r, q, False)
    interrupt(s, rank.instance, now)


@compile
def hand_over(s, r, q, now):
    """A finished prefill waits at the least loaded decode rank; its KV stays here until it has been fetched."""
    me = s.request[q]
    leave_running(s, r, q)
    s.rank[r].load -= 1
    me.goal, me.computed, me.remote = me.input, 0, 1
    pool = s.pool[1]
    best = pool.first_rank
    for other in range(pool.first_rank, pool.first_rank + pool.instances * pool.ranks):
        if s.rank[other].load < s.rank[best].load:
            best = other
    enqueue(s, best, q, now)


@compile
def let_go(s, q, now):
    """Free the KV that `q` left on the prefill side."""
    me = s.request[q]
    r = me.route
    rank = s.rank[r]
    blocks = blocks_for(s.pool[rank.pool], np.int64(me.input))
    if s.pool[rank.pool].prefix:
        release_cached(s, r, q, blocks)
    else:
        rank.free += blocks
    me.remote = 0
    interrupt(s, rank.instance, now)


@compile
def fetch(s, i, now):
    """Transfers start when both links are free, in the order of admission."""
    instance, world = s.instance[i], s.world[0]
    q = instance.load
    while q >= 0:
        me = s.request[q]
        source = s.instance[s.rank[me.route].instance]
        begin = max(now, source.link_free_s, instance.link_free_s)
        done = begin + (world.latency_s + me.input * world.token_s)
        source.link_free_s = instance.link_free_s = done
        at = world.loads
        world.loads += 1
        while at > 0:
            up = (at - 1) >> 1
            if s.load_s[up] < done or (s.load_s[up] == done and s.load[up] < q):
                break
            s.load_s[at], s.load[at] = s.load_s[up], s.load[up]
            at = up
        s.load_s[at], s.load[at] = done, q
        q = me.cnext
    instance.load = instance.load_last = -1


@compile
def pop_load(s):
    """The first transfer to arrive."""
    world = s.world[0]
    world.loads -= 1
    count = world.loads
    top, time, q, at = s.load[0], s.load_s[count], s.load[count], 0
    while 2 * at + 1 < count:
        down = 2 * at + 1
        if down + 1 < count:
            a, b = s.load_s[down], s.load_s[down + 1]
            if b < a or (b == a and s.load[down + 1] < s.load[down]):
                down += 1
        if time < s.load_s[down] or (time == s.load_s[down] and q < s.load[down]):
            break
        s.load_s[at], s.load[at] = s.load_s[down], s.load[down]
        at = down
    s.load_s[at], s.load[at] = time, q
    return top


@compile
def loaded(s, q, now):
    """The KV of `q` is here: its source is free again, and it decodes from the next step on."""
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


# ---- routing


@inline
def draw(world):
    """Next number of the router's own stream (splitmix64)."""
    world.seed += GOLDEN
    z = world.seed
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inline
def index_slot(s, name):
    """Where the router keeps a name: its slot, or the empty one at which to put it."""
    world = s.world[0]
    slot = slot_of(name, world.index_shift, world.index_mask)
    while s.index_name[slot] != name and is_held(s, slot):
        slot = (slot + 1) & world.index_mask
    return slot


@inline
def is_held(s, slot):
    """Whether any rank holds the name in this slot."""
    for word in range(s.index_holders.shape[1]):
        if s.index_holders[slot, word]:
            return True
    return False


@compile
def hear(s, now):
    """Cache events that have reached the router by now."""
    world = s.world[0]
    mask = world.index_mask
    while world.events and s.event[world.events_first].time + world.delay_s <= now:
        event = s.event[world.events_first]
        world.events_first = (world.events_first + 1) % len(s.event)
        world.events -= 1
        slot = index_slot(s, event.name)
        word, bit = event.rank >> 6, np.uint64(1) << np.uint64(event.rank & 63)
        if event.stored:
            s.index_name[slot] = event.name
            s.index_holders[slot, word] |= bit
            continue
        if not s.index_holders[slot, word] & bit:
            continue
        s.index_holders[slot, word] &= ~bit
        if is_held(s, slot):
            continue
        hole = slot
        while True:
            slot = (slot + 1) & mask
            if not is_held(s, slot):
                break
            home = slot_of(s.index_name[slot], world.index_shift, mask)
            if ((slot - home) & mask) >= ((slot - hole) & mask):
                s.index_name[hole] = s.index_name[slot]
                for word in range(s.index_holders.shape[1]):
                    s.index_holders[hole, word] = s.index_holders[slot, word]
                hole = slot
        for word in range(s.index_holders.shape[1]):
            s.index_holders[hole, word] = 0


@compile
def route_by_prefix(s, q, ranks, now):
    """Longest known prefix among the ranks that are not too loaded; then least loaded, then first."""
    world = s.world[0]
    least = s.rank[0].load
    for r in range(1, ranks):
        least = min(least, s.rank[r].load)
    top = (1.0 + world.imbalance) * least + world.slack
    best, best_length, best_load = -1, -1, 0
    if world.emit:
        hear(s, now)
        first = s.offsets[q]
        most = min(s.request[q].input // s.pool[0].block_tokens, s.offsets[q + 1] - first)
        for word in range((ranks + 63) >> 6):
            low, high = 64 * word, min(64 * word + 64, ranks)
            alive = np.uint64(0)
            for r in range(low, high):
                if s.rank[r].load <= top:
                    alive |= np.uint64(1) << np.uint64(r - low)
            length = 0
            while alive and length < most:
                slot = index_slot(s, s.ids[first + length])
                still = alive & s.index_holders[slot, word] if is_held(s, slot) else np.uint64(0)
                if not still:
                    break
                alive = still
                length += 1
            for r in range(low, high):
                if (alive >> np.uint64(r - low)) & np.uint64(1) and (
                    length > best_length or (length == best_length and s.rank[r].load < best_load)
                ):
                    best, best_length, best_load = r, length, s.rank[r].load
    else:
        for r in range(ranks):
            if best < 0 or s.rank[r].load < best_load:
                best, best_load = r, s.rank[r].load
    return best


@inline
def route(s, q, now):
    """Number of the rank that takes `q`; reads queues and cache events only."""
    world = s.world[0]
    ranks = s.pool[0].instances * s.pool[0].ranks
    if world.router == ROUND_ROBIN:
        world.turn += 1
        return (world.turn - 1) % ranks
    if world.router == POWER_OF_TWO:
        one, two = np.int64(draw(world) % np.uint64(ranks)), np.int64(draw(world) % np.uint64(ranks))
        return two if s.rank[two].load < s.rank[one].load else one
    if world.router == LEAST_LOADED:
        best = 0
        for r in range(1, ranks):
            if s.rank[r].load < s.rank[best].load:
                best = r
        return best
    return route_by_prefix(s, q, ranks, now)


# ---- driving


@inline
def arrive(s, q, now):
    """A request reaches the client's gate, and past it a rank."""
    world, me = s.world[0], s.request[q]
    if world.concurrency and me.gated and me.status == PENDING:
        if world.flying >= world.concurrency:
            me.next = -1
            if world.gate >= 0:
                s.request[world.gate_last].next = q
            else:
                world.gate = q
            world.gate_last = q
            return
        world.flying += 1
        me.gated = 0
    if me.status != PENDING:
        if not me.gated:
            open_gate(s, now)
        return
    me.sent_s, me.goal = now, me.input
    if me.doomed:
        end(s, q, REJECTED, now)
        return
    r = route(s, q, now)
    me.route = r
    most = s.pool[0].max_queue
    if most and s.rank[r].waiting >= most:
        end(s, q, REJECTED, now)
        return
    enqueue(s, r, q, now)


@compile
def sample(s, time):
    """Close a window: levels now, counts since the last one."""
    world = s.world[0]
    for i in range(len(s.instance)):
        if s.instance[i].planned > 1:
            settle(s, i, time, True)
    running = waiting = used = output = prefill = np.int64(0)
    for r in range(len(s.rank)):
        rank = s.rank[r]
        running += rank.running + rank.loading + rank.readied
        waiting += rank.waiting
        used += s.pool[rank.pool].kv_blocks - rank.free
        output += rank.output_tokens
        prefill += rank.prefill_tokens
    row = world.rows
    s.series[row, 0], s.series[row, 1], s.series[row, 2] = running, waiting, used
    s.series[row, 3], s.series[row, 4] = output - world.seen_output, prefill - world.seen_prefill
    return output, prefill


@compile
def advance(s, until):
    """Play all events up to and including `until`; returns DONE, or which buffer must grow before it goes on."""
    world = s.world[0]
    while True:
        time, best = s.instance[0].end_s, 0
        for i in range(1, len(s.instance)):
            if s.instance[i].end_s < time:
                time, best = s.instance[i].end_s, i
        kind, q = 0, -1
        if world.loads and s.load_s[0] <= time:
            kind, time = 1, s.load_s[0]
        if world.opened < len(s.open):
            q = s.open[world.opened]
            if s.request[q].sent_s <= time:
                kind, time = 2, s.request[q].sent_s
        if world.heaped:
            other = s.heap[0]
            at = s.request[other].sent_s
            if (kind < 2 and at <= time) or (kind == 2 and (at < time or (at == time and other < q))):
                kind, time, q = 3, at, other
        limit = min(time, until)
        while world.window_s > 0.0 and limit < NEVER and (world.rows + 1) * world.window_s < limit:
            if world.rows == len(s.series) - 1:
                return SERIES_FULL
            world.seen_output, world.seen_prefill = _sampled(s)
        if time > until or time == NEVER:
            break
        if world.emit and len(s.event) - world.events < world.events_spare:
            return EVENTS_FULL
        world.now = time
        if kind == 0:
            world.stepped_s, world.stepped = time, best
            finish(s, best, time)
            plan(s, best, time)
            if s.instance[best].load >= 0:
                fetch(s, best, time)
        elif kind == 1:
            loaded(s, pop_load(s), time)
        else:
            if kind == 2:
                world.opened += 1
            else:
                pop_heap(s)
            arrive(s, q, time)
    if until < NEVER:
        world.now = until
        for i in range(len(s.instance)):
            if s.instance[i].planned > 1:
                settle(s, i, until, True)
    return DONE


@inline
def _sampled(s):
    """Close the next window for good."""
    world = s.world[0]
    seen = sample(s, (world.rows + 1) * world.window_s)
    world.rows += 1
    return seen


@compile
def cancel(s, q):
    """Withdraw a request at the present moment."""
    me, now = s.request[q], s.world[0].now
    if me.status == RUNNING and not me.cancelled:
        me.cancelled = 1
        s.rank[me.at].cancels += 1
        interrupt(s, s.rank[me.at].instance, now)
    elif me.status == QUEUED:
        r = me.at
        unwait(s, r, q)
        s.rank[r].load -= 1
        if me.remote:
            let_go(s, q, now)
        end(s, q, CANCELLED, now)
        interrupt(s, s.rank[r].instance, now)
    elif me.status == PENDING:
        me.status = CANCELLED


def compiled() -> bool:
    """Whether the machine code of this version is in the cache, so that the first run starts at once."""
    source = Path(__file__)
    made = Path(str(advance.stats.cache_path)).glob(f"{source.stem}.advance-*.nbi")
    return any(index.stat().st_mtime >= source.stat().st_mtime for index in made)
