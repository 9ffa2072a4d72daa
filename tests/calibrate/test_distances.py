"""Intervals of throughput at a given speed per user: distances, coverage, and what a missing distance means."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.calibrate.cases import table
from tokenworks.calibrate.distances import Sample, alone, covered, device_intervals, law_of, widening
from tokenworks.calibrate.factors import Factor, turned
from tokenworks.calibrate.fit import Problem
from tokenworks.calibrate.growth import with_slope
from tokenworks.calibrate.leave_out import conformal
from tokenworks.calibrate.measured import read_points
from tokenworks.calibrate.unseen import Known, predicted, throughputs
from tokenworks.calibrate.validate import predict_all
from tokenworks.costs.rates import rates
from tokenworks.specs.calibration import Calibration, load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.interval import DISTANCES, Distance, IntervalLaw, Nearness
from tokenworks.specs.provenance import Quantity

PRIOR = load_calibration("datasheet")
SERVING = load_calibration("serving")


def width(factor: float) -> Quantity:
    return Quantity(value=factor, status="assumed", source="made up", written=f"{factor:g}")


@pytest.mark.parametrize("on", ["8xhgx-h100", "gb200-nvl72", "scalex40", "cloudmatrix384", "hgx-h20"])
@pytest.mark.parametrize("drafts", [0, 3])
def test_throughput_at_a_given_speed_is_never_surer_than_tpot(on: str, drafts: int) -> None:
    for calibration in (SERVING, PRIOR, SERVING.model_copy(update={"throughput_spread": IntervalLaw()})):
        reached = rates(machine(on), calibration)
        assert reached.throughput_spread(drafts) >= reached.spread_of(drafts)
        assert reached.throughput_spread(drafts) >= reached.throughput_spread(0)


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
def test_intervals_of_points_that_are_predicted_exactly(tmp_path: Path) -> None:
    problem = problem_of(tmp_path, "h100", "h200")
    everyone = np.ones(len(problem.points), bool)
    seconds = predicted(problem, problem.calibration, everyone)
    assert max(abs(one.error) for one in throughputs(problem, seconds)) < 1e-9
    factor = Factor(("nvidia-hopper",), "hbm", 0.5)
    slower = turned(problem.calibration, [factor], np.array([-0.3]))
    systems: dict[str, Calibration] = {"h100": slower, "h200": problem.calibration}
    known = Known(problem, [factor], systems)
    assert set(known.without(known.devices == "h100", "h100").devices) == {"h200"}
    intervals = device_intervals(known, PRIOR)
    tpot, throughput = intervals.fields["tpot_spread"], intervals.fields["throughput_spread"]
    assert list(tpot.factors) == ["family"]  # one model of one family has no other distance
    assert list(throughput.factors) == ["family", "datasheet"]
    assert throughput.factors["datasheet"] == PRIOR.throughput_spread.factors["datasheet"]
    assert throughput.factor("family") > 1.1
    assert "throughputs at equal speed per user of 2 devices" in throughput.factors["family"].source
    assert tpot.slope == PRIOR.tpot_spread.slope  # two pairs of devices are too few
    assert intervals.fields["throughput_correlation"].value == 0.0  # only one of the two devices has errors
    assert [(one.system, one.distance) for one in intervals.left_out] == [("h100", "family"), ("h200", "family")]
    exact = intervals.left_out[1].tpot
    assert exact is not None
    assert exact.covered == 1.0
    assert exact.needed == 1.05
    both = Known(problem, [factor], dict.fromkeys(systems, slower))
    assert (device_intervals(both, PRIOR).fields["throughput_correlation"].value or 0) > 0.5


# ── laws from errors that are known ───────────────────────────────────────────────────────────────────────────────────


def sample(device: str, distance: Distance, *errors: float, log_ratio: float = 0.0, drafted: float = 0.0) -> Sample:
    """Errors of a device; `drafted` is the error of each of its points with drafts."""
    with_drafts = np.full(len(errors), drafted) if drafted else np.zeros(0)
    return Sample(device, Nearness(distance, "x", log_ratio), np.array(errors), with_drafts)


@st.composite
def samples(draw: st.DrawFn) -> list[Sample]:
    """Errors of a few devices at random distances."""
    errors = st.lists(st.floats(0, 2), min_size=1, max_size=9)
    return [
        sample(draw(st.sampled_from("abc")), draw(st.sampled_from(DISTANCES)), *draw(errors))
        for _ in range(draw(st.integers(1, 8)))
    ]


@given(samples())
def test_a_larger_distance_never_has_a_smaller_factor(drawn: list[Sample]) -> None:
    law = law_of(drawn, IntervalLaw(), "points")
    factors = [law.factor(distance) for distance in DISTANCES]
    assert factors == sorted(factors)
    assert all(factor.value and factor.value >= 1.05 for factor in law.factors.values())


@pytest.mark.parametrize("times", [1, 50])
def test_a_device_with_many_points_does_not_count_more(times: int) -> None:
    """Half of the weight has the error 0.1, the other half 0.5: 80 % lie within 0.5."""
    law = law_of(
        [sample("a", "family", *times * [0.1] * 4), sample("b", "family", *[0.5] * 4)], IntervalLaw(), "points"
    )
    assert law.factor("family") == pytest.approx(np.exp(0.5), abs=0.01)


def test_the_factor_is_that_of_a_device_without_growth() -> None:
    """Errors of 0.3 at |ln ratio| 0.4 with slope 0.5 need a factor of exp(0.1) at the measured device itself."""
    before = IntervalLaw(slope=width(0.5), reach=0.4)
    far = sample("a", "family", *[0.3] * 9, log_ratio=0.4)
    law = law_of([far], before, "points")
    assert law.factor("family") == pytest.approx(np.exp(0.1), abs=0.01)
    assert law.at(far.near) == pytest.approx(np.exp(0.3), abs=0.01)
    assert covered(far, law, width(1.0)).covered == 1.0


def test_drafts_widen_the_interval_by_their_own_errors() -> None:
    law = IntervalLaw(factors={"family": width(np.exp(0.2))})
    one = sample("a", "family", *[0.2] * 9, drafted=0.3)
    assert widening([one], law, width(1.2)).value == pytest.approx(1.5)
    assert widening([sample("a", "family", 0.2)], law, width(1.2)).value == 1.2  # too few points with drafts
    assert widening([sample("a", "family", *[0.2] * 9, drafted=0.1)], law, width(1.2)).value == 1.0


def test_left_out_devices_are_judged_at_their_nearest_distance() -> None:
    several = [sample("a", "device", 0.1), sample("a", "family", 0.2), sample("a", "vendor", 0.3),
               sample("b", "vendor", 0.4), sample("c", "datasheet", 0.5)]  # fmt: skip
    assert [(one.device, one.near.distance) for one in alone(several)] == [("a", "family"), ("b", "vendor")]


@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_known_slope_is_found(slope: float, seed: int) -> None:
    """Needed widths lie on one line for each distance; noise moves the slope by less than four standard errors."""
    random = np.random.default_rng(seed)
    constant: dict[Distance, float] = {"family": 0.2, "vendor": 0.4}
    logs = [
        (distance, x, at + slope * x) for distance, at in constant.items() for x in map(float, random.uniform(0, 2, 20))
    ]
    exact = with_slope(IntervalLaw(), logs)
    assert exact.slope.value == pytest.approx(slope, abs=0.006)
    assert exact.reach == pytest.approx(max(x for _, x, _ in logs), abs=1e-3)
    noisy = with_slope(IntervalLaw(), [(d, x, y + random.normal(0, 0.1)) for d, x, y in logs])
    assert noisy.slope.value is not None
    assert noisy.slope.value >= 0
    assert noisy.slope.value == pytest.approx(slope, abs=5 * 0.1 / np.sqrt(40 / 3) + 0.05)


def test_a_slope_needs_pairs_that_differ() -> None:
    before = IntervalLaw(slope=width(0.3), reach=0.1)
    same: list[tuple[Distance, float, float]] = [("family", 0.2, 0.3)] * 9
    assert with_slope(before, []) == before
    assert with_slope(before, same) == before
    assert with_slope(before, [("family", 0.1, 0.3), ("family", 0.2, float("nan"))]) == before
    falling: list[tuple[Distance, float, float]] = [("family", x / 10, 1 - x / 10) for x in range(9)]
    assert with_slope(before, falling).slope.value == 0.0
