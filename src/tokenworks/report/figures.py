"""Values of a result as text for a page: numbers with few digits, and text without characters that nobody sees."""

from __future__ import annotations

import math
import re
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


_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, characters that change the direction of text, and characters that UTF-8 does not have."""


def visible(value: Any) -> Any:
    """A value with U+FFFD for each character that a reader cannot see. Texts in lists and dicts change too."""
    if isinstance(value, dict):
        return {visible(key): visible(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [visible(item) for item in value]
    return _UNSEEN.sub("\ufffd", value) if isinstance(value, str) else value
