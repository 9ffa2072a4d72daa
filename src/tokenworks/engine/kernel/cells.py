# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Cells of the blocks in KV tiers: a hash table from names to cells, and the lists of a store (see `tier_state`)."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import GOLDEN, apart, inline

MIX = np.uint64(0xC2B2AE3D27D4EB4F)
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)  # an entry of the table: half of the hash of the name, and the cell
RESIDENT, BITS = 0xFF, 0xFFFF  # of `held`: tiers that hold the block; all bits but the number of the index


@inline
def hash_of(x, name):
    """Hash of a name of index x; its first bits are the slot (Fibonacci hashing, Knuth vol. 3, 6.4)."""
    return (np.uint64(name) ^ (np.uint64(x) * MIX)) * GOLDEN


@inline
def is_cell(s, c, x, name):
    """Whether c is the cell of a name in index x."""
    held = s.cell[c + 2]
    return s.cell_name[c >> 1] == name and held >> 16 == x and held & BITS != 0


@inline
def find_cell(s, x, name):
    """The cell of a name in index x, or 0."""
    world, key = s.world[0], hash_of(x, name)
    slot = np.int64(key >> np.uint64(world.cell_shift))
    entry = s.cell_at[slot]
    while entry:
        if (entry ^ key) >> HALF == 0:
            c = np.int64(entry & LOW)
            if s.cell_name[c >> 1] == name and s.cell[c + 2] >> 16 == x:
                return c
        slot = (slot + 1) & world.cell_mask
        entry = s.cell_at[slot]
    return np.int64(0)


@inline
def hash_in(s, key, c):
    """Enter a cell in the hash table."""
    world = s.world[0]
    slot = np.int64(key >> np.uint64(world.cell_shift))
    while s.cell_at[slot]:
        slot = (slot + 1) & world.cell_mask
    s.cell_at[slot] = (key & ~LOW) | np.uint64(c)


@apart
def new_cell(s, x, name, position):
    """A cell for a name that index x does not have yet. The caller lets a tier hold it."""
    world = s.world[0]
    c = world.cell_spare
    if c:
        world.cell_spare = s.cell[c + 3]
    else:
        c = world.cell_fresh
        world.cell_fresh += world.cell_words
    s.cell_name[c >> 1] = name
    s.cell[c + 2], s.cell[c + 3] = x << 16, position
    hash_in(s, hash_of(x, name), c)
    return c


@apart
def free_cell(s, c):
    """Remove a cell that no tier needs. Later entries of its cluster in the hash table move up."""
    world = s.world[0]
    mask, shift = world.cell_mask, np.uint64(world.cell_shift)
    hole = np.int64(hash_of(s.cell[c + 2] >> 16, s.cell_name[c >> 1]) >> shift)
    while np.int64(s.cell_at[hole] & LOW) != c:
        hole = (hole + 1) & mask
    slot = hole
    while True:
        slot = (slot + 1) & mask
        entry = s.cell_at[slot]
        if entry == 0:
            break
        home = np.int64(entry >> shift)
        if ((slot - home) & mask) >= ((slot - hole) & mask):
            s.cell_at[hole] = entry
            hole = slot
    s.cell_at[hole] = np.uint64(0)
    s.cell[c + 2], s.cell[c + 3] = 0, world.cell_spare
    world.cell_spare = c


@apart
def rehash(s):
    """Enter all cells in a new hash table."""
    world = s.world[0]
    world.rehash = 0
    for c in range(world.cell_words, world.cell_fresh, world.cell_words):
        if s.cell[c + 2] & BITS:
            hash_in(s, hash_of(s.cell[c + 2] >> 16, s.cell_name[c >> 1]), c)


@inline
def append(s, store, number, c, f):
    """Append a cell to a list of a store; f is the field of the tier."""
    last = store.last[number]
    s.cell[c + f], s.cell[c + f + 1] = last, 0
    if last:
        s.cell[last + f + 1] = c
    else:
        store.first[number] = c
    store.last[number] = c


@inline
def pull(s, store, number, c, f):
    """Take a cell out of a list of a store."""
    before, after = s.cell[c + f], s.cell[c + f + 1]
    if before:
        s.cell[before + f + 1] = after
    else:
        store.first[number] = after
    if after:
        s.cell[after + f] = before
    else:
        store.last[number] = before
