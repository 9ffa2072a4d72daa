"""Calibrate a user's own machine on a few points: the fit simulates them, and fits TPOT and TTFT together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from typing_extensions import TypedDict

from tokenworks.arrays import Floats
from tokenworks.calibrate.case import case
from tokenworks.calibrate.case_machine import Skipped
from tokenworks.calibrate.factors import LATENCIES, REQUEST, SHARED, UTILISATIONS, Factor, turned
from tokenworks.calibrate.fit import LEAST_POINTS, FitResult, fit
from tokenworks.calibrate.leave_out import conformal
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.quantities import rounded, spread
from tokenworks.calibrate.score import ErrorsOfLogs, errors_of_logs
from tokenworks.calibrate.validate import predict_each
from tokenworks.errors import SpecError
from tokenworks.simulation.steps import Site
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.interval import Silicon
from tokenworks.specs.result import Inputs, Plain, envelope, inputs

TURN = 0.5
"""Change of the logarithm of a factor, to see whether it changes any point [-]."""

FELT = 1e-4
"""Smallest change of a log error that counts: far below the difference of two runs [-]."""

TAIL = 1.2816
"""80 % of a normal distribution lie within this many standard deviations [-]."""


@dataclass(frozen=True)
class Played:
    """A few points for `fit`. They are simulated and not put in closed form, so every kind of load works.

    Each point has two errors: first TPOT of all points, then TTFT of all points. TPOT says little about prefill, and
    TTFT says little about decode.

    Parameters
    ----------
    points : measured points
    calibration : the calibration that factors multiply
    """

    points: Sequence[Point]
    calibration: Calibration

    def errors(self, factors: Sequence[Factor], theta: Floats) -> Floats:
        """log(predicted / measured), TPOT of all points and then TTFT; NaN without a measurement or a prediction.

        Parameters
        ----------
        factors : the factors
        theta : logarithm of each factor [-]
        """
        predictions = predict_each(self.points, turned(self.calibration, factors, theta))
        pairs = [(one.tpot, point.measured.tpot) for point, one in zip(self.points, predictions, strict=True)]
        pairs += [(one.ttft, point.measured.ttft) for point, one in zip(self.points, predictions, strict=True)]
        return np.array([math.log(ours / theirs) if ours and theirs else math.nan for ours, theirs in pairs])

    def touched(self, factor: Factor) -> Played:  # noqa: ARG002 (with a few points, a factor changes all of them)
        """The complete problem."""
        return self

    def felt(self, factors: Sequence[Factor]) -> tuple[Factor, ...]:
        """Factors that change any of the points. Example: collectives change nothing on a single device."""
        before = self.errors([], np.zeros(0))
        moved = {f: np.nan_to_num(self.errors([f], np.array([-TURN])) - before) for f in factors}
        return tuple(factor for factor, by in moved.items() if np.abs(by).max() > FELT)

    def without(self, left: int) -> Floats:
        """Mask of the errors: 0 for the two errors of point number `left`, 1 for all others."""
        return np.tile(np.arange(len(self.points)) != left, 2).astype(float)


def families_of(points: Sequence[Point], calibration: Calibration) -> list[str]:
    """Device families of the machines of the points.

    Parameters
    ----------
    points : measured points
    calibration : calibration with the families
    """
    return sorted({site.machine.family for site in sites_of(points, calibration)})


def sites_of(points: Sequence[Point], calibration: Calibration) -> list[Site]:
    """Model, machine and engine of each point that can be simulated.

    Parameters
    ----------
    points : measured points
    calibration : calibration with the families
    """
    sites = []
    for point in points:
        try:
            sites.append(case(point, calibration).site)
        except Skipped:
            continue
    return sites


def prepared(points: Sequence[Point], prior: Calibration) -> Calibration:
    """The calibration with all numbers that a fit of an own machine may change, for the families of the points.

    The families get numbers of their own, and with them the time of client, HTTP and tokeniser that the engine has.

    Parameters
    ----------
    points : measured points
    prior : calibration that the fit starts from
    """
    start = prior.standalone(families_of(points, prior))
    for site in sites_of(points, start):
        family = start.families[site.machine.family]
        own = family.model_copy(update={"request": family.request or site.engine.request})
        start = start.model_copy(update={"families": start.families | {site.machine.family: own}})
    return start


def own_factors(families: Sequence[str], calibration: Calibration) -> tuple[Factor, ...]:
    """Factors of all numbers of the families, with a freedom from their 80 % interval, and of the shared constants.

    Parameters
    ----------
    families : device families of the machine
    calibration : calibration that the fit starts from, see `prepared`
    """
    freedom = {name: math.log(calibration.family_spread(name)) / TAIL for name in families}
    own = [Factor((name,), field, freedom[name], name) for name in families for field in (*UTILISATIONS, *LATENCIES)]
    own += [Factor((name,), *REQUEST, name) for name in families]
    return (*own, *(Factor((), field, free) for field, free in SHARED.items()))


class CalibrateOwnBody(TypedDict):
    """The plain form of `calibrate` on a user's own results; None if no point has the metric."""

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
    """A calibration of a user's own machine, with its fit.

    Parameters
    ----------
    calibration : the fitted calibration
    prior : the calibration that the fit started from
    fit : factors, their values, and the log errors
    before, unseen : log errors of TPOT of all points, then of TTFT: with the prior, and by a fit without the point [-]
    """

    calibration: Calibration
    prior: Calibration
    fit: FitResult
    before: Floats
    unseen: Floats

    def plain(self) -> Plain:
        """Plain data: the factors, and the errors before the fit, after the fit, and of left-out points."""
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
            "spreads": {
                one.family: calibration.tpot_law(one.family).factor("device") for one in calibration.devices.values()
            },
        }
        return envelope("calibrate-own", body)


