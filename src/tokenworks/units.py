"""Unit strings to SI floats, at the boundary only: "3.35 TB/s" -> 3.35e12. Nothing else knows units."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from tokenworks.errors import SpecError

if TYPE_CHECKING:
    import pint

# What each dimension is called when a user gets it wrong, and an example of it done right.
KINDS = {
    "byte": ("a size", "80 GB"),
    "byte/s": ("a rate", "3.35 TB/s"),
    "FLOP/s": ("a compute rate", "989 TFLOP/s"),
    "s": ("a time", "2.5 us"),
    "W": ("a power", "700 W"),
    "kg": ("a mass", "450 kg"),
    "USD": ("a price", "30000 USD"),
    "": ("a plain number", "0.9"),
}


@functools.cache
def registry() -> pint.UnitRegistry[Any]:
    """The one pint registry, with the field's own units; built on first use (0.1 s)."""
    import pint

    units: pint.UnitRegistry[Any] = pint.UnitRegistry(cache_folder=None)
    for line in ("FLOP = [flop] = OP", "USD = [money]", "token = [token]"):
        units.define(line)
    return units


def parse(text: str, unit: str, *, where: str = "") -> float:
    """Read a number with its unit as an SI float.

    Parameters
    ----------
    text : such as "448 GB/s"; prefixes are decimal (GB) or binary (GiB)
    unit : the SI unit wanted, one of `KINDS`
    where : file and path, for the message

    Raises
    ------
    SpecError : no number, an unknown unit, the wrong kind of unit, negative, or not finite
    """
    kind, example = KINDS[unit]
    return _parse(text, unit, kind, example, where)


@functools.cache
def _parse(text: str, unit: str, kind: str, example: str, where: str) -> float:
    import pint

    try:
        quantity: pint.Quantity[float] = registry().Quantity(text)
    except Exception as error:  # pint raises tokenizer, name and zero-division errors of many types
        raise SpecError(f"cannot read {text!r} as {kind}", where=where, hint=f'write it like "{example}"') from error
    try:
        value = float(quantity.to(unit or "dimensionless").magnitude)
    except (pint.DimensionalityError, pint.OffsetUnitCalculusError):
        found = next((k for u, (k, _) in KINDS.items() if quantity.check(u or "dimensionless")), "another kind of unit")
        hint = f'write "{text}/s"' if unit == "byte/s" and quantity.check("byte") else f'write it like "{example}"'
        raise SpecError(f"{text!r} is {found}, not {kind}", where=where, hint=hint) from None
    if not math.isfinite(value) or value < 0:
        raise SpecError(f"{text!r} must be finite and not negative", where=where)
    return value
