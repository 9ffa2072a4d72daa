"""A fit on log error: few factors, each with a prior, turned until predictions meet the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.calibrate.closed_form import Bunch, bunches, tpots
from tokenworks.calibrate.factors import Factor, turned
from tokenworks.calibrate.least_squares import Loss, least_squares
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.score import STARVED
from tokenworks.specs.calibration import Calibration

STEP = 0.02
"""Log difference by which a factor is turned to find its slope."""

TURNS, ENOUGH = 8, 1e-3
"""Turns at most, and the share of the cost below which another one gains too little [-]."""

LEAST_POINTS = 3
"""Fewer points than this calibrate nothing."""

LOSS = Loss(noise=0.08, robust=0.15)
"""Two releases of one benchmark differ by so much: 80 % of 1,254 pairs of InferenceX lie within 10 %, 1.28 deviations.
Wrong rows are further off."""


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
    """Factors that bring predictions near the points, each as far from its prior as it is free to be.

    Parameters
    ----------
    use : which points count (boolean); all where it is None
    enough : share of the cost below which another turn gains too little [-]
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
