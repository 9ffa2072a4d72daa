"""Intervals of throughput at a given speed per user: distances, coverage, and what a missing distance means."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.calibrate.cases import table
from tokenworks.calibrate.distances import Known, throughput_intervals, throughputs
from tokenworks.calibrate.factors import Factor, turned
from tokenworks.calibrate.fit import Problem
from tokenworks.calibrate.leave_out import conformal
from tokenworks.calibrate.measured import read_points
from tokenworks.calibrate.validate import predict_all
from tokenworks.costs.rates import rates
from tokenworks.specs.calibration import DISTANCES, Calibration, Distance, load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.provenance import Quantity

PRIOR = load_calibration("datasheet")
SERVING = load_calibration("serving")


def width(factor: float) -> Quantity:
    return Quantity(value=factor, status="assumed", source="made up", written=f"{factor:g}")


@pytest.mark.parametrize(
    ("device", "family", "distance"),
    [
        ("h100", "nvidia-hopper", "device"),
        ("h20", "nvidia-hopper", "family"),
        ("l40s", "nvidia-ada", "vendor"),
        ("a100", "nvidia-ampere", "vendor"),
        ("scalex40-card", "hygon-dcu", "other-vendor"),
        ("ascend-910c", "ascend", "datasheet"),
        ("mlu590", "other-npu", "datasheet"),
    ],
)
def test_distance_of_a_device(device: str, family: str, distance: Distance) -> None:
    fitted = SERVING.model_copy(update={"devices": ("h100", "mi300x")})
    assert fitted.distance(device, family) == distance
    assert PRIOR.distance(device, family) == "datasheet"


def test_a_distance_without_a_factor_has_the_next_larger_one() -> None:
    fitted = SERVING.model_copy(update={"throughput_spread": {"family": width(1.5), "datasheet": width(2.0)}})
    assert [fitted.spread_at(one) for one in DISTANCES] == [1.5, 1.5, 2.0, 2.0, 2.0]
    assert SERVING.model_copy(update={"throughput_spread": {}}).spread_at("device") == 1.0


@pytest.mark.parametrize("on", ["8xhgx-h100", "gb200-nvl72", "scalex40", "cloudmatrix384"])
@pytest.mark.parametrize("drafts", [0, 3])
def test_throughput_at_a_given_speed_is_never_surer_than_tpot(on: str, drafts: int) -> None:
    for calibration in (SERVING, PRIOR, SERVING.model_copy(update={"throughput_spread": {}})):
        reached = rates(machine(on), calibration)
        assert reached.throughput_spread(drafts) >= reached.spread_of(drafts)
        assert reached.throughput_spread(drafts) >= reached.throughput_spread(0)


def test_a_larger_distance_never_has_a_smaller_factor() -> None:
    for calibration in (SERVING, PRIOR):
        factors = [calibration.spread_at(one) for one in DISTANCES]
        assert factors == sorted(factors)


@given(st.integers(0, 2**32 - 1), st.integers(20, 400))
def test_split_conformal_covers_new_errors_of_the_same_kind(seed: int, size: int) -> None:
    """Coverage of 4,000 new log errors, heavy-tailed: 80 %, as far as a sample of this size can tell (beta law)."""
    random = np.random.default_rng(seed)
    factor = conformal(0.2 * random.standard_t(3, size))
    covered = np.mean(np.abs(0.2 * random.standard_t(3, 4000)) <= np.log(factor))
    assert abs(covered - 0.8) < 5 * np.sqrt(0.8 * 0.2 / size) + 1 / size


# ── spreads of points with a known error ──────────────────────────────────────────────────────────────────────────────


def problem_of(path: Path, *devices: str) -> Problem:
    """Points of each device whose measurements are exactly what the prior predicts in closed form."""
    rows = [{"concurrency": str(2**k), "device": device} for device in devices for k in range(8)]
    points = read_points(table(path, *rows)).points
    problem = Problem.of(points, predict_all(points, PRIOR), PRIOR)
    exact = problem.errors([], np.zeros(0))
    seconds = problem.measured * np.exp(exact)
    flow = problem.flow / seconds
    told = tuple(
        replace(point, measured=replace(point.measured, tpot=float(tpot), rate=float(rate)))
        for point, tpot, rate in zip(points, seconds, flow, strict=True)
    )
    return Problem(problem.bunches, told, seconds, problem.anchor, problem.flow, PRIOR.standalone(problem.families))


@pytest.mark.usefixtures("kernel")
def test_spreads_of_points_that_are_predicted_exactly(tmp_path: Path) -> None:
    problem = problem_of(tmp_path, "h100", "h200")
    everyone = np.ones(len(problem.points), bool)
    assert max(abs(one.error) for one in throughputs(problem, problem.calibration, everyone)) < 1e-9
    factor = Factor(("nvidia-hopper",), "hbm", 0.5)
    slower = turned(problem.calibration, [factor], np.array([-0.3]))
    systems: dict[str, Calibration] = {"h100": slower, "h200": problem.calibration}
    intervals = throughput_intervals(Known(problem, [factor], problem.calibration, systems), PRIOR)
    spreads = intervals["throughput_spread"]
    assert list(spreads) == ["device", "family", "datasheet"]  # one family of one vendor has no larger distances
    assert spreads["datasheet"] == PRIOR.throughput_spread["datasheet"]
    assert spreads["device"].value == 1.05
    assert (spreads["family"].value or 0) > 1.1
    assert "throughputs at equal speed per user" in spreads["family"].source
    assert intervals["throughput_correlation"].value == 0.0  # only one of the two devices has errors
    both = Known(problem, [factor], problem.calibration, dict.fromkeys(systems, slower))
    assert (throughput_intervals(both, PRIOR)["throughput_correlation"].value or 0) > 0.5
