"""Properties of a serving engine that cost time or memory. Each engine is one file in catalog/engines."""

from __future__ import annotations

import functools
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.edits import edited
from tokenworks.specs.given import Assume, Given, given, of
from tokenworks.specs.load import CATALOG, read_yaml, validate
from tokenworks.specs.provenance import Bytes, Number, Seconds, Spec
from tokenworks.specs.tier import TierOffers

DEFAULT = "vllm"
"""The engine whose properties are used for an engine name that the catalog does not know."""

Count = Annotated[int, Field(ge=1)]


class ExpertLayout(Spec):
    """A limit of an engine for models with routed experts: only one of several widths can be above 1.

    Parameters
    ----------
    one_of : widths of which only one can be above 1
    why : option of the engine that causes the limit
    instead : name of an engine without this limit
    """

    one_of: tuple[Literal["tp", "dp", "ep", "expert_tp"], ...]
    why: str
    instead: str


class KernelWeights(Spec):
    """How the kernels of an engine hold expert weights of one format, if not as the checkpoint stores them.

    Parameters
    ----------
    format : storage format of the experts, by its name in `specs.model.Format`
    families : families of the devices whose kernels do this, by how their names begin; empty: all devices
    beside_fp8 : only for checkpoints whose other matrices are FP8 blocks
    inner, hidden : multiples that the kernel pads the inner width of an expert (per device) and the hidden width to
        [count]
    extra : memory that the engine keeps beside each element, such as a second copy of the scales [byte]
    source : file or pull request of the engine that does this
    """

    format: str
    families: tuple[str, ...] = ()
    beside_fp8: bool = False
    inner: Count = 1
    hidden: Count = 1
    extra: Bytes
    source: str


class DerivedShare(Spec):
    """How an engine derives the share of the memory that it takes, if the user gives none.

        share = 1 - max(base + token x chunk + graph x largest captured batch + device x tp x pp, least) / memory

    Parameters
    ----------
    base, token, graph, device : parts of the memory that is not taken, see the formula [byte]
    least : smallest memory that is not taken, on devices with more than `large` [byte]
    large : see `least` [byte]
    """

    base: Bytes
    token: Bytes
    graph: Bytes
    device: Bytes
    least: Bytes
    large: Bytes


class EngineMemory(Spec):
    """The rules by which an engine divides the memory of a device.

    Parameters
    ----------
    budget : what `memory_fraction` is a share of. "profile" (vLLM): of all memory that software sees; a run with a
        full chunk and a full batch measures what is not left for the KV cache. "static" (SGLang): of the memory that is
        free before weights are loaded; weights and KV cache share it, and activations and graphs use the rest
    context : memory that the driver takes when a process opens the device; "profile" does not count it [byte]
    outside_torch : memory that libraries take on one device beside the tensors of torch [byte]
    group : buffers of all communication groups together, if an instance has more than one device [byte]
    logit : peak memory of the sampler, one sequence and one entry of the vocabulary [byte]
    graph : memory of a captured graph, one batch size and one layer [byte]
    graphs_counted : share of the graphs that the profile counts: 0 before vLLM 0.21, 1 since then [-]
    steps_in_flight : steps whose tokens hold blocks of the KV cache at the same time [count]
    pages : "unified" (vLLM): layers with windows or states share one pool of equal blocks with the other layers;
        "pools" (SGLang): windows and states have pools of their own
    window_share : "pools": tokens of the pool of windows / tokens of the pool of the other layers [-]
    compressed_window_share : the same for models with compressed attention [-]
    state_share : "pools": memory of the pool of recurrent states / memory of the other pools [-]
    derived : how the engine derives `memory_fraction` if the user gives none; None: it has one default for all devices
    kernels : how kernels hold weights; the first entry that matches counts
    """

    budget: Literal["profile", "static"]
    context: Bytes
    outside_torch: Bytes
    group: Bytes
    logit: Bytes
    graph: Bytes
    graphs_counted: Number
    steps_in_flight: Number
    pages: Literal["unified", "pools"]
    window_share: Number | None = None
    compressed_window_share: Number | None = None
    state_share: Number | None = None
    derived: DerivedShare | None = None
    kernels: tuple[KernelWeights, ...] = ()


class DeviceDefaults(Spec):
    """Settings that an engine chooses for devices of a size, if the user sets nothing else.

    Parameters
    ----------
    below : the settings are for devices with less memory than this; null: for all larger devices [byte]
    families : only for devices of these families, by how their names begin; empty: for all devices
    chunk_tokens : token budget of a step of one rank [token]
    max_sequences : running sequences of one rank [count]
    graph_sequences : largest batch with a captured graph [count]
    """

    below: Bytes
    families: tuple[str, ...] = ()
    chunk_tokens: Count
    max_sequences: Count
    graph_sequences: Count


