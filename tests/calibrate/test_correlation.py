"""Correlation of the errors of two predicted throughputs: laws, and what a calibration file holds."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.calibrate.correlation import (
    LARGEST,
    DevicePairs,
    correlation_about_zero,
    device_pairs,
    ratio_coverage,
    throughput_correlation,
)
from tokenworks.calibrate.frontier import AtSpeed, Comparable
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, load_calibration
from tokenworks.specs.load import CATALOG, read_yaml, validate

PRIOR = load_calibration("datasheet")
SPEEDS = (20.0, 50.0, 100.0)


def at_speeds(device: str, *errors: float, model: str = "m") -> list[AtSpeed]:
    """Throughputs of a device with these log errors, one for each speed."""
    workload = Comparable(model, 1000, 1000, "none", "output", "closed")
    speeds = zip(SPEEDS, errors, strict=False)
    return [AtSpeed(workload, device, speed, 100.0, 100.0 * math.exp(error), 1.5) for speed, error in speeds]


def test_pairs_have_the_same_workload_and_the_same_speed() -> None:
    throughputs = at_speeds("b", 0.1, 0.2, 0.3) + at_speeds("a", 0.4, 0.5) + at_speeds("c", 0.6, model="other")
    pairs = device_pairs(throughputs)
    assert list(pairs) == [("a", "b")]
    assert [(a.device, b.device, a.speed, b.speed) for a, b in pairs["a", "b"]] == [
        ("a", "b", 20, 20), ("a", "b", 50, 50)]  # fmt: skip


Errors = Mapping[tuple[str, str], Sequence[tuple[float, float]]]


def pairs_with(errors: Errors) -> DevicePairs:
    """Pairs of throughputs with these log errors."""
    return {
        devices: [(at_speeds(devices[0], first)[0], at_speeds(devices[1], second)[0]) for first, second in rows]
        for devices, rows in errors.items()
    }


ROWS = st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=8)
ERRORS = st.dictionaries(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), ROWS, min_size=1)


@given(ERRORS)
def test_correlation_is_the_part_of_the_square_error_that_a_ratio_loses(errors: Errors) -> None:
    """Mean square error of ratios = (1 - rho) x the same of independent errors; pairs of devices have equal weights."""
    rho = correlation_about_zero(pairs_with(errors))
    of_ratios = sum(np.mean([(a - b) ** 2 for a, b in rows]) for rows in errors.values())
    independent = sum(np.mean([a**2 + b**2 for a, b in rows]) for rows in errors.values())
    assert -1 - 1e-9 <= rho <= 1 + 1e-9
    assert of_ratios == pytest.approx((1 - rho) * independent, abs=1e-9)
    swapped = {devices: [(b, a) for a, b in rows] for devices, rows in errors.items()}
    assert correlation_about_zero(pairs_with(swapped)) == pytest.approx(rho, abs=1e-9)


@pytest.mark.parametrize("times", [1, 9])
def test_a_pair_of_devices_with_many_throughputs_does_not_count_more(times: int) -> None:
    errors = {("a", "b"): times * [(0.2, 0.2)], ("a", "c"): [(0.2, -0.2)]}
    assert correlation_about_zero(pairs_with(errors)) == pytest.approx(0)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.9))
def test_a_known_correlation_is_measured_and_the_interval_covers(seed: int, rho: float) -> None:
    """The spread 1.5 contains 80 % of normal errors whose deviation is ln(1.5) / 1.2816."""
    deviation = math.log(1.5) / 1.2816
    errors = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, rho], [rho, 1]], 1000) * deviation
    pairs = pairs_with({("a", "b"): [(float(a), float(b)) for a, b in errors]})
    assert correlation_about_zero(pairs) == pytest.approx(rho, abs=0.2)
    assert ratio_coverage(pairs, rho) == pytest.approx(0.8, abs=0.08)


def test_number_of_a_calibration_file() -> None:
    left_out = at_speeds("a", 0.4, 0.2, -0.1) + at_speeds("b", 0.2, 0.1, -0.05)
    correlation = throughput_correlation(left_out, PRIOR)
    assert correlation.value == 0.8  # 2 x 0.105 / (0.21 + 0.0525)
    assert correlation.status == "derived"
    assert "3 ratios at equal speed per user of 1 pairs of devices, with equal weights" in correlation.source
    opposite = throughput_correlation(at_speeds("a", 0.4, 0.2, -0.1) + at_speeds("b", -0.2, -0.1, 0.05), PRIOR)
    assert opposite.value == 0
    assert opposite.source.endswith("measured -0.80, and a negative correlation counts as 0")
    equal = throughput_correlation(at_speeds("a", 0.4, 0.2, -0.1) + at_speeds("b", 0.4, 0.2, -0.1), PRIOR)
    assert equal.value == LARGEST


def test_too_few_pairs_measure_nothing() -> None:
    few = at_speeds("a", 0.4, 0.2) + at_speeds("b", 0.2, 0.1)
    correlation = throughput_correlation(few, PRIOR)
    assert correlation.value is None
    assert correlation.source == "2 pairs of left-out devices are too few; errors count as independent"
    known = PRIOR.model_copy(update={"throughput_correlation": throughput_correlation(
        at_speeds("a", 0.4, 0.2, -0.1) + at_speeds("b", 0.2, 0.1, -0.05), PRIOR)})  # fmt: skip
    assert throughput_correlation(few, known) == known.throughput_correlation


@pytest.mark.parametrize("value", [-0.1, 1, 1.5])
def test_a_correlation_is_at_least_zero_and_below_one(value: float) -> None:
    data = read_yaml(CATALOG / "calibration" / "datasheet.yaml")
    data["throughput_correlation"] = {"value": value, "status": "assumed", "source": "a guess"}
    with pytest.raises(SpecError, match=r"throughput_correlation: .*(not negative|at least 0 and below 1)"):
        validate(Calibration, data, "mine.yaml")


def test_a_file_without_the_correlation_counts_errors_as_independent() -> None:
    data = read_yaml(CATALOG / "calibration" / "datasheet.yaml")
    data.pop("throughput_correlation", None)
    bare = validate(Calibration, data, "mine.yaml")
    assert bare.correlation == 0
    assert "errors count as independent" in bare.throughput_correlation.source
    assert load_calibration("datasheet", assume={"calibration.throughput_correlation": 0.4}).correlation == 0.4
