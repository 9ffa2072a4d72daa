"""The time of one prefill step and one decode step of a deployment, part by part. `plan` computes the same steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from typing_extensions import TypedDict

from tokenworks.costs.breakdown import OUT, Breakdown
from tokenworks.costs.kernels import dequantised
from tokenworks.costs.memory import Memory, memory
from tokenworks.costs.rates import Rates, rates, with_engine
from tokenworks.costs.roofline import compute_dtype
from tokenworks.costs.split import Split
from tokenworks.costs.step import Batch
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.legal.points import Points, Setting
from tokenworks.legal.rules import MEMORY, explain
from tokenworks.planning.asked import AskedRequests, DeploymentLike, asked
from tokenworks.planning.costing import Costing
from tokenworks.planning.ranking import ROOFS
from tokenworks.planning.result import inputs_of
from tokenworks.specs.calibration import Calibration, CalibrationLike, load_calibration
from tokenworks.specs.compose import On
from tokenworks.specs.context import model_notes
from tokenworks.specs.deployment import EngineName, Role
from tokenworks.specs.given import Assume
from tokenworks.specs.hf import ModelLike
from tokenworks.specs.load import WorkloadLike
from tokenworks.specs.machine import Assumption, named
from tokenworks.specs.result import Assumed, FormOf, Inputs, Plain, assumed_plain, envelope
from tokenworks.specs.shown import Record, Shown, flat
from tokenworks.specs.slo import Slo
from tokenworks.specs.software import Software

Kind = Literal["prefill", "decode"]
KINDS: dict[str, tuple[Kind, ...]] = {
    "aggregated": ("prefill", "decode"),
    "prefill": ("prefill",),
    "decode": ("decode",),
}
TAKEN = ("weights", "activations", "buffers", "reserve")
"""Parts of device memory that are not the KV cache."""

LEFT_OUT = 1e-12
"""Parts of a step that take less time are not listed [s]."""

ATTENTION = ("attention_prefill", "attention_decode", "attention_hbm", "latent_decode", "attention_start")
FACTORS: dict[str, tuple[str, ...]] = {
    "attention": ATTENTION,
    "linear attention": ATTENTION,
    "norms": ("hbm", "kernel"),
    "embedding": ("hbm", "kernel"),
    "all-reduce": ("scale_up", "collective_start"),
    "pipeline": ("scale_up", "collective_start"),
    "dispatch": ("dispatch_up", "dispatch_start"),
    "combine": ("dispatch_up", "dispatch_start"),
}
"""Factors of the calibration that the time of each part depends on. Parts that are not listed here are GEMMs.

