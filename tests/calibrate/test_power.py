"""Shares of TDP fitted on power: a fit recovers the shares of made-up points, and gives errors of left-out systems."""

from dataclasses import replace

import numpy as np
import pytest

from tests.calibrate.test_score import POINT
from tokenworks.calibrate.measured import Measured, Point
from tokenworks.calibrate.power import fit_power, measured_watts
from tokenworks.calibrate.predict import Predicted
from tokenworks.simulation.energy import Used
from tokenworks.specs.calibration import Power, load_calibration, number

PRIOR = load_calibration("datasheet").power
TDP = {"h100": 700.0, "mi300x": 750.0, "b200": 1000.0}


def drawn(count: int, idle: float, compute: float, hbm: float) -> tuple[list[Point], list[Predicted]]:
    """Points with the power of these shares, without noise."""
    draw = np.random.default_rng(0)
    points, predictions = [], []
    for i in range(count):
        device = list(TDP)[i % len(TDP)]
        used = Used(*map(float, draw.uniform(0, 0.6, 2)))
        watts = TDP[device] * min(1.0, idle + compute * used.compute + hbm * used.hbm)
        points.append(replace(POINT, device=device, measured=Measured(rate=800.0, energy=watts / 400.0)))
        predictions.append(Predicted(used=used, tdp=TDP[device]))
    return points, predictions


def test_a_fit_finds_the_shares_that_were_hidden() -> None:
    fit = fit_power(*drawn(300, 0.2, 0.8, 0.35), PRIOR, "made up")
    assert fit is not None
    shares = [number(share) for share in (fit.power.idle, fit.power.compute, fit.power.hbm)]
    assert shares == pytest.approx([0.2, 0.8, 0.35], rel=0.03)
    assert fit.median_ape < 0.01
    assert [left.group for left in fit.systems] == ["b200", "h100", "mi300x"]
    assert all(left.median_ape < 0.01 for left in fit.systems)
    assert fit.power.idle.status == "derived"


def test_a_family_with_several_models_gets_shares_of_its_own() -> None:
    """H100 draws 1.3 times as much, with two models. B200 has one model, so its family gets no shares."""
    points, predictions = drawn(240, 0.2, 0.5, 0.35)
    for at, point in enumerate(points):
        if point.device == "b200":
            points[at] = replace(point, model="only", weights="fp8")
            continue
        hungry = 1.3 if point.device == "h100" else 1.0
        measured = replace(point.measured, energy=(point.measured.energy or 0.0) * hungry)
        points[at] = replace(point, model=("one", "other")[at // 3 % 2], weights="fp8", measured=measured)
    fit = fit_power(points, predictions, PRIOR, "made up")
    assert fit is not None
    assert set(fit.families) == {"nvidia-hopper", "amd-cdna3"}
    hopper, cdna = fit.families["nvidia-hopper"], fit.families["amd-cdna3"]
    assert number(hopper.power.idle) == pytest.approx(0.26, rel=0.05)
    assert number(cdna.power.idle) == pytest.approx(0.2, rel=0.05)
    assert max(hopper.median_ape, hopper.models_left_out) < 0.02 < fit.median_ape
    assert number(hopper.power.spread) < number(fit.power.spread)
    calibration = fit.into(load_calibration("datasheet"))
    assert calibration.family("nvidia-hopper").power == hopper.power
    assert calibration.family("nvidia-blackwell").power is None
    assert calibration.power == fit.power


def test_a_family_that_borrows_its_numbers_does_not_borrow_power() -> None:
    calibration = load_calibration("datasheet")
    borrower, like = next(iter(calibration.borrowed.items()))
    lender = calibration.families[like.like].model_copy(update={"power": calibration.power})
    calibration = calibration.model_copy(update={"families": calibration.families | {like.like: lender}})
    assert calibration.family(borrower).power is None


def test_few_points_fit_nothing() -> None:
    assert fit_power(*drawn(5, 0.2, 0.8, 0.35), PRIOR, "made up") is None


def test_points_without_energy_or_a_tdp_are_left_out() -> None:
    points, predictions = drawn(30, 0.2, 0.8, 0.35)
    fit = fit_power(
        [*points, replace(POINT, measured=Measured()), POINT],
        [*predictions, predictions[0], Predicted()],
        PRIOR,
        "made up",
    )
    assert fit is not None
    assert fit.n == 30


def test_measured_watts_by_hand() -> None:
    """800 tok/s a device, half of them output, at 1.5 J each: 600 W."""
    assert measured_watts(replace(POINT, measured=Measured(rate=800.0, energy=1.5))) == pytest.approx(600.0)
    output = replace(POINT, measured=Measured(rate=800.0, counted="output", energy=0.5))
    assert measured_watts(output) == pytest.approx(400.0)
    assert measured_watts(replace(POINT, measured=Measured(rate=800.0, counted="input", energy=0.5))) is None


def test_shares_are_shares() -> None:
    for name in ("datasheet", "serving"):
        power: Power = load_calibration(name).power
        assert number(power.idle) < min(number(power.hbm), number(power.compute)) < 1
