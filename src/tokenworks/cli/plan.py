"""`tokenworks plan`: rank the deployments of a model on a machine, say what binds the best, and what is assumed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console

from tokenworks.cli.options import (
    CALIBRATION,
    DEVICES,
    MACHINE,
    MAX_MODEL_LEN,
    MODEL,
    ON,
    REQUESTS,
    RESULT,
    NumberOptions,
    Output,
    OutputFormat,
    Switch,
)
from tokenworks.cli.output import console, emit, table, timed
from tokenworks.cli.progress import compile_once, progress
from tokenworks.planning.plan import plan as make_plan
from tokenworks.planning.plan import prepare
from tokenworks.planning.result import FrontPoint, Plan, Ranked
from tokenworks.planning.why import Why
from tokenworks.planning.why import why as explain
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.deployment import EngineName, Role
from tokenworks.specs.model import kv_bytes_per_token, parameters, weight_bytes, weight_formats
from tokenworks.specs.slo import PERCENTILE, Slo

if TYPE_CHECKING:
    from tokenworks.planning.rerank import Simulated

YAML_IS_A_FILE = Parameter(help="table, json, or yaml: a file of deployments for other commands.")
FRONT_ROWS = 8
BINDING = {
    "compute": "the devices' arithmetic",
    "hbm": "device memory bandwidth",
    "kv-capacity": "KV cache capacity",
    "scale-up": "the scale-up fabric",
    "scale-out": "the scale-out network",
    "host": "fixed times: the host, and starting kernels",
}


def plan(
    model: Annotated[str, MODEL],
    *,
    on: Annotated[str, ON],
    devices: Annotated[int | None, DEVICES] = None,
    workload: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    isl: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    osl: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    rate: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    concurrency: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    slo: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    engine: Annotated[EngineName, Parameter(group=MACHINE)] = "vllm",
    max_model_len: Annotated[int | None, MAX_MODEL_LEN] = None,
    numbers: NumberOptions = NumberOptions(),  # noqa: B008 - frozen
    calibration: Annotated[str, CALIBRATION] = DEFAULT,
    top: Annotated[int, Parameter(group=RESULT)] = 10,
    why: Annotated[str | None, Parameter(group=RESULT)] = None,
    simulate: Annotated[Switch, Parameter(group=RESULT)] = False,
    output: Annotated[Output, YAML_IS_A_FILE] = "table",
) -> None:
    """Rank the deployments of a model on a machine by effective tokens per device.

    Parameters
    ----------
    workload
        Catalog workload (agent, chat, code, reason, summarise) or a YAML file.
    isl
        Input sequence length: mean input tokens of a request, instead of a workload.
    osl
        Output sequence length: mean output tokens of a request, instead of a workload.
    rate
        Requests per second to carry, on as few devices as keep the SLO.
    concurrency
        Requests in flight to carry.
    slo
        Such as ttft=2s,tpot=50ms (99th percentiles) or ttft.p50=1s; the workload's own if not given.
    engine
        Serving engine whose scheduler and overheads are assumed.
    top
        Deployments to list.
    why
        Explain one deployment instead, such as tp=3,dp=2,ep=6.
    simulate
        Simulate the listed deployments, and rank them by the simulated throughput.
    """
    began = time.perf_counter()
    asked: dict[str, Any] = {
        "workload": workload, "isl": isl, "osl": osl, "rate": rate, "concurrency": concurrency, "slo": slo,
        "engine": engine, "max_model_len": max_model_len, "devices": devices, "assume": numbers.given(),
        "calibration": calibration,
    }  # fmt: skip
    if why is not None:
        _say_why(explain(prepare(model, on, **asked), why), output, began)
        return
    with progress("reading") as say:
        found = make_plan(model, on, **asked, top=top, progress=say)
        if simulate:
            from tokenworks.planning.rerank import simulated

            if found.meets_slo:
                compile_once()
            found = simulated(found, say=say)
    if output == "table":
        _print(found, console())
        if found.simulated:
            console().print(_simulated_table(found, found.simulated))
    elif output == "json":
        emit(found.plain(), "json")
    else:
        emit(found.document(), "yaml")
    if not found.meets_slo:
        raise found.missed()


def _simulated_table(found: Plan, seen: tuple[Simulated, ...]) -> Any:
    columns: dict[str, Literal["left", "right"]] = {"": "right", "estimated": "right", "deployment": "left"}
    load = found.load.unit if found.load else "requests/s"
    columns |= {**dict.fromkeys((load, "effective", "TTFT", "TPOT"), "right"), "missed": "left"}
    rows = [
        [
            str(item.rank),
            str(item.estimated.rank),
            str(item.estimated.deployment),
            f"{item.seen.load:,.4g}",
            f"{item.effective_tok_s_per_device:,.1f}",
            "-" if item.seen.ttft_ms is None else f"{item.seen.ttft_ms / 1e3:,.2f} s",
            "-" if item.seen.tpot_ms is None else f"{item.seen.tpot_ms:,.1f} ms",
            ", ".join(item.seen.missed),
        ]
        for item in seen
    ]
    how = "under the load" if found.load else "at the highest rate within the SLO"
    return table(f"\nSimulated {how}, by effective tokens/s a device; TTFT and TPOT at its percentiles", columns, rows)


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _print(found: Plan, out: Console) -> None:
    for line in _heading(found):
        out.print(line, soft_wrap=True)
    columns: dict[str, Literal["left", "right"]] = {"": "right", "deployment": "left", "settings": "left"}
    for heading in (_tokens(found), "tok/s user", *_bounds(found.slo)):
        columns[heading] = "right"
    columns["bound by"] = "left"
    out.print(table("", columns, [_cells(row) for row in found.deployments]))
    for line in found.notes:
        out.print(line, soft_wrap=True)
    for line in _reading(found):
        out.print(line, soft_wrap=True)
    out.print(_front_table(found))
    for line in _trust(found):
        out.print(line, soft_wrap=True)


def _tokens(found: Plan) -> str:
    """What is ranked by: tokens are effective where there is an SLO, and it is met."""
    return "effective" if found.meets_slo and str(found.slo) else "output"


def _bounds(slo: Slo) -> list[str]:
    """TTFT and TPOT with the percentiles that are shown."""
    pairs = (("TTFT", slo.ttft), ("TPOT", slo.tpot))
    return [f"{name} p{bound.percentile if bound else PERCENTILE:g}" for name, bound in pairs]


def _speed(tokens_s: float) -> str:
    return f"{tokens_s:,.1f}" if tokens_s >= 10 else f"{tokens_s:.3g}"


def _heading(found: Plan) -> Iterator[str]:
    setting = found.setting
    model, machine, workload = setting.model, setting.machine, setting.workload
    formats = " + ".join(f"{name} {share:.0%}" for name, share in weight_formats(model).items() if share >= 0.01)
    yield (
        f"{model.name}: {parameters(model) / 1e9:,.1f} B parameters, {weight_bytes(model) / 1e9:,.0f} GB ({formats}), "
        f"KV cache {kv_bytes_per_token(model, 2) / 1e3:,.1f} kB a token in BF16"
    )
    bandwidth = machine.scale_up.bandwidth
    link = f", {bandwidth / 1e9:,.0f} GB/s scale-up each way" if math.isfinite(bandwidth) else ""
    domain = "one scale-up domain" if machine.devices <= machine.domain else f"scale-up domains of {machine.domain}"
    yield (
        f"{machine.name}: {machine.devices} x {machine.device}, {domain}, {machine.hbm_bytes / 1e9:,.0f} GB at "
        f"{machine.hbm_bandwidth / 1e12:,.3g} TB/s{link}"
    )
    reuse = f", {workload.hit_share:.0%} of it from the prefix cache" if workload.hit_share else ""
    asked = f", {found.load.value:g} {found.load.unit}" if found.load else ", as much as the SLO allows"
    yield (
        f"{workload.title or workload.name}: {workload.isl:,.0f} tokens in{reuse}, {workload.osl:,.0f} out{asked}; "
        f"SLO {str(found.slo) or 'none'}; engine {setting.engine.title}"
    )


def _cells(row: Ranked) -> list[str]:
    return [
        str(row.rank),
        "\n".join(str(row.deployment).split(" + ")),
        "\n".join(_role_settings(role) for role in row.deployment.roles),
        _speed(row.output_tok_s_per_device),
        _speed(row.output_tok_s_per_user),
        f"{row.ttft_slo_s:,.2f} s",
        f"{row.tpot_slo_s * 1e3:,.1f} ms",
        row.bound_by,
    ]


def _role_settings(role: Role) -> str:
    """What a role is set to beside its widths, short enough for one line."""
    words = [f"{role.max_sequences:,}s/{role.chunk_tokens:,}t", role.kv_dtype]
    if role.draft_tokens:
        words.append(f"mtp{role.draft_tokens}")
    if role.redundant_experts:
        words.append(f"+{role.redundant_experts}e")
    if role.overlap != "none":
        words.append("tbo")
    return " ".join(words)


def _reading(found: Plan) -> Iterator[str]:
    best, tokens = found.best, _tokens(found)
    yield (
        f"{tokens}: tokens/s a device{', expected to meet the SLO' if tokens == 'effective' else ''}. tok/s user: of "
        "the mean TPOT. Settings: running sequences/tokens of a step of one instance, KV dtype, MTP drafts, e: "
        "redundant experts, tbo: two-batch overlap."
    )
    idle = f" {best.idle_devices} devices stay idle, and are counted." if best.idle_devices else ""
    share = f" It carries the load at {best.load:.0%} of its capacity." if best.load else ""
    where = "" if best.bound_role == "aggregated" else f", in the {best.bound_role} role"
    lost = found.setting.workload.hit_share - best.hit_share
    cache = (
        f" The KV cache holds too few idle sessions: {best.hit_share:.1%} of the input hits." if lost > 0.005 else ""
    )
    decode = "sequence decodes" if best.batch == 1 else "sequences decode"
    yield (
        f"\n1 is bound by {BINDING[best.bound_by]}{where}: {best.requests_s:,.2f} requests/s, "
        f"{best.batch:,.0f} {decode} in each instance.{cache}{share}{idle}"
    )
    ruled_out = "; ".join(f"{count:,}: {bound}" for bound, count in found.pruned.items() if count)
    yield (
        f"{found.considered:,} points considered, {found.legal:,} legal, {found.estimated:,} estimated, the others "
        f"ruled out by bounds ({ruled_out or 'none'})."
    )


def _front_table(found: Plan) -> Any:
    columns: dict[str, Literal["left", "right"]] = {"tok/s user": "right", "tok/s device": "right"}
    columns |= {"": "left", "deployment": "left"}
    shown = _spread(found.pareto)
    most = max((point.output_tok_s_per_device for point in shown), default=1.0)
    rows = [
        [
            _speed(point.output_tok_s_per_user),
            _speed(point.output_tok_s_per_device),
            "█" * max(1, round(24 * point.output_tok_s_per_device / most)),
            str(point.deployment),
        ]
        for point in shown
    ]
    return table(f"\nSpeed against throughput: {len(shown)} of {len(found.pareto)} Pareto points", columns, rows)


def _spread(front: tuple[FrontPoint, ...]) -> list[FrontPoint]:
    """A few points of a front, both ends among them."""
    if len(front) <= FRONT_ROWS:
        return list(front)
    return [front[round(index * (len(front) - 1) / (FRONT_ROWS - 1))] for index in range(FRONT_ROWS)]


def _trust(found: Plan) -> Iterator[str]:
    best = found.best
    low, high = best.interval["tpot_s"]
    less, more = best.interval["output_tok_s_per_device"]
    yield (
        f"\nGrade {best.grade}: an estimate of the steady state, not a simulation. The mean TPOT of 1 is "
        f"{best.tpot_s * 1e3:,.3g} ms; 80 % of measurements should find it at {low * 1e3:,.3g} to {high * 1e3:,.3g} ms "
        f"and {_speed(less)} to {_speed(more)} output tokens/s a device."
    )
    machine = [item for item in found.assumed if not item.path.startswith(("calibration", "engine"))]
    rest = len(found.assumed) - len(machine)
    named = "; ".join(f"{item.path} = {item.value}" for item in machine if item.path != "workload")
    workload = " ".join(f"{item.why}." for item in machine if item.path == "workload")
    named = named or "no number of the machine"
    yield f"Assumed: {named}; and {rest} factors of calibration and engine (-o json). {workload}"


# ── why ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _say_why(found: Why, output: OutputFormat, began: float) -> None:
    if output != "table":
        emit(timed(found.plain(), began), output)
        return
    out = console()
    if found.broken:
        out.print(f"[{found.role.parallel}] breaks {len(found.broken)} rules:", soft_wrap=True)
        for item in found.broken:
            out.print(f"\n{item.rule}: {item.law}\n  {item.message}", soft_wrap=True)
        return
    row = found.prediction
    assert row is not None
    kept = "it keeps up" if row.meets_slo else "it does not carry the load"
    slo = found.costing.slo
    if str(slo):
        kept = f"it {'meets' if row.meets_slo else 'misses'} the SLO ({row.slo_pressure:.2f} of the bound)"
    ttft, tpot = _bounds(slo)
    settings = "; ".join(_role_settings(role) for role in row.deployment.roles)
    out.print(
        f"{row.deployment} is legal. At {settings}: {_speed(row.output_tok_s_per_device)} output tokens/s a device, "
        f"{_speed(row.output_tok_s_per_user)} a user, {ttft} {row.ttft_slo_s:,.2f} s, "
        f"{tpot} {row.tpot_slo_s * 1e3:,.1f} ms: {kept}; bound by {row.bound_by}. "
        f"It would stand in place {found.place} of the plan.",
        soft_wrap=True,
    )
