# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: PLR0917 compiled functions have no keyword-only arguments
"""Eviction policies of KV tiers: which blocks a full store evicts for new ones, and what a use changes.

The run of evicted blocks gets one more user, so that it stays until `tiers.lose` has dealt with them.
"""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import apart, inline
from tokenworks.engine.kernel.extents import append, append_new, carve, drop_extent, find, new_extent, pull, shorten
from tokenworks.engine.kernel.memory import fetch
from tokenworks.engine.kernel.runs import cell_of, find_cell, hash_of_name, new_cell
from tokenworks.engine.tier_state import EVICTIONS

LRU, ARC, BY_COST = EVICTIONS["lru"], EVICTIONS["arc"], EVICTIONS["cost"]
RECENT, FREQUENT, RECENT_GHOST, FREQUENT_GHOST = 0, 1, 2, 3  # lists T1, T2, B1 and B2 of ARC


# ---- ARC


@inline
def forget_ghost(s, t, store, number):
    """Drop the oldest name of a list of evicted blocks of ARC."""
    shorten(s, store, t, store.first[number], 1)
    store.size[number] -= 1


@apart
def replace(s, t, store, in_frequent_ghost):
    """REPLACE of ARC: evict a block, and remember its name. Returns its run and its place in the run."""
    recent = store.size[RECENT]
    number = FREQUENT
    if recent and (recent > store.target or (in_frequent_ghost and recent == store.target)):
        number = RECENT
    e = store.first[number]
    i = s.extent[e].hi - 1
    run = s.cell[s.extent[e].cell].run
    s.run[run].users += 1
    e = carve(s, store, e, i, i + 1)
    pull(s, store, e)
    s.extent[e].uses = 1
    append(s, store, t, e, number + RECENT_GHOST)
    store.size[number] -= 1
    store.size[number + RECENT_GHOST] += 1
    return run, i


@apart
def enter_arc(s, t, x, store, run, i):
    """Add a block to a store that evicts by ARC (Megiddo and Modha, FAST 2003, figure 4).

    Returns run and place of the evicted block; run 0 = there is none.
    """
    most, c = s.tier[t].blocks, find_cell(s, x, run)
    victim, place = np.int64(0), np.int64(0)
    e = find(s, c, t, i) if c else np.int64(0)
    if e and s.extent[e].hi > i:
        number = s.extent[e].list
        one, two = float(store.size[RECENT_GHOST]), float(store.size[FREQUENT_GHOST])
        if number == RECENT_GHOST:
            store.target = min(store.target + max(two / one, 1.0), float(most))
        else:
            store.target = max(store.target - max(one / two, 1.0), 0.0)
        e = carve(s, store, e, i, i + 1)
        pull(s, store, e)
        store.size[number] -= 1
        victim, place = replace(s, t, store, number == FREQUENT_GHOST)
        append(s, store, t, e, FREQUENT)
        store.size[FREQUENT] += 1
        return victim, place
    first = store.size[RECENT] + store.size[RECENT_GHOST]
    if first == most:
        if store.size[RECENT] < most:
            forget_ghost(s, t, store, RECENT_GHOST)
            victim, place = replace(s, t, store, False)
        else:
            e = store.first[RECENT]
            victim, place = s.cell[s.extent[e].cell].run, s.extent[e].hi - 1
            s.run[victim].users += 1
            shorten(s, store, t, e, 1)
            store.size[RECENT] -= 1
    else:
        total = first + store.size[FREQUENT] + store.size[FREQUENT_GHOST]
        if total >= most:
            if total == 2 * most:
                forget_ghost(s, t, store, FREQUENT_GHOST)
            victim, place = replace(s, t, store, False)
    append_new(s, store, t, cell_of(s, x, run), i, i + 1, RECENT)
    store.size[RECENT] += 1
    return victim, place


# ---- cost: each extent is one block, and stands in a heap


@inline
def lower(one, other):
    """Whether a block is evicted before another: by H of GreedyDual, then by its last use."""
    return one.h < other.h or (one.h == other.h and one.serial < other.serial)


@inline
def put_at(s, store, at, e, h, serial):
    """Write an entry of the heap, and note its place in the extent."""
    entry = s.priority[store.heap + at]
    entry.extent, entry.h, entry.serial = e, h, serial
    s.extent[e].place = at


