"""The YAML file of ranked deployments: `plan` writes it, and every command that takes a deployment reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tokenworks.errors import SpecError
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.deployment import SCHEMA, Count, Deployment
from tokenworks.specs.load import read_yaml, validate
from tokenworks.specs.provenance import Spec
from tokenworks.specs.workload import Workload


class Entry(Spec):
    """One deployment of the file; `expected` is what was predicted of it, for a reader, not for a program."""

    rank: Count
    deployment: Deployment
    expected: dict[str, Any] = Field(default_factory=dict)


class Given(Spec):
    """A number that was assumed when the file was made, as `--assume` takes it."""

    path: str
    value: str
    why: str = ""


class _Inputs(Spec):
    assumed: tuple[Given, ...] = ()


class _File(Spec):
    inputs: dict[str, Any] = Field(default_factory=dict)
    deployments: tuple[Entry, ...] = Field(min_length=1)


def document(entries: Sequence[Entry], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What such a file holds, as plain data."""
    return {
        "schema": SCHEMA,
        "inputs": dict(inputs),
        "deployments": [entry.model_dump(mode="json") for entry in entries],
    }


def load_deployments(path: str | Path) -> list[Deployment]:
    """The deployments of a file, best first.

    Raises
    ------
    SpecError : unreadable, not of this schema, or not a deployment; the message has file, path, value and way out
    """
    ranked = sorted(_read(path).deployments, key=lambda entry: entry.rank)
    return [entry.deployment for entry in ranked]


def load_assumed(path: str | Path) -> dict[str, str]:
    """What the file's predictions assumed of the machine, value by path, as `specs.compose.machine` takes it."""
    found = _read(path).inputs.get("assumed", [])
    return {item.path: item.value for item in validate(_Inputs, {"assumed": found}, f"{path}: inputs").assumed}


def load_calibration_of(path: str | Path) -> str:
    """Name or path of the calibration that the file's deployments were planned with."""
    found = _read(path).inputs.get("calibration", DEFAULT)
    if not isinstance(found, str):
        raise SpecError(f"{found!r} is no name", where=f"{path}: inputs.calibration", hint="name a calibration")
    return found


def load_workload_of(path: str | Path) -> Workload | None:
    """The workload that the file's deployments were planned for, if it says so."""
    found = _read(path).inputs.get("workload")
    return None if found is None else validate(Workload, found, f"{path}: inputs.workload")


def _read(path: str | Path) -> _File:
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise SpecError(
            "is not a mapping of keys to values", where=str(path), hint=f"its first line is schema: {SCHEMA}"
        )
    found = data.pop("schema", None)
    if found != SCHEMA:
        hint = f"this version reads {SCHEMA}; write the file again with `tokenworks plan ... -o yaml`"
        raise SpecError(f"{found!r} is not a schema that is read here", where=f"{path}: schema", hint=hint)
    return validate(_File, data, str(path))


def pick_deployment(path: str | Path, pick: int = 1) -> Deployment:
    """One deployment of a file: the best, or the `pick`-th."""
    deployments = load_deployments(path)
    if not 1 <= pick <= len(deployments):
        raise SpecError(f"{pick} is out of range", where="--pick", hint=f"{path} holds 1 to {len(deployments)}")
    return deployments[pick - 1]
