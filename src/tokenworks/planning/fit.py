"""Whether a model fits a machine: the fewest devices for one copy, and the KV cache that each split leaves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from typing_extensions import TypedDict

from tokenworks.costs.activations import derived_share
from tokenworks.errors import SpecError
from tokenworks.legal.points import Points, Setting
from tokenworks.legal.rules import SHAPE, Proposal, explain
from tokenworks.planning.asked import read_deploy
from tokenworks.planning.fit_advice import longest, refused
from tokenworks.planning.fit_search import EngineLimits, Width, fewest, held_by, load_of, loaded, planned
from tokenworks.planning.setting import setting_of, with_memory_fraction, with_role_fraction
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import On
from tokenworks.specs.context import FLAG, context_note
from tokenworks.specs.deployment import EngineName, Role
from tokenworks.specs.given import Assume, Given, given
from tokenworks.specs.hf import ModelLike, load_model
from tokenworks.specs.machine import Assumption, Machine, named
from tokenworks.specs.result import Assumed, FormOf, Inputs, Plain, assumed_plain, envelope, inputs
from tokenworks.specs.shown import Record, Shown, flat
from tokenworks.specs.workload import Workload

READS = frozenset({"device.hbm.capacity"})
"""The numbers of a machine that `fit` needs: the argument `needs` of `specs.compose.machine`."""

MILLION = 1e6


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
    length: int
    hbm_bytes: float
    hbm_sold_bytes: float | None
    widths: list[Annotated[Plain, FormOf(Width)]]
    assumed: list[Assumed]


@dataclass(frozen=True, slots=True, repr=False)
class Fit(Shown):
    """The answer of `fit`.

    Parameters
    ----------
    widths : the best split of each width that fits, fewest devices first, without and with a pipeline; or the split
        that the user named
    kv_dtype : storage of the KV cache
    load : settings of the engine that the memory is for
    given : numbers that the user set
    notes : what a reader must know beside the numbers
    named : the user named the split
    """

    model: str
    machine: Machine
    engine: str
    kv_dtype: str
    load: EngineLimits
    widths: tuple[Width, ...]
    given: tuple[Given, ...] = ()
    notes: tuple[str, ...] = ()
    named: bool = False

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
        if self.named:
            copies, tokens = best.role.replicas, best.kv_tokens / MILLION
            word = "copies" if copies > 1 else "copy"
            return (
                f"{self.model} fits {self.machine.name} as [{best.role.parallel}]: {least} device{'s' * (least > 1)} a "
                f"copy; {tokens:,.2f} M KV tokens left in {self.kv_dtype.upper()} on {copies} {word}"
            )
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
            "length": self.load.length,
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
    deploy: str | None = None,
    engine: EngineName = "vllm",
    kv_dtype: Literal["native", "bf16", "fp8"] = "native",
    max_model_len: int | None = None,
    memory_fraction: float | None = None,
    chunk: int | None = None,
    max_sequences: int | None = None,
    devices: int | None = None,
    assume: Assume = None,
) -> Fit:
    """Compute whether a model fits a machine, and how much KV cache is left.

    Parameters
    ----------
    model : as `load_model` takes it
    on : as `load_machine` takes it; only the memory of the machine has to be published
    deploy : widths and settings of one instance, such as "tp=8" or "tp=4,dp=2,ep=8"; None: every split is tried
    engine : serving engine, which determines how the memory is divided
    kv_dtype : storage of the KV cache; "native": as the checkpoint says
    max_model_len : the KV cache of each rank must hold a request of this length, as vLLM demands at its start [token]
    memory_fraction : share of device memory that the engine takes; None: the default of the engine, which SGLang
        derives for the device [-]
    chunk : token budget of a step of one rank; None: the default of the engine for the device [token]
    max_sequences : running sequences of one rank; None: the default of the engine for the device [count]
    devices : number of devices of the machine to use; None: all [count]
    assume : numbers that replace numbers of the catalog, a YAML file or a dict

    Raises
    ------
    SpecError : an argument is wrong, or no split is legal for any size of memory
    DoesNotFit : no split of the whole machine holds the model; the message says what would
    """
    read, numbers = load_model(model), with_memory_fraction(given(assume), memory_fraction)
    for value, flag in ((chunk, "--chunk"), (max_sequences, "--max-sequences")):
        if value is not None and value < 1:
            raise SpecError(f"{value} is not a number of 1 or more", where=flag)
    request = Workload(name="fit", isl=1 if max_model_len is None else max(max_model_len - 1, 1), osl=1)
    setting = setting_of(read, on, engine, request, numbers, max_model_len=max_model_len, devices=devices, needs=READS)
    load_calibration(assume=numbers).family(setting.machine.family)  # a plan would refuse an unknown family
    dtype = read.native_kv if kv_dtype == "native" else kv_dtype
    load = load_of(setting, chunk=chunk, sequences=max_sequences)
    shared = any(item.path == "engine.memory_fraction" for item in numbers)
    if deploy is None:
        return fit_setting(setting if shared else _with_derived_share(setting, load, 1), dtype, load)
    terms = {term.partition("=")[0].strip() for term in deploy.split(",")}
    role = read_deploy(deploy, setting)
    for name, value in (("chunk_tokens", chunk), ("max_sequences", max_sequences)):
        if name in terms and value is not None:
            raise SpecError(f"{name} is given twice", where="--deploy", hint="leave it out, or leave the option out")
    if "chunk_tokens" in terms:
        load = dataclasses.replace(load, chunk=max(role.chunk_tokens // role.parallel.dp, 1))
    if "max_sequences" in terms:
        load = dataclasses.replace(load, sequences=max(role.max_sequences // role.parallel.dp, 1))
    if "kv_dtype" not in terms:
        role = role.model_copy(update={"kv_dtype": dtype})
    if not shared and "memory_fraction" not in terms:
        setting = _with_derived_share(setting, load, role.parallel.tp * role.parallel.pp)
        role = role.model_copy(update={"memory_fraction": setting.memory_fraction})
    return fit_role(with_role_fraction(setting, role.memory_fraction), role, load)


def _with_derived_share(setting: Setting, load: EngineLimits, devices: int) -> Setting:
    """The setting with the share of memory that the engine derives for the device, where it derives one."""
    share = derived_share(
        setting.engine, setting.machine.hbm_bytes, chunk=load.chunk, graph_sequences=load.graph_sequences,
        devices=devices,
    )  # fmt: skip
    return setting if share is None else with_role_fraction(setting, share)


def fit_role(setting: Setting, role: Role, load: EngineLimits) -> Fit:
    """The memory of one split.

    Parameters
    ----------
    setting : model, machine, engine and workload
    role : the split and the storage of its cache
    load : settings of the engine

    Raises
    ------
    SpecError : the split breaks a rule of shapes; the message names the rule
    DoesNotFit : the split does not hold the model
    """
    points = loaded(Points.of(role), setting, load)
    broken = [item for item in explain(points.role("aggregated", 0, setting), setting) if item.rule in SHAPE]
    if broken:
        raise SpecError(f"{broken[0].rule}: {broken[0].message}", where=f"[{role.parallel}]")
    held = held_by(points, setting, load)
    if not held:
        raise refused(setting, role.kv_dtype, load, points)
    return dataclasses.replace(_answer(setting, role.kv_dtype, load, held), named=True)


def fit_setting(setting: Setting, kv_dtype: str, load: EngineLimits | None = None) -> Fit:
    """Find the best split of each width.

    A split counts if it keeps all rules of shape and memory, without speculation, and with the fewest redundant experts
    that its widths allow.

    Parameters
    ----------
    setting : model, machine, engine and workload
    kv_dtype : storage of the KV cache
    load : settings of the engine; None: its defaults for the device

    Raises
    ------
    SpecError : no split is legal for any size of memory; the message names the rule
    DoesNotFit : no split of the whole machine holds the model; the message says what would
    """
    load = load_of(setting) if load is None else load
    points = planned(setting, kv_dtype)
    _must_have_a_shape(points, setting)
    held = held_by(points, setting, load)
    least = min((width.devices for width in held), default=setting.machine.devices + 1)
    widths = [*fewest(setting, kv_dtype, load, least), *held]
    if not widths:
        raise refused(setting, kv_dtype, load, points)
    return _answer(setting, kv_dtype, load, widths)


def _answer(setting: Setting, kv_dtype: str, load: EngineLimits, widths: list[Width]) -> Fit:
    model, engine = setting.model, setting.engine
    note = context_note(model)
    limit = f"{note} The KV cache of each rank holds a request of this length." if note else ""
    answer = Fit(model.name, setting.machine, engine.name, kv_dtype, load, tuple(widths), setting.given)
    if not note and answer.best.concurrency < 1:
        most = longest(setting, load, Points.of(answer.best.role))
        starts = "" if engine.memory.pages == "pools" else f" {engine.title} refuses to start without it."
        limit = (
            f"No rank of [{answer.best.role.parallel}] holds one request of the longest length that the model reads, "
            f"{load.length:,} tokens: write {FLAG} of {most:,} or less.{starts}"
        )
    return dataclasses.replace(answer, notes=tuple(filter(None, (limit, model.converted))))


def _must_have_a_shape(points: Points, setting: Setting) -> None:
    for check in SHAPE.values():
        verdict = check(Proposal(points, setting))
        if not verdict.kept.any():
            raise SpecError(verdict.why(), where=f"{setting.model.name} on {setting.machine.name}")
