# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Runs of blocks, and their cells in the indexes of KV tiers (see `tier_state`).

Block ids are chained hashes, so the block before a block is always the same one. A block is the next one of the run of
the block before it, or the first one of another run. So only the first name of a run is in the hash table. Run 0 stands
for none.
"""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import GOLDEN, apart, inline
from tokenworks.engine.tier_state import CELLS, OWN_CELLS, RUNS

# An entry of the hash table: half of the hash, and a number: of a run, or of a cell with the bit `CELL`.
HALF, LOW, CELL = np.uint64(32), np.uint64(0xFFFFFFFF), np.int64(1 << 31)
BITS = 64


@inline
def number_of(world, kind, follower):
    """An unused number of a run, a cell or an extent: the first spare one, which `follower` follows, or a fresh one."""
    number = world.spare[kind]
    if number:
        world.spare[kind] = follower
    else:
        number = world.fresh[kind]
        world.fresh[kind] += 1
    return number


# ---- the hash table: the part of `key_at` of length 2 ** (64 - key_shift) (Fibonacci hashing, Knuth vol. 3, 6.4)


@inline
def next_entry(s, key, slot):
    """The first slot from `slot` on whose entry has the half hash of `key`, or which is empty."""
    mask = (np.int64(1) << (BITS - s.world[0].key_shift)) - 1
    slot &= mask
    while s.key_at[slot] and (s.key_at[slot] ^ key) >> HALF:
        slot = (slot + 1) & mask
    return slot


@inline
def home_of(s, key):
    """The slot at which a search for a hash begins."""
    return np.int64(key >> np.uint64(s.world[0].key_shift))


@inline
def put_entry(s, key, number):
    """Write an entry to the first empty slot."""
    mask, slot = (np.int64(1) << (BITS - s.world[0].key_shift)) - 1, home_of(s, key)
    while s.key_at[slot]:
        slot = (slot + 1) & mask
    s.key_at[slot] = (key & ~LOW) | np.uint64(number)


@apart
def hash_in(s, key, number):
    """Enter a number, and double the part of the table that is in use when half of it is full."""
    world = s.world[0]
    world.keys += 1
    if world.keys << 1 <= np.int64(1) << (BITS - world.key_shift):
        put_entry(s, key, number)
        return
    world.key_shift -= 1
    for slot in range(np.int64(1) << (BITS - world.key_shift)):
        s.key_at[slot] = np.uint64(0)
    for run in range(1, world.fresh[RUNS]):
        if s.run[run].count:
            put_entry(s, hash_of_name(s.run[run].head), run)
    for c in range(1, world.fresh[CELLS]):
        if s.cell[c].run and place_in_run(s, c) < 0:
            put_entry(s, hash_of_cell(s.cell[c].index, s.cell[c].run), c | CELL)


@apart
def hash_out(s, key, number):
    """Remove a number. Later entries of its cluster move up."""
    world = s.world[0]
    world.keys -= 1
    mask, hole = (np.int64(1) << (BITS - world.key_shift)) - 1, home_of(s, key)
    while np.int64(s.key_at[hole] & LOW) != number:
        hole = (hole + 1) & mask
    slot = hole
    while True:
        slot = (slot + 1) & mask
        entry = s.key_at[slot]
        if entry == 0:
            break
        if ((slot - home_of(s, entry)) & mask) >= ((slot - hole) & mask):
            s.key_at[hole] = entry
            hole = slot
    s.key_at[hole] = np.uint64(0)


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
    key = hash_of_name(name)
    slot = next_entry(s, key, home_of(s, key))
    while s.key_at[slot]:
        run = np.int64(s.key_at[slot] & LOW)
        if run < CELL and s.run[run].head == name:
            return run
        slot = next_entry(s, key, slot + 1)
    return np.int64(0)


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
    run = number_of(world, RUNS, s.run[world.spare[RUNS]].first)
    me = s.run[run]
    me.head, me.first, me.count, me.position, me.users, me.cells = head, world.text + 1, count, i, 0, 0
    s.run_name[world.text] = (count << 32) | run
    for k in range(count):
        s.run_name[me.first + k] = s.ids[first + k]
    world.text += count + 1
    hash_in(s, hash_of_name(head), run)
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
    hash_out(s, hash_of_name(me.head), run)
    me.count, me.first = 0, world.spare[RUNS]
    world.spare[RUNS] = run


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


@inline
def place_in_run(s, c):
    """Place of a cell in the record of its run; below 0 = the cell is in the hash table."""
    me = s.run[s.cell[c].run]
    k = OWN_CELLS - 1
    while k >= 0 and me.cell[k] != c:
        k -= 1
    return k


@apart
def find_cell(s, x, run):
    """The cell of a run in index x, or 0."""
    me, own = s.run[run], 0
    for k in range(OWN_CELLS):
        if me.cell[k]:
            if me.index[k] == x:
                return me.cell[k]
            own += 1
    if me.cells == own:
        return np.int64(0)
    key = hash_of_cell(x, run)
    slot = next_entry(s, key, home_of(s, key))
    while s.key_at[slot]:
        c = np.int64(s.key_at[slot] & LOW) - CELL
        if c > 0 and s.cell[c].run == run and s.cell[c].index == x:
            return c
        slot = next_entry(s, key, slot + 1)
    return np.int64(0)


@apart
def new_cell(s, x, run):
    """A cell of a run in index x, which has none."""
    world, me = s.world[0], s.run[run]
    c = number_of(world, CELLS, s.cell[world.spare[CELLS]].index)
    s.cell[c].run, s.cell[c].index = run, x
    me.cells += 1
    k = OWN_CELLS - 1
    while k >= 0 and me.cell[k]:
        k -= 1
    if k >= 0:
        me.index[k], me.cell[k] = x, c
    else:
        hash_in(s, hash_of_cell(x, run), c | CELL)
    return c


@inline
def cell_of(s, x, run):
    """The cell of a run in index x, a new one if there is none."""
    c = find_cell(s, x, run)
    return c if c else new_cell(s, x, run)


@apart
def drop_cell(s, c):
    """Remove a cell without extents, and its run if nobody else needs it."""
    world, me = s.world[0], s.cell[c]
    run, k = me.run, place_in_run(s, c)
    if k >= 0:
        s.run[run].cell[k] = 0
    else:
        hash_out(s, hash_of_cell(me.index, run), c | CELL)
    me.run, me.index = 0, world.spare[CELLS]
    world.spare[CELLS] = c
    s.run[run].cells -= 1
    leave_run(s, run, 0)
