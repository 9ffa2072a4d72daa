"""`tokenworks calibrate`: fit a machine's factors on measured points, and show what they are worth elsewhere."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tokenworks.cli.inputs import compile_once, progress
from tokenworks.cli.output import Output, Switch, console, emit, notes, table
from tokenworks.errors import SpecError, UnknownName

if TYPE_CHECKING:
    from tokenworks.calibrate.kernels.fit import KernelFit, KernelRows
    from tokenworks.calibrate.points import Point
    from tokenworks.specs.calibration import Calibration

ABLATED = 12


def calibrate(
    *,
    data: tuple[Path, ...] = (),
    deployment: Path | None = None,
    kernels: Literal["default", "all"] | None = None,
    tables: Path | None = None,
    prior: str = "datasheet",
    name: str = "mine",
    without: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    only_assumed: Switch = False,
    leave_out: Literal["system", "model"] | None = None,
    ablation: Switch = False,
    out: Path | None = None,
    output: Output = "table",
) -> None:
    """Fit a calibration on measured points, on tables of single kernels, or on both: kernels first.

    Parameters
    ----------
    data
        CSV of measured points, or with --deployment a result JSON of vllm bench serve; may be repeated.
    deployment
        YAML file of the deployment that the JSON results were measured on.
    kernels
        Fit each kernel on the tables of aiconfigurator-core; `all` includes devices that are held out by default.
    tables
        Directory of unpacked kernel tables, instead of those of the installed package.
    prior
        Calibration to start from: a name of the catalog, or a YAML file.
    name
        Name of the calibration that is written.
    without
        A model, or a device with its points and kernels, that is not fitted on; may be repeated. Power is fitted on
        every point that carries energy, but those of such a device.
    only_assumed
        Turn only what the prior assumes; leave what a kernel table measured as it is.
    leave_out
        Leave out each system, or each model, in turn, and print what the others predict of it; fits nothing else.
    ablation
        Print the error without each constant, too.
    out
        Write the calibration to this YAML file.
    output
        table, json or yaml.
    """
    from tokenworks.calibrate.calibrate import calibrate as run
    from tokenworks.calibrate.calibrate import problem_of, write
    from tokenworks.calibrate.factors import factors_of
    from tokenworks.calibrate.files import find_calibration
    from tokenworks.calibrate.leave import leave_out as leave

    points = [point for point in _points(data, deployment) if point.device not in without]
    start, rows = find_calibration(prior), _kernels(kernels, tables, data)
    if rows and not data:
        _kernels_only(rows, start, leave_out, name=name, without=without, out=out, output=output)
        return
    seen: Callable[[str], Calibration] | None = None
    if rows:
        measured = rows
        seen = functools.cache(lambda device: measured.fit(given, without=(*without, device)).calibration)
        given, start = start, rows.fit(start, without=without).calibration
    compile_once()
    with progress("calibrating") as say:
        if leave_out:
            problem = problem_of(points, start, without, say)
            factors = factors_of(problem.families, start, only_assumed=only_assumed)
            left, _ = leave(problem, factors, leave_out, say, seen if leave_out == "system" else None)
            found: dict[str, Any] = {"leave_out": leave_out, "groups": [one.plain() for one in left]}
        else:
            made = run(points, start, name=name, fitted_on=", ".join(path.name for path in data),
                       data_sha256=_sha256(data), without=without, only_assumed=only_assumed, say=say,
                       unseen_prior=seen)  # fmt: skip
            found = made.summary() | ({"ablation": made.ablation()} if ablation else {})
            if out:
                write(made, out)
                notes().print(f"wrote {out}")
    if output == "table":
        _print_left(found["groups"]) if leave_out else _print(found)
    else:
        emit(found, output)


def _kernels(which: Literal["default", "all"] | None, tables: Path | None, data: tuple[Path, ...]) -> KernelRows | None:
    """The kernel rows that are asked for; an error where nothing is."""
    if which is None:
        if tables or not data:
            asked = "--tables, but not which of them" if tables else "nothing to fit on"
            raise SpecError(asked, where="calibrate", hint="give --data FILE, --kernels default, or both")
        return None
    from tokenworks.calibrate.kernels.fit import KernelRows
    from tokenworks.calibrate.kernels.tables import find_tables

    with progress("reading kernel tables") as say:
        return KernelRows.read(find_tables(tables), which, say)


def _kernels_only(
    rows: KernelRows,
    prior: Calibration,
    leave_out: str | None,
    *,
    name: str,
    without: tuple[str, ...],
    out: Path | None,
    output: Output,
) -> None:
    from tokenworks.calibrate.kernels.fit import write

    if leave_out:
        raise SpecError("systems are left out of measured points", where="--leave-out", hint="wants --data FILE, too")
    if unknown := [device for device in without if device not in rows.devices]:
        raise UnknownName("device", unknown[0], rows.devices, hint="--without names a device that has kernel rows")
    made = rows.fit(prior, name=name, without=without)
    if out:
        write(made, out)
        notes().print(f"wrote {out}")
    if output == "table":
        _print_kernels(made)
    else:
        emit(made.plain(), output)


def _print_kernels(made: KernelFit) -> None:
    rows = [
        [one.family, one.operation, f"{one.rows:,}", f"{one.error:.2f}", f"{100 * one.bias:+.0f} %",
         ", ".join(f"{field} {written}" for field, written in one.written.items())]
        for one in made.fitted
    ]  # fmt: skip
    heads = {"family": "left", "operation": "left", "rows": "right", "mean |log error|": "right", "bias": "right",
             "factors": "left"}  # fmt: skip
    console().print(table(made.calibration.fitted_on, heads, rows))  # type: ignore[arg-type]


def _points(data: tuple[Path, ...], deployment: Path | None) -> list[Point]:
    from tokenworks.calibrate.bench import read_bench
    from tokenworks.calibrate.points import read_points
    from tokenworks.specs.deployment_file import pick_deployment

    ran = pick_deployment(deployment, 1) if deployment else None
    points: list[Point] = []
    for path in data:
        if path.suffix != ".json":
            points += read_points(path).points
        elif ran is None:
            raise SpecError("which deployment was this measured on?", where=str(path), hint="give --deployment FILE")
        else:
            points.append(read_bench(path, ran))
    return points


def _sha256(data: tuple[Path, ...]) -> str:
    """Of all files, one after the other."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in data)).hexdigest()


