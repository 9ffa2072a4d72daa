"""`tokenworks simulate`: play a trace or a workload through a deployment, request by request."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tokenworks.cli import per_request as rows
from tokenworks.cli.faults import FaultOptions, print_faults
from tokenworks.cli.options import (
    DEPLOYMENTS,
    PAGE_HELP,
    REQUESTS,
    RESULT,
    DeployedOptions,
    PageFormat,
    PageOptions,
    PlayedOptions,
    Switch,
    within,
)
from tokenworks.cli.output import console, emit, notes, timed
from tokenworks.cli.page import BARS, Page
from tokenworks.cli.progress import compile_once, progress
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import SloMissed
from tokenworks.specs.scheduling import Scheduling
from tokenworks.specs.software import Software
from tokenworks.specs.workload import MOST_IN_FLIGHT

if TYPE_CHECKING:
    from tokenworks.simulation.run import Simulation

WIDTH = 60
"""Bars of a series over time."""
BESIDE = 26
"""Width of the text before and after the bars [character]."""
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
    max_queue: Annotated[int, Parameter(group=REQUESTS)] = 0,
    experts: Annotated[Path | None, Parameter(group=REQUESTS)] = None,
    failing: FaultOptions = FaultOptions(),  # noqa: B008 - frozen
    require_slo: Annotated[Switch, Parameter(group=RESULT)] = False,
    per_request: Annotated[Path | None, Parameter(group=RESULT)] = None,
    output: Annotated[PageFormat, Parameter(name=["-o", "--output"], help=PAGE_HELP, group=RESULT)] = "table",
    page: PageOptions = PageOptions(),  # noqa: B008 - frozen
) -> None:
    """Play a trace or a workload through a deployment, request by request.

    Parameters
    ----------
    concurrency
        Closed loop: number of users of a workload, or the most requests of a trace that are in flight.
    rate
        Requests per second of a workload, or the rate that a trace is scaled to.
    scale
        Play a trace at SCALE times its own rate.
    max_queue
        Reject a request if MAX_QUEUE requests already wait at its rank; 0 rejects none.
    experts
        Popularity of the routed experts over time: a YAML file (alpha, half_life, seed), or a CSV file of counts with
        the columns time, layer, expert and count. Without it, the calibration has one skew for all times.
    require_slo
        Exit with code 4 if the SLO is missed.
    per_request
        Write one row per request to this .csv or .parquet file.
    """
    from tokenworks.simulation.run import simulate as run

    began = time.perf_counter()
    within(max_queue, "--max-queue", 0, MOST_QUEUE)
    if concurrency is not None:
        within(concurrency, "--concurrency", 1, int(MOST_IN_FLIGHT))
    page.check(output)
    if per_request:
        rows.check(per_request)
    chosen = deployed.read(deployment)
    failures = failing.read()
    source = played.source(chosen)
    slo = source.slo(played.slo)
    if require_slo:
        source.must_be_bound(slo, "--require-slo needs one")
    traffic = source.traffic(rate=rate, scale=scale, concurrency=concurrency)
    compile_once()
    with progress("simulating") as report:
        simulation = run(
            chosen, traffic, slo=slo, router=deployed.router, max_queue=max_queue, seed=played.seed,
            watch=(lambda now, last: report(f"simulated {now:,.0f} s of {last:,.0f} s")) if report else None,
            compare_tiers=True, experts=experts, failures=failures,
        )  # fmt: skip
    if per_request:
        rows.write(simulation, per_request)
    plain = timed(simulation.plain(), began)
    plain["wall"]["peak_bytes"] = _peak_bytes()
    _print_result(simulation, plain, output, page)
    if simulation.partial:
        raise KeyboardInterrupt  # for the exit code; the part that was simulated is printed
    if require_slo and not simulation.meets_slo:
        raise SloMissed(_missed(simulation))


def _print_result(simulation: Simulation, plain: dict[str, Any], output: PageFormat, page: PageOptions) -> None:
    for note in plain["notes"]:
        notes().paragraph(f"note: {note}")
    if output == "table":
        _print(simulation, plain)
    elif output == "json" or output == "yaml":  # noqa: PLR1714 - mypy narrows a literal only like this
        emit(plain, output)
    else:
        page.write(output, plain, [simulation.site.machine])


def _missed(simulation: Simulation) -> str:
    """Message with the bounds that do not hold, or with the growing queue."""
    reasons = [
        f"{name} p{bound.percentile:g} is {shown(1e3 * bound.seen_s)} ms, {shown(1e3 * bound.bound_s)} ms at most"
        for name, bound in simulation.bounds.items()
        if not bound.met
    ]
    if not simulation.stable:
        reasons.append("the queue grows: more requests arrive than the deployment serves")
    if not simulation.holds_requests:
        reasons.append(f"{simulation.too_large:.1%} of the requests are larger than the KV cache of a rank")
    return f"{simulation.deployment} misses the SLO: {'; '.join(reasons) or 'requests were not served'}"


def _peak_bytes() -> int:
    """Peak memory of this process [byte]."""
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ── table ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _print(simulation: Simulation, plain: dict[str, Any]) -> None:
    out, inputs, deployment = console(), plain["inputs"], simulation.deployment
    stopped = "stopped, partial: " if plain["partial"] else ""
    queue = "" if deployment.scheduling == Scheduling() else f", scheduling {deployment.scheduling}"
    out.paragraph(
        f"{stopped}{deployment.model} on {deployment.system}, {deployment}, {inputs['devices']} devices, router "
        f"{inputs['router']}{queue}: {inputs['trace']}, {inputs['requests']:,} requests"
    )
    _print_counts(plain, out)
    _print_latency(simulation, plain, out)
    _print_classes(plain, out)
    _print_roles(plain, out)
    _print_tiers(plain, out)
    _print_experts(plain, out)
    print_faults(plain, out)
    _print_series(plain["series"], out)
    if plain["assumed"]:
        out.paragraph("\nAssumed: " + "; ".join(f"{item['path']} = {item['value']}" for item in plain["assumed"]))
    for one in plain["software"]:
        out.paragraph(Software.model_validate(one).words)
    out.paragraph(
        f"Grade: {plain['grade']}. 80 % interval of step times: predicted time / {plain['spread']:.2g} to predicted "
        f"time x {plain['spread']:.2g}. Simulated in {plain['wall']['kernel_s']:.3g} s; the command took "
        f"{plain['wall']['total_s']:.2g} s."
    )


def _print_counts(plain: dict[str, Any], out: Page) -> None:
    others = [
        f"{plain[name]:,} {name}" for name in ("rejected", "failed", "unsent", "queued", "running") if plain[name]
    ]
    whole = "" if plain["inputs"]["endless"] else " (all)"
    out.paragraph(
        f"{plain['completed']:,} completed in {plain['duration']:,.1f} s{whole}: {plain['request_throughput']:.4g} "
        f"requests/s, {plain['output_throughput']:,.0f} output tokens/s"
        + "".join(f"; {words}" for words in others)
        + (f"; {plain['preemptions']:,} preemptions" if plain["preemptions"] else "")
    )
    out.paragraph(
        f"per device: {plain['output_tok_s_per_device']:,.1f} output, {plain['total_tok_s_per_device']:,.1f} total, "
        f"{plain['effective_tok_s_per_device']:,.1f} effective tokens/s"
    )
    if not plain["stable"]:
        backlog = zip(plain["backlog"]["at_s"], plain["backlog"]["waiting"], strict=True)
        counts = ", ".join(f"{waiting:,} at {at:,.0f} s" for at, waiting in backlog)
        out.paragraph(f"UNSTABLE: the queue grows, because more requests arrive than are served. Waiting: {counts}")
        if plain["inputs"]["endless"]:
            out.paragraph("TTFT and E2EL have no mean: they grow with the simulated time.")


def _print_latency(simulation: Simulation, plain: dict[str, Any], out: Page) -> None:
    statistics = ("mean", "median", "std", "p99")
    rows = []
    for name, title in (("ttft", "TTFT"), ("tpot", "TPOT"), ("itl", "ITL"), ("e2el", "E2EL")):
        values = [plain[f"{statistic}_{name}_ms"] for statistic in statistics]
        rows.append([f"{title} [ms]", *("-" if value is None else shown(value) for value in values)])
    out.print()
    print_table(out, {"": "left", **dict.fromkeys(statistics, "right")}, rows)
    slo = plain["slo"]
    if slo["text"]:
        bounds = [
            f"{name} p{seen.percentile:g} {shown(1e3 * seen.seen_s)} of {shown(1e3 * seen.bound_s)} ms"
            for name, seen in simulation.bounds.items()
        ]
        out.paragraph(f"\nSLO {slo['text']}: {'met' if slo['met'] else 'MISSED'} ({', '.join(bounds)})")


def _print_classes(plain: dict[str, Any], out: Page) -> None:
    """Print one row per class of requests, with the SLO of the class."""
    if not plain["classes"]:
        return
    columns: Columns = {"class": "left"}
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
        for one in plain["classes"]
    ]
    out.print()
    print_table(out, columns, rows, wraps=("SLO",), spare=("priority", "goodput/s"))


def shown(value: float, digits: int = 4) -> str:
    """A number with some digits [count], or with all digits of its integer part."""
    return f"{value:,.0f}" if value >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def _print_roles(plain: dict[str, Any], out: Page) -> None:
    columns: Columns = {"role": "left"}
    numbers = ("instances", "busy", "steps", "step [ms]", "batch", "prefill per step", "hits", "preempted")
    columns |= {**dict.fromkeys(numbers, "right"), "mean step bound by": "left"}
    rows = [
        [
            role["role"],
            str(role["instances"]),
            f"{role['busy_share']:.0%}",
            f"{role['steps']:,}",
            shown(role["step_ms"], 3),
            f"{role['mean_batch']:.1f}",
            f"{role['prefill_tokens_per_step']:,.0f}",
            f"{role['hit_share']:.1%}",
            f"{role['preemptions']:,}",
            role["bound_by"],
        ]
        for role in plain["roles"]
    ]
    out.print()
    print_table(out, columns, rows, spare=("preempted", "instances", "steps", "hits", "prefill per step"))


def _print_tiers(plain: dict[str, Any], out: Page) -> None:
    """Print one row per tier of the KV cache if there are tiers below HBM, and whether the tiers pay."""
    if len(plain["tiers"]) == 1:
        return
    numbers = ("capacity [GB]", "used", "hits", "read [GB]", "written [GB]", "quicker from [token]")
    columns: Columns = {"KV tier": "left", **dict.fromkeys(numbers, "right")}
    rows = [
        [
            tier["name"],
            f"{tier['capacity_bytes'] / 1e9:,.4g}",
            f"{tier['used_share']:.0%}",
            f"{tier['hit_share']:.1%}",
            f"{tier['read_bytes'] / 1e9:,.4g}",
            f"{tier['written_bytes'] / 1e9:,.4g}",
            "-" if tier["name"] == "hbm" else f"{tier['pays_from_tokens'] or 'never'}",
        ]
        for tier in plain["tiers"]
    ]
    out.print()
    print_table(out, columns, rows, spare=("used", "written [GB]"))
    worth = plain["tier_worth"]
    if worth is None:
        return
    ttft, before = plain["mean_ttft_ms"], worth["without"]["mean_ttft_ms"]
    times = "" if ttft is None or before is None else f", mean TTFT {shown(ttft)} ms ({shown(before)} ms)"
    enough = "" if worth["enough_bytes"] is None else (
        f" One shared cache of {worth['enough_bytes'] / 1e9:,.4g} GB has 99 % of the hits of a cache without an end."
    )  # fmt: skip
    out.paragraph(
        f"\nDo the tiers below HBM pay? {'Yes' if worth['pays'] else 'No'}: "
        f"{plain['effective_tok_s_per_device']:,.4g} effective tokens/s per device "
        f"({worth['without_effective_tok_s_per_device']:,.4g} without them){times}. Hits {worth['hit_share']:.1%} of "
        f"the prompt tokens ({worth['without_hit_share']:.1%} without them); the best possible eviction has "
        f"{worth['belady_share']:.1%} with this capacity, a cache without an end {worth['endless_share']:.1%}.{enough}"
    )


def _print_experts(plain: dict[str, Any], out: Page) -> None:
    """Print one row per role with expert parallelism, if the popularity of the experts is known."""
    if "experts" not in plain:
        return
    numbers = ("ep", "hottest / mean", "worst layer", "without EPLB", "touched", "rebalances", "moved [GB]",
               "between [GB]", "paused [s]")  # fmt: skip
    columns: Columns = {"experts": "left", **dict.fromkeys(numbers, "right")}
    rows = [
        [
            role["role"],
            str(role["ep"]),
            f"{role['balance']:.3g}",
            f"{role['worst_balance']:.3g}",
            f"{role['plain_balance']:.3g}",
            f"{role['touched']:.3g}",
            f"{role['rebalances']:,}",
            f"{(role['moved_inside_bytes'] + role['moved_between_bytes']) / 1e9:,.4g}",
            f"{role['moved_between_bytes'] / 1e9:,.4g}",
            f"{role['pause_s']:,.3g}",
        ]
        for role in plain["experts"]["roles"]
    ]
    out.print()
    print_table(out, columns, rows, spare=("touched", "between [GB]", "worst layer"))
    for role in plain["experts"]["roles"]:
        values = _thinned(role["series"]["balance"], min(WIDTH, max(1, out.width - BESIDE)))
        still = _thinned(role["series"]["plain_balance"], min(WIDTH, max(1, out.width - BESIDE)))
        most = max([*values, *still, 1.0 + 1e-9])
        for name, series in (("balance", values), ("no EPLB", still)):
            bars = "".join(BARS[round((value - 1) * (len(BARS) - 1) / (most - 1))] for value in series)
            out.print(f"{name:>7} {bars} at most {max(series):.3g}")


def _print_series(series: dict[str, Any], out: Page) -> None:
    """Print running and waiting requests over time as bars, and the share of time that each roof binds."""
    bound = series["bound"]
    if not bound:
        return
    out.print()
    for name in ("running", "waiting"):
        values = _thinned(series[name], min(WIDTH, max(1, out.width - BESIDE)))
        most = max(values)
        bars = "".join(BARS[round(value * (len(BARS) - 1) / most) if most else 0] for value in values)
        out.print(f"{name:>7} {bars} at most {max(series[name]):,}")
    shares = sorted(((bound.count(roof) / len(bound), roof) for roof in set(bound)), reverse=True)
    out.paragraph("time bound by " + ", ".join(f"{roof} {share:.0%}" for share, roof in shares))


def _thinned(values: list[int], most: int) -> list[float]:
    """Means of neighbours, `most` of them or fewer."""
    size = -(-len(values) // most)
    return [sum(part) / len(part) for part in (values[i : i + size] for i in range(0, len(values), size))]
