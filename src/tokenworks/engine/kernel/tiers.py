# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: PLR0917 compiled functions have no keyword-only arguments
"""Blocks enter, are used in, and leave the KV tiers below HBM (rules 4, 5 and 8 in `tiers`), and writes are booked.

Each tier gets blocks from one source only. So a block that enters or leaves a store causes at most one change in each
later tier, and the order in which these errands are done changes nothing. Blocks of a run are written together, the
last one first.
"""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import apart, inline
from tokenworks.engine.kernel.codes import ENTERED, LEFT
from tokenworks.engine.kernel.eviction import LRU, enter, evict_first, use
from tokenworks.engine.kernel.extents import GHOSTS, find, held_from
from tokenworks.engine.kernel.memory import fetch
from tokenworks.engine.kernel.names import emit, list_change, place_of
from tokenworks.engine.kernel.runs import find_cell, follow, follow_all, leave_run, name_of, new_run


@inline
def index_of(s, g, r):
    """Number of the index that a rank uses for a group of tiers."""
    return s.shelf[g * s.world[0].tier_ranks + r]


@apart
def through(s, tiers, uses):
    """Those of `tiers` that a block is written through to after so many uses."""
    wanted = 0
    for t in range(s.world[0].tiers):
        if tiers >> t & 1 and uses >= s.tier[t].uses:
            wanted |= 1 << t
    return wanted


@apart
def stored_from(s, r, run, i):
    """The first one of the blocks up to i of a run that an own store of a rank holds; i + 1 = none holds i (rule 8)."""
    for g in range(s.world[0].tier_groups):
        x = index_of(s, g, r)
        if s.alone[x]:
            low = held_from(s, g, x, run, i)
            if low <= i:
                return low
    return i + 1


@inline
def is_in_hbm(s, r, run, i):
    """Whether HBM of a rank holds block i of a run. A block that `let_gone` deals with counts: it tells the router."""
    world = s.world[0]
    if world.gone_run == run and world.gone_lo <= i < world.gone_hi:
        return True
    return s.table[place_of(s, r, name_of(s, run, i))] >= 0


@apart
def send(s, tiers, run, lo, hi, known, written):
    """Note that each of `tiers` is to get blocks `lo` to `hi` - 1 of a run, which stays until then.

    `known`: HBM of the rank has the blocks, or had them just now. `written`: over the write lanes of the tier.
    """
    world = s.world[0]
    for t in range(world.tiers):
        if tiers >> t & 1:
            errand = s.errand[world.errands]
            world.errands += 1
            errand.tier, errand.run, errand.lo, errand.hi = t, run, lo, hi
            errand.known, errand.written = known, written
            s.run[run].users += 1


@apart
def list_blocks(s, r, kind, t, run, lo, hi, now):
    """List that blocks entered or left a store of tier t, for a caller that wants to hear of it."""
    for i in range(lo, hi):
        list_change(s, r, kind, name_of(s, run, i), t, i, now)


@inline
def lose(s, r, t, x, run, lo, hi, now):
    """Blocks have left the store of tier t in index x, and go on to the tiers behind it."""
    tier, world = s.tier[t], s.world[0]
    mine, in_hbm = s.group[tier.group].tiers, s.run[run].users > 1  # 1: `enter` is a user
    tier.evictions += hi - lo
    if world.listed:
        list_blocks(s, r, LEFT, t, run, lo, hi, now)
    if tier.back:
        send(s, tier.back, run, lo, hi, False, True)
        if tier.back & mine:
            return
    if not (world.emit and s.alone[x]):
        return
    elsewhere = world.alone > 1 or mine != 1 << t
    for i in range(hi - 1, lo - 1, -1):
        if not (elsewhere and stored_from(s, r, run, i) <= i) and not (in_hbm and is_in_hbm(s, r, run, i)):
            emit(s, r, name_of(s, run, i), 0, now)


@inline
def arrive(s, r, t, x, store, c, errand, low, now):
    """The last blocks of an errand, from `low` on, enter a store. c: the cell of their run, or 0.

    Returns run, begin and end of blocks that were evicted for them; run 0 = there are none.
    """
    world, tier, run, hi = s.world[0], s.tier[t], errand.run, errand.hi
    errand.hi = low
    if errand.written:
        s.pending[r * world.tiers + t] += hi - low
        world.due_writes += hi - low
    if world.listed:
        list_blocks(s, r, ENTERED, t, run, low, hi, now)
    if world.emit and not errand.known and s.alone[x]:
        for i in range(hi - 1, low - 1, -1):
            if held_from(s, tier.group, x, run, i) > i and not is_in_hbm(s, r, run, i):
                emit(s, r, name_of(s, run, i), 1, now)
    return enter(s, t, x, store, run, c, low, hi)


@apart
def do_part(s, r, now):
    """Do a part of the last errand: the blocks from its end on that a store has in one extent, or has not.

    By LRU blocks may enter a full store. Each further call then evicts blocks that leave together.
    """
    world = s.world[0]
    errand = s.errand[world.errands - 1]
    t, run, lo, hi = errand.tier, errand.run, errand.lo, errand.hi
    tier = s.tier[t]
    x = index_of(s, tier.group, r)
    store = s.store[tier.first_store + x]
    low, victim, begin, end = hi, np.int64(0), np.int64(0), np.int64(0)
    if store.used <= tier.blocks:
        c = find_cell(s, x, run)
        e = find(s, c, t, hi - 1) if c else np.int64(0)
        me = s.extent[e]
        if e and me.hi >= hi and me.list < GHOSTS:
            errand.hi = max(lo, me.lo)
            use(s, t, store, e, errand.hi, hi, me.uses)
        else:
            low = (max(lo, me.hi) if e else lo) if tier.eviction == LRU else hi - 1
            victim, begin, end = arrive(s, r, t, x, store, c, errand, low, now)
    if store.used > tier.blocks:
        victim, begin, end = evict_first(s, t, store)
    done = errand.hi == lo and store.used <= tier.blocks
    world.errands -= done
    if low < hi and tier.through:
        send(s, through(s, tier.through, 1), run, low, hi, False, True)
    if victim:
        lose(s, r, t, x, victim, begin, end, now)
        leave_run(s, victim, 1)
    if done:
        leave_run(s, run, 1)


