"""The YAML file of ranked deployments: `plan` writes it, and every command that takes a deployment reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from tokenworks.errors import SpecError
from tokenworks.specs.calibration import DEFAULT, CalibrationLike
from tokenworks.specs.deployment import SCHEMA, Count, Deployment
from tokenworks.specs.files import is_there
from tokenworks.specs.given import Given
from tokenworks.specs.load import read_yaml, validate
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model
from tokenworks.specs.provenance import Spec
from tokenworks.specs.workload import Workload


class Entry(Spec):
    """One deployment of the file.

    Parameters
    ----------
    rank : position in the list, 1 is the best; None: the position in the file
    deployment : the deployment
    expected : predictions; `emit` writes them beside launch commands, no other program reads them
    """

    rank: Count | None = None
    deployment: Deployment
    expected: dict[str, Any] = Field(default_factory=dict)


class _Inputs(Spec):
    assumed: tuple[Given, ...] = ()


class _File(Spec):
    inputs: dict[str, Any] = Field(default_factory=dict)
    deployments: tuple[Entry, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment with the inputs of its plan.

    Parameters
    ----------
    deployment : model, machine, engine and roles
    given : numbers that the user set
    calibration : as `load_calibration` takes it
    workload : workload of the plan, with the SLO of the plan; None: unknown
    model, machine : the objects of the plan; None: the names in the deployment are loaded
    expected : predictions of the plan, by the names of a ranked deployment; empty: the file has none
    """

    deployment: Deployment
    given: tuple[Given, ...] = ()
    calibration: CalibrationLike = DEFAULT
    workload: Workload | None = None
    model: Model | None = None
    machine: Machine | None = None
    expected: Mapping[str, Any] = field(default_factory=dict)


def document(entries: Sequence[Entry], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file of deployments, as plain data."""
    return {
        "schema": SCHEMA,
        "inputs": dict(inputs),
        "deployments": [entry.model_dump(mode="json") for entry in entries],
    }


def load_deployments(source: str | Path | Mapping[str, Any] | Deployment) -> list[Deployed]:
    """All deployments of a file, best first.

    Parameters
    ----------
    source : a YAML file as `plan -o yaml` writes it; a file with the fields of one deployment; the content of such a
        file, as a dict; or a deployment

    Raises
    ------
    SpecError : the file cannot be read, or is not a file of deployments
    """
    if isinstance(source, Deployment):
        return [Deployed(source)]
    data, where = (dict(source), "deployment") if isinstance(source, Mapping) else (_content(source), str(source))
    if isinstance(data, dict) and "deployments" not in data and "schema" not in data:
        return [Deployed(validate(Deployment, data, where))]
    file = _checked(data, where)
    ranked = sorted(enumerate(file.deployments, 1), key=lambda pair: pair[1].rank or pair[0])
    assumed = validate(_Inputs, {"assumed": file.inputs.get("assumed") or []}, f"{where}: inputs").assumed
    assumed = tuple(
        item for item in assumed if item.area != "workload"
    )  # the recorded workload has its numbers already
    calibration, workload = file.inputs.get("calibration", DEFAULT), file.inputs.get("workload")
    if not isinstance(calibration, str):
        raise SpecError(
            f"{calibration!r} is not a name", where=f"{where}: inputs.calibration", hint="name a calibration"
        )
    if isinstance(workload, dict) and "slo" in file.inputs:
        workload = workload | {"slo": file.inputs["slo"]}  # the plan may have bound something else
    asked = None if workload is None else validate(Workload, workload, f"{where}: inputs.workload")
    return [Deployed(entry.deployment, assumed, calibration, asked, expected=entry.expected) for _, entry in ranked]


def pick_deployment(source: str | Path | Mapping[str, Any] | Deployment, pick: int = 1) -> Deployed:
    """One deployment of a file.

    Parameters
    ----------
    source : as `load_deployments` takes it
    pick : position in the list, 1 is the best
    """
    deployments = load_deployments(source)
    if not 1 <= pick <= len(deployments):
        where = str(source) if isinstance(source, (str, Path)) else "the deployments"
        raise SpecError(f"{pick} is out of range", where="--pick", hint=f"{where} holds 1 to {len(deployments)}")
    return deployments[pick - 1]


def _content(path: str | Path) -> Any:
    """The YAML of a file; `--why` takes FILE:N, so users write this in other commands, too."""
    name, _, number = str(path).rpartition(":")
    if number.isdecimal() and name and not is_there(path) and is_there(name):
        raise SpecError("no such file", where=str(path), hint=f"write {name} --pick {number}")
    return read_yaml(path)


def _checked(data: Any, where: str) -> _File:
    if not isinstance(data, dict):
        raise SpecError(
            "is not a mapping of keys to values",
            where=where,
            hint=f"write model, system and roles of a deployment, or a list of them after schema: {SCHEMA}",
        )
    schema = data.pop("schema", None)
    if schema != SCHEMA:
        hint = f"this version reads {SCHEMA}; write the file again with `tokenworks plan ... -o yaml`"
        raise SpecError(f"unknown schema {schema!r}", where=f"{where}: schema", hint=hint)
    return validate(_File, data, where)
