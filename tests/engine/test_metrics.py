"""Metrics, compared with values computed by hand from the definitions of `vllm bench serve`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.engine import simulator
from tokenworks.engine.gaps import itl_bin, itl_middle
from tokenworks.engine.metrics import metrics
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, StepCost


def one_by_one(step_s: float = 0.01, *, sequences: int = 1) -> Cluster:
    """A cluster in which every step takes `step_s`."""
    return Cluster((Pool(StepCost(np.full(1001, step_s)), Limits(sequences, 1000, 1000)),))


@given(st.floats(1e-8, 1e9))
def test_a_gap_is_near_the_middle_of_its_bin(gap: float) -> None:
    assert itl_middle()[itl_bin(gap)] == pytest.approx(gap, rel=0.004)


def test_two_requests_by_hand() -> None:
    """One request at a time, 10 ms a step. The first takes 4 steps; the second, sent at 5 ms, waits for it."""
    outcome = simulator.run(one_by_one(), Requests.of([0.0, 0.005], [10, 10], [4, 3]))
    m = metrics(outcome, ttft_s=0.02, tpot_s=0.011)
    assert m.completed == 2
    assert m.duration == pytest.approx(0.07)
    assert m.request_throughput == pytest.approx(2 / 0.07)
    assert m.request_goodput == pytest.approx(1 / 0.07)
    assert m.effective_throughput == pytest.approx(4 / 0.07)
    assert m.output_throughput == pytest.approx(7 / 0.07)
    assert m.total_token_throughput == pytest.approx(27 / 0.07)
    assert m.mean_ttft_ms == pytest.approx((10 + 45) / 2)
    assert m.p99_ttft_ms == pytest.approx(10 + 0.99 * 35)
    assert m.mean_tpot_ms == pytest.approx(10)
    assert m.mean_e2el_ms == pytest.approx((40 + 65) / 2)
    assert m.mean_itl_ms == pytest.approx(10, rel=0.004)
    assert outcome.itl_counts.sum() == 5


def test_one_token_has_no_tpot() -> None:
    """As in vLLM, a request with one output token counts for TTFT, and not for TPOT."""
    m = metrics(simulator.run(one_by_one(), Requests.of([0.0], [10], [1])))
    assert (m.completed, m.mean_tpot_ms, m.mean_itl_ms) == (1, 0, 0)
    assert m.mean_ttft_ms == pytest.approx(10)


def test_nothing_completed() -> None:
    m = metrics(simulator.run(one_by_one(), Requests.of([], [], [])))
    assert (m.completed, m.request_throughput, m.mean_ttft_ms, m.p99_itl_ms) == (0, 0, 0, 0)


def test_a_steady_window_and_a_class() -> None:
    outcome = simulator.run(one_by_one(), Requests.of(np.arange(10) * 1.0, [5] * 10, [2] * 10))
    m = metrics(outcome, window=(2.0, 6.0), chosen=np.arange(10) % 2 == 0)
    assert m.completed == 2
    assert m.request_throughput == pytest.approx(2 / 4.0)


def test_the_mean_gap_of_the_histogram() -> None:
    """The mean gap is the sum over requests of (end - first token), divided by the number of gaps."""
    rng = np.random.default_rng(3)
    requests = Requests.of(np.cumsum(rng.exponential(0.05, 300)), rng.integers(1, 400, 300), rng.integers(1, 90, 300))
    cost = StepCost(np.linspace(0.004, 0.024, 1001), 1e-5, 1e-7)
    outcome = simulator.run(Cluster((Pool(cost, Limits(16, 1000, 1000)),)), requests)
    gaps = requests.output_tokens.sum() - 300
    assert outcome.itl_counts.sum() == gaps
    mean = (outcome.end_s - outcome.first_token_s).sum() / gaps
    assert metrics(outcome).mean_itl_ms == pytest.approx(mean * 1e3, rel=0.004)
