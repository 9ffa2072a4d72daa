"""The result of `train`: plans with their predictions, the timeline of a step, the goodput, and the plain form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from typing_extensions import TypedDict

from tokenworks.costs.train import TrainStep
from tokenworks.legal.training import TrainSetting
from tokenworks.planning.train_goodput import Goodput
from tokenworks.specs.calibration import CalibrationLike, calibration_name
from tokenworks.specs.given import Given
from tokenworks.specs.machine import Assumption, Machine
from tokenworks.specs.result import Assumed, FormOf, Inputs, Plain, assumed_plain, envelope, inputs
from tokenworks.specs.shown import Record, Shown, flat
from tokenworks.specs.training import Training, TrainingDeployment
from tokenworks.specs.training_text import training_document, training_text

DAY, KWH = 86400.0, 3.6e6
LEAST_BAR = 1e-9
"""Parts of a step that take less time are not listed [s]."""

COMPUTE, BUBBLE, OPTIMISER, HOST = "compute", "bubble", "optimiser", "host"
MEMORY = ("weights", "gradients", "optimiser", "activations", "logits", "buffers", "reserve")
Interval = tuple[float, float]


class TrainPartPlain(TypedDict):
    """One part of an optimiser step.

    part : name of the part; kind : compute, communication, bubble, optimiser or host
    level : level of the network of a communication, else ""
    seconds, share : time [s], and time / time of the step [-]
    """

    part: str
    kind: str
    level: str
    seconds: float
    share: float


class TrainRowPlain(TypedDict):
    """One training plan with its predictions; the fields are those of `TrainRow`."""

    rank: int
    label: str
    deploy: str
    training: Annotated[Plain, FormOf(Training)]
    devices: int
    idle_devices: int
    step_s: float
    tok_s: float
    tok_s_per_device: float
    mfu: float
    days: float
    interval: dict[str, Interval]
    bound_by: str
    parts: list[TrainPartPlain]
    hidden: list[TrainPartPlain]
    memory: dict[str, float]
    memory_bytes: float
    power_w: float | None
    energy_kwh: float | None


class TrainFrontPlain(TypedDict):
    """One plan of the Pareto front of step time and memory."""

    label: str
    deploy: str
    step_s: float
    memory_bytes: float


class TrainBody(TypedDict):
    """The plain form of `train`."""

    inputs: Inputs
    notes: list[str]
    model: str
    machine: str
    method: str
    precision: str
    tokens: float
    batch_tokens: int
    batch_sequences: int
    seq_len: int
    considered: int
    legal: int
    estimated: int
    pruned: dict[str, int]
    broken: dict[str, int]
    grade: str
    plans: list[TrainRowPlain]
    pareto: list[TrainFrontPlain]
    goodput: Annotated[Plain, FormOf(Goodput)]
    assumed: list[Assumed]


@dataclass(frozen=True, slots=True)
class TrainPart:
    """One part of an optimiser step, see `TrainPartPlain`."""

    part: str
    kind: str
    level: str
    seconds: float
    share: float

    def plain(self) -> TrainPartPlain:
        """The part as plain data."""
        return {
            "part": self.part,
            "kind": self.kind,
            "level": self.level,
            "seconds": self.seconds,
            "share": self.share,
        }


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One training plan with its predictions.

    Parameters
    ----------
    rank : position in the list, 1 is the fastest
    training : the plan
    devices : devices in use [count]
    idle_devices : devices of the machine that the plan does not use [count]
    step_s : time of an optimiser step [s]
    tok_s : tokens per second of the whole run, without failures [token/s]
    tok_s_per_device : the same per device of the machine, used or idle [token/s]
    mfu : FLOP that the model needs / (time x 16-bit peak of the devices in use) [-]
    days : time of the run with checkpoints and failures [day]
    interval : ranges that should contain 80 % of measurements
    bound_by : what takes most of the step
    parts : the parts of a step, one after the other; their times add up to the time of the step
    hidden : communication that runs beside compute
    memory : part -> memory of the fullest device [byte]
    power_w : mean power of a device; None: the device has no published TDP [W]
    energy_kwh : energy of the devices for the run; None: the device has no published TDP [kWh]
    """

    rank: int
    training: Training
    devices: int
    idle_devices: int
    step_s: float
    tok_s: float
    tok_s_per_device: float
    mfu: float
    days: float
    interval: Mapping[str, Interval]
    bound_by: str
    parts: tuple[TrainPart, ...]
    hidden: tuple[TrainPart, ...]
    memory: Mapping[str, float]
    power_w: float | None
    energy_kwh: float | None

    @classmethod
    def of(cls, rank: int, training: Training, step: TrainStep, machine: Machine, tokens: float) -> TrainRow:
        """A plan with what its step costs.

        Parameters
        ----------
        rank : position in the list
        training : the plan
        step : the cost of its step
        machine : all devices
        tokens : tokens of the whole run [token]
        """
        seconds, parts = _one(step.step_s), tuple(_parts(step))
        speed, days = training.tokens / seconds, tokens / training.tokens * seconds / DAY
        joules = None if step.joules is None else _one(step.joules)
        wide = step.spread
        interval = {
            "step_s": (seconds / wide, seconds * wide),
            "tok_s_per_device": (speed / machine.devices / wide, speed / machine.devices * wide),
            "days": (days / wide, days * wide),
        }
        return cls(
            rank=rank, training=training, devices=training.parallel.devices,
            idle_devices=machine.devices - training.parallel.devices, step_s=seconds, tok_s=speed,
            tok_s_per_device=speed / machine.devices, mfu=_one(step.mfu), days=days, interval=interval,
            bound_by=_bound(parts), parts=parts, hidden=tuple(_links(step.hidden_s, seconds)),
            memory={name: _one(getattr(step.memory, name)) for name in MEMORY},
            power_w=None if step.power is None else _one(step.power),
            energy_kwh=None if joules is None else joules * tokens / training.tokens / KWH,
        )  # fmt: skip

    def with_goodput(self, share: float) -> TrainRow:
        """The plan with the time and the energy of a run that also writes checkpoints and fails.

        Parameters
        ----------
        share : share of the time in which the run makes progress [-]
        """
        low, high = self.interval["days"]
        return dataclasses.replace(
            self, days=self.days / share, interval={**self.interval, "days": (low / share, high / share)},
            energy_kwh=None if self.energy_kwh is None else self.energy_kwh / share,
        )  # fmt: skip

    @property
    def memory_bytes(self) -> float:
        """Memory of the fullest device [byte]."""
        return sum(self.memory.values())

    def of_kind(self, kind: str) -> float:
        """Time of all parts of a kind [s]."""
        return sum(part.seconds for part in self.parts if part.kind == kind)

    def plain(self) -> TrainRowPlain:
        """The plan as plain data."""
        return {
            "rank": self.rank,
            "label": str(self.training),
            "deploy": deploy_text(self.training),
            "training": self.training.model_dump(mode="json"),
            "devices": self.devices,
            "idle_devices": self.idle_devices,
            "step_s": self.step_s,
            "tok_s": self.tok_s,
            "tok_s_per_device": self.tok_s_per_device,
            "mfu": self.mfu,
            "days": self.days,
            "interval": dict(self.interval),
            "bound_by": self.bound_by,
            "parts": [part.plain() for part in self.parts],
            "hidden": [part.plain() for part in self.hidden],
            "memory": dict(self.memory),
            "memory_bytes": self.memory_bytes,
            "power_w": self.power_w,
            "energy_kwh": self.energy_kwh,
        }


