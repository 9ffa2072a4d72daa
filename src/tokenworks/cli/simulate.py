"""`tokenworks simulate`: play a trace or a workload through a deployment, request by request."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tokenworks.cli import per_request as rows
from tokenworks.cli.options import (
    DEPLOYMENTS,
    REQUESTS,
    RESULT,
    DeployedOptions,
    Output,
    OutputFormat,
    PlayedOptions,
    Switch,
    within,
)
from tokenworks.cli.output import console, emit, notes, table, timed
from tokenworks.cli.page import BARS
from tokenworks.cli.progress import compile_once, progress
from tokenworks.errors import SloMissed
from tokenworks.specs.workload import MOST_IN_FLIGHT

if TYPE_CHECKING:
    from tokenworks.simulation.run import Simulation

WIDTH = 60
MOST_QUEUE = 10**9


def simulate(
    deployment: Annotated[Path, DEPLOYMENTS],
    /,
    *,
    played: PlayedOptions = PlayedOptions(),  # noqa: B008 - frozen
    concurrency: Annotated[int | None, Parameter(group=REQUESTS)] = None,
    rate: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    scale: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    deployed: DeployedOptions = DeployedOptions(),  # noqa: B008 - frozen
    max_queue: int = 0,
    require_slo: Annotated[Switch, Parameter(group=RESULT)] = False,
    per_request: Annotated[Path | None, Parameter(group=RESULT)] = None,
    output: Output = "table",
) -> None:
    """Play a trace or a workload through a deployment, request by request.

    Parameters
    ----------
    concurrency
        Closed loop: users of a workload, or the most requests of a trace that are in flight.
    rate
        Requests a second: of a workload, or the rate that a trace is scaled to.
    scale
        Play a trace at SCALE times its own rate.
    max_queue
        Refuse a request that finds MAX_QUEUE requests waiting at its rank; 0 refuses none.
    require_slo
        End with exit code 4 if the SLO is missed.
    per_request
        Write a row for each request to this .csv or .parquet file.
    """
    from tokenworks.simulation.run import simulate as run

    began = time.perf_counter()
    within(max_queue, "--max-queue", 0, MOST_QUEUE)
    if concurrency is not None:
        within(concurrency, "--concurrency", 1, int(MOST_IN_FLIGHT))
    if per_request:
        rows.check(per_request)
    chosen = deployed.read(deployment)
    source = played.source(chosen.given)
    slo = source.slo(played.slo)
    if require_slo:
        source.must_be_bound(slo, "--require-slo wants one")
    traffic = source.traffic(rate=rate, scale=scale, concurrency=concurrency)
    compile_once()
    with progress("simulating") as say:
        made = run(
            chosen, traffic, slo=slo, router=deployed.router, max_queue=max_queue, seed=played.seed,
            watch=(lambda now, last: say(f"simulated {now:,.0f} s of {last:,.0f} s")) if say else None,
        )  # fmt: skip
    if per_request:
        rows.write(made, per_request)
    found = timed(made.plain(), began)
    found["wall"]["peak_bytes"] = _peak_bytes()
    _show(made, found, output)
    if made.partial:
        raise KeyboardInterrupt  # its exit code, after what there is
    if require_slo and not made.meets_slo:
        raise SloMissed(_missed(made))


def _show(made: Simulation, found: dict[str, Any], output: OutputFormat) -> None:
    for note in found["notes"]:
        notes().print(f"note: {note}")
    if output == "table":
        _print(made, found)
    else:
        emit(found, output)


def _missed(made: Simulation) -> str:
    """Which bounds did not hold, or else that the queue did not."""
    seen = [
        f"{name} p{bound.percentile:g} is {shown(1e3 * bound.seen_s)} ms, {shown(1e3 * bound.bound_s)} ms at most"
        for name, bound in made.bounds.items()
        if not bound.met
    ]
    if not made.stable:
        seen.append("the queue grows: more is sent than can be served")
    return f"{made.deployment} misses the SLO: {'; '.join(seen) or 'requests were not served'}"


def _peak_bytes() -> int:
    """Most memory that this process has held [byte]."""
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ── table ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _print(made: Simulation, found: dict[str, Any]) -> None:
    out, inputs = console(), found["inputs"]
    stopped = "stopped, partial: " if found["partial"] else ""
    out.print(
        f"{stopped}{made.deployment.model} on {made.deployment.system}, {made.deployment}, {inputs['devices']} "
        f"devices, router {inputs['router']}: {inputs['trace']}, {inputs['requests']:,} requests",
        soft_wrap=True,
    )
    _print_counts(found)
    _print_latency(made, found)
    _print_classes(found)
    _print_roles(found)
    _print_series(found["series"])
    if found["assumed"]:
        out.print("\nAssumed: " + "; ".join(f"{item['path']} = {item['value']}" for item in found["assumed"]))
    out.print(
        f"Grade: {found['grade']}; 80 % of step times lie within 1/{found['spread']:.2g} to {found['spread']:.2g} of "
        f"these. Simulated in {found['wall']['kernel_s']:.3g} s ({found['wall']['total_s']:.2g} s in all)."
    )


def _print_counts(found: dict[str, Any]) -> None:
    out = console()
    others = [f"{found[name]:,} {name}" for name in ("rejected", "unsent", "queued", "running") if found[name]]
    whole = "" if found["inputs"]["endless"] else " (all)"
    out.print(
        f"{found['completed']:,} completed in {found['duration']:,.1f} s{whole}: {found['request_throughput']:.4g} "
        f"requests/s, {found['output_throughput']:,.0f} output tokens/s"
        + "".join(f"; {words}" for words in others)
        + (f"; {found['preemptions']:,} preemptions" if found["preemptions"] else "")
    )
    out.print(
        f"per device: {found['output_tok_s_per_device']:,.1f} output, {found['total_tok_s_per_device']:,.1f} total, "
        f"{found['effective_tok_s_per_device']:,.1f} effective tokens/s"
    )
    if not found["stable"]:
        backlog = zip(found["backlog"]["at_s"], found["backlog"]["waiting"], strict=True)
        shown = ", ".join(f"{waiting:,} at {at:,.0f} s" for at, waiting in backlog)
        out.print(f"UNSTABLE: more is sent than can be served, the queue grows: waiting {shown}")
        if found["inputs"]["endless"]:
            out.print("TTFT and E2EL grow as long as one simulates: no mean is shown")


def _print_latency(made: Simulation, found: dict[str, Any]) -> None:
    statistics = ("mean", "median", "std", "p99")
    rows = []
    for name, title in (("ttft", "TTFT"), ("tpot", "TPOT"), ("itl", "ITL"), ("e2el", "E2EL")):
        values = [found[f"{statistic}_{name}_ms"] for statistic in statistics]
        rows.append([f"{title} [ms]", *("-" if value is None else shown(value) for value in values)])
    console().print(table("", {"": "left", **dict.fromkeys(statistics, "right")}, rows))
    slo = found["slo"]
    if slo["text"]:
        bounds = [
            f"{name} p{seen.percentile:g} {shown(1e3 * seen.seen_s)} of {shown(1e3 * seen.bound_s)} ms"
            for name, seen in made.bounds.items()
        ]
        console().print(f"\nSLO {slo['text']}: {'met' if slo['met'] else 'MISSED'} ({', '.join(bounds)})")


def _print_classes(found: dict[str, Any]) -> None:
    """Each class of requests under its own SLO."""
    if not found["classes"]:
        return
    columns: dict[str, Literal["left", "right"]] = {"class": "left"}
    numbers = ("priority", "completed", "goodput/s", "effective/s", "TTFT mean", "p99", "TPOT mean", "p99 ")
    columns |= {**dict.fromkeys(numbers, "right"), "SLO": "left"}
    times = ("mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_tpot_ms")
    rows = [
        [
            one["class"],
            str(one["priority"]),
            f"{one['completed']:,} of {one['requests']:,}",
            f"{one['request_goodput']:.4g}",
            f"{one['effective_throughput']:,.0f}",
            *("-" if one[name] is None else shown(one[name]) for name in times),
            f"{one['slo']['text'] or '-'}: {'met' if one['slo']['met'] else 'MISSED'}",
        ]
        for one in found["classes"]
    ]
    console().print(table("", columns, rows))


def shown(value: float) -> str:
    """Four digits, but no fewer than the number has before its point."""
    return f"{value:,.0f}" if value >= 1e3 else f"{value:.4g}"


def _print_roles(found: dict[str, Any]) -> None:
    columns: dict[str, Literal["left", "right"]] = {"role": "left"}
    numbers = ("instances", "busy", "steps", "step [ms]", "batch", "prefill a step", "hits", "preempted")
    columns |= {**dict.fromkeys(numbers, "right"), "mean step bound by": "left"}
    rows = [
        [
            role["role"],
            str(role["instances"]),
            f"{role['busy_share']:.0%}",
            f"{role['steps']:,}",
            f"{role['step_ms']:.3g}",
            f"{role['mean_batch']:.1f}",
            f"{role['prefill_tokens_per_step']:,.0f}",
            f"{role['hit_share']:.1%}",
            f"{role['preemptions']:,}",
            role["bound_by"],
        ]
        for role in found["roles"]
    ]
    console().print(table("", columns, rows))


def _print_series(series: dict[str, Any]) -> None:
    """Running and waiting as bars, and the share of time that each thing bound."""
    out, bound = console(), series["bound"]
    if not bound:
        return
    out.print("")
    for name in ("running", "waiting"):
        values = _thinned(series[name])
        most = max(values)
        bars = "".join(BARS[round(value * (len(BARS) - 1) / most) if most else 0] for value in values)
        out.print(f"{name:>7} {bars} at most {max(series[name]):,}")
    shares = sorted(((bound.count(what) / len(bound), what) for what in set(bound)), reverse=True)
    out.print("time bound by " + ", ".join(f"{what} {share:.0%}" for share, what in shares))


def _thinned(values: list[int]) -> list[float]:
    """At most `WIDTH` means of neighbours."""
    size = -(-len(values) // WIDTH)
    return [sum(part) / len(part) for part in (values[i : i + size] for i in range(0, len(values), size))]
