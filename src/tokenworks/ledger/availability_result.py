"""The result of `availability`: typed, and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

from typing_extensions import TypedDict

from tokenworks.ledger.availability_sensitivity import Interaction, Swing
from tokenworks.specs.machine import Assumption, Machine
from tokenworks.specs.parts import PartKind
from tokenworks.specs.reliability import Reliability
from tokenworks.specs.result import Assumed, FormOf, Inputs, Plain, assumed_plain, envelope
from tokenworks.specs.shown import Record, Shown, flat


@dataclass(frozen=True, slots=True)
class AvailabilityFigure:
    """An availability from random histories.

    Parameters
    ----------
    availability : mean share of the time [-]
    downtime_s : mean time of a year that is lost [s]
    interval_s : the same in the best and the worst tenth of the histories [s]
    error_s : standard error of the mean [s]
    closed_form_s : the same from the closed form [s]
    kept : share of the histories that keep the promise [-]
    """

    availability: float
    downtime_s: float
    interval_s: tuple[float, float]
    error_s: float
    closed_form_s: float
    kept: float


@dataclass(frozen=True, slots=True)
class StateRow:
    """A state of the deployment that loses capacity.

    Parameters
    ----------
    state : the state in words
    capacity : capacity / full capacity [-]
    time : share of the time [-]
    """

    state: str
    capacity: float
    time: float


@dataclass(frozen=True, slots=True)
class DeploymentFigures:
    """Availability of a deployment.

    Parameters
    ----------
    label : the deployment in words
    elastic : whether an instance goes on without failed ranks
    spares : spare devices [count]
    serves : time in which all roles serve
    capacity : time weighted with the capacity that is left
    effective_tok_s : effective tokens per second of the whole deployment [token/s]
    lost_tokens : effective tokens lost in a year at the highest load within the SLO [token]
    states : states that lose the most capacity
    simulated : conditions of instances that were simulated [count]
    """

    label: str
    elastic: bool
    spares: int
    serves: AvailabilityFigure
    capacity: AvailabilityFigure
    effective_tok_s: float
    lost_tokens: float
    states: tuple[StateRow, ...]
    simulated: int


@dataclass(frozen=True, slots=True)
class CauseRow:
    """What parts of one kind take.

    Parameters
    ----------
    kind : kind of the parts
    parts : parts of this kind [count]
    failures_per_year : failures in the histories [1/year]
    downtime_s : time of a year that these parts take in the histories; None without a deployment [s]
    closed_s : the same from the closed form [s]
    """

    kind: PartKind
    parts: int
    failures_per_year: float
    downtime_s: float | None
    closed_s: float


@dataclass(frozen=True, slots=True)
class Promise:
    """What a promised availability needs, from the closed form.

    Parameters
    ----------
    promise : promised availability [%]
    budget_s : time of a year that the promise allows [s]
    failures_per_year : failures that stop the service, or that break a part of the machine [1/year]
    mean_s : mean time that such a failure takes [s]
    mean_needed_s : mean time that the promise allows; None: nothing fails [s]
    repair_s : repair time of the file [s]
    repair_needed_s : longest repair time that keeps the promise, at most ten times `repair_s`; None: even repairs in no
        time do not keep it [s]
    without_repair_s : time of a year that is lost with repairs in no time [s]
    """

    promise: float
    budget_s: float
    failures_per_year: float
    mean_s: float
    mean_needed_s: float | None
    repair_s: float
    repair_needed_s: float | None
    without_repair_s: float


class AvailabilityBody(TypedDict):
    """The plain form of `availability`.

    reliability : name of the failure rates
    seeds : histories; partial: the user stopped the command before all histories
    whole, usable_devices : every part of the machine works; mean share of the devices that can be used
    """

    inputs: Inputs
    reliability: str
    years: float
    seeds: int
    partial: bool
    devices: int
    parts: dict[str, int]
    whole: Annotated[Plain, FormOf(AvailabilityFigure)]
    usable_devices: Annotated[Plain, FormOf(AvailabilityFigure)]
    deployment: Annotated[Plain, FormOf(DeploymentFigures)] | None
    causes: list[Annotated[Plain, FormOf(CauseRow)]]
    promise: Annotated[Plain, FormOf(Promise)]
    sensitivity: list[Annotated[Plain, FormOf(Swing)]]
    interactions: list[Annotated[Plain, FormOf(Interaction)]]
    notes: list[str]
    assumed: list[Assumed]


@dataclass(frozen=True, repr=False)
class Availability(Shown):
    """Availability of a machine and of a deployment on it.

    Parameters
    ----------
    system : machine, as the user gave it
    machine : the machine
    years, seeds : length of a history [year], and histories [count]
    partial : whether the user stopped the command before all histories
    counts : parts of each kind [count]
    whole : time in which every part of the machine works, without software
    devices : mean share of the devices that can be used
    deployment : the deployment; None: only the machine was asked for
    causes : what each kind of part takes, most first
    promise : what the promised availability needs
    swings, pairs : how far each number moves the lost time, and pairs of numbers whose effects multiply
    rates : failure rates
    asked : inputs of the result
    assumed : assumed numbers
    notes : sentences for the reader
    """

    system: str
    machine: Machine
    years: float
    seeds: int
    partial: bool
    counts: Mapping[PartKind, int]
    whole: AvailabilityFigure
    devices: AvailabilityFigure
    deployment: DeploymentFigures | None
    causes: tuple[CauseRow, ...]
    promise: Promise
    swings: tuple[Swing, ...]
    pairs: tuple[Interaction, ...]
    rates: Reliability
    asked: Inputs
    assumed: tuple[Assumption, ...]
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The answer in one line."""
        words = f"{self.system}: every part works {self.whole.availability:.4%} of the time"
        if self.deployment:
            words += f"; the deployment serves {self.deployment.serves.availability:.4%}"
        return words

    def to_records(self) -> list[Record]:
        """What each kind of part takes, one kind a record."""
        return [flat(asdict(row)) for row in self.causes]

    def plain(self) -> Plain:
        """The complete result as plain data."""
        body: AvailabilityBody = {
            "inputs": self.asked,
            "reliability": self.rates.name,
            "years": self.years,
            "seeds": self.seeds,
            "partial": self.partial,
            "devices": self.machine.devices,
            "parts": {str(kind): count for kind, count in self.counts.items()},
            "whole": asdict(self.whole),
            "usable_devices": asdict(self.devices),
            "deployment": asdict(self.deployment) if self.deployment else None,
            "causes": [asdict(row) for row in self.causes],
            "promise": asdict(self.promise),
            "sensitivity": [asdict(swing) for swing in self.swings],
            "interactions": [asdict(pair) for pair in self.pairs],
            "notes": list(self.notes),
            "assumed": assumed_plain(self.assumed),
        }
        return envelope("availability", body)
