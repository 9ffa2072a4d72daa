"""`tokenworks validate`: how far predictions are from measured points."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from tokenworks.cli.options import CALIBRATION, NumberOptions, Output, PointOptions, at_least_one
from tokenworks.cli.output import console, emit, listing, table, timed
from tokenworks.cli.progress import compile_once, progress
from tokenworks.specs.save import must_be_writable, saved

METRICS = {"tpot": "TPOT", "ttft": "TTFT", "tok_s_per_device": "tok/s/device", "energy": "J/tok"}
SHOWN = ("kind", "system", "engine", "model")


def validate(
    *,
    measured: PointOptions,
    numbers: NumberOptions = NumberOptions(),  # noqa: B008 - frozen
    calibration: Annotated[str, CALIBRATION] = "serving",
    limit: int | None = None,
    out: Path | None = None,
    output: Output = "table",
) -> None:
    """Hold predictions against measured points: each is simulated in its own load.

    Parameters
    ----------
    limit
        First rows to predict; by default all.
    out
        Write a row for each point to this CSV: measured, predicted, interval.
    """
    from tokenworks.calibrate.validate import validate as run
    from tokenworks.specs.calibration import load_calibration

    began = time.perf_counter()
    at_least_one(limit, "--limit")
    if out:
        must_be_writable(out)
    against = load_calibration(calibration, assume=numbers.given("calibration"))
    points = measured.table(limit)
    compile_once()
    with progress("predicting") as say:
        made = run(points, against, say=say)
    if out:
        _write(made.rows(), out)
    summary = timed(made.plain(), began)
    if output == "table":
        _print_head(summary, _names(measured.data))
        _print_points(made.rows()) if measured.deployment else _print_groups(summary)
        _print_intervals(summary)
    else:
        emit(summary, output)


def _names(data: tuple[Path, ...]) -> str:
    return str(data[0]) if len(data) == 1 else f"{len(data)} files"


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    with saved(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _print_head(found: dict[str, Any], source: str) -> None:
    out, inputs = console(), found["inputs"]
    out.print(
        f"{source}: {found['covered']:,} of {found['points']:,} points predicted, calibration "
        f"{inputs['calibration']} ({inputs['grade']})",
        soft_wrap=True,
    )
    for item in found["skipped"]:
        out.print(f"  left out {item['count']}, {item['reason']}: {item['examples'][0]}", soft_wrap=True)


def _print_points(rows: list[dict[str, Any]]) -> None:
    """A line for each point: measured and predicted side by side."""
    heads: dict[str, Literal["left", "right"]] = {"measured / predicted": "left"}
    heads |= dict.fromkeys(("TPOT ms", "TTFT ms", "tok/s/device"), "right")
    names = ("tpot_ms", "ttft_ms", "tok_s_per_device")
    lines = [[row["point_id"], *(_beside(row, name) for name in names)] for row in rows]
    console().print(table("", heads, lines))


def _beside(row: dict[str, Any], name: str) -> str:
    was, said = (float(row[f"{name}_{kind}"] or "nan") for kind in ("measured", "predicted"))
    return "" if math.isnan(was + said) else f"{_short(was)} / {_short(said)} {100 * (said / was - 1):+.0f}%"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _print_groups(found: dict[str, Any]) -> None:
    out = console()
    for name in SHOWN:
        rows = [_row(key, one) for key, one in found["by"][name].items()]
        if name == "kind":
            rows.insert(0, _row("all", found))
        heads: dict[str, Literal["left", "right"]] = {name: "left"}
        heads |= {f"{label} {what}": "right" for label in METRICS.values() for what in ("n", "mean", "median")}
        spare = [f"{label} {what}" for what in ("mean", "n") for label in reversed(METRICS.values())]
        listing(out, f"Error by {name}", heads, rows, spare)
        out.print()
    rank = found["ranking"]
    for metric, label in (("tpot", "TPOT"), ("tok_s_per_device", "tok/s/device")):
        one = rank[metric]
        if one["pairs"]:
            out.print(
                f"ranking of configurations by {label}: Kendall {one['predicted']:.2f} over {one['pairs']} pairs; "
                f"by devices alone {one['by_devices']:.2f}"
            )
    for mode, one in found["baseline"]["tok_s_per_device_from_measured_tpot"].items():
        out.print(f"baseline, {mode}: tok/s/device from measured TPOT by Little's law: median error {_share(one)}")


def _print_intervals(found: dict[str, Any]) -> None:
    for metric, label in METRICS.items():
        if one := found[metric]:
            inside = f"{100 * one['inside_interval']:.0f} % of points inside the 80 % interval"
            console().print(f"{label}: median error {_share(one)}; {inside}")


def _share(one: dict[str, Any]) -> str:
    return f"{100 * one['median_ape']:.1f} %"


def _row(name: str, found: dict[str, Any]) -> list[str]:
    cells = [name]
    for metric in METRICS:
        one = found[metric]
        cells += [str(one["n"]), f"{100 * one['mape']:.0f} %", _share(one)] if one else ["", "", ""]
    return cells
