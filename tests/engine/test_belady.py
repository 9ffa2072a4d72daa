"""Belady's bound against all choices by brute force, a run by hand, and the engine with any eviction policy."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import cases
from tokenworks.engine import reference
from tokenworks.engine.belady import belady
from tokenworks.engine.types import Requests


def lookups(requests: Requests, admitted_s: np.ndarray, end_s: np.ndarray, size: int) -> list[tuple[float, float]]:
    """The gap of each look-up of a block that an earlier request had, block by block in plain Python."""
    events = []
    for i in range(len(requests)):
        if np.isnan(admitted_s[i]):
            continue
        low, high = requests.block_offsets[i : i + 2]
        names = requests.block_ids[low:high].tolist()
        total = int(requests.input_tokens[i] + requests.output_tokens[i])
        for place, name in enumerate(names[: (total - 1) // size]):
            events.append((admitted_s[i], place < (requests.input_tokens[i] - 1) // size, i, name))
    latest: dict[int, float] = {}
    gaps = []
    for time, looks, i, name in sorted(events):
        if looks and name in latest:
            gaps.append((latest[name], float(time)))
        latest[name] = max(latest.get(name, 0.0), np.inf if np.isnan(end_s[i]) else float(end_s[i]))
    return gaps


def most(gaps: list[tuple[float, float]], room: int) -> int:
    """Most gaps that caches of `room` blocks can bridge, over all choices."""
    real = [gap for gap in gaps if gap[0] < gap[1]]
    for size in range(len(real), 0, -1):
        for chosen in combinations(real, size):
            if max(sum(begin <= time < end for begin, end in chosen) for time, _ in chosen) <= room:
                return len(gaps) - len(real) + size
    return len(gaps) - len(real)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1 << 40))
def test_bound_is_the_best_of_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, size = int(rng.integers(1, 6)), int(rng.choice([1, 4]))
    lengths = rng.integers(0, 4, count)
    requests = Requests.of(
        np.zeros(count), rng.integers(1, 4 * size, count), rng.integers(1, 2 * size + 1, count),
        block_ids=rng.integers(0, 5, int(lengths.sum())), block_offsets=np.concatenate([[0], np.cumsum(lengths)]),
    )  # fmt: skip
    admitted = rng.choice([0.0, 1.0, 2.0, 3.0, 4.0, np.nan], count)
    end = admitted + rng.choice([0.0, 1.0, 2.0, np.nan], count)
    gaps = lookups(requests, admitted, end, size)
    bound = belady(requests, admitted, end, block_tokens=size, capacity_blocks=[0, 1, 2, 100])
    assert bound.known == len(gaps)
    assert bound.hit_blocks.tolist() == [most(gaps, room) for room in (0, 1, 2, 100)]


def test_the_next_use_decides() -> None:
    """Blocks 1, 2, 3, then 2, 1, 3, one after the other: all gaps overlap, so each block of room gives one hit."""
    requests = Requests.of(np.arange(6.0), [2] * 6, [1] * 6, block_ids=[1, 2, 3, 2, 1, 3], block_offsets=range(7))
    times = np.arange(6.0)
    bound = belady(requests, times, times + 0.5, block_tokens=1, capacity_blocks=[0, 1, 2, 3])
    assert bound.looked_up == 6
    assert bound.hit_blocks.tolist() == [0, 1, 2, 3]


def test_requests_without_blocks() -> None:
    requests = Requests.of([0.0], [5], [5])
    bound = belady(requests, np.zeros(1), np.ones(1), block_tokens=4, capacity_blocks=[7])
    assert (bound.looked_up, bound.known, bound.hit_blocks.tolist()) == (0, 0, [0])


@pytest.mark.parametrize("block", range(2))
def test_no_policy_serves_more(block: int) -> None:
    """Random clusters with all eviction, write and prefetch policies, in HBM and tiers together."""
    reached = 0
    for seed in range(40 * block, 40 * block + 40):
        cluster, requests = cases.reuse(np.random.default_rng(seed))
        front, outcome = cluster.pools[0], reference.run(cluster, requests)
        room = front.instances * front.ranks * front.limits.kv_blocks + sum(tier.total for tier in outcome.tiers)
        size = front.limits.block_tokens
        bound = belady(requests, outcome.scheduled_s, outcome.end_s, block_tokens=size, capacity_blocks=[room])
        hits = int(outcome.cached_tokens.sum()) // size
        assert hits <= bound.hit_blocks[0], seed
        reached += hits == bound.hit_blocks[0]
    assert reached > 1
