# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The end of a step: sequences get tokens, completed sequences leave, finished prefills go to the decode pool."""

from __future__ import annotations

import math

import numpy as np

from tokenworks.engine.kernel.base import CANCELLED, COMPLETED, FAILED, PREFILL, QUEUED, REJECTED, apart, inline, jit
from tokenworks.engine.kernel.cache import store
from tokenworks.engine.kernel.leave import drop, leave_running, pay
from tokenworks.engine.kernel.lists import to_decodes
from tokenworks.engine.kernel.queue import join_queue
from tokenworks.engine.kernel.route import least_loaded
from tokenworks.engine.kernel.steps import (
    count_gap,
    glide,
    interrupt,
    itl_bin,
    settle,
    steps_to_look,
    time_after,
    turn_passed,
)
from tokenworks.engine.kernel.tokens import decode, last_decode
from tokenworks.engine.state import BUCKETS


@inline
def enqueue(s, r, q, now):
    """Add `q` to the queue of a rank, whose instance plans anew."""
    rank = s.rank[r]
    s.request[q].at = r
    rank.load += 1
    join_queue(s, r, q, now)
    interrupt(s, rank.instance, now)


@jit
def hide(s, r, q, now):
    """Append `q` to the requests that the scheduler has not looked at yet, and cut the plan where it looks for them."""
    rank, me = s.rank[r], s.request[q]
    i = rank.instance
    instance = s.instance[i]
    me.at, me.status, me.unseen = r, QUEUED, 1
    me.prev, me.next = instance.unseen_last, -1
    if instance.unseen_last >= 0:
        s.request[instance.unseen_last].next = q
    else:
        instance.unseen = q
    instance.unseen_last = q
    rank.load += 1
    rank.unseen += 1
    if instance.planned > 1:
        settle(s, i, now, turn_passed(s, i, now))
        if steps_to_look(s, i) < instance.planned:
            instance.planned = steps_to_look(s, i)
            instance.end_s = time_after(s, i, instance.done + instance.planned)


@apart
def reject(s, r, q, now):
    """End a finished prefill: all decode ranks are lost."""
    s.loss[r].output_tokens += s.request[q].generated
    drop(s, r, q, REJECTED, now)


@jit
def hand_over(s, r, q, now):
    """Queue a finished prefill at the least loaded decode rank. The prefill rank holds the KV until the transfer."""
    me = s.request[q]
    pool = s.pool[1]
    best = pool.first_rank
    for other in range(pool.first_rank, pool.first_rank + pool.instances * pool.ranks):
        if s.rank[other].load < s.rank[best].load:
            best = other
    if s.world[0].lost_ranks:
        best = least_loaded(s, pool.first_rank, pool.instances * pool.ranks)
        if best < 0:
            reject(s, r, q, now)
            return
    leave_running(s, r, q)
    s.rank[r].load -= 1
    me.computed, me.remote = 0, 1
    enqueue(s, best, q, now)


@inline
def lag(s, r, q):
    """Time from the end of the step to the first token at the client [s], see `types.Pool.lag_s`."""
    me, pool, instance = s.request[q], s.pool[s.rank[r].pool], s.instance[s.rank[r].instance]
    cost = s.cost[instance.cost]
    tokens = np.int64(me.chunk)
    parts = (tokens * pool.stages + pool.token_budget - 1) // pool.token_budget
    whole = s.by_tokens[cost.by_tokens + min(pool.stages * tokens, pool.token_budget)]
    square = tokens * (me.computed - tokens) + tokens * (tokens + 1) // 2
    own = pool.ranks * (cost.prefill_s * square + cost.token_s * tokens)
    step_s = s.by_tokens[cost.by_tokens + instance.tokens]
    late = whole * (1.0 + (parts - 1) / pool.stages) - step_s
    return max(0.0, late) + own * (pool.stages - 1) / parts


@inline
def produce_first(s, r, q, now):
    """Output the token of a finished prefill."""
    me, rank = s.request[q], s.rank[r]
    me.generated += 1
    rank.output_tokens += 1
    if math.isnan(me.first_s):
        if s.pool[rank.pool].stages > 1:
            me.lag_s = lag(s, r, q)
        me.first_s = now + me.lag_s
    else:
        s.itl[me.group, itl_bin(now - me.end_s)] += 1
    pay(s, q)
    me.end_s = now
    if me.generated == me.output:
        drop(s, r, q, COMPLETED, now)
    elif s.pool[rank.pool].role == PREFILL and not me.cancelled:
        hand_over(s, r, q, now)
    else:
        decode(s, r, q)
        if not s.pool[rank.pool].mixes:
            me.fresh = 1
            rank.fresh += 1


@jit
def fresh_gaps(s, r, now):
    """Correct the gap of sequences in their first decode step: it began at their own token, not at the last decode."""
    rank = s.rank[r]
    q = s.request[rank.prefill].prev if rank.prefill >= 0 else rank.last
    others = itl_bin(now - last_decode(s, r))
    while rank.fresh:
        me = s.request[q]
        if me.fresh:
            me.fresh = 0
            rank.fresh -= 1
            s.itl[me.group, others] -= 1
            s.itl[me.group, itl_bin(now - me.end_s)] += 1
        q = me.prev


@inline
def finish_decodes(s, r, now):
    """End the decodes of a step of a rank: sequences get tokens, and completed sequences leave."""
    rank = s.rank[r]
    if rank.batch:
        count_gap(s, r, now - last_decode(s, r), 1)
        if rank.fresh:
            fresh_gaps(s, r, now)
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
    elif s.pool[rank.pool].mixes:
        rank.last_s = now


@inline
def finish_rank(s, i, r, now):
    """End the step of a rank: sequences get tokens, and completed sequences leave."""
    rank, instance = s.rank[r], s.instance[i]
    pool = s.pool[rank.pool]
    finish_decodes(s, r, now)
    q = rank.prefill
    while q >= 0:
        me = s.request[q]
        follower = me.next
        me.computed += me.chunk
        rank.prefill_tokens += me.chunk
        if pool.prefix and not pool.mixes:
            store(s, r, q, me.computed, now)
        if me.computed == me.goal and not me.failed:
            if rank.prefill == q:
                rank.prefill = follower
            else:
                to_decodes(s, r, q)
            instance.anchored = 0
            produce_first(s, r, q, now)
        elif me.chunk:
            rank.full = 0
        me.chunk = 0
        q = follower


@jit
def drop_cancelled(s, r, now):
    """End the running requests that were cancelled, and those whose blocks could not be read from a KV tier."""
    rank = s.rank[r]
    q = rank.first
    while q >= 0:
        follower = s.request[q].next
        me = s.request[q]
        if me.cancelled or me.failed:
            me.end_s = now
            drop(s, r, q, CANCELLED if me.cancelled else FAILED, now)
        q = follower


@inline
def finish(s, i, now):
    """End all planned steps of an instance."""
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
