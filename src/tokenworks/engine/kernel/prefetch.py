# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: PLR0917 compiled functions have no keyword-only arguments
"""Prefetches from KV tiers to their gateways (rule 6 in `tiers`), and the heap of their ends."""

from __future__ import annotations

import math

import numpy as np

from tokenworks.engine.kernel.base import QUEUED, apart, inline
from tokenworks.engine.kernel.loads import copy, fails, forget_look, hit, look, part_of, read
from tokenworks.engine.kernel.names import place_of
from tokenworks.engine.kernel.queue import take_place
from tokenworks.engine.kernel.runs import follow, follow_all, new_run
from tokenworks.engine.kernel.tiers import after_hbm, flush
from tokenworks.engine.tier_state import PREFETCHES

WAIT, TIMEOUT = PREFETCHES["wait"], PREFETCHES["timeout"]
ROUNDING = 1e-6


@inline
def ends_first(one, other):
    """Whether a flow ends before another: by time, then by number of the request, then by tier."""
    if one.time != other.time:
        return one.time < other.time
    if one.number != other.number:
        return one.number < other.number
    return one.tier < other.tier


@apart
def rise(s, at, flow):
    """Put a flow into the heap, at the place `at` or above it."""
    while at > 0:
        up = (at - 1) >> 1
        other = s.flow_heap[up]
        if ends_first(s.flow[other], s.flow[flow]):
            break
        s.flow_heap[at], s.flow[other].place = other, at
        at = up
    s.flow_heap[at], s.flow[flow].place = flow, at


@apart
def remove_flow(s, flow):
    """Remove a flow from the heap and from the list of its request."""
    world, me = s.world[0], s.flow[flow]
    world.flows -= 1
    count, at = world.flows, np.int64(me.place)
    last = s.flow_heap[count]
    if last != flow:
        while 2 * at + 1 < count:
            down = 2 * at + 1
            if down + 1 < count and ends_first(s.flow[s.flow_heap[down + 1]], s.flow[s.flow_heap[down]]):
                down += 1
            other = s.flow_heap[down]
            s.flow_heap[at], s.flow[other].place = other, at
            at = down
        rise(s, at, last)
    q = me.slot
    if s.request[q].flows == flow + 1:
        s.request[q].flows = me.follower
    else:
        other = s.request[q].flows
        while s.flow[other - 1].follower != flow + 1:
            other = s.flow[other - 1].follower
        s.flow[other - 1].follower = me.follower
    me.follower = world.flow_spare
    world.flow_spare = flow + 1


@apart
def add_flow(s, q, time, tier, blocks, low, failed):
    """Note a prefetch of `q`, as the last one in its list."""
    world = s.world[0]
    if world.flow_spare:
        flow = world.flow_spare - 1
        world.flow_spare = s.flow[flow].follower
    else:
        flow = world.flow_fresh
        world.flow_fresh += 1
    me = s.flow[flow]
    me.time, me.number, me.slot, me.tier, me.blocks = time, s.request[q].number, q, tier, blocks
    me.low, me.failed, me.follower = low, failed, 0
    other = s.request[q].flows
    if other == 0:
        s.request[q].flows = flow + 1
    else:
        while s.flow[other - 1].follower:
            other = s.flow[other - 1].follower
        s.flow[other - 1].follower = flow + 1
    world.flows += 1
    rise(s, world.flows - 1, flow)


@apart
def hit_all(s, r, t, low, high, now):
    """The blocks of the names `low` to `high` - 1 that come from tier t count as used, the last one first."""
    at = high - 1
    while at >= low:
        begin, i = part_of(s, low, at)
        if s.origin[at] == t + 1:
            hit(s, r, t, s.held[at], i + begin - at, i + 1, now)
        at = begin - 1


@apart
def prefetch(s, r, q, now):
    """Start the prefetches of `q`, which reaches a rank. Returns whether `q` waits for them."""
    world, me = s.world[0], s.request[q]
    first = s.offsets[q]
    most = min((me.goal - 1) // s.pool[0].block_tokens, s.named[q])
    known = np.int64(0)
    while known < most and s.table[place_of(s, r, s.ids[first + known])] >= 0:
        known += 1
    run, i = after_hbm(s, r, q, known)
    found = look(s, r, q, known, most, (1 << world.tiers) - 1, run, i, True)
    due = now
    for t in range(world.tiers):
        tier = s.tier[t]
        blocks = tier.found
        if not world.prefetched >> t & 1 or blocks == 0:
            continue
        hit_all(s, r, t, first + known, first + known + found, now)
        failed = fails(s, t)
        tier.failed += failed
        end = read(s, r, t, blocks, now)
        add_flow(s, q, end, t, blocks, known, failed)
        if tier.prefetch == WAIT:
            due = max(due, end)
        elif tier.prefetch == TIMEOUT:
            due = max(due, min(end, now + tier.timeout_s))
    forget_look(s, first + known, first + known + found)
    flush(s, r, now)
    if due <= now:
        return False
    add_flow(s, q, due, world.tiers, 0, 0, False)
    take_place(s, r, q, now)
    me.at, me.status, me.unseen = r, QUEUED, 2
    s.rank[r].load += 1
    s.rank[r].unseen += 1
    return True


@inline
def arrived(tier, flow, now):
    """Blocks of a prefetch that have arrived; one arrives each `slowest_s`, the last one at the end of the flow."""
    if flow.failed:
        return np.int64(0)
    if now >= flow.time:
        return np.int64(flow.blocks)
    if tier.slowest_s == 0.0:
        return np.int64(0)
    return max(np.int64(0), flow.blocks - np.int64(math.ceil((flow.time - now) / tier.slowest_s - ROUNDING)))


@apart
def look_again(s, q, low, high):
    """Set `held` of the names `low` to `high` - 1 of `q` to their runs, as a lookup does; unknown ones get a run."""
    first, last = s.offsets[q], np.int64(0)
    run, i = follow_all(s, q, low - first)
    for at in range(low, high):
        run, i = follow(s, run, i, s.ids[at])
        if run == 0:
            run = new_run(s, q, at - first)
        elif run == last and i == 0:
            run = np.int64(0)
        if at == low:
            s.world[0].looked = i
        if run and run != last:
            s.run[run].users += 1
        s.held[at] = last = run


@apart
def land(s, r, flow, now):
    """The blocks of a prefetch that have arrived enter the gateway. Returns their number."""
    me = s.flow[flow]
    tier = s.tier[me.tier]
    blocks = arrived(tier, me, now)
    if blocks:
        low, count = s.offsets[me.slot] + me.low, blocks
        high = low
        while count:
            count -= s.origin[high] == me.tier + 1
            high += 1
        look_again(s, me.slot, low, high)
        copy(s, r, tier.gateway, me.tier, low, high, now)
        forget_look(s, low, high)
    tier.hits += blocks
    return blocks


@apart
def cut(s, r, q, now):
    """Admission ends the prefetches of `q`; blocks that have not arrived are dropped."""
    while s.request[q].flows:
        flow = s.request[q].flows - 1
        s.tier[s.flow[flow].tier].late += s.flow[flow].blocks - land(s, r, flow, now)
        remove_flow(s, flow)


@apart
def drop_flows(s, q):
    """`q` ends, and its prefetches with it."""
    while s.request[q].flows:
        remove_flow(s, s.request[q].flows - 1)
