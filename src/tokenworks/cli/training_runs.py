"""What `validate` and `calibrate` do with measured training runs."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenworks.cli.options import Output, PointOptions
from tokenworks.cli.output import console, emit, notes, timed
from tokenworks.cli.progress import progress
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.save import saved

if TYPE_CHECKING:
    from tokenworks.calibrate.training_points import TrainingTable
    from tokenworks.specs.calibration import Calibration

SHOWN = ("system", "framework", "model", "precision", "method")
LEFT_OUT = {"left_out_systems": "system", "left_out_models": "model"}


def validate_runs(
    measured: PointOptions, calibration: Calibration, *, limit: int | None, out: Path | None, output: Output
) -> None:
    """Compare the predictions of training runs with their measured throughput.

    Parameters
    ----------
    measured : the files
    calibration : calibration of the predictions
    limit : predict only this many runs; None for all
    out : CSV for one row per run; None: none is written
    output : format of the result
    """
    from tokenworks.calibrate.training_validate import validate_training
    from tokenworks.planning.train import choose

    began = time.perf_counter()
    table = _table(measured, limit)
    with progress("predicting") as report:
        validation = validate_training(table, calibration, choose=choose, say=report)
    if out:
        write_rows(validation.rows(), out)
    plain = timed(validation.plain(), began)
    if output == "table":
        _print_validation(plain)
    else:
        emit(plain, output)


def calibrate_runs(
    measured: PointOptions, prior: Calibration, *, name: str, without: tuple[str, ...], out: Path | None, output: Output
) -> None:
    """Fit the numbers of training on training runs.

    Parameters
    ----------
    measured : the files
    prior : calibration that the fit starts from
    name : name of the fitted calibration
    without : devices or models whose runs are left out
    out : YAML file for the calibration; None: none is written
    output : format of the result
    """
    from tokenworks.calibrate.file import write_file
    from tokenworks.calibrate.training_fit import calibrate_training

    began = time.perf_counter()
    table = _table(measured, None)
    known = sorted({word for point in table.points for word in (point.device, point.model)})
    if unknown := [word for word in without if word not in known]:
        raise UnknownName("device or model", unknown[0], known, hint="name one of --data")
    with progress("calibrating") as report:
        fit = calibrate_training(table, prior, name=name, without=without, say=report)
    if out:
        write_file(fit.calibration, fit.comments(), out)
        notes().paragraph(f"wrote {out}")
    plain = timed(fit.plain(), began)
    if output == "table":
        _print_fit(plain)
    else:
        emit(plain, output)


def _table(measured: PointOptions, limit: int | None) -> TrainingTable:
    from tokenworks.calibrate.training_points import read_training

    for value, option in (
        (measured.deployment, "--deployment"), (measured.benchmark, "--benchmark"), (measured.load, "--load"),
    ):  # fmt: skip
        if value is not None:
            raise SpecError("does not go with training runs", where=option, hint=f"leave {option} out")
    return read_training(measured.data, limit)


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows to a CSV.

    Parameters
    ----------
    rows : the rows, with equal keys
    path : the file
    """
    with saved(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _print_validation(plain: dict[str, Any]) -> None:
    out, inputs = console(), plain["inputs"]
    coverage = "" if plain["coverage"] is None else f" ({100 * plain['coverage']:.0f} % of those with parallelism)"
    out.paragraph(
        f"{inputs['data']}: {plain['covered']:,} of {plain['points']:,} training runs predicted{coverage}, calibration "
        f"{inputs['calibration']} ({inputs['grade']})"
    )
    for item in plain["skipped"]:
        out.paragraph(f"  left out {item['count']}, {item['reason']}: {item['examples'][0]}")
    for item in plain["assumed"]:
        out.paragraph(f"  assumed for {item['count']}: {item['what']}")
    rows = [["all", *_row(plain["tok_s_per_device"])]]
    if plain["planned"]["covered"]:
        rows.append(["choice of the planner", *_row(plain["planned"]["tok_s_per_device"])])
    for name in SHOWN:
        rows += [[f"{name} {key}", *_row(one["tok_s_per_device"])] for key, one in plain["by"][name].items()]
    columns: Columns = {"training runs": "left", "n": "right", "mean error": "right", "median error": "right",
                        "bias": "right", "covers": "right"}  # fmt: skip
    print_table(out, columns, rows, title="Error of tok/s per device")
    for name, words in (("equal_devices", "model and number of devices"), ("equal_batch", "batch, too")):
        rank = plain["ranking"][name]
        if rank["kendall"] is not None:
            out.paragraph(
                f"ranking of plans at equal {words}: Kendall {rank['kendall']:.2f} over {rank['pairs']:,} pairs in "
                f"{rank['groups']} groups"
            )
    if plain["does_not_fit"]:
        out.paragraph(
            f"{plain['does_not_fit']} runs need more memory than the device has, by the memory model. They count."
        )


def _row(one: dict[str, Any] | None) -> list[str]:
    if one is None:
        return ["", "", "", "", ""]
    return [
        f"{one['n']:,}", f"{100 * one['mape']:.1f} %", f"{100 * one['median_ape']:.1f} %",
        f"{100 * one['bias']:+.0f} %", f"{100 * one['inside_interval']:.0f} %",
    ]  # fmt: skip


def _print_fit(plain: dict[str, Any]) -> None:
    out = console()
    before, after = plain["before"], plain["in_sample"]
    out.paragraph(
        f"{plain['constants']} constants on {after['n']:,} runs of {plain['fitted_on']}: mean error of tok/s per "
        f"device {100 * before['mape']:.1f} % before, {100 * after['mape']:.1f} % in sample; 80 % interval a factor of "
        f"{plain['spread']:.2f}, which covers {100 * plain['covered']:.0f} % of the runs of left-out systems"
    )
    rows = [[name, f"{plain['factors'][name]:.2f}", f"{value:.3g}"] for name, value in plain["values"].items()]
    columns: Columns = {"constant": "left", "x": "right", "value": "right"}
    print_table(out, columns, rows, title="fitted constants / their prior")
    if plain["undecided"]:
        out.paragraph(f"at their priors, because these runs do not decide them: {', '.join(plain['undecided'])}")
    for key, word in LEFT_OUT.items():
        rows = [
            [one["group"], str(one["n"]), f"{100 * one['mape']:.1f} %", f"{100 * one['bias']:+.0f} %",
             f"{one['needed']:.2f}", f"{100 * one['covered']:.0f} %"]
            for one in plain[key]
        ]  # fmt: skip
        heads: Columns = {"left out": "left", "points": "right", "mean error": "right", "bias": "right",
                          "needed": "right", "covers": "right"}  # fmt: skip
        if rows:
            print_table(out, heads, rows, title=f"\nerrors of each {word}, with a fit on the others")
    rows = [
        [one["group"], str(one["n"]), f"{100 * one['before_mape']:.1f} %", f"{100 * one['mape']:.1f} %"]
        for one in plain["one_run"]
    ]
    if rows:
        heads = {"left out": "left", "points": "right", "before": "right", "one run of its own": "right"}
        print_table(out, heads, rows, title="\nmean error of the other runs, with one run as calibration")
