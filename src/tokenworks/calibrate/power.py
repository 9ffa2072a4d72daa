"""Fit the power of devices on measured energy: three shares of TDP, and their error on left-out systems.

The shares of all devices together are for families that nobody measured. A family with several measured models gets
shares of its own, which are pulled to those of all devices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.calibrate.least_squares import Loss, least_squares
from tokenworks.calibrate.leave_out import conformal
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.quantities import fitted, spread
from tokenworks.specs import load
from tokenworks.specs.calibration import Calibration, Power, number
from tokenworks.specs.provenance import Quantity

FREEDOM = 0.5
"""Freedom of a share: the standard deviation of log(fitted / prior); assumed, because no prior is measured [-]."""

FAMILY_FREEDOM = 0.3
"""Freedom of a share of one family, around the share of all devices; 0.2 and 0.5 give the same errors within 1 point;
chosen [-]."""

LOSS = Loss(noise=0.1, robust=0.2)
"""Noise of a measured power, and log error beyond which a point must not dominate the fit; both assumed [-]."""

TURNS, ENOUGH = 60, 1e-13
"""Iterations at most [count], and the relative gain below which they stop [-]. Three shares take almost no time."""

LEAST_POINTS = 6
"""Smallest number of points with energy for a fit [count]."""

FAMILY_POINTS, FAMILY_MODELS = 20, 2
"""Smallest number of points with energy, and of models among them, for shares of a family; chosen [count]."""

SHARES = ("idle", "compute", "hbm")


@dataclass(frozen=True, slots=True)
class LeftPower:
    """Errors of the mean power of one system, by a fit without its points.

    Parameters
    ----------
    group : name of the device
    n : number of points
    median_ape : median of |predicted / measured - 1| [-]
    bias : median of predicted / measured - 1 [-]
    """

    group: str
    n: int
    median_ape: float
    bias: float

    @classmethod
    def of(cls, group: str, errors: Floats) -> LeftPower:
        """The errors of one system.

        Parameters
        ----------
        group : name of the device
        errors : log(predicted / measured) of the power of its points [-]
        """
        return cls(group, len(errors), _median(errors), math.expm1(float(np.median(errors))))


@dataclass(frozen=True)
class FamilyPower:
    """Shares of TDP of one device family.

    Parameters
    ----------
    power : the shares, with their interval
    n : number of points
    median_ape : median of |predicted / measured - 1| of the power, in sample [-]
    models_left_out : the same, each model by a fit without its points on this family [-]
    """

    power: Power
    n: int
    median_ape: float
    models_left_out: float

    def plain(self) -> dict[str, Any]:
        """Plain data."""
        return {"n": self.n, "median_ape": self.median_ape, "models_left_out": self.models_left_out,
                **_shares(self.power)}  # fmt: skip


@dataclass(frozen=True)
class PowerFit:
    """Shares of TDP fitted on measured power.

    Parameters
    ----------
    power : the shares, with their interval
    n : number of points
    median_ape : median of |predicted / measured - 1| of the power, in sample [-]
    systems : errors of each device by a fit without its points
    families : device family -> shares of its own
    """

    power: Power
    n: int
    median_ape: float
    systems: list[LeftPower]
    families: Mapping[str, FamilyPower]

    def plain(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "n": self.n,
            "median_ape": self.median_ape,
            **_shares(self.power),
            "left_out_systems": list(map(asdict, self.systems)),
            "families": {name: one.plain() for name, one in self.families.items()},
        }

    def into(self, calibration: Calibration) -> Calibration:
        """A calibration with these shares.

        Parameters
        ----------
        calibration : the calibration
        """
        borrowers = [name for name in self.families if name not in calibration.families]
        calibration = calibration.standalone(borrowers) if borrowers else calibration
        own = {
            name: calibration.families[name].model_copy(update={"power": one.power})
            for name, one in self.families.items()
        }
        return calibration.model_copy(update={"power": self.power, "families": calibration.families | own})


class Drawn(NamedTuple):
    """Points with a measured power.

    Parameters
    ----------
    devices, families, models : device, device family and model with its weights of each point
    share : mean power / TDP [-]
    use : 1, and the shares of time on the compute roof and on the HBM roof; one row per point [-]
    """

    devices: Any
    families: Any
    models: Any
    share: Floats
    use: Floats

    @classmethod
    def of(cls, points: Sequence[Point], predictions: Sequence[Predicted]) -> Drawn:
        """The points with energy, and with a prediction on a device whose TDP is published."""
        rows = [
            (point.device, load.family_of(point.device), f"{point.model} {point.weights}", watts / prediction.tdp,
             (1.0, prediction.used.compute, prediction.used.hbm))
            for point, prediction in zip(points, predictions, strict=True)
            if prediction.used and prediction.tdp and (watts := measured_watts(point))
        ]  # fmt: skip
        columns = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        return cls(*map(np.array, columns))

    def shares(self, mask: Any, start: Floats, freedom: float) -> Floats:
        """Logarithms of the shares that describe some points, near a start.

        Parameters
        ----------
        mask : the points
        start : logarithms of the shares that the fit starts from
        freedom : standard deviation of log(fitted / start) [-]
        """
        return _solve(self.use[mask], self.share[mask], start, freedom)

    def errors(self, mask: Any, logs: Floats) -> Floats:
        """log(predicted / measured) of the power of some points [-].

        Parameters
        ----------
        mask : the points
        logs : logarithms of the shares
        """
        return _errors(self.use[mask], self.share[mask], logs)


def fit_power(points: Sequence[Point], predictions: Sequence[Predicted], prior: Power, data: str) -> PowerFit | None:
    """Fit the shares of TDP by least squares on the log of mean power; None if too few points have energy.

    The fit uses power, computed with the measured rate, and not energy. So an error of the predicted time does not
    count twice:

        E R / TDP = min(1, i + c U_c + m U_m)

    with E the energy per output token, R the output rate per device, i, c, m the shares, and U the roof use.

    Parameters
    ----------
    points : measured points
    predictions : predictions of the points, with U, the shares of time on the roofs
    prior : shares that the fit starts from
    data : name of the data, for the sources in the calibration file
    """
    drawn = Drawn.of(points, predictions)
    if len(drawn.share) < LEAST_POINTS:
        return None
    everyone = np.ones(len(drawn.share), bool)
    start = np.log([number(getattr(prior, name)) for name in SHARES])
    logs = drawn.shares(everyone, start, FREEDOM)
    inside = drawn.errors(everyone, logs)
    names = sorted(set(drawn.devices))
    left = {}
    for name in names if len(names) > 1 else ():
        own = drawn.devices == name
        left[name] = drawn.errors(own, drawn.shares(~own, start, FREEDOM))
    how = "systems left out of the fit" if left else "in sample: one system only"
    width = conformal(np.concatenate(list(left.values())) if left else inside)
    interval = spread(round(width, 2), f"{how}: {len(inside)} points")
    power = _power(prior, logs, f"energy of {len(inside)} points of {data}", interval)
    families = {
        name: one
        for name in sorted({str(name) for name in drawn.families} - {""})
        if (one := _family_power(drawn, name, prior, start, data))
    }
    systems = [LeftPower.of(str(name), errors) for name, errors in left.items()]
    return PowerFit(power, len(inside), _median(inside), systems, families)


def _family_power(drawn: Drawn, name: str, prior: Power, start: Floats, data: str) -> FamilyPower | None:
    """The shares of one family; None if it has too few points, or too few models.

    The interval comes from its models, each left out of both fits: of all devices, and of the family.
    """
    own, nothing = drawn.families == name, np.zeros(len(drawn.share), bool)
    models = sorted(set(drawn.models[own]))
    if own.sum() < FAMILY_POINTS or len(models) < FAMILY_MODELS:
        return None

    def without(left: Any) -> Floats:
        around = drawn.shares(~left, start, FREEDOM)
        return drawn.shares(own & ~left, around, FAMILY_FREEDOM)

    turns = [(mask, without(mask)) for mask in (own & (drawn.models == model) for model in models)]
    unseen = np.concatenate([drawn.errors(mask, logs) for mask, logs in turns])
    logs = without(nothing)
    width = spread(round(conformal(unseen), 2), f"models of {name} left out of the fit: {len(unseen)} points")
    power = _power(prior, logs, f"energy of {len(unseen)} points of {name} in {data}", width)
    return FamilyPower(power, len(unseen), _median(drawn.errors(own, logs)), _median(unseen))


def _power(prior: Power, logs: Floats, source: str, width: Quantity) -> Power:
    """Fitted shares for a calibration file."""
    pairs = zip(SHARES, np.exp(logs).tolist(), strict=True)
    shares = {name: fitted(getattr(prior, name).model_copy(update={"value": one}), source) for name, one in pairs}
    return Power(**shares, spread=width)


def _shares(power: Power) -> dict[str, float]:
    return {name: number(getattr(power, name)) for name in (*SHARES, "spread")}


def measured_watts(point: Point) -> float | None:
    """Mean power of a device: energy per output token x output tokens per second and device [W]; None if unknown.

    Parameters
    ----------
    point : the measured point
    """
    got = point.measured
    if not (got.energy and got.rate) or got.counted == "input":
        return None
    share = point.osl / (point.isl + point.osl) if got.counted == "total" else 1.0
    return got.energy * got.rate * share


def _errors(uses: Floats, drawn: Floats, logs: Floats) -> Floats:
    """log(predicted / measured) of the power of each point."""
    return np.asarray(np.log(np.minimum(uses @ np.exp(logs), 1.0) / drawn))


def _solve(uses: Floats, drawn: Floats, start: Floats, freedom: float) -> Floats:
    """Logarithms of the fitted shares, so that shares stay above zero. At TDP, power has no slope."""

    def errors(theta: Floats) -> Floats:
        return _errors(uses, drawn, start + theta)

    def slopes(theta: Floats, at: Floats) -> Floats:  # noqa: ARG001
        parts = uses * np.exp(start + theta)
        sums = parts.sum(axis=1)[:, None]
        return np.asarray(parts / sums * (sums < 1.0))

    free = np.full(len(start), freedom)
    return start + least_squares(errors, slopes, free, LOSS, turns=TURNS, enough=ENOUGH)


def _median(errors: Floats) -> float:
    return float(np.median(np.abs(np.expm1(errors))))
