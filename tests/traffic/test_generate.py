"""Generators hit their means, cvs and shares; the same seed gives the same trace; closed loops wait as they should."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.errors import SpecError
from tokenworks.specs.workload import Workload
from tokenworks.traffic import from_workload, generate, statistics

N = 40_000


def random() -> np.random.Generator:
    return generate.streams(3)["arrivals"]


def workload(**fields: Any) -> Workload:
    base = {"name": "w", "isl": 4000, "osl": 300, "rate": 10}
    if fields.get("hit_share"):
        base["reused_context"] = 1000
    return Workload.model_validate({**base, **fields})


@pytest.mark.parametrize(
    ("arrivals", "cv"),
    [(generate.poisson, 1), (partial(generate.gamma, cv=2.0), 2), (partial(generate.gamma, cv=0.3), 0.3)],
)
def test_gaps_have_their_mean_and_cv(arrivals: Any, cv: float) -> None:
    gaps = np.diff(arrivals(random(), N, 50.0))
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)


def test_bursts() -> None:
    assert generate.burst(random(), 5, 4.0, size=2).tolist() == [0, 0, 0.5, 0.5, 1]
    assert generate.burst(random(), 5, 4.0, size=5).tolist() == [0] * 5


def test_days_have_their_mean_and_peak() -> None:
    """Rate 10/s, peak 1.8 times that: the middle tenth around the peak has 18/s, around the trough 2/s."""
    times = generate.diurnal(random(), N, 10.0, peak=1.8, period=1000.0)
    assert (np.diff(times) >= 0).all()
    whole = times[times < 4000]  # four days of 1,000 s
    assert len(whole) / 4000 == pytest.approx(10, rel=0.03)
    phase = whole % 1000
    assert ((phase > 200) & (phase < 300)).sum() / 400 == pytest.approx(18, rel=0.05)
    assert ((phase > 700) & (phase < 800)).sum() / 400 == pytest.approx(2, rel=0.15)


@settings(max_examples=15, deadline=None)
@given(st.floats(200, 1e5), st.floats(0, 2.5))
def test_lognormal_lengths(mean: float, cv: float) -> None:
    lengths = generate.lognormal(random(), 100_000, mean, cv)
    assert lengths.mean() == pytest.approx(mean, rel=0.04)
    assert lengths.std() / lengths.mean() == pytest.approx(cv, rel=0.2, abs=1e-2)


def test_other_lengths() -> None:
    lengths = generate.uniform(random(), N, 8, 10)
    assert np.bincount(lengths)[8:].tolist() == pytest.approx([N / 3] * 3, rel=0.05)
    assert set(generate.empirical(random(), N, np.array([5, 70])).tolist()) == {5, 70}
    assert generate.fixed(random(), 3, 9).tolist() == [9, 9, 9]


@settings(max_examples=15, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_an_open_loop_of_requests(hit_share: float, cv: float) -> None:
    stats = statistics(from_workload(workload(hit_share=min(hit_share, 0.99), isl_cv=cv, osl_cv=cv), N))
    assert stats.rate == pytest.approx(10, rel=0.03)
    assert stats.input_tokens.mean == pytest.approx(4000, rel=0.03)
    assert stats.output_tokens.mean == pytest.approx(300, rel=0.03)
    assert (stats.reuse.share if stats.reuse else 0.0) == pytest.approx(min(hit_share, 0.99), abs=0.02)
    assert stats.think_s is None


@settings(max_examples=25, deadline=None)
@given(st.floats(0.02, 0.98), st.floats(0.0, 1.5))
def test_an_open_loop_of_sessions(hit_share: float, cv: float) -> None:
    trace = from_workload(workload(hit_share=hit_share, isl=20_000, isl_cv=cv, think_time=8), N)
    stats = statistics(trace)
    assert stats.input_tokens.mean == pytest.approx(20_000, rel=0.1)
    assert stats.reuse is not None
    assert stats.reuse.share == pytest.approx(hit_share, abs=0.01)
    assert stats.think_s is not None
    assert stats.think_s.mean == pytest.approx(8, rel=0.05)
    assert stats.turns is not None
    follow = trace.parent >= 0
    parent = trace.parent[follow]
    assert (trace.session[parent] == trace.session[follow]).all()
    grown = trace.input_tokens[follow] >= trace.input_tokens[parent]
    assert grown.all()
    np.testing.assert_allclose(trace.arrival_s[follow] - trace.arrival_s[parent], trace.think_s[follow], atol=1e-6)


@given(st.floats(0.4, 0.95), st.integers(1, 400), st.integers(0, 2**32))
def test_sessions_that_began_before_are_at_a_random_turn(hit_share: float, ongoing: int, seed: int) -> None:
    asked = workload(hit_share=hit_share, isl=20_000, isl_cv=0.5, think_time=8)
    trace = from_workload(asked, 4000, seed=seed, ongoing=ongoing)
    turns = generate.session_turns(asked)[0]
    assert len(trace) == 4000
    roots, sizes = trace.parent < 0, np.bincount(trace.session)
    early = roots & (trace.arrival_s < 8 * 25)
    assert early.sum() >= min(ongoing, 4000 // turns)
    assert sizes.max() <= turns


def test_sessions_that_began_before_make_the_rate_steady() -> None:
    """With as many sessions as are live on average, as many requests come at first as later."""
    asked = workload(hit_share=0.95, isl=20_000, isl_cv=0.5, think_time=8, rate=20)
    trace = from_workload(asked, N, ongoing=20 * 8)
    first, later = ((trace.arrival_s >= start) & (trace.arrival_s < start + 240) for start in (0, 1000))
    assert first.sum() == pytest.approx(later.sum(), rel=0.1)
    assert trace.input_tokens[first].mean() == pytest.approx(20_000, rel=0.15)


def test_only_sessions_can_have_begun_before() -> None:
    alone, users = workload(), workload(rate=None, concurrency=5, hit_share=0.9, think_time=8)
    for asked in (alone, users):
        same = from_workload(asked, 500), from_workload(asked, 500, ongoing=50)
        assert same[0].arrival_s.tolist() == same[1].arrival_s.tolist()


def test_agents_as_measured() -> None:
    """118,296 tokens with 96.23 % reuse make sessions of 40 turns; the traced ones had 66.8 (p50 44)."""
    trace = from_workload(workload(isl=118_296, isl_cv=0.785, hit_share=0.9623, think_time=10), N)
    stats = statistics(trace)
    assert stats.turns is not None
    assert stats.turns.p50 == 40
    assert stats.input_tokens.mean == pytest.approx(118_296, rel=0.05)
    spread = trace.input_tokens.std() / trace.input_tokens.mean()
    assert spread == pytest.approx(0.785, rel=0.1)


@pytest.mark.parametrize("think_time", [0.0, 5.0])
@pytest.mark.parametrize("hit_share", [0.0, 0.75])
def test_a_closed_loop_has_one_chain_a_user(think_time: float, hit_share: float) -> None:
    trace = from_workload(workload(rate=None, concurrency=7, think_time=think_time, hit_share=hit_share), 500)
    assert len(trace) == 500
    assert (trace.parent < 0).sum() == 7
    assert (np.bincount(trace.parent[trace.parent >= 0]) <= 1).all()  # nobody is waited for twice: 7 in flight at most
    assert trace.arrival_s[trace.parent < 0].tolist() == [0] * 7
    assert trace.think_s.sum() == pytest.approx(493 * think_time, rel=0.15)


def test_streams_do_not_disturb_each_other() -> None:
    one, same = from_workload(workload(isl_cv=1), 100, seed=5), from_workload(workload(isl_cv=1), 100, seed=5)
    other = from_workload(workload(isl_cv=1, osl_cv=2, arrivals={"kind": "gamma", "cv": 3.0}), 100, seed=5)
    assert one.arrival_s.tolist() == same.arrival_s.tolist()
    assert one.input_tokens.tolist() == same.input_tokens.tolist() == other.input_tokens.tolist()
    assert one.arrival_s.tolist() != other.arrival_s.tolist()
    assert from_workload(workload(isl_cv=1), 100, seed=6).input_tokens.tolist() != one.input_tokens.tolist()


def test_other_lengths_for_a_workload() -> None:
    inputs, outputs = partial(generate.uniform, low=800, high=1000), partial(generate.fixed, tokens=7)
    trace = from_workload(workload(), 1000, inputs=inputs, outputs=outputs)
    assert trace.input_tokens.min() >= 800
    assert trace.input_tokens.max() <= 1000
    assert set(trace.output_tokens.tolist()) == {7}


def test_classes_have_their_shares_and_a_session_is_of_one() -> None:
    classes = [{"name": "chat", "share": 0.8}, {"name": "batch", "share": 0.2, "priority": 1, "slo": "ttft=60s"}]
    trace = from_workload(workload(classes=classes), N)
    assert trace.classes == ("chat", "batch")
    assert trace.class_of.mean() == pytest.approx(0.2, abs=0.01)
    plain = from_workload(workload(), N)
    assert (trace.arrival_s == plain.arrival_s).all()  # a stream of its own
    talks = from_workload(workload(classes=classes, hit_share=0.9, think_time=5), 5000)
    later = talks.parent >= 0
    assert later.any()
    assert (talks.class_of[later] == talks.class_of[talks.parent[later]]).all()


@pytest.mark.parametrize(
    ("arrivals", "cv"),
    [
        ({"kind": "poisson"}, 1.0),
        ({"kind": "gamma", "cv": 2.0}, 2.0),
        ({"kind": "burst", "size": 5}, 2.0),  # gaps of 0, 0, 0, 0, 5: sqrt(5 - 1)
        ({"kind": "diurnal", "peak": 1.5, "period": 400}, 1.0),
    ],
)
def test_a_workload_says_how_its_requests_come(arrivals: dict[str, Any], cv: float) -> None:
    trace = from_workload(workload(arrivals=arrivals), N)
    gaps = np.diff(trace.arrival_s)
    assert gaps.mean() == pytest.approx(1 / 10, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.15)
    with pytest.raises(SpecError, match="give a rate") if arrivals["kind"] != "poisson" else nullcontext():
        from_workload(workload(rate=None, concurrency=4, arrivals=arrivals), 100)


def test_what_cannot_be_generated() -> None:
    with pytest.raises(SpecError, match="give --rate or --concurrency"):
        from_workload(workload(rate=None), 10)
    with pytest.raises(SpecError, match="leave think_time or the input lengths out"):
        from_workload(workload(hit_share=0.5, think_time=3), 10, inputs=partial(generate.fixed, tokens=5))
    with pytest.raises(SpecError, match="0 requests: there must be at least one"):
        from_workload(workload(), 0)
