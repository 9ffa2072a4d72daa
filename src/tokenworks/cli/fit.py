"""`tokenworks fit`: does the model fit, on how few devices, how much KV cache is left, and where the memory goes."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from tokenworks.cli.options import DEVICES, MACHINE, MAX_MODEL_LEN, MODEL, ON, NumberOptions, Output
from tokenworks.cli.output import console, emit, table
from tokenworks.planning.fit import CHUNK, MILLION, Fit, Width
from tokenworks.planning.fit import fit as fit_model
from tokenworks.specs.deployment import EngineName

GB, GIB = 1e9, 2**30


def fit(
    model: Annotated[str, MODEL],
    *,
    on: Annotated[str, ON],
    devices: Annotated[int | None, DEVICES] = None,
    engine: Annotated[EngineName, Parameter(group=MACHINE)] = "vllm",
    kv_dtype: Annotated[Literal["native", "bf16", "fp8"], Parameter(group=MACHINE)] = "native",
    max_model_len: Annotated[int | None, MAX_MODEL_LEN] = None,
    numbers: NumberOptions = NumberOptions(),  # noqa: B008 - frozen
    output: Output = "table",
) -> None:
    """Does the model fit the machine, and what is left for the KV cache?

    Parameters
    ----------
    engine
        Serving engine whose reserve and buffers are counted.
    kv_dtype
        Storage of the KV cache; native is the dtype that the checkpoint asks for.
    """
    result = fit_model(
        model,
        on,
        engine=engine,
        kv_dtype=kv_dtype,
        max_model_len=max_model_len,
        devices=devices,
        assume=numbers.given(),
    )
    if output == "table":
        _print(result)
    else:
        emit(result.plain(), output)


def _print(result: Fit) -> None:
    out, machine, best = console(), result.machine, result.best
    out.print(result.summary, soft_wrap=True)
    for note in result.notes:
        out.print(note, soft_wrap=True)
    sold = f", sold as {machine.hbm_sold / GB:,.0f} GB" if machine.hbm_sold else ""
    out.print(
        f"\nOne device has {machine.hbm_bytes / GB:,.1f} GB ({machine.hbm_bytes / GIB:,.1f} GiB) that software sees"
        f"{sold}; the engine takes {best.role.memory_fraction:.0%} of it: {best.usable / GB:,.1f} GB. GB per device:",
        soft_wrap=True,
    )
    columns: dict[str, Literal["left", "right"]] = {"devices": "right", "split": "left"}
    headings = ("copies", "redundant", "weights", "activations", "buffers", "reserve", "KV", "B/token", "M tokens")
    columns |= dict.fromkeys(headings, "right")
    out.print(table("", columns, [_row(width) for width in result.widths]))
    out.print(
        f"With one sequence and a chunk of {CHUNK:,} tokens a rank, MTP off. redundant: copies of experts. B/token: "
        "bytes that one token of context takes on one device. M tokens: million tokens that the KV cache of the whole "
        "machine holds.",
        soft_wrap=True,
    )
    if result.assumed:
        out.print("\nAssumed: " + "; ".join(f"{item.path} = {item.value}" for item in result.assumed), soft_wrap=True)


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
