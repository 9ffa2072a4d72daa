# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: PLR0917 compiled functions have no keyword-only arguments
"""Lookups in KV tiers, and flows out of them (rules 1, 2 and 7 in `tiers`)."""

from __future__ import annotations

import math

import numpy as np

from tokenworks.engine.kernel.base import apart, inline
from tokenworks.engine.kernel.eviction import use
from tokenworks.engine.kernel.extents import GHOSTS, find, is_held
from tokenworks.engine.kernel.names import mixed
from tokenworks.engine.kernel.runs import find_cell, follow, leave_run
from tokenworks.engine.kernel.tiers import index_of, occupy, run_errands, send, through, write_nodes


@apart
def look(s, r, q, known, most, tiers, run, i, note):
    """Look up the blocks of `q` from `known` on in `tiers`. Returns their number.

    Block i of `run` is the one before them. With `note`, set the run of each block in `held`, its tier in `origin`, the
    place of the first one in its run in `World.looked`, and `found` of each tier: the number of blocks that it serves.
    The runs stay until `forget_look`.
    """
    world, first, last = s.world[0], s.offsets[q], np.int64(0)
    for t in range(world.tiers):
        s.tier[t].found = 0
    k = known
    while k < most:
        run, i = follow(s, run, i, s.ids[first + k])
        if run == 0 or (run == last and i == 0):
            break
        if run != last:
            for g in range(world.tier_groups):
                s.group[g].cell = find_cell(s, index_of(s, g, r), run)
        t = 0
        while t < world.tiers:
            c = s.group[s.tier[t].group].cell
            if tiers >> t & 1 and c and is_held(s, t, c, i):
                break
            t += 1
        if t == world.tiers:
            break
        if note:
            s.tier[t].found += 1
            s.held[first + k], s.origin[first + k] = run, t + 1
            if run != last:
                s.run[run].users += 1
            if k == known:
                world.looked = i
        last = run
        k += 1
    return k - known


@apart
def forget_look(s, low, high):
    """Let go of the runs of the names `low` to `high` - 1, which a lookup has found."""
    for at in range(low, high):
        if s.held[at] and (at == low or s.held[at] != s.held[at - 1]):
            leave_run(s, s.held[at], 1)


@inline
def part_of(s, low, at):
    """The names up to `at`, in a lookup that began at `low`, which belong to one run and to one tier.

    Returns the first one of them, and the place of `at` in the run.
    """
    begin = at
    while begin > low and s.held[begin - 1] == s.held[at]:
        begin -= 1
    i = at - begin + (s.world[0].looked if begin == low else np.int64(0))
    same = at
    while same > begin and s.origin[same - 1] == s.origin[at]:
        same -= 1
    return same, i


@apart
def hit(s, r, t, run, lo, hi, now):
    """A tier serves blocks `lo` to `hi` - 1 of a run: they count as used there, unless they have left the tier."""
    tier = s.tier[t]
    x = index_of(s, tier.group, r)
    store = s.store[tier.first_store + x]
    while hi > lo:
        c = find_cell(s, x, run)
        e = find(s, c, t, hi - 1) if c else np.int64(0)
        if e == 0:
            return
        me = s.extent[e]
        if me.hi < hi:
            hi = np.int64(me.hi)
            continue
        low = max(lo, me.lo)
        if me.list < GHOSTS:
            uses = min(me.uses + 1, tier.most_uses)
            use(s, t, store, e, low, hi, uses)
            if tier.through:
                send(s, through(s, tier.through, uses), run, low, hi, False, True)
                run_errands(s, r, now)
        hi = low


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
def copy(s, r, gateway, t, low, high, now):
    """The gateway gets those blocks of the names `low` to `high` - 1 that come from tier t, the last one first."""
    if s.tier[gateway].blocks == 0:
        return
    at = high - 1
    while at >= low:
        begin, i = part_of(s, low, at)
        if s.origin[at] == t + 1 and s.held[at]:
            send(s, 1 << gateway, s.held[at], i + begin - at, i + 1, False, False)
            run_errands(s, r, now)
        at = begin - 1


@apart
def load(s, r, q, known, found, now):
    """Book the flows of the `found` blocks of `q` that `look` found after the first `known` ones.

    Returns how many blocks they bring, the end of the last flow [s], and whether a flow failed.
    """
    world, me, first = s.world[0], s.request[q], s.offsets[q] + known
    high = first + found
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
                copy(s, r, place, t, first, high, now)
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
    low = first + known
    at = low + blocks - 1
    while at >= low:
        begin, i = part_of(s, low, at)
        hit(s, r, s.origin[at] - 1, s.held[at], i + begin - at, i + 1, now)
        at = begin - 1
    forget_look(s, low, low + blocks)
    if world.counts:
        for at in range(low - 1, first - 1, -1):
            s.node_uses[s.held[at]] += 1
            write_nodes(s, r, at, at + 1, through(s, world.through, s.node_uses[s.held[at]]), now)
    elif world.through:
        write_nodes(s, r, first, low, world.through, now)
