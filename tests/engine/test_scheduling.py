"""Scheduling policies for prefill: scenarios by hand, kernel against reference, and laws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import cases
from tokenworks.engine import reference, simulator
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.policies import POLICIES
from tokenworks.engine.tiers import Tiers
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, Router, Status, StepCost
from tokenworks.errors import SpecError

Run = Callable[[Cluster, Requests], Outcome]
both = pytest.mark.parametrize("run", [reference.run, simulator.run], ids=["reference", "kernel"])
TICK = StepCost(np.full(1001, 1.0))  # every step takes a second
SEEDS = st.integers(0, 1 << 40)
AGEING = cases.BEAT / 16


def one(limits: Limits, **pool: Any) -> Cluster:
    return Cluster((Pool(TICK, limits, **pool),))


def changed(cluster: Cluster, **limits: Any) -> Cluster:
    """The cluster with other limits in all pools."""
    return replace(cluster, pools=tuple(replace(p, limits=replace(p.limits, **limits)) for p in cluster.pools))


def without(cluster: Cluster) -> Cluster:
    """The cluster with first come, first served."""
    plain = changed(cluster, ageing_s=0.0, long_prefill_tokens=0)
    return replace(plain, router=replace(plain.router, cold_ranks=0, cold_tokens=0))


def with_policy(cluster: Cluster, name: str) -> Cluster:
    """The cluster with one policy, where its engine and its router can have it."""
    plain = without(cluster)
    if name == "shortest_prefill":
        return changed(plain, ageing_s=AGEING)
    if name == "interleaved":
        vllm = changed(plain, policy="vllm")
        return changed(vllm, long_prefill_tokens=3)
    ranks = plain.pools[0].instances * plain.pools[0].ranks
    router = replace(plain.router, name="prefix_aware", cold_ranks=(ranks + 1) // 2, cold_tokens=20)
    return replace(plain, router=router) if ranks > 1 else plain


# ---- by hand


@both
@pytest.mark.parametrize("policy", POLICIES)
def test_a_short_prompt_overtakes_a_long_one_within_its_age(run: Run, policy: str) -> None:
    """While one sequence runs, 10 tokens arrive at 0.5 s and 2 tokens at 0.6 s: places 0.5 + 10 a and 0.6 + 2 a."""
    requests = Requests.of([0.0, 0.5, 0.6], [10, 10, 2], [2, 1, 1])
    aged = run(one(Limits(1, 10, 100, policy=policy, ageing_s=0.1)), requests)
    assert aged.scheduled_s.tolist() == [0, 3, 2]
    hardly = run(one(Limits(1, 10, 100, policy=policy, ageing_s=0.01)), requests)
    assert hardly.scheduled_s.tolist() == [0, 2, 3]


@both
def test_tokens_in_the_cache_do_not_count(run: Run) -> None:
    """Two full blocks of the third prompt are cached, so it has 1 token to compute, and the second one has 5."""
    limits = Limits(1, 10, 100, 4, prefix_caching=True, ageing_s=0.1)
    requests = Requests.of([0.0, 0.5, 0.6], [9, 5, 9], [2, 1, 1], block_ids=[1, 2, 7, 1, 2], block_offsets=[0, 2, 3, 5])
    assert run(one(limits), requests).scheduled_s.tolist() == [0, 3, 2]


@both
def test_a_long_prompt_leaves_the_rest_of_the_budget_to_short_ones(run: Run) -> None:
    """Budget 10. A prompt of 20 alone takes two steps. With 4 tokens a step it takes five, and others join it."""
    requests = Requests.of([0.0, 1.0], [20, 4], [1, 3])
    whole = run(one(Limits(2, 10, 100)), requests)
    assert (whole.first_token_s.tolist(), whole.end_s.tolist()) == ([2, 3], [2, 5])
    parts = run(one(Limits(2, 10, 100, long_prefill_tokens=4)), requests)
    assert (parts.first_token_s.tolist(), parts.end_s.tolist()) == ([5, 2], [5, 4])


@both
def test_cold_prompts_have_a_rank_of_their_own(run: Run) -> None:
    """The first prompt of 20 is cold, its next turn finds its prefix on the cold rank only, the others are warm."""
    router = Router("prefix_aware", cold_ranks=1, cold_tokens=10)
    limits = Limits(4, 40, 100, 4, prefix_caching=True)
    cluster = replace(one(limits, instances=2), router=router)
    requests = Requests.of(
        [0.0, 0.1, 5.0, 5.1], [20, 8, 24, 18], [1] * 4, block_ids=[1, 2, 3, 4, 5, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8],
        block_offsets=[0, 5, 7, 13, 15],
    )  # fmt: skip
    assert run(cluster, requests).rank.tolist() == [1, 0, 1, 0]


def test_cold_ranks_are_whole_instances_first() -> None:
    """Rank number n is the (n // 2)-th rank of instance n % 2."""
    cluster = one(Limits(2, 8, 10), instances=2, ranks=2)
    for count, cold in ((0, []), (1, [3]), (2, [1, 3]), (3, [1, 2, 3])):
        router = Router("prefix_aware", cold_ranks=count)
        assert np.flatnonzero(replace(cluster, router=router).is_cold()).tolist() == cold


@pytest.mark.parametrize(
    ("words", "make"),
    [
        (r"Limits.ageing_s: -1.0 must be finite", lambda: Limits(2, 8, 10, ageing_s=-1.0)),
        (r"Limits.ageing_s: nan must be finite", lambda: Limits(2, 8, 10, ageing_s=float("nan"))),
        (r"Limits.long_prefill_tokens: -1 must not", lambda: Limits(2, 8, 10, long_prefill_tokens=-1)),
        (
            r"Limits.long_prefill_tokens: sglang continues one prompt at a time",
            lambda: Limits(2, 8, 10, policy="sglang", long_prefill_tokens=4),
        ),
        (r"Router.cold_tokens: -1 must not be negative", lambda: Router("prefix_aware", cold_tokens=-1)),
        (r"Router.cold_ranks: least_loaded does not know", lambda: Router("least_loaded", cold_ranks=1)),
        (
            r"Router.cold_ranks: 1 of 1 ranks; leave at least one",
            lambda: Cluster((Pool(TICK, Limits(2, 8, 10)),), Router("prefix_aware", cold_ranks=1)),
        ),
    ],
)
def test_what_makes_no_sense_is_refused(words: str, make: Callable[[], object]) -> None:
    with pytest.raises(SpecError, match=words):
        make()


# ---- kernel against reference


@pytest.mark.parametrize("name", ["shortest_prefill", "interleaved", "cold_pool"])
def test_kernel_equals_reference_under_each_policy(name: str) -> None:
    """100 fixed cases each. The policy changes some of them."""
    differs = 0
    for seed in range(5000, 5100):
        rng = np.random.default_rng(seed)
        cluster, requests = with_policy(cases.cluster(rng), name), cases.requests(rng, int(rng.integers(5, 40)))
        slow, fast = reference.run(cluster, requests), simulator.run(cluster, requests)
        cases.assert_same(slow, fast)
        differs += not np.array_equal(fast.end_s, simulator.run(without(cluster), requests).end_s, equal_nan=True)
    assert differs > 5, differs


# ---- laws


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_no_age_and_no_limit_is_first_come_first_served(seed: int) -> None:
    """A limit that no prompt reaches, and an age that is lost in the rounding of a place, change nothing."""
    rng = np.random.default_rng(seed)
    cluster, requests = without(cases.cluster(rng)), cases.requests(rng, 20)
    requests.arrival_s[requests.after < 0] += 1.0
    oracle = simulator.run(cluster, requests)
    wide = changed(cluster, ageing_s=1e-300)
    cases.assert_same(oracle, simulator.run(wide, requests))
    if all(POLICIES[pool.limits.policy].mixes for pool in cluster.pools):
        cases.assert_same(oracle, simulator.run(changed(cluster, long_prefill_tokens=1 << 20), requests))


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_nobody_waits_longer_than_the_age_of_its_prompt(seed: int) -> None:
    """No request that comes more than ageing x prompt later is admitted before a request of its class and rank."""
    rng = np.random.default_rng(seed)
    cluster = replace(cases.cluster(rng), request_s=0.0, accept_s=0.0)
    cluster = changed(cluster, ageing_s=AGEING, receive_interval=1)
    requests = cases.requests(rng, 40)
    outcome = simulator.run(cluster, requests)
    assert not outcome.count(Status.QUEUED)
    assert not outcome.count(Status.RUNNING)
    latest = outcome.arrival_s + AGEING * requests.input_tokens
    begun = np.flatnonzero(~np.isnan(outcome.scheduled_s))
    for i in begun:
        peers = begun[(outcome.rank[begun] == outcome.rank[i]) & (requests.priority[begun] == requests.priority[i])]
        later = peers[outcome.arrival_s[peers] > latest[i]]
        assert (outcome.scheduled_s[later] >= outcome.scheduled_s[i]).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(["shortest_prefill", "interleaved", "cold_pool"]))
def test_a_policy_neither_adds_nor_loses_work(seed: int, name: str) -> None:
    """With room for all, every prompt is computed once, and every request ends, in any order."""
    rng = np.random.default_rng(seed)
    roomy = {"kv_blocks": 1 << 14, "prefix_caching": False, "max_model_len": 1 << 20, "max_queue": 0}
    cluster = changed(replace(cases.cluster(rng), tiers=Tiers()), receive_interval=1, **roomy)
    requests = cases.requests(rng, 30)
    outcome = simulator.run(with_policy(cluster, name), requests)
    assert outcome.count(Status.COMPLETED) == len(requests)
    assert sum(pool.prefill_tokens for pool in outcome.pools) == requests.input_tokens.sum()
    assert sum(pool.output_tokens for pool in outcome.pools) == requests.output_tokens.sum()
