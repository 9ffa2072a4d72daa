# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The router: it chooses the rank of an arriving request."""

from __future__ import annotations

import numpy as np

from tokenworks.engine.kernel.base import GOLDEN, LEAST_LOADED, NEVER, POWER_OF_TWO, ROUND_ROBIN, apart, inline, jit
from tokenworks.engine.kernel.extents import held_from
from tokenworks.engine.kernel.memory import fetch
from tokenworks.engine.kernel.names import mixed, slot_of
from tokenworks.engine.kernel.runs import follow
from tokenworks.engine.kernel.tiers import index_of
from tokenworks.engine.state import LOST


@inline
def draw(world):
    """Next random number of the router (splitmix64)."""
    world.seed += GOLDEN
    return mixed(world.seed)


@inline
def is_held(s, slot):
    """Whether any rank holds the name in this slot of the router's table."""
    for word in range(1, s.known.width):  # noqa: SIM110 numba has no any()
        if s.known[slot, word]:
            return True
    return False


@inline
def index_slot(s, name):
    """Slot of a name in the router's table, or the empty slot for it."""
    world = s.world[0]
    slot = slot_of(name, world.index_shift, world.index_mask)
    while s.known[slot, 0] != np.uint64(name) and is_held(s, slot):
        slot = (slot + 1) & world.index_mask
    return slot


@apart
def read_ahead_events(s, now):
    """Begin to read the slots of the events that `hear` will apply. Reads overlap here, but not there."""
    world = s.world[0]
    at, count = world.events_first, world.events
    while count and s.event[at].time + world.delay_s <= now:
        fetch(s.known, (slot_of(s.event[at].name, world.index_shift, world.index_mask), 0))
        at = (at + 1) & (len(s.event) - 1)
        count -= 1


@inline
def unknow(s, slot, number):
    """A rank no longer holds the name in this slot of the router's table; a name that no rank holds is removed."""
    world = s.world[0]
    mask = world.index_mask
    word, bit = 1 + (number >> 6), np.uint64(1) << np.uint64(number & 63)
    if not s.known[slot, word] & bit:
        return
    s.known[slot, word] &= ~bit
    if is_held(s, slot):
        return
    hole = slot
    while True:
        slot = (slot + 1) & mask
        if not is_held(s, slot):
            break
        home = slot_of(s.known[slot, 0], world.index_shift, mask)
        if ((slot - home) & mask) >= ((slot - hole) & mask):
            for other in range(s.known.width):
                s.known[hole, other] = s.known[slot, other]
            hole = slot
    for other in range(1, s.known.width):
        s.known[hole, other] = 0


@jit
def hear(s, now):
    """Apply the cache events that have reached the router by now."""
    world = s.world[0]
    if world.alone:
        read_ahead_events(s, now)
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
        unknow(s, slot, event.rank)
    if world.events == 0:
        world.events_first = 0  # so that an almost empty ring stays in the same few cache lines


@inline
def know(s, low, alive, tokens):
    """Set the known prefix of the ranks whose bit in `alive` is set; bit 0 is rank `low`."""
    while alive:
        bit = alive & (~alive + np.uint64(1))
        at, r = bit, low
        for shift in (32, 16, 8, 4, 2, 1):
            if at >> np.uint64(shift):
                at >>= np.uint64(shift)
                r += shift
        s.rank[r].known = tokens
        alive ^= bit


