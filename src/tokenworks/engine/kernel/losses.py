# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Ranks are lost and come back: their requests leave them, and their caches are emptied (rules 5 to 9 in `faults`)."""

from __future__ import annotations

import math

from tokenworks.engine.kernel.base import CANCELLED, FAILED, NEVER, PENDING, apart
from tokenworks.engine.kernel.cache import recycle
from tokenworks.engine.kernel.codes import CLEARED
from tokenworks.engine.kernel.eviction import BY_COST
from tokenworks.engine.kernel.extents import GHOSTS, drop_extent, pull
from tokenworks.engine.kernel.faults import begin_again, has_work, lose_step, plan_at
from tokenworks.engine.kernel.leave import end, leave_running, pay, push_heap
from tokenworks.engine.kernel.lists import push_load, unlink, unwait
from tokenworks.engine.kernel.names import list_change
from tokenworks.engine.kernel.prefetch import drop_flows
from tokenworks.engine.kernel.route import index_slot, unknow
from tokenworks.engine.kernel.runs import leave_run, name_of
from tokenworks.engine.kernel.steps import cut_plan, interrupt
from tokenworks.engine.kernel.tiers import index_of, stored_from
from tokenworks.engine.kernel.tokens import blocks_for, release, stop_decoding
from tokenworks.engine.kernel.transfer import let_go
from tokenworks.engine.state import LOSSES, LOST
from tokenworks.engine.types import PRIORITIES

FAIL, RESTART = LOSSES["fail"], LOSSES["restart"]


@apart
def lose(s, r, now):
    """The cluster notices the loss of a rank."""
    rank, world = s.rank[r], s.world[0]
    if rank.cold == LOST:
        return
    i = rank.instance
    instance, stopped = s.instance[i], s.halt[i].stopped
    cut_plan(s, i, now)
    if instance.planned and not stopped:
        lose_step(s, i, now)
    s.loss[r].was_cold, rank.cold = rank.cold, LOST
    world.lost_ranks += 1
    leave_queues(s, r, now)
    leave_loads(s, r, now)
    leave_steps(s, r, now)
    if r < world.front_ranks and len(s.pool) > 1:
        leave_decode_ranks(s, r, now)
    rank.load = rank.loading = rank.readied = rank.unseen = 0
    rank.batch = rank.tokens = rank.square = rank.cancels = rank.full = 0
    rank.ratio, rank.ratio_ticks = s.pool[rank.pool].ratio, rank.ticks
    clear_cache(s, r, now)
    if world.tiers and r < world.front_ranks:
        clear_stores(s, r)
    if world.emit and r < world.front_ranks:
        forget_events(s, r)
    if instance.planned and not stopped:
        begin_again(s, i, now)
    elif instance.planned and not has_work(s, i):
        plan_at(s, i, NEVER)


@apart
def back(s, r):
    """The router sends requests to a lost rank again."""
    rank = s.rank[r]
    if rank.cold == LOST:
        rank.cold = s.loss[r].was_cold
        s.world[0].lost_ranks -= 1


# ---- requests leave


@apart
def part(s, r, q, now):
    """A request that has left the lost rank r arrives at the router at the same time."""
    me, loss = s.request[q], s.loss[r]
    loss.requests += 1
    loss.kv_tokens += me.goal if me.remote else me.computed
    if me.flows:
        drop_flows(s, q)
    pay(s, q)
    me.at, me.status, me.lost = r, PENDING, 1
    me.remote = me.unseen = me.blocks = me.chained = me.owned = me.chunk = me.computed = 0
    me.late_s, me.sent_s = me.sent_s, now
    push_heap(s, q)


