"""Calibrate one's own machine on a few points: each is simulated anew, and TPOT and TTFT are fitted together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from typing_extensions import TypedDict

from tokenworks.arrays import Floats
from tokenworks.calibrate.case import case
from tokenworks.calibrate.case_machine import Skipped
from tokenworks.calibrate.factors import LATENCIES, SHARED, UTILISATIONS, Factor, turned
from tokenworks.calibrate.fit import LEAST_POINTS, FitResult, fit
from tokenworks.calibrate.leave_out import conformal
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.quantities import rounded, spread
from tokenworks.calibrate.score import ErrorsOfLogs, errors_of_logs
from tokenworks.calibrate.validate import predict_some
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.result import Inputs, Plain, envelope, inputs

TURN = 0.5
"""Log difference that shows whether a factor matters to any of the points."""

FELT = 1e-4
"""Log error that counts as a change: far below what two runs differ by."""

TAIL = 1.2816
"""Standard deviations of a normal distribution within which 80 % of it lie [-]."""


@dataclass(frozen=True)
class Played:
    """What `fit` asks of few points. The closed form of `steady` is not needed, so any load will do.

    Errors are two for each point, TPOT of all and then TTFT of all: TPOT says little of prefill, and TTFT little else.
    """

    points: Sequence[Point]
    calibration: Calibration

    def errors(self, factors: Sequence[Factor], theta: Floats) -> Floats:
        """Log of predicted over measured; NaN where one of them is not there."""
        said = predict_some(self.points, turned(self.calibration, factors, theta))
        pairs = [(one.tpot, point.measured.tpot) for point, one in zip(self.points, said, strict=True)]
        pairs += [(one.ttft, point.measured.ttft) for point, one in zip(self.points, said, strict=True)]
        return np.array([math.log(ours / theirs) if ours and theirs else math.nan for ours, theirs in pairs])

    def touched(self, factor: Factor) -> Played:  # noqa: ARG002 (any factor that is felt changes all of few points)
        """All of it."""
        return self

    def felt(self, factors: Sequence[Factor]) -> tuple[Factor, ...]:
        """Factors that change anything here: a single device, say, feels no collectives."""
        before = self.errors([], np.zeros(0))
        moved = {f: np.nan_to_num(self.errors([f], np.array([-TURN])) - before) for f in factors}
        return tuple(factor for factor, by in moved.items() if np.abs(by).max() > FELT)

    def without(self, left: int) -> Floats:
        """Which errors a fit may use that has not seen one of the points (1 or 0)."""
        return np.tile(np.arange(len(self.points)) != left, 2).astype(float)


def families_of(points: Sequence[Point], calibration: Calibration) -> list[str]:
    """Device families of the points' machines."""
    found = set()
    for point in points:
        try:
            found.add(case(point, calibration).site.machine.family)
        except Skipped:
            continue
    return sorted(found)


def own_factors(families: Sequence[str], calibration: Calibration) -> tuple[Factor, ...]:
    """All numbers of the machines' families, each as free as their 80 % interval is wide, and those of no family."""
    freedom = {name: math.log(number(calibration.families[name].spread)) / TAIL for name in families}
    own = [Factor((name,), field, freedom[name], name) for name in families for field in (*UTILISATIONS, *LATENCIES)]
    return (*own, *(Factor((), field, free) for field, free in SHARED.items()))


class CalibrateOwnBody(TypedDict):
    """The plain form of `calibrate` on a user's own results; None where no point has the metric."""

    inputs: Inputs
    name: str
    grade: str
    fitted_on: str
    data_sha256: str
    prior: str
    constants: int
    tpot_before: ErrorsOfLogs | None
    tpot_in_sample: ErrorsOfLogs | None
    tpot_left_out: ErrorsOfLogs | None
    ttft_before: ErrorsOfLogs | None
    ttft_in_sample: ErrorsOfLogs | None
    ttft_left_out: ErrorsOfLogs | None
    factors: dict[str, float]
    spreads: dict[str, float]


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
            [errors_of_logs(half) if np.isfinite(half).any() else None for half in np.split(log_errors, 2)]
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
    points: Sequence[Point], prior: Calibration, *, name: str, fitted_on: str, data_sha256: str,
    say: Callable[[str], None] | None = None,
) -> Own:  # fmt: skip
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
    made = rounded(turned(start, factors, whole.theta), factors, source)
    known = unseen[np.isfinite(unseen)]
    interval = spread(round(conformal(known), 2), f"each of {len(usable)} points left out of the fit, TPOT and TTFT")
    own = {family: made.families[family].model_copy(update={"spread": interval}) for family in families}
    made = made.model_copy(
        update={
            "name": name, "title": f"Fitted on {fitted_on}", "grade": "end-to-end-calibrated", "fitted_on": fitted_on,
            "data_sha256": data_sha256, "graded": tuple(families), "families": made.families | own,
        }
    )  # fmt: skip
    return Own(made, prior, whole, before, unseen)