def calibrate_own(
    points: Sequence[Point], prior: Calibration, *, name: str, fitted_on: str, data_sha256: str,
    say: Callable[[str], None] | None = None,
) -> Own:  # fmt: skip
    """Fit the factors of a user's machine on a few points, and leave out each point for the 80 % interval.

    TPOT and TTFT have equal weight. Points may have any kind of load.

    Parameters
    ----------
    points : measured points
    prior : calibration that the fit starts from
    name : name of the fitted calibration
    fitted_on : names of the data files
    data_sha256 : hash of the data files
    say : receives progress messages; None for no messages

    Raises
    ------
    SpecError : too few points have a TPOT, or none can be predicted
    """
    usable = [point for point in points if point.measured.tpot]
    if len(usable) < LEAST_POINTS:
        raise SpecError(f"{len(usable)} points have a TPOT", hint=f"at least {LEAST_POINTS} of them are needed")
    families, start = families_of(usable, prior), prepared(usable, prior)
    played = Played(usable, start)
    before = played.errors([], np.zeros(0))
    if not np.isfinite(before).any():
        raise SpecError("none of the points can be predicted", hint="run `validate` on them: it gives the reasons")
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
    fitted = rounded(turned(start, factors, whole.theta), factors, source)
    devices = {site.machine.device: Silicon.of(site.machine) for site in sites_of(usable, start)}
    known = unseen[np.isfinite(unseen)]
    vendors = {
        vendor: own.model_copy(update={"tpot": {at: one for at, one in own.tpot.items() if at != "device"}})
        for vendor, own in fitted.vendor_spread.items()
    }
    interval = spread(round(conformal(known), 2), f"each of {len(usable)} points left out of the fit, TPOT and TTFT")
    fitted = fitted.model_copy(
        update={
            "name": name, "title": f"Fitted on {fitted_on}", "grade": "end-to-end-calibrated", "fitted_on": fitted_on,
            "data_sha256": data_sha256, "devices": devices, "vendor_spread": vendors,
            "tpot_spread": fitted.tpot_spread | {"device": interval},
        }
    )  # fmt: skip
    return Own(fitted, prior, whole, before, unseen)
