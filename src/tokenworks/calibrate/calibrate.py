"""Fit a calibration on measured points: constants of device families, their intervals, and how good they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from tokenworks.arrays import Floats
from tokenworks.calibrate.factors import factors_of, turned
from tokenworks.calibrate.fit import LEAST_POINTS, FitResult, Problem, fit
from tokenworks.calibrate.leave_out import Left, conformal, leave_out
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.power import PowerFit, fit_power
from tokenworks.calibrate.quantities import rounded, spread
from tokenworks.calibrate.score import ErrorsOfLogs, errors_of_logs
from tokenworks.calibrate.validate import predict_all
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs

Say = Callable[[str], None]


class AblatedPlain(TypedDict):
    """In-sample TPOT error without a constant; mape_lost : over that of the whole fit."""

    without: str
    median_ape: float
    mape: float
    mape_lost: float


class CalibrateBody(TypedDict):
    """The plain form of `calibrate` on measured points; factors : what each constant was turned by, over its prior."""

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
    spreads: dict[str, float]
    ablation: NotRequired[list[AblatedPlain]]


@dataclass(frozen=True)
class Calibrated:
    """A calibration, and what it came from.

    systems : each device left out; empty where there is only one; power : None where no points carry energy
    """

    calibration: Calibration
    prior: Calibration
    fit: FitResult
    problem: Problem
    systems: list[Left]
    power: PowerFit | None = None

    def plain(self, *, ablation: bool = False) -> Plain:
        """Plain data: how many constants, each one's turn, errors before, after and left out."""
        before = self.problem.errors([], np.zeros(0))
        body: CalibrateBody = {
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
            "spreads": {name: number(family.spread) for name, family in self.calibration.families.items()},
        }
        if ablation:
            body["ablation"] = self.ablation()
        return envelope("calibrate", body)

    def ablation(self) -> list[AblatedPlain]:
        """In-sample TPOT error without each constant, the others as fitted: worst first."""
        whole = errors_of_logs(self.fit.errors)
        rows: list[AblatedPlain] = []
        for j, factor in enumerate(self.fit.factors):
            theta = self.fit.theta.copy()
            theta[j] = 0.0
            found = errors_of_logs(self.problem.errors(self.fit.factors, theta))
            rows.append({"without": factor.name, "median_ape": found["median_ape"], "mape": found["mape"],
                         "mape_lost": found["mape"] - whole["mape"]})  # fmt: skip
        return sorted(rows, key=lambda row: -row["mape_lost"])


def calibrate(
    points: Sequence[Point], prior: Calibration, *, name: str, fitted_on: str, data_sha256: str,
    without: Sequence[str] = (), only_assumed: bool = False, say: Say | None = None,
    unseen_prior: Callable[[str], Calibration] | None = None,
) -> Calibrated:  # fmt: skip
    """Simulate the points with the prior, fit the factors of their families, and leave out each system for the spread.

    Parameters
    ----------
    without : models that are not fitted on; only_assumed : leave what a kernel table measured as it is
    unseen_prior : of a system that is left out, the prior that has not seen its kernels; None = `prior`
    """
    problem = problem_of(points, prior, without, say)
    start = problem.calibration
    factors = factors_of(problem.families, start, only_assumed=only_assumed)
    if say:
        say(f"fitting {len(factors)} constants")
    # Anchored where it lands: how much longer queues and chunks make a step goes by how long steps are.
    first = fit(problem, factors)
    problem = problem_of(points, start, without, say, at=turned(start, factors, first.theta))
    whole = fit(problem, factors)
    devices = {p.device for p, e in zip(problem.points, whole.errors, strict=True) if np.isfinite(e)}
    systems, unseen = (
        leave_out(problem, factors, "system", say, unseen_prior) if len(devices) > 1 else ([], whole.errors)
    )
    source = f"fit of {len(factors)} factors on {fitted_on}"
    made = rounded(turned(start, factors, whole.theta), factors, source)
    made = made.model_copy(
        update={
            "name": name,
            "title": f"Fitted on {fitted_on}",
            "grade": "end-to-end-calibrated",
            "fitted_on": fitted_on,
            "data_sha256": data_sha256,
            "graded": tuple(problem.families),
            **_spreads(made, problem, unseen, left_out=bool(systems)),
        }
    )
    metered = [point for point in points if point.measured.energy]
    source = f"energy of {len(metered)} points of {fitted_on}"
    power = fit_power(metered, predict_all(metered, made, say=say), prior.power, source)
    update: dict[str, Any] = _ttft_spread(points, made, say) | ({"power": power.power} if power else {})
    made = made.model_copy(update=update)
    return Calibrated(made, prior, whole, problem, systems, power)


