# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Requests leave the engine, and the client sends the requests that waited for them."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import COMPLETED, PENDING, inline, jit
from tokenworks.engine.kernel.cache import unlock
from tokenworks.engine.kernel.lists import unlink
from tokenworks.engine.kernel.queue import requeue
from tokenworks.engine.kernel.tokens import blocks_for, release, stop_decoding


@inline
def sooner(one, other):
    """Whether request `one` arrives before `other`: by time, then by number."""
    return one.sent_s < other.sent_s or (one.sent_s == other.sent_s and one.number < other.number)


@inline
def push_heap(s, q):
    """Add a request to the heap of arrivals, by (time, number)."""
    heap, request = s.heap, s.request
    at = s.world[0].heaped
    s.world[0].heaped += 1
    while at > 0:
        up = (at - 1) >> 1
        other = heap[up]
        if sooner(request[other], request[q]):
            break
        heap[at] = other
        at = up
    heap[at] = q


@jit
def pop_heap(s):
    """Remove the first request from the heap of arrivals."""
    heap, request = s.heap, s.request
    s.world[0].heaped -= 1
    count = s.world[0].heaped
    q = heap[count]
    at = 0
    while 2 * at + 1 < count:
        down = 2 * at + 1
        if down + 1 < count:
            down += sooner(request[heap[down + 1]], request[heap[down]])
        other = heap[down]
        if sooner(request[q], request[other]):
            break
        heap[at] = other
        at = down
    heap[at] = q


@inline
def retire(s, q):
    """Append `q` to the list of ended requests. No other list holds it any more."""
    world = s.world[0]
    s.request[q].next = world.ended_last
    world.ended_last = q
    world.ended += 1


@jit
def forget(s, q):
    """`q` has ended without completing, so its followers, and their followers, are never sent."""
    retire(s, q)
    s.request[q].prev = -1
    todo = q
    while todo >= 0:
        child, todo = s.request[todo].child, s.request[todo].prev
        while child >= 0:
            me = s.request[child]
            retire(s, child)
            me.doomed, me.prev = 2, todo
            todo = child
            child = me.cnext


@inline
def send(s, q, now):
    """The client has a slot for `q` and sends it now; `q` reaches a rank `request_s` later."""
    me = s.request[q]
    me.gated, me.sent_s = 0, now + s.world[0].request_s
    push_heap(s, q)


@jit
def open_gate(s, now):
    """A slot of the client becomes free: the client sends the next request that waits at the gate, if any."""
    world = s.world[0]
    while world.gate >= 0:
        q = world.gate
        me = s.request[q]
        world.gate = me.next
        if world.gate < 0:
            world.gate_last = -1
        if me.status == PENDING:
            send(s, q, now)
            return
        forget(s, q)
    world.flying -= 1


@inline
def free_later(s, time):
    """A slot of the client becomes free at `time`; `freed_s` lists such times, the latest first."""
    at = s.world[0].freed
    s.world[0].freed += 1
    while at > 0 and s.freed_s[at - 1] < time:
        s.freed_s[at] = s.freed_s[at - 1]
        at -= 1
    s.freed_s[at] = time


@inline
def pay(s, q):
    """The router no longer counts the prompt of `q`: its first token is out, or will never come."""
    me = s.request[q]
    if me.owed:
        s.rank[me.route].owed -= me.owed
        me.owed = 0


@inline
def end(s, q, status, now):
    """End `q`: its later turns are scheduled, and its slot of the client becomes free."""
    me = s.request[q]
    me.status, me.end_s = status, now + me.lag_s
    pay(s, q)
    if status == COMPLETED:
        retire(s, q)
        child = me.child
        while child >= 0:
            follower = s.request[child].cnext
            if s.request[child].status == PENDING:
                s.request[child].sent_s += me.end_s
                push_heap(s, child)
            else:
                forget(s, child)
            child = follower
    else:
        forget(s, q)
    if s.world[0].concurrency:
        if me.lag_s:
            free_later(s, me.end_s)  # the client sees the end only then
        else:
            open_gate(s, now)


@inline
def leave_running(s, r, q):
    """Remove `q` from the running list."""
    rank = s.rank[r]
    if rank.prefill == q:
        rank.prefill = s.request[q].next
    first, last = unlink(s.request, q, rank.first, rank.last)
    rank.first, rank.last = first, last
    rank.running -= 1
    rank.full = 0


@inline
def drop(s, r, q, status, now):
    """Remove the running `q` from its rank and end it."""
    me, rank = s.request[q], s.rank[r]
    blocks = np.int64(me.blocks)
    if me.decoding:
        stop_decoding(s, r, q)
        blocks = blocks_for(s.pool[rank.pool], np.int64(me.computed))
    leave_running(s, r, q)
    rank.load -= 1
    rank.cancels -= me.cancelled + me.failed
    release(s, r, q, blocks, now)
    end(s, q, status, now)


@jit
def preempt(s, r, q, blocks, now):
    """Free the blocks of the running `q` and queue it again. Its tokens will be prefilled again."""
    me, rank = s.request[q], s.rank[r]
    if me.decoding:
        stop_decoding(s, r, q)
    leave_running(s, r, q)
    pool = s.pool[rank.pool]
    if pool.prefix and not pool.mixes:
        unlock(s, r, q, blocks)
    else:
        release(s, r, q, blocks, now)
    me.computed, me.goal = 0, me.input + me.generated
    me.preemptions += 1
    rank.preemptions += 1
    rank.preempted = 1
    requeue(s, r, q, now)
