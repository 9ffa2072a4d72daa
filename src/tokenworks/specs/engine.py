"""Properties of a serving engine that cost time or memory. Each engine is one file in catalog/engines."""

from __future__ import annotations

import functools
from typing import Annotated, Literal

from pydantic import Field

from tokenworks.errors import UnknownName
from tokenworks.specs.edits import edited
from tokenworks.specs.given import Assume, given, of
from tokenworks.specs.load import CATALOG, read_yaml, validate
from tokenworks.specs.provenance import Bytes, Number, Seconds, Spec

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
    kv_dtype : "checkpoint" uses the KV dtype of the checkpoint; "float-weights" uses FP8 if weights are FP8 or FP4
    host_step : CPU time of a step [s]
    host_sequence : additional CPU time per sequence of the step [s]
    host_layer : CPU time to launch the kernels of one layer, if the step is not a captured graph [s]
    request : time that client, HTTP and tokeniser add to TTFT, once per role [s]
    admission : time in which the server accepts one request, if many arrive at once [s]
    graph_tokens : steps with more tokens than this are not captured graphs [token]
    memory_fraction : default share of device memory that the engine takes [-]
    reserve : memory for context, graphs and fragments, beside weights, activations and communication [byte]
    group_buffer : buffer of one communication group [byte]
    dispatch_tokens : tokens of a rank for which dispatch buffers have room [token]
    small_device : with less device memory than this, the default chunk is at most `small_chunk` [byte]
    small_chunk : see `small_device` [token]
    output_reserve : share of the output to come that admission keeps free at the start; None if admission needs room
        for the prompt only [-]
    mtp_drafts : default number of draft tokens with MTP [token]
    mtp_drafts_dp : the same with data parallelism [token]
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
    kv_dtype: Literal["checkpoint", "float-weights"]
    host_step: Seconds
    host_sequence: Seconds
    host_layer: Seconds
    request: Seconds
    admission: Seconds
    graph_tokens: Number
    memory_fraction: Number
    reserve: Bytes
    group_buffer: Bytes
    dispatch_tokens: Number
    small_device: Bytes
    small_chunk: Number
    output_reserve: Number | None = None
    mtp_drafts: Number
    mtp_drafts_dp: Number
    kv_block: Count
    chunk_tokens: Count
    max_sequences: Count

    def runs_on(self, family: str) -> bool:
        """Whether the engine runs on devices of a family."""
        return not self.families or family.startswith(self.families)


OF_MEASURED_ROWS = ("small_device", "small_chunk", "mtp_drafts", "mtp_drafts_dp")
"""Numbers that complete measured rows with open fields. Predictions do not read them."""


def engine_names() -> list[str]:
    """Names of the engines in the catalog, sorted."""
    return sorted(path.stem for path in (CATALOG / "engines").glob("*.yaml"))


def load_engine(name: str | Engine, *, assume: Assume = None) -> Engine:
    """Load an engine of the catalog, with the numbers that the user set.

    Parameters
    ----------
    name : name in the catalog, or a loaded engine
    assume : values by path, such as `engine.host_step: 1 ms`, as a YAML file or a dict; paths of other areas do nothing

    Raises
    ------
    UnknownName : no such engine
    SpecError : a path or a value of `assume` is not valid
    """
    engine = _shipped(name) if isinstance(name, str) else name
    return edited(engine, of("engine", given(assume)), prefix="engine.", but=("name",))


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