def problem_of(
    points: Sequence[Point], prior: Calibration, without: Sequence[str] = (), say: Say | None = None, *,
    at: Calibration | None = None,
) -> Problem:  # fmt: skip
    """The points in closed form, anchored to a simulation with the prior, or with a calibration near the answer.

    Its calibration is the prior in which the families of the points have numbers of their own.
    """
    usable = [point for point in points if point.load == "closed" and point.measured.tpot]
    if len(usable) < LEAST_POINTS:
        raise SpecError(
            f"{len(usable)} points have a TPOT in a closed loop", hint=f"at least {LEAST_POINTS} of them are needed"
        )
    near = at or prior
    problem = Problem.of(usable, predict_all(usable, near, say=say), near, without)
    if not problem.found:
        raise SpecError("none of the points can be predicted", hint="`validate` says why")
    return replace(problem, calibration=prior.standalone(problem.families))


def _spreads(made: Calibration, problem: Problem, unseen: Floats, *, left_out: bool) -> dict[str, Any]:
    """The 80 % interval of each family, from errors that no fit had seen; others keep theirs, or the widest."""
    families, widest, drafted = dict(made.families), 1.0, [np.zeros(0)]
    how = "systems left out of the fit" if left_out else "in sample: one system only"
    for name in problem.families:
        own = [bunch for bunch in problem.found if bunch.machine.family == name]
        errors = np.concatenate([unseen[b.at] for b in own])
        drafts = np.concatenate([b.drafts > 0 for b in own])[np.isfinite(errors)]
        errors = errors[np.isfinite(errors)]
        mine = errors[~drafts] if (~drafts).any() else errors
        width = round(conformal(mine), 2)
        widest = max(widest, width)
        families[name] = families[name].model_copy(update={"spread": spread(width, f"{how}: {len(mine)} points")})
        drafted.append(np.abs(errors[drafts]) / np.log(width))
    found: dict[str, Any] = {}
    wider = np.concatenate(drafted)
    if len(wider) >= LEAST_POINTS:
        ratio = round(max(1.0, float(np.log(conformal(wider)))), 2)
        found["draft_widening"] = spread(ratio, f"{how}: {len(wider)} points with drafts")
    borrowed = {
        name: like if (like.spread.value or 1.0) >= widest or like.like not in problem.families
        else like.model_copy(update={"spread": spread(widest, f"the widest of the measured families; {how}")})
        for name, like in made.borrowed.items()
    }  # fmt: skip
    return {"families": families, "borrowed": borrowed, **found}


def _ttft_spread(points: Sequence[Point], made: Calibration, say: Say | None) -> dict[str, Quantity]:
    """The 80 % interval of TTFT, which no constant is fitted on: from the errors of all points that have one."""
    usable = [point for point in points if point.measured.ttft]
    ratios = [
        said.ttft / point.measured.ttft
        for point, said in zip(usable, predict_all(usable, made, say=say), strict=True)
        if said.ttft and point.measured.ttft
    ]
    if len(ratios) < LEAST_POINTS:
        return {}
    return {"ttft_spread": spread(round(conformal(np.log(ratios)), 2), f"{len(ratios)} points of any load")}
