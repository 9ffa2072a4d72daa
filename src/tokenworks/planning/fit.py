"""Whether a model fits a machine: the fewest devices for one copy, and the KV cache that each split leaves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from typing_extensions import TypedDict

from tokenworks.arrays import FloatArray
from tokenworks.costs.memory import Memory, weight_bytes
from tokenworks.costs.split import Split
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.legal import splits
from tokenworks.legal.points import KV_DTYPES, OVERLAPS, Points, Setting
from tokenworks.legal.rules import MEMORY, SHAPE, Proposal, judge, with_memory
from tokenworks.planning.setting import setting_of
from tokenworks.specs import load
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import On, times
from tokenworks.specs.context import context_note
from tokenworks.specs.deployment import EngineName, Role
from tokenworks.specs.given import Assume, Given, given
from tokenworks.specs.hf import ModelLike, load_model
from tokenworks.specs.machine import Assumption, Machine, named
from tokenworks.specs.result import Assumed, FormOf, Inputs, Plain, assumed_plain, envelope, inputs
from tokenworks.specs.shown import Record, Shown, flat
from tokenworks.specs.workload import Workload

READS = frozenset({"device.hbm.capacity"})
"""The numbers of a machine that `fit` needs: the argument `needs` of `specs.compose.machine`."""

MOST_TIMES = 16
"""Largest multiple of the machine that is tried if one machine does not hold the model [count]."""

CHUNK = 8192
"""Token budget of a rank, for the size of the activations [token]: the default of the engines."""

MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Width:
    """The best split of one width of instance.

    Parameters
    ----------
    role : the split, with its replicas
    weights, activations, buffers, reserve : parts of the memory of one device [byte]
    usable : memory of one device that the engine may use [byte]
    kv : memory of one device for the KV cache [byte]
    kv_bytes_per_token : KV cache of one token on one device [byte]
    kv_tokens : KV cache of the whole machine, all replicas [token]
    """

    role: Role
    weights: float
    activations: float
    buffers: float
    reserve: float
    usable: float
    kv: float
    kv_bytes_per_token: float
    kv_tokens: float

    @property
    def devices(self) -> int:
        """Devices of one instance."""
        return self.role.parallel.devices


class FitBody(TypedDict):
    """The plain form of `fit`."""

    inputs: Inputs
    notes: list[str]
    model: str
    machine: str
    fits: bool
    summary: str
    smallest_devices: int
    best_devices: int
    kv_dtype: str
    hbm_bytes: float
    hbm_sold_bytes: float | None
    widths: list[Annotated[Plain, FormOf(Width)]]
    assumed: list[Assumed]


@dataclass(frozen=True, slots=True, repr=False)
class Fit(Shown):
    """The answer of `fit`.

    Parameters
    ----------
    widths : the best split of each width that fits, fewest devices first, without and with a pipeline
    kv_dtype : storage of the KV cache
    given : numbers that the user set
    notes : what a reader must know beside the numbers
    """

    model: str
    machine: Machine
    engine: str
    kv_dtype: str
    widths: tuple[Width, ...]
    given: tuple[Given, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The answer in one line."""
        return self.summary

    def to_records(self) -> list[Record]:
        """The widths, one a record; sizes are of one device [byte]."""
        return [
            flat(dataclasses.asdict(width), devices=width.devices, split=str(width.role.parallel))
            for width in self.widths
        ]

    @property
    def smallest(self) -> Width:
        """The split with the fewest devices that holds one copy of the model."""
        return self.widths[0]

    @property
    def best(self) -> Width:
        """The split that leaves the largest KV cache on the whole machine."""
        return max(self.widths, key=lambda width: width.kv_tokens)

    @property
    def flat(self) -> Width | None:
        """The split without a pipeline that leaves the largest KV cache; None if only a pipeline fits."""
        return max((w for w in self.widths if w.role.parallel.pp == 1), key=lambda w: w.kv_tokens, default=None)

    @property
    def summary(self) -> str:
        """The answer in one sentence."""
        best, flat, least = self.best, self.flat, self.smallest.devices
        without = f", {flat.kv_tokens / MILLION:,.2f} M without a pipeline" if flat and flat is not best else ""
        return (
            f"{self.model} fits {self.machine.name}: from {least} device{'s' * (least > 1)}; best split of all "
            f"{self.machine.devices} is {best.role.replicas} x [{best.role.parallel}], "
            f"{best.kv_tokens / MILLION:,.2f} M KV tokens left in {self.kv_dtype.upper()}{without}"
        )

    @property
    def assumed(self) -> tuple[Assumption, ...]:
        """Every assumed number that the answer depends on."""
        return tuple(named(self.given, self.machine.assumed))

    def plain(self) -> Plain:
        """The whole answer as plain data."""
        machine = self.machine
        body: FitBody = {
            "inputs": inputs(model=self.model, machine=machine.name, engine=self.engine, given=self.given),
            "notes": list(self.notes),
            "model": self.model,
            "machine": machine.name,
            "fits": True,
            "summary": self.summary,
            "smallest_devices": self.smallest.devices,
            "best_devices": self.best.devices,
            "kv_dtype": self.kv_dtype,
            "hbm_bytes": machine.hbm_bytes,
            "hbm_sold_bytes": machine.hbm_sold,
            "widths": [dataclasses.asdict(width) | {"role": width.role.model_dump()} for width in self.widths],
            "assumed": assumed_plain(self.assumed),
        }
        return envelope("fit", body)


