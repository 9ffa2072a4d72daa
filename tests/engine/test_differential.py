"""The kernel gives the results of the reference: the same order of events, steps and counters, times to 1e-9 s."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import cases
from tokenworks.engine import reference, simulator
from tokenworks.engine.policies import POLICIES, Policy
from tokenworks.engine.types import Cluster, Requests, Status

Cancels = Sequence[tuple[float, int]]
"""Times, and numbers of requests that are cancelled then."""


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 40), st.integers(0, 40))
def test_kernel_equals_reference(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    cluster, requests = cases.cluster(rng), cases.requests(rng, count)
    cases.assert_same(reference.run(cluster, requests), simulator.run(cluster, requests))


@pytest.mark.parametrize("block", range(4))
def test_kernel_equals_reference_in_fixed_cases(block: int) -> None:
    """90 fixed cases each, with preemptions, hits, evictions and rejections.

    More cases than these add nothing: the first 358 reach all branches of the reference that the first 700 reach.
    """
    seen = np.zeros(5, dtype=int)
    for seed in range(90 * block, 90 * block + 90):
        rng = np.random.default_rng(seed)
        cluster, requests = cases.cluster(rng), cases.requests(rng, int(rng.integers(1, 40)))
        slow, fast = reference.run(cluster, requests), simulator.run(cluster, requests)
        cases.assert_same(slow, fast)
        pools = slow.pools
        seen += [sum(p.preemptions for p in pools), sum(p.hit_tokens for p in pools), sum(p.evictions for p in pools),
                 slow.count(Status.REJECTED), slow.count(Status.COMPLETED)]  # fmt: skip
    assert (seen > 1).all(), seen


@pytest.mark.parametrize("traits", list(product([True, False], repeat=3)))
def test_any_policy_that_combines_the_traits(traits: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each combination of traits under the names of both policies: the engines read the traits, never the name."""
    for name in ("vllm", "sglang"):
        monkeypatch.setitem(POLICIES, name, Policy(*traits))
    preempted = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cluster, requests = cases.cluster(rng), cases.requests(rng, int(rng.integers(1, 40)))
        slow = reference.run(cluster, requests)
        cases.assert_same(slow, simulator.run(cluster, requests))
        preempted += int(slow.preemptions.sum())
    assert preempted > 1


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 40))
def test_driven_in_steps(seed: int) -> None:
    """Submit, advance, look and cancel at random times, with requests in flight: both engines agree at each time."""
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
    cases.assert_same_ended(slow.take(), fast.take())
    assert fast.ended == count


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 40))
def test_cancels_at_given_times(seed: int) -> None:
    """Cancellations scheduled by `at` equal cancellations by hand at these times, in both engines."""
    rng = np.random.default_rng(seed)
    cluster, requests = cases.cluster(rng), cases.requests(rng, 30)
    times, whom = cases.moments(rng, 12), rng.integers(0, 30, 12)
    slow, fast, by_hand = reference.Reference(cluster), simulator.Simulator(cluster), simulator.Simulator(cluster)
    for one in (slow, fast, by_hand):
        one.submit(requests)
    fast.at(times[:6], "cancel", whom[:6])
    for time, index in zip(times[6:].tolist(), whom[6:].tolist(), strict=True):
        fast.at(time, "cancel", index)
    for time, index in zip(times.tolist(), whom.tolist(), strict=True):
        slow.at(time, "cancel", index)
    last = -1.0
    for i in np.argsort(times, kind="stable").tolist():
        if times[i] != last:  # else the consequences of the cancel before would come first
            by_hand.advance(float(times[i]))
        by_hand.cancel(int(whom[i]))
        last = times[i]
    middle = float(rng.choice(times))
    for one in (slow, fast):
        one.advance(middle)
    cases.assert_same(slow.outcome(), fast.outcome())
    for one in (slow, fast, by_hand):
        one.advance()
    cases.assert_same(slow.outcome(), fast.outcome())
    cases.assert_same(slow.outcome(), by_hand.outcome())
    cases.assert_same_ended(slow.take(), fast.take())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 40))
