"""80 % intervals of throughput at a given speed per user, by how near the measured points are to a device.

For each distance, throughput is predicted by fits without all nearer points:

- device: the fit has all points. It has a few dozen constants for thousands of points, so these errors are in sample.
- family: the points of a device are left out. The fit has points of another device of the same family.
- vendor: the points of a family are left out. The fit has points of another family of the same vendor.
- other-vendor: the points of a vendor are left out. Each of its families borrows the numbers of a family of another
  vendor: each such family that has all dtypes, one after the other.
- datasheet: no point is used, and each family borrows as for other-vendor.

Predictions are in closed form, as in the fit. Throughput follows from TPOT by Little's law: throughput x TPOT is as in
the simulation of the point.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from tokenworks.calibrate.closed_form import tpots
from tokenworks.calibrate.correlation import throughput_correlation
from tokenworks.calibrate.factors import Factor, turned
from tokenworks.calibrate.fit import LEAST_POINTS, Problem, fit
from tokenworks.calibrate.frontier import AtSpeed, cells
from tokenworks.calibrate.leave_out import conformal
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.quantities import spread
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import DISTANCES, Calibration, Distance, number, vendor_of
from tokenworks.specs.provenance import Quantity

Say = Callable[[str], None] | None


@dataclass(frozen=True)
class Known:
    """The points of a problem, and the fits that are there already.

    Parameters
    ----------
    problem : the points in closed form
    factors : the factors of the fit
    whole : calibration that was fitted on all points
    systems : device -> calibration that was fitted without its points
    say : receives progress messages; None for no messages
    """

    problem: Problem
    factors: Sequence[Factor]
    whole: Calibration
    systems: Mapping[str, Calibration]
    say: Say = None

    @property
    def devices(self) -> Any:
        """Device of each point; "" if the point is not used."""
        names = np.array([point.device for point in self.problem.points], dtype=object)
        return np.where(self.families != "", names, "")

    @property
    def families(self) -> Any:
        """Device family of each point; "" if the point is not used."""
        return families_of_points(self.problem)

    def without(self, mask: Any, name: str) -> Calibration:
        """The calibration fitted without some points."""
        (device, *others) = sorted(set(map(str, self.devices[mask])))
        if not others and device in self.systems:
            return self.systems[device]
        if self.say:
            self.say(f"fitting without {name}")
        theta = fit(self.problem, self.factors, use=~mask).theta
        return turned(self.problem.calibration, self.factors, theta)


def families_of_points(problem: Problem) -> Any:
    """Device family of each point; "" for points without a closed form.

    Parameters
    ----------
    problem : the points in closed form
    """
    families = np.full(len(problem.points), "", dtype=object)
    for bunch in problem.bunches:
        families[bunch.at] = bunch.machine.family
    return families


Throughputs = Mapping[Distance, Sequence[AtSpeed]]
"""Distance -> measured throughputs at equal speed per user, with the predictions of fits at this distance."""


class ThroughputIntervals(TypedDict):
    """Fields of a `Calibration` for the intervals of throughputs at a given speed per user and of their ratios."""

    throughput_spread: dict[Distance, Quantity]
    throughput_correlation: Quantity


def throughput_intervals(known: Known, before: Calibration) -> ThroughputIntervals:
    """The interval factors of throughput at a given speed per user, and the correlation of the errors of two devices.

    The correlation comes from devices that were left out of the fit, one device at a time. The nearest points are then
    those of another device of the family, or of another family of the vendor if the family has only one device.

    Parameters
    ----------
    known : the points and their fits
    before : calibration with the numbers that stay where there are too few points
    """
    predicted: dict[Distance, list[AtSpeed]] = defaultdict(list)
    left_out: list[tuple[Distance, AtSpeed]] = []
    for distance, calibration, mask in _predictors(known):
        reached = throughputs(known.problem, calibration, mask)
        predicted[distance] += reached
        if distance in ("family", "vendor") and len(set(known.devices[mask])) == 1:
            left_out += [(distance, one) for one in reached]
    spreads = throughput_spreads(predicted, before)
    spread_at = known.whole.model_copy(update={"throughput_spread": spreads}).spread_at
    widening = number(known.whole.draft_widening)
    wide = [
        one._replace(spread=spread_at(distance) ** (widening if one.workload.mtp == "mtp" else 1))
        for distance, one in left_out
    ]
    return {"throughput_spread": spreads, "throughput_correlation": throughput_correlation(wide, before)}


def throughput_spreads(predicted: Throughputs, before: Calibration) -> dict[Distance, Quantity]:
    """The interval factor of throughput at a given speed per user, for each distance.

    The factors come from points without MTP, if there are any: with MTP, `draft_widening` makes an interval wider. A
    larger distance never has a smaller factor than a nearer one.

    Parameters
    ----------
    predicted : distance -> measured throughputs with their predictions
    before : calibration with the factors of distances for which there are too few points
    """
    spreads: dict[Distance, Quantity] = {}
    widest = 1.0
    for distance in DISTANCES:
        together = predicted.get(distance, ())
        plain = [one for one in together if one.workload.mtp != "mtp"] or together
        if len(plain) < LEAST_POINTS:
            if distance in before.throughput_spread:
                spreads[distance] = before.throughput_spread[distance]
                widest = max(widest, number(spreads[distance]))
            continue
        widest = max(widest, round(conformal(np.array([one.error for one in plain])), 2))
        spreads[distance] = spread(widest, f"{HOW[distance]}: {len(plain)} throughputs at equal speed per user")
    return spreads


HOW: dict[Distance, str] = {
    "device": "all points, in sample",
    "family": "devices left out of the fit",
    "vendor": "families left out of the fit",
    "other-vendor": "vendors left out of the fit, with numbers of another vendor",
    "datasheet": "no point fitted, with numbers of another vendor",
}
"""Source of the factor of each distance."""


def throughputs(problem: Problem, calibration: Calibration, mask: Any) -> list[AtSpeed]:
    """Measured and predicted throughputs at equal speed per user.

    Parameters
    ----------
    problem : the points in closed form
    calibration : calibration of the prediction
    mask : points that are predicted

    Returns
    -------
    One throughput for each workload, device and speed; none if the calibration lacks a dtype of a device.
    """
    bunches = [bunch for bunch in problem.bunches if mask[bunch.at].any()]
    try:
        seconds = tpots(bunches, calibration, len(problem.points)) * problem.anchor
    except SpecError:
        return []
    rates = problem.flow / seconds
    pairs = [
        (problem.points[i], Predicted(tpot=float(seconds[i]), rate=float(rates[i])))
        for i in map(int, np.flatnonzero(mask & np.isfinite(rates)))
    ]
    return cells(pairs)[0]


def _predictors(known: Known) -> Iterator[tuple[Distance, Calibration, Any]]:
    """Each calibration that predicts points at a distance, with the mask of these points."""
    problem, devices, families = known.problem, known.devices, known.families
    vendors = np.array([vendor_of(family) for family in families], dtype=object)
    yield "device", known.whole, families != ""
    for device in sorted(set(devices) - {""}):
        own = devices == device
        if (families[~own] == families[own][0]).any():
            yield "family", known.without(own, device), own
    for family in problem.families:
        own = families == family
        if (vendors[~own] == vendor_of(family)).any():
            yield "vendor", known.without(own, family), own
    for vendor in sorted(set(vendors) - {""}):
        others = [name for name in problem.families if vendor_of(name) != vendor]
        if not others:
            continue
        without = known.without(vendors == vendor, vendor)
        for family in problem.families:
            for lender in others if vendor_of(family) == vendor else ():
                own = families == family
                yield "other-vendor", _borrowing(without, family, lender), own
                yield "datasheet", _borrowing(problem.calibration, family, lender), own


def _borrowing(calibration: Calibration, family: str, lender: str) -> Calibration:
    """The calibration in which a family borrows the numbers of another family, as families without points do."""
    lent = calibration.lent.get(lender, calibration.families[lender])
    return calibration.model_copy(update={"families": calibration.families | {family: lent}})
