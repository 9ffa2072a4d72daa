"""Fitted numbers for a calibration file: rounded, with their source and their prior."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tokenworks.calibrate.factors import ALL, Factor, each
from tokenworks.calibrate.leave_out import INTERVAL
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.provenance import Quantity

DIGITS = 3
"""Significant digits of a fitted number. Its uncertainty is larger than the rounding."""


def rounded(calibration: Calibration, factors: Sequence[Factor], source: str) -> Calibration:
    """The calibration with all fitted numbers rounded, each with its source.

    Parameters
    ----------
    calibration : the fitted calibration
    factors : the factors of the fit
    source : source of the fitted numbers
    """
    for field in dict.fromkeys(factor.field for factor in factors):  # several factors can change one number
        turning = [factor for factor in factors if factor.field == field]
        names = tuple(dict.fromkeys(name for factor in turning for name in factor.families))
        label = ALL if any(factor.label == ALL for factor in turning) else ""
        calibration = each(calibration, Factor(names, field, 0.0, label), partial(fitted, source=source))
    return calibration


def fitted(quantity: Quantity, source: str) -> Quantity:
    """A fitted number, rounded. The text of its prior becomes the note.

    Parameters
    ----------
    quantity : the number after the fit, with the text and the source of its prior
    source : source of the fitted number
    """
    value = float(f"{number(quantity):.{DIGITS}g}")
    written = f"{1e6 * value:.{DIGITS}g} us" if quantity.unit == "s" else f"{value:.{DIGITS}g}"
    return Quantity(
        value=value, status="derived", source=source, note=f"prior {quantity.written}: {quantity.source}",
        written=written, unit=quantity.unit,
    )  # fmt: skip


def spread(width: float, how: str) -> Quantity:
    """A spread for a calibration file.

    Parameters
    ----------
    width : half of the 80 % interval, as a factor [-]
    how : the points that it comes from
    """
    text = f"{width:g}"
    return Quantity(value=width, status="derived", source=f"{how}: {100 * INTERVAL:.0f} % within it", written=text)
