"""A few points of one's own machine as a fit sees them: each simulated anew, TPOT and TTFT together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenworks.calibrate.case import case
from tokenworks.calibrate.case_machine import Skipped
from tokenworks.calibrate.factors import LATENCIES, SHARED, UTILISATIONS, Factor, turned
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.validate import predict_some
from tokenworks.costs.arrays import Floats
from tokenworks.specs.calibration import Calibration, number

TURN = 0.5
"""Log difference that shows whether a factor matters to any of the points."""

FELT = 1e-4
"""Log error that counts as a change."""

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
    return (*own, *(Factor((), field, spread) for field, spread in SHARED.items()))