If a part communicates over scale-out, `_out` replaces `_up` in the name of its factor.
"""


class PartPlain(TypedDict):
    """One part of a step.

    part : name of the part
    seconds, share : time [s], and time / time of the step [-]
    flop, bytes : arithmetic, and traffic, of one device [FLOP, byte]
    bound : the resource that limits the part
    utilisation : origin of its utilisation: measured, assumed, or another device family
    """

    part: str
    seconds: float
    share: float
    flop: float
    bytes: float
    bound: str
    utilisation: str


class LoadPlain(TypedDict):
    """The batch of a step.

    decode : sequences that decode; prefill : prefill tokens; context : sum of the contexts of the sequences [token]
    busiest_context : context of the busiest rank / context of the average rank [-]
    """

    decode: float
    prefill: float
    context: float
    busiest_context: float


class StepPlain(TypedDict):
    """One step of one role.

    seconds : time of the step [s]
    interval : range that should contain 80 % of measurements [s]
    bound_by : the resource that limits most of the step
    """

    role: str
    step: Kind
    parallel: dict[str, int]
    overlap: str
    load: LoadPlain
    seconds: float
    interval: tuple[float, float]
    bound_by: str
    parts: list[PartPlain]


class EstimateBody(TypedDict):
    """The plain form of `estimate`.

    software : software stacks whose measured points the times rest on
    memory : memory of one device, by role and part [byte]
    dequantised : weight formats that the device unpacks, and the dtype of the multiplication
    """

    inputs: Inputs
    notes: list[str]
    model: str
    machine: str
    engine: str
    deployment: str
    grade: str
    software: list[Annotated[Plain, FormOf(Software)]]
    spread: float
    steps: list[StepPlain]
    memory: dict[str, dict[str, float | None]]
    dequantised: dict[str, str]
    assumed: list[Assumed]


@dataclass(frozen=True, slots=True)
class StepEstimate:
    """One step of one role: its batch, and the time of each part."""

    role: Role
    kind: Kind
    batch: Batch
    cost: Breakdown

    @property
    def seconds(self) -> float:
        """Time of the step [s]."""
        return float(np.asarray(self.cost.seconds).reshape(-1)[0])

    @property
    def decode(self) -> float:
        """Sequences that decode, over all ranks."""
        return float(np.max(self.batch.decode))

    @property
    def prefill(self) -> float:
        """Prefill tokens, over all ranks."""
        return float(np.max(self.batch.prefill))

    @property
    def bound_by(self) -> str:
        """The roof that limits most of the step, in the words of `plan`."""
        return ROOFS[str(np.asarray(self.cost.bound()).reshape(-1)[0])]

    def of_part(self, name: str, field: str) -> float:
        """`seconds`, `flop` or `bytes` of one part of the step."""
        return float(np.asarray(getattr(self.cost.parts[name], field)).reshape(-1)[0])


@dataclass(frozen=True, slots=True, repr=False)
class Estimate(Shown):
    """The steps of all roles of a deployment, the memory of each role, and the calibration behind the numbers."""

    costing: Costing
    calibration: Calibration
    roles: tuple[Role, ...]
    memory: dict[str, Memory]
    steps: tuple[StepEstimate, ...]

    @property
    def headline(self) -> str:
        """The times of the steps in one line."""
        steps = ", ".join(f"{one.role.name} {one.kind} {one.seconds * 1e3:,.2f} ms" for one in self.steps)
        return f"{self.setting.model.name} on {self.setting.machine.name}, {self.deployment}: {steps}"

    def to_records(self) -> list[Record]:
        """The parts of all steps, one a record."""
        return [flat(part, role=one.role.name, step=one.kind) for one in self.steps for part in self.parts(one)]

    @property
    def setting(self) -> Setting:
        """Model, machine, engine and workload."""
        return self.costing.setting

    @property
    def rates(self) -> Rates:
        """Rates that the machine reaches."""
        return self.costing.rates

    @property
    def deployment(self) -> str:
        """The roles and their widths in short."""
        return " + ".join(f"{role.name} [{role.parallel}]" for role in self.roles)

    @property
    def dequantised(self) -> dict[str, str]:
        """Weight formats that the device unpacks before it multiplies, and the dtype in which it multiplies."""
        return dequantised(self.setting.model, self.setting.machine.peak)

    @property
    def assumed(self) -> list[Assumption]:
        """Every assumed number that the times of these steps depend on."""
        unused = set() if self.setting.experts else {"calibration.skew", "calibration.rank_skew"}
        if not any(role.draft_tokens for role in self.roles):
            unused |= {"calibration.acceptance", "calibration.later_acceptance"}
        return list(named(self.setting.given, (item for item in self.rates.assumed if item.path not in unused)))

    @property
    def software(self) -> tuple[Software, ...]:
        """The software stacks whose measured points these times rest on."""
        return self.rates.software_for(self.roles)

    def spread(self, of: StepEstimate) -> float:
        """Half of the 80 % interval of a step's time, as a factor [-]."""
        return self.rates.spread_of(of.role.draft_tokens)

    def busiest_context(self, of: StepEstimate) -> float:
        """Context of the busiest rank / context of the average rank [-]; 1 if nothing decodes."""
        return float(np.max(of.batch.context)) / (of.decode * self.costing.demand.request.context) if of.decode else 1.0

    def parts(self, of: StepEstimate) -> Iterator[PartPlain]:
        """Each part of a step as plain data."""
        for name, part in of.cost.parts.items():
            seconds = of.of_part(name, "seconds")
            if seconds > LEFT_OUT:
                roof = str(np.asarray(part.bound()).reshape(-1)[0])
                yield {
                    "part": name,
                    "seconds": seconds,
                    "share": seconds / of.seconds,
                    "flop": of.of_part(name, "flop"),
                    "bytes": of.of_part(name, "bytes"),
                    "bound": ROOFS[roof],
                    "utilisation": _rests_on(name, roof, self.setting, self.calibration),
                }

    def plain(self) -> Plain:
        """The whole estimate as plain data."""
        names = (*TAKEN, "graphs", "usable", "kv", "kv_bytes_per_token", "kv_tokens")
        costing = self.costing
        body: EstimateBody = {
            "inputs": inputs_of(costing.setting, slo=None, calibration=costing.calibration),
            "notes": list(model_notes(self.setting.model)),
            "model": self.setting.model.name,
            "machine": self.setting.machine.name,
            "engine": self.setting.engine.name,
            "deployment": self.deployment,
            "grade": self.rates.grade,
            "software": [one.model_dump() for one in self.software],
            "spread": self.rates.spread,
            "steps": [self._plain_step(one) for one in self.steps],
            "memory": {
                role: {name: float(getattr(room, name)) for name in names} for role, room in self.memory.items()
            },
            "dequantised": self.dequantised,
            "assumed": assumed_plain(self.assumed),
        }
        return envelope("estimate", body)

    def _plain_step(self, of: StepEstimate) -> StepPlain:
        spread = self.spread(of)
        return {
            "role": of.role.name,
            "step": of.kind,
            "parallel": of.role.parallel.model_dump(),
            "overlap": of.role.overlap,
            "load": {
                "decode": of.decode,
                "prefill": of.prefill,
                "context": of.decode * self.costing.demand.request.context,
                "busiest_context": self.busiest_context(of),
            },
            "seconds": of.seconds,
            "interval": (of.seconds / spread, of.seconds * spread),
            "bound_by": of.bound_by,
            "parts": list(self.parts(of)),
        }


