"""A number that knows where it came from, and the strict base of every spec that is read from a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tokenworks import units
from tokenworks.errors import SpecError

Status = Literal[
    "published", "vendor-claim", "media", "analyst", "user-repo", "measured", "derived", "assumed", "unverified",
    "not-published",
]  # fmt: skip


class Spec(BaseModel):
    """Base of all specs: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantity(Spec):
    """A number in SI units with its provenance; a null is a null, never a zero.

    In a file: `{value: 2.0 TB/s, status: derived, source: "80 TB/s / 40"}`. `written` and `unit` are not in the
    file: they keep the value as its author wrote it, and the SI unit of `value`.
    """

    value: float | None
    status: Status
    source: str = ""
    note: str = ""
    written: str = ""
    unit: str = ""

    @model_validator(mode="after")
    def _honest(self) -> Quantity:
        if (self.value is None) != (self.status == "not-published"):
            raise ValueError("value null goes with status not-published, and only with it")
        if self.value is not None and not self.source:
            raise ValueError("a number needs a source")
        return self

    @property
    def assumed(self) -> bool:
        """True where an output that uses the number must name it."""
        return self.status in ("assumed", "unverified")


def not_published(unit: str) -> Quantity:
    """What a file may leave out because no prediction needs it."""
    return Quantity(value=None, status="not-published", unit=unit)


class Fact(Spec):
    """Something that is told, not computed with: a launch date, a cooling, a box total as its vendor prints it."""

    value: Annotated[str, Field(coerce_numbers_to_str=True)]
    status: Status
    source: str
    note: str = ""


_PRIOR = re.compile(r"(prior [^:]+: )(.+)", re.DOTALL)
"""A note of a fitted number: the value and the source of the number that the fit started from."""


def with_sources(data: Any, change: Callable[[str], str]) -> Any:
    """Plain data with every source changed: the `source` of each number, and that of its prior in the `note`."""
    if not isinstance(data, dict):
        return data
    made = {}
    for key, value in data.items():
        if key == "source" and isinstance(value, str):
            made[key] = change(value)
        elif key == "note" and isinstance(value, str) and (found := _PRIOR.fullmatch(value)):
            made[key] = found[1] + change(found[2])
        else:
            made[key] = with_sources(value, change)
    return made


def _reads(unit: str) -> BeforeValidator:
    def read(raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        if clash := {"written", "unit"} & raw.keys():
            raise ValueError(f"unknown key {min(clash)!r}")
        value = raw.get("value")
        if value is None:
            return {**raw, "unit": unit}
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"{value!r} is no number with a unit")
        try:
            return {**raw, "value": units.parse(str(value), unit), "written": str(value), "unit": unit}
        except SpecError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(read)


Bytes = Annotated[Quantity, _reads("byte")]
ByteRate = Annotated[Quantity, _reads("byte/s")]
FlopRate = Annotated[Quantity, _reads("FLOP/s")]
Seconds = Annotated[Quantity, _reads("s")]
Watts = Annotated[Quantity, _reads("W")]
Kilograms = Annotated[Quantity, _reads("kg")]
Dollars = Annotated[Quantity, _reads("USD")]
Number = Annotated[Quantity, _reads("")]
