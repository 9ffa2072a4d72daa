"""Numbers with their source (`Quantity`), and the strict base class of all specs (`Spec`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tokenworks import units
from tokenworks.errors import SpecError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

Status = Literal[
    "published", "vendor-claim", "media", "analyst", "user-repo", "measured", "derived", "assumed", "unverified",
    "not-published",
]  # fmt: skip


GIVEN = "given by the user"
"""Source of a number that a file or a dict gives without a source."""


class _SpecErrors(ModelMetaclass):
    """Turns pydantic errors into `SpecError`: `Workload(isl=0)` in Python fails with the same error as in a file."""

    def __call__(cls, *arguments: Any, **fields: Any) -> Any:  # noqa: N805 - it is a class
        try:
            return super().__call__(*arguments, **fields)
        except ValidationError as error:
            from tokenworks.specs.load import explained

            raise explained(cls, error, cls.__name__) from None


class Spec(BaseModel, metaclass=_SpecErrors):
    """Base class of all specs. Specs are frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantity(Spec):
    """A number in SI units with its source. Null means "not published", never zero.

    In a file: `{value: 2.0 TB/s, status: derived, source: "80 TB/s / 40"}`. A plain `2.0 TB/s` is short for a number
    with the status `assumed` and the source "given by the user"; a plain `null` is a number that is not published.
    `written` and `unit` are not in the file: they keep the value as its author wrote it, and the SI unit of `value`.
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
        """True if every output that uses the number must list it as assumed."""
        return self.status in ("assumed", "unverified")


def not_published(unit: str) -> Quantity:
    """A number that is not published, such as a number that a file leaves out.

    Parameters
    ----------
    unit : SI unit of the number
    """
    return Quantity(value=None, status="not-published", unit=unit)


def file_form(value: Any) -> Any:
    """A spec, or a part of a spec, as the plain data of its file.

    Fields with their default value are left out. Validation of the plain data gives an equal spec.
    """
    if isinstance(value, Quantity):
        written = value.written or (None if value.value is None else f"{value.value!r} {value.unit}".strip())
        words = {"source": value.source, "note": value.note}
        return {"value": written, "status": value.status} | {key: text for key, text in words.items() if text}
    if isinstance(value, Spec):
        fields = type(value).model_fields
        return {
            name: file_form(item)
            for name, item in value
            if fields[name].is_required() or item != fields[name].get_default(call_default_factory=True)
        }
    if isinstance(value, dict):
        return {key: file_form(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [file_form(item) for item in value]
    return value


class Fact(Spec):
    """Information that no formula uses: a launch date, the kind of cooling, a total that the vendor prints."""

    value: Annotated[str, Field(coerce_numbers_to_str=True)]
    status: Status
    source: str
    note: str = ""


_PRIOR = re.compile(r"(prior [^:]+: )(.+)", re.DOTALL)
"""A note of a fitted number: the value and the source of the number that the fit started from."""


def with_sources(data: Any, change: Callable[[str], str]) -> Any:
    """Plain data with every source changed: in the `source` of each number, and in its `note` the source of the prior.

    Parameters
    ----------
    data : content of a file
    change : takes a source, and returns the new source
    """
    if not isinstance(data, dict):
        return data
    changed = {}
    for key, value in data.items():
        if key == "source" and isinstance(value, str):
            changed[key] = change(value)
        elif key == "note" and isinstance(value, str) and (match := _PRIOR.fullmatch(value)):
            changed[key] = match[1] + change(match[2])
        else:
            changed[key] = with_sources(value, change)
    return changed


@dataclass(frozen=True, slots=True)
class Unit:
    """Marks the type of a number in a file with its SI unit."""

    name: str


def _reads(unit: str) -> BeforeValidator:
    def read(raw: Any) -> Any:
        if raw is None:
            return not_published(unit)
        if isinstance(raw, (str, int, float)) and not isinstance(raw, bool):
            raw = {"value": raw, "status": "assumed", "source": GIVEN}
        if not isinstance(raw, dict):
            return raw
        if clash := {"written", "unit"} & raw.keys():
            raise ValueError(f"unknown key {min(clash)!r}")
        value = raw.get("value")
        if value is None:
            return {**raw, "unit": unit}
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"{value!r} is not a number with a unit")
        try:
            return {**raw, "value": units.parse(str(value), unit), "written": str(value), "unit": unit}
        except SpecError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(read)


Bytes = Annotated[Quantity, Unit("byte"), _reads("byte")]
ByteRate = Annotated[Quantity, Unit("byte/s"), _reads("byte/s")]
FlopRate = Annotated[Quantity, Unit("FLOP/s"), _reads("FLOP/s")]
Seconds = Annotated[Quantity, Unit("s"), _reads("s")]
Watts = Annotated[Quantity, Unit("W"), _reads("W")]
Kilograms = Annotated[Quantity, Unit("kg"), _reads("kg")]
Dollars = Annotated[Quantity, Unit("USD"), _reads("USD")]
Number = Annotated[Quantity, Unit(""), _reads("")]