def test_requests_that_have_ended_give_their_memory_to_others(seed: int) -> None:
    """Submit in parts, cancel and take at random: the kernel reuses memory, the reference keeps all, and both agree."""
    rng = np.random.default_rng(seed)
    cluster = cases.cluster(rng)
    slow, fast = reference.Reference(cluster), simulator.Simulator(cluster)
    now, count = 0.0, 0
    slow_parts, fast_parts = [], []
    for _ in range(int(rng.integers(2, 12))):
        requests = cases.requests(rng, int(rng.integers(1, 12)))
        requests.arrival_s[requests.after < 0] += now
        requests = followed(rng, requests, slow, count)
        count += len(requests)
        now += float(rng.choice([cases.BEAT * int(rng.integers(1, 40)), rng.exponential(0.3)]))
        later, whom = float(now + rng.exponential(0.1)), int(rng.integers(0, count))
        for one in (slow, fast):
            one.submit(requests)
            one.at(later, "cancel", whom)
            one.advance(now)
        if rng.random() < 0.7:
            slow_parts.append(slow.take())
            fast_parts.append(fast.take())
            cases.assert_same_ended(slow_parts[-1], fast_parts[-1])
        whom = int(rng.integers(0, count))
        for one in (slow, fast):
            one.cancel(whom)
    for one in (slow, fast):
        one.advance()
    cases.assert_same_counts(slow.counts(), fast.counts())
    fast_parts.append(fast.take())
    whole = cases.joined(fast_parts)
    assert fast.ended == count
    assert whole.number.tolist() == list(range(count))
    cases.assert_same_requests(slow.outcome(), whole)


def followed(rng: np.random.Generator, requests: Requests, slow: reference.Reference, count: int) -> Requests:
    """The requests, of which a random part follows requests of earlier calls that are still in flight."""
    gone = {q.index for q in slow.ended} | {q.index for q in slow.sequences if q.status >= Status.COMPLETED or q.doomed}
    there = sorted(set(range(count)) - gone)
    if not there or rng.random() < 0.5:
        return requests
    after = np.where(requests.after >= 0, requests.after + count, -1).astype(np.int32)
    mine = rng.random(len(requests)) < 0.3
    after[mine], requests.arrival_s[mine] = rng.choice(there, mine.sum()), 0.1
    return replace(requests, after=after, earlier=count)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 40), st.lists(st.integers(1, 40), max_size=4))
def test_counts_right_after_a_number_of_requests_was_sent(seed: int, marks: list[int]) -> None:
    """Both engines stop with equal counters, and the outcome is that of a run without stops."""
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


# ---- KV tiers below HBM


@pytest.mark.parametrize("block", range(2))
def test_kernel_equals_reference_with_tiers(block: int) -> None:
    """80 fixed cases each, with hits, evictions, late prefetches and failures in tiers."""
    seen = np.zeros(5, dtype=int)
    for seed in range(80 * block, 80 * block + 80):
        cluster, requests = cases.reuse(np.random.default_rng(seed))
        slow = reference.run(cluster, requests)
        cases.assert_same(slow, simulator.run(cluster, requests))
        tiers = slow.tiers
        seen += [sum(t.hit_blocks for t in tiers), sum(t.evictions for t in tiers), sum(t.late_blocks for t in tiers),
                 sum(t.failed for t in tiers), slow.count(Status.FAILED)]  # fmt: skip
    assert (seen > 1).all(), seen


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 40))
def test_any_cluster_with_tiers(seed: int) -> None:
    cluster, requests = cases.reuse(np.random.default_rng(seed))
    cases.assert_same(reference.run(cluster, requests), simulator.run(cluster, requests))


def play_both(
    cluster: Cluster,
    stages: list[tuple[Requests | None, float]],
    check: Callable[[Any, Any], None],
    cancels: Cancels = (),
) -> None:
    """Play in stages: submit requests, advance to a time, and check that both engines agree."""
    slow, fast = reference.Reference(cluster), simulator.Simulator(cluster)
    for part, now in stages:
        for one in (slow, fast):
            if part is not None:
                one.submit(part)
                for time, index in cancels:
                    one.at(time, "cancel", index)
            one.advance(now)
        check(slow, fast)
    cases.assert_same_counts(slow.counts(), fast.counts())
    cases.assert_same_ended(slow.take(), fast.take())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 40))
def test_prompts_that_branch_with_tiers(seed: int) -> None:
    """In parts, and with requests taken out: the kernel drops the names of blocks that are gone."""
    cluster, requests = cases.branching(np.random.default_rng(seed))
    parts = cases.slices(requests, [0, len(requests) // 3, 2 * len(requests) // 3])
    stages = [(part, float(part.arrival_s[-1])) for part in parts]
    play_both(
        cluster, [*stages, (None, math.inf)], lambda slow, fast: cases.assert_same_ended(slow.take(), fast.take())
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 40))
def test_tiers_with_cancels_and_looks(seed: int) -> None:
    """Requests are cancelled while they wait for a prefetch, load or run; both engines agree at each look."""
    rng = np.random.default_rng(seed)
    cluster, requests = cases.reuse(rng)
    cancels = list(zip(cases.moments(rng, 8).tolist(), rng.integers(0, len(requests), 8).tolist(), strict=True))
    looks: list[float] = [*np.sort(cases.moments(rng, 4)).tolist(), math.inf]
    stages = [(requests, looks[0]), *((None, look) for look in looks[1:])]
    play_both(cluster, stages, lambda slow, fast: cases.assert_same(slow.outcome(), fast.outcome()), cancels)
