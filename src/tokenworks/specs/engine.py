"""The habits of a serving engine that cost time or memory, one catalog/engines/*.yaml each."""

from __future__ import annotations

import functools
from typing import Annotated, Literal

from pydantic import Field

from tokenworks.errors import UnknownName
from tokenworks.specs.load import CATALOG, read_yaml, validate
from tokenworks.specs.provenance import Bytes, Number, Seconds, Spec

Count = Annotated[int, Field(ge=1)]


class Engine(Spec):
    """Defaults and overheads of one engine.

    mixing : "mixed" puts prefill chunks and decodes in one step; "prefill-first" runs a prefill step by itself
    dp_prefill : "together" holds prompts back for some steps, so that data-parallel ranks prefill at the same time;
        "alone" lets each rank begin when it has one, and all others wait for its step
    host : "hidden" prepares the next step while this one runs; "serial" prepares it in between
    host_step, host_sequence : CPU time of a step, and what each sequence in it adds
    host_layer : launching one layer's kernels where the step is not a captured graph
    request : what client, HTTP and tokeniser add to TTFT, once for each role
    admission : time in which the server takes in one request of many that come at once
    graph_tokens : steps of more tokens are launched kernel by kernel
    memory_fraction : of device memory, for everything; reserve : context, graphs and fragments, beside weights,
        activations and communication; group_buffer : of one communication group
    dispatch_tokens : tokens of a rank for which dispatch buffers are laid out
    kv_block, chunk_tokens, max_sequences : defaults
    """

    name: str
    title: str
    version: str
    mixing: Literal["mixed", "prefill-first"]
    dp_prefill: Literal["together", "alone"]
    host: Literal["hidden", "serial"]
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
    kv_block: Count
    chunk_tokens: Count
    max_sequences: Count


def engine_names() -> list[str]:
    """Names of the engines that the catalog ships, sorted."""
    return sorted(path.stem for path in (CATALOG / "engines").glob("*.yaml"))


@functools.cache
def load_engine(name: str) -> Engine:
    """An engine of the catalog."""
    if name not in engine_names():
        raise UnknownName("engine", name, engine_names())
    path = CATALOG / "engines" / f"{name}.yaml"
    return validate(Engine, read_yaml(path), str(path))
