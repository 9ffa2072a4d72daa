"""Goodput of a training run: closed forms, their limits, and a small simulation of failures."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.costs import reliability as law

RATES = st.floats(1e-9, 1e-3)
TIMES = st.floats(1.0, 1e5)


def test_rates_of_parts_add_up() -> None:
    """419 unplanned interruptions in 54 days on 16,384 H100 in 2,048 hosts (Llama 3): one every 3.1 hours."""
    rate = law.failure_rate(16384, 2048, per_device=1.26e-5 / 3600, per_host=5.7e-5 / 3600)
    assert 1 / rate / 3600 == pytest.approx(54 * 24 / 419, rel=0.01)


def test_a_checkpoint_of_a_known_model() -> None:
    """405 B weights with Adam in FP32: 14 bytes a weight are 5.67 TB."""
    assert law.checkpoint_bytes(405e9, weights=2, master=4, states=8) == pytest.approx(5.67e12)


def test_youngs_interval_of_his_example() -> None:
    assert law.young_interval(50, 10000) == 1000


@given(TIMES, st.floats(1e3, 1e8), st.floats(0, 1e4))
@settings(max_examples=60)
def test_dalys_interval_is_near_the_best_one(write: float, mtbf: float, restart: float) -> None:
    if write > mtbf / 4:  # the series ends before
        return
    best = law.working_share(law.daly_interval(write, mtbf), write, restart, mtbf)
    for factor in (0.5, 0.8, 0.95, 1.05, 1.25, 2.0):
        other = law.working_share(factor * law.daly_interval(write, mtbf), write, restart, mtbf)
        assert other <= best * (1 + 1e-3)


def test_limits() -> None:
    assert law.daly_interval(10, math.inf) == math.inf
    assert law.working_share(math.inf, 10, 600, math.inf) == 1
    assert law.working_share(90, 10, 600, math.inf) == 0.9  # no failures: only checkpoints
    assert law.daly_interval(30, 10) == 10
    assert law.working_share(1e5, 1, 1, 10) == 0.0  # a piece never ends
    write, mtbf = 1.0, 1e8  # first order: sqrt(2 C / M) is lost
    lost = 1 - law.working_share(law.young_interval(write, mtbf), write, 0, mtbf)
    assert lost == pytest.approx(math.sqrt(2 * write / mtbf), rel=0.01)
    assert law.working_share(3600, 0, 660, 1e9) == pytest.approx(1 - (660 + 1800) / 1e9, abs=1e-9)


@given(RATES, TIMES, st.floats(0.01, 1), st.floats(0, 1))
@settings(max_examples=60)
def test_an_elastic_run_lies_between_standing_and_a_spare(
    rate: float, repair: float, working: float, rest: float
) -> None:
    elastic = law.elastic_share(working, rest, rate, repair)
    assert law.elastic_share(working, 0.0, rate, repair) <= elastic + 1e-12
    assert elastic <= working + 1e-12
    assert law.elastic_share(working, 1.0, rate, repair) == pytest.approx(working)
    assert 0 < law.waiting_share(working, rate, repair) <= working
    assert 0 <= law.broken_share(rate, repair) <= 1


def played(
    interval: float, write: float, restart: float, mtbf: float, *, lost: float = 0.0, repair: float = 0.0
) -> float:
    """Share of the time with progress that is kept, of one run with random failures."""
    draw = random.Random(0)
    clock, kept, failure = 0.0, 0.0, draw.expovariate(1 / mtbf)
    ready = 0.0  # end of the restart
    while kept < 4000 * mtbf:
        end = max(clock, ready) + interval + write
        if end <= failure:
            clock, kept = end, kept + interval
            continue
        clock = failure + (repair if draw.random() < lost else 0.0)  # nothing fails while it stands
        ready, failure = clock + restart, clock + draw.expovariate(1 / mtbf)
    return kept / clock


@pytest.mark.parametrize(("interval", "write", "restart", "mtbf"), [(900, 60, 660, 10_000), (4000, 300, 660, 11_000)])
def test_the_closed_form_equals_a_run_with_random_failures(
    interval: float, write: float, restart: float, mtbf: float
) -> None:
    assert law.working_share(interval, write, restart, mtbf) == pytest.approx(
        played(interval, write, restart, mtbf), rel=0.01
    )


def test_waiting_for_repairs_equals_a_run_with_random_failures() -> None:
    mtbf, repair, lost = 20_000.0, 30_000.0, 0.4
    working = law.working_share(900, 60, 660, mtbf)
    played_share = played(900, 60, 660, mtbf, lost=lost, repair=repair)
    assert law.waiting_share(working, lost / mtbf, repair) == pytest.approx(played_share, rel=0.03)


def test_parts_in_repair_equal_random_repairs() -> None:
    """The share of time with a part in repair, of failures that come at random."""
    draw, rate, repair = random.Random(1), 1 / 50_000, 20_000.0
    clock, broken, until = 0.0, 0.0, 0.0
    for _ in range(20_000):
        clock += draw.expovariate(rate)
        start, until = max(clock, until), max(until, clock + repair)
        broken += until - start
    assert law.broken_share(rate, repair) == pytest.approx(broken / clock, rel=0.02)


# ── availability ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_availability_by_hand() -> None:
    """999 h of work and 1 h of repair: 99.9 %. 99.99 % leave 52.6 minutes of a year."""
    assert law.availability(999, 1) == pytest.approx(0.999)
    assert law.availability(math.inf, 1) == 1.0
    assert law.downtime_s(0.9999) / 60 == pytest.approx(52.56)


def test_what_99_99_needs_of_40_gpus() -> None:
    """Llama 3: 1.97e-5 interruptions an hour and GPU, so 40 GPUs stop every 1,267 h and may stand for 7.6 min."""
    assert law.mttr_for(0.9999, 40 * 1.97e-5 / 3600) / 60 == pytest.approx(7.6, rel=0.01)
    assert law.mttr_for(0.9999, 0.0) == math.inf


@given(st.integers(1, 12), st.floats(0.5, 1))
@settings(max_examples=40)
def test_all_of_n_is_a_series_and_one_of_n_is_parallel(n: int, available: float) -> None:
    assert law.k_of_n(n, n, available) == pytest.approx(law.series([available] * n))
    assert law.k_of_n(1, n, available) == pytest.approx(1 - (1 - available) ** n)
    assert law.k_of_n(0, n, available) == pytest.approx(1)


@given(st.integers(1, 20), st.integers(0, 4), RATES, TIMES)
@settings(max_examples=60)
def test_spares_with_a_crew_for_each_repair_are_k_of_n(needed: int, spares: int, rate: float, repair: float) -> None:
    one = law.availability(1 / rate, repair)
    expected = law.k_of_n(needed, needed + spares, one)
    assert law.with_spares(needed, spares, rate, repair) == pytest.approx(expected, abs=1e-9)
    single = law.with_spares(needed, spares, rate, repair, crews=1)
    assert single <= law.with_spares(needed, spares, rate, repair) + 1e-12
    assert sum(law.down_states(needed + spares, rate, repair, 2)) == pytest.approx(1)


def test_a_spare_more_is_never_worse() -> None:
    values = [law.with_spares(40, spares, 1e-5 / 3600, 43200) for spares in range(5)]
    assert values == sorted(values)


@given(st.floats(0.01, 0.5), st.floats(0.5, 1))
@settings(max_examples=40)
def test_bad_nodes_keep_the_mean_rate(bad_hosts: float, bad_share: float) -> None:
    good, bad = law.bad_node_factors(bad_hosts, bad_share)
    assert good * (1 - bad_hosts) + bad * bad_hosts == pytest.approx(1)
    assert good <= 1 <= bad
