"""`tokenworks fit`: does the model fit, on how few devices, how much KV cache is left, and where the memory goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tokenworks.cli.output import Output, console, emit, table
from tokenworks.legal.points import Setting
from tokenworks.planning.fit import CHUNK, READS, Fit, Width
from tokenworks.planning.fit import fit as find_fit
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import EngineName
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model
from tokenworks.specs.workload import Workload

GB, GIB, MILLION = 1e9, 2**30, 1e6


def fit(
    model: str,
    *,
    on: str,
    engine: EngineName = "vllm",
    kv_dtype: Literal["native", "bf16", "fp8"] = "native",
    assume: Path | None = None,
    output: Output = "table",
) -> None:
    """Does the model fit the machine, and what is left for the KV cache?

    Parameters
    ----------
    model
        Catalog id, path of a config.json, or id in the local Hugging Face cache.
    on
        Machine, such as scalex40, 5xhgx-h100, 4xscalex40@xdr or my-box.yaml.
    engine
        Whose reserve and buffers are counted.
    kv_dtype
        Storage of the KV cache; native is what the checkpoint asks for.
    assume
        YAML file of numbers to use instead, `path: value` a line.
    output
        table, json or yaml.
    """
    found_model = load_model(model)
    dtype = found_model.native_kv if kv_dtype == "native" else kv_dtype
    one_token = Workload(name="fit", isl=1, osl=1)
    setting = Setting(found_model, machine(on, assume=assume, needs=READS), load_engine(engine), one_token)
    found = find_fit(setting, dtype)
    if output == "table":
        _print(found)
    else:
        emit(_plain(found), output)


def _summary(found: Fit) -> str:
    best, flat, machine_ = found.best, found.flat, found.machine
    without = f", {flat.kv_tokens / MILLION:,.2f} M without a pipeline" if flat and flat is not best else ""
    least = found.smallest.devices
    return (
        f"{found.model} fits {machine_.name}: from {least} device{'s' * (least > 1)}; best split of all "
        f"{machine_.devices} is {best.role.replicas} x [{best.role.parallel}], "
        f"{best.kv_tokens / MILLION:,.2f} M KV tokens left in {found.kv_dtype.upper()}{without}"
    )


def _print(found: Fit) -> None:
    out, machine_, best = console(), found.machine, found.best
    out.print(_summary(found), soft_wrap=True)
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


def _plain(found: Fit) -> dict[str, Any]:
    machine_ = found.machine
    return {
        "model": found.model,
        "machine": machine_.name,
        "fits": True,
        "summary": _summary(found),
        "smallest_devices": found.smallest.devices,
        "best_devices": found.best.devices,
        "kv_dtype": found.kv_dtype,
        "hbm_bytes": machine_.hbm_bytes,
        "hbm_sold_bytes": machine_.hbm_sold,
        "widths": [_plain_width(width) for width in found.widths],
        "assumed": [{"path": item.path, "value": item.value, "why": item.why} for item in machine_.assumed],
    }


def _plain_width(width: Width) -> dict[str, Any]:
    numbers = ("weights", "activations", "buffers", "reserve", "usable", "kv", "kv_bytes_per_token", "kv_tokens")
    return {"role": width.role.model_dump(), **{name: getattr(width, name) for name in numbers}}
