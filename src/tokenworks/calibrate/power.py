"""Fit the power of devices on measured energy: three shares of TDP, and their error on left-out systems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.calibrate.least_squares import Loss, least_squares
from tokenworks.calibrate.leave_out import conformal
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.quantities import fitted, spread
from tokenworks.specs.calibration import Power, number

FREEDOM = 0.5
"""Freedom of a share: the standard deviation of log(fitted / prior); assumed, because no prior is measured [-]."""

LOSS = Loss(noise=0.1, robust=0.2)
"""Noise of a measured power, and log error beyond which a point must not dominate the fit; both assumed [-]."""

TURNS, ENOUGH = 60, 1e-13
"""Iterations at most [count], and the relative gain below which they stop [-]. Three shares take almost no time."""

LEAST_POINTS = 6
"""Smallest number of points with energy for a fit [count]."""

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


@dataclass(frozen=True)
class PowerFit:
    """Shares of TDP fitted on measured power.

    Parameters
    ----------
    power : the shares, with their interval
    n : number of points
    median_ape : median of |predicted / measured - 1| of the power, in sample [-]
    systems : errors of each device by a fit without its points
    """

    power: Power
    n: int
    median_ape: float
    systems: list[LeftPower]

    def plain(self) -> dict[str, Any]:
        """Plain data."""
        shares = {name: number(getattr(self.power, name)) for name in (*SHARES, "spread")}
        return {
            "n": self.n,
            "median_ape": self.median_ape,
            **shares,
            "left_out_systems": list(map(asdict, self.systems)),
        }


def fit_power(points: Sequence[Point], predictions: Sequence[Predicted], prior: Power, source: str) -> PowerFit | None:
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
    source : source of the fitted numbers, for the calibration file
    """
    rows = [
        (point.device, watts / prediction.tdp, (1.0, prediction.used.compute, prediction.used.hbm))
        for point, prediction in zip(points, predictions, strict=True)
        if prediction.used and prediction.tdp and (watts := measured_watts(point))
    ]
    if len(rows) < LEAST_POINTS:
        return None
    names, drawn, uses = (np.array(column) for column in zip(*rows, strict=True))
    start = np.log([number(getattr(prior, name)) for name in SHARES])
    logs = _solve(uses, drawn, start)
    unseen = np.full(len(drawn), np.nan)
    systems = sorted(set(names)) if len(set(names)) > 1 else []
    for system in systems:
        own = names == system
        unseen[own] = _errors(uses[own], drawn[own], _solve(uses[~own], drawn[~own], start))
    inside = _errors(uses, drawn, logs)
    how = "systems left out of the fit" if systems else "in sample: one system only"
    shares = {"spread": spread(round(conformal(unseen if systems else inside), 2), f"{how}: {len(rows)} points")}
    for name, value in zip(SHARES, np.exp(logs).tolist(), strict=True):
        shares[name] = fitted(getattr(prior, name).model_copy(update={"value": value}), source)
    left = [
        LeftPower(str(system), int((names == system).sum()), _median(unseen[names == system]),
                  math.expm1(float(np.median(unseen[names == system]))))
        for system in systems
    ]  # fmt: skip
    return PowerFit(Power(**shares), len(rows), _median(inside), left)


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


def _solve(uses: Floats, drawn: Floats, start: Floats) -> Floats:
    """Logarithms of the fitted shares, so that shares stay above zero. At TDP, power has no slope."""

    def errors(theta: Floats) -> Floats:
        return _errors(uses, drawn, start + theta)

    def slopes(theta: Floats, at: Floats) -> Floats:  # noqa: ARG001
        parts = uses * np.exp(start + theta)
        sums = parts.sum(axis=1)[:, None]
        return np.asarray(parts / sums * (sums < 1.0))

    freedom = np.full(len(start), FREEDOM)
    return start + least_squares(errors, slopes, freedom, LOSS, turns=TURNS, enough=ENOUGH)


def _median(errors: Floats) -> float:
    return float(np.median(np.abs(np.expm1(errors))))