@apart
def leave_queues(s, r, now):
    """Requests that wait for the scheduler of a lost rank, or for a prefetch, leave it."""
    rank = s.rank[r]
    for c in range(PRIORITIES):
        while rank.head[c] >= 0:
            q = rank.head[c]
            unwait(s, r, q)
            if s.request[q].remote:
                let_go(s, q, now)
                s.request[q].remote = 1  # until it is counted
            part(s, r, q, now)
    instance = s.instance[rank.instance]
    q = instance.unseen
    while q >= 0:
        follower = s.request[q].next
        if s.request[q].at == r:
            first, last = unlink(s.request, q, instance.unseen, instance.unseen_last)
            instance.unseen, instance.unseen_last = first, last
            part(s, r, q, now)
        q = follower
    place = 0
    while place < s.world[0].flows:
        q = s.flow[s.flow_heap[place]].slot
        if s.request[q].unseen == 2 and s.request[q].at == r:
            part(s, r, q, now)
            place = 0
        else:
            place += 1


@apart
def leave_loads(s, r, now):
    """Requests leave the lost rank r that wait there for a load or a KV transfer, or whose KV it holds."""
    world = s.world[0]
    count, world.loads = world.loads, 0
    for place in range(count):
        q, done = s.load[place], s.load_s[place]
        me = s.request[q]
        if me.at == r:
            if me.remote:
                let_go(s, q, now)
                me.remote = 1
            part(s, r, q, now)
        elif me.remote and me.route == r:
            s.rank[me.at].loading -= 1
            s.rank[me.at].cancels -= me.cancelled
            release(s, me.at, q, me.blocks, now)
            leave_decode_rank(s, r, q, now)
        else:
            push_load(s, q, done)


@apart
def leave_steps(s, r, now):
    """Requests that run, or are ready to run, leave a lost rank."""
    rank = s.rank[r]
    while rank.ready >= 0:
        q = rank.ready
        rank.ready = s.request[q].next
        part(s, r, q, now)
    while rank.first >= 0:
        q = rank.first
        if s.request[q].decoding:
            stop_decoding(s, r, q)
        leave_running(s, r, q)
        part(s, r, q, now)


@apart
def leave_decode_ranks(s, r, now):
    """Requests whose KV the lost prefill rank r holds leave the queues of the decode ranks."""
    pool = s.pool[1]
    for other in range(pool.first_rank, pool.first_rank + pool.instances * pool.ranks):
        for c in range(PRIORITIES):
            q = s.rank[other].head[c]
            while q >= 0:
                follower = s.request[q].next
                if s.request[q].remote and s.request[q].route == r:
                    unwait(s, other, q)
                    leave_decode_rank(s, r, q, now)
                q = follower


@apart
def leave_decode_rank(s, r, q, now):
    """A request whose KV the lost rank r holds has left a queue or the loads of a decode rank."""
    at = s.request[q].at
    s.rank[at].load -= 1
    interrupt(s, s.rank[at].instance, now)
    part(s, r, q, now)


@apart
def send_again(s, q, now):
    """Whether the router sends a lost request again; if not, the request ends (rule 6)."""
    world, me = s.world[0], s.request[q]
    loss, pool = s.loss[me.at], s.pool[0]
    me.lost, me.sent_s = 0, me.late_s
    status = CANCELLED
    if me.status != CANCELLED and not me.cancelled:
        status = FAILED
        if not me.failed and world.on_loss != FAIL and me.retries < world.retries:
            if world.on_loss == RESTART:
                loss.output_tokens += me.generated
                me.generated, me.first_s, me.lag_s = 0, math.nan, 0.0
            me.goal = me.input + me.generated
            if blocks_for(pool, me.goal) <= pool.kv_blocks:
                me.retries += 1
                loss.retries += 1
                return True
        loss.output_tokens += me.generated
    end(s, q, status, now)
    return False


# ---- caches


