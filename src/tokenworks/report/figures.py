"""Numbers as text for a page: few digits, thousands separated."""

from __future__ import annotations

import math
from typing import Any

NOTHING = "-"
"""Text for a value that does not exist."""


def figure(value: float | None, digits: int = 4) -> str:
    """A number with a few significant digits.

    Parameters
    ----------
    value : the number; None: it does not exist
    digits : significant digits; the digits of the integer part are always shown [count]
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.{digits}g}"
    after = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{after}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def milliseconds(seconds: float | None, digits: int = 3) -> str:
    """A time [s] in milliseconds, without the unit."""
    return figure(None if seconds is None else 1e3 * seconds, digits)


def percent(share: float | None) -> str:
    """A share as a percentage."""
    return NOTHING if share is None else f"{figure(100 * share, 3)} %"


def text_of(value: Any) -> str:
    """Any value of a result as text: a number with few digits, other values as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NOTHING if value is None else str(value)
    return figure(float(value))
