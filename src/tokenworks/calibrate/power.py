"""Fit what devices draw on measured energy: three shares of TDP, and how far off they are on a system left out."""

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
"""How far a share may lie from its prior, as a log-deviation; assumed, as no prior rests on a measurement [-]."""

LOSS = Loss(noise=0.1, robust=0.2)
"""A measured power has a log error of so much by itself; assumed, as is the one beyond which a point must not lead."""

TURNS, ENOUGH = 60, 1e-13
"""Turns at most, and the share of the cost below which another one gains too little [-]: three shares cost no time."""

LEAST_POINTS = 6
"""Fewer points with energy than this fit nothing."""

SHARES = ("idle", "compute", "hbm")


@dataclass(frozen=True, slots=True)
class LeftPower:
    """Errors of the mean power of one system by a fit that did not see it."""

    group: str
    n: int
    median_ape: float
    bias: float


@dataclass(frozen=True)
class PowerFit:
    """Shares of TDP fitted on n points; median_ape : of the power, in sample; systems : each device left out."""

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
    """Least squares on the log of mean power, each share near its prior; None where too few points carry energy.

    Power and not energy is fitted, from the measured rate, so that an error of the predicted time does not enter twice:

        E R / TDP = min(1, i + c U_c + m U_m)

    Parameters
    ----------
    predictions : of the points; they tell U, the shares of time on the roofs; source : what the figures come from
    """
    rows = [
        (point.device, watts / said.tdp, (1.0, said.used.compute, said.used.hbm))
        for point, said in zip(points, predictions, strict=True)
        if said.used and said.tdp and (watts := measured_watts(point))
    ]
    if len(rows) < LEAST_POINTS:
        return None
    names, drawn, uses = (np.array(column) for column in zip(*rows, strict=True))
    start = np.log([number(getattr(prior, name)) for name in SHARES])
    found = _solve(uses, drawn, start)
    unseen = np.full(len(drawn), np.nan)
    systems = sorted(set(names)) if len(set(names)) > 1 else []
    for system in systems:
        own = names == system
        unseen[own] = _errors(uses[own], drawn[own], _solve(uses[~own], drawn[~own], start))
    inside = _errors(uses, drawn, found)
    how = "systems left out of the fit" if systems else "in sample: one system only"
    made = {"spread": spread(round(conformal(unseen if systems else inside), 2), f"{how}: {len(rows)} points")}
    for name, value in zip(SHARES, np.exp(found).tolist(), strict=True):
        made[name] = fitted(getattr(prior, name).model_copy(update={"value": value}), source)
    left = [
        LeftPower(str(system), int((names == system).sum()), _median(unseen[names == system]),
                  math.expm1(float(np.median(unseen[names == system]))))
        for system in systems
    ]  # fmt: skip
    return PowerFit(Power(**made), len(rows), _median(inside), left)


def measured_watts(point: Point) -> float | None:
    """Mean power of a device: energy of an output token x output tokens a second and device [W]."""
    got = point.measured
    if not (got.energy and got.rate) or got.counted == "input":
        return None
    share = point.osl / (point.isl + point.osl) if got.counted == "total" else 1.0
    return got.energy * got.rate * share


def _errors(uses: Floats, drawn: Floats, logs: Floats) -> Floats:
    """Log error of each point."""
    return np.asarray(np.log(np.minimum(uses @ np.exp(logs), 1.0) / drawn))


def _solve(uses: Floats, drawn: Floats, start: Floats) -> Floats:
    """Logs of the shares, which keep them above zero. Power at its limit has no slope."""

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