class Port(Spec):
    """How an engine runs on a device family to which it was ported, and where it is less mature than at home.

    Parameters
    ----------
    families : families of the devices, by how their names begin
    host_layer : CPU time to launch the kernels of one layer, if the step is not a captured graph [s]
    graph_tokens : steps with more tokens than this are not captured graphs [token]
    spread : 80 % of times lie in [t / spread, t x spread] around a predicted time t for this reason alone [-]
    source : where the numbers come from
    """

    families: tuple[str, ...]
    host_layer: Seconds
    graph_tokens: Number
    spread: Number
    source: str


class DraftRule(Spec):
    """Draft tokens that published recipes of an engine use for some models.

    Parameters
    ----------
    models : models, by how their names begin; empty: all models
    families : families of the devices, by how their names begin; empty: all devices
    dp : only with (True) or without (False) data-parallel attention; None: both
    disaggregated : only with (True) or without (False) a prefill role of its own; None: both
    sequences : only with at least this many decoding sequences on a rank [count]
    tokens : draft tokens per step [token]
    """

    models: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    dp: bool | None = None
    disaggregated: bool | None = None
    sequences: float = 0
    tokens: Number

    def holds_for(self, model: str, family: str, sequences: float, *, dp: bool, disaggregated: bool) -> bool:
        """Whether the rule is for a deployment.

        Parameters
        ----------
        model : name of the model
        family : family of the devices
        sequences : decoding sequences of a rank [count]
        dp : whether attention is data parallel
        disaggregated : whether prefill has a role of its own
        """
        named = not self.models or model.startswith(self.models)
        here = not self.families or family.startswith(self.families)
        split = self.dp in (None, dp) and self.disaggregated in (None, disaggregated)
        return named and here and split and sequences >= self.sequences


class VersionChange(Spec):
    """Numbers of an engine in its versions up to one, or from one on.

    Parameters
    ----------
    since, until : first and last version with these numbers, such as "0.21"; one of the two is given
    numbers : values by path below the engine, such as `memory.logit: 10 B`
    source : release note, pull request or file that made the change
    """

    since: str = ""
    until: str = ""
    numbers: dict[str, str]
    source: str

    def holds_for(self, version: str) -> bool:
        """Whether a version has these numbers."""
        key = version_key(version)
        return key >= version_key(self.since) if self.since else key <= version_key(self.until)


class Recipe(Spec):
    """What the files of a benchmark say of its rows: settings of the engine, and its requests.

    The first recipe of an engine that holds for a row counts.

    Parameters
    ----------
    group : group of the measured rows of the benchmark
    devices, models : names of the devices and of the models that the settings are for
    weights : dtypes of the weights; empty: all dtypes
    disaggregated : whether prefill has instances of its own
    drafts : whether steps have draft tokens; None: both
    dp : whether aggregated or prefill instances have several dp ranks; None: both
    isl : shortest input, as the benchmark names it [token]
    concurrency : smallest number of requests in flight [count]
    receive_interval : as `Engine.receive_interval`; None: the default [count]
    max_sequences : as in `Engine`, of each dp rank that decodes; None: the default [count]
    chunk_tokens : as in `Engine`, of each dp rank that prefills; None: the default [token]
    shared_chunk_tokens : instead of it: of an instance that prefills, its dp ranks share it [token]
    kv_dtype : dtype of the KV cache; None: as other recipes of the engine have it
    variation : std / mean of the input and of the output lengths of its requests; None: not known [-]
    source : launch files and requests of the benchmark
    """

    group: str
    devices: tuple[str, ...]
    models: tuple[str, ...]
    weights: tuple[str, ...] = ()
    disaggregated: bool = False
    drafts: bool | None = None
    dp: bool | None = None
    isl: Count = 1
    concurrency: Count = 1
    receive_interval: Count | None = None
    max_sequences: Count | None = None
    chunk_tokens: Count | None = None
    shared_chunk_tokens: Count | None = None
    kv_dtype: Literal["bf16", "fp8"] | None = None
    variation: tuple[float, float] | None = None
    source: str

    def chunk_of(self, dp: int) -> int | None:
        """The token budget of each dp rank of an instance that prefills; None: the default [token].

        Parameters
        ----------
        dp : dp ranks of the instance [count]
        """
        return self.shared_chunk_tokens // dp if self.shared_chunk_tokens else self.chunk_tokens


