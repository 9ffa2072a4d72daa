"""Fitted numbers as they go into a file: rounded, each with its source and with the prior that it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tokenworks.calibrate.factors import ALL, Factor, each
from tokenworks.calibrate.leave_out import INTERVAL
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.provenance import Quantity

DIGITS = 3
"""Digits of a fitted number: its prior interval is wider than the rest."""


def rounded(made: Calibration, factors: Sequence[Factor], source: str) -> Calibration:
    """Fitted numbers to three digits, each with its source."""
    for field in dict.fromkeys(factor.field for factor in factors):  # several factors may turn one number
        turning = [factor for factor in factors if factor.field == field]
        names = tuple(dict.fromkeys(name for factor in turning for name in factor.families))
        label = ALL if any(factor.label == ALL for factor in turning) else ""
        made = each(made, Factor(names, field, 0.0, label), partial(fitted, source=source))
    return made


def fitted(found: Quantity, source: str) -> Quantity:
    """A number that was turned, rounded. It still has the words of its prior, which become the note."""
    value = float(f"{number(found):.{DIGITS}g}")
    written = f"{1e6 * value:.{DIGITS}g} us" if found.unit == "s" else f"{value:.{DIGITS}g}"
    return Quantity(
        value=value, status="derived", source=source, note=f"prior {found.written}: {found.source}", written=written,
        unit=found.unit,
    )  # fmt: skip


def spread(width: float, how: str) -> Quantity:
    """Half of an 80 % interval as a factor, and what it was found on."""
    text = f"{width:g}"
    return Quantity(value=width, status="derived", source=f"{how}: {100 * INTERVAL:.0f} % within it", written=text)
