"""`tokenworks advise`: what a deployment will do, what binds it, and which single changes gain most."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from tokenworks.cli.import_launch import LaunchOptions
from tokenworks.cli.options import (
    DEVICES,
    FILE_CALIBRATION,
    MACHINE,
    REQUESTS,
    RESULT,
    ChangeOptions,
    Output,
)
from tokenworks.cli.output import console, emit, timed
from tokenworks.cli.page import Page
from tokenworks.cli.plan import BINDING
from tokenworks.cli.progress import compile_once, progress
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import SpecError
from tokenworks.ledger.advise import Advice
from tokenworks.ledger.advise import advise as advice_of
from tokenworks.planning.result import Ranked
from tokenworks.specs.slo import PERCENTILE

MOST_CHANGES = 20
"""Changes that a user may ask for [count]."""

WAITS = {"max-sequences": "a sequence slot (max_sequences)", "kv-capacity": "room in the KV cache"}
"""What requests can wait for, in words."""

LEAST_WAIT = 0.1
"""A smaller share of the time in which requests wait is not named [-]."""

PARTS = 4
"""Parts of the device time that are named, largest first [count]."""


def advise(
    *deployment: Annotated[str, Parameter(group=MACHINE)],
    launch: LaunchOptions = LaunchOptions(),  # noqa: B008 - frozen
    pick: Annotated[int, Parameter(group=MACHINE)] = 1,
    devices: Annotated[int | None, DEVICES] = None,
    workload: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    isl: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    osl: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    rate: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    concurrency: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    slo: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    numbers: ChangeOptions = ChangeOptions(),  # noqa: B008 - frozen
    calibration: Annotated[str | None, FILE_CALIBRATION] = None,
    top: Annotated[int, Parameter(group=RESULT)] = 3,
    output: Output = "table",
) -> None:
    """Say what a deployment will do, what binds it, and which single changes gain most.

    Parameters
    ----------
    deployment
        YAML file of deployments, as `plan -o yaml` or `import -o yaml` writes it; or what `import` reads: a launch
        command in quotes, a shell script, a Compose file, a Kubernetes manifest or a recipe, or several of them that
        start one deployment together.
    pick
        Number of the deployment in a file of deployments; 1 is the first one.
    workload
        Workload of the catalog (agent, chat, code, reason, summarise) or a YAML file; by default the workload of the
        file.
    isl
        Mean input tokens of a request. --isl and --osl replace --workload.
    osl
        Mean output tokens of a request.
    rate
        Load in requests per second. By default each deployment serves its highest rate within the SLO.
    concurrency
        Load in requests in flight, instead of --rate.
    slo
        Bounds, such as ttft=2s,tpot=50ms (99th percentiles) or ttft.p50=1s; by default the SLO of the workload.
    top
        Number of changes to list.
    """
    began = time.perf_counter()
    if not 1 <= top <= MOST_CHANGES:
        raise SpecError(f"{top} changes", where="--top", hint=f"write 1 to {MOST_CHANGES}")
    given = numbers.given()
    deployed, notes = launch.deployed(deployment, pick, given)
    compile_once()
    with progress("reading") as report:
        result = advice_of(
            numbers.changed(deployed), on=launch.on, model=launch.model, workload=workload, isl=isl, osl=osl, rate=rate,
            concurrency=concurrency, slo=slo, devices=devices, assume=given, calibration=calibration, top=top,
            notes=notes, say=report,
        )  # fmt: skip
    if output == "table":
        _print(result, console())
    else:
        emit(timed(result.plain(), began), output)
    if error := result.error():
        raise error


def _print(result: Advice, out: Page) -> None:
    setting = result.costing.setting
    out.paragraph(
        f"{setting.model.name} on {setting.machine.name} with {setting.engine.title}: {result.deployment}, "
        f"{result.deployment.devices} of {setting.machine.devices} devices"
    )
    for note in result.notes:
        out.paragraph(note)
    if result.prediction is None:
        count = len(result.broken)
        out.paragraph(f"\nThe deployment breaks {count} {'rule' if count == 1 else 'rules'}:")
        for item in result.broken:
            out.paragraph(f"\n{item.rule}: {item.law}\n  {item.message}")
        _print_changes(result, None, out)
        return
    for line in (*_behaviour(result, result.prediction), *_binding(result, result.prediction)):
        out.paragraph(line)
    _print_changes(result, result.prediction, out)
    for line in _trust(result, result.prediction):
        out.paragraph(line)


def _behaviour(result: Advice, row: Ranked) -> Iterator[str]:
    """What the deployment does, with intervals."""
    load, slo = result.costing.load, str(result.costing.slo) or "no SLO"
    if load:
        where = f"at {load.value:g} {load.unit}"
    else:
        where = "at its highest rate within the SLO" if row.meets_slo else "at its estimated rate"
    low, high = row.interval["tpot_s"]
    less, more = row.interval["output_tok_s_per_device"]
    ttft, tpot = _percentiles(result)
    yield (
        f"\nIt {'meets' if row.meets_slo else 'MISSES'} {slo} {where}: {row.requests_s:,.3g} requests/s, TTFT mean "
        f"{row.ttft_s:,.3g} s, p{ttft:g} {row.ttft_slo_s:,.3g} s, TPOT mean {row.tpot_s * 1e3:,.3g} ms (80 % interval "
        f"{low * 1e3:,.3g} to {high * 1e3:,.3g}), p{tpot:g} {row.tpot_slo_s * 1e3:,.3g} ms."
    )
    idle = f"; {row.idle_devices} devices stay idle and are counted" if row.idle_devices else ""
    yield (
        f"Per device: {_speed(row.effective_tok_s_per_device)} effective, {_speed(row.output_tok_s_per_device)} output "
        f"(80 % interval {_speed(less)} to {_speed(more)}), {_speed(row.total_tok_s_per_device)} total tokens/s{idle}."
    )


def _speed(tokens_s: float) -> str:
    return f"{tokens_s:,.1f}" if tokens_s >= 10 else f"{tokens_s:.3g}"


def _percentiles(result: Advice) -> tuple[float, float]:
    slo = result.costing.slo
    ttft, tpot = (bound.percentile if bound else PERCENTILE for bound in (slo.ttft, slo.tpot))
    return ttft, tpot


def _binding(result: Advice, row: Ranked) -> Iterator[str]:
    """What limits the deployment, and where the time of its devices goes."""
    where = "" if row.bound_role == "aggregated" else f", in the {row.bound_role} role"
    parts = ", ".join(f"{part['part']} {part['share']:.0%}" for part in result.parts[:PARTS])
    waits = [f"{words} in {share:.0%} of the time" for name, words in WAITS.items()
             if (share := result.limit_shares.get(name, 0.0)) >= LEAST_WAIT]  # fmt: skip
    waiting = f" Requests wait for {' and for '.join(waits)}." if waits else ""
    yield f"It is bound by {BINDING[row.bound_by]}{where}.{waiting} Device time per output token: {parts}."


def _print_changes(result: Advice, before: Ranked | None, out: Page) -> None:
    if not result.improvements:
        words = f"None of {result.tried} single changes gains 2 % or more." if before else "No single change helps."
        out.paragraph(f"\n{words}")
        return
    ttft, tpot = _percentiles(result)
    columns: Columns = {"change": "left", "gain": "right", "effective": "right", "output": "right"}
    for heading in (f"TTFT p{ttft:g} [s]", f"TPOT p{tpot:g} [ms]"):
        columns[heading] = "right"
    columns["bound by"] = "left"
    rows = [_cells("as it is", None, before)] if before else []
    rows += [_cells(one.change.words, one.gain, one.row) for one in result.improvements]
    title = f"\nThe best of {result.tried} single changes, each simulated at its own rate"
    if before is None:
        title = f"\nThe best of {result.tried} single changes that make it legal"
    elif result.costing.load:
        title = f"\nThe best of {result.tried} single changes, under the same load"
    print_table(out, columns, rows, title=title, wraps=("change",), spare=("output", "bound by"))
    for one in result.improvements:
        out.paragraph(f"{one.change.words}: {' '.join(f'--set {value}' for value in one.change.values)}")
    for note in dict.fromkeys(one.change.note for one in result.improvements if one.change.note):
        out.paragraph(note)


def _cells(words: str, gain: float | None, row: Ranked) -> list[str]:
    return [
        words,
        "" if gain is None else f"{gain:+.0%}",
        _speed(row.effective_tok_s_per_device),
        _speed(row.output_tok_s_per_device),
        f"{row.ttft_slo_s:,.2f}",
        f"{row.tpot_slo_s * 1e3:,.1f}",
        row.bound_by,
    ]


def _trust(result: Advice, row: Ranked) -> Iterator[str]:
    yield (
        f"\nGrade {row.grade}. Simulated with the scheduler of {result.costing.setting.engine.title}, scheduling "
        f"{row.deployment.scheduling}: "
        f"{result.simulations:,} runs of {result.requests:,} requests. A gain below 2 % is not listed. The changes are "
        "not added up: apply one, and ask again."
    )
    yield from (one.words for one in row.software)
    machine = [item for item in result.assumed if not item.path.startswith(("calibration", "engine", "workload"))]
    numbers = "; ".join(f"{item.path} = {item.value}" for item in machine) or "no number of the machine"
    yield f"Assumed: {numbers}; and {len(result.assumed) - len(machine)} more (see `-o json`)."
