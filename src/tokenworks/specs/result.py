"""What every result has in common: the envelope of its plain form, and how the type of a plain form is written down."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema
from typing_extensions import TypedDict, get_type_hints

from tokenworks.specs.given import Given
from tokenworks.specs.machine import Assumption
from tokenworks.specs.workload import Workload

VERSIONS = {"plan": 2, "plan-why": 3}
"""Version of the form of each kind; 1 where it is not listed."""

DIGITS = 9
"""Floats are written to so many significant digits, so that the same input gives the same bytes on any machine."""

Plain = dict[str, Any]


class FormOf:
    """Marks plain data that has the form of a spec or a dataclass, `Annotated[Plain, FormOf(Deployment)]`, for schemas.

    Parameters
    ----------
    of : the spec or dataclass
    more : keys that the plain form has beside those of a dataclass, and their types
    """

    def __init__(self, of: type, **more: Any) -> None:
        self.of, self.more = of, more

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not self.more:
            return handler.generate_schema(self.of)
        name = f"{self.of.__name__}Plain"
        return handler.generate_schema(TypedDict(name, {**get_type_hints(self.of), **self.more}))  # type: ignore[operator]


class Assumed(TypedDict):
    """A number that a result rests on and that nobody published: where it stands, the number, and why."""

    path: str
    value: str
    why: str


class Inputs(TypedDict):
    """What a result was made for, the same keys for every kind; None where its kind has no such thing.

    calibration : a name of the catalog, or the path of a file
    assumed : numbers that the user put in place of those of the catalog
    """

    model: str | None
    machine: str | None
    workload: Annotated[Plain, FormOf(Workload)] | None
    slo: str | None
    engine: str | None
    calibration: str | None
    assumed: list[Assumed] | None


def inputs(
    *,
    model: str | None = None,
    machine: str | None = None,
    workload: Workload | None = None,
    slo: str | None = None,
    engine: str | None = None,
    calibration: str | None = None,
    given: Iterable[Given] | None = None,
) -> Inputs:
    """The inputs of a kind; what the kind does not have is left out.

    Parameters
    ----------
    given : numbers that the user put in place of those of the catalog
    """
    return {
        "model": model,
        "machine": machine,
        "workload": None if workload is None else workload.model_dump(mode="json"),
        "slo": slo,
        "engine": engine,
        "calibration": calibration,
        "assumed": None
        if given is None
        else [{"path": item.path, "value": item.value, "why": item.why} for item in given],
    }


def assumed_plain(items: Iterable[Assumption]) -> list[Assumed]:
    """Assumed numbers as plain data."""
    return [{"path": item.path, "value": item.value, "why": item.why} for item in items]


def schema_name(kind: str) -> str:
    """What `schema` says in a result of a kind."""
    return f"tokenworks.{kind}/{VERSIONS.get(kind, 1)}"


def envelope(kind: str, body: Mapping[str, Any], wall: Mapping[str, float] | None = None) -> Plain:
    """The plain form of a result: `schema` and `kind`, then the body, whose first key is `inputs`, then `wall`.

    All of it is ready to be written as JSON: lists, dicts, words, numbers; what is not a finite number is None.

    Parameters
    ----------
    wall : timings of the run itself, the only key in which two runs differ [s]
    """
    plain: Plain = rounded({"schema": schema_name(kind), "kind": kind, **body, "wall": dict(wall or {})})
    return plain


def rounded(value: Any) -> Any:
    """Plain data with floats of `DIGITS` digits, None for what is not finite, lists for tuples and arrays."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        return rounded(value.item())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
