"""Width of the interval of a ratio of two predictions, from their widths and the correlation of their errors."""

from __future__ import annotations

import math


def ratio_width(first: float, second: float, correlation: float) -> float:
    """Log width of a ratio of two predictions [-].

    The logarithm of a ratio is a difference. Its width follows as the standard deviation of a difference:

        w = sqrt(w_1^2 + w_2^2 - 2 rho w_1 w_2)

    Parameters
    ----------
    first, second : log widths of the intervals of both predictions, such as ln(high / value) [-]
    correlation : correlation rho of the log errors of both predictions; 0 = independent [-]

    References
    ----------
    [1] JCGM 100:2008 (GUM), equation 13: uncertainty of a function of correlated inputs.
    """
    return math.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second))
