"""Leave out one system or one model, fit on the rest, and predict the left-out points: how a calibration transfers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from typing_extensions import TypedDict

from tokenworks.arrays import Floats
from tokenworks.calibrate.factors import Factor, turned
from tokenworks.calibrate.fit import Problem, fit
from tokenworks.calibrate.measured import Point
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.interval import vendor_of
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs

By = Literal["system", "model"]
OF: dict[By, Callable[[Point], str]] = {
    "system": lambda point: point.device,
    "model": lambda point: f"{point.model} {point.weights}",
}

INTERVAL = 0.8
"""Share of points that an interval should contain [-]."""

ROUNDING = 1e-9
"""Error of a sum of shares [-]."""

LEAST_SPREAD = 1.05
"""Smallest spread: the same configuration measured twice differs by 3 to 10 %; chosen [-]."""


@dataclass(frozen=True, slots=True)
class Left:
    """TPOT errors of a left-out system or model, by a fit without its points.

    Parameters
    ----------
    group : name of the system or model
    n : number of points
    median_ape, mape : median and mean of |predicted / measured - 1| [-]
    bias : median of predicted / measured - 1 [-]
    before_median_ape : median_ape before any fit [-]
    spread : half of the 80 % interval as a factor, from the errors of the other groups [-]
    needed : spread that would contain 80 % of the errors of this group [-]
    covered : share of the points inside the interval [-]
    """

    group: str
    n: int
    median_ape: float
    mape: float
    bias: float
    before_median_ape: float
    spread: float
    needed: float
    covered: float

    def plain(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class LeaveOutBody(TypedDict):
    """The plain form of `calibrate --leave-out`."""

    inputs: Inputs
    leave_out: By
    groups: list[Annotated[Plain, FormOf(Left)]]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Results of leaving out each system or model in turn.

    Parameters
    ----------
    by : what is left out, `system` or `model`
    groups : errors of each group
    prior : name of the calibration that the fits start from
    """

    by: By
    groups: tuple[Left, ...]
    prior: str

    def plain(self) -> Plain:
        """The complete result as plain data."""
        body: LeaveOutBody = {
            "inputs": inputs(calibration=self.prior),
            "leave_out": self.by,
            "groups": [asdict(one) for one in self.groups],
        }
        return envelope("calibrate-leave-out", body)


def leave_out(
    problem: Problem, factors: Sequence[Factor], by: By, say: Callable[[str], None] | None = None,
    prior: Callable[[str], Calibration] | None = None,
) -> tuple[list[Left], dict[str, Calibration]]:  # fmt: skip
    """Leave out each group in turn. Predictions of it have the software factors that the other groups lend it.

    Parameters
    ----------
    problem : the points in closed form
    factors : the factors of the fit
    by : what is left out, `system` or `model`
    say : receives progress messages; None for no messages
    prior : gives the calibration that the fit without a group starts from; None: the calibration of the problem

    Returns
    -------
    The errors of each group, and the fit without each group
    """
    names = np.array([OF[by](point) for point in problem.points])
    before = problem.errors([], np.zeros(0))
    groups = sorted(set(names[np.isfinite(before)]))
    unseen, fits = np.full(len(names), np.nan), {}
    for group in groups:
        if say:
            say(f"fitting without {group}")
        own = names == group
        start = replace(problem, calibration=prior(group).standalone(problem.families)) if prior else problem
        result = fit(start, factors, use=~own)
        fits[group] = start.seen(turned(start.calibration, factors, result.theta), ~own)
        unseen[own] = start.errors_by(fits[group])[own]
    vendors = vendors_of(problem)
    return [_left(group, names, vendors, unseen, before) for group in groups], fits


def vendors_of(problem: Problem) -> Any:
    """Vendor of each point's device: the first word of its device family."""
    vendors = np.full(len(problem.points), "", dtype=object)
    for bunch in problem.bunches:
        vendors[bunch.at] = vendor_of(bunch.machine.family)
    return vendors


def _left(group: str, names: Any, vendors: Any, unseen: Floats, before: Floats) -> Left:
    """Errors of one group. Its interval comes from other groups of its vendor, if any: they run the same software."""
    known = np.isfinite(unseen)
    own = (names == group) & known
    error, was = unseen[own], np.abs(np.expm1(before[own]))
    others = (names != group) & known
    alike = others & np.isin(vendors, np.unique(vendors[own]))
    width = conformal(unseen[alike] if alike.any() else unseen[others] if others.any() else error)
    return Left(
        group=group,
        n=int(own.sum()),
        median_ape=float(np.median(np.abs(np.expm1(error)))),
        mape=float(np.mean(np.abs(np.expm1(error)))),
        bias=float(np.expm1(np.median(error))),
        before_median_ape=float(np.median(was)),
        spread=width,
        needed=conformal(error),
        covered=float(np.mean(np.abs(error) <= math.log(width))),
    )


def conformal(errors: Floats) -> float:
    """Half of the 80 % interval as a factor [-]: the ceil(0.8 (n + 1))-th smallest |log error|, split conformal.

    Parameters
    ----------
    errors : log(predicted / measured) of points that the fit did not see [-]

    References
    ----------
    [1] Lei et al., Distribution-free predictive inference for regression, JASA 113, 2018, algorithm 2.
    """
    return max(LEAST_SPREAD, math.exp(conformal_score(np.abs(errors), np.ones(len(errors)), len(errors))))


def conformal_score(scores: Floats, weights: Floats, units: int) -> float:
    """The smallest score that contains 80 % of the weight, with one more unit whose score may be any [-].

    Parameters
    ----------
    scores : score of each point; a large score is a large error [-]
    weights : weight of each point [-]
    units : independent errors: the number of points, or of groups whose points have their error in common [count]
    """
    order = np.argsort(scores, kind="stable")
    share = np.cumsum(weights[order]) / np.sum(weights)
    least = min(INTERVAL * (units + 1) / units, 1.0)
    rank = int(np.searchsorted(share, least - ROUNDING))
    return float(scores[order[min(rank, len(scores) - 1)]])