@jit
def know_prefix(s, q, ranks, top):
    """Set the known prefix of `q` for each rank with a load up to `top`, and 0 for the others [token]."""
    first, block = s.offsets[q], s.pool[0].block_tokens
    most = min(s.request[q].goal // block, s.named[q])
    for word in range((ranks + 63) >> 6):
        low, high = 64 * word, min(64 * word + 64, ranks)
        alive = np.uint64(0)
        for r in range(low, high):
            s.rank[r].known = 0
            if s.rank[r].load <= top:
                alive |= np.uint64(1) << np.uint64(r - low)
        length = 0
        while alive and length < most:
            slot = index_slot(s, s.ids[first + length])
            still = alive & s.known[slot, 1 + word] if is_held(s, slot) else np.uint64(0)
            if still != alive:
                know(s, low, alive ^ still, length * block)
            alive = still
            length += 1
        know(s, low, alive, length * block)


@inline
def is_common(s, run, i):
    """Whether a KV tier that all ranks share holds block i of a run."""
    world = s.world[0]
    for g in range(world.tier_groups):
        if s.group[g].tiers & world.common and held_from(s, g, index_of(s, g, 0), run, i) <= i:
            return True
    return False


@inline
def everywhere(s, q):
    """Tokens of the prompt of `q` that each rank can take from KV tiers that all ranks share."""
    world, first, blocks = s.world[0], s.offsets[q], np.int64(0)
    if world.common == 0:
        return blocks
    most = min(np.int64(s.request[q].goal - 1) // s.pool[0].block_tokens, s.named[q])
    run, i = np.int64(0), np.int64(0)
    while blocks < most:
        run, i = follow(s, run, i, s.ids[first + blocks])
        if run == 0 or not is_common(s, run, i):
            break
        blocks += 1
    return blocks * s.pool[0].block_tokens


@jit
def is_cold(s, q, ranks):
    """Whether `q` goes to the cold ranks, by what is known of the other ranks (`types.Router`)."""
    world = s.world[0]
    cached = everywhere(s, q)
    if world.emit:
        know_prefix(s, q, ranks, NEVER)
        for r in range(ranks):
            if not s.rank[r].cold:
                cached = max(cached, s.rank[r].known)
    return s.request[q].goal - cached > world.cold_tokens


@jit
def route_by_prefix(s, q, ranks, now):
    """Number of the rank with the fewest tokens to prefill, among ranks below the load bound (`types.Router`)."""
    world, me = s.world[0], s.request[q]
    if world.emit:
        hear(s, now)
    cold = world.cold_ranks > 0 and is_cold(s, q, ranks)
    least = np.int64(1 << 62)
    for r in range(ranks):
        if s.rank[r].cold == cold:
            least = min(least, s.rank[r].load)
    if least == 1 << 62:  # all ranks of the group are lost
        cold = not cold
        for r in range(ranks):
            if s.rank[r].cold == cold:
                least = min(least, s.rank[r].load)
    top = (1.0 + world.imbalance) * least + world.slack
    if world.emit:
        know_prefix(s, q, ranks, top)
    best = -1
    for r in range(ranks):
        if s.rank[r].cold != cold or s.rank[r].load > top:
            continue
        if best >= 0:
            one, other = s.rank[r], s.rank[best]
            more = (one.owed - one.known) - (other.owed - other.known) + world.load_tokens * (one.load - other.load)
            if more == 0:
                more = one.chosen - other.chosen
            if more >= 0:
                continue
        best = r
    world.turn += 1
    s.rank[best].chosen = world.turn
    me.owed = me.goal - s.rank[best].known
    return best


@apart
def live_rank(s, ranks, k):
    """Number of the k-th rank, from 0, that is not lost."""
    for r in range(ranks):
        if s.rank[r].cold != LOST:
            if k == 0:
                return r
            k -= 1
    return -1


@apart
def least_loaded(s, first, count):
    """Number of the least loaded rank that is not lost, among `count` ranks from `first` on; -1 = all are lost."""
    best = -1
    for r in range(first, first + count):
        if s.rank[r].cold != LOST and (best < 0 or s.rank[r].load < s.rank[best].load):
            best = r
    return best


@apart
def route_around(s, q, ranks, now):
    """Number of the rank for `q` while some ranks are lost (rule 8 in `faults`); -1 = all are lost."""
    world, live = s.world[0], 0
    for r in range(ranks):
        live += s.rank[r].cold != LOST
    if live == 0:
        return -1
    if world.router == ROUND_ROBIN:
        r = world.turn % ranks
        while s.rank[r].cold == LOST:
            world.turn += 1
            r = world.turn % ranks
        world.turn += 1
        return r
    if world.router == POWER_OF_TWO:
        one = live_rank(s, ranks, np.int64(draw(world) % np.uint64(live)))
        two = live_rank(s, ranks, np.int64(draw(world) % np.uint64(live)))
        return two if s.rank[two].load < s.rank[one].load else one
    if world.router == LEAST_LOADED:
        return least_loaded(s, 0, ranks)
    return route_by_prefix(s, q, ranks, now)


@apart
def route_pinned(s, q, ranks):
    """Number of the least loaded rank among those that `q` is pinned to; -1 = all are lost."""
    first, step = np.int64(s.pin[q]) - 1, ranks
    if first < 0:
        first, step = -2 - first, np.int64(s.pool[0].instances)
    best = -1
    for r in range(first, ranks, step):
        if s.rank[r].cold != LOST and (best < 0 or s.rank[r].load < s.rank[best].load):
            best = r
    return best


@inline
def route(s, q, now):
    """Number of the rank for `q`, by the router's rule; reads queues and cache events only. -1 = all are lost."""
    world = s.world[0]
    ranks = s.pool[0].instances * s.pool[0].ranks
    if world.pinned and s.pin[q]:
        return route_pinned(s, q, ranks)
    if world.lost_ranks:
        return route_around(s, q, ranks, now)
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
