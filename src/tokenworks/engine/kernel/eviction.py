# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: PLR0917 compiled functions have no keyword-only arguments
"""Eviction policies of KV tiers: which block a full store evicts for a new one, and what a use changes."""

from __future__ import annotations

from tokenworks.engine.kernel.base import apart, inline
from tokenworks.engine.kernel.cells import BITS, append, free_cell, pull
from tokenworks.engine.tier_state import EVICTIONS

LRU, ARC, BY_COST = EVICTIONS["lru"], EVICTIONS["arc"], EVICTIONS["cost"]
RECENT, FREQUENT, RECENT_GHOST, FREQUENT_GHOST = 0, 1, 2, 3  # lists T1, T2, B1 and B2 of ARC


@inline
def move(s, store, c, f, before, after):
    """Move a cell from one list of ARC to the end of another."""
    pull(s, store, before, c, f)
    append(s, store, after, c, f)
    store.size[before] -= 1
    store.size[after] += 1
    s.cell[c + f + 3] = after


@inline
def forget_ghost(s, t, store, number):
    """Drop the oldest name of a list of evicted blocks of ARC."""
    f = s.tier[t].field
    c = store.first[number]
    pull(s, store, number, c, f)
    store.size[number] -= 1
    s.cell[c + 2] &= ~(256 << t)
    if s.cell[c + 2] & BITS == 0:
        free_cell(s, c)


@apart
def replace(s, t, store, in_frequent_ghost):
    """REPLACE of ARC: evict a block, and remember its name. Returns its cell."""
    f, recent = s.tier[t].field, store.size[RECENT]
    if recent and (recent > store.target or (in_frequent_ghost and recent == store.target)):
        c = store.first[RECENT]
        move(s, store, c, f, RECENT, RECENT_GHOST)
    else:
        c = store.first[FREQUENT]
        move(s, store, c, f, FREQUENT, FREQUENT_GHOST)
    s.cell[c + 2] |= 256 << t
    return c


@apart
def enter_arc(s, t, store, c):
    """Add a block to a store that evicts by ARC (Megiddo and Modha, FAST 2003, figure 4). Returns the evicted cell."""
    f, most = s.tier[t].field, s.tier[t].blocks
    victim = 0
    if s.cell[c + 2] & 256 << t:
        number = s.cell[c + f + 3]
        one, two = float(store.size[RECENT_GHOST]), float(store.size[FREQUENT_GHOST])
        if number == RECENT_GHOST:
            store.target = min(store.target + max(two / one, 1.0), float(most))
        else:
            store.target = max(store.target - max(one / two, 1.0), 0.0)
        s.cell[c + 2] &= ~(256 << t)
        pull(s, store, number, c, f)
        store.size[number] -= 1
        victim = replace(s, t, store, number == FREQUENT_GHOST)
        append(s, store, FREQUENT, c, f)
        store.size[FREQUENT] += 1
        s.cell[c + f + 3] = FREQUENT
        return victim
    first = store.size[RECENT] + store.size[RECENT_GHOST]
    if first == most:
        if store.size[RECENT] < most:
            forget_ghost(s, t, store, RECENT_GHOST)
            victim = replace(s, t, store, False)
        else:
            victim = store.first[RECENT]
            pull(s, store, RECENT, victim, f)
            store.size[RECENT] -= 1
    else:
        total = first + store.size[FREQUENT] + store.size[FREQUENT_GHOST]
        if total >= most:
            if total == 2 * most:
                forget_ghost(s, t, store, FREQUENT_GHOST)
            victim = replace(s, t, store, False)
    append(s, store, RECENT, c, f)
    store.size[RECENT] += 1
    s.cell[c + f + 3] = RECENT
    return victim


@inline
def lower(one, other):
    """Whether a block is evicted before another: by H of GreedyDual, then by its last use."""
    return one.h < other.h or (one.h == other.h and one.serial < other.serial)


@inline
def put_at(s, store, at, c, f, h, serial):
    """Write an entry of the heap, and note its place in the cell."""
    entry = s.priority[store.heap + at]
    entry.cell, entry.h, entry.serial = c, h, serial
    s.cell[c + f + 3] = at


@apart
def sink(s, store, at, count, c, f, h, serial):
    """Put an entry into the heap of `count` entries, at the place `at` or below it."""
    base = store.heap
    while 2 * at + 1 < count:
        down = 2 * at + 1
        if down + 1 < count and lower(s.priority[base + down + 1], s.priority[base + down]):
            down += 1
        other = s.priority[base + down]
        if h < other.h or (h == other.h and serial < other.serial):
            break
        put_at(s, store, at, other.cell, f, other.h, other.serial)
        at = down
    put_at(s, store, at, c, f, h, serial)


@inline
def worth(s, store, c):
    """H of GreedyDual: the floor of the store plus the time to compute the block again [s]."""
    world = s.world[0]
    return store.floor + (world.again_s + s.cell[c + 3] * world.again_position_s)


@apart
def enter_by_cost(s, t, store, c):
    """Add a block to a store that evicts by cost (GreedyDual). Returns the evicted cell, or 0."""
    f, base = s.tier[t].field, store.heap
    store.serial += 1
    if store.used == s.tier[t].blocks:
        least = s.priority[base]
        victim = least.cell
        store.floor = least.h
        sink(s, store, 0, store.used, c, f, worth(s, store, c), store.serial)
        return victim
    h, at = worth(s, store, c), store.used
    while at > 0:
        up = (at - 1) >> 1
        other = s.priority[base + up]
        if other.h <= h:
            break
        put_at(s, store, at, other.cell, f, other.h, other.serial)
        at = up
    put_at(s, store, at, c, f, h, store.serial)
    return 0


@inline
def use(s, t, store, c):
    """Let a block of a store count as used now."""
    if s.tier[t].eviction != LRU:
        use_otherwise(s, t, store, c)
    elif store.last[0] != c:
        f = s.tier[t].field
        pull(s, store, 0, c, f)
        append(s, store, 0, c, f)


@apart
def use_otherwise(s, t, store, c):
    """Let a block of a store that evicts by ARC or by cost count as used now."""
    f = s.tier[t].field
    if s.tier[t].eviction == ARC:
        move(s, store, c, f, s.cell[c + f + 3], FREQUENT)
    else:
        store.serial += 1
        sink(s, store, s.cell[c + f + 3], store.used, c, f, worth(s, store, c), store.serial)


@inline
def enter(s, t, store, c):
    """Add a block to a store. Returns the cell of the block that the store evicts for it, or 0."""
    eviction = s.tier[t].eviction
    victim = 0
    if eviction == LRU:
        f = s.tier[t].field
        if store.used == s.tier[t].blocks:
            victim = store.first[0]
            pull(s, store, 0, victim, f)
        append(s, store, 0, c, f)
    elif eviction == ARC:
        victim = enter_arc(s, t, store, c)
    else:
        victim = enter_by_cost(s, t, store, c)
    return victim
