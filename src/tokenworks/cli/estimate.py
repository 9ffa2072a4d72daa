"""`tokenworks estimate`: where the time of one prefill step and one decode step of a deployment goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from cyclopts import Parameter

from tokenworks.cli.options import (
    DEVICES,
    FILE_CALIBRATION,
    MACHINE,
    MAX_MODEL_LEN,
    ON,
    REQUESTS,
    NumberOptions,
    Output,
)
from tokenworks.cli.output import console, emit, table
from tokenworks.planning.estimate import TAKEN, Estimate, PartPlain, StepEstimate
from tokenworks.planning.estimate import estimate as make_estimate
from tokenworks.specs.context import context_note
from tokenworks.specs.deployment import EngineName


def estimate(
    model: Annotated[str, Parameter(group=MACHINE)],
    *,
    on: Annotated[str | None, ON] = None,
    devices: Annotated[int | None, DEVICES] = None,
    deploy: Annotated[str | None, Parameter(group=MACHINE)] = None,
    pick: Annotated[int, Parameter(group=MACHINE)] = 1,
    engine: Annotated[EngineName | None, Parameter(group=MACHINE)] = None,
    workload: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    isl: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    osl: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    batch: Annotated[int | None, Parameter(group=REQUESTS)] = None,
    chunk: Annotated[int | None, Parameter(group=REQUESTS)] = None,
    max_model_len: Annotated[int | None, MAX_MODEL_LEN] = None,
    numbers: NumberOptions = NumberOptions(),  # noqa: B008 - frozen
    calibration: Annotated[str | None, FILE_CALIBRATION] = None,
    output: Output = "table",
) -> None:
    """Break down one prefill and one decode step of a deployment.

    Parameters
    ----------
    model
        A model with --on and --deploy; or a file of deployments, as `plan -o yaml` writes it.
    deploy
        Widths and settings of one instance, such as tp=8,dp=5,ep=40,redundant_experts=24,max_sequences=512.
    pick
        Which deployment of the file; 1 is the best.
    engine
        Serving engine whose overheads are assumed; vllm, or the engine of the file.
    workload
        Catalog workload (agent, chat, code, reason, summarise) or a YAML file; the workload of the file if not given.
    isl
        Input sequence length: mean input tokens of a request, instead of a workload; 4,000 if nothing is given.
    osl
        Output sequence length: mean output tokens of a request, instead of a workload; 1,000 if nothing is given.
    batch
        Sequences that decode in one instance; its max_sequences if not given.
    chunk
        Prefill tokens of one step of one instance; its chunk_tokens if not given.
    """
    result = make_estimate(
        model, on, deploy=deploy, pick=pick, workload=workload, isl=isl, osl=osl, batch=batch, chunk=chunk,
        engine=engine, max_model_len=max_model_len, devices=devices, assume=numbers.given(), calibration=calibration,
    )  # fmt: skip
    if output == "table":
        _print(result)
    else:
        emit(result.plain(), output)


def _print(result: Estimate) -> None:
    out, setting = console(), result.setting
    out.print(
        f"{setting.model.name} on {setting.machine.name}, {setting.engine.title}: {result.deployment}", soft_wrap=True
    )
    if note := context_note(setting.model):
        out.print(note, soft_wrap=True)
    for one in result.steps:
        out.print(f"\n{_heading(one, result)}", soft_wrap=True)
        columns: dict[str, Literal["left", "right"]] = {"part": "left"}
        columns |= dict.fromkeys(("ms", "share", "GFLOP", "MB"), "right")
        columns |= {"bound by": "left", "utilisation": "left"}
        out.print(table("", columns, [_cells(row) for row in result.parts(one)]))
        for line in _total(one, result):
            out.print(line, soft_wrap=True)
    for line in _trust(result):
        out.print(line, soft_wrap=True)


def _heading(one: StepEstimate, result: Estimate) -> str:
    if one.kind == "prefill":
        return f"Prefill step: {one.prefill:,.0f} tokens of prompts of {result.setting.workload.isl:,.0f}"
    drafts = f", each with {one.role.draft_tokens} drafted" if one.role.draft_tokens else ""
    context, more = result.costing.demand.request.context, result.busiest_context(one) - 1
    uneven = f" (on the busiest rank {more:.0%} more)" if more > 0.005 else ""
    return f"Decode step: {one.decode:,.0f} sequences of {context:,.0f} tokens{uneven}{drafts}"


def _cells(row: PartPlain) -> list[str]:
    numbers = (
        f"{row['seconds'] * 1e3:,.3f}",
        f"{row['share']:.1%}",
        f"{row['flop'] / 1e9:,.1f}",
        f"{row['bytes'] / 1e6:,.1f}",
    )
    return [row["part"], *numbers, row["bound"], row["utilisation"]]


def _total(one: StepEstimate, result: Estimate) -> Iterator[str]:
    seconds, spread = one.seconds * 1e3, result.spread(one)
    yield (
        f"{seconds:,.2f} ms, bound by {one.bound_by}; 80 % interval {seconds / spread:,.2f} to "
        f"{seconds * spread:,.2f} ms (grade {result.rates.grade})"
    )
    apart = sum(one.of_part(name, "seconds") for name in one.cost.parts) * 1e3
    if apart > seconds * 1.001:
        yield f"{one.role.overlap} overlap hides {apart - seconds:,.2f} ms of it"


def _trust(result: Estimate) -> Iterator[str]:
    for role, room in result.memory.items():
        used = ((name, float(getattr(room, name))) for name in (*TAKEN, "kv"))
        sizes = ", ".join(f"{'KV' if name == 'kv' else name} {size / 1e9:,.1f}" for name, size in used)
        yield f"\nMemory of a device, {role} [GB of {float(room.usable) / 1e9:,.1f}]: {sizes}"
    for form, dtype in result.dequantised.items():
        device = result.setting.machine.device
        yield f"Dequantised: {form} weights are multiplied in {dtype}; {device} has no units for them"
    yield "\nAssumed: " + "; ".join(f"{item.path} = {item.value}" for item in result.assumed)
