"""The engine along a real clock: changes of caches, pinned requests, and step costs that are added, as laws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import cases
from tests.engine.test_faults import POOL, STEP
from tokenworks.engine import simulator
from tokenworks.engine.live import CLEARED, ENTERED, LEFT, REMOVED, STORED, LiveSimulator
from tokenworks.engine.types import Cluster, Requests, Status, StepCost

pytestmark = pytest.mark.usefixtures("kernel")


def watched(seed: int) -> tuple[Cluster, Requests, np.random.Generator]:
    """A small cluster with prefix caches, and requests that share prefixes."""
    rng = np.random.default_rng(seed)
    while True:
        cluster, requests = cases.cluster(rng), cases.requests(rng, 40)
        if cluster.pools[0].limits.prefix_caching:
            return cluster, requests, rng


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_the_changes_rebuild_every_cache_at_every_moment(seed: int) -> None:
    """With evictions, preemptions, KV tiers and lost ranks. A stored block is that of the request that stored it."""
    cluster, requests, rng = watched(seed)
    cluster = cases.with_faults(rng, cluster)
    engine = LiveSimulator(cluster, watched=True)
    engine.submit(requests)
    ranks = sum(pool.instances * pool.ranks for pool in cluster.pools)
    for event in cases.faults(rng, cluster, cases.busy_times(rng, requests, 4)):
        engine.at(*event)
    caches: list[set[int]] = [set() for _ in range(ranks)]
    offsets, until = requests.block_offsets, 0.0
    for step in [*rng.exponential(0.2, 12), 1e6]:
        until += float(step)
        engine.advance(until)
        changes = engine.changes()
        assert (np.diff(changes.times) >= 0).all()
        rows = zip(changes.kinds, changes.ranks, changes.names, changes.numbers, changes.blocks, strict=True)
        for kind, rank, name, number, block in rows:
            if kind == STORED:
                assert name == requests.block_ids[offsets[number] + block]
                assert name not in caches[rank]
                caches[rank].add(int(name))
            elif kind == REMOVED:
                caches[rank].remove(int(name))
            elif kind == CLEARED:
                caches[rank].clear()
            else:
                assert kind in {ENTERED, LEFT}
        for rank, cache in enumerate(caches):
            held = engine.cached(rank)
            assert (len(held), set(held.tolist())) == (len(cache), cache)
        assert not engine.has_changes


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_who_watches_changes_nothing(seed: int) -> None:
    cluster, requests, _ = watched(seed)
    plain, engine = simulator.run(cluster, requests), LiveSimulator(cluster, watched=True)
    engine.submit(requests)
    engine.advance()
    for name in ("end_s", "first_token_s", "rank", "cached_tokens", "status"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(engine.outcome(), name))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_pinned_requests_are_served_as_by_an_instance_of_their_own(seed: int, prefix: bool) -> None:
    """A cluster whose requests are pinned to instances is as many clusters of one instance."""
    rng = np.random.default_rng(seed)
    pool = replace(cases.pool(rng, "aggregated"), instances=3)
    pool = replace(pool, limits=replace(pool.limits, prefix_caching=prefix))
    count = 30
    requests = replace(cases.requests(rng, count), after=np.full(count, -1, np.int32), group=np.zeros(count, np.int8))
    requests = replace(requests, arrival_s=np.cumsum(rng.exponential(0.02, count)))
    chosen = rng.integers(0, 3, count)
    whole = LiveSimulator(Cluster((pool,)))
    whole.submit(requests, pins=[-1 - int(k) for k in chosen])
    whole.advance()
    outcome = whole.outcome()
    sent = outcome.rank >= 0
    assert (outcome.rank[sent] % 3 == chosen[sent]).all()
    offsets, ids = requests.block_offsets, requests.block_ids
    for k in range(3):
        mine = np.flatnonzero(chosen == k)
        if not len(mine):
            continue
        names = [ids[offsets[i] : offsets[i + 1]] for i in mine]
        own = Requests.of(
            requests.arrival_s[mine], requests.input_tokens[mine], requests.output_tokens[mine],
            priority=requests.priority[mine], block_ids=np.concatenate(names),
            block_offsets=np.cumsum([0, *map(len, names)]),
        )  # fmt: skip
        alone = LiveSimulator(Cluster((replace(pool, instances=1),)))
        alone.submit(own, pins=[-1] * len(mine))
        alone.advance()
        np.testing.assert_allclose(alone.outcome().end_s, outcome.end_s[mine], rtol=0, atol=1e-9)
        np.testing.assert_array_equal(alone.outcome().status, outcome.status[mine])


def test_a_request_is_pinned_to_one_rank_or_to_any() -> None:
    cluster = Cluster((replace(POOL, cost=StepCost(np.full(201, STEP)), instances=2, ranks=2),))
    engine = LiveSimulator(cluster)
    engine.submit(Requests.of([0.0] * 6, [8] * 6, [3] * 6), pins=[4, 4, 1, -2, -2, 0])
    engine.advance(1.0)
    ranks = engine.take()
    by_number = dict(zip(ranks.number.tolist(), ranks.rank.tolist(), strict=True))
    assert [by_number[i] for i in range(3)] == [3, 3, 0]
    assert {by_number[3], by_number[4]} <= {1, 3}
    engine.at(1.0, "lose", 3)
    engine.submit(Requests.of([2.0, 2.0], [8, 8], [3, 3]), pins=[4, -2])
    engine.advance(3.0)
    ended = engine.take()
    status = dict(zip(ended.number.tolist(), ended.status.tolist(), strict=True))
    assert (status[6], status[7]) == (Status.REJECTED, Status.COMPLETED)
    engine.submit(Requests.of([4.0], [8], [3]))  # its slot was pinned before
    engine.advance(5.0)
    assert engine.take().status.tolist() == [Status.COMPLETED]


def test_a_step_cost_that_is_added_counts_as_one_that_was_known() -> None:
    """With two pools: the costs of the later pool move, and keep their meaning."""
    slow, slower = StepCost(np.full(101, 3 * STEP)), StepCost(np.full(101, 7 * STEP))
    pools = (replace(POOL, role="prefill"), replace(POOL, role="decode", variants=(slow,)))
    requests = Requests.of([0.0, 0.05], [8, 8], [20, 20])
    known = LiveSimulator(Cluster((replace(pools[0], variants=(slower,)), replace(pools[1], variants=(slow, slower)))))
    added = LiveSimulator(Cluster(pools))
    for engine in (known, added):
        engine.submit(requests)
        engine.at(0.01, "cost", 1, value=1)
        engine.advance(0.08)
    assert (added.add_variant(0, slower), added.add_variant(1, slower)) == (1, 2)
    for engine in (known, added):
        engine.at(0.1, "cost", 0, value=1)
        engine.at(0.12, "cost", 1, value=2)
        engine.at(0.3, "cost", 1, value=0)
        engine.advance()
    np.testing.assert_array_equal(known.outcome().end_s, added.outcome().end_s)
    assert added.outcome().end_s[0] > simulator.run(Cluster(pools), requests).end_s[0] + STEP
