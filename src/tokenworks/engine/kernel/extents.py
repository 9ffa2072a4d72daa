# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: PLR0917 compiled functions have no keyword-only arguments
"""Extents: blocks `lo` to `hi` - 1 of a run that stand one after the other in a list of a store (see `tier_state`).

A list has the block that is evicted first at its begin. In an extent this is the last block.
"""

from __future__ import annotations

from tokenworks.engine.kernel.base import apart, inline
from tokenworks.engine.kernel.runs import drop_cell, find_cell, number_of
from tokenworks.engine.tier_state import EXTENTS

GHOSTS = 2  # lists from this number on hold names of blocks that are gone


@apart
def find(s, c, t, i):
    """The extent of tier t in cell c with the largest `lo` up to i, or 0; begins where the last search ended."""
    e = s.cell[c].finger[t]
    if e == 0:
        return e
    while s.extent[e].lo > i:
        below = s.extent[e].below
        if below == 0:
            s.cell[c].finger[t] = e
            return below
        e = below
    above = s.extent[e].above
    while above and s.extent[above].lo <= i:
        e = above
        above = s.extent[e].above
    s.cell[c].finger[t] = e
    return e


@inline
def is_held(s, t, c, i):
    """Whether a store holds block i of the run of cell c."""
    e = find(s, c, t, i)
    return e != 0 and i < s.extent[e].hi and s.extent[e].list < GHOSTS


@apart
def held_from(s, g, x, run, i):
    """The first one of the blocks up to i of a run that an extent of index x, group g, holds; i + 1 = none holds i."""
    c = find_cell(s, x, run)
    if c:
        for t in range(s.world[0].tiers):
            if s.group[g].tiers >> t & 1 and is_held(s, t, c, i):
                return s.extent[s.cell[c].finger[t]].lo
    return i + 1


@inline
def fresh_extent(s):
    """An unused extent."""
    return number_of(s.world[0], EXTENTS, s.extent[s.world[0].spare[EXTENTS]].next)


@apart
def new_extent(s, c, t, lo, hi):
    """An extent of tier t in cell c, in no list yet."""
    e, near = fresh_extent(s), find(s, c, t, lo)
    me = s.extent[e]
    me.cell, me.lo, me.hi, me.uses, me.list = c, lo, hi, 1, 0
    above = s.extent[near].above if near else s.cell[c].finger[t]
    me.below, me.above = near, above
    if near:
        s.extent[near].above = e
    if above:
        s.extent[above].below = e
    s.cell[c].finger[t] = e
    s.cell[c].extents += 1
    return e


@apart
def drop_extent(s, t, e):
    """Remove an extent that is in no list; its cell goes with the last one."""
    world, me = s.world[0], s.extent[e]
    c, below, above = me.cell, me.below, me.above
    if below:
        s.extent[below].above = above
    if above:
        s.extent[above].below = below
    if s.cell[c].finger[t] == e:
        s.cell[c].finger[t] = above if above else below
    me.next = world.spare[EXTENTS]
    world.spare[EXTENTS] = e
    s.cell[c].extents -= 1
    if s.cell[c].extents == 0:
        drop_cell(s, c)


@inline
def pull(s, store, e):
    """Take an extent out of its list."""
    me = s.extent[e]
    before, after = me.prev, me.next
    if before:
        s.extent[before].next = after
    else:
        store.first[me.list] = after
    if after:
        s.extent[after].prev = before
    else:
        store.last[me.list] = before


@inline
def append(s, store, t, e, number):
    """Append an extent to a list; it becomes a part of the last one if its blocks are those below."""
    me, last = s.extent[e], store.last[number]
    if last:
        other = s.extent[last]
        if other.cell == me.cell and other.lo == me.hi and other.uses == me.uses:
            other.lo = me.lo
            drop_extent(s, t, e)
            return
        other.next = e
    else:
        store.first[number] = e
    me.prev, me.next, me.list = last, 0, number
    store.last[number] = e


@apart
def append_new(s, store, t, c, lo, hi, number):
    """Append new blocks of the run of cell c to a list."""
    last = store.last[number]
    if last:
        other = s.extent[last]
        if other.cell == c and other.lo == hi and other.uses == 1:
            other.lo = lo
            return
    append(s, store, t, new_extent(s, c, t, lo, hi), number)


@apart
def split(s, store, e, i):
    """Make two extents of one. Returns the new one: the blocks from i on, which stand before the others."""
    n = fresh_extent(s)
    me, new = s.extent[e], s.extent[n]
    before, above = me.prev, me.above
    new.cell, new.lo, new.hi, new.uses, new.list = me.cell, i, me.hi, me.uses, me.list
    me.hi = i
    new.prev, new.next, new.below, new.above = before, e, e, above
    me.prev, me.above = n, n
    if before:
        s.extent[before].next = n
    else:
        store.first[me.list] = n
    if above:
        s.extent[above].below = n
    s.cell[me.cell].extents += 1
    return n


@inline
def carve(s, store, e, lo, hi):
    """Let a part of an extent be an extent of its own, and return it."""
    if hi < s.extent[e].hi:
        split(s, store, e, hi)
    return split(s, store, e, lo) if lo > s.extent[e].lo else e


@inline
def shorten(s, store, t, e, blocks):
    """Take the first blocks to evict out of an extent."""
    me = s.extent[e]
    me.hi -= blocks
    if me.hi == me.lo:
        pull(s, store, e)
        drop_extent(s, t, e)
