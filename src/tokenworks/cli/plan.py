"""`tokenworks plan`: rank the deployments of a model on a machine, and name what limits and what is assumed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import Parameter

from tokenworks.cli import SPLIT
from tokenworks.cli.options import (
    CALIBRATION,
    DEVICES,
    MACHINE,
    MAX_MODEL_LEN,
    MODEL,
    ON,
    PAGE_FORMS,
    PAGE_HELP,
    REQUESTS,
    RESULT,
    NumberOptions,
    OutputFormat,
    PageFormat,
    PageOptions,
    Switch,
)
from tokenworks.cli.output import console, emit, notes, timed
from tokenworks.cli.page import Page
from tokenworks.cli.progress import compile_once, progress
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import SpecError
from tokenworks.planning.bench import Budget
from tokenworks.planning.decide import ERROR
from tokenworks.planning.elsewhere import begin
from tokenworks.planning.plan import must_list, planned, prepare
from tokenworks.planning.result import FrontPoint, Plan, Ranked
from tokenworks.planning.setting import EngineChoice
from tokenworks.planning.tiered import AUTO, check_tiers
from tokenworks.planning.why import PLACES, Why
from tokenworks.planning.why import why as explain
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.deployment import Role
from tokenworks.specs.engine import load_engine
from tokenworks.specs.files import is_there
from tokenworks.specs.model import kv_bytes_per_token, parameters, weight_bytes, weight_formats
from tokenworks.specs.result import Plain
from tokenworks.specs.slo import PERCENTILE, Slo

FORMAT = Parameter(
    name=["-o", "--output"], help=f"{PAGE_HELP} yaml is a file of deployments for other commands.", group=RESULT
)
FRONT_ROWS = 8
BAR = 16
"""Length of the longest bar [character]."""
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
    engine: Annotated[EngineChoice, Parameter(group=MACHINE)] = "auto",
    max_model_len: Annotated[int | None, MAX_MODEL_LEN] = None,
    numbers: NumberOptions = NumberOptions(),  # noqa: B008 - frozen
    calibration: Annotated[str, CALIBRATION] = DEFAULT,
    top: Annotated[int, Parameter(group=RESULT)] = 5,
    why: Annotated[str | None, Parameter(group=RESULT)] = None,
    no_simulate: Annotated[Switch, Parameter(group=RESULT)] = False,
    budget: Annotated[str | None, Parameter(group=RESULT)] = None,
    tiers: Annotated[str, Parameter(group=MACHINE)] = AUTO,
    output: Annotated[PageFormat, FORMAT] = "table",
    page: PageOptions = PageOptions(),  # noqa: B008 - frozen
) -> None:
    """Rank the deployments of a model on a machine by effective tokens per device.

    Parameters
    ----------
    workload
        Workload of the catalog (agent, chat, code, reason, summarise) or a YAML file.
    isl
        Mean input tokens of a request. --isl and --osl replace --workload.
    osl
        Mean output tokens of a request.
    rate
        Load in requests per second. The plan finds the fewest devices that serve the load within the SLO.
    concurrency
        Load in requests in flight, instead of --rate. Without both the plan finds the highest load within the SLO.
    slo
        Bounds, such as ttft=2s,tpot=50ms (99th percentiles) or ttft.p50=1s; by default the SLO of the workload.
    engine
        Serving engine. It sets the scheduler and the overheads. auto compares all engines that run on the device.
    top
        Number of deployments to list.
    why
        Explain one deployment instead of a plan: a split, such as tp=3,dp=2,ep=6, at its best settings, or a deployment
        of a file, such as ranked.yaml or ranked.yaml:2.
    no_simulate
        Rank by estimates of the closed form alone: for sweeps. Estimates may be far from what a simulation shows.
    budget
        Where the search ends, settled or not: "500000 requests", or 10s, whose result depends on the speed of the
        machine. By default at 10e9 new input and output tokens, or at 1,500,000 requests
        where requests form sessions.
    tiers
        KV tiers below HBM. auto tries the set-ups of the engine where requests share prefixes; none; or a set-up of the
        catalog, such as hicache, vllm-offload or the what-if pooled.
    """
    began = time.perf_counter()
    asked: dict[str, Any] = {
        "workload": workload, "isl": isl, "osl": osl, "rate": rate, "concurrency": concurrency, "slo": slo,
        "engine": engine, "max_model_len": max_model_len, "devices": devices, "assume": numbers.given(),
        "calibration": calibration,
    }  # fmt: skip
    must_list(top)
    page.check(output)
    begin()
    if why is not None and output in PAGE_FORMS:
        raise SpecError(f"--why has no -o {output}", where="--why", hint="use -o table, json or yaml")
    limit = Budget.of(budget)
    costings = check_tiers(tiers, prepare(model, on, **asked))
    if not no_simulate:
        compile_once()  # after what is wrong was said: it takes a minute
    with progress("reading") as report:
        if why is not None:
            answer = explain(costings, why, simulate=not no_simulate, say=report)
        else:
            result = planned(costings, top, simulate=not no_simulate, budget=limit, tiers=tiers, progress=report)
    if why is not None:
        assert output in ("table", "json", "yaml")
        _print_why(answer, output, began)
        if error := answer.error():
            raise error
        return
    if output == "table":
        _print(result, console())
    elif output == "json":
        emit(result.plain(), "json")
    elif output == "yaml":
        emit(_with_path(result.document(), model), "yaml")
        if result.not_launched:
            notes().paragraph(result.not_launched)
    else:
        page.write(output, result.plain(), [result.setting.machine])
    if not result.meets_slo:
        raise result.missed()


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _print(result: Plan, out: Page) -> None:
    for line in _heading(result):
        out.paragraph(line)
    out.print()
    columns: Columns = {"": "right", "deployment": "left", "settings": "left"}
    if len(result.engines) > 1:
        columns["engine"] = "left"
    ttft, tpot = _bounds(result.slo)
    for heading in (_tokens(result), "tok/s user", f"{ttft} [s]", f"{tpot} [ms]"):
        columns[heading] = "right"
    columns["bound by"] = "left"
    several = len(result.engines) > 1
    rows = [line for row in result.deployments for line in _lines(row, _tokens(result), engine=several)]
    print_table(out, columns, rows, wraps=("deployment", "settings"), spare=("bound by", "tok/s user"))
    for line in (*result.notes, *_reading(result)):
        out.paragraph(line)
    _print_front(result, out)
    for line in _trust(result):
        out.paragraph(line)


def _tokens(result: Plan) -> str:
    """Tokens that the plan is ranked by: effective ones if there is an SLO and a deployment meets it."""
    return "effective" if result.meets_slo and str(result.slo) else "output"


def _bounds(slo: Slo) -> list[str]:
    """TTFT and TPOT with the percentiles of their columns."""
    pairs = (("TTFT", slo.ttft), ("TPOT", slo.tpot))
    return [f"{name} p{bound.percentile if bound else PERCENTILE:g}" for name, bound in pairs]


def _speed(tokens_s: float) -> str:
    return f"{tokens_s:,.1f}" if tokens_s >= 10 else f"{tokens_s:.3g}"


def _heading(result: Plan) -> Iterator[str]:
    setting = result.setting
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
    asked = f", {result.load.value:g} {result.load.unit}" if result.load else ", as much as the SLO allows"
    yield (
        f"{workload.title or workload.name}: {workload.isl:,.0f} tokens in{reuse}, {workload.osl:,.0f} out{asked}; "
        f"SLO {str(result.slo) or 'none'}; {_engines(result)}"
    )


def _engines(result: Plan) -> str:
    """The engines that the plan compares, with their titles."""
    titles = [load_engine(name).title for name in result.engines]
    return f"engine {titles[0]}" if len(titles) == 1 else f"engines {', '.join(titles)}"


def _lines(row: Ranked, tokens: str, *, engine: bool) -> Iterator[list[str]]:
    """One row of the table per role; the numbers of the deployment stand in the first one. `tokens` as in `_tokens`."""
    numbers = [
        *([row.deployment.engine] if engine else []),
        _speed(row.effective_tok_s_per_device if tokens == "effective" else row.output_tok_s_per_device),
        _speed(row.output_tok_s_per_user),
        f"{row.ttft_slo_s:,.2f}",
        f"{row.tpot_slo_s * 1e3:,.1f}",
        row.bound_by,
    ]
    rank = str(row.rank)
    tiers = "".join(f" >{tier.name}" for tier in row.deployment.tiers)
    for widths, role in zip(str(row.deployment).split(" + "), row.deployment.roles, strict=True):
        yield [rank, widths, _role_settings(role) + tiers, *numbers]
        rank, tiers, numbers = "", "", [""] * len(numbers)


def _role_settings(role: Role) -> str:
    """Settings of a role without its parallel widths, short enough for one line."""
    words = [f"{role.max_sequences:,}s/{role.chunk_tokens:,}t", role.kv_dtype]
    if role.draft_tokens:
        words.append(f"mtp{role.draft_tokens}")
    if role.redundant_experts:
        words.append(f"+{role.redundant_experts}e")
    if role.overlap != "none":
        words.append("tbo")
    return " ".join(words)


def _reading(result: Plan) -> Iterator[str]:
    best, tokens = result.best, _tokens(result)
    slo = ""
    if tokens == "effective":
        slo = " of requests that meet the SLO" if result.decision else ", expected to meet the SLO"
    tiers = ", >tier = KV tier below HBM" if any(row.deployment.tiers for row in result.deployments) else ""
    yield (
        f"\n{tokens} = tokens/s per device{slo}. tok/s user = 1 / mean TPOT. Settings per instance: max sequences / "
        f"token budget, KV dtype, MTP drafts, +Ne redundant experts, tbo = two-batch overlap{tiers}. {SPLIT}"
    )
    idle = (
        f" {best.idle_devices} devices stay idle; the throughput per device counts them." if best.idle_devices else ""
    )
    share = f" The deployment carries the load at {best.load:.0%} of its capacity." if best.load else ""
    where = "" if best.bound_role == "aggregated" else f", in the {best.bound_role} role"
    lost = result.setting.workload.hit_share - best.hit_share
    cache = (
        f" The KV cache is too small for all idle sessions: {best.hit_share:.1%} of the input hits the cache."
        if lost > 0.005
        else ""
    )
    decode = "sequence decodes" if best.batch == 1 else "sequences decode"
    yield (
        f"\nDeployment 1 is bound by {BINDING[best.bound_by]}{where}: {best.requests_s:,.2f} requests/s, "
        f"{best.batch:,.0f} {decode} in each instance.{cache}{share}{idle}"
    )
    ruled_out = "; ".join(f"{count:,}: {bound}" for bound, count in result.pruned.items() if count)
    yield (
        f"{result.considered:,} points considered, {result.legal:,} legal, {result.estimated:,} estimated. The "
        f"others cannot be listed, by upper bounds ({ruled_out or 'none'})."
    )
    if decision := result.decision:
        how = "under the load" if result.load else "each at its highest rate within the SLO"
        rest = f"No other deployment can reach the ones above, by its estimate + {100 * ERROR:.0f} %."
        if not decision.settled:
            rest = (
                "Not settled: the budget ended before all deployments that could be better were simulated (--budget)."
            )
        if not decision.reproducible:
            rest += " Not reproducible: the budget is a time, so another machine may decide otherwise."
        scheduling = result.inputs()["scheduling"]
        yield (
            f"Simulated {how}, with the scheduler of its engine, scheduling {scheduling}: "
            f"{decision.simulations:,} runs of {decision.requests:,} requests. {rest}"
        )


def _print_front(result: Plan, out: Page) -> None:
    shown = _spread(result.pareto)
    if not shown:
        return
    columns: Columns = {"tok/s user": "right", "tok/s device": "right", "": "left", "deployment": "left"}
    most = max((point.output_tok_s_per_device for point in shown), default=1.0)
    rows = [
        [
            _speed(point.output_tok_s_per_user),
            _speed(point.output_tok_s_per_device),
            "█" * max(1, round(BAR * point.output_tok_s_per_device / most)),
            str(point.deployment),
        ]
        for point in shown
    ]
    title = f"\nSpeed against throughput: {len(shown)} of {len(result.pareto)} Pareto points"
    print_table(out, columns, rows, title=title, wraps=("deployment",), spare=("",))


def _spread(front: tuple[FrontPoint, ...]) -> list[FrontPoint]:
    """A few points of a front, both ends among them."""
    if len(front) <= FRONT_ROWS:
        return list(front)
    return [front[round(index * (len(front) - 1) / (FRONT_ROWS - 1))] for index in range(FRONT_ROWS)]


def _trust(result: Plan) -> Iterator[str]:
    best = result.best
    low, high = best.interval["tpot_s"]
    less, more = best.interval["output_tok_s_per_device"]
    estimate = "" if result.decision else ": an estimate of the steady state, not a simulation"
    yield (
        f"\nGrade {best.grade}{estimate}. The mean TPOT of deployment 1 is {best.tpot_s * 1e3:,.3g} ms. The 80 % "
        f"interval is {low * 1e3:,.3g} to {high * 1e3:,.3g} ms, and {_speed(less)} to {_speed(more)} output tokens/s "
        "per device."
    )
    yield from (one.words for one in best.software)
    machine = [item for item in result.assumed if not item.path.startswith(("calibration", "engine"))]
    rest = len(result.assumed) - len(machine)
    numbers = "; ".join(f"{item.path} = {item.value}" for item in machine if item.path != "workload")
    workload = " ".join(f"{item.why}." for item in machine if item.path == "workload")
    numbers = numbers or "no number of the machine"
    yield f"Assumed: {numbers}; and {rest} factors of calibration and engine (see `-o json`). {workload}".rstrip()


# ── why ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _with_path(document: Plain, model: str) -> Plain:
    """The file of deployments with the path of a model that the user named by a path: other commands load it again."""
    if is_there(os.path.expanduser(model)):
        for entry in document["deployments"]:
            entry["deployment"]["model"] = model
    return document


def _print_why(result: Why, output: OutputFormat, began: float) -> None:
    if output != "table":
        emit(timed(result.plain(), began), output)
        return
    out = console()
    if result.broken:
        count = len(result.broken)
        names = " + ".join(f"[{role.parallel}]" for role in result.roles)
        out.paragraph(f"{names} breaks {count} {'rule' if count == 1 else 'rules'}:")
        for item in result.broken:
            out.paragraph(f"\n{item.rule}: {item.law}\n  {item.message}")
        return
    row = result.prediction
    assert row is not None
    kept = "it keeps up" if row.meets_slo else "it does not carry the load"
    slo = result.costing.slo
    if str(slo):
        kept = f"it {'meets' if row.meets_slo else 'misses'} the SLO ({row.slo_pressure:.2f} of the bound)"
    ttft, tpot = _bounds(slo)
    settings = "; ".join(_role_settings(role) for role in row.deployment.roles)
    beyond = " or further behind" if result.place == PLACES + 1 else ""
    out.paragraph(
        f"{row.deployment} is legal. Its best settings are {settings} with {result.costing.setting.engine.title}: "
        f"{_speed(row.output_tok_s_per_device)} output tokens/s per device, "
        f"{_speed(row.output_tok_s_per_user)} per user, {ttft} {row.ttft_slo_s:,.2f} s, "
        f"{tpot} {row.tpot_slo_s * 1e3:,.1f} ms: {kept}; bound by {row.bound_by}. "
        f"It would stand in place {result.place} of the plan{beyond}."
    )
    if result.best is not None and result.best is not row and result.parts:
        _print_parts(result, result.best, out)


def _print_parts(result: Why, best: Ranked, out: Page) -> None:
    """Where the devices' time goes in the deployment and in the best one, the largest difference first."""
    parts = sorted(result.parts, key=lambda part: part["best_device_s_per_token"] - part["device_s_per_token"])
    columns: Columns = {"part of a step": "left", "this": "right", "best": "right", "difference": "right"}
    pairs = [(part["part"], 1e3 * part["device_s_per_token"], 1e3 * part["best_device_s_per_token"]) for part in parts]
    pairs.append(("all", sum(pair[1] for pair in pairs), sum(pair[2] for pair in pairs)))
    rows = [[name, f"{own:,.3f}", f"{other:,.3f}", f"{own - other:+,.3f}"] for name, own, other in pairs]
    title = f"\nDevice time per output token [ms]; the best is {best.deployment} with {best.deployment.engine}"
    print_table(out, columns, rows, title=title, wraps=("part of a step",))
