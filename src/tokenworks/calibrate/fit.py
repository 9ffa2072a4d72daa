"""Regularised least squares on log error: few factors, each with a prior, turned until predictions meet the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tokenworks.calibrate.closed_form import Bunch, bunches, tpots
from tokenworks.calibrate.factors import Factor, turned
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.score import STARVED
from tokenworks.costs.arrays import Floats
from tokenworks.specs.calibration import Calibration

STEP = 0.02
"""Log difference by which a factor is turned to find its slope."""

TURNS, ENOUGH = 8, 1e-3
NOISE = 0.08
"""Log error that points have by themselves: two releases of one benchmark differ by so much (80 % within 10 %)."""

LEAST_POINTS = 3
"""Fewer points than this calibrate nothing."""

ROBUST = 0.15
"""Log error beyond which a point counts linearly, not as its square: wrong rows must not lead."""


@dataclass(frozen=True)
class Problem:
    """Points in closed form, what was measured, and the calibration to start from.

    measured : TPOT [s], NaN where a point is not used; anchor : simulated over closed-form TPOT [-]
    """

    found: list[Bunch]
    points: Sequence[Point]
    measured: Floats
    anchor: Floats
    calibration: Calibration

    @classmethod
    def of(
        cls, points: Sequence[Point], predictions: Sequence[Predicted], calibration: Calibration,
        without: Sequence[str] = (),
    ) -> Problem:  # fmt: skip
        """Of simulated points; disaggregated ones that starve say nothing of a step.

        Parameters
        ----------
        without : models that are not fitted on
        """
        found = bunches(points, predictions, calibration)
        closed = tpots(found, calibration, len(points))
        simulated = np.array([said.tpot or np.nan for said in predictions])
        measured = np.array([point.measured.tpot or np.nan for point in points])
        starved = [p.little_ratio is not None and p.little_ratio < STARVED for p in points]
        measured[np.array(starved) | np.array([p.model in without for p in points])] = np.nan
        usable = [bunch for bunch in found if np.isfinite(measured[bunch.at]).any()]
        return cls(usable, points, measured, simulated / closed, calibration)

    @property
    def families(self) -> list[str]:
        """Device families that were measured."""
        return sorted({bunch.machine.family for bunch in self.found})

    def errors(self, factors: Sequence[Factor], theta: Floats) -> Floats:
        """Log of predicted over measured TPOT; NaN where a point is left out."""
        made = turned(self.calibration, factors, theta)
        return np.asarray(np.log(tpots(self.found, made, len(self.points)) * self.anchor / self.measured))

    def touched(self, factor: Factor) -> Problem:
        """The part of the problem that a factor can change: so a slope costs no more than it must."""

        def by(bunch: Bunch) -> bool:
            if not factor.families:
                return factor.field != "acceptance" or bool(bunch.drafts.any())
            field, _, engine = factor.field.partition(".")
            mine = bunch.machine.family in factor.families
            return mine and (field != "blockwise" or bunch.engine.name == engine)

        return replace(self, found=[bunch for bunch in self.found if by(bunch)])


@dataclass(frozen=True, slots=True)
class FitResult:
    """Factors, how far each was turned (log), and the log error of every point."""

    factors: tuple[Factor, ...]
    theta: Floats
    errors: Floats


class Residuals(Protocol):
    """What a fit asks: log errors under turned factors, and the part of a problem that one factor can change."""

    def errors(self, factors: Sequence[Factor], theta: Floats) -> Floats:
        """Log of predicted over measured; NaN where nothing is known."""

    def touched(self, factor: Factor) -> Residuals:
        """Errors of the same length, NaN where the factor changes nothing."""


def fit(
    problem: Residuals, factors: Sequence[Factor], use: Floats | None = None, *, enough: float = ENOUGH
) -> FitResult:
    """Gauss and Newton on

        sum_i rho(e_i(theta) / s) + sum_j (theta_j / spread_j)^2

    e : log error; s : `NOISE`; rho : squares, linear beyond `ROBUST` (Huber), by reweighting.

    Parameters
    ----------
    use : which points count (boolean); all where it is None
    enough : share of the cost below which another turn gains too little [-]
    """
    theta, prior = np.zeros(len(factors)), np.diag([1 / factor.spread**2 for factor in factors])
    at = problem.errors(factors, theta)
    chosen = np.isfinite(at) if use is None else np.isfinite(at) & use.astype(bool)
    cost = _cost(at[chosen], theta, prior)
    for _ in range(TURNS):
        slope = _slopes(problem, factors, theta, at)[chosen]
        weight = np.minimum(1.0, ROBUST / np.maximum(np.abs(at[chosen]), 1e-12)) / NOISE**2
        move = -np.linalg.solve(slope.T @ (weight[:, None] * slope) + prior,
                                slope.T @ (weight * at[chosen]) + prior @ theta)  # fmt: skip
        for share in (1.0, 0.5, 0.25, 0.1):
            there = theta + share * move
            errors = problem.errors(factors, there)
            gained = cost - _cost(errors[chosen], there, prior)
            if gained > 0:
                break
        else:
            break
        theta, at, cost = there, errors, cost - gained
        if gained < enough * cost:
            break
    return FitResult(tuple(factors), theta, at)


def _cost(errors: Floats, theta: Floats, prior: Floats) -> float:
    size = np.abs(errors)
    rho = np.where(size < ROBUST, size**2, 2 * ROBUST * size - ROBUST**2) / NOISE**2
    return float(rho.sum() + theta @ prior @ theta)


def _slopes(problem: Residuals, factors: Sequence[Factor], theta: Floats, at: Floats) -> Floats:
    columns = []
    for j, factor in enumerate(factors):
        there = theta.copy()
        there[j] += STEP
        columns.append(np.nan_to_num((problem.touched(factor).errors(factors, there) - at) / STEP))
    return np.stack(columns, axis=1)
