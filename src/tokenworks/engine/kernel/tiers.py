# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: PLR0917 compiled functions have no keyword-only arguments
"""Blocks enter, are used in, and leave the KV tiers below HBM (rules 4, 5 and 8 in `tiers`), and writes are booked.

Each tier gets blocks from one source only. So a block that enters or leaves a store causes at most one change in each
later tier, and the order in which these errands are done changes nothing.
"""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import apart, inline
from tokenworks.engine.kernel.cells import BITS, RESIDENT, find_cell, free_cell, hash_of, is_cell, new_cell
from tokenworks.engine.kernel.eviction import LRU, enter, use
from tokenworks.engine.kernel.names import emit, place_of, slot_of


@inline
def index_of(s, g, r):
    """Number of the index that a rank uses for a group of tiers."""
    return s.shelf[g * s.world[0].tier_ranks + r]


@apart
def send_on(s, tiers, from_group, c):
    """Note that each of `tiers` is to get the block in cell c. Returns whether one of them shares the index of c."""
    world, near = s.world[0], False
    for t in range(world.tiers):
        if tiers >> t & 1:
            errand = s.errand[world.errands]
            world.errands += 1
            errand.tier, errand.name, errand.position = t, s.cell_name[c >> 1], s.cell[c + 3]
            errand.cell = 0
            if s.tier[t].group == from_group:
                errand.cell = c
                near = True
    return near


@apart
def through(s, tiers, uses):
    """Those of `tiers` that a block is written through to after so many uses."""
    wanted = 0
    for t in range(s.world[0].tiers):
        if tiers >> t & 1 and uses >= s.tier[t].uses:
            wanted |= 1 << t
    return wanted


@apart
def is_in_store(s, r, name, but):
    """Whether a store that only this rank has, outside of the index `but`, holds a block (rule 8)."""
    for g in range(s.world[0].tier_groups):
        x = index_of(s, g, r)
        if x != but and s.alone[x]:
            c = find_cell(s, x, name)
            if c and s.cell[c + 2] & RESIDENT:
                return True
    return False


@apart
def lose(s, r, t, x, c, now):
    """A block has left the store of tier t in index x, and goes on to the tiers behind it."""
    tier, world = s.tier[t], s.world[0]
    tier.evictions += 1
    held = s.cell[c + 2] & ~(1 << t)
    s.cell[c + 2] = held
    kept = False
    if tier.back:
        kept = send_on(s, tier.back, tier.group, c)
    if kept or held & RESIDENT:
        return
    if world.emit and s.alone[x]:
        name = s.cell_name[c >> 1]
        node = s.table[place_of(s, r, name)]
        if node >= 0:
            s.hint[node * world.tier_groups + tier.group] = 0
        elif world.alone == 1 or not is_in_store(s, r, name, x):
            emit(s, r, name, 0, now)
    if held & BITS == 0:
        free_cell(s, c)


@apart
def add(s, r, t, x, c, known, now):
    """The store of tier t in index x gets a block. `known`: HBM of the rank has the block, or had it just now."""
    world, tier = s.world[0], s.tier[t]
    store = s.store[tier.first_store + x]
    if world.emit and not known and s.alone[x] and not s.cell[c + 2] & RESIDENT:
        node = s.table[place_of(s, r, s.cell_name[c >> 1])]
        if node >= 0:
            s.hint[node * world.tier_groups + tier.group] = c
        else:
            emit(s, r, s.cell_name[c >> 1], 1, now)
    victim = enter(s, t, store, c)
    s.cell[c + 2] |= 1 << t
    s.cell[c + tier.field + 2] = 1
    if victim:
        lose(s, r, t, x, victim, now)
    else:
        store.used += 1
    if tier.through:
        send_on(s, through(s, tier.through, 1), tier.group, c)


@inline
def give(s, r, t, x, c, known, now):
    """Write a block to the store of tier t in index x; if the store holds the block, the block counts as used."""
    if s.cell[c + 2] >> t & 1:
        use(s, t, s.store[s.tier[t].first_store + x], c)
        return
    world = s.world[0]
    s.pending[r * world.tiers + t] += 1
    world.due_writes += 1
    add(s, r, t, x, c, known, now)


@apart
def run_errands(s, r, now):
    """Let tiers get the blocks that tiers before them got or lost."""
    world = s.world[0]
    while world.errands:
        world.errands -= 1
        errand = s.errand[world.errands]
        t, c, name, position = errand.tier, errand.cell, errand.name, errand.position
        x = index_of(s, s.tier[t].group, r)
        if c == 0 or not is_cell(s, c, x, name):  # another tier may have lost the block in the meantime
            c = find_cell(s, x, name)
            if c == 0:
                c = new_cell(s, x, name, position)
        give(s, r, t, x, c, False, now)


# ---- HBM


