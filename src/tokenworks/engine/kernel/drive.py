# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Entry points of the kernel: play events up to a time, play an outside event, sample, collect ended requests."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel import outside
from tokenworks.engine.kernel.base import (
    CHANGES_FULL,
    DONE,
    EVENTS_FULL,
    FETCHED,
    FOLLOW,
    FREED,
    LOAD,
    NEVER,
    OPEN,
    OUTSIDE,
    PENDING,
    REJECTED,
    SERIES_FULL,
    STEP,
    UNCHAINED,
    apart,
    entry,
    inline,
)
from tokenworks.engine.kernel.faults import begin_pause
from tokenworks.engine.kernel.finish import enqueue, finish, hide
from tokenworks.engine.kernel.leave import end, forget, open_gate, pop_heap, push_heap, send, sooner
from tokenworks.engine.kernel.lists import pop_load
from tokenworks.engine.kernel.losses import send_again
from tokenworks.engine.kernel.memory import state_at
from tokenworks.engine.kernel.prefetch import land, prefetch, remove_flow
from tokenworks.engine.kernel.queue import join_after_prefetch
from tokenworks.engine.kernel.route import hear, route
from tokenworks.engine.kernel.steps import interrupt, plan, settle, turn_passed
from tokenworks.engine.kernel.tiers import flush
from tokenworks.engine.kernel.transfer import fetch, loaded


@inline
def reach_gate(s, q, now):
    """`q` reaches the client's gate: the client sends it, if it has a slot."""
    world = s.world[0]
    if world.flying < world.concurrency:
        world.flying += 1
        send(s, q, now)
        return
    s.request[q].next = -1
    if world.gate >= 0:
        s.request[world.gate_last].next = q
    else:
        world.gate = q
    world.gate_last = q


@inline
def waits_at_door(s, q, now):
    """Whether `q` must wait because the front end still accepts the requests before it."""
    world, me = s.world[0], s.request[q]
    if world.accept_s == 0.0 or me.accepted:
        return False
    me.accepted = 1
    begin = max(now, world.door_s)
    world.door_s = begin + world.accept_s
    if begin <= now:
        return False
    me.late_s, me.sent_s = begin - now, begin
    push_heap(s, q)
    return True


@inline
def reject(s, q, now):
    """Refuse `q`. It may have output tokens from a rank that was lost."""
    s.loss[s.request[q].at].output_tokens += s.request[q].generated
    end(s, q, REJECTED, now)


@inline
def is_sent(s, q, now):
    """Whether `q` goes to the router now: the client has sent it, and the front end has taken it."""
    world, me = s.world[0], s.request[q]
    if me.status != PENDING:
        forget(s, q)
        if not me.gated:
            open_gate(s, now)
        return False
    if world.concurrency and me.gated:
        reach_gate(s, q, now)
        return False
    if waits_at_door(s, q, now):
        return False
    me.sent_s, me.goal = now - world.request_s - me.late_s, me.input
    world.sent += 1
    if me.doomed:
        end(s, q, REJECTED, now)
        return False
    return True


@inline
def arrive(s, q, now):
    """A request reaches the client's gate, or a rank if the client has sent it."""
    me = s.request[q]
    if me.lost:
        if not send_again(s, q, now):
            return
    elif not is_sent(s, q, now):
        return
    r = route(s, q, now)
    if r < 0:
        reject(s, q, now)
        return
    me.route = r
    s.rank[r].owed += me.owed
    most = s.pool[0].max_queue
    if most and s.rank[r].waiting + s.rank[r].unseen >= most:
        reject(s, q, now)
        return
    if s.world[0].prefetched and prefetch(s, r, q, now):
        return
    if s.pool[0].receive > 1 and s.instance[s.rank[r].instance].planned:
        hide(s, r, q, now)
    else:
        enqueue(s, r, q, now)


@apart
def fetched(s, flow, now):
    """A prefetch has ended, or its request has waited long enough and is queued."""
    q, tier = s.flow[flow].slot, s.flow[flow].tier
    me = s.request[q]
    r = me.route
    if tier < s.world[0].tiers:
        land(s, r, flow, now)
        remove_flow(s, flow)
        flush(s, r, now)
        return
    remove_flow(s, flow)
    me.unseen = 0
    s.rank[r].unseen -= 1
    join_after_prefetch(s, r, q)
    interrupt(s, s.rank[r].instance, now)


@inline
def settle_all(s, time):
    """Count the planned steps that end up to and including `time` as ended, for all instances."""
    for i in range(len(s.instance)):
        if s.instance[i].planned > 1:
            settle(s, i, time, True)


