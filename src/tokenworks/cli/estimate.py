"""`tokenworks estimate`: where the time of one prefill step and one decode step of a deployment goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tokenworks.cli.output import Output, console, emit, table
from tokenworks.errors import SpecError
from tokenworks.legal.points import Setting
from tokenworks.planning.estimate import TAKEN, Estimate, StepEstimate
from tokenworks.planning.estimate import estimate as cost
from tokenworks.planning.plan import workload_of
from tokenworks.planning.why import read_role
from tokenworks.specs.calibration import DEFAULT, load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import EngineName, Role
from tokenworks.specs.deployment_file import load_assumed, load_calibration_of, load_workload_of, pick_deployment
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model
from tokenworks.specs.load import is_path
from tokenworks.specs.workload import Workload

LENGTHS = {"isl": 4000.0, "osl": 1000.0}
"""What is taken where neither a workload nor lengths are given [token]."""


def estimate(
    model: str,
    *,
    on: str | None = None,
    deploy: str | None = None,
    pick: int = 1,
    workload: str | None = None,
    isl: float | None = None,
    osl: float | None = None,
    batch: int | None = None,
    chunk: int | None = None,
    engine: EngineName | None = None,
    assume: Path | None = None,
    calibration: str | None = None,
    output: Output = "table",
) -> None:
    """Break down one prefill and one decode step of a deployment.

    Parameters
    ----------
    model
        A model with --on and --deploy; or a file of deployments, as `plan -o yaml` writes it.
    on
        Machine, such as scalex40, 5xhgx-h100, 4xscalex40@xdr or my-box.yaml.
    deploy
        Widths and settings of one instance, such as tp=8,dp=5,ep=40,redundant_experts=24,max_sequences=512.
    pick
        Which deployment of the file.
    workload
        Catalog workload (agent, chat, code, reason, summarise) or a YAML file; the file's own if not given.
    isl
        Mean input tokens of a request, instead of a workload; 4,000 if nothing is given.
    osl
        Mean output tokens of a request, instead of a workload; 1,000 if nothing is given.
    batch
        Sequences that decode in one instance; its max_sequences if not given.
    chunk
        Prefill tokens of one step of one instance; its chunk_tokens if not given.
    engine
        Serving engine whose overheads are assumed; vllm, or the file's.
    assume
        YAML file of numbers to use instead, `path: value` a line.
    calibration
        Calibration of the catalog, or a YAML file such as `calibrate` writes; serving, or the file's own.
    output
        table, json or yaml.
    """
    if is_path(model) and model.endswith((".yaml", ".yml")):
        if deploy is not None:
            raise SpecError(f"{model} holds deployments already", where="--deploy", hint="leave one of the two out")
        deployment = pick_deployment(model, pick)
        setting = Setting(
            load_model(deployment.model),
            machine(deployment.system if on is None else on, assume=assume or load_assumed(model)),
            load_engine(engine or deployment.engine),
            _workload(load_workload_of(model), workload, isl, osl),
        )
        roles, calibration = deployment.roles, calibration or load_calibration_of(model)
    elif on is None or deploy is None:
        raise SpecError("a model needs --on and --deploy", hint='such as --on scalex40 --deploy "tp=8,dp=5,ep=40"')
    else:
        asked = _workload(None, workload, isl, osl)
        setting = Setting(load_model(model), machine(on, assume=assume), load_engine(engine or "vllm"), asked)
        roles = (_role(deploy, setting),)
    made = cost(setting, load_calibration(calibration or DEFAULT), roles, sequences=batch, tokens=chunk)
    if output == "table":
        _print(made)
    else:
        emit(made.plain(), output)


def _workload(recorded: Workload | None, named: str | None, isl: float | None, osl: float | None) -> Workload:
    """The workload or the lengths that were asked for, else the one that the deployments were planned for."""
    if named is not None:
        return workload_of(named, isl=isl, osl=osl)
    if recorded is not None and isl is None and osl is None:
        return recorded
    known = {"isl": recorded.isl, "osl": recorded.osl} if recorded else LENGTHS
    return workload_of(None, isl=known["isl"] if isl is None else isl, osl=known["osl"] if osl is None else osl)


def _role(text: str, setting: Setting) -> Role:
    try:
        return read_role(text, setting)
    except SpecError as error:
        raise SpecError(error.message, where="--deploy", hint=error.hint) from None


def _print(made: Estimate) -> None:
    out, setting = console(), made.setting
    out.print(
        f"{setting.model.name} on {setting.machine.name}, {setting.engine.title}: {made.deployment}", soft_wrap=True
    )
    for one in made.steps:
        out.print(f"\n{_heading(one, made)}", soft_wrap=True)
        columns: dict[str, Literal["left", "right"]] = {"part": "left"}
        columns |= dict.fromkeys(("ms", "share", "GFLOP", "MB"), "right")
        columns |= {"bound by": "left", "utilisation": "left"}
        out.print(table("", columns, [_cells(row) for row in made.parts(one)]))
        for line in _total(one, made):
            out.print(line, soft_wrap=True)
    for line in _trust(made):
        out.print(line, soft_wrap=True)


def _heading(one: StepEstimate, made: Estimate) -> str:
    if one.kind == "prefill":
        return f"Prefill step: {one.prefill:,.0f} tokens of prompts of {made.setting.workload.isl:,.0f}"
    drafts = f", each with {one.role.draft_tokens} drafted" if one.role.draft_tokens else ""
    context, more = made.costing.demand.request.context, made.busiest_context(one) - 1
    uneven = f" (on the busiest rank {more:.0%} more)" if more > 0.005 else ""
    return f"Decode step: {one.decode:,.0f} sequences of {context:,.0f} tokens{uneven}{drafts}"


def _cells(row: dict[str, Any]) -> list[str]:
    numbers = (
        f"{row['seconds'] * 1e3:,.3f}",
        f"{row['share']:.1%}",
        f"{row['flop'] / 1e9:,.1f}",
        f"{row['bytes'] / 1e6:,.1f}",
    )
    return [row["part"], *numbers, row["bound"], row["utilisation"]]


def _total(one: StepEstimate, made: Estimate) -> Iterator[str]:
    seconds, spread = one.seconds * 1e3, made.spread(one)
    yield (
        f"{seconds:,.2f} ms, bound by {one.bound_by}; 80 % interval {seconds / spread:,.2f} to "
        f"{seconds * spread:,.2f} ms (grade {made.rates.grade})"
    )
    apart = sum(one.of_part(name, "seconds") for name in one.cost.parts) * 1e3
    if apart > seconds * 1.001:
        yield f"{one.role.overlap} overlap hides {apart - seconds:,.2f} ms of it"


def _trust(made: Estimate) -> Iterator[str]:
    for role, room in made.memory.items():
        used = ((name, float(getattr(room, name))) for name in (*TAKEN, "kv"))
        sizes = ", ".join(f"{'KV' if name == 'kv' else name} {size / 1e9:,.1f}" for name, size in used)
        yield f"\nMemory of a device, {role} [GB of {float(room.usable) / 1e9:,.1f}]: {sizes}"
    for form, dtype in made.dequantised.items():
        device = made.setting.machine.device
        yield f"Dequantised: {form} weights are multiplied in {dtype}; {device} has no units for them"
    yield "\nAssumed: " + "; ".join(f"{item.path} = {item.value}" for item in made.assumed)