def fit(
    model: ModelLike,
    on: On,
    *,
    engine: EngineName = "vllm",
    kv_dtype: Literal["native", "bf16", "fp8"] = "native",
    max_model_len: int | None = None,
    devices: int | None = None,
    assume: Assume = None,
) -> Fit:
    """Compute whether a model fits a machine, and how much KV cache is left.

    Parameters
    ----------
    model : as `load_model` takes it
    on : as `load_machine` takes it; only the memory of the machine has to be published
    engine : serving engine, which determines reserve and buffers
    kv_dtype : storage of the KV cache; "native": as the checkpoint says
    max_model_len : the KV cache of each rank must hold a request of this length, as vLLM demands at its start [token]
    devices : number of devices of the machine to use; None: all [count]
    assume : numbers that replace numbers of the catalog, a YAML file or a dict

    Raises
    ------
    SpecError : an argument is wrong, or no split is legal for any size of memory
    DoesNotFit : no split of the whole machine holds the model; the message says how much is missing
    """
    read, numbers = load_model(model), given(assume)
    request = Workload(name="fit", isl=1 if max_model_len is None else max(max_model_len - 1, 1), osl=1)
    setting = setting_of(read, on, engine, request, numbers, max_model_len=max_model_len, devices=devices, needs=READS)
    load_calibration(assume=numbers).family(setting.machine.family)  # a plan would refuse an unknown family
    return fit_setting(setting, read.native_kv if kv_dtype == "native" else kv_dtype)


def fit_setting(setting: Setting, kv_dtype: str) -> Fit:
    """Find the best split of each width.

    A split counts if it keeps all rules of shape and memory with one running sequence per rank, without speculation,
    and with the fewest redundant experts that its widths allow.

    Parameters
    ----------
    setting : model, machine, engine and workload
    kv_dtype : storage of the KV cache

    Raises
    ------
    SpecError : no split is legal for any size of memory; the message names the rule
    DoesNotFit : no split of the whole machine holds the model; the message says how much is missing
    """
    _must_have_a_shape(_planned(setting, kv_dtype), setting)
    planned = _held(_planned(setting, kv_dtype), setting)
    least = min((width.devices for width in planned), default=setting.machine.devices + 1)
    widths = [*_fewest(setting, kv_dtype, least), *planned]
    if not widths:
        raise _no_request_fits(setting, kv_dtype) or does_not_fit(setting, kv_dtype)
    note = context_note(setting.model)
    limit = f"{note} The KV cache of each rank holds a request of this length." if note else ""
    notes = tuple(filter(None, (limit, setting.model.converted)))
    return Fit(setting.model.name, setting.machine, setting.engine.name, kv_dtype, tuple(widths), setting.given, notes)


def _must_have_a_shape(points: Points, setting: Setting) -> None:
    for check in SHAPE.values():
        verdict = check(Proposal(points, setting))
        if not verdict.kept.any():
            raise SpecError(verdict.why(), where=f"{setting.model.name} on {setting.machine.name}")


def _held(points: Points, setting: Setting) -> list[Width]:
    """The best split of each number of devices that fits, without and with a pipeline."""
    points, room = _shaped(points, setting)
    legal, _ = judge(Proposal(points, setting, room), MEMORY)
    total = np.where(legal, room.kv_tokens * splits.replicas(points.devices, setting), -1.0)
    widths = []
    for devices in np.unique(points.devices[legal]):
        for staged in (False, True):  # a pipeline leaves most KV cache, but few users run one: list both
            rows = np.flatnonzero(legal & (points.devices == devices) & ((points.pp > 1) == staged))
            if len(rows):
                widths.append(_width(points, room, int(rows[np.argmax(total[rows])]), setting))
    return widths


def _fewest(setting: Setting, kv_dtype: str, below: int) -> list[Width]:
    """The best splits of the smallest number of devices that holds the model; an empty list if none does.

    The search starts at weights / usable memory: fewer devices cannot hold the weights. It ends before `below`.
    """
    machine = setting.machine
    usable = machine.hbm_bytes * setting.memory_fraction
    first = max(int(weight_bytes(setting.model, Split()) / usable), 1)
    for devices in range(first, min(below, splits.WIDEST + 1)):
        if devices <= machine.domain or devices % machine.domain == 0:
            held = _held(_every(setting, kv_dtype, devices), setting)
            if held:
                return held
    return []


