"""Lengths of runs: how many requests a run needs, and which runs are too short; confidence by batch means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.test_capacity import CHAT, DEPLOYMENT
from tokenworks.simulation.length import life_of, requests_for, requests_for_users, settled, unsettled, warm_up_s
from tokenworks.simulation.measured import BATCHES, DONE, WARM, Flow, batch_means
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.slo import Slo
from tokenworks.specs.workload import Workload
from tokenworks.traffic.generate import session_turns
from tokenworks.traffic.memory import most_requests

AGENT = Workload(
    name="agent", isl=8000, osl=200, isl_cv=0.5, osl_cv=0.8, hit_share=0.9, reused_context=7000, think_time=10
)


def run_of(rate: float, requests: int | None, **source: Any) -> Simulation:
    """A simulation of chat on a small deployment."""
    traffic = Source(CHAT, requests, **source).traffic(rate=rate)
    return simulate(DEPLOYMENT, traffic, slo=Slo.parse("ttft=2s,tpot=50ms"))


@given(rate=st.floats(1e-3, 1e4), life_s=st.floats(0.1, 100))
def test_the_window_has_its_lives_and_requests(rate: float, life_s: float) -> None:
    count = requests_for(CHAT, rate, life_s)
    if count < most_requests():
        assert count * WARM / rate >= 3 * life_s * (1 - 1e-9)
        assert count * (DONE - WARM) >= max(3000, 6 * life_s * rate) * (1 - 1e-9)


@given(rate=st.floats(1e-3, 1e3), life_s=st.floats(0.1, 100))
def test_sessions_count_as_a_whole(rate: float, life_s: float) -> None:
    turns, _ = session_turns(AGENT)
    count = requests_for(AGENT, rate, life_s)
    if count < most_requests(8000 / 64):
        assert count * (DONE - WARM) / turns >= 1000 * (1 - 1e-9)
        assert count * WARM / rate >= 3 * turns * (life_s + AGENT.think_time) * (1 - 1e-9)


def test_numbers_by_hand() -> None:
    """3,000 / 0.7 = 4,286 requests; 500/s x 10 s x 3 / 0.2 = 75,000; 1,000 users x 3 / 0.2 = 15,000."""
    assert requests_for(CHAT, 1.0, 5.0) == 4286
    assert requests_for(CHAT, 500.0, 10.0) == 75_000
    assert requests_for_users(CHAT, 1000) == 15_000
    assert requests_for(CHAT, 1e12, 1e6) == most_requests()
    assert requests_for(AGENT, 1e12, 1e6) == most_requests(8000 / 64) < most_requests() / 4


def test_life_is_the_mean_time_of_requests() -> None:
    """Little's law against the mean E2EL of a long steady run."""
    run = run_of(6.0, 20_000)
    assert life_of(run) == pytest.approx(run.metrics.mean_e2el_ms / 1e3, rel=0.02)
    assert life_of(run, waiting=False) <= life_of(run)


def test_a_long_run_is_settled_and_a_short_one_is_not() -> None:
    run = run_of(8.0, requests_for(CHAT, 8.0, 5.5))
    assert settled(run)
    assert warm_up_s(run) < run.span.end_s
    short = run_of(8.0, 1000)
    assert not settled(short)
    assert "700 requests" in unsettled(short)
    assert unsettled(short) in short.notes


def test_overload_is_settled_but_does_not_hold() -> None:
    """A longer run of an overload shows the same; requests that wait count with their age."""
    run = run_of(30.0, 12_000)
    assert settled(run)
    assert not run.served
    assert not run.meets_slo
    assert run.bounds["ttft"].seen_s > 0.3 * run.span.end_s


def test_sent_and_served() -> None:
    """By hand: 2 % and 3 sigma of 10,000 requests are 9,500; of 100 sessions 6,800."""
    assert Flow(10_000, 9_510, 10_000, 10_000).served
    assert not Flow(10_000, 9_490, 10_000, 10_000).served
    assert Flow(10_000, 6_810, 10_000, 100).served
    assert not Flow(10_000, 6_790, 10_000, 100).served
    assert Flow(0, 0, 0, 0).served


def test_turns_that_wait_for_answers_are_due() -> None:
    """An overload of sessions completes what is sent, since the next turn waits; but more is due."""
    run = simulate(DEPLOYMENT, Source(AGENT, 6000).traffic(rate=20.0))
    assert run.flow.completed >= 0.9 * run.flow.sent
    assert run.flow.due > 1.5 * run.flow.completed
    assert not run.served
    light = simulate(DEPLOYMENT, Source(AGENT, 6000).traffic(rate=1.0))
    assert light.flow.due == pytest.approx(light.flow.sent, rel=0.15)
    assert light.served


def test_batch_means_of_independent_values() -> None:
    """The interval contains the true mean in about 95 of 100 cases, and narrows with the root of the length."""
    random = np.random.default_rng(1)
    inside, widths = 0, []
    for _ in range(400):
        mean, half = batch_means(random.exponential(1.0, 100 * BATCHES))
        inside += abs(mean - 1.0) <= half
        widths.append(half)
    assert 0.92 <= inside / 400 <= 0.98
    assert np.mean(widths) == pytest.approx(2.093 / math.sqrt(100 * BATCHES), rel=0.05)


def test_the_interval_of_a_percentile_covers_its_mean_over_seeds() -> None:
    """Intervals are for 95 %; 40 seeds measured 95 % for throughput and 90 to 95 % for p99 of TPOT."""
    runs = [run_of(8.0, 8000, seed=seed) for seed in range(20)]
    assert set(runs[0].confidence) == {"throughput", "ttft", "tpot"}
    for name, values in (
        ("tpot", [run.bounds["tpot"].seen_s for run in runs]),
        ("throughput", [run.metrics.output_throughput for run in runs]),
    ):
        mean = sum(values) / len(values)
        covered = [abs(value - mean) <= run.confidence[name] * value for run, value in zip(runs, values, strict=True)]
        assert sum(covered) >= 16


@pytest.mark.parametrize("rate", [8.0, 30.0])
def test_a_run_that_ends_with_its_window_has_the_same_metrics(rate: float) -> None:
    traffic, slo = Source(CHAT, 3000).traffic(rate=rate), Slo.parse("ttft=2s,tpot=50ms")
    whole, short = (simulate(DEPLOYMENT, traffic, slo=slo, drain=drain) for drain in (True, False))
    assert short.metrics == whole.metrics
    assert (short.bounds, short.flow, short.confidence) == (whole.bounds, whole.flow, whole.confidence)
    assert life_of(short) == pytest.approx(life_of(whole), rel=1e-9)
    assert unsettled(short) == unsettled(whole)