def _print(found: dict[str, Any]) -> None:
    out = console()
    before, after = found["tpot_before"], found["tpot_in_sample"]
    out.print(
        f"{found['constants']} constants on {after['n']:,} points of {found['fitted_on']}: median TPOT error "
        f"{100 * before['median_ape']:.1f} % before, {100 * after['median_ape']:.1f} % in sample",
        soft_wrap=True,
    )
    rows = [[name, f"{value:.2f}"] for name, value in found["factors"].items() if abs(value - 1) > 0.005]
    out.print(table("constants against their prior", {"constant": "left", "x": "right"}, rows))
    if found["left_out_systems"]:
        _print_left(found["left_out_systems"])
    if power := found["power"]:
        left = ", ".join(f"{one['group']} {100 * one['median_ape']:.0f} %" for one in power["left_out_systems"])
        out.print(
            f"mean power of {power['n']} points: {power['idle']:g} of TDP idle, {power['compute']:g} more at the "
            f"compute roof, {power['hbm']:g} at the HBM roof; median error {100 * power['median_ape']:.1f} % in "
            f"sample, left out {left or 'none'}",
            soft_wrap=True,
        )
    if "ablation" in found:
        lost = [[r["without"], f"{100 * r['mape_lost']:+.2f} %"] for r in found["ablation"][:ABLATED]]
        out.print(table("mean error without", {"constant": "left", "more": "right"}, lost))


def _print_left(groups: list[dict[str, Any]]) -> None:
    rows = [
        [g["group"], str(g["n"]), f"{100 * g['before_median_ape']:.1f} %", f"{100 * g['median_ape']:.1f} %",
         f"{100 * g['bias']:+.0f} %", f"{g['spread']:.2f}", f"{100 * g['covered']:.0f} %"]
        for g in groups
    ]  # fmt: skip
    heads = {"left out": "left", "points": "right", "prior": "right", "median error": "right", "bias": "right",
             "80 % interval": "right", "covers": "right"}  # fmt: skip
    console().print(table("fitted without it", heads, rows))  # type: ignore[arg-type]