@dataclass(frozen=True, slots=True)
class TrainFrontPoint:
    """One plan of the Pareto front: no other plan has a shorter step and needs less memory.

    Parameters
    ----------
    training : the plan
    step_s : time of an optimiser step [s]
    memory_bytes : memory of the fullest device [byte]
    """

    training: Training
    step_s: float
    memory_bytes: float


@dataclass(frozen=True, slots=True, repr=False)
class TrainRun(Shown):
    """The answer of `train`.

    Parameters
    ----------
    setting : model, machine, batch and sequence
    tokens : tokens of the whole run [token]
    rows : the fastest plan of each choice of widths, fastest first
    goodput : share of the time with progress, for the first plan
    front : Pareto front of step time and memory, fastest first
    considered, legal : plans before any rule; plans that keep all rules but those of memory [count]
    timed : plans that fit and whose step time was computed [count]
    pruned : bound of memory or time -> plans that it excludes [count]
    broken : rule -> plans for which it is the first broken rule [count]
    calibration : as the user gave it
    grade : what the prediction is based on
    given : numbers that the user set
    assumed : assumed numbers that the prediction depends on
    elapsed_s : time of the search [s]
    """

    setting: TrainSetting
    tokens: float
    rows: tuple[TrainRow, ...]
    goodput: Goodput
    front: tuple[TrainFrontPoint, ...]
    considered: int
    legal: int
    timed: int
    pruned: Mapping[str, int]
    broken: Mapping[str, int]
    calibration: CalibrationLike
    grade: str
    given: tuple[Given, ...]
    assumed: tuple[Assumption, ...]
    elapsed_s: float

    @property
    def best(self) -> TrainRow:
        """The fastest plan."""
        return self.rows[0]

    @property
    def headline(self) -> str:
        """Days, speed and MFU in one line."""
        best = self.best
        return (
            f"{self.setting.model.name} on {self.setting.machine.name}, {best.training}: {best.days:,.1f} days for "
            f"{self.tokens:.4g} tokens, {best.tok_s_per_device:,.0f} tokens/s per device, MFU {best.mfu:.1%}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know beside the numbers."""
        best, kept = self.best, self.goodput
        idle = (
            f"{best.idle_devices} of {self.setting.machine.devices} devices stay idle: no plan with all of them is as "
            "fast.",
        )
        waits = ("After a lost device the run waits for the repair: no plan fits the devices that are left.",)
        return (*idle * bool(best.idle_devices), *waits * (kept.elastic is None and kept.after == "wait"))

    def to_records(self) -> list[Record]:
        """The plans, one a record."""
        return [flat(row.plain()) for row in self.rows]

    def deployment(self, rank: int = 1) -> TrainingDeployment:
        """One of the plans together with its model and machine.

        Parameters
        ----------
        rank : position in the list
        """
        return TrainingDeployment(
            model=self.setting.model.name, system=self.setting.machine.name, training=self.rows[rank - 1].training
        )

    def document(self) -> Plain:
        """The content of the file of the best plan, which `train --deploy` reads."""
        return training_document(self.deployment())

    def plain(self) -> Plain:
        """The whole answer as plain data."""
        setting, base = self.setting, self.setting.base
        body: TrainBody = {
            "inputs": inputs(
                model=setting.model.name, machine=setting.machine.name,
                calibration=calibration_name(self.calibration), given=self.given,
            ),
            "notes": list(self.notes),
            "model": setting.model.name,
            "machine": setting.machine.name,
            "method": base.method.name,
            "precision": self.best.training.precision.recipe,
            "tokens": self.tokens,
            "batch_tokens": base.tokens,
            "batch_sequences": base.global_batch,
            "seq_len": base.seq_len,
            "considered": self.considered,
            "legal": self.legal,
            "estimated": self.timed,
            "pruned": dict(self.pruned),
            "broken": dict(self.broken),
            "grade": self.grade,
            "plans": [row.plain() for row in self.rows],
            "pareto": [
                {
                    "label": str(point.training), "deploy": deploy_text(point.training), "step_s": point.step_s,
                    "memory_bytes": point.memory_bytes,
                }
                for point in self.front
            ],
            "goodput": dataclasses.asdict(self.goodput),
            "assumed": assumed_plain(self.assumed),
        }  # fmt: skip
        return envelope("train", body, {"search_s": self.elapsed_s})


def deploy_text(training: Training) -> str:
    """The short form of a plan for --deploy, with all values that the search would choose otherwise.

    Parameters
    ----------
    training : the plan
    """
    parallel, schedule = training.parallel, training.schedule
    chosen = {
        "tp": parallel.tp, "pp": parallel.pp, "dp": parallel.dp, "cp": parallel.cp, "ep": parallel.ep,
        "etp": parallel.expert_tp, "zero": parallel.zero, "mbs": training.micro_batch, "gbs": training.global_batch,
        "seq": training.seq_len, "schedule": schedule.name, "vpp": schedule.virtual_stages,
        "recompute": training.recompute.name, "precision": training.precision.recipe, "layout": schedule.layout,
    }  # fmt: skip
    others = [pair for pair in training_text(training).split(",") if pair.partition("=")[0] not in chosen]
    return ",".join([*(f"{key}={value}" for key, value in chosen.items()), *filter(None, others)])


def _parts(step: TrainStep) -> list[TrainPart]:
    """The parts of a step that add up to its time: compute, communication, bubble, optimiser, host."""
    seconds = _one(step.step_s)
    timed = [(name, COMPUTE, "", _one(time)) for name, time in step.compute_s.items()]
    timed.sort(key=lambda part: -part[3])
    after = [(BUBBLE, BUBBLE, "", _one(step.bubble_s)), (OPTIMISER, OPTIMISER, "", _one(step.optimiser_s)),
             (HOST, HOST, "", _one(step.host_s))]  # fmt: skip
    parts = [TrainPart(name, kind, level, time, time / seconds) for name, kind, level, time in timed]
    parts += _links(step.exposed_s, seconds)
    parts += [TrainPart(name, kind, level, time, time / seconds) for name, kind, level, time in after]
    return [part for part in parts if part.seconds > LEAST_BAR]


def _links(times: Mapping[tuple[str, str], object], step_s: float) -> list[TrainPart]:
    """Communication, the longest first."""
    parts = [TrainPart(kind, "communication", level, _one(time), _one(time) / step_s)
             for (kind, level), time in times.items()]  # fmt: skip
    return sorted((part for part in parts if part.seconds > LEAST_BAR), key=lambda part: -part.seconds)


def _bound(parts: tuple[TrainPart, ...]) -> str:
    """What takes most of a step: compute and its largest part, a communication, bubble, optimiser or host."""
    sums: dict[str, float] = {}
    for part in parts:
        name = f"{part.part} over {part.level}" if part.kind == "communication" else part.kind
        sums[name] = sums.get(name, 0.0) + part.seconds
    most = max(sums, key=lambda name: sums[name], default=COMPUTE)
    if most != COMPUTE or not parts:
        return most
    largest = max((part for part in parts if part.kind == COMPUTE), key=lambda part: part.seconds)
    return f"{COMPUTE}: {largest.part}"


def _one(value: object) -> float:
    """A number, of an array of one element, too."""
    return float(np.asarray(value).reshape(-1)[0])
