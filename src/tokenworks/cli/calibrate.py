"""`tokenworks calibrate`: fit a calibration on measurements, and print its error on points that it has not seen."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from tokenworks.cli.calibrate_tables import (
    print_distances,
    print_fit,
    print_kernels,
    print_left,
    print_own,
    print_software,
)
from tokenworks.cli.options import POINTS, RESULT, NumberOptions, Output, PointOptions, Switch
from tokenworks.cli.output import emit, notes, timed
from tokenworks.cli.progress import compile_once, progress
from tokenworks.cli.training_runs import calibrate_runs
from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.save import must_be_writable

if TYPE_CHECKING:
    from tokenworks.calibrate.kernels.fit import KernelRows
    from tokenworks.calibrate.measured import Point
    from tokenworks.specs.calibration import Calibration
    from tokenworks.specs.given import Given

FIT = Group("Fit", sort_key=2)


@Parameter(name="*", group=POINTS)
@dataclass(frozen=True, kw_only=True)
class FittedOn(PointOptions):
    """Measured points for the fit. A fit on kernel tables alone has none.

    Parameters
    ----------
    data
        CSV of measured points; a result of InferenceX; or, together with --deployment, a result of vllm bench serve,
        SGLang bench_serving, AIPerf (profile_export_aiperf.json or profile_export.jsonl) or GuideLLM. May be repeated.
    """

    data: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)] = ()


@Parameter(name="*", group=FIT)
@dataclass(frozen=True, kw_only=True)
class PriorOptions:
    """Numbers of the prior that the user changes before the fit.

    Parameters
    ----------
    set_
        Change one number of the prior before the fit, such as calibration.skew=0.3; may be repeated.
    """

    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)] = ()

    def given(self) -> tuple[Given, ...] | None:
        """The numbers of --set; None if there are none."""
        return NumberOptions(set_=self.set_).given("calibration")


def calibrate(
    *,
    measured: FittedOn = FittedOn(),
    kernels: Annotated[Literal["default", "all"] | None, Parameter(group=POINTS)] = None,
    tables: Annotated[Path | None, Parameter(group=POINTS)] = None,
    kernel_profile: Annotated[Path | None, Parameter(group=POINTS)] = None,
    on: Annotated[str | None, Parameter(group=POINTS)] = None,
    prior: Annotated[str, Parameter(group=FIT)] = "datasheet",
    numbers: PriorOptions = PriorOptions(),
    without: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, group=FIT)] = (),
    only_assumed: Annotated[Switch, Parameter(group=FIT)] = False,
    leave_out: Annotated[Literal["system", "model"] | None, Parameter(group=FIT)] = None,
    intervals_of: Annotated[str | None, Parameter(group=FIT)] = None,
    ablation: Annotated[Switch, Parameter(group=FIT)] = False,
    name: Annotated[str, Parameter(group=RESULT)] = "mine",
    out: Annotated[Path | None, Parameter(group=RESULT)] = None,
    output: Output = "table",
) -> None:
    """Fit a calibration on measured points, on tables of single kernels, or on both: kernels first.

    On training runs, the fit changes the numbers that serving does not pin down. It leaves out each system and each
    model once.

    With your own results (--deployment) the fit uses simulated TPOT and TTFT, and leaves out each point once.

    Parameters
    ----------
    kernels
        Fit each kernel on the tables of aiconfigurator-core. The default tables leave out some devices for tests; `all`
        includes these devices.
    tables
        Directory of unpacked kernel tables, instead of the tables of the installed package.
    kernel_profile
        Operator profile of hcu-train-simulator (YAML): mean times of the GEMMs and of the attention of training on one
        card. Fits the rates of dense GEMMs, of grouped GEMMs and of prefill attention.
    on
        Machine with the card of --kernel-profile, such as scalex40; by default the card that the profile names.
    prior
        Calibration that the fit starts from: a name of the catalog, or a YAML file.
    without
        Device or model that the fit must not use; may be repeated.
    only_assumed
        Fit only numbers that the prior assumes. Numbers from kernel tables keep their values.
    leave_out
        Leave out each system, or each model, in turn, and print the error of its predictions. Writes no calibration.
    intervals_of
        Keep all constants of this calibration, which was fitted on the points. Compute only what follows from them: its
        factors of software stacks, and its intervals (fits without some of the points start from --prior).
    ablation
        Also print the error without each constant.
    name
        Name of the new calibration.
    out
        Write the calibration to this YAML file.
    """
    from tokenworks.calibrate.training_points import are_training
    from tokenworks.specs.calibration import load_calibration

    began, data = time.perf_counter(), measured.data
    if measured.deployment:
        _refuse("does not go with --deployment", "leave one of the two out", without=without, kernels=kernels,
                only_assumed=only_assumed, ablation=ablation, leave_out=leave_out, tables=tables,
                intervals_of=intervals_of)  # fmt: skip
    start = load_calibration(prior, assume=numbers.given())
    if are_training(data):
        _refuse("does not go with training runs", "leave it out", kernels=kernels, tables=tables, on=on,
                kernel_profile=kernel_profile, only_assumed=only_assumed, leave_out=leave_out,
                intervals_of=intervals_of, ablation=ablation)  # fmt: skip
        calibrate_runs(measured, start, name=name, without=without, out=out, output=output)
        return
    if kernel_profile or on:
        _refuse("does not go with --kernel-profile", "leave one of the two out", data=data, kernels=kernels,
                tables=tables, without=without, only_assumed=only_assumed, ablation=ablation, leave_out=leave_out,
                intervals_of=intervals_of, deployment=measured.deployment)  # fmt: skip
        _profile(kernel_profile, on, start, began, name=name, out=out, output=output)
        return
    _must_have_points(kernels, tables, data, only_assumed=only_assumed, ablation=ablation, leave_out=leave_out,
                      intervals_of=intervals_of)  # fmt: skip
    if leave_out:
        _refuse("does not go with --leave-out", "leave one of the two out", out=out, ablation=ablation)
    if intervals_of:
        _refuse("does not go with --intervals-of", "leave one of the two out", kernels=kernels, without=without,
                only_assumed=only_assumed, ablation=ablation, leave_out=leave_out)  # fmt: skip
    if out:
        must_be_writable(out)
    if measured.deployment:
        _own(measured, start, began, name=name, out=out, output=output)
        return
    rows = _kernel_rows(kernels, tables) if kernels else None
    if rows and not data:
        _kernels(rows, start, began, name=name, without=without, out=out, output=output)
        return
    if intervals_of:
        _intervals(measured, start, load_calibration(intervals_of), began, out=out, output=output)
        return
    fit = _Table(measured, start, rows, without, only_assumed=only_assumed, began=began)
    if leave_out:
        fit.leave_out(leave_out, output)
    else:
        fit.calibrate(name, out, output, ablation=ablation)


def _fitted_points(measured: FittedOn) -> Sequence[Point]:
    """The points of a table; a note says which ones are predicted and not fitted."""
    points = measured.table().points
    groups = sorted({point.group for point in points if point.experiment})
    if groups:
        count = sum(point.experiment for point in points)
        notes().paragraph(f"{count} points of {', '.join(groups)} are an experiment by its name: they are not fitted")
    return points


def _refuse(why: str, hint: str, **given: object) -> None:
    """Refuse options that the command would not use."""
    for name, value in given.items():
        if value:
            raise SpecError(why, where=f"--{name.replace('_', '-')}", hint=hint)


def _must_have_points(kernels: str | None, tables: Path | None, data: tuple[Path, ...], **given: object) -> None:
    """Refuse a fit on nothing, and options of a fit on points if there are none."""
    if not kernels and (tables or not data):
        problem = "--tables needs --kernels" if tables else "nothing to fit on"
        raise SpecError(problem, where="calibrate", hint="give --data FILE, --kernels default, or both")
    if not data:
        _refuse("needs measured points", "give --data FILE, too", **given)


class _Table:
    """A fit on CSV files of points. If kernel tables are given, the kernels are fitted first."""

    def __init__(
        self, measured: FittedOn, start: Calibration, rows: KernelRows | None, without: tuple[str, ...],
        *, only_assumed: bool, began: float,
    ) -> None:  # fmt: skip
        self.data, self.without, self.only_assumed = measured.data, without, only_assumed
        self.began = began
        points = _fitted_points(measured)
        known = {name for point in points for name in (point.device, point.model)} | set(rows.devices if rows else ())
        if unknown := [name for name in without if name not in known]:
            raise UnknownName("device or model", unknown[0], sorted(known), hint="name one of --data")
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

        with progress("calibrating") as report:
            problem = problem_of(self.points, self.start, self.without, report)
            factors = factors_of(problem.families, problem.calibration, only_assumed=self.only_assumed)
            left, _ = leave_out(problem, factors, by, report, self.unseen if by == "system" else None)
        plain = timed(LeftOut(by, tuple(left), self.start.name).plain(), self.began)
        if output == "table":
            print_left(plain["groups"])
        else:
            emit(plain, output)

    def calibrate(self, name: str, out: Path | None, output: Output, *, ablation: bool) -> None:
        from tokenworks.calibrate.calibrate import calibrate
        from tokenworks.calibrate.file import write
        from tokenworks.calibrate.validate import sha256

        with progress("calibrating") as report:
            fit = calibrate(
                self.points, self.start, name=name, fitted_on=_names(self.data), data_sha256=sha256(self.data),
                without=self.without, only_assumed=self.only_assumed, say=report, unseen_prior=self.unseen,
            )  # fmt: skip
            plain = timed(fit.plain(ablation=ablation), self.began)
            if out:
                write(fit, out)
                notes().paragraph(f"wrote {out}")
        if output == "table":
            print_fit(plain)
        else:
            emit(plain, output)


def _intervals(
    measured: FittedOn, prior: Calibration, kept: Calibration, began: float, *, out: Path | None, output: Output
) -> None:
    """Compute the intervals of a calibration, whose constants do not change."""
    from tokenworks.calibrate.file import write_again
    from tokenworks.calibrate.intervals import intervals_of
    from tokenworks.calibrate.validate import sha256

    points = _fitted_points(measured)
    compile_once()
    with progress("calibrating") as report:
        result = intervals_of(kept, points, prior, data_sha256=sha256(measured.data), say=report)
        if out:
            write_again(result.calibration, out)
            notes().paragraph(f"wrote {out}")
    plain = timed(result.plain(), began)
    if output == "table":
        print_distances(plain)
        print_software(plain)
    else:
        emit(plain, output)


def _own(measured: FittedOn, start: Calibration, began: float, *, name: str, out: Path | None, output: Output) -> None:
    """Fit the machine on benchmark results of the user."""
    from tokenworks.calibrate.file import write_own
    from tokenworks.calibrate.own_machine import calibrate_own
    from tokenworks.calibrate.validate import sha256

    data, points = measured.data, measured.table().points
    compile_once()
    with progress("calibrating") as report:
        fit = calibrate_own(points, start, name=name, fitted_on=_names(data), data_sha256=sha256(data), say=report)
        if out:
            write_own(fit, out)
            notes().paragraph(f"wrote {out}")
    plain = timed(fit.plain(), began)
    if output == "table":
        print_own(plain)
    else:
        emit(plain, output)


def _kernel_rows(which: Literal["default", "all"], tables: Path | None) -> KernelRows:
    from tokenworks.calibrate.kernels.fit import KernelRows
    from tokenworks.calibrate.kernels.tables import find_tables

    with progress("reading kernel tables") as report:
        return KernelRows.read(find_tables(tables), which, report)


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
    """Fit the kernels on kernel tables only."""
    from tokenworks.calibrate.kernels.fit import write

    if unknown := [device for device in without if device not in rows.devices]:
        raise UnknownName("device of the kernel tables", unknown[0], rows.devices, hint="--without takes one of these")
    if set(rows.devices) <= set(without):
        hint = f"the kernel tables have rows of {', '.join(rows.devices)}; leave out fewer devices"
        raise SpecError("no kernel rows are left", where="--without", hint=hint)
    fit = rows.fit(prior, name=name, without=without)
    if out:
        write(fit, out)
        notes().paragraph(f"wrote {out}")
    if output == "table":
        print_kernels(fit)
    else:
        emit(timed(fit.plain(), began), output)


def _profile(
    path: Path | None, on: str | None, prior: Calibration, began: float, *, name: str, out: Path | None, output: Output
) -> None:
    """Fit the kernels of one card on an operator profile."""
    from tokenworks.calibrate.kernels.fit import write
    from tokenworks.calibrate.kernels.profile import fit_profile, read_profile

    if path is None:
        raise SpecError("names the card of an operator profile", where="--on", hint="give --kernel-profile FILE, too")
    if out:
        must_be_writable(out)
    profile = read_profile(path, on)
    fit = fit_profile(profile, prior, name=name)
    for note in profile.notes:
        notes().paragraph(note)
    if out:
        write(fit, out)
        notes().paragraph(f"wrote {out}")
    if output == "table":
        print_kernels(fit)
    else:
        emit(timed(fit.plain(), began), output)


def _names(data: tuple[Path, ...]) -> str:
    return ", ".join(path.name for path in data)
