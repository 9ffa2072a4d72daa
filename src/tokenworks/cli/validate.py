"""`tokenworks validate`: compare predictions with measured points."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tokenworks.cli.options import CALIBRATION, POINTS, RESULT, CalibrationNumbers, Output, PointOptions, at_least_one
from tokenworks.cli.output import console, emit, timed
from tokenworks.cli.progress import compile_once, progress
from tokenworks.cli.tables import Columns, print_table
from tokenworks.cli.training_runs import validate_runs, write_rows
from tokenworks.specs.save import must_be_writable

METRICS = {"tpot": "TPOT", "ttft": "TTFT", "tok_s_per_device": "tok/s/device", "energy": "J/tok"}
SHOWN = ("kind", "system", "engine", "model")
FRONTIER = {"system": "{}", "engine": "{} alone", "model": "{}", "mtp": "MTP: {}", "tok_s_user": "{} tok/s per user"}
"""Groups of the frontier, and how each is named in the table."""


def validate(
    *,
    measured: PointOptions,
    numbers: CalibrationNumbers = CalibrationNumbers(),  # noqa: B008 - frozen
    calibration: Annotated[str, CALIBRATION] = "serving",
    limit: Annotated[int | None, Parameter(group=POINTS)] = None,
    out: Annotated[Path | None, Parameter(group=RESULT)] = None,
    output: Output = "table",
) -> None:
    """Compare predictions with measured points. Each point is simulated under its own load.

    Files of training runs are compared with the model of a training step.

    Parameters
    ----------
    limit
        Predict only the first LIMIT points.
    out
        Write one row per point to this CSV: measured, predicted, interval.
    """
    from tokenworks.calibrate.training_points import are_training
    from tokenworks.calibrate.validate import validate as run
    from tokenworks.specs.calibration import load_calibration

    began = time.perf_counter()
    at_least_one(limit, "--limit")
    if out:
        must_be_writable(out)
    against = load_calibration(calibration, assume=numbers.given("calibration"))
    if are_training(measured.data):
        validate_runs(measured, against, limit=limit, out=out, output=output)
        return
    points = measured.table(limit)
    compile_once()
    with progress("predicting") as report:
        validation = run(points, against, say=report)
    if out:
        write_rows(validation.rows(), out)
    summary = timed(validation.plain(), began)
    if output == "table":
        _print_head(summary, _names(measured.data))
        _print_points(validation.rows()) if points.of_results else _print_groups(summary)
        _print_frontier(summary["frontier"])
        _print_intervals(summary)
    else:
        emit(summary, output)


def _names(data: tuple[Path, ...]) -> str:
    return str(data[0]) if len(data) == 1 else f"{len(data)} files"


def _print_head(summary: dict[str, Any], source: str) -> None:
    out, inputs = console(), summary["inputs"]
    out.paragraph(
        f"{source}: {summary['covered']:,} of {summary['points']:,} points predicted, calibration "
        f"{inputs['calibration']} ({inputs['grade']})"
    )
    for item in summary["skipped"]:
        out.paragraph(f"  left out {item['count']}, {item['reason']}: {item['examples'][0]}")


def _print_points(rows: list[dict[str, Any]]) -> None:
    """Print one row per point: measured and predicted side by side."""
    columns: Columns = {"measured / predicted": "left"}
    columns |= dict.fromkeys(("TPOT ms", "TTFT ms", "tok/s/device"), "right")
    names = ("tpot_ms", "ttft_ms", "tok_s_per_device")
    lines = [[row["point_id"], *(_beside(row, name) for name in names)] for row in rows]
    print_table(console(), columns, lines)


def _beside(row: dict[str, Any], name: str) -> str:
    measured, predicted = (float(row[f"{name}_{kind}"] or "nan") for kind in ("measured", "predicted"))
    if math.isnan(measured + predicted):
        return ""
    return f"{_short(measured)} / {_short(predicted)} {100 * (predicted / measured - 1):+.0f}%"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _print_groups(summary: dict[str, Any]) -> None:
    out = console()
    for name in SHOWN:
        rows = [_row(key, one) for key, one in summary["by"][name].items()]
        if name == "kind":
            rows.insert(0, _row("all", summary))
        columns: Columns = {name: "left"}
        columns |= {f"{label} {what}": "right" for label in METRICS.values() for what in ("n", "mean", "median")}
        spare = [f"{label} {what}" for what in ("mean", "n") for label in reversed(METRICS.values())]
        print_table(out, columns, rows, title=f"Error by {name}", spare=spare)
        out.print()
    rank = summary["ranking"]
    for metric, label in (("tpot", "TPOT"), ("tok_s_per_device", "tok/s/device")):
        one = rank[metric]
        if one["pairs"]:
            out.paragraph(
                f"ranking of configurations by {label}: Kendall {one['predicted']:.2f} over {one['pairs']} pairs; "
                f"by devices alone {one['by_devices']:.2f}"
            )
    for mode, one in summary["baseline"]["tok_s_per_device_from_measured_tpot"].items():
        out.paragraph(f"baseline, {mode}: tok/s/device from measured TPOT by Little's law: median error {_share(one)}")


def _print_frontier(frontier: dict[str, Any]) -> None:
    """Print the errors of throughput at equal speed per user, and of the ratio of two machines."""
    whole, ratio = frontier["tok_s_per_device"], frontier["ratio"]
    if not whole:
        return
    out = console()
    rows = [["all", *_frontier_row(whole)]]
    for name, label in FRONTIER.items():
        rows += [[label.format(group), *_frontier_row(one)] for group, one in frontier["by"][name].items()]
    columns: Columns = {"frontier": "left", **dict.fromkeys(("n", "median error", "p90 error", "bias"), "right")}
    first, *_, last = frontier["tok_s_user"]
    title = f"\nError of the highest tok/s/device at equal speed: {first:g} to {last:g} tok/s per user"
    print_table(out, columns | {"covers": "right"}, rows, title=title)
    if frontier["unreached"]:
        out.paragraph(f"left out {frontier['unreached']}: measured, but the speed is outside the range of predictions")
    if not ratio["all"]:
        return
    pairs = {"all": ratio["all"], **ratio["by_pair"]}
    lines = [
        [name, str(one["n"]), *_errors(one), _percent(one["in_order"]), _percent(one["clear_in_order"])]
        for name, one in pairs.items()
    ]
    heads: Columns = {"ratio": "left", **dict.fromkeys(("n", "median error", "p90 error", "bias"), "right")}
    heads |= {"in order": "right", "in order if clear": "right"}
    title = f"\nError of the ratio of two machines at equal speed; clear: measured beyond {ratio['clear_ratio']:g}x"
    print_table(out, heads, lines, title=title)
    out.print()


def _frontier_row(one: dict[str, Any]) -> list[str]:
    return [str(one["n"]), *_errors(one), _percent(one["inside_interval"])]


def _errors(one: dict[str, Any]) -> list[str]:
    """Median, 90th percentile and bias of an error."""
    return [_percent(one["median_ape"]), _percent(one["p90_ape"]), f"{100 * one['bias']:+.0f} %"]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _print_intervals(summary: dict[str, Any]) -> None:
    for metric, label in METRICS.items():
        if one := summary[metric]:
            inside = f"{100 * one['inside_interval']:.0f} % of points inside the 80 % interval"
            console().paragraph(f"{label}: median error {_share(one)}; {inside}")


def _share(one: dict[str, Any]) -> str:
    return f"{100 * one['median_ape']:.1f} %"


def _row(name: str, group: dict[str, Any]) -> list[str]:
    cells = [name]
    for metric in METRICS:
        one = group[metric]
        cells += [str(one["n"]), f"{100 * one['mape']:.0f} %", _share(one)] if one else ["", "", ""]
    return cells