def estimate(
    model: ModelLike | DeploymentLike,
    on: On | None = None,
    *,
    deploy: str | None = None,
    pick: int = 1,
    workload: WorkloadLike | None = None,
    isl: float | None = None,
    osl: float | None = None,
    batch: int | None = None,
    chunk: int | None = None,
    engine: EngineName | None = None,
    max_model_len: int | None = None,
    memory_fraction: float | None = None,
    devices: int | None = None,
    assume: Assume = None,
    calibration: CalibrationLike | None = None,
) -> Estimate:
    """Break down one prefill step and one decode step of a deployment.

    Parameters
    ----------
    model : a model, together with `on` and `deploy`; or a deployment: a file, the content of a file, a `Deployment`, or
        a plan
    on : as `load_machine` takes it
    deploy : widths and settings of one instance, such as "tp=8,dp=5,ep=40"
    pick : position of the deployment in the file or in the plan, 1 is the best
    workload : catalog name, YAML file, dict or `Workload`; None: the workload of the plan of the deployment
    isl, osl : mean input and output length instead of a workload; default 4,000 and 1,000 [token]
    batch : sequences that decode in one instance; None: max_sequences of the role [count]
    chunk : prefill tokens of one step of one instance; None: chunk_tokens of the role [token]
    engine : serving engine, which determines the overheads
    max_model_len : longest input + output of a request; None: the limit of the deployment, else of the model [token]
    memory_fraction : share of device memory that the engine takes; None: the value of the deployment, else the default
        of the engine [-]
    devices : number of devices of the machine to use; None: all [count]
    assume : numbers that replace numbers of the catalog, a YAML file or a dict
    calibration : catalog name, YAML file, dict or `Calibration`

    Raises
    ------
    SpecError : an argument is wrong
    DoesNotFit : weights, buffers or the sequences do not fit the memory
    """
    of = asked(
        model, AskedRequests(workload, isl, osl), on=on, deploy=deploy, pick=pick, engine=engine,
        max_model_len=max_model_len, memory_fraction=memory_fraction, devices=devices, assume=assume,
        calibration=calibration,
    )  # fmt: skip
    return estimate_roles(of.setting, of.calibration, of.roles, sequences=batch, tokens=chunk)


