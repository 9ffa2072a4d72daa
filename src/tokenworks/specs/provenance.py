"""A number that knows where it came from, and the strict base of every spec that is read from a file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from tokenworks import units

Status = Literal[
    "published", "vendor-claim", "media", "analyst", "user-repo", "measured", "derived", "assumed", "unverified",
    "not-published",
]  # fmt: skip


class Spec(BaseModel):
    """Base of all specs: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantity(Spec):
    """A number in SI units with its provenance; a null is a null, never a zero.

    In a file: `{value: 2.0 TB/s, status: derived, source: "80 TB/s / 40"}`.
    """

    value: float | None
    status: Status
    source: str = ""
    note: str = ""

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


def _reads(unit: str) -> BeforeValidator:
    def read(raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("value"), (str, int, float)):
            return raw
        return {**raw, "value": units.parse(str(raw["value"]), unit)}

    return BeforeValidator(read)


Bytes = Annotated[Quantity, _reads("byte")]
ByteRate = Annotated[Quantity, _reads("byte/s")]
FlopRate = Annotated[Quantity, _reads("FLOP/s")]
Seconds = Annotated[Quantity, _reads("s")]
Watts = Annotated[Quantity, _reads("W")]
Kilograms = Annotated[Quantity, _reads("kg")]
Dollars = Annotated[Quantity, _reads("USD")]
Number = Annotated[Quantity, _reads("")]
