"""Correlation of the errors of two predicted throughputs: it makes the interval of a ratio of two devices narrower."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.calibrate.fit import LEAST_POINTS
from tokenworks.calibrate.frontier import AtSpeed, Comparable
from tokenworks.specs.calibration import Calibration, not_correlated
from tokenworks.specs.provenance import Quantity

LARGEST = 0.99
"""Largest correlation in a calibration file [-]. At 1, the ratio of two devices would have no interval."""


def error_pairs(throughputs: Sequence[AtSpeed]) -> dict[tuple[str, str], Floats]:
    """Log errors of two devices at the same workload and the same speed per user.

    Parameters
    ----------
    throughputs : measured and predicted throughputs; each device has one at each workload and speed

    Returns
    -------
    Names of two devices -> one row for each workload and speed that both have: log(predicted / measured) of the first
    and of the second device [-].
    """
    alike: dict[tuple[Comparable, float], list[AtSpeed]] = defaultdict(list)
    for one in throughputs:
        alike[one.workload, one.speed].append(one)
    rows: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for members in alike.values():
        for a, b in combinations(sorted(members, key=lambda one: one.device), 2):
            rows[a.device, b.device].append((a.error, b.error))
    return {devices: np.array(errors) for devices, errors in sorted(rows.items())}


def correlation_about_zero(pairs: Mapping[tuple[str, str], Floats]) -> float:
    """Correlation of the errors of two devices about zero. Each pair of devices has the same weight.

    Each row counts in both orders, so the result does not depend on which device is the first:

        rho = sum w e_a e_b / sqrt(sum w e_a^2 * sum w e_b^2) = sum w 2 e_a e_b / sum w (e_a^2 + e_b^2)
        w   = 1 / number of rows of the pair of devices

    The mean error is not subtracted, since an interval is centred at the prediction. An error that all devices share
    cancels in a ratio, and raises the correlation.

    Parameters
    ----------
    pairs : names of two devices -> rows of two log errors, see `error_pairs`

    Returns
    -------
    Correlation, from -1 to 1 [-]; 0 if all errors are zero.
    """
    product = sum(float(np.mean(2 * errors[:, 0] * errors[:, 1])) for errors in pairs.values())
    square = sum(float(np.mean(np.sum(errors**2, axis=1))) for errors in pairs.values())
    return product / square if square > 0 else 0.0


def throughput_correlation(left_out: Sequence[AtSpeed], before: Calibration) -> Quantity:
    """The correlation of the errors of two predicted throughputs, as a number of a calibration file.

    Parameters
    ----------
    left_out : throughputs of devices, each predicted by a fit without the points of this device
    before : calibration with the number that stays if there are fewer than `LEAST_POINTS` pairs of throughputs
    """
    pairs = error_pairs(left_out)
    rows = sum(map(len, pairs.values()))
    if rows < LEAST_POINTS:
        kept = before.throughput_correlation
        return not_correlated(f"{rows} pairs of left-out devices are too few") if kept.value is None else kept
    measured = correlation_about_zero(pairs)
    text = f"{min(max(measured, 0.0), LARGEST):.2f}"
    source = (
        f"devices left out of the fit: {rows} pairs of throughputs at equal speed per user, "
        f"{len(pairs)} pairs of devices with equal weights"
    )
    if measured < 0:
        source += f"; measured {measured:.2f}, and a negative one counts as 0"
    return Quantity(value=float(text), status="derived", source=source, written=text)
