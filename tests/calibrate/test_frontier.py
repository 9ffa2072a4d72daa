"""Frontiers: laws of the envelope, and errors of predictions whose error is known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.calibrate.test_score import POINT
from tokenworks.calibrate.frontier import SPEEDS, Frontier, cells, frontier, usable
from tokenworks.calibrate.measured import Measured, Point
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.score import Pair

speeds_and_rates = st.lists(st.tuples(st.floats(1, 500), st.floats(0.1, 1e5)), min_size=1, max_size=30)


def machine(device: str, slowness: float, *, engine: str = "vllm") -> list[Point]:
    """Points of one machine with TPOT of 2 to 80 ms: throughput is proportional to TPOT / slowness."""
    return [
        replace(POINT, device=device, engine=engine, measured=Measured(tpot=tpot, rate=1e5 * tpot / slowness))
        for tpot in (0.002, 0.005, 0.01, 0.02, 0.04, 0.08)
    ]


def predicted(points: list[Point], *, slower: float = 1.0, more: float = 1.0, spread: float = 1.0) -> list[Pair]:
    """Points with predictions: TPOT is `slower` times the measured TPOT, and throughput `more` times as high."""
    pairs = []
    for point in points:
        assert point.measured.tpot
        assert point.measured.rate
        prediction = Predicted(
            tpot=point.measured.tpot * slower, rate=point.measured.rate * more, frontier_spread=spread
        )
        pairs.append((point, prediction))
    return pairs


@given(speeds_and_rates, st.floats(1, 500), st.floats(1, 500))
def test_throughput_falls_with_speed(points: list[tuple[float, float]], a: float, b: float) -> None:
    envelope = Frontier.of(*zip(*points, strict=True))
    slow, fast = (envelope.at(speed) for speed in sorted((a, b)))
    if slow is not None and fast is not None:
        assert slow >= fast * (1 - 1e-12)


@given(speeds_and_rates)
def test_no_point_is_above_the_frontier(points: list[tuple[float, float]]) -> None:
    """At the speed of each point the frontier has at least its throughput; nowhere more than the highest one."""
    envelope = Frontier.of(*zip(*points, strict=True))
    for speed, rate in points:
        at = envelope.at(speed)
        assert at is not None
        assert at >= rate * (1 - 1e-12)
        assert at <= max(rate for _, rate in points) * (1 + 1e-12)


@given(speeds_and_rates)
def test_a_frontier_is_never_extended(points: list[tuple[float, float]]) -> None:
    envelope = Frontier.of(*zip(*points, strict=True))
    assert envelope.at(min(speed for speed, _ in points) * 0.999) is None
    assert envelope.at(max(speed for speed, _ in points) * 1.001) is None


def test_between_two_points_the_logarithm_is_linear() -> None:
    """From 1,000 at 20 tok/s to 250 at 80 tok/s: at their geometric mean of 40 tok/s it is 500. Flat from 10 on."""
    envelope = Frontier.of([20.0, 80.0, 10.0, 30.0], [1000.0, 250.0, 900.0, 100.0])
    assert envelope.at(40.0) == pytest.approx(500.0)
    assert envelope.at(12.0) == pytest.approx(1000.0)


def test_a_prediction_equal_to_the_measurement_has_no_error() -> None:
    result = frontier(predicted(machine("h100", 2.0) + machine("h200", 1.0)))
    whole, ratio = result["tok_s_per_device"], result["ratio"]["all"]
    assert whole
    assert ratio
    assert whole["n"] == 2 * len(SPEEDS)
    assert (whole["median_ape"], whole["p90_ape"], whole["bias"]) == (0, 0, 0)
    assert whole["inside_interval"] == 1
    assert (ratio["median_ape"], ratio["in_order"], ratio["clear_in_order"]) == (0, 1, 1)
    assert result["unreached"] == 0


def test_a_scaled_throughput_is_an_error_of_throughput_and_not_of_ratios() -> None:
    """x 1.5 on every machine: an error of 50 %, inside an interval of 1.6 and outside one of 1.4; ratios are exact."""
    points = machine("h100", 2.0) + machine("h200", 1.0)
    for spread, inside in ((1.6, 1.0), (1.4, 0.0)):
        result = frontier(predicted(points, more=1.5, spread=spread))
        whole, ratio = result["tok_s_per_device"], result["ratio"]["all"]
        assert whole
        assert ratio
        assert whole["median_ape"] == pytest.approx(0.5)
        assert whole["bias"] == pytest.approx(0.5)
        assert whole["inside_interval"] == inside
        assert ratio["median_ape"] == pytest.approx(0)
        assert ratio["in_order"] == 1


def test_the_wrong_machine_is_faster() -> None:
    """H200 is measured 2 x H100 and predicted half of it: the ratio H100 / H200 is 2 and not 0.5, an error of 300 %."""
    pairs = predicted(machine("h100", 2.0), more=2.0) + predicted(machine("h200", 1.0), more=0.5)
    ratio = frontier(pairs)["ratio"]["by_pair"]["h100 / h200"]
    assert ratio["in_order"] == 0
    assert ratio["clear_in_order"] == 0
    assert ratio["bias"] == pytest.approx(3.0)


def test_machines_with_different_workloads_are_not_compared() -> None:
    other = [replace(point, nominal_isl=8000.0) for point in machine("h200", 1.0)]
    drafted = [replace(point, drafts=2) for point in machine("b200", 1.0)]
    result = frontier(predicted(machine("h100", 2.0) + other + drafted))
    assert result["ratio"]["all"] is None
    assert result["ratio"]["by_pair"] == {}
    assert result["machines"] == 3


def test_weights_and_engines_are_the_choice_of_a_machine() -> None:
    """The better of two engines is the frontier of the machine; each engine also has a frontier of its own."""
    better = [replace(point, weights="fp4") for point in machine("h100", 1.0, engine="sglang")]
    pairs = predicted(machine("h100", 2.0), more=1.5) + predicted(better)
    result = frontier(pairs)
    assert result["machines"] == 1
    assert result["by"]["system"]["h100"]["median_ape"] == pytest.approx(0)
    assert result["by"]["engine"]["vllm"]["median_ape"] == pytest.approx(0.5)
    assert result["by"]["engine"]["sglang"]["median_ape"] == pytest.approx(0)


def test_speeds_that_only_measurements_reach_are_counted() -> None:
    """Predictions that are 4 times too slow end at 125 tok/s: 150 tok/s is not compared."""
    compared, unreached = cells(predicted(machine("h100", 1.0), slower=4.0))
    assert unreached == 1
    assert [one.speed for one in compared] == list(SPEEDS[:-1])


def test_points_without_a_steady_state_are_no_part_of_a_frontier() -> None:
    prediction = Predicted(tpot=0.02, rate=800.0)
    assert usable((POINT, prediction))
    assert not usable((replace(POINT, load="burst"), prediction))
    assert not usable((replace(POINT, mode="decode_only"), prediction))
    assert not usable((replace(POINT, measured=Measured(tpot=0.02)), prediction))
    assert frontier([(replace(POINT, load="burst"), prediction)])["tok_s_per_device"] is None


@given(st.floats(1.1, 3.0))
def test_a_slower_step_costs_more_throughput_than_its_own_error(slower: float) -> None:
    """Where throughput falls as the square of speed, a TPOT error of x is an error of x^2 at equal speed."""
    points = [replace(POINT, measured=Measured(tpot=tpot, rate=1e6 * tpot**2)) for tpot in np.geomspace(0.002, 0.2, 20)]
    compared, _ = cells(predicted(points, slower=slower))
    for one in compared:
        assert one.predicted / one.measured == pytest.approx(slower**-2, rel=0.05)
