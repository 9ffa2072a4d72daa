"""Intervals of ratios of two predictions. The errors of two predictions have a part in common, which cancels."""

from __future__ import annotations

import math
from typing import NamedTuple

from tokenworks.costs.ratio import ratio_width
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

    The ratio is low if `a` is low and `b` is high. So the width below the ratio follows from the width below `a` and
    the width above `b`, and the width above the ratio from the other two, see `costs.ratio.ratio_width`.

    Parameters
    ----------
    a, b : two deployments with output tokens per second and device, and their interval
    correlation : correlation of the log errors of two predictions, `Calibration.correlation`; 0 = independent [-]
    """
    (a_down, a_up), (b_down, b_up) = _log_widths(a), _log_widths(b)
    ratio = a.output_tok_s_per_device / b.output_tok_s_per_device
    down, up = ratio_width(a_down, b_up, correlation), ratio_width(a_up, b_down, correlation)
    return RatioInterval(ratio * math.exp(-down), ratio, ratio * math.exp(up))


def _log_widths(row: Ranked) -> tuple[float, float]:
    """Log widths of the interval of a throughput, below and above its value [-]."""
    low, high = row.interval[OUTPUT]
    value = row.output_tok_s_per_device
    return math.log(value / low), math.log(high / value)
