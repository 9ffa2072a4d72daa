"""Laws of KV tiers below HBM: bytes and blocks are conserved, and a tier that holds nothing or everything is known."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import cases
from tokenworks.engine import reference, simulator
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.tiers import EvictionName, Lane, Store, Tiers
from tokenworks.engine.types import Cluster, Requests, Router, Status

SEEDS = st.integers(0, 1 << 40)


def drawn(seed: int) -> tuple[Cluster, Requests]:
    """A random cluster with tiers whose scheduler looks for new requests before each step."""
    cluster, requests = cases.reuse(np.random.default_rng(seed))
    pools = tuple(replace(pool, limits=replace(pool.limits, receive_interval=1)) for pool in cluster.pools)
    return replace(cluster, pools=pools), requests


def played(cluster: Cluster, requests: Requests) -> reference.Reference:
    """The reference engine after all requests."""
    engine = reference.Reference(cluster)
    engine.submit(requests)
    engine.advance()
    return engine


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.lists(st.floats(0.001, 0.5), min_size=1, max_size=6))
def test_a_store_has_each_block_once_and_no_more_than_it_holds(seed: int, pauses: list[float]) -> None:
    """At every moment; and a rank holds a private block exactly if the router hears of it."""
    cluster, requests = drawn(seed)
    cluster = replace(cluster, router=Router("prefix_aware"))
    engine = reference.Reference(cluster)
    engine.submit(requests)
    for now in [*np.cumsum(pauses), math.inf]:
        engine.advance(float(now))
        for tier, stores in zip(cluster.tiers.stores, engine.tiers.stores, strict=True):
            for store in stores.values():
                held = list(chain(*(vars(store.eviction).get(name, ()) for name in ("blocks", "once", "often"))))
                assert sorted(held) == sorted(store.uses)
                assert len(held) <= tier.blocks
        for tier_counts in engine.tiers.counts():
            assert 0 <= tier_counts.used <= tier_counts.total
    engine.router.known_prefixes(engine.sequences[0], math.inf)
    for number, rank in enumerate(engine.pools[0]):
        own = [
            stores[tier.stores[number]] for tier, stores in zip(cluster.tiers.stores, engine.tiers.stores, strict=True)
        ]
        alone = set(rank.where).union(*(store.uses for store in own if store.owner == number))
        assert alone == {name for name, holders in engine.router.known.items() if number in holders}


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_bytes_moved_are_bytes_accounted(seed: int) -> None:
    """Time on the links = blocks x time of a block, over all lanes; a store holds what came and did not leave."""
    cluster, requests = drawn(seed)
    engine = played(cluster, requests)
    booked = 0.0
    for tier, counts in zip(cluster.tiers.stores, engine.tiers.counts(), strict=True):
        booked += counts.read_blocks * sum(lane.block_s for lane in tier.read)
        booked += counts.written_blocks * sum(lane.block_s for lane in tier.write)
        assert counts.read_s == pytest.approx(counts.read_blocks * tier.read[0].block_s)
        assert counts.write_s == pytest.approx(counts.written_blocks * tier.write[0].block_s)
        assert counts.late_blocks + (counts.hit_blocks if tier.prefetch != "none" else 0) <= counts.read_blocks
        copies = sum(other.read_blocks for other, own in zip(engine.tiers.counts(), cluster.tiers.stores, strict=True)
                     if own.gateway >= 0 and cluster.tiers.stores[own.gateway] is tier)  # fmt: skip
        assert counts.used + counts.evictions - copies <= counts.written_blocks <= counts.used + counts.evictions
    assert sum(link.busy_s for link in engine.tiers.links.values()) == pytest.approx(booked)
    assert not engine.tiers.pending


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_every_request_ends(seed: int) -> None:
    """No load, prefetch or failure leaves a request behind, and all blocks of HBM are free."""
    cluster, requests = drawn(seed)
    engine = played(cluster, requests)
    outcome = engine.outcome()
    assert (outcome.status >= Status.COMPLETED).all()
    assert all(pool.kv_used == 0 for pool in outcome.pools)
    assert not any(rank.loading or rank.loaded or rank.prefetching or rank.load for rank in engine.pools[0])
    failed = outcome.count(Status.FAILED)
    assert not failed or (cluster.tiers.on_failure == "fail" and sum(t.failed for t in outcome.tiers) >= failed)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_tiers_without_blocks_are_no_tiers(seed: int) -> None:
    cluster, requests = drawn(seed)
    empty = replace(cluster.tiers, stores=tuple(replace(store, blocks=0) for store in cluster.tiers.stores))
    with_empty = reference.run(replace(cluster, tiers=empty), requests)
    without = reference.run(replace(cluster, tiers=Tiers()), requests)
    cases.assert_same(replace(with_empty, tiers=()), without)
    assert not any(tier.hit_blocks or tier.read_blocks or tier.written_blocks for tier in with_empty.tiers)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(["lru", "arc", "cost"]), st.booleans())
def test_an_endless_tier_is_an_endless_hbm(seed: int, eviction: EvictionName, asynchronous: bool) -> None:
    """If requests come one after the other, and reading takes no time, hits are those of an HBM without an end.

    With requests at the same time this need not hold: blocks of a running request are not written before they are
    computed, and HBM has room for fewer requests.
    """
    cluster, requests = drawn(seed)
    front = replace(cluster.pools[0], limits=replace(cluster.pools[0].limits, kv_blocks=26))
    ranks = front.instances * front.ranks
    shared, lanes = (0,) * ranks, (Lane((0,) * ranks, 0.0),)
    endless = Store("endless", 10**6, shared, lanes, lanes, eviction=eviction)
    tiers = Tiers((endless,), load="async" if asynchronous else "layerwise")
    cluster = replace(cluster, router=Router(), concurrency=0, window_s=0.0)
    alone = replace(requests, arrival_s=10.0 * np.arange(len(requests)))
    wide = replace(front, limits=replace(front.limits, kv_blocks=600), instances=1, ranks=1)
    tiered = reference.run(replace(cluster, pools=(front, *cluster.pools[1:]), tiers=tiers), alone)
    unlimited = reference.run(replace(cluster, pools=(wide, *cluster.pools[1:]), tiers=Tiers()), alone)
    assert (tiered.status == Status.COMPLETED).all()
    np.testing.assert_array_equal(tiered.cached_tokens, unlimited.cached_tokens)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_no_hit_comes_from_nowhere(seed: int) -> None:
    """With tiers or without them, the hit blocks of a request are the first blocks of requests admitted before it."""
    cluster, requests = drawn(seed)
    for one in (cluster, replace(cluster, tiers=Tiers())):
        outcome = reference.run(one, requests)
        size, seen = one.pools[0].limits.block_tokens, set[int]()
        for time in np.unique(outcome.scheduled_s[~np.isnan(outcome.scheduled_s)]):
            group = np.flatnonzero(outcome.scheduled_s == time)
            names = [requests.block_ids[slice(*requests.block_offsets[i : i + 2])].tolist() for i in group]
            for i, own in zip(group, names, strict=True):
                others = seen.union(*(other for j, other in zip(group, names, strict=True) if j != i))
                assert set(own[: outcome.cached_tokens[i] // size]) <= others
            seen.update(*names)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_same_seed_same_result(seed: int) -> None:
    one, two = (reference.run(*drawn(seed)) for _ in range(2))
    assert one.tiers == two.tiers
    assert one.end_s.tobytes() == two.end_s.tobytes()


def digest(outcome: Outcome) -> bytes:
    """The results of all requests, times in microseconds."""
    counts = [getattr(outcome, name).astype(np.int64) for name in ("status", "rank", "cached_tokens", "preemptions")]
    times = (getattr(outcome, name) for name in ("scheduled_s", "first_token_s", "end_s"))
    counts += [np.nan_to_num(np.round(time * 1e6), nan=-1).astype(np.int64) for time in times]
    return b"".join(column.tobytes() for column in counts)


def test_without_tiers_all_is_as_it_was() -> None:
    """The results of 40 random cases are those of the engine before it had tiers and policies for the queue."""
    whole = hashlib.sha256()
    plain: dict[str, Any] = {"receive_interval": 1, "ageing_s": 0.0, "long_prefill_tokens": 0}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cluster, requests = cases.cluster(rng), cases.requests(rng, 20)
        pools = tuple(replace(pool, limits=replace(pool.limits, **plain)) for pool in cluster.pools)
        router = replace(cluster.router, cold_ranks=0)
        whole.update(digest(simulator.run(replace(cluster, pools=pools, router=router, tiers=Tiers()), requests)))
    assert whole.hexdigest() == "ff06e588621549b58aaf59ccbb4b4c677aeee0b30c50ec55de1bab7f3ee4d9ab"
