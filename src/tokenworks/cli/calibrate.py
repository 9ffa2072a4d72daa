"""`tokenworks calibrate`: fit a machine's factors on what was measured, and show what they are worth elsewhere."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tokenworks.cli.options import Output, PointOptions, Switch
from tokenworks.cli.output import console, emit, notes, table, timed
from tokenworks.cli.progress import compile_once, progress
from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.save import must_be_writable

if TYPE_CHECKING:
    from tokenworks.calibrate.kernels.fit import KernelFit, KernelRows
    from tokenworks.specs.calibration import Calibration

ABLATED = 12


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FittedOn(PointOptions):
    """What factors are fitted on; nothing where only kernel tables are.

    Parameters
    ----------
    data
        CSV of measured points, or with --deployment a JSON result of vllm bench serve, AIPerf or GuideLLM; may be
        repeated.
    """

    data: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)] = ()


def calibrate(
    *,
    measured: FittedOn = FittedOn(),
    kernels: Literal["default", "all"] | None = None,
    tables: Path | None = None,
    prior: str = "datasheet",
    name: str = "mine",
    without: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    only_assumed: Switch = False,
    leave_out: Literal["system", "model"] | None = None,
    ablation: Switch = False,
    out: Path | None = None,
    output: Output = "table",
) -> None:
    """Fit a calibration on measured points, on tables of single kernels, or on both: kernels first.

    Results of your own (--deployment) are fitted on TPOT and TTFT by simulation, and each point is left out once.

    Parameters
    ----------
    kernels
        Fit each kernel on the tables of aiconfigurator-core; `all` includes devices that are held out by default.
    tables
        Directory of unpacked kernel tables, instead of those of the installed package.
    prior
        Calibration to start from: a name of the catalog, or a YAML file.
    name
        Name of the calibration that is written.
    without
        A device or a model that is not fitted on; may be repeated.
    only_assumed
        Turn only what the prior assumes; leave what a kernel table measured as it is.
    leave_out
        Leave out each system, or each model, in turn, and print what the others predict of it; fits nothing else.
    ablation
        Print the error without each constant, too.
    out
        Write the calibration to this YAML file.
    """
    from tokenworks.specs.calibration import load_calibration

    began, data = time.perf_counter(), measured.data
    if measured.deployment:
        _refuse("is for tables of points", "leave it out beside --deployment", without=without, kernels=kernels,
                only_assumed=only_assumed, ablation=ablation, leave_out=leave_out, tables=tables)  # fmt: skip
    if not kernels and (tables or not data):
        asked = "--tables, but not which of them" if tables else "nothing to fit on"
        raise SpecError(asked, where="calibrate", hint="give --data FILE, --kernels default, or both")
    if not data:
        _refuse("is of a fit on points", "it wants --data FILE, too", only_assumed=only_assumed, ablation=ablation,
                leave_out=leave_out)  # fmt: skip
    if leave_out:
        _refuse("is of a fit on all points", "leave it out beside --leave-out", out=out, ablation=ablation)
    if out:
        must_be_writable(out)
    start = load_calibration(prior)
    if measured.deployment:
        _own(measured, start, began, name=name, out=out, output=output)
        return
    rows = _kernel_rows(kernels, tables) if kernels else None
    if rows and not data:
        _kernels(rows, start, began, name=name, without=without, out=out, output=output)
        return
    fit = _Table(measured, start, rows, without, only_assumed=only_assumed, began=began)
    if leave_out:
        fit.leave_out(leave_out, output)
    else:
        fit.calibrate(name, out, output, ablation=ablation)


def _refuse(why: str, hint: str, **given: object) -> None:
    """What was said beside an option that has no use for it."""
    for name, value in given.items():
        if value:
            raise SpecError(why, where=f"--{name.replace('_', '-')}", hint=hint)


class _Table:
    """A fit on CSV files of points, with the kernels fitted first where they are given."""

    def __init__(
        self, measured: FittedOn, start: Calibration, rows: KernelRows | None, without: tuple[str, ...],
        *, only_assumed: bool, began: float,
    ) -> None:  # fmt: skip
        self.data, self.without, self.only_assumed = measured.data, without, only_assumed
        self.began = began
        points = measured.table().points
        known = {name for point in points for name in (point.device, point.model)} | set(rows.devices if rows else ())
        if unknown := [name for name in without if name not in known]:
            raise UnknownName("device or model", unknown[0], sorted(known), hint="--without names one of --data")
        self.points = [point for point in points if point.device not in without]
        self.start = start
        self.unseen: Callable[[str], Calibration] | None = None
        if rows:
            self.start = rows.fit(start, without=without).calibration
            self.unseen = functools.cache(lambda device: rows.fit(start, without=(*without, device)).calibration)
        compile_once()

    def leave_out(self, by: Literal["system", "model"], output: Output) -> None:
        from tokenworks.calibrate.calibrate import problem_of
        from tokenworks.calibrate.factors import factors_of
        from tokenworks.calibrate.leave_out import LeftOut, leave_out

        with progress("calibrating") as say:
            problem = problem_of(self.points, self.start, self.without, say)
            factors = factors_of(problem.families, problem.calibration, only_assumed=self.only_assumed)
            left, _ = leave_out(problem, factors, by, say, self.unseen if by == "system" else None)
        found = timed(LeftOut(by, tuple(left), self.start.name).plain(), self.began)
        if output == "table":
            _print_left(found["groups"])
        else:
            emit(found, output)

    def calibrate(self, name: str, out: Path | None, output: Output, *, ablation: bool) -> None:
        from tokenworks.calibrate.calibrate import calibrate
        from tokenworks.calibrate.file import write
        from tokenworks.calibrate.validate import sha256

        with progress("calibrating") as say:
            made = calibrate(
                self.points, self.start, name=name, fitted_on=_names(self.data), data_sha256=sha256(self.data),
                without=self.without, only_assumed=self.only_assumed, say=say, unseen_prior=self.unseen,
            )  # fmt: skip
            found = timed(made.plain(ablation=ablation), self.began)
            if out:
                write(made, out)
                notes().print(f"wrote {out}")
        if output == "table":
            _print(found)
        else:
            emit(found, output)


def _own(measured: FittedOn, start: Calibration, began: float, *, name: str, out: Path | None, output: Output) -> None:
    """A fit on a user's own results."""
    from tokenworks.calibrate.file import write_own
    from tokenworks.calibrate.own_machine import calibrate_own
    from tokenworks.calibrate.validate import sha256

    data, points = measured.data, measured.table().points
    compile_once()
    with progress("calibrating") as say:
        made = calibrate_own(points, start, name=name, fitted_on=_names(data), data_sha256=sha256(data), say=say)
        if out:
            write_own(made, out)
            notes().print(f"wrote {out}")
    found = timed(made.plain(), began)
    if output == "table":
        _print_own(found)
    else:
        emit(found, output)


