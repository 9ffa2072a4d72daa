"""Output tokens of requests in flight, at any time: the kernel against the reference, which counts step by step."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import cases
from tokenworks.engine.progress import Progress
from tokenworks.engine.reference import Reference
from tokenworks.engine.simulator import Simulator
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, Status, StepCost

IN_FLIGHT = (Status.QUEUED, Status.RUNNING)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1 << 40))
def test_tokens_of_requests_in_flight(seed: int) -> None:
    """At random times, with results taken now and then, each request in flight has the tokens of the reference."""
    rng = np.random.default_rng(seed)
    cluster, requests = cases.cluster(rng), cases.requests(rng, int(rng.integers(1, 30)))
    slow, fast, progress = Reference(cluster), Simulator(cluster), Progress()
    tokens, slots, now = dict[int, int](), dict[int, int](), 0.0
    for one in (slow, fast):
        one.submit(requests)
    while fast.ended < len(requests):
        now += float(rng.choice([cases.BEAT * int(rng.integers(1, 40)), rng.exponential(0.3)]))
        for one in (slow, fast):
            one.advance(now)
        fast.progress(progress)
        assert progress.next_s > now
        if rng.random() < 0.3:
            fast.take()
        for number, count in zip(progress.numbers.tolist(), progress.tokens.tolist(), strict=True):
            assert count > tokens.get(number, 0)
            tokens[number] = count
        assert len(set(progress.slots.tolist())) == len(progress)
        for number, slot in zip(progress.numbers.tolist(), progress.slots.tolist(), strict=True):
            assert slots.setdefault(number, slot) == slot < fast.slots
        for sequence in slow.sequences:
            if sequence.status in {*IN_FLIGHT, Status.COMPLETED}:
                assert tokens.get(sequence.index, 0) == min(sequence.generated, sequence.output)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 40))
def test_each_token_at_the_end_of_its_step(seed: int) -> None:
    """A caller that advances from `next_s` to `next_s` sees each token at its own time, and first tokens on time."""
    rng = np.random.default_rng(seed)
    cluster, requests = cases.cluster(rng), cases.requests(rng, int(rng.integers(1, 12)))
    fast, progress, first = Simulator(cluster), Progress(), dict[int, float]()
    whole = Simulator(cluster)
    whole.submit(requests)
    whole.advance()
    expected = whole.outcome()
    fast.submit(requests)
    fast.progress(progress)
    lag = max(one.stages for one in cluster.pools) > 1
    while math.isfinite(progress.next_s):
        now = progress.next_s
        fast.advance(now)
        fast.progress(progress)
        assert lag or (progress.times == now).all()
        for number, count, when in zip(progress.numbers, progress.tokens, progress.times, strict=True):
            if number not in first:
                first[number] = when
                assert expected.first_token_s[number] == when
            if count == expected.output_tokens[number]:
                assert expected.end_s[number] == when
    cases.assert_same(expected, fast.outcome())


def test_a_slot_that_is_used_again() -> None:
    """The tokens of an ended request are not those of the next request in its slot."""
    simulator = Simulator(Cluster((Pool(StepCost(np.full(9, 1.0)), Limits(1, 8, 100)),)))
    progress = Progress()
    for turn in range(3):
        simulator.submit(Requests.of([simulator.now], [4], [5]))
        simulator.advance(simulator.now + 2.0)
        simulator.progress(progress)
        assert progress.numbers.tolist() == [turn]
        assert progress.tokens.tolist() == [2]
        simulator.advance(simulator.now + 3.0)
        assert len(simulator.take().number) == 1
        assert simulator.slots == 1
