# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: PLR0917 compiled functions have no keyword-only arguments
"""Names of blocks in HBM of a rank, what the router and the caller hear of them, and random numbers."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import GOLDEN, apart, inline


@inline
def slot_of(name, shift, mask):
    """First slot of a name in an open-addressing table (Fibonacci hashing, Knuth vol. 3, 6.4)."""
    return np.int64((np.uint64(name) * GOLDEN) >> np.uint64(shift)) & mask


@inline
def place_of(s, r, name):
    """Index in `table` of a name of a rank, or of the empty place for it."""
    rank = s.rank[r]
    base, mask = rank.table, rank.mask
    slot = slot_of(name, rank.shift, mask)
    node = s.table[base + slot]
    while node >= 0 and s.node[node].name != name:
        slot = (slot + 1) & mask
        node = s.table[base + slot]
    return base + slot


@inline
def mixed(z):
    """The random number that splitmix64 makes of a state (Steele et al., OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inline
def emit(s, r, name, stored, now):
    """Send a cache event to the router, if the router uses them."""
    world = s.world[0]
    if world.emit:
        at = (world.events_first + world.events) & (len(s.event) - 1)
        event = s.event[at]
        event.time, event.name, event.rank, event.stored = now, name, s.rank[r].number, stored
        world.events += 1


@apart
def list_change(s, r, kind, name, number, block, now):
    """List a change of the prefix cache of a rank, for a caller that wants to hear of it."""
    change = s.change[s.world[0].changes]
    change.time, change.name, change.number = now, name, number
    change.rank, change.kind, change.block = r, kind, block
    s.world[0].changes += 1
