# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Runs of blocks, and their cells in the indexes of KV tiers (see `tier_state`).

Block ids are chained hashes, so the block before a block is always the same one. A block is the next one of the run of
the block before it, or the first one of another run. So only the first name of a run is in a hash table. Run 0 stands
for none.
"""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import GOLDEN, apart, inline
from tokenworks.engine.tier_state import RECENT_CELLS

HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)  # an entry of a table: half of the hash, and the number of the record
BITS = 64


@inline
def hash_in(at, shift, key, number):
    """Enter a number in a hash table of length 2 ** (64 - shift) (Fibonacci hashing, Knuth vol. 3, 6.4)."""
    mask = (np.int64(1) << (BITS - shift)) - 1
    slot = np.int64(key >> np.uint64(shift))
    while at[slot]:
        slot = (slot + 1) & mask
    at[slot] = (key & ~LOW) | np.uint64(number)


@apart
def hash_out(at, shift, key, number):
    """Remove a number from a hash table. Later entries of its cluster move up."""
    mask, down = (np.int64(1) << (BITS - shift)) - 1, np.uint64(shift)
    hole = np.int64(key >> down)
    while np.int64(at[hole] & LOW) != number:
        hole = (hole + 1) & mask
    slot = hole
    while True:
        slot = (slot + 1) & mask
        entry = at[slot]
        if entry == 0:
            break
        home = np.int64(entry >> down)
        if ((slot - home) & mask) >= ((slot - hole) & mask):
            at[hole] = entry
            hole = slot
    at[hole] = np.uint64(0)


@inline
def empty(at, shift):
    """Remove all entries of a hash table."""
    for slot in range(np.int64(1) << (BITS - shift)):
        at[slot] = np.uint64(0)


# ---- runs


@inline
def name_of(s, run, i):
    """Name of block i of a run."""
    return s.run_name[s.run[run].first + i]


@inline
def hash_of_name(name):
    """Hash of the first name of a run."""
    return np.uint64(name) * GOLDEN


@inline
def find_run(s, name):
    """The run whose first block has this name, or 0."""
    key, shift = hash_of_name(name), s.world[0].head_shift
    mask = (np.int64(1) << (BITS - shift)) - 1
    slot = np.int64(key >> np.uint64(shift))
    entry = s.head_at[slot]
    while entry:
        if (entry ^ key) >> HALF == 0:
            run = np.int64(entry & LOW)
            if s.run[run].head == name:
                return run
        slot = (slot + 1) & mask
        entry = s.head_at[slot]
    return np.int64(0)


@apart
def widen_heads(s):
    """Double the part of the hash table of runs that is in use."""
    world = s.world[0]
    world.head_shift -= 1
    empty(s.head_at, world.head_shift)
    for run in range(1, world.run_fresh):
        if s.run[run].count:
            hash_in(s.head_at, world.head_shift, hash_of_name(s.run[run].head), run)


@apart
def compact(s):
    """Drop the names of runs that are gone. A header before the names of a run has their count and its number."""
    world, at, to = s.world[0], np.int64(0), np.int64(0)
    while at < world.text:
        count, run = s.run_name[at] >> 32, s.run_name[at] & 0xFFFFFFFF
        if s.run[run].count and s.run[run].first == at + 1:
            s.run[run].first = to + 1
            for i in range(count + 1):
                s.run_name[to + i] = s.run_name[at + i]
            to += count + 1
        at += count + 1
    world.text = to
    world.text_limit = min(np.int64(len(s.run_name)), max(2 * to, np.int64(1 << 14)))


@apart
def new_run(s, q, i):
    """A run of the names of `q` from block i on, up to the first name that another run begins with."""
    world, first, count, most = s.world[0], s.offsets[q] + i, np.int64(1), s.named[q] - i
    head = s.ids[first]
    while count < most and s.ids[first + count] != head and find_run(s, s.ids[first + count]) == 0:
        count += 1
    if world.text + count + 1 > world.text_limit:
        compact(s)
        world.text_limit = min(np.int64(len(s.run_name)), max(world.text_limit, world.text + count + 1))
        if world.text + count + 1 > world.text_limit:
            world.unchained = 1
            return np.int64(0)
    run = world.run_spare
    if run:
        world.run_spare = s.run[run].first
    else:
        run = world.run_fresh
        world.run_fresh += 1
    me = s.run[run]
    me.head, me.first, me.count, me.position, me.users, me.cells = head, world.text + 1, count, i, 0, 0
    s.run_name[world.text] = (count << 32) | run
    for k in range(count):
        s.run_name[me.first + k] = s.ids[first + k]
    world.text += count + 1
    world.runs += 1
    if world.runs << 1 > np.int64(1) << (BITS - world.head_shift):
        widen_heads(s)
    else:
        hash_in(s.head_at, world.head_shift, hash_of_name(head), run)
    return run


@inline
def leave_run(s, run, users):
    """So many blocks of HBM, or lookups, no longer need a run."""
    me = s.run[run]
    me.users -= users
    if me.users + me.cells == 0:
        drop_run(s, run)


@apart
def drop_run(s, run):
    """Remove a run that nobody needs."""
    world, me = s.world[0], s.run[run]
    if run == 0:
        me.users = 0
        return
    hash_out(s.head_at, world.head_shift, hash_of_name(me.head), run)
    me.count, me.first = 0, world.run_spare
    world.run_spare = run
    world.runs -= 1


@inline
def follow(s, run, i, name):
    """Run and place of the block with this name that follows block i of a run; run 0 = there is none."""
    me = s.run[run]
    if run and i + 1 < me.count and s.run_name[me.first + i + 1] == name:
        return run, i + 1
    return find_run(s, name), np.int64(0)


@apart
def follow_all(s, q, blocks):
    """Run and place of the last one of the first `blocks` blocks of `q`; run 0 = there is none."""
    run, i, first = np.int64(0), np.int64(0), s.offsets[q]
    for k in range(blocks):
        run, i = follow(s, run, i, s.ids[first + k])
    return run, i


# ---- cells


@inline
def hash_of_cell(x, run):
    """Hash of a run in index x."""
    return (np.uint64(run) ^ (np.uint64(x) << HALF)) * GOLDEN


@apart
def find_cell(s, x, run):
    """The cell of a run in index x, or 0."""
    near = x & (RECENT_CELLS - 1)
    c = s.run[run].recent[near]
    if s.cell[c].run == run and s.cell[c].index == x:
        return c
    if s.run[run].cells == 0:
        return np.int64(0)
    key, shift = hash_of_cell(x, run), s.world[0].cell_shift
    mask = (np.int64(1) << (BITS - shift)) - 1
    slot = np.int64(key >> np.uint64(shift))
    entry = s.cell_at[slot]
    while entry:
        if (entry ^ key) >> HALF == 0:
            c = np.int64(entry & LOW)
            if s.cell[c].run == run and s.cell[c].index == x:
                s.run[run].recent[near] = c
                return c
        slot = (slot + 1) & mask
        entry = s.cell_at[slot]
    return np.int64(0)


@apart
def widen_cells(s):
    """Double the part of the hash table of cells that is in use."""
    world = s.world[0]
    world.cell_shift -= 1
    empty(s.cell_at, world.cell_shift)
    for c in range(1, world.cell_fresh):
        if s.cell[c].run:
            hash_in(s.cell_at, world.cell_shift, hash_of_cell(s.cell[c].index, s.cell[c].run), c)


@apart
def cell_of(s, x, run):
    """The cell of a run in index x, a new one if there is none."""
    c = find_cell(s, x, run)
    if c:
        return c
    world = s.world[0]
    c = world.cell_spare
    if c:
        world.cell_spare = s.cell[c].index
    else:
        c = world.cell_fresh
        world.cell_fresh += 1
    s.cell[c].run, s.cell[c].index = run, x
    s.run[run].recent[x & (RECENT_CELLS - 1)] = c
    s.run[run].cells += 1
    world.cells += 1
    if world.cells << 1 > np.int64(1) << (BITS - world.cell_shift):
        widen_cells(s)
    else:
        hash_in(s.cell_at, world.cell_shift, hash_of_cell(x, run), c)
    return c


@apart
def drop_cell(s, c):
    """Remove a cell without extents, and its run if nobody else needs it."""
    world, me = s.world[0], s.cell[c]
    run = me.run
    hash_out(s.cell_at, world.cell_shift, hash_of_cell(me.index, run), c)
    me.run, me.index = 0, world.cell_spare
    world.cell_spare = c
    world.cells -= 1
    s.run[run].cells -= 1
    leave_run(s, run, 0)
