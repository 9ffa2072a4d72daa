"""The busiest of several ranks against drawn queues of prompts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.planning.lockstep import lockstep


def factor(prompts: float, tokens: float, ranks: int, budget: float, cv: float) -> float:
    arrays = np.array(prompts), np.array(tokens)
    return float(lockstep(*arrays, ranks=np.array(ranks), budget=np.array(budget), cv=cv))


def drawn(prompts: float, ranks: int, budget: float, cv: float, *, steps: int = 6000) -> float:
    """Each rank takes up to its budget of what has arrived, and leaves the rest; lengths have a mean of 1."""
    random = np.random.default_rng(1)
    variance = np.log1p(cv**2)
    waiting, busiest, taken = np.zeros(ranks), 0.0, 0.0
    for _ in range(steps):
        count = random.poisson(prompts / ranks, ranks)
        lengths = np.exp(random.normal(-variance / 2, np.sqrt(variance), count.sum()))
        waiting += np.bincount(np.repeat(np.arange(ranks), count), lengths, ranks)
        now = np.minimum(waiting, budget)
        waiting -= now
        busiest, taken = busiest + now.max(), taken + now.mean()
    return float(busiest / taken)


@pytest.mark.parametrize("cv", [0.0, 1.0])
@pytest.mark.parametrize(
    ("ranks", "prompts", "budget"), [(2, 0.1, 8.0), (20, 1.0, 8.0), (32, 1.6, 1.0), (40, 12.0, 4.0), (20, 40.0, 16.0)]
)
def test_lockstep_is_the_expected_maximum(ranks: int, prompts: float, budget: float, cv: float) -> None:
    expected = drawn(prompts, ranks, budget, cv)
    assert factor(prompts, 100.0, ranks, 100 * budget, cv) == pytest.approx(expected, rel=0.04)


def test_long_prompts_keep_ranks_busy_for_several_steps() -> None:
    """A prompt of 10 chunks each 40 steps: a rank is busy a quarter of the time, one of 8 ranks 90 % of it.

    1 - 0.75^8 = 0.90, over a mean of 0.25: 3.6 (by hand).
    """
    assert factor(8 / 40, 10_000.0, 8, 1000.0, 0.0) == pytest.approx(3.6, rel=0.02)


@given(st.integers(1, 72), st.floats(0.01, 50), st.floats(1, 1e5), st.floats(64, 16384), st.floats(0, 3))
def test_lockstep_costs_at_least_an_even_share_and_at_most_all_on_one_rank(
    ranks: int, prompts: float, tokens: float, budget: float, cv: float
) -> None:
    assert 1 <= factor(prompts, tokens, ranks, budget, round(cv, 1)) <= ranks * (1 + 1e-9)


def test_longer_prompts_of_some_make_the_busiest_rank_busier() -> None:
    even, varied = (factor(2.0, 100.0, 20, 10_000.0, cv) for cv in (0.0, 1.0))
    assert varied > 1.25 * even
