"""Common parts of all results: the envelope of the plain form, and types for the JSON schemas."""

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

VERSIONS = {
    "plan": 3, "plan-why": 4, "calibrate": 3, "calibrate-intervals": 2, "estimate": 2, "simulate": 2, "compare": 2,
    "advise": 2,
}  # fmt: skip
"""Version of the plain form of each kind; kinds that are not listed have version 1."""

DIGITS = 9
"""Significant digits of floats in results, so that the same input gives the same bytes on every computer [count]."""

Plain = dict[str, Any]


class FormOf:
    """Tells schemas that plain data have the fields of a spec or a dataclass: `Annotated[Plain, FormOf(Deployment)]`.

    Parameters
    ----------
    of : the spec or dataclass
    more : additional keys of the plain form, and their types
    """

    def __init__(self, of: type, **more: Any) -> None:
        self.of, self.more = of, more

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not self.more:
            return handler.generate_schema(self.of)
        name = f"{self.of.__name__}Plain"
        return handler.generate_schema(TypedDict(name, {**get_type_hints(self.of), **self.more}))  # type: ignore[operator]


class Assumed(TypedDict):
    """An assumed number that a result depends on: path, value and reason."""

    path: str
    value: str
    why: str


class Inputs(TypedDict):
    """The inputs of a result. All kinds have the same keys; None: this kind has no such input.

    calibration : a name of the catalog, or the path of a file
    assumed : numbers that the user set
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
    """The inputs of a result as plain data.

    Parameters
    ----------
    given : numbers that the user set
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
    """The value of the key `schema` for a kind of result."""
    return f"tokenworks.{kind}/{VERSIONS.get(kind, 1)}"


def envelope(kind: str, body: Mapping[str, Any], wall: Mapping[str, float] | None = None) -> Plain:
    """The plain form of a result: `schema` and `kind`, then the body, whose first key is `inputs`, then `wall`.

    The data can be written as JSON: lists, dicts, text, numbers. A number that is not finite becomes None.

    Parameters
    ----------
    kind : kind of the result, such as plan
    body : the result
    wall : times of the run itself; only this key differs between two runs [s]
    """
    plain: Plain = rounded({"schema": schema_name(kind), "kind": kind, **body, "wall": dict(wall or {})})
    return plain


def rounded(value: Any) -> Any:
    """Plain data with floats of `DIGITS` digits, None for numbers that are not finite, and lists for tuples."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        return rounded(value.item())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
