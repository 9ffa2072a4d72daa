"""Predictions of measured points by fits that did not see the points that are as near as theirs.

For each distance class, points are predicted by fits without all nearer points:

- device: each model is left out, one at a time. The fit has points of other models on the same device.
- family: the points of a device are left out. The fit has points of another device of the same family.
- vendor: the points of a family are left out. The fit has points of another family of the same vendor.
- other-vendor: the points of a vendor are left out. Each of its families borrows the numbers of a family of another
  vendor: each such family that has all dtypes, one after the other.
- datasheet: no point is used, and each family borrows as for other-vendor.

As in every prediction, a device has the software factors of its vendor's other devices, if the fit has seen these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.calibrate.closed_form import tpots
from tokenworks.calibrate.factors import Factor, turned
from tokenworks.calibrate.fit import LOSS, STEP, Problem, fit
from tokenworks.calibrate.frontier import AtSpeed, cells
from tokenworks.calibrate.leave_out import OF
from tokenworks.calibrate.predict import Predicted
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, Like
from tokenworks.specs.interval import Distance, Nearness, Silicon, vendor_of
from tokenworks.specs.machine import Machine

Say = Callable[[str], None] | None

LIMIT = 0.5
"""Largest move of the logarithm of a factor in one step: the linear form does not hold farther [-]."""


@dataclass(frozen=True)
class Linear:
    """Log errors that are linear in the logarithms of the factors, around a fit.

    A fit without some points moves the factors little. So it costs one evaluation of all slopes.

    Parameters
    ----------
    start : logarithm of each factor, near the fit [-]
    at_start : log errors there [-]
    slopes : slope of each error; one row per error, one column per factor
    """

    start: Floats
    at_start: Floats
    slopes: Floats

    @classmethod
    def of(cls, problem: Problem, factors: Sequence[Factor], theta: Floats) -> Linear:
        """The linear form of the errors of a problem.

        Parameters
        ----------
        problem : the points in closed form
        factors : the factors of the fit
        theta : logarithm of each factor, near the fit [-]
        """
        at_start, columns = problem.errors(factors, theta), []
        for j, factor in enumerate(factors):
            there = theta.copy()
            there[j] += STEP
            moved = problem.touched(factor).errors(factors, there)
            columns.append(np.nan_to_num((moved - at_start) / STEP))
        return cls(theta, at_start, np.stack(columns, axis=1))

    def errors(self, factors: Sequence[Factor], theta: Floats) -> Floats:  # noqa: ARG002 (always all factors)
        """log(predicted / measured) of every point; NaN for points that are not used."""
        return np.asarray(self.at_start + self.slopes @ np.clip(theta - self.start, -LIMIT, LIMIT))

    def moved(self, factors: Sequence[Factor], mask: Any) -> Floats:
        """Logarithm of each factor, in a fit without some points; none is farther from the start than `LIMIT`.

        Parameters
        ----------
        factors : the factors
        mask : the points that are left out
        """
        theta = fit(self, factors, use=~mask).theta
        return np.asarray(self.start + np.clip(theta - self.start, -LIMIT, LIMIT))

    def touched(self, factor: Factor) -> Linear:  # noqa: ARG002 (all errors cost next to nothing)
        """The complete problem."""
        return self


def cost(problem: Problem, factors: Sequence[Factor], theta: Floats, used: Any) -> float:
    """What a fit makes as small as possible: the loss of all errors, and the distance of the factors from the prior.

    Parameters
    ----------
    problem : the points in closed form
    factors : the factors
    theta : logarithm of each factor [-]
    used : mask of the points that count
    """
    errors = problem.errors(factors, theta)
    freedom = np.array([factor.spread for factor in factors])
    return LOSS.sum(errors[used & np.isfinite(errors)]) + float(np.sum((theta / freedom) ** 2))


@dataclass(frozen=True)
class Known:
    """The points of a problem, and the fits that are there already.

    Parameters
    ----------
    problem : the points in closed form
    factors : the factors of the fit
    theta : logarithm of each factor, in the fit on all points [-]
    systems : device -> calibration that was fitted without its points, as `Problem.seen` gives it
    say : receives progress messages; None for no messages
    """

    problem: Problem
    factors: Sequence[Factor]
    theta: Floats
    systems: Mapping[str, Calibration]
    say: Say = None

    @cached_property
    def linear(self) -> Linear:
        """Errors of the points around the fit on all points."""
        if self.say:
            self.say("slopes of all errors, for fits without some points")
        return Linear.of(self.problem, self.factors, self.theta)

    @cached_property
    def machines(self) -> dict[str, Machine]:
        """A machine of each device that has points."""
        return {bunch.machine.device: bunch.machine for bunch in self.problem.bunches}

    @cached_property
    def silicon(self) -> dict[str, Silicon]:
        """What decides the distance between devices, for each device that has points."""
        return {name: Silicon.of(machine) for name, machine in sorted(self.machines.items())}

    @cached_property
    def devices(self) -> Any:
        """Device of each point; "" if the point is not used."""
        return self._of_points(lambda machine: machine.device)

    @cached_property
    def families(self) -> Any:
        """Device family of each point; "" if the point is not used."""
        return self._of_points(lambda machine: machine.family)

    @cached_property
    def drafted(self) -> Any:
        """Mask of the points with draft tokens."""
        drafted = np.zeros(len(self.problem.points), bool)
        for bunch in self.problem.bunches:
            drafted[bunch.at] = bunch.drafts > 0
        return drafted

    def _of_points(self, name: Callable[[Machine], str]) -> Any:
        names = np.full(len(self.problem.points), "", dtype=object)
        for bunch in self.problem.bunches:
            names[bunch.at] = name(bunch.machine)
        return names

    def without(self, mask: Any) -> Calibration:
        """The calibration fitted without some points.

        Parameters
        ----------
        mask : the points that are left out
        """
        (device, *others) = sorted(set(map(str, self.devices[mask])) - {""})
        if not others and device in self.systems and mask[self.devices == device].all():
            return self.systems[device]
        theta = self._fitted(mask)
        return self.problem.seen(turned(self.problem.calibration, self.factors, theta), ~mask)

    def _fitted(self, mask: Any) -> Floats:
        """Logarithm of each factor, in a fit without some points: two linear steps from the fit on all points."""
        seen = replace(self.problem, bunches=[one for one in self.problem.bunches if not mask[one.at].all()])
        linear = self.linear
        first = linear.moved(self.factors, mask)
        linear = Linear.of(seen, self.factors, first)
        second = linear.moved(self.factors, mask)
        return min(first, second, key=lambda theta: cost(seen, self.factors, theta, ~mask))


@dataclass(frozen=True)
class Unseen:
    """Predictions of points by a fit that did not see points as near as these.

    Parameters
    ----------
    distance : class of the distance
    seconds : predicted TPOT of each point; NaN for points that are not predicted [s]
    near : device -> how near the devices are that the fit has seen
    """

    distance: Distance
    seconds: Floats
    near: Mapping[str, Nearness]


def unseen(known: Known) -> list[Unseen]:
    """The predictions at each distance.

    Parameters
    ----------
    known : the points and their fits
    """
    predictions = [_models_left_out(known)]
    for distance, calibration, mask in _predictors(known):
        if known.say:
            known.say(f"predicting points at distance {distance}")
        seconds = predicted(known.problem, calibration, mask)
        if np.isfinite(seconds).any():
            predictions.append(Unseen(distance, seconds, _near(known, calibration, mask)))
    return predictions


def predicted(problem: Problem, calibration: Calibration, mask: Any) -> Floats:
    """TPOT of some points; NaN for all others, and for all if the calibration lacks a dtype of a device [s].

    Parameters
    ----------
    problem : the points in closed form
    calibration : calibration of the prediction
    mask : points that are predicted
    """
    bunches = [bunch for bunch in problem.bunches if mask[bunch.at].any()]
    try:
        seconds = tpots(bunches, calibration, len(problem.points)) * problem.anchor
    except SpecError:
        return np.full(len(problem.points), np.nan)
    return np.where(mask, seconds, np.nan)


def throughputs(problem: Problem, seconds: Floats) -> list[AtSpeed]:
    """Measured and predicted throughputs at equal speed per user, one for each workload, device and speed.

    Throughput follows from TPOT by Little's law: throughput x TPOT is as in the simulation of the point.

    Parameters
    ----------
    problem : the points in closed form
    seconds : predicted TPOT of each point; NaN for points that are not used [s]
    """
    rates = problem.flow / seconds
    pairs = [
        (problem.points[i], Predicted(tpot=float(seconds[i]), rate=float(rates[i])))
        for i in map(int, np.flatnonzero(np.isfinite(rates)))
    ]
    return cells(pairs)[0]


def borrowing(calibration: Calibration, family: str, lender: str) -> Calibration:
    """The calibration in which a family borrows the numbers of another family, as families without points do.

    Parameters
    ----------
    calibration : a calibration with numbers of both families
    family : family that borrows
    lender : family whose numbers it borrows
    """
    families = {name: one for name, one in calibration.families.items() if name != family}
    like = Like(like=lender, why="left out of the fit", spread=calibration.families[lender].spread)
    return calibration.model_copy(update={"families": families, "borrowed": calibration.borrowed | {family: like}})


def _near(known: Known, calibration: Calibration, mask: Any) -> dict[str, Nearness]:
    devices = set(map(str, known.devices[mask])) - {""}
    return {device: calibration.nearness(known.machines[device]) for device in sorted(devices)}


def _models_left_out(known: Known) -> Unseen:
    """Predictions of every point by a fit without its model."""
    problem, everyone = known.problem, known.families != ""
    models = np.array([OF["model"](point) for point in problem.points], dtype=object)
    seconds = np.full(len(problem.points), np.nan)
    everything = problem.seen(problem.calibration, everyone)
    for model in sorted(set(models[everyone])):
        left = everyone & (models == model)
        mask = left & np.isin(known.devices, sorted(set(map(str, known.devices[everyone & ~left]))))
        if mask.any():  # a device has points of another model, too
            seconds = np.where(mask, predicted(problem, known.without(left), mask), seconds)
    return Unseen("device", seconds, _near(known, everything, everyone))


def _predictors(known: Known) -> Iterator[tuple[Distance, Calibration, Any]]:
    """Each calibration that predicts points at a distance beyond `device`, with the mask of these points."""
    problem, devices, families = known.problem, known.devices, known.families
    vendors = np.array([vendor_of(family) for family in families], dtype=object)
    nobody = problem.calibration.model_copy(update={"devices": {}})
    for device in known.silicon:
        own = devices == device
        if (families[~own] == families[own][0]).any():
            yield "family", known.without(own), own
    for family in problem.families:
        own = families == family
        if (vendors[~own] == vendor_of(family)).any():
            yield "vendor", known.without(own), own
    for vendor in sorted(set(vendors) - {""}):
        others = [name for name in problem.families if vendor_of(name) != vendor]
        if not others:
            continue
        without = known.without(vendors == vendor)
        for family in problem.families:
            for lender in others if vendor_of(family) == vendor else ():
                own = families == family
                yield "other-vendor", borrowing(without, family, lender), own
                yield "datasheet", borrowing(nobody, family, lender), own
