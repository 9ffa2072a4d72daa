# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: PLR0917 compiled functions have no keyword-only arguments
"""Lookups in KV tiers, and flows out of them (rules 1, 2 and 7 in `tiers`)."""

from __future__ import annotations

import math

import numpy as np

from tokenworks.engine.kernel.base import apart, inline
from tokenworks.engine.kernel.cells import RESIDENT, find_cell, is_cell, new_cell
from tokenworks.engine.kernel.eviction import use
from tokenworks.engine.kernel.names import mixed
from tokenworks.engine.kernel.tiers import (
    add,
    index_of,
    occupy,
    run_errands,
    send_on,
    through,
    write_used,
)


@apart
def look(s, r, q, known, most, tiers, note):
    """Look up the blocks of `q` from `known` on in `tiers`. Returns their number.

    With `note`, set `held` and `origin` of each block, and `found` of each tier: the number of blocks that it serves.
    """
    world, first = s.world[0], s.offsets[q]
    for t in range(world.tiers):
        s.tier[t].found = 0
    i = known
    while i < most:
        name, best, cell = s.ids[first + i], np.int64(world.tiers), np.int64(0)
        for g in range(world.tier_groups):
            group = s.group[g]
            if best < group.first_tier:
                break
            if tiers & group.tiers == 0:
                continue
            c = find_cell(s, index_of(s, g, r), name)
            held = s.cell[c + 2] & RESIDENT & tiers if c else np.int64(0)
            if held:
                tier = np.int64(group.first_tier)
                while not held >> tier & 1:
                    tier += np.int64(1)
                if tier < best:
                    best, cell = tier, c
        if best == world.tiers:
            break
        if note:
            s.tier[best].found += 1
            s.held[first + i], s.origin[first + i] = cell, best + 1
        i += 1
    return i - known


@inline
def hit(s, r, t, i, now):
    """A tier serves block i of the list of names: it counts as used there, unless it has left the tier."""
    tier, c = s.tier[t], s.held[i]
    x = index_of(s, tier.group, r)
    if not (is_cell(s, c, x, s.ids[i]) and s.cell[c + 2] >> t & 1):
        return
    use(s, t, s.store[tier.first_store + x], c)
    s.cell[c + tier.field + 2] += 1
    if tier.through:
        send_on(s, through(s, tier.through, s.cell[c + tier.field + 2]), tier.group, c)
        run_errands(s, r, now)


@apart
def fails(s, t):
    """Whether the next read flow of a tier fails: one draw of splitmix64 for each flow of a tier with failures."""
    share = s.tier[t].failures
    if share == 0.0:
        return False
    world = s.world[0]
    world.tier_seed += np.uint64(0x9E3779B97F4A7C15)
    return np.float64(mixed(world.tier_seed) >> np.uint64(11)) * 2.0**-53 < share


@apart
def read(s, r, t, blocks, start):
    """Book a read flow out of a tier. Returns its end [s]."""
    tier = s.tier[t]
    tier.read_blocks += blocks
    tier.read_s += blocks * s.lane[tier.read].block_s
    return occupy(s, tier.read, tier.reads, r, blocks, start) + tier.latency_s


@apart
def copy(s, r, gateway, origin, q, low, count, now):
    """The gateway gets the first `count` blocks of `q` from `low` on that come from a tier, the last one first."""
    tier, first = s.tier[gateway], s.offsets[q]
    if tier.blocks == 0 or count == 0:
        return
    at = first + low
    while True:
        count -= s.origin[at] == origin + 1
        if count == 0:
            break
        at += 1
    x = index_of(s, tier.group, r)
    for i in range(at, first + low - 1, -1):
        if s.origin[i] != origin + 1:
            continue
        c = find_cell(s, x, s.ids[i])
        if c == 0:
            c = new_cell(s, x, s.ids[i], i - first)
        if s.cell[c + 2] >> gateway & 1:
            use(s, gateway, s.store[tier.first_store + x], c)
        else:
            add(s, r, gateway, x, c, False, now)
            run_errands(s, r, now)


@apart
def load(s, r, q, known, now):
    """Book the flows of the blocks of `q` that `look` found.

    Returns how many blocks they bring, the end of the last flow [s], and whether a flow failed.
    """
    world, me, first = s.world[0], s.request[q], s.offsets[q] + known
    end, served, count, failed = now, np.int64(1 << 30), np.int64(0), False
    for t in range(world.tiers):
        blocks = s.tier[t].found
        count += blocks
        if blocks == 0:
            continue
        if math.isnan(me.scheduled_s):
            s.tier[t].hits += blocks
        place, done, bad = np.int64(t), now, False
        while place >= 0 and not bad:
            bad = fails(s, place)
            s.tier[place].failed += bad
            done = read(s, r, place, blocks, done)
            place = np.int64(s.tier[place].gateway)
            if place >= 0 and not bad:
                copy(s, r, place, t, q, known, blocks, now)
        end = max(end, done)
        if bad:
            failed = True
            at = np.int64(0)
            while s.origin[first + at] != t + 1:
                at += 1
            served = min(served, at)
    return min(served, count), end, failed


@apart
def hit_prefix(s, r, q, known, blocks, now):
    """Blocks that an admission has found count as used: `known` in HBM and `blocks` in tiers, the last one first."""
    world, first = s.world[0], s.offsets[q]
    for i in range(first + known + blocks - 1, first + known - 1, -1):
        hit(s, r, s.origin[i] - 1, i, now)
    if world.through:
        for i in range(first + known - 1, first - 1, -1):
            if world.counts:
                s.node_uses[s.held[i]] += 1
            write_used(s, r, s.held[i], now)