def does_not_fit(setting: Setting, kv_dtype: str) -> DoesNotFit:
    """The error for a model that does not fit: missing memory, and how many of these machines hold the model."""
    machine = setting.machine
    _, room = _shaped(_planned(setting, kv_dtype), setting)
    missing = -np.asarray(room.kv)
    row = int(np.argmin(missing))
    need = float(np.broadcast_to(room.usable, missing.shape)[row] + missing[row])
    weights = " with INT8 weights" if setting.model.converted else ""
    all_of = f"each of {machine.devices} devices" if machine.devices > 1 else "its device"
    return DoesNotFit(
        f"{setting.model.name}{weights} does not fit {machine.name}: its smallest split needs {need / 1e9:,.1f} GB of "
        f"{all_of}, {missing[row] / 1e9:,.1f} GB more than the engine may take; " + _nearest(setting, kv_dtype)
    )


def _no_request_fits(setting: Setting, kv_dtype: str) -> DoesNotFit | None:
    """The error for weights that fit without room for one request per rank; None if the weights do not fit."""
    points, room = _shaped(_planned(setting, kv_dtype), setting)
    per_rank = np.where(np.asarray(room.kv) > 0, room.kv_tokens / points.dp, 0.0)
    if not per_rank.any():
        return None
    need = setting.workload.isl + setting.workload.osl
    return DoesNotFit(
        f"{setting.model.name} fits {setting.machine.name}, but no split leaves a rank the KV cache of one request of "
        f"{need:,.0f} tokens (--max-model-len): {per_rank.max():,.0f} at most; take more devices or a lower limit"
    )


def _nearest(setting: Setting, kv_dtype: str) -> str:
    """How many of these machines hold the model, as part of a message."""
    machine = setting.machine
    most = MOST_TIMES * machine.devices
    larger = dataclasses.replace(setting, machine=dataclasses.replace(machine, devices=most))
    held = _fewest(larger, kv_dtype, most + 1)
    if not held:
        return f"{MOST_TIMES} x {machine.name} would not hold it either"
    need = held[0].devices
    multiple = times(machine.name, -(-need // machine.devices))
    if machine.network is None and need > machine.domain:
        network = load.catalog_names("network")[0]
        return f"{need} of these devices would hold it, over a network (--on {multiple}@{network})"
    return f"{need} of these devices would hold it (--on {multiple})"


def _planned(setting: Setting, kv_dtype: str) -> Points:
    """The splits that `plan` tries, without draft tokens and without overlap."""
    points = splits.splits(setting)
    plain = (points.draft == 0) & (points.overlap == OVERLAPS.index("none")) & (points.kv == KV_DTYPES.index(kv_dtype))
    return points[plain]


def _every(setting: Setting, kv_dtype: str, devices: int) -> Points:
    """Every split of a number of devices, with the redundant experts that the split needs."""
    experts = setting.experts
    rows = [
        (tp, pp, devices // pp // tp, ep, devices // pp // ep if experts else 1, -experts.count % ep if experts else 0)
        for pp in splits.divisors(devices)
        for tp in splits.divisors(devices // pp)
        for ep in (splits.divisors(devices // pp) if experts else (1,))
    ]
    tp, pp, dp, ep, expert_tp, redundant = np.array(rows, dtype=np.int64).T
    zeros = np.zeros_like(tp)
    return Points(tp, pp, dp, ep, expert_tp, redundant, zeros + KV_DTYPES.index(kv_dtype), zeros, zeros, dp, dp * CHUNK)


def _shaped(points: Points, setting: Setting) -> tuple[Points, Memory]:
    """Points of legal shape with one sequence and one chunk per rank, and their memory."""
    points = dataclasses.replace(points, max_sequences=points.dp, chunk_tokens=points.dp * CHUNK)
    legal, _ = judge(Proposal(points, setting), SHAPE)
    points = points[legal]
    return points, with_memory(points, setting).room


def _width(points: Points, room: Memory, row: int, setting: Setting) -> Width:
    def of(values: FloatArray) -> float:
        return float(np.broadcast_to(values, len(points))[row])

    replicas = int(splits.replicas(points.devices, setting)[row])
    return Width(
        role=points.role("aggregated", row, setting, replicas=replicas),
        weights=of(room.weights),
        activations=of(room.activations),
        buffers=of(room.buffers),
        reserve=of(room.reserve),
        usable=of(room.usable),
        kv=of(room.kv),
        kv_bytes_per_token=of(room.kv_bytes_per_token),
        kv_tokens=of(room.kv_tokens) * replicas,
    )
