"""Texts with units become SI floats: "3.35 TB/s" -> 3.35e12. No other module converts units."""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING, Any

from tokenworks.errors import SpecError

if TYPE_CHECKING:
    import pint

# Name of each unit in messages, and an example of a correct value.
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

# Larger values are typing errors, and would overflow in computations.
_MOST, _LONGEST = 1e24, 1e6  # any value in SI units; a time [s]

# Only these units exist: a byte is not a plain number, and "5 GHz" is not a rate.
_DEFINITIONS = """
    nano- = 1e-9 = n-; micro- = 1e-6 = u- = µ-; milli- = 1e-3 = m-
    kilo- = 1e3 = k-; mega- = 1e6 = M-; giga- = 1e9 = G-; tera- = 1e12 = T-; peta- = 1e15 = P-; exa- = 1e18 = E-
    kibi- = 1024 = Ki-; mebi- = 1024**2 = Mi-; gibi- = 1024**3 = Gi-; tebi- = 1024**4 = Ti-
    byte = [data] = B; bit = byte / 8 = b
    second = [time] = s; minute = 60 s = min; hour = 60 min = h; day = 24 h
    watt = [power] = W; gram = [mass] = g; USD = [money]; token = [token]; FLOP = [flop] = OP
"""
_NUMBER = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+|inf|nan)(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ/ ]*)")


@functools.cache
def registry() -> pint.UnitRegistry[Any]:
    """The one pint registry, built on first use."""
    import pint

    units: pint.UnitRegistry[Any] = pint.UnitRegistry(None, cache_folder=None)
    for line in re.split(r"[;\n]", _DEFINITIONS):
        if line.strip():
            units.define(line.strip())
    return units


def parse(text: str, unit: str, *, where: str = "", example: str = "") -> float:
    """Read a number with its unit as an SI float.

    Parameters
    ----------
    text : such as "448 GB/s"; prefixes are decimal (GB) or binary (GiB); b is a bit, B a byte
    unit : SI unit of the result, one of `KINDS`
    where : file and path, for the message
    example : a correct value, for the message; empty: the example of the unit in `KINDS`

    Raises
    ------
    SpecError : no number, an unknown unit, the wrong kind of unit, or a number that is negative or not finite
    """
    kind, usual = KINDS[unit]
    example = example or usual
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise SpecError(f'cannot read "{text}" as {kind}', where=where, hint=f'write it like "{example}"')
    number, written = float(match[1]), match[2].strip()
    factor, actual = _factor(written, unit)
    if factor is None:
        hint = f'write "{text}/s"' if (actual, unit) == ("a size", "byte/s") else f'write it like "{example}"'
        raise SpecError(f'"{text}" is {actual}, not {kind}', where=where, hint=hint)
    value = number * factor
    if not math.isfinite(value) or value < 0:
        raise SpecError(f'"{text}" must be finite and not negative', where=where)
    most = _LONGEST if unit == "s" else _MOST
    if value > most:
        raise SpecError(f'"{text}" is too large: at most {most:.0e} {unit}'.rstrip(), where=where)
    return value


@functools.cache
def _factor(written: str, unit: str) -> tuple[float | None, str]:
    """One `written` unit in the SI unit; or None, and the kind of unit that `written` is."""
    import pint

    try:
        one: pint.Quantity[float] = registry().Quantity(1.0, written or "dimensionless")
    except Exception:  # pint raises tokenizer, syntax, name and zero-division errors of many types
        return None, f'in an unknown unit ("{written}")'
    try:
        return float(one.to(unit or "dimensionless").magnitude), ""
    except pint.DimensionalityError:
        kinds = (kind for known, (kind, _) in KINDS.items() if one.is_compatible_with(known or "dimensionless"))
        return None, next(kinds, f'in another kind of unit ("{written}")')
