# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""How an arriving request finds its rank."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import GOLDEN, LEAST_LOADED, POWER_OF_TWO, ROUND_ROBIN, inline, jit
from tokenworks.engine.kernel.cache import slot_of


@inline
def draw(world):
    """Next number of the router's own stream (splitmix64)."""
    world.seed += GOLDEN
    z = world.seed
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inline
def is_held(s, slot):
    """Whether any rank holds the name in this slot."""
    for word in range(1, s.known.shape[1]):  # noqa: SIM110 numba has no any()
        if s.known[slot, word]:
            return True
    return False


@inline
def index_slot(s, name):
    """Where the router keeps a name: its slot, or the empty one at which to put it."""
    world = s.world[0]
    slot = slot_of(name, world.index_shift, world.index_mask)
    while s.known[slot, 0] != np.uint64(name) and is_held(s, slot):
        slot = (slot + 1) & world.index_mask
    return slot


@jit
def hear(s, now):
    """Cache events that have reached the router by now."""
    world = s.world[0]
    mask = world.index_mask
    while world.events and s.event[world.events_first].time + world.delay_s <= now:
        event = s.event[world.events_first]
        world.events_first = (world.events_first + 1) & (len(s.event) - 1)
        world.events -= 1
        slot = index_slot(s, event.name)
        word, bit = 1 + (event.rank >> 6), np.uint64(1) << np.uint64(event.rank & 63)
        if event.stored:
            s.known[slot, 0] = np.uint64(event.name)
            s.known[slot, word] |= bit
            continue
        if not s.known[slot, word] & bit:
            continue
        s.known[slot, word] &= ~bit
        if is_held(s, slot):
            continue
        hole = slot
        while True:
            slot = (slot + 1) & mask
            if not is_held(s, slot):
                break
            home = slot_of(s.known[slot, 0], world.index_shift, mask)
            if ((slot - home) & mask) >= ((slot - hole) & mask):
                for word in range(s.known.shape[1]):
                    s.known[hole, word] = s.known[slot, word]
                hole = slot
        for word in range(1, s.known.shape[1]):
            s.known[hole, word] = 0
    if world.events == 0:
        world.events_first = 0  # stay in the same few cache lines


@jit
def route_by_prefix(s, q, ranks, now):
    """Longest known prefix among the ranks that are not too loaded; then least loaded, then first."""
    world = s.world[0]
    least = s.rank[0].load
    for r in range(1, ranks):
        least = min(least, s.rank[r].load)
    top = (1.0 + world.imbalance) * least + world.slack
    best, best_length, best_load = -1, -1, 0
    if world.emit:
        hear(s, now)
        first = s.offsets[q]
        most = min(s.request[q].input // s.pool[0].block_tokens, s.offsets[q + 1] - first)
        for word in range((ranks + 63) >> 6):
            low, high = 64 * word, min(64 * word + 64, ranks)
            alive = np.uint64(0)
            for r in range(low, high):
                if s.rank[r].load <= top:
                    alive |= np.uint64(1) << np.uint64(r - low)
            length = 0
            while alive and length < most:
                slot = index_slot(s, s.ids[first + length])
                still = alive & s.known[slot, 1 + word] if is_held(s, slot) else np.uint64(0)
                if not still:
                    break
                alive = still
                length += 1
            for r in range(low, high):
                if (alive >> np.uint64(r - low)) & np.uint64(1) and (
                    length > best_length or (length == best_length and s.rank[r].load < best_load)
                ):
                    best, best_length, best_load = r, length, s.rank[r].load
    else:
        for r in range(ranks):
            if best < 0 or s.rank[r].load < best_load:
                best, best_load = r, s.rank[r].load
    return best


@inline
def route(s, q, now):
    """Number of the rank that takes `q`; reads queues and cache events only."""
    world = s.world[0]
    ranks = s.pool[0].instances * s.pool[0].ranks
    if world.router == ROUND_ROBIN:
        world.turn += 1
        return (world.turn - 1) % ranks
    if world.router == POWER_OF_TWO:
        one, two = np.int64(draw(world) % np.uint64(ranks)), np.int64(draw(world) % np.uint64(ranks))
        return two if s.rank[two].load < s.rank[one].load else one
    if world.router == LEAST_LOADED:
        best = 0
        for r in range(1, ranks):
            if s.rank[r].load < s.rank[best].load:
                best = r
        return best
    return route_by_prefix(s, q, ranks, now)
