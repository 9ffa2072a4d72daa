"""How 80 % intervals grow where FLOP per byte and dtypes of a device are not measured: from pairs of measured devices.

A fit on the points of one device alone predicts each other device. A device of another family borrows the numbers of
the first, as devices without points do. Each pair gives an error that contains 80 % of the points without drafts, and
a ratio of FLOP per byte.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.calibrate.leave_out import INTERVAL
from tokenworks.calibrate.unseen import Known, borrowing, predicted, throughputs
from tokenworks.specs.interval import Distance, IntervalLaw
from tokenworks.specs.provenance import Quantity

LEAST_PAIRS = 6
"""Smallest number of pairs of devices for a slope [count]."""


class DevicePair(NamedTuple):
    """One device, predicted by a fit on another one.

    Parameters
    ----------
    distance : how near the known device is
    log_ratio : |ln| of the ratio of the FLOP per byte of both devices [-]
    tpot, throughput : |ln(predicted / measured)| that contains 80 % of the points, and of the throughputs at equal
        speed per user; NaN without any [-]
    """

    distance: Distance
    log_ratio: float
    tpot: float
    throughput: float


def device_pairs_of(known: Known) -> list[DevicePair]:
    """All pairs of measured devices, in both directions.

    Parameters
    ----------
    known : the points
    """
    return [pair for device in known.silicon for pair in _from(known, device)]


def _from(known: Known, device: str) -> Iterator[DevicePair]:
    """The pairs in which the fit has only the points of one device."""
    own, everyone = known.devices == device, known.devices != ""
    fitted = known.without(everyone & ~own, f"all devices but {device}")
    family = known.silicon[device].family
    for other, silicon in known.silicon.items():
        if other == device:
            continue
        calibration = fitted if silicon.family == family else borrowing(fitted, silicon.family, family)
        seconds = predicted(known.problem, calibration, known.devices == other)
        if np.isfinite(seconds).any():
            reached = [one for one in throughputs(known.problem, seconds) if one.workload.mtp != "mtp"]
            errors = np.abs(np.log(seconds / known.problem.measured))[~known.drafted]
            yield DevicePair(
                calibration.nearness(known.machines[other]).distance,
                known.silicon[device].log_ratio(silicon),
                _most(errors[np.isfinite(errors)]),
                _most(np.array([abs(one.error) for one in reached])),
            )


def _most(errors: Floats) -> float:
    return float(np.quantile(errors, INTERVAL)) if len(errors) else math.nan


def with_slope(law: IntervalLaw, logs: Sequence[tuple[Distance, float, float]]) -> IntervalLaw:
    """A law with the slope of pairs of devices: least squares with one constant for each distance.

    Pairs are few, and their FLOP per byte differ little, so the slope is uncertain. An interval that is too wide does
    less harm than one that is too narrow. So the slope is the estimate plus one standard error, and at least 0.

    Parameters
    ----------
    law : the law; it stays as it is if there are too few pairs
    logs : distance, |ln| of the ratio of FLOP per byte, and needed ln f of each pair [-]
    """
    parts: dict[Distance, list[tuple[float, float]]] = defaultdict(list)
    for distance, log_ratio, needed in logs:
        if math.isfinite(needed):
            parts[distance].append((log_ratio, needed))
    centred = [np.array(part) - np.mean(part, axis=0) for part in parts.values()]
    x, y = np.concatenate([np.zeros((0, 2)), *centred]).T
    free, square = len(x) - len(parts) - 1, float(x @ x)
    if len(x) < LEAST_PAIRS or free < 1 or square == 0:
        return law
    slope = float(x @ y) / square
    error = math.sqrt(float(np.sum((y - slope * x) ** 2)) / free / square)
    value = round(max(0.0, slope + error), 2)
    source = (
        f"{len(x)} pairs of devices, one fitted and the other predicted: {slope:.2f} with a standard error of "
        f"{error:.2f}; the sum of both, at least 0"
    )
    quantity = Quantity(value=value, status="derived", source=source, written=f"{value:g}")
    reach = round(max(log_ratio for part in parts.values() for log_ratio, _ in part), 3)
    return law.model_copy(update={"slope": quantity, "reach": reach})
