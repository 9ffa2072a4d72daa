"""The eviction policies of KV tiers: small runs by hand, and the bounds that their papers state."""

from __future__ import annotations

import numpy as np
import pytest

from tokenworks.engine.reference_eviction import EVICTIONS, ArcEviction, Eviction, GreedyDualEviction, LruEviction


def look_up(policy: Eviction, held: set[int], name: int, cost_s: float = 1.0) -> bool:
    """Use the block if it is held, else insert it. Returns whether it was held."""
    if name in held:
        policy.use(name)
        return True
    victim = policy.insert(name, cost_s)
    held.add(name)
    held.discard(-1 if victim is None else victim)
    return False


def test_lru() -> None:
    policy = LruEviction(2)
    assert policy.insert(1, 0.0) is None
    assert policy.insert(2, 0.0) is None
    policy.use(1)
    assert policy.insert(3, 0.0) == 2


def test_greedy_dual() -> None:
    """Costs 3, 1, 2: the cheapest leaves first, and its value is added to all later uses, so age counts as well."""
    policy = GreedyDualEviction(2)
    assert policy.insert(1, 3.0) is None
    assert policy.insert(2, 1.0) is None
    assert policy.insert(3, 2.0) == 2  # values 3, 1; the floor is 1, so the new value is 3
    assert policy.insert(4, 1.0) == 1  # values 3 and 3: the one that was used longest ago; the floor is 3
    policy.use(3)  # value 3 + 2
    assert policy.insert(5, 4.0) == 4  # values 5 and 4


def test_arc_keeps_what_was_used_twice_through_a_scan() -> None:
    """Blocks 1 and 2 were used twice. A scan of a hundred new blocks leaves them; LRU would lose them."""
    kept = {}
    for name, kind in EVICTIONS.items():
        policy, held = kind(4), set[int]()
        for block in (1, 2, 1, 2, *range(100, 200)):
            look_up(policy, held, block)
        kept[name] = held & {1, 2}
    assert kept == {"lru": set(), "arc": {1, 2}, "cost": set()}


def test_arc_learns_from_the_names_that_left() -> None:
    """A block comes back soon after it left T1: T1 was too small, so its target grows; and the block was used twice."""
    policy, held = ArcEviction(2), set[int]()
    for block in (1, 1, 2, 3):
        look_up(policy, held, block)
    assert held == {1, 3}
    assert list(policy.once_gone) == [2]
    look_up(policy, held, 2)
    assert policy.target == 1.0
    assert 2 in policy.often


@pytest.mark.parametrize("capacity", [1, 2, 5])
@pytest.mark.parametrize("name", EVICTIONS)
def test_a_full_store_gives_up_one_block_for_each_new_one(name: str, capacity: int) -> None:
    """And ARC knows no more names than its paper allows: T1 and B1 at most c, all four lists at most 2 c."""
    rng = np.random.default_rng(7)
    policy, held = EVICTIONS[name](capacity), set[int]()
    for block in rng.zipf(1.4, 3000) % 20:
        look_up(policy, held, int(block), float(block))
        assert len(held) <= capacity
        if isinstance(policy, ArcEviction):
            assert held == {*policy.once, *policy.often}
            names = [*policy.once, *policy.once_gone, *policy.often, *policy.often_gone]
            assert len(names) == len(set(names)) <= 2 * capacity
            assert len(policy.once) + len(policy.once_gone) <= capacity
            assert 0 <= policy.target <= capacity
