"""Fit factors on log errors: each factor has a prior and a freedom, and predictions should meet the measured points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.calibrate.closed_form import Bunch, bunches, tpots
from tokenworks.calibrate.factors import Factor, turned
from tokenworks.calibrate.least_squares import Loss, least_squares
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.software import Residual, software_of
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.interval import Silicon
from tokenworks.specs.software import SoftwareKey

STEP = 0.02
"""Change of the logarithm of a factor to compute a slope [-]."""

TURNS, ENOUGH = 8, 1e-3
"""Iterations at most [count]; and the relative gain of the cost below which the iterations stop [-]."""

LEAST_POINTS = 3
"""Smallest number of points for a fit [count]."""

LOSS = Loss(noise=0.08, robust=0.15)
"""Noise: two releases of one benchmark differ by it. 80 % of 1,254 pairs of InferenceX differ by less than 10 %,
which is 1.28 standard deviations. Rows with wrong data differ more."""


@dataclass(frozen=True)
class Problem:
    """Points in closed form, their measurements, and the calibration that the fit starts from.

    Parameters
    ----------
    bunches : the points in closed form
    points : all points
    measured : measured TPOT; NaN for points that are not used [s]
    anchor : simulated TPOT / closed-form TPOT [-]
    flow : simulated throughput x simulated TPOT [token per device]
    calibration : the calibration that factors multiply
    """

    bunches: list[Bunch]
    points: Sequence[Point]
    measured: Floats
    anchor: Floats
    flow: Floats
    calibration: Calibration

    @classmethod
    def of(
        cls, points: Sequence[Point], predictions: Sequence[Predicted], calibration: Calibration,
        without: Sequence[str] = (),
    ) -> Problem:  # fmt: skip
        """The problem of simulated points. Starved disaggregated points are not used: they say nothing about a step.

        Parameters
        ----------
        points : measured points
        predictions : predictions of the points by simulation with `calibration`
        calibration : calibration of the simulation
        without : models whose points are not used
        """
        groups = bunches(points, predictions, calibration)
        closed = tpots(groups, calibration, len(points))
        simulated = np.array([prediction.tpot or np.nan for prediction in predictions])
        flow = np.array([(prediction.rate or np.nan) for prediction in predictions]) * simulated
        measured = np.array([point.measured.tpot or np.nan for point in points])
        measured[np.array([p.starved for p in points]) | np.array([p.model in without for p in points])] = np.nan
        usable = [bunch for bunch in groups if np.isfinite(measured[bunch.at]).any()]
        return cls(usable, points, measured, simulated / closed, flow, calibration)

    @property
    def families(self) -> list[str]:
        """Device families with measured points."""
        return sorted({bunch.machine.family for bunch in self.bunches})

    def errors(self, factors: Sequence[Factor], theta: Floats) -> Floats:
        """log(predicted / measured) of the TPOT of every point; NaN for points that are not used.

        Parameters
        ----------
        factors : the factors
        theta : logarithm of each factor [-]
        """
        return self.errors_by(turned(self.calibration, factors, theta))

    def errors_by(self, calibration: Calibration) -> Floats:
        """log(predicted / measured) of the TPOT of every point; NaN for points that are not used.

        Parameters
        ----------
        calibration : calibration of the prediction
        """
        return np.asarray(np.log(tpots(self.bunches, calibration, len(self.points)) * self.anchor / self.measured))

    def seen(self, calibration: Calibration, used: Any) -> Calibration:
        """A calibration that was fitted on some of the points, with the devices and the software of these points.

        Parameters
        ----------
        calibration : the fitted constants
        used : mask of the points that it was fitted on
        """
        bare = calibration.without_software
        residuals, devices = [], {}
        errors = self.errors_by(bare)
        for bunch in self.bunches:
            at = [int(i) for i in bunch.at if used[i] and np.isfinite(errors[i])]
            if at:
                devices[bunch.machine.device] = Silicon.of(bunch.machine)
            if at and self.points[at[0]].engine == bunch.engine.name:
                drafts = bool(bunch.drafts[0] > 0)
                key = SoftwareKey.of(bunch.machine.device, bunch.engine.name, bunch.model, drafts=drafts)
                residuals += [Residual.of(key, self.points[i], float(errors[i])) for i in at]
        return bare.model_copy(update={"devices": dict(sorted(devices.items())), "software": software_of(residuals)})

    def touched(self, factor: Factor) -> Problem:
        """The part of the problem that a factor can change, so that a slope costs less time."""

        def by(bunch: Bunch) -> bool:
            if not factor.families:
                return "acceptance" not in factor.field or bool(bunch.drafts.any())
            field, _, engine = factor.field.partition(".")
            mine = bunch.machine.family in factor.families
            return mine and (field != "blockwise" or bunch.engine.name == engine)

        return replace(self, bunches=[bunch for bunch in self.bunches if by(bunch)])


@dataclass(frozen=True, slots=True)
class FitResult:
    """Result of a fit.

    Parameters
    ----------
    factors : the factors
    theta : fitted logarithm of each factor [-]
    errors : log(predicted / measured) of every point [-]
    """

    factors: tuple[Factor, ...]
    theta: Floats
    errors: Floats


class Residuals(Protocol):
    """What a fit needs: log errors for given factors, and the part of a problem that one factor can change."""

    def errors(self, factors: Sequence[Factor], theta: Floats) -> Floats:
        """log(predicted / measured) of every point; NaN for points that are not used."""

    def touched(self, factor: Factor) -> Residuals:
        """The part that the factor changes: `errors` has the same length, with NaN for all other points."""


def fit(
    problem: Residuals, factors: Sequence[Factor], use: Floats | None = None, *, enough: float = ENOUGH
) -> FitResult:
    """Fit the factors: predictions come near the measurements, and each factor stays near its prior within its freedom.

    Parameters
    ----------
    problem : gives the log errors
    factors : the factors
    use : mask of the points that count; None for all
    enough : relative gain of the cost below which the iterations stop [-]
    """
    start = problem.errors(factors, np.zeros(len(factors)))
    chosen = np.isfinite(start) if use is None else np.isfinite(start) & use.astype(bool)

    def errors(theta: Floats) -> Floats:
        return problem.errors(factors, theta)[chosen]

    def slopes(theta: Floats, at: Floats) -> Floats:
        columns = []
        for j, factor in enumerate(factors):
            there = theta.copy()
            there[j] += STEP
            moved = problem.touched(factor).errors(factors, there)[chosen]
            columns.append(np.nan_to_num((moved - at) / STEP))
        return np.stack(columns, axis=1)

    freedom = np.array([factor.spread for factor in factors])
    theta = least_squares(errors, slopes, freedom, LOSS, turns=TURNS, enough=enough)
    return FitResult(tuple(factors), theta, problem.errors(factors, theta))