def estimate_roles(
    setting: Setting,
    calibration: CalibrationLike,
    roles: Sequence[Role],
    *,
    sequences: int | None = None,
    tokens: int | None = None,
) -> Estimate:
    """Estimate one prefill step and one decode step of each role, for mean requests of the workload.

    Parameters
    ----------
    setting : model, machine, engine and workload
    calibration : as `load_calibration` takes it
    roles : the roles to estimate
    sequences : sequences that decode in one instance; None: max_sequences of the role [count]
    tokens : prefill tokens of one step of one instance; None: chunk_tokens of the role [token]

    Raises
    ------
    SpecError : a role breaks a rule of legal shapes, or a number is below 1
    DoesNotFit : weights, buffers or the sequences do not fit the memory
    """
    known = load_calibration(calibration, assume=setting.given)
    costing = Costing(
        setting,
        with_engine(rates(setting.machine, known), setting.engine, setting.model),
        Slo(),
        calibration=calibration,
    )
    steps: list[StepEstimate] = []
    room: dict[str, Memory] = {}
    for role in roles:
        _must_be_legal(role, setting)
        decode = _at_least_one(role.max_sequences if sequences is None else sequences, "--batch")
        prefill = _at_least_one(role.chunk_tokens if tokens is None else tokens, "--chunk")
        room[role.name] = _memory(role, setting, decode, prefill)
        _must_fit(role, setting, room[role.name])
        for kind in KINDS[role.name]:
            if kind == "decode":
                _must_hold(role, costing, decode, room[role.name])
            steps.append(_step(role, kind, costing, decode if kind == "decode" else prefill))
    return Estimate(costing, known, tuple(roles), room, tuple(steps))


def _step(role: Role, kind: Kind, costing: Costing, amount: int) -> StepEstimate:
    """The step of `amount` sequences that decode, or of `amount` prefill tokens."""
    points, zero, amounts = Points.of(role), np.zeros(1), np.full(1, float(amount))
    batch = costing.batch(points, *((amounts, zero) if kind == "decode" else (zero, amounts)))
    return StepEstimate(role, kind, batch, costing.breakdown(points, batch, role.overlap))


def _at_least_one(value: int, where: str) -> int:
    if value < 1:
        raise SpecError(f"{value} is not a number of 1 or more", where=where)
    return value


def _must_be_legal(role: Role, setting: Setting) -> None:
    broken = explain(role, setting)
    if broken and broken[0].rule in MEMORY:
        raise DoesNotFit(f"[{role.parallel}] on {setting.machine.name}: {broken[0].message}")
    if broken:
        raise SpecError(f"{broken[0].rule}: {broken[0].message}", where=f"[{role.parallel}]")


def _memory(role: Role, setting: Setting, sequences: float, tokens: float) -> Memory:
    return memory(
        setting.model,
        setting.machine,
        Split.of(role),
        engine=setting.engine,
        max_sequences=sequences,
        chunk_tokens=tokens,
        memory_fraction=role.memory_fraction,
    )


def _must_fit(role: Role, setting: Setting, room: Memory) -> None:
    if (short := -float(np.min(room.kv))) > 0:
        taken = ((name, float(getattr(room, name))) for name in TAKEN)
        parts = ", ".join(f"{name} {size / 1e9:,.1f}" for name, size in taken)
        raise DoesNotFit(
            f"[{role.parallel}] on {setting.machine.name}: short by {short / 1e9:,.1f} GB a device: {parts} GB; "
            f"usable {float(room.usable) / 1e9:,.1f} GB; take a smaller --chunk or --batch, "
            "or a larger --memory-fraction"
        )


def _must_hold(role: Role, costing: Costing, sequences: float, room: Memory) -> None:
    context = costing.demand.request.context
    need, have = sequences * context, float(room.kv_tokens)
    if need > have:
        fitting = int(have // context)
        hint = f"take --batch {fitting} or less" if fitting else "take shorter requests or more devices"
        raise DoesNotFit(
            f"[{role.parallel}] on {costing.setting.machine.name}: {sequences:,.0f} sequences of {context:,.0f} "
            f"tokens need {need:,.0f} KV tokens, but only {have:,.0f} fit; {hint}"
        )


def _rests_on(part: str, roof: str, setting: Setting, calibration: Calibration) -> str:
    """Origin of the utilisation of a part: `measured`, `assumed`, or `as` another device family."""
    if part == "host":
        engine = setting.engine
        times = (engine.host_step, engine.host_sequence, engine.host_layer)
        return "assumed" if any(time.assumed for time in times) else "measured"
    matrices = [matrix for block in setting.model.blocks for matrix in block.matrices]
    dtypes = {compute_dtype(matrix.format, setting.machine.peak)[0] for matrix in matrices}
    gemm: tuple[str, ...] = ("hbm", "kernel", "walk", *(f"gemm.{dtype}" for dtype in dtypes))
    if part == "experts":
        gemm = ("experts_hbm", "experts_start", "expert", *gemm[3:], *(f"grouped.{dtype}" for dtype in dtypes))
    factors = [name.replace("_up", "_out") if roof == OUT else name for name in FACTORS.get(part, gemm)]
    return calibration.rests_on(setting.machine.family, factors)