@inline
def sample_at(s, time, close):
    """Write a row of the series: levels at `time`, and counts since the last window closed."""
    world = s.world[0]
    settle_all(s, time)
    running = waiting = used = output = prefill = np.int64(0)
    for r in range(len(s.rank)):
        rank = s.rank[r]
        running += rank.running + rank.loading + rank.readied
        waiting += rank.waiting + rank.unseen
        used += s.pool[rank.pool].kv_blocks - rank.free
        output += rank.output_tokens
        prefill += rank.prefill_tokens
    row = world.rows
    s.series[row, 0], s.series[row, 1], s.series[row, 2] = running, waiting, used
    s.series[row, 3], s.series[row, 4] = output - world.seen_output, prefill - world.seen_prefill
    if close:
        world.rows += 1
        world.seen_output, world.seen_prefill = output, prefill


@inline
def close_windows(s, limit):
    """Close the windows that end before `limit`. Returns False if the series is full."""
    world = s.world[0]
    while world.window_s > 0.0 and limit < NEVER and (world.rows + 1) * world.window_s < limit:
        if world.rows == len(s.series) - 1:
            return False
        sample_at(s, (world.rows + 1) * world.window_s, True)
    return True


@inline
def next_event(s):
    """The next event: its kind, its time, and its instance or request.

    Order at the same time: free slots of the client, arrivals, KV transfers and loads, prefetches, ends of steps,
    events from outside.
    """
    world = s.world[0]
    kind, time, whose = STEP, s.instance[0].end_s, 0
    for i in range(1, len(s.instance)):
        if s.instance[i].end_s < time:
            time, whose = s.instance[i].end_s, i
    if world.flows and s.flow[s.flow_heap[0]].time <= time:
        kind, time, whose = FETCHED, s.flow[s.flow_heap[0]].time, s.flow_heap[0]
    if world.loads and s.load_s[0] <= time:
        kind, time, whose = LOAD, s.load_s[0], s.load[0]
    if world.opened < len(s.open):
        q = s.open[world.opened]
        if s.request[q].sent_s <= time:
            kind, time, whose = OPEN, s.request[q].sent_s, q
    if world.heaped:
        q = s.heap[0]
        at = s.request[q].sent_s
        if at < time or (at == time and (kind != OPEN or sooner(s.request[q], s.request[whose]))):
            kind, time, whose = FOLLOW, at, q
    if world.outside < len(s.outside) and s.outside[world.outside].time < time:
        kind, time = OUTSIDE, s.outside[world.outside].time
    if world.freed and s.freed_s[world.freed - 1] <= time:
        kind, time = FREED, s.freed_s[world.freed - 1]
    return kind, time, whose


@inline
def play(s, kind, time, whose):
    """Play one event."""
    world = s.world[0]
    world.now = time
    if kind == STEP:
        world.stepped_s, world.stepped = time, whose
        finish(s, whose, time)
        if s.instance[whose].pause_s > 0.0:
            begin_pause(s, whose, time)
            return
        plan(s, whose, time)
        if s.instance[whose].load >= 0:
            fetch(s, whose, time)
    elif kind == LOAD:
        pop_load(s)
        loaded(s, whose, time)
    elif kind == FETCHED:
        fetched(s, whose, time)
    elif kind == OUTSIDE:
        settle_all(s, time)
        outside.play_outside(s, time)
    elif kind == FREED:
        world.freed -= 1
        open_gate(s, time)
    else:
        if kind == OPEN:
            world.opened += 1
        else:
            pop_heap(s)
        arrive(s, whose, time)


@entry
def advance(table, until, sent):
    """Play all events up to and including `until`.

    Stop earlier, right after the `sent`-th request has reached a rank, before other events at the same time. Returns
    DONE, or SERIES_FULL, EVENTS_FULL or CHANGES_FULL: the caller must enlarge that buffer and call again.
    UNCHAINED: the ids of blocks are no chained hashes, so the memory for their names does not suffice.
    """
    s = state_at(table)
    world = s.world[0]
    while True:
        if world.unchained:
            return UNCHAINED
        if world.sent >= sent:
            for i in range(len(s.instance)):
                if s.instance[i].planned > 1:
                    settle(s, i, world.now, turn_passed(s, i, world.now))
            return DONE
        kind, time, whose = next_event(s)
        if not close_windows(s, min(time, until)):
            return SERIES_FULL
        if time > until or time == NEVER:
            break
        if world.emit and len(s.event) - world.events < world.events_spare:
            hear(s, time)  # else the ring would grow while no request arrives
            if len(s.event) - world.events < world.events_spare:
                return EVENTS_FULL
        if world.listed and len(s.change) - world.changes < world.changes_spare:
            return CHANGES_FULL
        play(s, kind, time, whose)
    if until < NEVER:
        world.now = until
        settle_all(s, until)
    return DONE


@entry
def sample(table, time):
    """Write a row of the series for a window that is still open."""
    sample_at(state_at(table), time, False)


@entry
def cancel(table, q):
    """Withdraw a request now."""
    s = state_at(table)
    outside.cancel(s, q, s.world[0].now)


@entry
def collect(table, slots):
    """Fill `slots` with the requests that have ended since the last call, in the order of their ends."""
    s = state_at(table)
    world = s.world[0]
    q = world.ended_last
    for i in range(len(slots) - 1, -1, -1):
        slots[i] = q
        q = s.request[q].next
    world.ended_last = -1