def version_key(version: str) -> tuple[int, ...]:
    """A version as numbers that compare: "0.19.1" is (0, 19, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


class Engine(Spec):
    """Defaults and overheads of one engine.

    Parameters
    ----------
    name, title, version : name in the catalog, title for people, and version of the engine
    aliases : words in names of other engines that have the same properties
    families : families of the devices that the engine runs on, by how their names begin; empty: any device, as vendors
        add back ends of their own
    scheduler : scheduling policy, by its name in the simulation
    mixing : "mixed" runs prefill chunks and decodes in one step; "prefill-first" runs prefill in steps of its own
    dp_prefill : "together" delays prompts for a few steps, so that data-parallel ranks prefill at the same time;
        "alone" lets each rank start at once, and all other ranks wait for its step
    host : "hidden" prepares the next step while the current one runs; "serial" prepares it between two steps
    expert_layout : limit for the layout of experts; None if every split of routed experts is possible
    fp8_kv : families of the devices on which published recipes ask for an FP8 cache if weights are FP8 or FP4; on other
        devices the checkpoint decides
    host_step : CPU time of a step [s]
    host_sequence : additional CPU time per sequence of the step [s]
    host_drafts : CPU time of a step with draft tokens in which the device waits: launching draft, verification and
        extension one after the other, if the scheduler does not overlap them with the device [s]
    host_layer : CPU time to launch the kernels of one layer, if the step is not a captured graph [s]
    request : time that client, HTTP and tokeniser add to TTFT, once per role [s]
    admission : time in which the front end of an instance (HTTP server, tokeniser) accepts one request. It accepts
        requests one after the other, so requests that are sent together reach the scheduler with this distance [s]
    graph_tokens : steps with more tokens than this are not captured graphs [token]
    memory_fraction : default share of device memory that the engine takes [-]
    memory : how the engine divides the memory of a device
    dispatch_tokens : tokens of a rank for which dispatch buffers have room [token]
    small_device : with less device memory than this, the default chunk is at most `small_chunk` [byte]
    small_chunk : see `small_device` [token]
    defaults : settings by size of the device; the first entry that matches counts
    ports : numbers on device families to which the engine was ported; the first entry that matches counts, see `on`
    maturity : 80 % of times lie within this factor because the engine is a port; 1 where it is at home [-]
    changes : numbers that other versions have: `--set engine.version=0.21` applies those that hold for 0.21
    recipes : settings of published benchmarks; the first entry that matches a measured row counts
    receive_interval : decode steps between two looks of the scheduler for new requests; it also looks after each step
        with prefill, and when it is idle [count]
    output_reserve : share of the output to come that admission keeps free at the start; None if admission needs room
        for the prompt only [-]
    drafts : draft tokens of published recipes with MTP or EAGLE; the first rule that holds counts
    kv_tiers : what the engine offers for KV tiers below device memory; None: it has none that tokenworks knows
    kv_block : default size of a KV block [token]
    chunk_tokens : default token budget of a step [token]
    max_sequences : default number of running sequences [count]
    """

    name: str
    title: str
    version: str
    aliases: tuple[str, ...]
    families: tuple[str, ...] = ()
    scheduler: Literal["vllm", "sglang"]
    mixing: Literal["mixed", "prefill-first"]
    dp_prefill: Literal["together", "alone"]
    host: Literal["hidden", "serial"]
    expert_layout: ExpertLayout | None = None
    fp8_kv: tuple[str, ...] = ()
    host_step: Seconds
    host_sequence: Seconds
    host_drafts: Seconds
    host_layer: Seconds
    request: Seconds
    admission: Seconds
    graph_tokens: Number
    memory_fraction: Number
    memory: EngineMemory
    dispatch_tokens: Number
    small_device: Bytes
    small_chunk: Number
    receive_interval: Count = 1
    output_reserve: Number | None = None
    drafts: tuple[DraftRule, ...]
    kv_tiers: TierOffers | None = None
    kv_block: Count
    chunk_tokens: Count
    max_sequences: Count
    defaults: tuple[DeviceDefaults, ...] = ()
    ports: tuple[Port, ...] = ()
    maturity: float = 1.0
    changes: tuple[VersionChange, ...] = ()
    recipes: tuple[Recipe, ...] = ()

    @field_validator("version", mode="before")
    @classmethod
    def _text(cls, version: object) -> object:
        """A version such as 0.21 may be written as a number."""
        return str(version) if isinstance(version, (int, float)) else version

    @model_validator(mode="after")
    def _possible(self) -> Engine:
        fraction = self.memory_fraction.value
        if fraction is not None and not 0 < fraction <= 1:
            raise ValueError(f"memory_fraction is {fraction:g}; it must be above 0 and at most 1")
        if not self.drafts or not self.drafts[-1].holds_for("", "", 0, dp=False, disaggregated=False):
            raise ValueError("drafts: the last rule must hold for every model and deployment")
        return self

    def recipe_drafts(self, model: str, family: str, sequences: float, *, dp: bool, disaggregated: bool) -> int:
        """Draft tokens of the recipes of the engine, see `DraftRule.holds_for`. The last rule holds for everything."""
        rules = (
            one for one in self.drafts if one.holds_for(model, family, sequences, dp=dp, disaggregated=disaggregated)
        )
        return int(next(rules).tokens.value or 0)

    def runs_on(self, family: str) -> bool:
        """Whether the engine runs on devices of a family."""
        return not self.families or family.startswith(self.families)

    def on(self, family: str) -> Engine:
        """The engine with its numbers on devices of a family.

        Physics says what a kernel takes, and not how many operators an engine runs for a layer, nor whether it
        captures them as a graph. On a device family to which an engine was ported, it runs more of them, one by one.

        Parameters
        ----------
        family : family of the device
        """
        for port in self.ports:
            if family.startswith(port.families):
                return self.model_copy(
                    update={
                        "host_layer": port.host_layer, "graph_tokens": port.graph_tokens,
                        "maturity": port.spread.value or 1.0, "ports": (),
                    }
                )  # fmt: skip
        return self

    def defaults_on(self, family: str, hbm_bytes: float) -> DeviceDefaults | None:
        """The settings that the engine chooses for a device, or None if the catalog has none.

        Parameters
        ----------
        family : family of the device
        hbm_bytes : memory of the device that software sees [byte]
        """
        for one in self.defaults:
            fits = one.below.value is None or hbm_bytes < one.below.value
            if fits and (not one.families or family.startswith(one.families)):
                return one
        return None


OF_MEASURED_ROWS = ("small_device", "small_chunk")
"""Numbers that complete measured rows with open fields. Predictions do not read them."""


def engine_names() -> list[str]:
    """Names of the engines in the catalog, sorted."""
    return sorted(path.stem for path in (CATALOG / "engines").glob("*.yaml"))


def load_engine(name: str | Engine, *, assume: Assume = None, family: str = "") -> Engine:
    """Load an engine of the catalog, with the numbers that the user set.

    Parameters
    ----------
    name : name in the catalog, or a loaded engine
    assume : values by path, such as `engine.host_step: 1 ms`, as a YAML file or a dict; paths of other areas do nothing
    family : family of the devices, for engines that were ported to it, see `Engine.on`

    Raises
    ------
    UnknownName : no such engine
    SpecError : a path or a value of `assume` is not valid
    """
    engine = (_shipped(name) if isinstance(name, str) else name).on(family)
    numbers = of("engine", given(assume))
    version = next((item for item in numbers if item.path == "engine.version"), None)
    if version is not None:
        engine = _of_version(engine, version)
    return edited(engine, [item for item in numbers if item is not version], prefix="engine.", but=FIXED)


FIXED = ("name", "changes", "defaults", "drafts", "kv_tiers", "ports", "maturity", "recipes")
"""Parts of an engine that a user cannot set one by one."""


def _of_version(engine: Engine, asked: Given) -> Engine:
    """The engine with the numbers of another version."""
    if not version_key(asked.value):
        raise SpecError(f"{asked.value!r} is not a version", where=asked.where, hint="give a version such as 0.21")
    numbers = {
        path: Given(path=f"engine.{path}", value=value, why=f"{engine.title} {asked.value}: {change.source}")
        for change in engine.changes
        if change.holds_for(asked.value)
        for path, value in change.numbers.items()
    }
    changed = edited(engine, list(numbers.values()), prefix="engine.", but=FIXED)
    return changed.model_copy(update={"version": asked.value})


@functools.cache
def _shipped(name: str) -> Engine:
    if name not in engine_names():
        raise UnknownName("engine", name, engine_names())
    path = CATALOG / "engines" / f"{name}.yaml"
    return validate(Engine, read_yaml(path), str(path))


def find_engine(name: str) -> Engine:
    """The engine of the catalog for any engine name: by its name, else by its aliases, else the default engine."""
    known = engine_names()
    if name not in known:
        name = next((one for one in known if any(word in name.lower() for word in load_engine(one).aliases)), DEFAULT)
    return load_engine(name)
