"""Fit what devices draw on measured energy: three shares of TDP, and how far off they are on a system left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenworks.calibrate.leave_out import conformal
from tokenworks.calibrate.measured import Point
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.quantities import fitted, spread
from tokenworks.costs.arrays import Floats
from tokenworks.specs.calibration import Power, number

FREEDOM = 0.5
"""How far a share may lie from its prior, as a log-deviation [-]."""

NOISE, ROBUST = 0.1, 0.2
"""Log error that a measured power has by itself, and the one beyond which a point counts linearly [-]."""

TURNS, DAMPING = 60, 0.7
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
        unseen[own] = _errors(uses[own], drawn[own], _solve(uses[~own], drawn[~own], start))[0]
    inside = _errors(uses, drawn, found)[0]
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


def _errors(uses: Floats, drawn: Floats, logs: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Log error of each point, and whether it lies below the limit."""
    sums = uses @ np.exp(logs)
    return np.log(np.minimum(sums, 1.0) / drawn), sums < 1.0


def _solve(uses: Floats, drawn: Floats, start: Floats) -> Floats:
    """Gauss and Newton on the logs of the shares, which keeps them above zero; Huber weights, as `calibrate.fit`."""
    logs = start.copy()
    for _ in range(TURNS):
        error, free = _errors(uses, drawn, logs)
        slope = uses * np.exp(logs) / (uses @ np.exp(logs))[:, None] * free[:, None]
        weight = np.minimum(1.0, ROBUST / np.maximum(np.abs(error), 1e-12)) / NOISE**2
        bend = slope.T @ (weight[:, None] * slope) + np.eye(len(logs)) / FREEDOM**2
        logs = logs - DAMPING * np.linalg.solve(bend, slope.T @ (weight * error) + (logs - start) / FREEDOM**2)
    return logs


def _median(errors: Floats) -> float:
    return float(np.median(np.abs(np.expm1(errors))))
