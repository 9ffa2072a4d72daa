"""How 80 % intervals grow where FLOP per byte and dtypes of a device are not measured: from pairs of measured devices.

A fit on the points of one device alone predicts each other device. A device of another family borrows the numbers of
the first, as devices without points do. Each pair gives an error that contains 80 % of the points without drafts, and
a ratio of FLOP per byte.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.calibrate.fit import LEAST_POINTS
from tokenworks.calibrate.leave_out import INTERVAL
from tokenworks.calibrate.unseen import Known, borrowing, predicted, throughputs
from tokenworks.specs.device import ComputeDtype
from tokenworks.specs.interval import PATHS, Distance, SpreadGrowth
from tokenworks.specs.provenance import Quantity

LEAST_PAIRS = 6
"""Smallest number of pairs of devices for a slope [count]."""


LEAST_SQUARE = 1e-3
"""Smallest sum of squares of ln of the ratios of FLOP per byte around their means: below, they do not differ [-]."""

METRICS = 2
"""TPOT, and throughput at equal speed per user [count]."""


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
    if len(known.silicon) < 2:
        return []
    return [pair for device in known.silicon for pair in _from(known, device)]


def _from(known: Known, device: str) -> Iterator[DevicePair]:
    """The pairs in which the fit has only the points of one device."""
    own, everyone = known.devices == device, known.devices != ""
    fitted = known.without(everyone & ~own)
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


def growth_of(known: Known, before: SpreadGrowth) -> SpreadGrowth:
    """The growth of intervals: its slope from pairs of devices, its factor of a dtype from points with new dtypes.

    Parameters
    ----------
    known : the points
    before : growth whose numbers stay where there are too few points
    """
    return with_dtype(with_slope(before, device_pairs_of(known)), known, new_paths(known))


def with_slope(before: SpreadGrowth, pairs: Sequence[DevicePair]) -> SpreadGrowth:
    """A growth with the slope of pairs of devices: least squares with one constant for each distance.

    A pair needs one ln f for TPOT and one for throughput at equal speed per user. Their mean is fitted, so that one
    slope holds for both. Pairs are few, and their FLOP per byte differ little, so the slope is uncertain. An interval
    that is too wide does less harm than one that is too narrow. So the slope is the estimate plus one standard error,
    and at least 0.

    Parameters
    ----------
    before : growth that stays as it is if there are too few pairs
    pairs : pairs of devices
    """
    parts: dict[Distance, list[tuple[float, float]]] = defaultdict(list)
    for pair in pairs:
        needed = [one for one in (pair.tpot, pair.throughput) if math.isfinite(one)]
        if len(needed) == METRICS:
            parts[pair.distance].append((pair.log_ratio, sum(needed) / METRICS))
    centred = [np.array(part) - np.mean(part, axis=0) for part in parts.values()]
    x, y = np.concatenate([np.zeros((0, 2)), *centred]).T
    free, square = len(x) - len(parts) - 1, float(x @ x)
    if len(x) < LEAST_PAIRS or free < 1 or square < LEAST_SQUARE:
        return before
    slope = float(x @ y) / square
    error = math.sqrt(float(np.sum((y - slope * x) ** 2)) / free / square)
    value = round(max(0.0, slope + error), 2)
    source = (
        f"{len(x)} pairs of devices, a fit on one and a prediction of the other, mean of TPOT and of throughput at "
        f"equal speed per user: {slope:.2f} with a standard error of {error:.2f}; the sum of both, at least 0"
    )
    quantity = Quantity(value=value, status="derived", source=source, written=f"{value:g}")
    reach = round(max(log_ratio for part in parts.values() for log_ratio, _ in part), 3)
    return before.model_copy(update={"slope": quantity, "reach": reach})


def with_dtype(before: SpreadGrowth, known: Known, errors: Mapping[ComputeDtype, Floats]) -> SpreadGrowth:
    """A growth with the factor of an FP4 or FP8 path that no measured device has.

    A fit on the devices without the path predicts the points of the devices that have it. The factor is what the
    points with weights of this dtype need more than other points of the same device: the mean over these devices.

    Parameters
    ----------
    before : growth that stays as it is without such points
    known : the points
    errors : |ln(predicted / measured)| of TPOT of each point by these fits, see `new_paths`; NaN for others [-]
    """
    more = []
    for dtype, all_errors in errors.items():
        of_dtype = np.array([point.weights == dtype for point in known.problem.points])
        for device in known.silicon:
            own = (known.devices == device) & np.isfinite(all_errors) & ~known.drafted
            new, others = all_errors[own & of_dtype], all_errors[own & ~of_dtype]
            if min(len(new), len(others)) >= LEAST_POINTS:
                more.append(_most(new) - _most(others))
    if not more:
        return before
    value = round(math.exp(max(0.0, float(np.mean(more)))), 2)
    source = (
        f"weights in {' and '.join(errors)} against other weights of the same device, by fits without such devices: "
        f"{len(more)} devices, ln of the factor {min(more):.2f} to {max(more):.2f}; their mean, at least 0"
    )
    factor = Quantity(value=value, status="derived", source=source, written=f"{value:g}")
    return before.model_copy(update={"dtype": factor})


def new_paths(known: Known) -> dict[ComputeDtype, Floats]:
    """|ln(predicted / measured)| of TPOT on devices with an FP4 or FP8 path, by a fit on the devices without it.

    Parameters
    ----------
    known : the points
    """
    errors: dict[ComputeDtype, Floats] = {}
    for dtype in PATHS:
        having = [name for name, silicon in known.silicon.items() if dtype in silicon.dtypes]
        if 0 < len(having) < len(known.silicon):
            mask = np.isin(known.devices, having)
            seconds = predicted(known.problem, known.without(mask), mask)
            errors[dtype] = np.abs(np.log(seconds / known.problem.measured))
    return errors
