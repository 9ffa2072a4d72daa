"""`tokenworks claims`: the claims of the scaleX40 article, each with a verdict and the assumptions it hangs on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tokenworks.cli.options import CALIBRATION, NUMBERS, RESULT, PageFormat, PageOptions, at_least_one
from tokenworks.cli.output import console, emit, timed
from tokenworks.cli.page import Page
from tokenworks.cli.progress import compile_once, progress
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.given import Given, from_options, given
from tokenworks.specs.reliability import PUBLISHED

if TYPE_CHECKING:
    from tokenworks.ledger.claims.finding import ClaimMap, ClaimTable, TableCell
    from tokenworks.ledger.claims.result import ClaimsRun, JudgedClaim

FORMAT = Parameter(
    name=["-o", "--output"],
    group=RESULT,
    help="Format of the result. html is one page for a browser; it needs --out, and the extra tokenworks[report].",
)
SHOWN = 8
"""Rows of a list that the table shows; `-o json` has all [count]."""


def claims(
    ids: Annotated[
        tuple[str, ...], Parameter(help="Numbers of claims, such as C13; by default all 36, one line each.")
    ] = (),
    /,
    *,
    assume: Annotated[tuple[str, ...], Parameter(group=NUMBERS, negative=())] = (),
    set_: Annotated[tuple[str, ...], Parameter(name="--set", group=NUMBERS, negative=(), show_default=False)] = (),
    prices: Annotated[Path | None, Parameter(group=NUMBERS)] = None,
    reliability: Annotated[str, Parameter(group=NUMBERS)] = PUBLISHED,
    mix: Annotated[Path | None, Parameter(group=NUMBERS)] = None,
    calibration: Annotated[str, CALIBRATION] = DEFAULT,
    workers: Annotated[int | None, Parameter(group=RESULT)] = None,
    output: Annotated[PageFormat, FORMAT] = "table",
    page: PageOptions = PageOptions(),  # noqa: B008 - frozen
) -> None:
    """Check the claims of the scaleX40 article: the value that we compute, a verdict, and the numbers it hangs on.

    Parameters
    ----------
    assume
        SYSTEM=FILE, such as scalex40=mine.yaml: numbers of one machine that replace numbers of the catalog, one
        `path: value` per line. May be repeated.
    set_
        Replace one number by its whole path, such as scalex40.device.nic="25 GB/s", reliability.repair="4 h",
        prices.systems.scalex40="8000000 CNY/system" or workload.isl=5000. May be repeated.
    prices
        YAML file of prices that replace prices of the catalog.
    reliability
        Failure rates: a name of catalog/reliability, or a YAML file of the same form.
    mix
        YAML file of models with weights, requests and machines that replace those of the catalog.
    workers
        Processes; by default one for each processor. The number changes no result.
    """
    from tokenworks.ledger.claims.claims import claims as claiming

    began = time.perf_counter()
    if output in ("svg", "png"):
        raise SpecError("claims have no single chart", where=f"-o {output}", hint="write -o html --out claims.html")
    page.check(output)
    at_least_one(workers, "--workers")
    own = _assumed(assume)
    compile_once()
    with progress("reading") as report:
        result = claiming(
            ids,
            assume_of=own,
            assume=from_options(set_),
            prices=prices,
            reliability=reliability,
            mix=mix,
            calibration=calibration,
            workers=workers,
            progress=report,
        )
    if output == "table":
        _print(result, console(), details=bool(ids))
    elif output == "json" or output == "yaml":  # noqa: PLR1714 - mypy reads these
        emit(timed(result.plain(), began), output)
    else:
        page.write(output, result.plain(), [])


def _assumed(texts: tuple[str, ...]) -> dict[str, tuple[Given, ...]]:
    """Numbers by system: SYSTEM=FILE."""
    own: dict[str, tuple[Given, ...]] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            hint = "write SYSTEM=FILE, such as scalex40=mine.yaml; a single number goes with --set"
            raise SpecError("names no system and file", where=f"--assume {text}", hint=hint)
        own[name] = (*own.get(name, ()), *given(Path(path)))
    return own


# ── the page ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _print(result: ClaimsRun, out: Page, *, details: bool) -> None:
    columns: Columns = {"claim": "left", "it says": "left", "number": "right", "computed": "right", "range": "right"}
    columns |= {"verdict": "left"}
    rows = [_row(one) for one in result.claims]
    print_table(out, columns, rows, title="", wraps=("it says",), spare=("range",))
    if details:
        for one in result.claims:
            _print_details(one, out)
    else:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in result.verdicts.items())
        out.paragraph(f"\n{counts}. `tokenworks claims C13` prints reasons, conditions and tables of a claim.")
    for note in result.notes:
        out.paragraph(note)


def _row(one: JudgedClaim) -> list[str]:
    finding, number = one.finding, one.claim.number
    ends = "" if finding.low == finding.high else f"{_short(finding.low)} to {_short(finding.high)}"
    return [
        one.id,
        one.claim.short.en,
        number.written if number else "",
        f"{_short(finding.computed)} {finding.unit}".strip(),
        ends,
        finding.verdict,
    ]


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 1e5 else f"{value:,.0f}"


def _print_details(one: JudgedClaim, out: Page) -> None:
    finding = one.finding
    out.paragraph(f"\n{one.id}: {one.claim.says.en}")
    out.paragraph(f"Verdict: {finding.verdict}.")
    for line in finding.because:
        out.paragraph(line)
    for line in finding.conditions:
        out.paragraph(f"- {line}")
    for table in finding.tables:
        _print_rows(table, out)
    for chart in finding.maps:
        _print_map(chart, out)
    _print_effects(one, out)
    for line in (*_break_evens(one), *finding.notes):
        out.paragraph(line)
    if one.claim.unknown:
        out.paragraph(f"Nobody published: {one.claim.unknown}.")
    if one.assumed:
        out.paragraph("Assumed: " + ", ".join(f"{item.path} {item.value}".strip() for item in one.assumed) + ".")
    out.paragraph(f"Command: {one.command}")


def _print_rows(table: ClaimTable, out: Page) -> None:
    columns: Columns = {name: "left" if _words(table, at) else "right" for at, name in enumerate(table.columns)}
    rows = [[_cell(value) for value in row] for row in table.rows]
    print_table(out, columns, rows, title=f"\n{table.title}", wraps=table.columns[:1])


def _words(table: ClaimTable, at: int) -> bool:
    """Whether a column has words."""
    return any(isinstance(row[at], str) for row in table.rows)


def _cell(value: TableCell) -> str:
    if isinstance(value, float):
        return _short(value)
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else value


def _print_map(chart: ClaimMap, out: Page) -> None:
    """A map as a table: a row for each row, a column for each column."""
    names = list(dict.fromkeys(cell.column for cell in chart.cells))
    columns: Columns = {chart.rows: "left"}
    columns |= dict.fromkeys(names, "right")
    cells = {(cell.row, cell.column): cell for cell in chart.cells}
    rows = []
    for row in dict.fromkeys(cell.row for cell in chart.cells):
        found = [cells.get((row, name)) for name in names]
        rows.append(
            [row, *("" if cell is None else cell.state if cell.value is None else _short(cell.value) for cell in found)]
        )
    unit = f" [{chart.unit}]" if chart.unit else ""
    print_table(out, columns, rows, title=f"\n{chart.title}{unit}, by {chart.columns}", wraps=(chart.rows,))


def _print_effects(one: JudgedClaim, out: Page) -> None:
    if not one.depends_on:
        return
    columns: Columns = {"input": "left", "status": "left", "low": "right", "high": "right"}
    columns |= {"computed at low": "right", "computed at high": "right", "by": "left"}
    rows = [
        [
            effect.path,
            effect.status,
            _with_unit(effect.low, effect.unit),
            _with_unit(effect.high, effect.unit),
            _short(effect.computed_low),
            _short(effect.computed_high),
            "the check" if effect.exact else "closed form",
        ]
        for effect in one.depends_on[:SHOWN]
    ]
    print_table(out, columns, rows, title="\nIt depends on", wraps=("input",), spare=("status", "by"))


def _break_evens(one: JudgedClaim) -> Iterator[str]:
    for point in one.break_even:
        now = "" if point.now is None else f", now {_with_unit(point.now, point.unit)}"
        at = _with_unit(point.value, point.unit)
        yield f"Break-even: {point.path} at {at}{now}: below it {point.verdict_below}, above it {point.verdict_above}."


def _with_unit(value: float | None, unit: str) -> str:
    """A number of an input: SI units with a prefix, and the units of price lists as they are."""
    from tokenworks.ledger.sweep_paths import SweptPath
    from tokenworks.units import KINDS

    if value is None or unit not in KINDS or not unit:
        return f"{_short(value)} {'' if unit == '-' else unit}".strip()
    return SweptPath("", "number", unit).shown(value)
