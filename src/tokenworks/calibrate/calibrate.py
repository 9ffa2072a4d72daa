"""Fit a calibration on measured points, and write it as a catalog file with its errors and its provenance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import yaml
from typing_extensions import TypedDict

from tokenworks.calibrate.factors import ALL, Factor, each, factors_of, turned
from tokenworks.calibrate.fit import FitResult, Problem, fit
from tokenworks.calibrate.leave_out import INTERVAL, Left, conformal, leave_out
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.own_machine import Played, families_of, own_factors
from tokenworks.calibrate.power import PowerFit, fit_power
from tokenworks.calibrate.score import errors
from tokenworks.calibrate.validate import predict_all
from tokenworks.costs.arrays import Floats
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import SHARED, Calibration, Family, Like, Power, number
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs
from tokenworks.specs.save import saved

LEAST_POINTS = 3
"""Fewer points than this calibrate nothing."""

DIGITS = 3

Say = Callable[[str], None]


class ScoredPlain(TypedDict):
    """Errors of n points, see `score.Errors`."""

    n: int
    mape: float
    median_ape: float
    bias: float
    p90_ape: float


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
    tpot_before: ScoredPlain
    tpot_in_sample: ScoredPlain
    left_out_systems: list[Annotated[Plain, FormOf(Left)]]
    factors: dict[str, float]
    power: dict[str, Any] | None
    spreads: dict[str, float]
    ablation: NotRequired[list[AblatedPlain]]


class CalibrateOwnBody(TypedDict):
    """The plain form of `calibrate` on a user's own results; None where no point has the metric."""

    inputs: Inputs
    name: str
    grade: str
    fitted_on: str
    data_sha256: str
    prior: str
    constants: int
    tpot_before: ScoredPlain | None
    tpot_in_sample: ScoredPlain | None
    tpot_left_out: ScoredPlain | None
    ttft_before: ScoredPlain | None
    ttft_in_sample: ScoredPlain | None
    ttft_left_out: ScoredPlain | None
    factors: dict[str, float]
    spreads: dict[str, float]


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
            "tpot_before": _scored(before),
            "tpot_in_sample": _scored(self.fit.errors),
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
        whole = _scored(self.fit.errors)
        rows: list[AblatedPlain] = []
        for j, factor in enumerate(self.fit.factors):
            theta = self.fit.theta.copy()
            theta[j] = 0.0
            found = _scored(self.problem.errors(self.fit.factors, theta))
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
    made = _rounded(turned(start, factors, whole.theta), factors, source)
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


@dataclass(frozen=True)
class Own:
    """A calibration of one's own machine, and what it came from.

    before, unseen : log errors, TPOT of each point and then TTFT: with the prior, and by a fit without that point
    """

    calibration: Calibration
    prior: Calibration
    fit: FitResult
    before: Floats
    unseen: Floats

    def plain(self) -> Plain:
        """Plain data: how many constants, each one's turn, errors before, after and of each point left out."""
        calibration, turns = self.calibration, zip(self.fit.factors, self.fit.theta, strict=True)
        (tpot_before, ttft_before), (tpot, ttft), (tpot_unseen, ttft_unseen) = (
            [_scored(half) if np.isfinite(half).any() else None for half in np.split(log_errors, 2)]
            for log_errors in (self.before, self.fit.errors, self.unseen)
        )
        body: CalibrateOwnBody = {
            "inputs": inputs(calibration=self.prior.name),
            "name": calibration.name,
            "grade": calibration.grade,
            "fitted_on": calibration.fitted_on,
            "data_sha256": calibration.data_sha256,
            "prior": self.prior.name,
            "constants": len(self.fit.factors),
            "tpot_before": tpot_before,
            "tpot_in_sample": tpot,
            "tpot_left_out": tpot_unseen,
            "ttft_before": ttft_before,
            "ttft_in_sample": ttft,
            "ttft_left_out": ttft_unseen,
            "factors": {factor.name: float(np.exp(turn)) for factor, turn in turns},
            "spreads": {name: number(calibration.families[name].spread) for name in calibration.graded},
        }
        return envelope("calibrate-own", body)


