"""`tokenworks fit`: whether a model fits, on how few devices, and how much KV cache is left."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from tokenworks.cli import SPLIT
from tokenworks.cli.options import (
    DEVICES,
    MACHINE,
    MAX_MODEL_LEN,
    MEMORY_FRACTION,
    MODEL,
    ON,
    NumberOptions,
    Output,
)
from tokenworks.cli.output import console, emit
from tokenworks.cli.tables import Columns, print_table
from tokenworks.planning.fit import MILLION, Fit
from tokenworks.planning.fit import fit as fit_model
from tokenworks.planning.fit_search import Width
from tokenworks.specs.deployment import EngineName

GB, GIB = 1e9, 2**30


def fit(
    model: Annotated[str, MODEL],
    *,
    on: Annotated[str, ON],
    devices: Annotated[int | None, DEVICES] = None,
    deploy: Annotated[str | None, Parameter(group=MACHINE)] = None,
    engine: Annotated[EngineName, Parameter(group=MACHINE)] = "vllm",
    kv_dtype: Annotated[Literal["native", "bf16", "fp8"], Parameter(group=MACHINE)] = "native",
    max_model_len: Annotated[int | None, MAX_MODEL_LEN] = None,
    memory_fraction: Annotated[float | None, MEMORY_FRACTION] = None,
    chunk: Annotated[int | None, Parameter(group=MACHINE)] = None,
    max_sequences: Annotated[int | None, Parameter(group=MACHINE)] = None,
    numbers: NumberOptions = NumberOptions(),  # noqa: B008 - frozen
    output: Output = "table",
) -> None:
    """Check whether the model fits the machine, and how much memory is left for the KV cache.

    Parameters
    ----------
    deploy
        Widths and settings of one instance, such as tp=8 or tp=4,dp=2,ep=8; by default every split is tried.
    engine
        Serving engine. Its rules divide the memory. Numbers of another version: --set engine.version=0.21.
    kv_dtype
        Storage of the KV cache; native is the dtype that the checkpoint names.
    chunk
        Tokens of one step of a rank (--max-num-batched-tokens of vLLM, --chunked-prefill-size of SGLang); by default
        what the engine takes for the device.
    max_sequences
        Running sequences of a rank (--max-num-seqs, --max-running-requests); by default what the engine takes for the
        device.
    """
    result = fit_model(
        model,
        on,
        deploy=deploy,
        engine=engine,
        kv_dtype=kv_dtype,
        max_model_len=max_model_len,
        memory_fraction=memory_fraction,
        chunk=chunk,
        max_sequences=max_sequences,
        devices=devices,
        assume=numbers.given(),
    )
    if output == "table":
        _print(result)
    else:
        emit(result.plain(), output)


def _print(result: Fit) -> None:
    out, machine, best = console(), result.machine, result.best
    out.paragraph(result.summary)
    for note in result.notes:
        out.paragraph(note)
    sold = f", sold as {machine.hbm_sold / GB:,.0f} GB" if machine.hbm_sold else ""
    out.paragraph(
        f"\nSoftware sees {machine.hbm_bytes / GB:,.1f} GB ({machine.hbm_bytes / GIB:,.1f} GiB) on one device{sold}. "
        f"The engine may use {best.role.memory_fraction:.0%}: {best.usable / GB:,.1f} GB. GB per device:\n"
    )
    columns: Columns = {"devices": "right", "split": "left"}
    headings = ("copies", "redundant", "weights", "activations", "buffers", "reserve", "KV", "B/token", "M tokens")
    columns |= dict.fromkeys(headings, "right")
    spare = ("B/token", "buffers", "reserve", "activations", "redundant", "weights", "copies")
    print_table(out, columns, [_row(width) for width in result.widths], spare=spare)
    load = result.load
    out.paragraph(
        f"\nIn the words of the engine, [{best.role.parallel}]: model weights take {best.weights / GIB:,.2f} GiB, KV "
        f"cache memory {best.kv / GIB:,.2f} GiB, KV cache size {best.rank_tokens:,.0f} tokens, maximum concurrency for "
        f"{load.length:,} tokens per request {best.concurrency:,.2f}x. Graphs take about {best.graphs / GIB:,.1f} GiB."
    )
    out.paragraph(
        f"\nAll rows: chunks of {load.chunk:,} tokens and {load.sequences:,} sequences per rank, MTP off. redundant = "
        "additional copies of experts. B/token = bytes that one token of context takes on one device. M tokens = "
        f"million tokens that the KV cache of the whole machine holds. {SPLIT}"
    )
    if result.assumed:
        out.paragraph("\nAssumed: " + "; ".join(f"{item.path} = {item.value}" for item in result.assumed))


def _row(width: Width) -> list[str]:
    sizes = (width.weights, width.activations, width.buffers, width.reserve, width.kv)
    return [
        str(width.devices),
        str(width.role.parallel),
        str(width.role.replicas),
        str(width.role.redundant_experts),
        *(f"{size / GB:,.1f}" for size in sizes),
        f"{width.kv_bytes_per_token:,.0f}",
        f"{width.kv_tokens / MILLION:,.2f}",
    ]
