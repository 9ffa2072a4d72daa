"""Leave one system or one model out, fit on the rest, and predict it: what a calibration is worth elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from typing_extensions import TypedDict

from tokenworks.arrays import Floats
from tokenworks.calibrate.factors import Factor
from tokenworks.calibrate.fit import Problem, fit
from tokenworks.calibrate.measured import Point
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs

By = Literal["system", "model"]
OF: dict[By, Callable[[Point], str]] = {
    "system": lambda point: point.device,
    "model": lambda point: f"{point.model} {point.weights}",
}

INTERVAL = 0.8
"""Share of points that an interval is meant to cover [-]."""

LEAST_SPREAD = 1.05
"""No interval is narrower than this factor: one configuration measured twice differs by 3 to 10 %; chosen [-]."""


@dataclass(frozen=True, slots=True)
class Left:
    """TPOT errors of a group, by a fit that did not see it, beside those before any fit.

    spread : half of the interval that the errors of the other groups give, as a factor; covered : share inside
    needed : the factor that would hold 80 % of the errors here
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
    """Each system or model left out in turn; prior : the name of the calibration that the fits started from."""

    by: By
    groups: tuple[Left, ...]
    prior: str

    def plain(self) -> Plain:
        """The whole answer as plain data."""
        body: LeaveOutBody = {
            "inputs": inputs(calibration=self.prior),
            "leave_out": self.by,
            "groups": [asdict(one) for one in self.groups],
        }
        return envelope("calibrate-leave-out", body)


def leave_out(
    problem: Problem, factors: Sequence[Factor], by: By, say: Callable[[str], None] | None = None,
    prior: Callable[[str], Calibration] | None = None,
) -> tuple[list[Left], Floats]:  # fmt: skip
    """Errors of each group when it is left out, and the log error of every point under the fit that did not see it.

    Parameters
    ----------
    prior : calibration that each fit starts from, of the group that it must not have seen; None = the problem's
    """
    names = np.array([OF[by](point) for point in problem.points])
    before = problem.errors([], np.zeros(0))
    groups = sorted(set(names[np.isfinite(before)]))
    unseen = np.full(len(names), np.nan)
    for group in groups:
        if say:
            say(f"fitting without {group}")
        own = names == group
        start = replace(problem, calibration=prior(group).standalone(problem.families)) if prior else problem
        unseen[own] = fit(start, factors, use=~own).errors[own]
    vendors = vendors_of(problem)
    return [_left(group, names, vendors, unseen, before) for group in groups], unseen


def vendors_of(problem: Problem) -> Any:
    """Of the device of each point, the first word of its family."""
    found = np.full(len(problem.points), "", dtype=object)
    for bunch in problem.found:
        found[bunch.at] = bunch.machine.family.split("-")[0]
    return found


def _left(group: str, names: Any, vendors: Any, unseen: Floats, before: Floats) -> Left:
    """The interval is what errors of the vendor's other groups give, if any: the same software runs there."""
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

    References
    ----------
    [1] Lei et al., Distribution-free predictive inference for regression, JASA 113, 2018, algorithm 2.
    """
    size = np.sort(np.abs(errors))
    rank = min(math.ceil(INTERVAL * (len(size) + 1)), len(size))
    return max(LEAST_SPREAD, float(np.exp(size[rank - 1])))
