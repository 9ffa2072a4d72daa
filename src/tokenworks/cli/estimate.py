"""`tokenworks estimate`: the time of one prefill step and one decode step of a deployment, part by part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from tokenworks.cli.options import (
    DEVICES,
    FILE_CALIBRATION,
    MACHINE,
    MAX_MODEL_LEN,
    MEMORY_FRACTION,
    ON,
    REQUESTS,
    NumberOptions,
    Output,
)
from tokenworks.cli.output import console, emit
from tokenworks.cli.tables import Columns, print_table
from tokenworks.planning.estimate import TAKEN, Estimate, PartPlain, StepEstimate
from tokenworks.planning.estimate import estimate as make_estimate
from tokenworks.specs.context import model_notes
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
    memory_fraction: Annotated[float | None, MEMORY_FRACTION] = None,
    numbers: NumberOptions = NumberOptions(),  # noqa: B008 - frozen
    calibration: Annotated[str | None, FILE_CALIBRATION] = None,
    output: Output = "table",
) -> None:
    """Break down one prefill and one decode step of a deployment.

    Parameters
    ----------
    model
        Model, together with --on and --deploy; or a YAML file of deployments, as `plan -o yaml` writes it.
    deploy
        Widths and settings of one instance, such as tp=8,dp=5,ep=40,redundant_experts=24,max_sequences=512. Write
        expert_tp for etp.
    pick
        Number of the deployment in the file; 1 is the first one.
    engine
        Serving engine; by default vllm, or the engine of the file.
    workload
        Workload of the catalog (agent, chat, code, reason, summarise) or a YAML file; by default the workload of the
        file.
    isl
        Mean input tokens of a request, instead of a workload; 4,000 without either.
    osl
        Mean output tokens of a request, instead of a workload; 1,000 without either.
    batch
        Decoding sequences of one instance; by default max_sequences of the deployment.
    chunk
        Prefill tokens per step of one instance; by default chunk_tokens of the deployment.
    """
    result = make_estimate(
        model, on, deploy=deploy, pick=pick, workload=workload, isl=isl, osl=osl, batch=batch, chunk=chunk,
        engine=engine, max_model_len=max_model_len, memory_fraction=memory_fraction, devices=devices,
        assume=numbers.given(), calibration=calibration,
    )  # fmt: skip
    if output == "table":
        _print(result)
    else:
        emit(result.plain(), output)


def _print(result: Estimate) -> None:
    out, setting = console(), result.setting
    out.paragraph(f"{setting.model.name} on {setting.machine.name}, {setting.engine.title}: {result.deployment}")
    for note in model_notes(setting.model):
        out.paragraph(note)
    for one in result.steps:
        columns: Columns = {"part": "left"}
        columns |= dict.fromkeys(("ms", "share", "GFLOP", "MB"), "right")
        columns |= {"bound by": "left", "utilisation": "left"}
        rows = [_cells(row) for row in result.parts(one)]
        title = f"\n{_heading(one, result)}"
        print_table(out, columns, rows, title=title, wraps=("utilisation",), spare=("utilisation", "GFLOP", "MB"))
        for line in _total(one, result):
            out.paragraph(line)
    out.paragraph(
        "\nGFLOP and MB of one device. utilisation = origin of the factors: measured, assumed, or taken from another "
        "device family."
    )
    for line in _trust(result):
        out.paragraph(line)


def _heading(one: StepEstimate, result: Estimate) -> str:
    if one.kind == "prefill":
        return f"Prefill step: {one.prefill:,.0f} tokens, of prompts with {result.setting.workload.isl:,.0f} tokens"
    drafts = f", each with {one.role.draft_tokens} draft tokens" if one.role.draft_tokens else ""
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
        yield f"{one.role.overlap} overlap hides {apart - seconds:,.2f} ms of the parts"


def _trust(result: Estimate) -> Iterator[str]:
    for role, room in result.memory.items():
        used = ((name, float(getattr(room, name))) for name in (*TAKEN, "kv"))
        sizes = ", ".join(f"{'KV' if name == 'kv' else name} {size / 1e9:,.1f}" for name, size in used)
        yield f"\nMemory of one device, {role}, of {float(room.usable) / 1e9:,.1f} GB: {sizes}"
    for form, dtype in result.dequantised.items():
        device = result.setting.machine.device
        yield f"Dequantised: {form} weights are multiplied in {dtype}, because {device} cannot multiply {form}"
    yield from (f"\n{one.words}" for one in result.software)
    yield "\nAssumed: " + "; ".join(f"{item.path} = {item.value}" for item in result.assumed)
