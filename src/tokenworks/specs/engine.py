"""The habits of a serving engine that cost time or memory, one catalog/engines/*.yaml each."""

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
"""The engine that a name is taken to mean if no engine is known by it."""

Count = Annotated[int, Field(ge=1)]


class ExpertLayout(Spec):
    """Widths of which an engine can only set one above 1 where a model has routed experts.

    why : the engine's option that fixes it; instead : an engine without this limit
    """

    one_of: tuple[Literal["tp", "dp", "ep", "expert_tp"], ...]
    why: str
    instead: str


class Engine(Spec):
    """Defaults and overheads of one engine.

    aliases : words in the names of engines that the catalog does not hold, and whose habits are taken to be these
    scheduler : whose policy its scheduler follows, by the names that the simulation gives them
    mixing : "mixed" puts prefill chunks and decodes in one step; "prefill-first" runs a prefill step by itself
    dp_prefill : "together" holds prompts back for some steps, so that data-parallel ranks prefill at the same time;
        "alone" lets each rank begin when it has one, and all others wait for its step
    host : "hidden" prepares the next step while this one runs; "serial" prepares it in between
    expert_layout : None where every split of routed experts can be set
    kv_dtype : "checkpoint" keeps what the checkpoint asks for; "float-weights" FP8 wherever weights are FP8 or FP4
    host_step, host_sequence : CPU time of a step, and what each sequence in it adds
    host_layer : launching one layer's kernels where the step is not a captured graph
    request : what client, HTTP and tokeniser add to TTFT, once for each role
    admission : time in which the server takes in one request of many that come at once
    graph_tokens : steps of more tokens are launched kernel by kernel
    memory_fraction : of device memory, for everything; reserve : context, graphs and fragments, beside weights,
        activations and communication; group_buffer : of one communication group
    dispatch_tokens : tokens of a rank for which dispatch buffers are laid out
    kv_block, chunk_tokens, max_sequences : defaults
    small_device, small_chunk : below so much device memory the default chunk is at most this one
    mtp_drafts, mtp_drafts_dp : draft tokens where MTP is on and no number is said; the latter with data parallelism
    """

    name: str
    title: str
    version: str
    aliases: tuple[str, ...]
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
    mtp_drafts: Number
    mtp_drafts_dp: Number
    kv_block: Count
    chunk_tokens: Count
    max_sequences: Count


OF_MEASURED_ROWS = ("small_device", "small_chunk", "mtp_drafts", "mtp_drafts_dp")
"""Numbers by which a measured row is completed that leaves them open; no other prediction reads them."""


def engine_names() -> list[str]:
    """Names of the engines that the catalog ships, sorted."""
    return sorted(path.stem for path in (CATALOG / "engines").glob("*.yaml"))


def load_engine(name: str | Engine, *, assume: Assume = None) -> Engine:
    """An engine of the catalog, with the numbers of a user in place.

    Parameters
    ----------
    name : of the catalog; an engine that was read before is taken as it is
    assume : values by path, such as `engine.host_step: 1 ms`, as a YAML file or a dict; other areas are left alone

    Raises
    ------
    UnknownName : no such engine
    SpecError : a path or a value of `assume` that no engine has
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
    """The catalog's engine of a name, or the one whose habits an engine of that name is taken to have."""
    known = engine_names()
    if name not in known:
        name = next((one for one in known if any(word in name.lower() for word in load_engine(one).aliases)), DEFAULT)
    return load_engine(name)