def _kernel_rows(which: Literal["default", "all"], tables: Path | None) -> KernelRows:
    from tokenworks.calibrate.kernels.fit import KernelRows
    from tokenworks.calibrate.kernels.tables import find_tables

    with progress("reading kernel tables") as say:
        return KernelRows.read(find_tables(tables), which, say)


def _kernels(
    rows: KernelRows,
    prior: Calibration,
    began: float,
    *,
    name: str,
    without: tuple[str, ...],
    out: Path | None,
    output: Output,
) -> None:
    """A fit on kernel tables alone."""
    from tokenworks.calibrate.kernels.fit import write

    if unknown := [device for device in without if device not in rows.devices]:
        raise UnknownName("device", unknown[0], rows.devices, hint="--without names a device that has kernel rows")
    if set(rows.devices) <= set(without):
        raise SpecError("no kernel rows are left", where="--without", hint=f"they are of {', '.join(rows.devices)}")
    made = rows.fit(prior, name=name, without=without)
    if out:
        write(made, out)
        notes().print(f"wrote {out}")
    if output == "table":
        _print_kernels(made)
    else:
        emit(timed(made.plain(), began), output)


def _names(data: tuple[Path, ...]) -> str:
    return ", ".join(path.name for path in data)


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


def _print_own(found: dict[str, Any]) -> None:
    out = console()
    out.print(f"{found['constants']} constants on {found['fitted_on']}", soft_wrap=True)
    stages = {"before": "before", "fitted": "in_sample", "each point left out": "left_out"}
    rows = [
        [label, *(_median(found[f"{metric}_{stage}"]) for stage in stages.values())]
        for metric, label in (("tpot", "TPOT"), ("ttft", "TTFT"))
    ]
    out.print(table("", {"median error": "left", **dict.fromkeys(stages, "right")}, rows))
    turned = [[name, f"{value:.2f}"] for name, value in found["factors"].items() if abs(value - 1) > 0.005]
    out.print(table("constants against their prior", {"constant": "left", "x": "right"}, turned))
    for family, spread in found["spreads"].items():
        out.print(f"80 % interval of {family}: a factor of {spread:g}")


def _median(one: dict[str, Any] | None) -> str:
    return f"{100 * one['median_ape']:.1f} %" if one else ""


def _print_left(groups: list[dict[str, Any]]) -> None:
    rows = [
        [g["group"], str(g["n"]), f"{100 * g['before_median_ape']:.1f} %", f"{100 * g['median_ape']:.1f} %",
         f"{100 * g['bias']:+.0f} %", f"{g['spread']:.2f}", f"{g['needed']:.2f}", f"{100 * g['covered']:.0f} %"]
        for g in groups
    ]  # fmt: skip
    heads = {"left out": "left", "points": "right", "prior": "right", "median error": "right", "bias": "right",
             "80 % interval": "right", "needed": "right", "covers": "right"}  # fmt: skip
    console().print(table("fitted without it", heads, rows))  # type: ignore[arg-type]


def _print_kernels(made: KernelFit) -> None:
    rows = [
        [one.family, one.operation, f"{one.rows:,}", f"{one.error:.2f}", f"{100 * one.bias:+.0f} %",
         ", ".join(f"{field} {written}" for field, written in one.written.items())]
        for one in made.fitted
    ]  # fmt: skip
    heads = {"family": "left", "operation": "left", "rows": "right", "mean |log error|": "right", "bias": "right",
             "factors": "left"}  # fmt: skip
    console().print(table(made.calibration.fitted_on, heads, rows))  # type: ignore[arg-type]
