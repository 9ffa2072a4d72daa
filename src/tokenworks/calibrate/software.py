"""What the measured points of a software stack have in common: a factor on step times, from the errors of its splits.

All constants of a calibration hold for whole device families or engines. Half of the error that remains belongs to one
engine with one model on one device: the version of the engine, its kernels for the model, its settings. No point
states these. So each stack gets a factor, which may change with the TP width. Splits differ from each other, and so do
the points of a split. So the logarithm of the factor is a line through the splits by weighted least squares. Its level
is pulled to 0 (no factor) as `PRIOR_SPLITS` more splits without an error would do, and its slope to 0 (the same factor
at all widths) as `PRIOR_WIDTHS` more splits would do, each one doubling from the mean width:

    ln time(tp) = - (a + b (log2(tp) - mean of log2(tp)))
    a, b : least sum over splits (w (median of ln(predicted / measured) - a - b (log2(tp) - mean))^2)
           + PRIOR_SPLITS a^2 + PRIOR_WIDTHS b^2
    w = points / (points + SPLIT_POINTS), also in the mean

Outside of the measured widths, the factor is that of the nearest one.

References
----------
[1] Efron, Morris, Data analysis using Stein's estimator and its generalizations, JASA 70, 1975 (means of groups, pulled
    to the mean of all groups).
[2] DerSimonian, Laird, Meta-analysis in clinical trials, Controlled Clinical Trials 7, 1986 (weights of groups that
    differ from each other and within).
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from typing_extensions import TypedDict

from tokenworks.arrays import Floats
from tokenworks.calibrate.case import case
from tokenworks.calibrate.case_machine import Skipped
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.score import ErrorsOfLogs, errors_of_logs
from tokenworks.calibrate.validate import predict_all
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.result import FormOf, Plain
from tokenworks.specs.software import Software, SoftwareKey, rounded

PRIOR_SPLITS = 0.3
"""Splits without an error that the prior of a factor counts as: variance between the splits of a stack / variance
between stacks. The geometric mean of its estimates, 0.08 with and 1.1 without outliers [count]."""

PRIOR_WIDTHS = 7.0
"""The same for the change of a factor with each doubling of the TP width: variance between the splits of a stack /
variance of this change between stacks. Its estimates by maximum likelihood are 8.1 with and 6.2 without outliers
[count]."""

SPLIT_POINTS = 1.0
"""Points of a split that tell as much as the next split does: variance within a split / variance between the splits of
a stack. Between its estimates, 0.4 without and 1.7 with outliers [count]."""

LEAST = 5
"""Points that a software stack needs for a factor; chosen [count]."""


class SoftwarePlain(TypedDict):
    """The plain form of the factors of software stacks, with two errors of the points of stacks with several splits.

    tpot_without_software : without any factor
    tpot_software_left_out : each split with the factor that the other splits of its stack give
    """

    software: list[Annotated[Plain, FormOf(Software)]]
    tpot_without_software: ErrorsOfLogs | None
    tpot_software_left_out: ErrorsOfLogs | None


class Residual(NamedTuple):
    """The error of a point.

    Parameters
    ----------
    key, model : its software stack, and the name of its model
    split : its instances and their widths
    tp : TP width of the instances that write tokens [-]
    off : ln(predicted / measured) of its TPOT, predicted without the factor of the stack [-]
    """

    key: SoftwareKey
    model: str
    split: tuple[object, ...]
    tp: int
    off: float

    @classmethod
    def of(cls, key: SoftwareKey, point: Point, off: float) -> Residual:
        """The error of a point.

        Parameters
        ----------
        key : its software stack
        point : the measured point
        off : ln(predicted / measured) of its TPOT, predicted without the factor of the stack [-]
        """
        return cls(key, point.model, (point.mode, *point.split), point.workers[-1].tp, off)


class SoftwareFit(NamedTuple):
    """The factors of all software stacks, and the errors that they come from."""

    software: tuple[Software, ...]
    residuals: tuple[Residual, ...]

    def beside(self, before: Calibration) -> tuple[Software, ...]:
        """The factors, and those that a calibration has for devices without any of these points.

        Parameters
        ----------
        before : the calibration that a fit started from
        """
        seen = {one.key.device for one in self.residuals}
        others = (one for one in before.software if one.device not in seen)
        return tuple(sorted((*self.software, *others), key=lambda one: one.key))

    def plain(self) -> SoftwarePlain:
        """The factors as plain data, and their error on splits that they have not seen."""
        off, turns = np.array([one.off for one in self.residuals]), left_out(self.residuals, self.residuals)
        seen = np.isfinite(turns)
        return {
            "software": [one.model_dump() for one in self.software],
            "tpot_without_software": errors_of_logs(off[seen]) if seen.any() else None,
            "tpot_software_left_out": errors_of_logs((off + turns)[seen]) if seen.any() else None,
        }


def fit_software(
    points: Sequence[Point], calibration: Calibration, *, without: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> SoftwareFit:  # fmt: skip
    """The factors of the software stacks of measured points, with all other constants of a calibration.

    Parameters
    ----------
    points : measured points; only steady points with a measured TPOT are used
    calibration : the calibration; its own factors are not used
    without : models whose points are not used
    say : receives progress messages; None for no messages
    """
    plain = calibration.without_software
    usable = [point for point in points if point.steady and point.measured.tpot and point.model not in without]
    predictions = predict_all(usable, plain, say=say)
    pairs = zip(usable, predictions, strict=True)
    residuals = tuple(one for point, predicted in pairs if (one := residual_of(point, predicted, plain)))
    return SoftwareFit(software_of(residuals), residuals)


def residual_of(point: Point, predicted: Predicted, calibration: Calibration) -> Residual | None:
    """The error of a point; None without a TPOT, or if its engine has another name in the catalog.

    Parameters
    ----------
    point : the measured point
    predicted : its prediction without the factor of its stack
    calibration : calibration of the prediction
    """
    if not (predicted.tpot and point.measured.tpot):
        return None
    try:
        site = case(point, calibration).site
    except Skipped:
        return None
    if site.engine.name != point.engine:
        return None
    key = SoftwareKey.of(site.machine.device, site.engine.name, site.model, drafts=point.drafts > 0)
    return Residual.of(key, point, math.log(predicted.tpot / point.measured.tpot))


class Line(NamedTuple):
    """Logarithm of the factor of a software stack, over the binary logarithm of the TP width.

    Parameters
    ----------
    level : at `middle` [-]
    slope : change with each doubling of the width [-]
    middle : weighted mean of the binary logarithms of the measured widths [-]
    least, most : smallest and largest measured width [-]
    """

    level: float
    slope: float
    middle: float
    least: int
    most: int

    @classmethod
    def through(cls, members: Sequence[Residual]) -> Line:
        """The line of the points of a stack.

        Parameters
        ----------
        members : errors of its points, at least one
        """
        splits: dict[tuple[object, int], list[float]] = defaultdict(list)
        for one in members:
            splits[one.split, one.tp].append(one.off)
        medians = np.array([np.median(errors) for errors in splits.values()])
        points = np.array([len(errors) for errors in splits.values()])
        widths = [tp for _, tp in splits]
        weights, at = points / (points + SPLIT_POINTS), np.log2(widths)
        middle = float(np.average(at, weights=weights))
        # With the mean width as origin, the two sums of least squares are independent.
        level = float(weights @ medians) / (float(weights.sum()) + PRIOR_SPLITS)
        slope = float(weights * (at - middle) @ medians) / (float(weights @ (at - middle) ** 2) + PRIOR_WIDTHS)
        return cls(-level, -slope, middle, min(widths), max(widths))

    def at(self, tp: int) -> float:
        """Logarithm of the factor at a TP width [-].

        Parameters
        ----------
        tp : the width [-]
        """
        return self.level + self.slope * (math.log2(min(max(tp, self.least), self.most)) - self.middle)

    @property
    def time(self) -> dict[int, float]:
        """The factors at the smallest and at the largest measured width, see `Software.time`."""
        return {tp: rounded(math.exp(self.at(tp))) for tp in sorted({self.least, self.most})}


def software_of(residuals: Sequence[Residual]) -> tuple[Software, ...]:
    """The factor of each software stack, ordered by name.

    Parameters
    ----------
    residuals : errors of points without these factors
    """
    found = []
    for key, members in sorted(_stacks(residuals).items()):
        splits, model = len({one.split for one in members}), min(one.model for one in members)
        time = Line.through(members).time
        found.append(Software(**key._asdict(), model=model, time=time, points=len(members), splits=splits))
    return tuple(found)


def _stacks(residuals: Sequence[Residual]) -> dict[SoftwareKey, list[Residual]]:
    """The points of each software stack that has enough of them."""
    stacks: dict[SoftwareKey, list[Residual]] = defaultdict(list)
    for one in residuals:
        stacks[one.key].append(one)
    return {key: members for key, members in stacks.items() if len(members) >= LEAST}


def left_out(asked: Sequence[Residual], known: Sequence[Residual]) -> Floats:
    """Logarithm of the factor of each point's software stack from the other splits of the stack; NaN without any [-].

    Parameters
    ----------
    asked : the points
    known : errors of points without these factors
    """
    stacks = _stacks(known)

    @functools.cache
    def turn(key: SoftwareKey, split: tuple[object, ...], tp: int) -> float:
        others = [one for one in stacks.get(key, ()) if one.split != split]
        return Line.through(others).at(tp) if others else math.nan

    return np.array([turn(one.key, one.split, one.tp) for one in asked])