@inline
def hinted(s, g, x, node, name):
    """The cell of a block in HBM in index x of group g, or 0; the hint of its node saves most lookups."""
    at = node * s.world[0].tier_groups + g
    c = s.hint[at]
    if c == 0 or not is_cell(s, c, x, name):
        c = find_cell(s, x, name)
        s.hint[at] = c
    return c


@apart
def write(s, r, node, tiers, now):
    """Write a block of HBM to `tiers`."""
    world, name = s.world[0], s.node[node].name
    for g in range(world.tier_groups):
        here = tiers & s.group[g].tiers
        if here == 0:
            continue
        x = index_of(s, g, r)
        c = hinted(s, g, x, node, name)
        if c == 0:
            c = new_cell(s, x, name, s.node_position[node] if world.by_cost else np.int64(0))
            s.hint[node * world.tier_groups + g] = c
        for t in range(s.group[g].first_tier, world.tiers):
            if here >> t & 1:
                give(s, r, t, x, c, True, now)
    if world.errands:
        run_errands(s, r, now)


@inline
def write_used(s, r, node, now):
    """Write a block of HBM, which was used just now, through to tiers."""
    world = s.world[0]
    if world.counts:
        write(s, r, node, through(s, world.through, s.node_uses[node]), now)
    else:
        write(s, r, node, world.through, now)


@apart
def read_ahead(s, r, first, low, high, written):
    """Read what writes of blocks `low` to `high` to tiers will need of the hash table. Only here the reads overlap."""
    world, bits = s.world[0], np.uint64(0)
    shift = np.uint64(world.cell_shift)
    for g in range(world.tier_groups):
        x = index_of(s, g, r)
        if written & s.group[g].tiers or (world.emit and s.alone[x]):
            for i in range(first + low, first + high):
                bits ^= s.cell_at[np.int64(hash_of(x, s.ids[i]) >> shift)]
    world.read_ahead = bits


@apart
def read_ahead_victims(s, r, tiers, count):
    """Read what `lose` will need of the next `count` blocks that each of `tiers` evicts, if it evicts by LRU."""
    world, rank, bits = s.world[0], s.rank[r], np.uint64(0)
    shift = np.uint64(world.cell_shift)
    for t in range(world.tiers):
        tier = s.tier[t]
        store = s.store[tier.first_store + index_of(s, tier.group, r)]
        full = tiers >> t & 1 and tier.eviction == LRU and store.used == tier.blocks
        tier.cursor = store.first[0] if full else np.int64(0)
    for _ in range(count):
        for t in range(world.tiers):
            tier = s.tier[t]
            c = tier.cursor
            if c == 0:
                continue
            x, name = index_of(s, tier.group, r), s.cell_name[c >> 1]
            if s.cell[c + 2] & BITS == 1 << t:  # else the name stays in the table
                bits ^= s.cell_at[np.int64(hash_of(x, name) >> shift)]
                if world.emit and s.alone[x]:
                    bits ^= np.uint64(s.table[rank.table + slot_of(name, rank.shift, rank.mask)])
            tier.cursor = s.cell[c + tier.field + 1]
    world.read_ahead = bits


@inline
def note_stores(s, r, node, now_written):
    """Note for a block that has entered HBM whether a store that only this rank has holds it (`hint`)."""
    world = s.world[0]
    for g in range(world.tier_groups):
        x, c = index_of(s, g, r), np.int64(0)
        if world.emit and s.alone[x] and not now_written & s.group[g].tiers:
            c = find_cell(s, x, s.node[node].name)
            if c and not s.cell[c + 2] & RESIDENT:
                c = np.int64(0)
        s.hint[node * world.tier_groups + g] = c


@apart
def stored(s, r, q, low, high, now):
    """Blocks of `q` from `low` to `high` that had no node have entered HBM."""
    world, first = s.world[0], s.offsets[q]
    written = through(s, world.through, 1) if world.through else np.int64(0)
    if high - low > 1:
        read_ahead(s, r, first, low, high, written)
        if written:
            read_ahead_victims(s, r, written, high - low)
    for i in range(high - 1, low - 1, -1):
        node = s.held[first + i]
        if node < 0:
            continue
        note_stores(s, r, node, written)
        if world.by_cost:
            s.node_position[node] = i
        if world.counts:
            s.node_uses[node] = 1
        if written:
            write(s, r, node, written, now)


@apart
def gone(s, r, node, now):
    """A block has left HBM of a rank."""
    world, name = s.world[0], s.node[node].name
    if world.back:
        write(s, r, node, world.back, now)
    if not world.emit:
        return
    if world.alone:
        for g in range(world.tier_groups):
            x = index_of(s, g, r)
            if s.alone[x] and s.hint[node * world.tier_groups + g]:
                return
            if s.alone[x] and world.back and not world.back & s.group[g].tiers:  # a later tier may have it
                c = find_cell(s, x, name)
                if c and s.cell[c + 2] & RESIDENT:
                    return
    emit(s, r, name, 0, now)


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
