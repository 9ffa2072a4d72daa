"""`tokenworks fit`: does the model fit, on how few devices, how much KV cache is left, and where the memory goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tokenworks.cli.options import ASSUME, MAX_MODEL_LEN, MODEL, ON, Output
from tokenworks.cli.output import console, emit, table
from tokenworks.planning.fit import CHUNK, MILLION, Fit, Width, fit_model
from tokenworks.specs.deployment import EngineName

GB, GIB = 1e9, 2**30


def fit(
    model: Annotated[str, MODEL],
    *,
    on: Annotated[str, ON],
    engine: EngineName = "vllm",
    kv_dtype: Literal["native", "bf16", "fp8"] = "native",
    max_model_len: Annotated[int | None, MAX_MODEL_LEN] = None,
    assume: Annotated[Path | None, ASSUME] = None,
    output: Output = "table",
) -> None:
    """Does the model fit the machine, and what is left for the KV cache?

    Parameters
    ----------
    engine
        Whose reserve and buffers are counted.
    kv_dtype
        Storage of the KV cache; native is what the checkpoint asks for.
    """
    found = fit_model(model, on, engine=engine, kv_dtype=kv_dtype, max_model_len=max_model_len, assume=assume)
    if output == "table":
        _print(found)
    else:
        emit(found.plain(), output)


def _print(found: Fit) -> None:
    out, machine_, best = console(), found.machine, found.best
    out.print(found.summary, soft_wrap=True)
    for note in found.notes:
        out.print(note, soft_wrap=True)
    sold = f", sold as {machine_.hbm_sold / GB:,.0f} GB" if machine_.hbm_sold else ""
    out.print(
        f"\nOne device has {machine_.hbm_bytes / GB:,.1f} GB ({machine_.hbm_bytes / GIB:,.1f} GiB) that software sees"
        f"{sold}; the engine takes {best.role.memory_fraction:.0%} of it: {best.usable / GB:,.1f} GB. GB per device:"
    )
    columns: dict[str, Literal["left", "right"]] = {"devices": "right", "split": "left"}
    numbers = ("copies", "redundant", "weights", "activations", "buffers", "reserve", "KV", "B/token", "M tokens, all")
    columns |= dict.fromkeys(numbers, "right")
    out.print(table("", columns, [_row(width) for width in found.widths]))
    out.print(
        f"With one sequence and a chunk of {CHUNK:,} tokens a rank, MTP off. redundant: copies of experts; B/token: "
        "what a token adds to one device; M tokens, all: KV cache of the whole machine."
    )
    if machine_.assumed:
        out.print("\nAssumed: " + "; ".join(f"{item.path} = {item.value}" for item in machine_.assumed))


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