@apart
def clear_cache(s, r, now):
    """Empty the HBM of a lost rank, which no request uses any more."""
    rank, world = s.rank[r], s.world[0]
    pool = s.pool[rank.pool]
    rank.free = pool.kv_blocks
    if not pool.prefix:
        return
    if world.listed:
        list_change(s, r, CLEARED, 0, -1, -1, now)
    node = rank.lru_first
    while node >= 0:
        follower = s.node[node].next
        if s.node[node].users < 0:  # it stands for blocks without a name
            recycle(s, r, node)
        node = follower
    for slot in range(rank.table, rank.table + rank.mask + 1):
        node = s.table[slot]
        if node >= 0:
            s.table[slot] = -1
            recycle(s, r, node)
            if world.emit:
                forget_name(s, r, s.node[node].name, s.node_run[node], s.node_block[node])
            if world.tiers:
                leave_run(s, s.node_run[node], 1)
    rank.nameless = pool.kv_blocks
    rank.lru_first = rank.lru_last = -1


@apart
def clear_stores(s, r):
    """Empty the stores that only lost ranks of one instance use, and that do not survive."""
    for t in range(s.world[0].tiers):
        g = s.tier[t].group
        if not s.tier[t].survives and is_left(s, g, r):
            clear_store(s, r, t, index_of(s, g, r))


@apart
def is_left(s, g, r):
    """Whether all ranks that share the stores of group g with rank r are lost, and belong to its instance."""
    x = index_of(s, g, r)
    for other in range(s.world[0].tier_ranks):
        if index_of(s, g, other) == x:
            rank = s.rank[other]
            if rank.cold != LOST or rank.instance != s.rank[r].instance:
                return False
    return True


@apart
def clear_store(s, r, t, x):
    """Empty the store of tier t in index x, and what it remembers of evicted blocks."""
    tier = s.tier[t]
    store = s.store[tier.first_store + x]
    if tier.eviction == BY_COST:
        for place in range(store.used):
            leave_store(s, r, t, x, s.priority[store.heap + place].extent)
    for number in range(4):
        while store.first[number]:
            e = store.first[number]
            pull(s, store, e)
            leave_store(s, r, t, x, e)
        store.size[number] = 0
    store.used, store.target, store.floor = 0, 0.0, 0.0


@apart
def leave_store(s, r, t, x, e):
    """Blocks, or the names of evicted blocks, leave the store of tier t in index x."""
    me = s.extent[e]
    run, lo, hi = s.cell[me.cell].run, me.lo, me.hi
    s.run[run].users += 1
    drop_extent(s, t, e)
    if s.world[0].emit and s.alone[x]:
        for i in range(lo, hi):
            forget_name(s, r, name_of(s, run, i), run, i)
    leave_run(s, run, 1)


@apart
def forget_name(s, r, name, run, i):
    """The router forgets that the lost rank r has block i of a run, unless a store of the rank alone has it."""
    world, rank = s.world[0], s.rank[r]
    if not (world.alone and stored_from(s, r, run, i) <= i):
        unknow(s, index_slot(s, name), rank.number)


@apart
def is_among(s, e, name):
    """Whether a block of an extent has this name."""
    me = s.extent[e]
    first = s.run[s.cell[me.cell].run].first
    at, end = first + me.lo, first + me.hi
    while at < end and s.run_name[at] != name:
        at += 1
    return at < end


@apart
def is_name_in_store(s, r, name):
    """Whether a store that only this rank has holds a block of this name, which any run may have."""
    for t in range(s.world[0].tiers):
        tier = s.tier[t]
        x = index_of(s, tier.group, r)
        store = s.store[tier.first_store + x]
        if not s.alone[x] or store.used == 0:
            continue
        if tier.eviction == BY_COST:
            for place in range(store.used):
                if is_among(s, s.priority[store.heap + place].extent, name):
                    return True
        for number in range(GHOSTS):
            e = store.first[number]
            while e:
                if is_among(s, e, name):
                    return True
                e = s.extent[e].next
    return False


@apart
def forget_events(s, r):
    """Events on their way to the router say nothing of blocks that the lost rank r no longer holds."""
    world, number = s.world[0], s.rank[r].number
    for k in range(world.events):
        event = s.event[(world.events_first + k) & (len(s.event) - 1)]
        if event.rank == number and not (world.alone and is_name_in_store(s, r, event.name)):
            event.stored = 0
            unknow(s, index_slot(s, event.name), number)
