"""Intervals of ratios of two predictions. The errors of two predictions have a part in common, which cancels."""

from __future__ import annotations

import math
from typing import NamedTuple

from tokenworks.planning.result import Ranked

OUTPUT = "output_tok_s_per_device"
"""Key of the interval of throughput in `Ranked.interval`."""


class RatioInterval(NamedTuple):
    """A predicted ratio with its 80 % interval.

    Parameters
    ----------
    low, high : ends of the interval [-]
    value : the predicted ratio [-]
    """

    low: float
    value: float
    high: float


def ratio_interval(a: Ranked, b: Ranked, correlation: float) -> RatioInterval:
    """The 80 % interval of the throughput of deployment `a` / the throughput of deployment `b`.

    The interval of each deployment becomes two log widths, l = ln(value / low) and h = ln(high / value). The ratio is
    low if `a` is low and `b` is high. The widths add as the standard deviations of two errors with the correlation rho:

        ln(ratio / low)  = sqrt(l_a^2 + h_b^2 - 2 rho l_a h_b)
        ln(high / ratio) = sqrt(h_a^2 + l_b^2 - 2 rho h_a l_b)

    Parameters
    ----------
    a, b : two deployments with output tokens per second and device, and their interval
    correlation : correlation of the log errors of two predictions, `Calibration.correlation`; 0 = independent [-]

    References
    ----------
    [1] JCGM 100:2008 (GUM), equation 13: uncertainty of a difference of correlated inputs, here of logarithms.
    """
    (a_down, a_up), (b_down, b_up) = _log_widths(a), _log_widths(b)
    ratio = a.output_tok_s_per_device / b.output_tok_s_per_device
    down, up = _combined(a_down, b_up, correlation), _combined(a_up, b_down, correlation)
    return RatioInterval(ratio * math.exp(-down), ratio, ratio * math.exp(up))


def _log_widths(row: Ranked) -> tuple[float, float]:
    """Log widths of the interval of a throughput, below and above its value [-]."""
    low, high = row.interval[OUTPUT]
    value = row.output_tok_s_per_device
    return math.log(value / low), math.log(high / value)


def _combined(first: float, second: float, correlation: float) -> float:
    """Standard deviation of the difference of two errors with these standard deviations and this correlation."""
    return math.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second))
