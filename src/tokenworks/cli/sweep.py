"""`tokenworks sweep`: many points of one question, with charts, knees and a ranking of the inputs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from tokenworks.cli.options import PAGE_HELP, RESULT, PageFormat, PageOptions
from tokenworks.cli.output import console, emit, notes, timed
from tokenworks.cli.page import BARS, Page
from tokenworks.cli.progress import compile_once, progress
from tokenworks.cli.tables import Columns, print_table
from tokenworks.ledger.sweep_paths import significant

if TYPE_CHECKING:
    from tokenworks.ledger.sweep import Sweep
    from tokenworks.ledger.sweep_file import Value
    from tokenworks.ledger.sweep_reading import SweepCurve

SWEEP = Group("Sweep", sort_key=0)
FORMAT = Parameter(name=["-o", "--output"], help=PAGE_HELP, group=RESULT)

BAR = 40
"""Longest bar [character]."""
CURVES, POINTS, ERRORS = 12, 40, 5
"""Most curves, points of one curve, and errors that the page shows [count]."""
BINS = 10
"""Bars that show a Latin hypercube along one input [count]."""


def sweep(
    file: Annotated[Path, Parameter(group=SWEEP)],
    /,
    *,
    parquet: Annotated[Path | None, Parameter(group=SWEEP)] = None,
    workers: Annotated[int | None, Parameter(group=SWEEP)] = None,
    ray: Annotated[str | None, Parameter(group=SWEEP)] = None,
    output: Annotated[PageFormat, FORMAT] = "table",
    page: PageOptions = PageOptions(),  # noqa: B008 - frozen
) -> None:
    """Compute many points of one question: curves, their knee, and which input matters most.

    Parameters
    ----------
    file
        YAML file of the sweep: a question (simulate, plan or estimate) with its arguments, and the values to sweep.
    parquet
        Write one row per point to this file. A journal beside it keeps finished points: after an interruption, the same
        command goes on from there.
    workers
        Processes; by default one per CPU.
    ray
        Compute on a Ray cluster: auto, HOST:PORT, or local. Needs the extra tokenworks[ray].
    """
    import tokenworks
    from tokenworks import ingest
    from tokenworks.ledger.sweep import computed, prepare

    began = time.perf_counter()
    page.check(output)
    prepared = prepare(file, ingest.load_trace, tokenworks.__version__, parquet, workers)
    if prepared.finished is not None:
        notes().paragraph(f"{parquet} has all points already; nothing was computed")
    elif prepared.needs_engine:
        compile_once()
    try:
        with progress("sweeping") as report:
            result = computed(prepared, ray=ray, progress=report)
    except KeyboardInterrupt:
        if parquet is not None:
            notes().paragraph(f"the finished points are in {parquet}.journal; the same command goes on from there")
        raise
    if output == "table":
        _print(result, console())
    elif output == "json" or output == "yaml":  # noqa: PLR1714 - mypy reads these
        emit(timed(result.plain(), began), output)
    else:
        page.write(output, result.plain(), [])


# ── the page ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _print(result: Sweep, out: Page) -> None:
    for line in _heading(result):
        out.paragraph(line)
    if result.axis is not None and result.curves:
        if len(result.curves) == 1:
            _print_curve(result, result.curves[0], out)
        else:
            _print_curves(result, out)
    elif result.design.sampled and result.effects:
        _print_sample(result, out)
    _print_effects(result, out)


def _heading(result: Sweep) -> Iterator[str]:
    from tokenworks.ledger.sweep import BAD_INPUT, NO_FIT
    from tokenworks.ledger.sweep_point import INTERNAL

    if result.file.title:
        yield result.file.title
    codes = {NO_FIT: "do not fit", BAD_INPUT: "have bad input", INTERNAL: "ended with an internal error"}
    without = "".join(f", {result.count(code):,} {words}" for code, words in codes.items() if result.count(code))
    yield f"{len(result.records):,} points of {result.file.do}: {result.count(0):,} with a result{without}."
    failures = result.failures()
    for words, count, at in failures[:ERRORS]:
        yield f"  {count:,} x {words} (first at {at})"
    if len(failures) > ERRORS:
        yield f"  and {len(failures) - ERRORS:,} other errors; the column `error` has all of them"


def _print_curve(result: Sweep, curve: SweepCurve, out: Page) -> None:
    """One curve, with a bar for each point."""
    axis, most = result.axis, max(map(abs, curve.y), default=0.0)
    assert axis is not None
    assert result.y is not None
    shown = _spread(curve)
    rows = [
        [
            significant(x),
            significant(y),
            "█" * round(BAR * abs(y) / most) if most else "",
            "knee" if curve.knee and curve.knee.x == x else "",
        ]
        for x, y in shown
    ]
    title = f"\n{result.y} along {axis.name}" + (
        f": {len(shown)} of {len(curve.x):,} points" if len(shown) < len(curve.x) else ""
    )
    columns: Columns = {axis.paths[0].heading: "right", result.y: "right", "": "left", "knee": "left"}
    costs = _costs(result, axis.paths[0].path)
    if costs:
        columns |= {"price a device": "right", "M effective": "right"}
        rows = [[*row, *costs.get(x, ("-", "-"))] for row, (x, _) in zip(rows, shown, strict=True)]
    print_table(out, columns, rows, title=title, spare=("price a device",))
    if costs:
        out.paragraph(
            f"price a device = the whole purchase / devices; M effective = cost per million effective tokens; both in "
            f"{next(record['currency'] for record in result.records if record.get('currency'))}, prices in the middle."
        )
    out.paragraph(_knee_words(result, curve))


def _costs(result: Sweep, path: str) -> dict[Value, tuple[str, str]]:
    """Purchase per device, and cost per million effective tokens, by the value of a path; empty: no point has both."""
    pairs = {
        record[path]: (record["purchase_per_device"], record["cost_per_million_effective"])
        for record in result.records
        if record.get("cost_per_million_effective") is not None
    }
    return {
        value: ("-" if bought is None else f"{bought:,.0f}", f"{whole:,.3g}")
        for value, (bought, whole) in pairs.items()
    }


def _spread(curve: SweepCurve) -> list[tuple[float, float]]:
    """Some points of a curve with equal distances between them; both ends and the knee are among them."""
    pairs = list(zip(curve.x, curve.y, strict=True))
    if len(pairs) <= POINTS:
        return pairs
    places = {round(index * (len(pairs) - 1) / (POINTS - 1)) for index in range(POINTS)}
    if curve.knee:
        places.add(curve.x.index(curve.knee.x))
    return [pairs[place] for place in sorted(places)]


def _knee_words(result: Sweep, curve: SweepCurve) -> str:
    assert result.axis is not None
    if curve.knee is None:
        return "No knee: the curve is near the straight line between its ends, or has fewer than three points."
    side = "above" if curve.knee.distance > 0 else "below"
    at = result.axis.paths[0].shown(curve.knee.x)
    scale = ", with a log x axis" if result.axis.scale == "log" else ""
    return (
        f"Knee at {result.axis.name} = {at}: {significant(curve.knee.y)}. The knee is the point with the largest "
        f"distance from the straight line between both ends of the curve: {abs(curve.knee.distance):.0%} of its height "
        f"{side} that line{scale}."
    )


def _print_curves(result: Sweep, out: Page) -> None:
    """Several curves, one line each."""
    assert result.axis is not None
    most = max((y for curve in result.curves for y in curve.y), default=0.0)
    columns: Columns = {"at": "left", "curve": "left", "first": "right", "highest": "right", "last": "right"}
    columns |= {"knee": "right", "y at knee": "right"}
    rows = []
    for curve in result.curves[:CURVES]:
        numbers = (curve.y[0], max(curve.y), curve.y[-1]) if curve.y else ()
        knee = (significant(curve.knee.x), significant(curve.knee.y)) if curve.knee else ("-", "-")
        at = result.named(curve.at)
        cells = [significant(number) for number in numbers] or ["-"] * 3
        rows.append([at, _line(curve, most), *cells, *knee])
    title = f"\n{result.y} along {result.axis.paths[0].heading}"
    print_table(out, columns, rows, title=title, wraps=("at",), spare=("first", "last"))
    if len(result.curves) > CURVES:
        out.paragraph(f"and {len(result.curves) - CURVES:,} other curves; `-o json` has all of them")
    scale = ", with a log x axis" if result.axis.scale == "log" else ""
    out.paragraph(
        f"knee = value of {result.axis.name} with the largest distance from the straight line between both ends of the "
        f"curve{scale}; - where the curve is nearly straight."
    )


def _line(curve: SweepCurve, most: float) -> str:
    """A curve as a line of bars."""
    pairs = _spread(curve)
    return "".join(BARS[max(1, round((len(BARS) - 1) * max(y, 0.0) / most))] if most > 0 else BARS[1] for _, y in pairs)


def _print_sample(result: Sweep, out: Page) -> None:
    """A Latin hypercube along the input that matters most: the mean of the result in parts with as many points each."""
    from tokenworks.ledger.sweep_reading import is_number

    assert result.y is not None
    numeric = [effect.path for effect in result.effects if effect.direction]
    if not numeric:
        return
    path = numeric[0]
    pairs = sorted((record[path], record[result.y]) for record in result.records if is_number(record[result.y]))
    bins = [pairs[len(pairs) * k // BINS : len(pairs) * (k + 1) // BINS] for k in range(BINS)]
    parts = [(part[0][0], part[-1][0], sum(y for _, y in part) / len(part)) for part in bins if part]
    most = max(abs(mean) for *_, mean in parts)
    rows = [
        [f"{significant(low)} to {significant(high)}", significant(mean), "█" * round(BAR * abs(mean) / (most or 1.0))]
        for low, high, mean in parts
    ]
    title = f"\n{result.y} along {result.design.paths[path].heading}, mean of the points in each part"
    print_table(out, {result.design.paths[path].heading: "left", result.y: "right", "": "left"}, rows, title=title)


def _print_effects(result: Sweep, out: Page) -> None:
    if len(result.effects) < 2:  # a single input explains everything
        return
    rows = [
        [effect.path, f"{effect.share:.0%}", "█" * round(BAR * min(effect.share, 1.0)), effect.direction]
        for effect in result.effects
    ]
    columns: Columns = {"input": "left", "share": "right", "": "left", "direction": "left"}
    print_table(out, columns, rows, title=f"\nWhat moves {result.y} most", wraps=("input",))
    turns = ", and from curves that turn" if result.design.sampled else ""
    out.paragraph(
        f"share = {result.method}. Together the inputs explain {result.explained:.0%}; the rest comes from "
        f"combinations of inputs{turns}. direction = whether {result.y} rises or falls with the input."
    )
