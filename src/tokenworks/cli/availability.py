"""`tokenworks availability`: how much of the time a machine and a deployment work, and what takes the rest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from tokenworks.cli.options import (
    DEPLOYMENTS,
    MACHINE,
    NUMBERS,
    ON,
    PAGE_HELP,
    REQUESTS,
    RESULT,
    ChangeOptions,
    PageFormat,
    PageOptions,
)
from tokenworks.cli.output import console, emit, timed
from tokenworks.cli.progress import compile_once, progress
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import SpecError
from tokenworks.specs.deployment_file import pick_deployment
from tokenworks.specs.given import from_options, split
from tokenworks.specs.reliability import PUBLISHED

if TYPE_CHECKING:
    from tokenworks.cli.page import Page
    from tokenworks.ledger.availability_result import Availability, AvailabilityFigure
    from tokenworks.ledger.availability_sensitivity import Swing

HISTORIES = Group("Histories", sort_key=1)
FORMAT = Parameter(name=["-o", "--output"], help=PAGE_HELP, group=RESULT)
BAR = 24
"""Longest bar of the tornado [character]."""
SWINGS = 8
"""Rows of the tornado; `-o json` has all numbers [count]."""
MINUTE, HOUR = 60.0, 3600.0


@Parameter(name="*", group=HISTORIES)
@dataclass(frozen=True, kw_only=True)
class HistoryOptions:
    """Random histories of failures.

    Parameters
    ----------
    years
        Length of each history [year].
    seeds
        Number of histories.
    seed
        Random seed of the first history, and of generated requests.
    promise
        Promised availability [%].
    reliability
        Failure rates: a name of catalog/reliability, or a YAML file of the same form.
    """

    years: float = 1.0
    seeds: int = 100
    seed: int = 0
    promise: float = 99.99
    reliability: Annotated[str, Parameter(group=NUMBERS)] = PUBLISHED


def availability(
    system: Annotated[str, ON],
    /,
    *,
    deploy: Annotated[Path | None, DEPLOYMENTS] = None,
    pick: Annotated[int, Parameter(group=MACHINE)] = 1,
    workload: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    slo: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    histories: HistoryOptions = HistoryOptions(),
    numbers: ChangeOptions = ChangeOptions(),  # noqa: B008 - frozen
    output: Annotated[PageFormat, FORMAT] = "table",
    page: PageOptions = PageOptions(),  # noqa: B008 - frozen
) -> None:
    """Find how much of the time a machine and a deployment on it work, and which parts take the rest.

    Parameters
    ----------
    pick
        Number of the deployment in the file; 1 is the first one.
    workload
        Requests of the deployment: a workload of the catalog (agent, chat, code, reason, summarise), or a YAML file; by
        default the workload that the plan was made for.
    slo
        Bounds, such as ttft=2s,tpot=50ms (99th percentiles); by default the SLO of the workload.
    """
    from tokenworks.ledger.availability import availability_of
    from tokenworks.simulation.source import Source

    began = time.perf_counter()
    page.check(output)
    chosen, source, bounds = None, None, None
    if deploy is not None:
        chosen = numbers.changed(pick_deployment(deploy, pick))
        given = numbers.given() or ()
        chosen = dataclasses.replace(chosen, given=(*(() if numbers.assume else chosen.given), *given))
        asked = chosen.workload if workload is None else workload
        if asked is None:
            raise SpecError("is missing", where="--workload",
                            hint="name the requests whose capacity counts, such as --workload chat")  # fmt: skip
        source = Source.read(None, asked, seed=histories.seed, assume=chosen.given)
        bounds = source.slo(slo)
        compile_once()
    else:
        _must_be_of_a_machine(numbers, pick, workload, slo)
    with progress("reading") as report:
        result = availability_of(
            system, deployed=chosen, source=source, slo=bounds, years=histories.years, seeds=histories.seeds,
            reliability=histories.reliability, promise=histories.promise, seed=histories.seed,
            assume=None if deploy is not None else numbers.given("machine"), say=report,
        )  # fmt: skip
    if output == "table":
        _print(result, console())
    elif output == "json" or output == "yaml":  # noqa: PLR1714 - mypy reads these
        emit(timed(result.plain(), began), output)
    else:
        page.write(output, result.plain(), [result.machine])


def _must_be_of_a_machine(numbers: ChangeOptions, pick: int, workload: str | None, slo: str | None) -> None:
    """Refuse options that need a deployment."""
    bare, _ = split(from_options(numbers.set_))
    given = {"--workload": workload is not None, "--slo": slo is not None, "--pick": pick != 1, "--set": bool(bare)}
    for name, there in given.items():
        if there:
            raise SpecError(
                "belongs to a deployment", where=name, hint="give --deploy FILE, as `plan -o yaml` writes it"
            )


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _print(result: Availability, out: Page) -> None:
    for line in _heading(result):
        out.paragraph(line)
    _print_figures(result, out)
    _print_causes(result, out)
    if result.deployment and result.deployment.states:
        columns: Columns = {"state": "left", "capacity": "right", "hours a year": "right"}
        rows = [[row.state, f"{row.capacity:.1%}", f"{row.time * 8760:,.2f}"] for row in result.deployment.states]
        print_table(out, columns, rows, title="\nStates that lose the most capacity", wraps=("state",))
    for line in _promise(result):
        out.paragraph(line)
    _print_swings(result, out)
    for note in result.notes:
        out.paragraph(note)
    for line in _trust(result):
        out.paragraph(line)


def _heading(result: Availability) -> Iterator[str]:
    machine = result.machine
    domains = machine.devices // machine.domain
    words = f"{domains} scale-up domains" if domains > 1 else "one scale-up domain"
    yield f"{result.system}: {machine.devices} x {machine.device}, {words} of {machine.domain}"
    if result.deployment:
        one = result.deployment
        elastic = "elastic expert parallelism" if one.elastic else "no elastic expert parallelism"
        yield f"{one.label}; {elastic}, {one.spares} spare devices; {one.effective_tok_s:,.0f} effective tokens/s"
    stopped = ", stopped by the user" if result.partial else ""
    yield f"{result.seeds:,} histories of {result.years:g} {'year' if result.years == 1 else 'years'}{stopped}"


def _print_figures(result: Availability, out: Page) -> None:
    columns: Columns = {"": "left", "available": "right", "downtime": "right", "80 % of years": "right"}
    columns |= {"closed form": "right", "promise kept": "right"}
    figures: dict[str, AvailabilityFigure] = {"every part works": result.whole, "usable devices": result.devices}
    if result.deployment:
        figures |= {"deployment serves": result.deployment.serves, "capacity": result.deployment.capacity}
    rows = [
        [
            name,
            f"{figure.availability:.4%}",
            f"{_span(figure.downtime_s)} ± {_span(2 * figure.error_s)}",
            f"{_span(figure.interval_s[0])} to {_span(figure.interval_s[1])}",
            _span(figure.closed_form_s),
            f"{figure.kept:.0%}",
        ]
        for name, figure in figures.items()
    ]
    print_table(out, columns, rows, title="", spare=("80 % of years",))
    if result.deployment:
        lost = result.deployment.lost_tokens
        out.paragraph(
            f"Downtime of a year. Effective tokens lost in a year: {lost / 1e6:,.4g} million, "
            f"{1 - result.deployment.capacity.availability:.3%} of all. {result.deployment.simulated} conditions of "
            "instances were simulated."
        )


def _print_causes(result: Availability, out: Page) -> None:
    columns: Columns = {"part": "left"}
    columns |= dict.fromkeys(("parts", "failures/year", "downtime", "closed form", "share"), "right")
    total = sum(row.closed_s for row in result.causes) or 1.0
    played = sum(row.downtime_s or 0.0 for row in result.causes)
    rows = []
    for row in result.causes:
        share = row.closed_s / total if not played else (row.downtime_s or 0.0) / played
        rows.append(
            [row.kind, f"{row.parts:,}", f"{row.failures_per_year:,.3g}",
             "-" if row.downtime_s is None else _span(row.downtime_s), _span(row.closed_s), f"{share:.0%}"]
        )  # fmt: skip
    of = "capacity of the deployment" if result.deployment else "time in which every part works"
    print_table(out, columns, rows, title=f"\nWhat takes the {of}", spare=("closed form",))


def _promise(result: Availability) -> Iterator[str]:
    one = result.promise
    what = "stop the deployment" if result.deployment else "break a part"
    needed = "" if one.mean_needed_s is None else f"; the promise allows {_span(one.mean_needed_s)}"
    yield (
        f"\n{one.promise:g} % allows {_span(one.budget_s)} a year. {one.failures_per_year:,.3g} failures a year "
        f"{what}, each for {_span(one.mean_s)} on average{needed}."
    )
    if one.repair_needed_s is None:
        yield (
            f"No repair time keeps the promise: with repairs in no time, {_span(one.without_repair_s)} a year are lost "
            "by detection, resets and restarts."
        )
    elif one.repair_needed_s >= 9.99 * one.repair_s:
        yield f"Even repairs of {_span(one.repair_needed_s)} keep the promise; {_span(one.repair_s)} is assumed."
    else:
        yield f"A repair must take at most {_span(one.repair_needed_s)}; {_span(one.repair_s)} is assumed."


def _print_swings(result: Availability, out: Page) -> None:
    if not result.swings:
        return
    columns: Columns = {"number": "left", "range": "right", "low": "right", "high": "right", "": "left"}
    if result.swings[0].total is not None:
        columns |= {"alone": "right", "with others": "right"}
    widest = max(abs(swing.high_s - swing.low_s) for swing in result.swings) or 1.0
    rows = [_swing_row(swing, widest) for swing in result.swings[:SWINGS]]
    of = "lost capacity" if result.deployment else "time with a broken part"
    title = f"\nWhat the {of} of a year depends on: each number divided and multiplied by its range"
    print_table(out, columns, rows, title=title, spare=("", "alone"))
    if result.pairs:
        pairs = ", ".join(f"{pair.first} with {pair.second} {pair.share:.1%}" for pair in result.pairs)
        out.paragraph(f"Effects that multiply, as shares of the variance (Sobol): {pairs}.")


def _swing_row(swing: Swing, widest: float) -> list[str]:
    length = round(abs(swing.high_s - swing.low_s) / widest * BAR)
    row = [swing.name, f"x/÷ {swing.factor:g}", _span(swing.low_s), _span(swing.high_s), "█" * length]
    if swing.first is not None and swing.total is not None:
        row += [f"{swing.first:z.0%}", f"{swing.total:z.0%}"]
    return row


def _trust(result: Availability) -> Iterator[str]:
    yield (
        "\nExact: times of failures and repairs, and the states between them. Composed: the capacity of a state times "
        "its time; requests around a failure are not played. Closed form: one failure at a time."
    )
    paths = [item.path.removeprefix("reliability.") for item in result.assumed]
    yield f"Assumed ({result.rates.name}): {', '.join(paths)}. `-o json` lists values and reasons."
    carried = sorted({why for item in result.assumed if (why := _carried(item.why))})
    for why in carried:
        yield f"{why[0].upper()}{why[1:]}: rates of other machines are assumed."


def _carried(why: str) -> str:
    """The words of an assumption that say that a rate comes from another machine."""
    head = why.partition(";")[0]
    return head if head.startswith("no failure rate of this") else ""


def _span(seconds: float) -> str:
    """A time in words: seconds, minutes or hours."""
    if seconds != seconds:  # one history has no standard error  # noqa: PLR0124
        return "-"
    if seconds < MINUTE:
        return f"{seconds:.3g} s"
    if seconds < 2 * HOUR:
        return f"{seconds / MINUTE:.3g} min"
    return f"{seconds / HOUR:,.4g} h" if seconds >= 1000 * HOUR else f"{seconds / HOUR:.3g} h"
