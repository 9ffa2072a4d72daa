"""A schedule of faults: which part of a machine fails, when, and for how long."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator, model_validator

from tokenworks import units
from tokenworks.errors import SpecError
from tokenworks.specs import load
from tokenworks.specs.machine import Machine
from tokenworks.specs.parts import KINDS, MachinePart, part_counts, parts_of
from tokenworks.specs.provenance import Seconds, Spec

MOST_FAULTS = 10_000
INSTANCE = "instance"
"""Kind of a part that is no hardware: the processes of one instance of the deployment."""
NETWORK = ("nic", "link", "lane", "optic", "switch")
"""Kinds of parts that carry bandwidth."""

TimeName = Literal["detect", "shrink", "start", "reset", "repair"]
TIMES: tuple[TimeName, ...] = get_args(TimeName)


def _time(raw: Any) -> Any:
    """A time in seconds, from a text such as "10 min"."""
    if not isinstance(raw, str):
        raise ValueError(f'{raw!r} is not a time with a unit: write it like "10 min"')
    try:
        return units.parse(raw, "s")
    except SpecError as error:
        raise ValueError(str(error)) from None


def time_text(seconds: float) -> str:
    """A time as a schedule writes it, exact to a millisecond.

    Parameters
    ----------
    seconds : the time [s]
    """
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + " s"


_Text = PlainSerializer(time_text, return_type=str)
_At = Annotated[float, BeforeValidator(_time), Field(ge=0, le=1e9), _Text]
_For = Annotated[float, BeforeValidator(_time), Field(gt=0, le=1e9), _Text]


class Fault(Spec):
    """One fault of one part.

    Parameters
    ----------
    at : time of the fault on the clock of the run [s]
    part : kind and number of the part, such as `device 7`, `host 2`, `switch 1`; `instance 0` is the software of one
        instance of the deployment
    lasts : time until the part works again; `for` in a file. None: `reset` or `repair` of the failure rates [s]
    permanent : whether the part must be replaced. False: it works again after a reset
    drained : whether operators took the part out on purpose: it is noticed at once
    crash : whether a fault of the network ends the processes of the instances that lose bandwidth. None: as the
        failure rates say
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    at: _At
    part: str
    lasts: _For | None = Field(default=None, alias="for")
    permanent: bool = False
    drained: bool = False
    crash: bool | None = None

    @model_validator(mode="after")
    def _names_a_part(self) -> Fault:
        if not _PART.fullmatch(self.part):
            raise ValueError(
                f"part {self.part!r} is not a kind and a number: write `device 7`; kinds are "
                f"{', '.join(KINDS)} and {INSTANCE}"
            )
        if self.kind in (INSTANCE, "software") and (self.lasts is not None or self.permanent):
            word = "permanent" if self.lasts is None else "for"
            raise ValueError(f"{self.part} starts again at once: leave {word} out")
        if self.crash is not None and self.kind not in NETWORK:
            raise ValueError(f"crash: {self.part} is no part of a network: leave crash out")
        return self

    @property
    def kind(self) -> str:
        """Kind of the part."""
        return self.part.split()[0]

    @property
    def number(self) -> int:
        """Number of the part among the parts of its kind."""
        return int(self.part.split()[1])


_PART = re.compile(rf"({'|'.join(KINDS)}|{INSTANCE}) [0-9]{{1,6}}")


class FaultSchedule(Spec):
    """Faults of a run, in any order.

    Parameters
    ----------
    faults : the faults
    times : times that replace those of the failure rates: `detect`, `shrink` and `start` of the recovery, `reset` and
        `repair` of all parts
    """

    faults: Annotated[tuple[Fault, ...], Field(max_length=MOST_FAULTS)]
    times: dict[TimeName, Seconds] = Field(default_factory=dict)

    @field_validator("faults")
    @classmethod
    def _some_faults(cls, faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
        if not faults:
            raise ValueError("the list is empty: name a fault, or run without a schedule")
        return faults

    @model_validator(mode="after")
    def _times_are_known(self) -> FaultSchedule:
        for name, quantity in self.times.items():
            if quantity.value is None or not 0 <= quantity.value <= 1e9:
                raise ValueError(f"times.{name}: {quantity.written or 'null'} is not a time of 0 or more")
            if quantity.value == 0 and name in ("reset", "repair"):
                raise ValueError(f"times.{name}: 0 s: a fault lasts longer than 0 s")
        return self

    def sorted_faults(self) -> tuple[Fault, ...]:
        """The faults in the order of time."""
        return tuple(sorted(self.faults, key=lambda fault: fault.at))

    def written(self) -> dict[str, Any]:
        """The content of a file of this schedule, in the order of time."""
        faults = [fault.model_dump(mode="json", by_alias=True, exclude_defaults=True) for fault in self.sorted_faults()]
        times = {name: quantity.written for name, quantity in self.times.items()}
        return {"faults": faults} | ({"times": times} if times else {})


FaultsLike = str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]] | FaultSchedule
"""Every form of a schedule: a YAML file, the content of such a file, a list of faults, or a `FaultSchedule`."""


def load_faults(faults: FaultsLike) -> FaultSchedule:
    """Read a schedule of faults.

    Parameters
    ----------
    faults : a YAML file, the content of such a file, a list of faults, or a `FaultSchedule`, which is returned as it is

    Raises
    ------
    SpecError : the file cannot be read, or is not a schedule of faults
    """
    if isinstance(faults, FaultSchedule):
        return faults
    if isinstance(faults, (str, Path)):
        data, where = load.read_yaml(faults), str(faults)
    else:
        data, where = faults, "faults"
    if isinstance(data, Sequence) and not isinstance(data, str):
        data = {"faults": list(data)}
    if not isinstance(data, Mapping):
        raise SpecError("is not a list of faults", where=where, hint="write faults: [{at: 10 min, part: device 7}]")
    return load.validate(FaultSchedule, dict(data), where)


def parts_that_fail(schedule: FaultSchedule, machine: Machine, instances: int) -> list[MachinePart | None]:
    """The part of each fault, in the order of `FaultSchedule.sorted_faults`; None: the software of an instance.

    Parameters
    ----------
    schedule : the faults
    machine : the machine with the parts
    instances : instances of the deployment [count]

    Raises
    ------
    SpecError : the machine has no such part, or the deployment has no such instance
    """
    parts = parts_of(machine)
    by_name, counts = {part.name: part for part in parts}, part_counts(parts)
    failing: list[MachinePart | None] = []
    for fault in schedule.sorted_faults():
        where = f"faults: {fault.part} at {time_text(fault.at)}"
        if fault.kind == INSTANCE:
            if fault.number >= instances:
                raise SpecError("the deployment has no such instance", where=where,
                                hint=_range(INSTANCE, instances))  # fmt: skip
            failing.append(None)
            continue
        count = counts.get(fault.kind, 0)  # type: ignore[call-overload]
        name = f"{fault.kind} {fault.number}"
        if name not in by_name:
            kinds = ", ".join(f"{number} x {kind}" for kind, number in counts.items())
            raise SpecError(f"{machine.name} has no such part: {kinds}", where=where,
                            hint=_range(fault.kind, count) if count else "name another part")  # fmt: skip
        failing.append(by_name[name])
    return failing


def _range(kind: str, count: int) -> str:
    """The names of all parts of a kind, for a message."""
    return f"write {kind} 0" if count == 1 else f"write {kind} 0 to {kind} {count - 1}"