@apart
def sink(s, store, at, count, e, h, serial):
    """Put an entry into the heap of `count` entries, at the place `at` or below it."""
    base = store.heap
    while 2 * at + 1 < count:
        down = 2 * at + 1
        if down + 1 < count and lower(s.priority[base + down + 1], s.priority[base + down]):
            down += 1
        other = s.priority[base + down]
        if h < other.h or (h == other.h and serial < other.serial):
            break
        put_at(s, store, at, other.extent, other.h, other.serial)
        at = down
    put_at(s, store, at, e, h, serial)


@inline
def worth(s, store, run, i):
    """H of GreedyDual: the floor of the store plus the time to compute the block again [s]."""
    world = s.world[0]
    return store.floor + (world.again_s + (s.run[run].position + i) * world.again_position_s)


@apart
def enter_by_cost(s, t, x, store, run, i):
    """Add a block to a store that evicts by cost (GreedyDual). Returns run and place of the evicted block, or run 0."""
    base, victim, place = store.heap, np.int64(0), np.int64(0)
    store.serial += 1
    if store.used == s.tier[t].blocks:
        least = s.priority[base]
        store.floor = least.h
        victim, place = s.cell[s.extent[least.extent].cell].run, np.int64(s.extent[least.extent].lo)
        s.run[victim].users += 1
        drop_extent(s, t, least.extent)
        e = new_extent(s, cell_of(s, x, run), t, i, i + 1)
        sink(s, store, 0, store.used, e, worth(s, store, run, i), store.serial)
        return victim, place
    e = new_extent(s, cell_of(s, x, run), t, i, i + 1)
    h, at = worth(s, store, run, i), store.used
    while at > 0:
        up = (at - 1) >> 1
        other = s.priority[base + up]
        if other.h <= h:
            break
        put_at(s, store, at, other.extent, other.h, other.serial)
        at = up
    put_at(s, store, at, e, h, store.serial)
    return victim, place


# ---- all policies


@apart
def use(s, t, store, e, lo, hi, uses):
    """Let blocks `lo` to `hi` - 1, a part of an extent, count as used now, the last one first, `uses` times by now."""
    tier, me = s.tier[t], s.extent[e]
    if tier.eviction == BY_COST:
        me.uses = uses
        store.serial += 1
        sink(s, store, me.place, store.used, e, worth(s, store, s.cell[me.cell].run, lo), store.serial)
        return
    number, to = me.list, me.list
    if tier.eviction == ARC:
        to = FREQUENT
        store.size[number] -= hi - lo
        store.size[to] += hi - lo
    if number == to and store.last[to] == e and lo == me.lo and uses == me.uses:
        return
    e = carve(s, store, e, lo, hi)
    pull(s, store, e)
    s.extent[e].uses = uses
    append(s, store, t, e, to)


@inline
def fetch_ahead(s, e):
    """Begin to read what the eviction of the extents after this one in the list will need."""
    world, one = s.world[0], s.extent[e].next
    two = s.extent[one].next
    three = s.extent[two].next
    fetch(s.extent, s.extent[three].next)
    fetch(s.cell, s.extent[three].cell)
    fetch(s.run, s.cell[s.extent[two].cell].run)
    run = s.run[s.cell[s.extent[one].cell].run]
    fetch(s.key_at, np.int64(hash_of_name(run.head) >> np.uint64(world.key_shift)))
    if world.emit:
        fetch(s.run_name, run.first + s.extent[one].hi)


@inline
def evict_first(s, t, store):
    """Evict blocks that leave together from a store by LRU that has more than its room. Returns as `enter`."""
    head = store.first[0]
    me = s.extent[head]
    run, end = s.cell[me.cell].run, np.int64(me.hi)
    blocks = min(end - me.lo, store.used - s.tier[t].blocks)
    s.run[run].users += 1
    store.used -= blocks
    if end - blocks == me.lo:
        fetch_ahead(s, head)
    shorten(s, store, t, head, blocks)
    return run, end - blocks, end


@inline
def enter(s, t, x, store, run, c, lo, hi):
    """Add blocks of a run to a store: one, or by LRU any number, even beyond its room. c: the cell of the run, or 0.

    Returns run, begin and end of the evicted blocks; run 0 = there are none.
    """
    tier = s.tier[t]
    victim, low = np.int64(0), np.int64(0)
    if tier.eviction == LRU:
        append_new(s, store, t, c if c else new_cell(s, x, run), lo, hi, 0)
    elif tier.eviction == ARC:
        victim, low = enter_arc(s, t, x, store, run, lo)
    else:
        victim, low = enter_by_cost(s, t, x, store, run, lo)
    if victim == 0:
        store.used += hi - lo
    return victim, low, low + 1