@inline
def run_errands(s, r, now):
    """Let tiers get the blocks that are meant for them, and later tiers those that these got or lost."""
    while s.world[0].errands:
        do_part(s, r, now)


# ---- HBM


@inline
def write(s, r, run, lo, hi, tiers, now):
    """Write blocks of HBM, or blocks that have just left it, to `tiers`."""
    send(s, tiers, run, lo, hi, True, True)
    run_errands(s, r, now)


@inline
def before(s, q, i):
    """Run and place of the block before block i of `q`, which HBM holds; run 0 = there is none."""
    if i == 0:
        return np.int64(0), np.int64(0)
    node = s.held[s.offsets[q] + i - 1]
    if node >= 0:
        return s.node_run[node], s.node_block[node]
    return follow_all(s, q, i)


@apart
def after_hbm(s, r, q, known):
    """Run and place of the last one of the first `known` blocks of `q`, which HBM of a rank holds; run 0 = no block."""
    if known == 0:
        return np.int64(0), np.int64(0)
    node = s.table[place_of(s, r, s.ids[s.offsets[q] + known - 1])]
    return s.node_run[node], s.node_block[node]


@apart
def stored(s, r, q, low, high, now):
    """Blocks of `q` from `low` to `high` have entered HBM; `held` is below 0 where HBM had the name before."""
    world, first = s.world[0], s.offsets[q]
    run, i = before(s, q, low)
    for k in range(low, high):
        node = s.held[first + k]
        run, i = follow(s, run, i, s.ids[first + k])
        if node < 0:
            continue
        if run == 0:
            run = new_run(s, q, k)
        s.node_run[node], s.node_block[node] = run, i
        s.run[run].users += 1
        if world.counts:
            s.node_uses[node] = 1
    if world.through:
        written = through(s, world.through, 1)
        if written:
            write_nodes(s, r, first + low, first + high, written, now)


@apart
def write_nodes(s, r, low, high, tiers, now):
    """Write the blocks in HBM of the names `low` to `high` - 1 to `tiers`, the last one first."""
    at = high - 1
    while at >= low:
        node = s.held[at]
        at -= 1
        if node < 0 or s.node_run[node] == 0:
            continue
        run, lo = s.node_run[node], s.node_block[node]
        hi = lo + 1
        while at >= low and lo > 0:
            node = s.held[at]
            if node < 0 or s.node_run[node] != run or s.node_block[node] != lo - 1:
                break
            lo -= 1
            at -= 1
        write(s, r, run, lo, hi, tiers, now)


@apart
def gone(s, r, node, now):
    """A block is about to leave HBM of a rank. Blocks of a run that leave one after the other go on together.

    Blocks that left before go on first, while HBM still has this block: what they evict from the stores may be this
    block, which the rank then holds without a break.
    """
    world = s.world[0]
    run, i = s.node_run[node], s.node_block[node]
    if run == 0:
        emit(s, r, s.node[node].name, 0, now)
        return
    if world.gone_run == run and world.gone_lo == i + 1:
        world.gone_lo = i
        return
    fetch(s.run, run)
    let_gone(s, r, now)
    world.gone_run, world.gone_lo, world.gone_hi = run, i, i + 1


@apart
def let_gone(s, r, now):
    """Let the blocks that have left HBM of a rank go on."""
    world = s.world[0]
    run, lo, hi = world.gone_run, world.gone_lo, world.gone_hi
    if run == 0:
        return
    if world.back:
        write(s, r, run, lo, hi, world.back, now)
    if world.emit:
        i = hi - 1
        while i >= lo:
            low = stored_from(s, r, run, i) if world.alone else i + 1
            if low > i:
                emit(s, r, name_of(s, run, i), 0, now)
            i = min(low, i) - 1
    world.gone_run = 0
    leave_run(s, run, hi - lo)


# ---- flows (rule 3)


@apart
def occupy(s, first, count, r, blocks, start):
    """Book a flow of a rank over lanes, from `start` on. Returns its end [s]."""
    end = start
    for at in range(first, first + count):
        lane = s.lane[at]
        link = s.link[s.lane_link[lane.links + r]]
        seconds = blocks * lane.block_s
        link.free_s = max(start, link.free_s) + seconds
        link.busy_s += seconds
        link.flows += 1
        end = max(end, link.free_s)
    return end


@apart
def book_writes(s, r, now):
    """Book the writes of a rank in this event. Returns the end of the writes of blocks that left HBM, -1 = none [s]."""
    world, end = s.world[0], -1.0
    for t in range(world.tiers):
        blocks = np.int64(s.pending[r * world.tiers + t])
        if blocks:
            tier = s.tier[t]
            s.pending[r * world.tiers + t] = 0
            world.due_writes -= blocks
            tier.written_blocks += blocks
            tier.write_s += blocks * s.lane[tier.write].block_s
            done = occupy(s, tier.write, tier.writes, r, blocks, now)
            if world.back >> t & 1:
                end = max(end, done)
    return end


@inline
def flush(s, r, now):
    """Book the writes of a rank in this event, if there are any."""
    if s.world[0].due_writes:
        book_writes(s, r, now)
