"""The kernel equals the reference: same order of events, same steps and counters, times to 1e-9."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import cases
from tokenworks.engine import reference, simulator
from tokenworks.engine.policies import POLICIES, Policy
from tokenworks.engine.types import Status


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 40), st.integers(0, 40))
def test_kernel_equals_reference(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    cluster, requests = cases.cluster(rng), cases.requests(rng, count)
    cases.assert_same(reference.run(cluster, requests), simulator.run(cluster, requests))


@pytest.mark.parametrize("block", range(10))
def test_a_sweep_of_seeds(block: int) -> None:
    """150 more cases each, in which the rare things do happen."""
    seen = np.zeros(5, dtype=int)
    for seed in range(150 * block, 150 * block + 150):
        rng = np.random.default_rng(seed)
        cluster, requests = cases.cluster(rng), cases.requests(rng, int(rng.integers(1, 40)))
        slow, fast = reference.run(cluster, requests), simulator.run(cluster, requests)
        cases.assert_same(slow, fast)
        pools = slow.pools
        seen += [sum(p.preemptions for p in pools), sum(p.hit_tokens for p in pools), sum(p.evictions for p in pools),
                 slow.count(Status.REJECTED), slow.count(Status.COMPLETED)]  # fmt: skip
    assert (seen > 1).all(), seen


@pytest.mark.parametrize("traits", list(product([True, False], repeat=4)))
def test_any_policy_that_combines_the_traits(traits: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy is a row of the table: neither the reference nor the kernel knows its name."""
    for name in ("vllm", "sglang"):
        monkeypatch.setitem(POLICIES, name, Policy(*traits))
    preempted = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cluster, requests = cases.cluster(rng), cases.requests(rng, int(rng.integers(1, 40)))
        slow = reference.run(cluster, requests)
        cases.assert_same(slow, simulator.run(cluster, requests))
        preempted += int(slow.preemptions.sum())
    assert preempted > 1


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 40))
def test_driven_in_steps(seed: int) -> None:
    """Submitting, cancelling and looking at any moment gives the same in both, also while things are in flight."""
    rng = np.random.default_rng(seed)
    cluster = cases.cluster(rng)
    slow, fast = reference.Reference(cluster), simulator.Simulator(cluster)
    now, count = 0.0, 0
    for _ in range(int(rng.integers(1, 6))):
        requests = cases.requests(rng, int(rng.integers(1, 12)))
        requests.arrival_s[requests.after < 0] += now
        count += len(requests)
        for one in (slow, fast):
            one.submit(requests)
        now += float(rng.choice([cases.BEAT * int(rng.integers(1, 40)), rng.exponential(0.3)]))
        for one in (slow, fast):
            one.advance(now)
        cases.assert_same(slow.outcome(), fast.outcome())
        for index in rng.integers(0, count, int(rng.integers(0, 4))):
            for one in (slow, fast):
                one.cancel(int(index))
    for one in (slow, fast):
        one.advance()
    cases.assert_same(slow.outcome(), fast.outcome())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 40), st.lists(st.integers(1, 40), max_size=4))
def test_counts_right_after_so_many_were_sent(seed: int, marks: list[int]) -> None:
    """A run that stops there counts the same in both, and ends as one that does not."""
    rng = np.random.default_rng(seed)
    cluster, requests = cases.cluster(rng), cases.requests(rng, 30)
    slow, fast = reference.Reference(cluster), simulator.Simulator(cluster)
    for one in (slow, fast):
        one.submit(requests)
    for mark in sorted(marks):
        for one in (slow, fast):
            one.advance(sent=mark)
        assert slow.counts().sent == fast.sent
        cases.assert_same_counts(slow.counts(), fast.counts())
    for one in (slow, fast):
        one.advance()
    cases.assert_same(slow.outcome(), fast.outcome())
    whole = simulator.run(cluster, requests)
    np.testing.assert_allclose(fast.outcome().end_s, whole.end_s, rtol=0, atol=1e-9)
