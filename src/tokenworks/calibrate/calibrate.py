"""Fit a calibration on measured points: the constants of device families, their intervals, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from tokenworks.calibrate.distances import (
    DeviceIntervals,
    GrowthPlain,
    LeftOutDevice,
    VendorPlain,
    device_intervals,
    intervals_plain,
)
from tokenworks.calibrate.factors import factors_of, turned
from tokenworks.calibrate.fit import LEAST_POINTS, FitResult, Problem, fit
from tokenworks.calibrate.leave_out import Left, conformal, leave_out
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.power import PowerFit, fit_power
from tokenworks.calibrate.quantities import rounded, spread
from tokenworks.calibrate.score import ErrorsOfLogs, errors_of_logs
from tokenworks.calibrate.software import SoftwareFit, SoftwarePlain, fit_software
from tokenworks.calibrate.unseen import Known
from tokenworks.calibrate.validate import predict_all
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.interval import Distance
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs

Say = Callable[[str], None]


class AblatedPlain(TypedDict):
    """In-sample TPOT error if one constant keeps its prior value; mape_lost : additional mean error."""

    without: str
    median_ape: float
    mape: float
    mape_lost: float


class CalibrateBody(SoftwarePlain):
    """The plain form of `calibrate` on measured points; factors : fitted value / prior value of each constant."""

    inputs: Inputs
    name: str
    grade: str
    prior: str
    fitted_on: str
    data_sha256: str
    constants: int
    tpot_before: ErrorsOfLogs
    tpot_in_sample: ErrorsOfLogs
    left_out_systems: list[Annotated[Plain, FormOf(Left)]]
    factors: dict[str, float]
    power: dict[str, Any] | None
    draft_widening: float
    tpot_spread: dict[Distance, float]
    throughput_spread: dict[Distance, float]
    vendor_spread: dict[str, VendorPlain]
    spread_growth: GrowthPlain
    throughput_correlation: float | None
    left_out_intervals: list[Annotated[Plain, FormOf(LeftOutDevice)]]
    ablation: NotRequired[list[AblatedPlain]]


@dataclass(frozen=True)
class Calibrated:
    """A fitted calibration, with the fit that it comes from.

    Parameters
    ----------
    calibration : the fitted calibration
    prior : the calibration that the fit started from
    fit : factors, their values, and the log error of every point
    problem : the points in closed form
    systems : errors of each device by a fit without its points; empty if all points are of one device
    intervals : the intervals, and their coverage on left-out devices
    software : the factors of software stacks, and the errors that they come from
    power : the fit of power; None if too few points have energy
    """

    calibration: Calibration
    prior: Calibration
    fit: FitResult
    problem: Problem
    systems: list[Left]
    intervals: DeviceIntervals
    software: SoftwareFit
    power: PowerFit | None = None

    def plain(self, *, ablation: bool = False) -> Plain:
        """Plain data: the factors, and the errors before the fit, after the fit, and of left-out systems.

        Parameters
        ----------
        ablation : whether to add the error without each constant
        """
        before = self.problem.errors([], np.zeros(0))
        body: Any = {
            "inputs": inputs(calibration=self.prior.name),
            "name": self.calibration.name,
            "grade": self.calibration.grade,
            "prior": self.prior.name,
            "fitted_on": self.calibration.fitted_on,
            "data_sha256": self.calibration.data_sha256,
            "constants": len(self.fit.factors),
            "tpot_before": errors_of_logs(before),
            "tpot_in_sample": errors_of_logs(self.fit.errors),
            "left_out_systems": [left.plain() for left in self.systems],
            "factors": {
                factor.name: float(np.exp(turn)) for factor, turn in zip(self.fit.factors, self.fit.theta, strict=True)
            },
            "power": None if self.power is None else self.power.plain(),
            **intervals_plain(self.intervals),
            **self.software.plain(),
        }
        if ablation:
            body["ablation"] = self.ablation()
        return envelope("calibrate", body)

    def ablation(self) -> list[AblatedPlain]:
        """In-sample TPOT error if one constant keeps its prior value, the others as fitted; largest error first."""
        whole = errors_of_logs(self.fit.errors)
        rows: list[AblatedPlain] = []
        for j, factor in enumerate(self.fit.factors):
            theta = self.fit.theta.copy()
            theta[j] = 0.0
            errors = errors_of_logs(self.problem.errors(self.fit.factors, theta))
            rows.append({"without": factor.name, "median_ape": errors["median_ape"], "mape": errors["mape"],
                         "mape_lost": errors["mape"] - whole["mape"]})  # fmt: skip
        return sorted(rows, key=lambda row: -row["mape_lost"])


def calibrate(
    points: Sequence[Point], prior: Calibration, *, name: str, fitted_on: str, data_sha256: str,
    without: Sequence[str] = (), only_assumed: bool = False, say: Say | None = None,
    unseen_prior: Callable[[str], Calibration] | None = None,
) -> Calibrated:  # fmt: skip
    """Simulate the points, fit the factors of their families, and leave out each system for its interval.

    Last, each software stack gets the factor that its points have in common.

    Parameters
    ----------
    points : measured points
    prior : calibration that the fit starts from
    name : name of the fitted calibration
    fitted_on : names of the data files
    data_sha256 : hash of the data files
    without : models whose points are not used in the fit
    only_assumed : True: change only assumed numbers, and keep numbers from kernel tables
    say : receives progress messages; None for no messages
    unseen_prior : gives the prior for a left-out system, fitted without the kernels of this system; None: `prior`
    """
    problem = problem_of(points, prior, without, say)
    start = problem.calibration
    factors = factors_of(problem.families, start, only_assumed=only_assumed)
    if say:
        say(f"fitting {len(factors)} constants")
    # The second fit is anchored at the result of the first: the effect of queues and chunks depends on step times.
    first = fit(problem, factors)
    problem = problem_of(points, start, without, say, at=turned(start, factors, first.theta))
    whole = fit(problem, factors)
    devices = {p.device for p, e in zip(problem.points, whole.errors, strict=True) if np.isfinite(e)}
    systems, without_system = leave_out(problem, factors, "system", say, unseen_prior) if len(devices) > 1 else ([], {})
    known = Known(problem, factors, whole.theta, without_system, say)
    intervals = device_intervals(known, start)
    source = f"fit of {len(factors)} factors on {fitted_on}"
    fitted = rounded(turned(start, factors, whole.theta), factors, source)
    fitted = fitted.model_copy(
        update={
            "name": name,
            "title": f"Fitted on {fitted_on}",
            "grade": "end-to-end-calibrated",
            "fitted_on": fitted_on,
            "data_sha256": data_sha256,
            "devices": known.silicon,
            **intervals.fields,
        }
    )
    software = fit_software(points, fitted, without=without, say=say)
    fitted = fitted.model_copy(update={"software": software.beside(prior)})
    metered = [point for point in points if point.measured.energy]
    power = fit_power(metered, predict_all(metered, fitted, say=say), prior.power, fitted_on)
    fitted = fitted.model_copy(update=_ttft_spread(points, fitted, say))
    fitted = power.into(fitted) if power else fitted
    return Calibrated(fitted, prior, whole, problem, systems, intervals, software, power)


def problem_of(
    points: Sequence[Point], prior: Calibration, without: Sequence[str] = (), say: Say | None = None, *,
    at: Calibration | None = None,
) -> Problem:  # fmt: skip
    """The points in closed form, anchored to a simulation.

    Parameters
    ----------
    points : measured points; only closed loops with a measured TPOT that are no experiments are used
    prior : calibration that the fit starts from; in the problem, the families of the points have their own numbers
    without : models whose points are not used in the fit
    say : receives progress messages; None for no messages
    at : calibration of the simulation, near the expected result; None: `prior`

    Raises
    ------
    SpecError : too few points can be used, or none can be predicted
    """
    usable = [point for point in points if point.load == "closed" and point.measured.tpot and not point.experiment]
    if len(usable) < LEAST_POINTS:
        raise SpecError(
            f"{len(usable)} points have a TPOT in a closed loop", hint=f"at least {LEAST_POINTS} of them are needed"
        )
    prior, near = prior.without_software, (at or prior).without_software
    problem = Problem.of(usable, predict_all(usable, near, say=say), near, without)
    if not problem.bunches:
        raise SpecError("none of the points can be predicted", hint="run `validate` on them: it gives the reasons")
    return replace(problem, calibration=prior.standalone(problem.families))


def _ttft_spread(points: Sequence[Point], fitted: Calibration, say: Say | None) -> dict[str, Quantity]:
    """The 80 % interval of TTFT, from all points with a measured TTFT. No constant is fitted on TTFT."""
    usable = [point for point in points if point.measured.ttft]
    ratios = [
        prediction.ttft / point.measured.ttft
        for point, prediction in zip(usable, predict_all(usable, fitted, say=say), strict=True)
        if prediction.ttft and point.measured.ttft
    ]
    if len(ratios) < LEAST_POINTS:
        return {}
    return {"ttft_spread": spread(round(conformal(np.log(ratios)), 2), f"{len(ratios)} points of any load")}
