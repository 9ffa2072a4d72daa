"""Laws of failures in the engine: every request ends, no block and no token is lost unseen, and time adds up."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import cases
from tokenworks.engine import reference, simulator
from tokenworks.engine.types import Cluster, Requests, Status

SEEDS = st.integers(0, 1 << 40)
Events = list[tuple[float, str, int, float]]


def drawn(seed: int) -> tuple[Cluster, Requests, Events]:
    """A random cluster, with KV tiers or without, random requests, and random failures."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        cluster, requests = cases.reuse(rng)
    else:
        cluster, requests = cases.cluster(rng), cases.requests(rng, int(rng.integers(1, 60)))
    cluster = cases.with_faults(rng, cluster)
    return cluster, requests, cases.faults(rng, cluster, cases.busy_times(rng, requests, 12))


def run(cluster: Cluster, requests: Requests, events: Events) -> simulator.Simulator:
    """The compiled engine after all requests and events."""
    engine = simulator.Simulator(cluster)
    engine.submit(requests)
    for event in events:
        engine.at(*event)
    engine.advance()
    return engine


@settings(max_examples=70, deadline=None)
@given(SEEDS)
def test_every_request_ends_and_nothing_is_left_behind(seed: int) -> None:
    """Each stop has a start, so all requests end, or follow one that did not complete. All blocks are free."""
    cluster, requests, events = drawn(seed)
    engine = run(cluster, requests, events)
    outcome = engine.outcome()
    assert engine.ended == len(requests)
    assert outcome.count(Status.QUEUED) == outcome.count(Status.RUNNING) == outcome.count(Status.CANCELLED) == 0
    waits = outcome.status == Status.PENDING
    assert (requests.after[waits] >= 0).all()
    assert (outcome.status[requests.after[waits]] != Status.COMPLETED).all()
    assert all(pool.kv_used == 0 for pool in outcome.pools)
    for field in ("load", "running", "waiting", "loading", "readied", "unseen", "owed", "cancels", "fresh", "decodes"):
        assert not engine._state.rank[field].any(), field


@settings(max_examples=70, deadline=None)
@given(SEEDS)
def test_each_token_and_each_lost_request_is_accounted_for(seed: int) -> None:
    """Tokens of ended steps went to completed requests, or are counted as lost; a step that was lost gave none."""
    cluster, requests, events = drawn(seed)
    cluster = replace(cluster, tiers=replace(cluster.tiers, on_failure="recompute"))
    outcome = run(cluster, requests, events).outcome()
    completed = outcome.status == Status.COMPLETED
    produced = sum(pool.output_tokens for pool in outcome.pools)
    lost = sum(faults.lost_output_tokens for faults in outcome.faults)
    assert produced == outcome.output_tokens[completed].sum() + lost
    left = sum(faults.lost_requests for faults in outcome.faults)
    sent_again = sum(faults.retries for faults in outcome.faults)
    assert left == sent_again + outcome.count(Status.FAILED)
    assert sent_again == outcome.retries.sum()
    assert outcome.retries.max(initial=0) <= cluster.retries
    assert (outcome.first_token_s[completed] <= outcome.end_s[completed]).all()
    assert (outcome.arrival_s[completed] <= outcome.scheduled_s[completed]).all()
    assert (outcome.scheduled_s[completed] <= outcome.first_token_s[completed]).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_down_time_is_the_time_between_stop_and_start(seed: int) -> None:
    """Overlapping stops of one instance count once, as the union of their intervals: from a stop to the next start."""
    cluster, requests, events = drawn(seed)
    outcome = run(cluster, requests, events).outcome()
    down, since = 0.0, dict[int, float]()
    for time, kind, index, _ in sorted(events, key=lambda event: event[0]):
        if kind == "stop":
            since.setdefault(index, time)
        elif kind == "start" and index in since:
            down += time - since.pop(index)
    counted = sum(faults.down_s for faults in outcome.faults)
    assert math.isclose(counted, down, rel_tol=1e-9, abs_tol=1e-9)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0.001, 0.5))
def test_a_stop_and_a_start_at_once_cost_the_lost_part_of_the_step_and_nothing_else(seed: int, time_s: float) -> None:
    """If all requests are there from the begin, later ends shift by the time that the step had run.

    With MTP, a step of a series has the time of a mean step, and a step that begins again has its own. With an age, a
    later preemption changes the order of the queue. With stages, a client sees the end later.
    """
    rng = np.random.default_rng(seed)
    cluster = cases.cluster(rng)
    limits = replace(cluster.pools[0].limits, ageing_s=0.0, draft_tokens=0, tokens_per_step=1.0)
    front = replace(cluster.pools[0], limits=limits, instances=1, stages=1, role="aggregated")
    cluster = Cluster((front,), window_s=0.0)
    requests = cases.requests(rng, 20)
    requests = replace(requests, arrival_s=np.zeros(20), after=np.full(20, -1, np.int32))
    plain = run(cluster, requests, []).outcome()
    engine = reference.Reference(cluster)
    engine.submit(requests)
    engine.advance(time_s)
    (instance,) = engine.instances
    shift = time_s - instance.start_s if instance.batches else 0.0
    hit = run(cluster, requests, [(time_s, "stop", 0, 0.0), (time_s, "start", 0, 0.0)]).outcome()
    assert hit.faults[0].lost_steps == bool(instance.batches)
    late = plain.end_s > time_s
    np.testing.assert_allclose(hit.end_s, plain.end_s + np.where(late, shift, 0.0), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(hit.status, plain.status)
    assert hit.pools[0].output_tokens == plain.pools[0].output_tokens


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_events_that_change_nothing_change_nothing(seed: int) -> None:
    """A pause of no time, the cost that holds already, a start without a stop, a return without a loss."""
    cluster, requests, _ = drawn(seed)
    rng = np.random.default_rng(seed)
    kinds = ("pause", "cost", "start", "back")
    events = [(float(time), str(rng.choice(kinds)), 0, 0.0) for time in cases.moments(rng, 6)]
    plain, other = run(cluster, requests, []).outcome(), run(cluster, requests, events).outcome()
    cases.assert_same(replace(plain, now_s=other.now_s, series=other.series), other)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_same_events_same_bytes(seed: int) -> None:
    one, two = (run(*drawn(seed)).outcome() for _ in range(2))
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            assert value.tobytes() == getattr(two, name).tobytes(), name
    assert one.faults == two.faults