def calibrate_own(
    points: Sequence[Point], prior: Calibration, *, name: str, fitted_on: str, data_sha256: str, say: Say | None = None
) -> Own:
    """Fit the factors of one's own machine on a few points, each simulated anew; leave out each for the interval.

    TPOT and TTFT count alike, and points of any load do.
    """
    usable = [point for point in points if point.measured.tpot]
    if len(usable) < LEAST_POINTS:
        raise SpecError(f"{len(usable)} points have a TPOT", hint=f"at least {LEAST_POINTS} of them are needed")
    families = families_of(usable, prior)
    start = prior.standalone(families)
    played = Played(usable, start)
    before = played.errors([], np.zeros(0))
    if not np.isfinite(before).any():
        raise SpecError("none of the points can be predicted", hint="`validate` says why")
    factors = played.felt(own_factors(families, start))
    if say:
        say(f"fitting {len(factors)} constants")
    whole, unseen = fit(played, factors), np.full(len(before), np.nan)
    for left in range(len(usable)):
        if say:
            say(f"fitting without {usable[left].id}")
        seen = played.without(left)
        unseen = np.where(seen, unseen, fit(played, factors, use=seen).errors)
    source = f"fit of {len(factors)} factors on {fitted_on}"
    made = _rounded(turned(start, factors, whole.theta), factors, source)
    known = unseen[np.isfinite(unseen)]
    spread = _spread(round(conformal(known), 2), f"each of {len(usable)} points left out of the fit, TPOT and TTFT")
    own = {family: made.families[family].model_copy(update={"spread": spread}) for family in families}
    made = made.model_copy(
        update={
            "name": name, "title": f"Fitted on {fitted_on}", "grade": "end-to-end-calibrated", "fitted_on": fitted_on,
            "data_sha256": data_sha256, "graded": tuple(families), "families": made.families | own,
        }
    )  # fmt: skip
    return Own(made, prior, whole, before, unseen)


def _scored(log_errors: Floats) -> ScoredPlain:
    ratios = np.exp(log_errors[np.isfinite(log_errors)])
    found = errors([(float(ratio), 1.0, 1.0) for ratio in ratios])
    assert found is not None
    return {"n": found.n, "mape": found.mape, "median_ape": found.median_ape, "bias": found.bias,
            "p90_ape": found.p90_ape}  # fmt: skip


# ── provenance ────────────────────────────────────────────────────────────────────────────────────────────────────


def _rounded(made: Calibration, factors: Sequence[Factor], source: str) -> Calibration:
    """Fitted numbers to three digits, each with its source."""
    for field in dict.fromkeys(factor.field for factor in factors):  # several factors may turn one number
        turning = [factor for factor in factors if factor.field == field]
        names = tuple(dict.fromkeys(name for factor in turning for name in factor.families))
        label = ALL if any(factor.label == ALL for factor in turning) else ""
        made = each(made, Factor(names, field, 0.0, label), partial(_fitted, source=source))
    return made


