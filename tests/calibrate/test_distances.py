"""Intervals of throughput at a given speed per user: distances, coverage, and what a missing distance means."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.calibrate.cases import table
from tokenworks.calibrate import software
from tokenworks.calibrate.distances import Sample, alone, covered, device_intervals, halfway, spreads_of, widening
from tokenworks.calibrate.factors import Factor, turned
from tokenworks.calibrate.fit import Problem
from tokenworks.calibrate.growth import DevicePair, with_slope
from tokenworks.calibrate.leave_out import conformal, conformal_score
from tokenworks.calibrate.measured import read_points
from tokenworks.calibrate.unseen import Known, predicted, throughputs
from tokenworks.calibrate.validate import predict_all
from tokenworks.costs.rates import rates
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.interval import DISTANCES, Distance, IntervalLaw, Nearness, SpreadGrowth
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.software import PRIOR_DEVICES

PRIOR = load_calibration("datasheet")
SERVING = load_calibration("serving")


def width(factor: float) -> Quantity:
    return Quantity(value=factor, status="assumed", source="made up", written=f"{factor:g}")


@pytest.mark.parametrize("on", ["8xhgx-h100", "gb200-nvl72", "scalex40", "cloudmatrix384", "hgx-h20"])
@pytest.mark.parametrize("drafts", [0, 3])
def test_throughput_at_a_given_speed_is_never_surer_than_tpot(on: str, drafts: int) -> None:
    for calibration in (SERVING, PRIOR, SERVING.model_copy(update={"throughput_spread": {}})):
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
def test_intervals_of_points_that_are_predicted_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "LEAST", 1000)  # a lent factor would take away the error that both devices share
    problem = problem_of(tmp_path, "h100", "h200")
    everyone = np.ones(len(problem.points), bool)
    seconds = predicted(problem, problem.calibration, everyone)
    assert max(abs(one.error) for one in throughputs(problem, seconds)) < 1e-9
    factor = Factor(("nvidia-hopper",), "hbm", 0.5)
    slower = turned(problem.calibration, [factor], np.array([-0.3]))
    left = {name: np.array([point.device == name for point in problem.points]) for name in ("h100", "h200")}
    systems = {"h100": problem.seen(slower, ~left["h100"]), "h200": problem.seen(problem.calibration, ~left["h200"])}
    known = Known(problem, [factor], np.zeros(1), systems)
    assert set(known.without(known.devices == "h100").devices) == {"h200"}
    intervals = device_intervals(known, PRIOR)
    tpot, throughput = intervals.fields["tpot_spread"], intervals.fields["throughput_spread"]
    assert list(tpot) == ["family"]  # one model of one family has no other distance
    assert list(throughput) == ["family", "datasheet"]
    assert throughput["datasheet"] == PRIOR.throughput_spread["datasheet"]
    assert (throughput["family"].value or 0) > 1.1
    assert "throughputs at equal speed per user of 2 devices" in throughput["family"].source
    assert intervals.fields["spread_growth"] == PRIOR.spread_growth  # two pairs of devices are too few
    assert intervals.fields["throughput_correlation"].value == 0.0  # only one of the two devices has errors
    assert [(one.system, one.distance) for one in intervals.left_out] == [("h100", "family"), ("h200", "family")]
    exact = intervals.left_out[1].tpot
    assert exact is not None
    assert exact.covered == 1.0
    assert exact.needed == 1.05
    both = Known(problem, [factor], np.zeros(1), {name: problem.seen(slower, ~own) for name, own in left.items()})
    assert (device_intervals(both, PRIOR).fields["throughput_correlation"].value or 0) > 0.5


@pytest.mark.usefixtures("kernel")
def test_a_left_out_device_has_the_factors_of_its_vendor(tmp_path: Path) -> None:
    """H100 and H200 both take 1.25 times as long as predicted: without H100's points, H200's tell of some of it."""
    problem = problem_of(tmp_path, "h100", "h200")
    slower = replace(problem, measured=problem.measured * 1.25)
    left = np.array([point.device == "h100" for point in problem.points])
    seen = slower.seen(slower.calibration, ~left)
    assert set(seen.devices) == {one.device for one in seen.software} == {"h200"}
    lent, bare = slower.errors_by(seen)[left], slower.errors_by(seen.without_software)[left]
    (own,) = seen.software
    widths = [point.workers[-1].tp for point, gone in zip(problem.points, left, strict=True) if gone]
    np.testing.assert_allclose(lent - bare, np.log(own.at(np.array(widths))) / (1 + PRIOR_DEVICES), atol=5e-4)
    assert min(own.time.values()) > 1.15
    everyone = slower.seen(slower.calibration, np.ones(len(left), bool))
    assert [one.device for one in everyone.software] == ["h100", "h200"]
    assert slower.seen(everyone, ~left) == seen  # factors that a calibration already has do not count


# ── laws from errors that are known ───────────────────────────────────────────────────────────────────────────────────


def sample(device: str, distance: Distance, *errors: float, log_ratio: float = 0.0, drafted: float = 0.0) -> Sample:
    """Errors of a device; `drafted` is the error of each of its points with drafts."""
    with_drafts = np.full(len(errors), drafted) if drafted else np.zeros(0)
    return Sample(device, "v", Nearness(distance, "x", log_ratio), np.array(errors), with_drafts, len(errors))


@st.composite
def samples(draw: st.DrawFn) -> list[Sample]:
    """Errors of a few devices at random distances."""
    errors = st.lists(st.floats(0, 2), min_size=1, max_size=9)
    return [
        sample(draw(st.sampled_from("abc")), draw(st.sampled_from(DISTANCES)), *draw(errors))
        for _ in range(draw(st.integers(1, 8)))
    ]


NONE = SpreadGrowth()


@given(samples())
def test_a_larger_distance_never_has_a_smaller_factor(drawn: list[Sample]) -> None:
    spreads = spreads_of(drawn, NONE, {}, "points")
    factors = [IntervalLaw(spreads, NONE).factor(distance) for distance in DISTANCES]
    assert factors == sorted(factors)
    assert all(factor.value and factor.value >= 1.05 for factor in spreads.values())


@pytest.mark.parametrize("times", [1, 50])
def test_a_device_with_many_points_does_not_count_more(times: int) -> None:
    """Half of the weight has the error 0.1, the other half 0.5: 80 % lie within 0.5."""
    several = [sample("a", "family", *times * [0.1] * 4), sample("b", "family", *[0.5] * 4)]
    assert spreads_of(several, NONE, {}, "points")["family"].value == pytest.approx(np.exp(0.5), abs=0.01)


def test_the_factor_is_that_of_a_device_without_growth() -> None:
    """Errors of 0.3 at |ln ratio| 0.4 with slope 0.5 need a factor of exp(0.1) at the measured device itself."""
    growth = SpreadGrowth(slope=width(0.5), reach=0.4)
    far = sample("a", "family", *[0.3] * 9, log_ratio=0.4)
    law = IntervalLaw(spreads_of([far], growth, {}, "points"), growth)
    assert law.factor("family") == pytest.approx(np.exp(0.1), abs=0.01)
    assert law.at(far.near) == pytest.approx(np.exp(0.3), abs=0.01)
    assert covered(far, law, 1.0).needed == pytest.approx(np.exp(0.3))


def test_drafts_widen_the_interval_by_their_own_errors() -> None:
    law = IntervalLaw({"family": width(float(np.exp(0.2)))}, NONE)
    one = sample("a", "family", *[0.2] * 9, drafted=0.3)
    assert widening([(one, law)], width(1.2)).value == pytest.approx(1.5)
    assert widening([(sample("a", "family", 0.2), law)], width(1.2)).value == 1.2  # too few points with drafts
    assert widening([(sample("a", "family", *[0.2] * 9, drafted=0.1), law)], width(1.2)).value == 1.0
    assert covered(one, law, 1.5).covered == 1.0
    assert covered(one, law, 1.4).covered == 0.5


def test_a_vendor_is_half_way_to_its_own_factors() -> None:
    own = halfway({"device": width(1.2)}, {"device": width(1.8), "family": width(2.0)})
    assert list(own) == ["device"]
    assert own["device"].value == pytest.approx(np.sqrt(1.2 * 1.8), abs=0.01)


def test_left_out_devices_are_judged_at_their_nearest_distance() -> None:
    several = [sample("a", "device", 0.1), sample("a", "family", 0.2), sample("a", "vendor", 0.3),
               sample("b", "vendor", 0.4), sample("c", "datasheet", 0.5)]  # fmt: skip
    assert [(one.device, one.near.distance) for one in alone(several)] == [("a", "family"), ("b", "vendor")]


@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_known_slope_is_found(slope: float, seed: int) -> None:
    """Needed widths lie on one line for each distance; noise moves the slope by a few standard errors at most."""
    random = np.random.default_rng(seed)
    constant: dict[Distance, float] = {"family": 0.2, "vendor": 0.4}

    def pairs(noise: float) -> list[DevicePair]:
        return [
            DevicePair(distance, x, at + slope * x + random.normal(0, noise), 2 * at + slope * x)
            for distance, at in constant.items()
            for x in map(float, random.uniform(0, 2, 20))
        ]

    exact = pairs(0.0)
    growth = with_slope(NONE, exact)
    assert growth.slope.value == pytest.approx(slope, abs=0.006)
    assert growth.reach == pytest.approx(max(pair.log_ratio for pair in exact), abs=1e-3)
    noisy = with_slope(NONE, pairs(0.1)).slope.value
    assert noisy is not None
    assert noisy >= 0
    assert noisy == pytest.approx(slope, abs=0.15)


def test_a_slope_needs_pairs_that_differ() -> None:
    before = SpreadGrowth(slope=width(0.3), reach=0.1)
    assert with_slope(before, []) == before
    assert with_slope(before, [DevicePair("family", 0.2, 0.3, 0.5)] * 9) == before
    assert with_slope(before, [DevicePair("family", x / 10, 0.3, float("nan")) for x in range(9)]) == before
    falling = [DevicePair("family", x / 10, 1 - x / 10, 1 - x / 10) for x in range(9)]
    assert with_slope(before, falling).slope.value == 0.0


@given(st.integers(2, 40), st.integers(1, 40))
def test_errors_that_stacks_have_in_common_make_an_interval_wider(points: int, stacks: int) -> None:
    """0.8 (n + 1) / n of the errors are inside, with n stacks; all of them if there are four or fewer."""
    stacks = min(stacks, points)
    scores, weights = np.arange(1.0, points + 1), np.ones(points)
    score = conformal_score(scores, weights, stacks)
    assert score == pytest.approx(min(math.ceil(0.8 * points * (stacks + 1) / stacks - 1e-6), points))
    assert score >= conformal_score(scores, weights, points)
