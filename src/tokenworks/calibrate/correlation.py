"""Correlation of the errors of two predicted throughputs: it makes the interval of a ratio of two devices narrower."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from tokenworks.calibrate.fit import LEAST_POINTS
from tokenworks.calibrate.frontier import AtSpeed, Comparable
from tokenworks.costs.ratio import ratio_width
from tokenworks.specs.calibration import Calibration, not_correlated
from tokenworks.specs.provenance import Quantity

LARGEST = 0.99
"""Largest correlation in a calibration file [-]. At 1, the ratio of two devices would have no interval."""


DevicePairs = Mapping[tuple[str, str], Sequence[tuple[AtSpeed, AtSpeed]]]
"""Names of two devices -> their throughputs at each workload and speed that both have."""


def device_pairs(throughputs: Sequence[AtSpeed]) -> DevicePairs:
    """Pairs of throughputs of two devices at the same workload and the same speed per user.

    Parameters
    ----------
    throughputs : measured and predicted throughputs; each device has one at each workload and speed
    """
    alike: dict[tuple[Comparable, float], list[AtSpeed]] = defaultdict(list)
    for one in throughputs:
        alike[one.workload, one.speed].append(one)
    pairs: dict[tuple[str, str], list[tuple[AtSpeed, AtSpeed]]] = defaultdict(list)
    for members in alike.values():
        for a, b in combinations(sorted(members, key=lambda one: one.device), 2):
            pairs[a.device, b.device].append((a, b))
    return dict(pairs)


def correlation_about_zero(pairs: DevicePairs) -> float:
    """Correlation of the log errors of two devices about zero. Each pair of devices has the same weight.

    Each pair of throughputs counts in both orders, so the result does not depend on which device is the first:

        rho = sum w e_a e_b / sqrt(sum w e_a^2 * sum w e_b^2) = sum w 2 e_a e_b / sum w (e_a^2 + e_b^2)
        w   = 1 / number of pairs of throughputs of the two devices

    The mean error is not subtracted, since an interval is centred at the prediction. An error that all devices share
    cancels in a ratio, and raises the correlation.

    Parameters
    ----------
    pairs : pairs of throughputs, see `device_pairs`

    Returns
    -------
    Correlation, from -1 to 1 [-]; 0 if all errors are zero.
    """
    product = square = 0.0
    for throughputs in pairs.values():
        first, second = np.array([(a.error, b.error) for a, b in throughputs]).T
        product += float(np.mean(2 * first * second))
        square += float(np.mean(first**2 + second**2))
    return product / square if square > 0 else 0.0


def ratio_coverage(pairs: DevicePairs, correlation: float) -> float:
    """Share of the measured ratios of two devices that the 80 % interval of the predicted ratio contains [-].

    Parameters
    ----------
    pairs : pairs of throughputs, see `device_pairs`
    correlation : correlation of the log errors of two devices [-]
    """
    inside = [
        abs(a.error - b.error) <= ratio_width(math.log(a.spread), math.log(b.spread), correlation)
        for throughputs in pairs.values()
        for a, b in throughputs
    ]
    return float(np.mean(inside))


def throughput_correlation(left_out: Sequence[AtSpeed], before: Calibration) -> Quantity:
    """The correlation of the errors of two predicted throughputs, as a number of a calibration file.

    Parameters
    ----------
    left_out : throughputs of devices, each predicted by a fit without the points of this device, with its spread
    before : calibration with the number that stays if there are fewer than `LEAST_POINTS` pairs of throughputs
    """
    pairs = device_pairs(left_out)
    count = sum(map(len, pairs.values()))
    if count < LEAST_POINTS:
        kept = before.throughput_correlation
        return not_correlated(f"{count} pairs of left-out devices are too few") if kept.value is None else kept
    measured = correlation_about_zero(pairs)
    text = f"{min(max(measured, 0.0), LARGEST):.2f}"
    source = (
        f"devices left out of the fit: {count} ratios at equal speed per user of {len(pairs)} pairs of devices, with "
        f"equal weights: {100 * ratio_coverage(pairs, float(text)):.0f} % within their 80 % interval"
    )
    if measured < 0:
        source += f"; measured {measured:.2f}, and a negative correlation counts as 0"
    return Quantity(value=float(text), status="derived", source=source, written=text)
