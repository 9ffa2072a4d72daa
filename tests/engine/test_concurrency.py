"""The client's limit of requests in flight: the client sends a request only when it has a free slot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import cases
from tests.engine.test_schedule import TICK, Run, both
from tokenworks.engine import reference, simulator
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, Status, StepCost

OVERHEADS = st.sampled_from([0.0, 0.013, 2 * cases.BEAT, 0.3])


def limited(seed: int, slots: int, request_s: float) -> tuple[Cluster, Requests]:
    """A random cluster whose client has `slots` slots and an overhead, and up to 40 random requests."""
    rng = np.random.default_rng(seed)
    cluster = replace(cases.cluster(rng), concurrency=slots, request_s=request_s)
    return cluster, cases.requests(rng, int(rng.integers(1, 40)))


def sent_and_ended(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Times of sending and times of ends of all requests that the client sent, each sorted [s]."""
    sent = outcome.status != Status.PENDING
    return np.sort(outcome.arrival_s[sent]), np.sort(outcome.end_s[sent])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 40), st.integers(1, 6), OVERHEADS)
def test_never_more_requests_in_flight_than_slots(seed: int, slots: int, request_s: float) -> None:
    """Request k + N is sent no sooner than k requests have ended; both engines agree."""
    cluster, requests = limited(seed, slots, request_s)
    outcome = simulator.run(cluster, requests)
    cases.assert_same(reference.run(cluster, requests), outcome)
    sent, ended = sent_and_ended(outcome)
    assert (sent[slots:] >= ended[: len(sent[slots:])] - 1e-9).all()
    reached = outcome.scheduled_s - outcome.arrival_s
    assert (reached[~np.isnan(reached)] >= request_s - 1e-9).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 40), st.integers(1, 6), OVERHEADS)
def test_all_slots_are_busy_while_requests_wait(seed: int, slots: int, request_s: float) -> None:
    """With all requests available at time 0, the N first are sent at once, and each end sends the next request."""
    cluster, requests = limited(seed, slots, request_s)
    count = len(requests)
    requests = replace(requests, arrival_s=np.zeros(count), after=np.full(count, -1, np.int32))
    sent, ended = sent_and_ended(simulator.run(cluster, requests))
    assert len(sent) == count
    assert (np.abs(sent[:slots]) <= 1e-9).all()
    np.testing.assert_allclose(sent[slots:], ended[: max(count - slots, 0)], rtol=0, atol=1e-9)


@both
def test_a_request_is_not_sent_while_the_slot_is_taken(run: Run) -> None:
    """One slot, 0.5 s of overhead, steps of 1 s: the first request ends at 2.5 s.

    The second request is due at 2.2 s and would reach the rank at 2.7 s, after that end. The client sends it at 2.5 s.
    """
    cluster = Cluster((Pool(TICK, Limits(8, 100, 100)),), concurrency=1, request_s=0.5)
    outcome = run(cluster, Requests.of([0.0, 2.2], [5, 5], [2, 1]))
    assert outcome.arrival_s.tolist() == [0, 2.5]
    assert outcome.scheduled_s.tolist() == [0.5, 3]
    assert outcome.end_s.tolist() == [2.5, 4]


@both
def test_a_turn_follows_at_the_client(run: Run) -> None:
    """A turn without think time takes the slot that its own answer leaves, unless another request waits for it."""
    cluster = Cluster((Pool(TICK, Limits(8, 100, 100)),), concurrency=1, request_s=0.5)
    alone = run(cluster, Requests.of([0.0, 0.0], [5, 5], [1, 1], after=[-1, 0]))
    assert alone.arrival_s.tolist() == [0, 1.5]
    outcome = run(cluster, Requests.of([0.0, 0.0, 1.0], [5, 5, 5], [1, 1, 1], after=[-1, 0, -1]))
    assert outcome.arrival_s.tolist() == [0, 3, 1.5]


@both
def test_a_slot_of_a_pipeline_is_free_when_the_client_sees_the_end(run: Run) -> None:
    """Two stages: the last token leaves the last stage after its step, and only then is the slot free.

    A lone prompt of 20 tokens takes 21 ms a stage, in a step of 21 ms in all: the client sees its token at 41 ms.
    """
    pool = Pool(StepCost(np.linspace(0.001, 0.101, 101)), Limits(8, 100, 1000, 4), stages=2)
    outcome = run(Cluster((pool,), concurrency=1), Requests.of([0.0, 0.03], [20, 20], [1, 1]))
    assert outcome.end_s[0] == pytest.approx(0.041)
    assert outcome.arrival_s[1] == pytest.approx(0.041)


@both
def test_a_request_cancelled_on_its_way_gives_its_slot_back(run: Run) -> None:
    """The client withdraws the first request between sending it and its arrival at the rank."""
    cluster = Cluster((Pool(TICK, Limits(8, 100, 100)),), concurrency=1, request_s=0.5)
    requests = Requests.of([0.0, 0.0], [5, 5], [1, 1])
    engine = reference.Reference(cluster) if run is reference.run else simulator.Simulator(cluster)
    engine.submit(requests)
    engine.advance(0.25)
    engine.cancel(0)
    engine.advance()
    outcome = engine.outcome()
    assert outcome.status.tolist() == [Status.CANCELLED, Status.COMPLETED]
    assert outcome.arrival_s[1] == 0.5