def _fitted(found: Quantity, source: str) -> Quantity:
    """What was turned still has the words of its prior, which become the note."""
    value = float(f"{number(found):.{DIGITS}g}")
    written = f"{1e6 * value:.{DIGITS}g} us" if found.unit == "s" else f"{value:.{DIGITS}g}"
    return Quantity(
        value=value, status="derived", source=source, note=f"prior {found.written}: {found.source}", written=written,
        unit=found.unit,
    )  # fmt: skip


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
        families[name] = families[name].model_copy(update={"spread": _spread(width, f"{how}: {len(mine)} points")})
        drafted.append(np.abs(errors[drafts]) / np.log(width))
    found: dict[str, Any] = {}
    wider = np.concatenate(drafted)
    if len(wider) >= LEAST_POINTS:
        ratio = round(max(1.0, float(np.log(conformal(wider)))), 2)
        found["draft_widening"] = _spread(ratio, f"{how}: {len(wider)} points with drafts")
    borrowed = {
        name: like if (like.spread.value or 1.0) >= widest or like.like not in problem.families
        else like.model_copy(update={"spread": _spread(widest, f"the widest of the measured families; {how}")})
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
    return {"ttft_spread": _spread(round(conformal(np.log(ratios)), 2), f"{len(ratios)} points of any load")}


def _spread(width: float, how: str) -> Quantity:
    text = f"{width:g}"
    return Quantity(value=width, status="derived", source=f"{how}: {100 * INTERVAL:.0f} % within it", written=text)


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────────


def write(made: Calibrated, path: Path) -> None:
    """As a catalog file, the errors above it."""
    summary, calibration = made.plain(), made.calibration
    lines = [
        f"# {calibration.title}. {summary['constants']} constants, regularised least squares on log TPOT error,",
        f"# starting from calibration {made.prior.name}. Median TPOT error {_percent(summary['tpot_before'])} before, "
        f"{_percent(summary['tpot_in_sample'])} in sample.",
    ]
    lines += [
        f"# Left out {left.group}: {left.n} points, median error {100 * left.median_ape:.1f} % "
        f"({100 * left.before_median_ape:.1f} % before), bias {100 * left.bias:+.0f} %."
        for left in made.systems
    ]
    if made.power:
        lines.append(
            f"# Mean power: {made.power.n} points, median error {_percent(made.power.plain())} in sample; left out: "
            + ", ".join(f"{left.group} {100 * left.median_ape:.0f} %" for left in made.power.systems)
        )
    write_file(calibration, lines, path)


def write_own(made: Own, path: Path) -> None:
    """As a catalog file, the errors above it."""
    found, title = made.plain(), made.calibration.title
    lines = [f"# {title}. {found['constants']} constants, starting from calibration {made.prior.name}."]
    for metric, label in (("tpot", "TPOT"), ("ttft", "TTFT")):
        stages = [found[f"{metric}_{stage}"] for stage in ("before", "in_sample", "left_out")]
        if all(stages):
            before, fitted, left = map(_percent, stages)
            lines.append(f"# Median {label} error {before} before, {fitted} in sample, {left} of each point left out.")
    write_file(made.calibration, lines, path)


def write_file(calibration: Calibration, lines: Sequence[str], path: Path) -> None:
    """As a catalog file: numbers as written, each with its source, below lines of comment."""
    data: dict[str, Any] = {
        key: getattr(calibration, key) for key in ("name", "title", "grade", "fitted_on", "data_sha256")
    }
    data["graded"] = list(calibration.graded)
    data |= {key: _plain(getattr(calibration, key)) for key in SHARED}
    data |= {key: _plain(getattr(calibration, key)) for key in ("power", "draft_widening", "ttft_spread")}
    data["families"] = {name: _plain(family) for name, family in calibration.families.items()}
    data["borrowed"] = {name: _plain(like) for name, like in calibration.borrowed.items()}
    if calibration.lent:
        data["lent"] = {name: _plain(family) for name, family in calibration.lent.items()}
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000, default_flow_style=None)
    with saved(path) as part:
        part.write_text("\n".join(lines) + "\n" + text, encoding="utf-8")


def _percent(found: dict[str, Any]) -> str:
    return f"{100 * found['median_ape']:.1f} %"


def _plain(value: Any) -> Any:
    if isinstance(value, Quantity):
        made = {"value": value.written, "status": value.status, "source": value.source}
        return made | ({"note": value.note} if value.note else {})
    if isinstance(value, (Family, Like, Power)):
        return {key: _plain(item) for key, item in value}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
