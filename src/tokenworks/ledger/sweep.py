"""`tokenworks.sweep`: many points of one question, in one table that says where the knee is and what matters."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import TypedDict

from tokenworks.engine.simulator import compiled, warm_up
from tokenworks.errors import DoesNotFit, SpecError, TokenworksError
from tokenworks.ledger.sweep_axes import SweepAxis, SweepDesign, design_of
from tokenworks.ledger.sweep_file import PlanSweep, SweepFile, SweepLike, identity, load_sweep
from tokenworks.ledger.sweep_journal import (
    Rows,
    SweepJournal,
    SweepStamp,
    aligned,
    must_have_pyarrow,
    read_parquet,
    write_parquet,
)
from tokenworks.ledger.sweep_paths import swept_paths
from tokenworks.ledger.sweep_point import INTERNAL, ReadTrace, SweepJob, must_price, must_repeat
from tokenworks.ledger.sweep_reading import (
    METHODS,
    InputEffect,
    SweepCurve,
    curve_axis,
    curve_column,
    curves_of,
    effects_of,
)
from tokenworks.ledger.sweep_run import Finished, chunks_of, in_processes, must_have_ray, on_ray
from tokenworks.processes import cores
from tokenworks.specs.load import load_workload
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs
from tokenworks.specs.save import must_be_writable
from tokenworks.specs.shown import Record, Shown

Progress = Callable[[str], None]

BAD_INPUT, NO_FIT = SpecError.exit_code, DoesNotFit.exit_code


class SweepInputs(Inputs):
    """Inputs of a sweep; sweep : the content of the sweep file."""

    sweep: Plain


class AxisPlain(TypedDict):
    """One axis.

    name : name of the axis: its path, or the name that the user gave
    paths : paths that change along the axis
    units : SI unit of each path; None for words
    values : values of the first path at each level
    scale : linear or log
    """

    name: str
    paths: list[str]
    units: list[str | None]
    values: list[Any]
    scale: str


class SweepBody(TypedDict):
    """The plain form of `sweep`.

    axes : the axes of the points; a Latin hypercube is one axis
    x, y : axis and result column of the curves; x is None without an axis of numbers
    in_all : points of the sweep
    with_result, does_not_fit, bad_input, internal_errors : points by what became of them
    curves : the result along x, one curve for each combination of the other values
    effects : inputs, the one that moves y most first
    method : how the effects are measured, in words
    points : one record per point: the swept values, the result, exit_code and error
    """

    inputs: SweepInputs
    do: str
    axes: list[AxisPlain]
    x: str | None
    y: str | None
    in_all: int
    with_result: int
    does_not_fit: int
    bad_input: int
    internal_errors: int
    curves: list[Annotated[Plain, FormOf(SweepCurve)]]
    effects: list[Annotated[Plain, FormOf(InputEffect)]]
    method: str
    points: list[Plain]


@dataclass(frozen=True, repr=False)
class Sweep(Shown):
    """A finished sweep.

    Parameters
    ----------
    file, design, where : the sweep, its points, and the file
    records : one record per point, in the order of the points, all with the same keys
    elapsed_s : time of the computation [s]
    computed : points that this run computed; the others were finished before [count]
    """

    file: SweepFile
    design: SweepDesign
    where: str
    records: tuple[Record, ...]
    elapsed_s: float = field(default=0.0, compare=False)
    computed: int = field(default=0, compare=False)

    @property
    def headline(self) -> str:
        """What the sweep is, in one line."""
        return (
            f"{self.file.title or self.file.do}: {len(self.records):,} points over {', '.join(self.design.paths)}, "
            f"{self.count(0):,} with a result"
        )

    def to_records(self) -> list[Record]:
        """The points, one a record."""
        return list(self.records)

    def count(self, exit_code: int) -> int:
        """How many points ended with an exit code: 0 ok, 1 internal error, 2 bad input, 3 does not fit."""
        return sum(record["exit_code"] == exit_code for record in self.records)

    @cached_property
    def axis(self) -> SweepAxis | None:
        """The axis of the curves; None if no axis has numbers."""
        return curve_axis(self.file, self.design, self.where)

    @cached_property
    def y(self) -> str | None:
        """The result column of the curves; None without any result."""
        return curve_column(self.file, self.records, self.where) if self.count(0) else None

    @cached_property
    def curves(self) -> tuple[SweepCurve, ...]:
        """The curves along the axis; empty for a Latin hypercube, whose points do not form curves."""
        if self.axis is None or self.y is None or self.design.sampled:
            return ()
        return curves_of(self.design, self.records, self.axis, self.y)

    @cached_property
    def effects(self) -> tuple[InputEffect, ...]:
        """The inputs, the one that moves the result most first."""
        return () if self.y is None else effects_of(self.design, self.records, self.y)

    @property
    def explained(self) -> float:
        """Share of the variance of the result that the inputs explain, each one alone [-]."""
        return min(sum(effect.share for effect in self.effects), 1.0)

    @property
    def method(self) -> str:
        """How the effects are measured, in words."""
        return METHODS["latin" if self.design.sampled else "grid"].format(y=self.y or "the result")

    def failures(self) -> list[tuple[str, int, str]]:
        """Errors of points: words, number of points, and the values of the first such point."""
        groups: dict[str, list[Record]] = {}
        for record in self.records:
            if record["error"] is not None:
                groups.setdefault(record["error"], []).append(record)
        ordered = sorted(groups.items(), key=lambda pair: -len(pair[1]))
        return [(words, len(records), self.named(records[0])) for words, records in ordered]

    def named(self, record: Mapping[str, Any]) -> str:
        """The values of a point in words."""
        paths = self.design.paths.items()
        return ", ".join(f"{name} = {path.shown(record[name])}" for name, path in paths if name in record)

    def plain(self) -> Plain:
        """The whole sweep as plain data; only `wall` differs between two runs."""
        body: SweepBody = {
            "inputs": self._inputs(),
            "do": self.file.do,
            "axes": [
                {
                    "name": axis.name,
                    "paths": [path.path for path in axis.paths],
                    "units": [path.unit for path in axis.paths],
                    "values": [level[0] for level in axis.levels],
                    "scale": axis.scale,
                }
                for axis in self.design.axes
            ],
            "x": self.axis.name if self.axis is not None else None,
            "y": self.y,
            "in_all": len(self.records),
            "with_result": self.count(0),
            "does_not_fit": self.count(NO_FIT),
            "bad_input": self.count(BAD_INPUT),
            "internal_errors": self.count(INTERNAL),
            "curves": [asdict(curve) for curve in self.curves],
            "effects": [asdict(effect) for effect in self.effects],
            "method": self.method,
            "points": list(self.records),
        }
        return envelope("sweep", body, {"elapsed_s": self.elapsed_s, "computed": self.computed})

    def _inputs(self) -> SweepInputs:
        arguments = self.file.arguments()
        known = {name: arguments.get(name) for name in ("model", "engine", "calibration")}
        workload, slo = arguments.get("workload"), arguments.get("slo")
        common = inputs(
            **known, machine=arguments.get("on"), workload=None if workload is None else load_workload(workload),
            slo=slo if isinstance(slo, str) else None,
        )  # fmt: skip
        return {**common, "sweep": self.file.model_dump(mode="json", by_alias=True, exclude_none=True)}


def sweep(
    sweep: SweepLike,
    *,
    read_trace: ReadTrace,
    version: str,
    parquet: str | Path | None = None,
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Compute all points of a sweep.

    Parameters
    ----------
    sweep : as `load_sweep` takes it
    read_trace : function that reads a trace file
    version : version of tokenworks, which the files of the sweep record
    parquet : file for the points; a journal beside it makes the sweep resumable. None: the points stay in memory
    workers : local processes, or Ray actors; None: one per CPU [count]
    ray : address of a Ray cluster; None: local processes
    progress : function for progress: gets a text with the number of finished points

    Raises
    ------
    SpecError : the sweep or a file is wrong, or all points have bad input
    DoesNotFit : no point has a result, and at least one does not fit its machine
    """
    prepared = prepare(sweep, read_trace, version, None if parquet is None else Path(parquet), workers)
    return computed(prepared, ray=ray, progress=progress)


def computed(prepared: PreparedSweep, *, ray: str | None = None, progress: Progress | None = None) -> Sweep:
    """Compute the points of a checked sweep that are not finished yet; `ray` and `progress` are those of `sweep`."""
    began, job = time.perf_counter(), prepared.job
    records, count = _records(prepared, ray, progress)
    result = Sweep(job.file, job.design, job.where, tuple(records), time.perf_counter() - began, count)
    _must_have_a_result(result)
    return result


@dataclass(frozen=True)
class PreparedSweep:
    """A sweep that was checked, and can run.

    Parameters
    ----------
    job : the points
    stamp : version and hash of the sweep
    workers : processes; None: one per CPU [count]
    parquet : the Parquet file; None: there is none
    finished : records of the Parquet file, if it exists
    """

    job: SweepJob
    stamp: SweepStamp
    workers: int | None = None
    parquet: Path | None = None
    finished: list[Record] | None = None

    @property
    def needs_engine(self) -> bool:
        """Whether the points use the compiled simulator."""
        file = self.job.file
        return file.do == "simulate" or (isinstance(file, PlanSweep) and file.simulate is not False)


def prepare(
    sweep: SweepLike, read_trace: ReadTrace, version: str, parquet: Path | None = None, workers: int | None = None
) -> PreparedSweep:  # fmt: skip
    """Read and check a sweep before any point is computed; the parameters are those of `sweep`."""
    file, where = load_sweep(sweep)
    if workers is not None and workers < 1:
        raise SpecError(f"{workers} is not a number of 1 or more", where="--workers")
    must_repeat(file, where)
    must_price(file)
    design = design_of(file, swept_paths(file, where), where)
    curve_axis(file, design, where)
    stamp, finished = SweepStamp(version, identity(file)), None
    if parquet is not None:
        must_have_pyarrow(f"--parquet {parquet}")
        must_be_writable(parquet)
        finished = read_parquet(parquet, stamp)
    return PreparedSweep(SweepJob(file, design, where, read_trace), stamp, workers, parquet, finished)


def _records(prepared: PreparedSweep, ray: str | None, progress: Progress | None) -> tuple[list[Record], int]:
    """The records of all points in order, and how many points this run computed."""
    if prepared.finished is not None:
        return prepared.finished, 0
    if ray is not None:
        must_have_ray()
    design, parquet = prepared.job.design, prepared.parquet
    journal = None if parquet is None else SweepJournal(parquet, prepared.stamp)
    with journal or nullcontext():
        rows: Rows = {} if journal is None else journal.rows
        before = len(rows)
        with closing(_computed(prepared, rows, ray, progress)) as stream:
            for finished in stream:
                rows |= finished
                if journal is not None:
                    journal.add(finished)
        records = aligned(rows, len(design))
        worth = any(record["exit_code"] == 0 for record in records)
        if journal is not None and not worth:
            journal.remove()
        elif journal is not None and parquet is not None:
            write_parquet(parquet, prepared.stamp, records, design.paths)
            journal.remove()
    return records, len(design) - before


def _computed(
    prepared: PreparedSweep, rows: Rows, ray: str | None, progress: Progress | None
) -> Generator[Finished, None, None]:  # fmt: skip
    """The finished points of each chunk, while progress is reported."""
    job, points = prepared.job, len(prepared.job.design)
    missing = [number for number in range(points) if number not in rows]
    if not missing:
        return
    workers = prepared.workers or cores()
    chunks = chunks_of(job, missing, workers)
    if ray is not None:
        source = on_ray(job, chunks, ray, prepared.workers)
    else:
        if prepared.needs_engine and not compiled():  # else each process compiles
            warm_up()
        source = in_processes(job, chunks, workers)
    began, done, failed = time.monotonic(), 0, 0
    with closing(source):
        for finished in source:
            done += len(finished)
            failed += sum(record["exit_code"] != 0 for _, record in finished)
            yield finished
            if progress is not None:
                left_s = (time.monotonic() - began) / done * (len(missing) - done)
                without = f", {failed:,} without a result" if failed else ""
                progress(f"{points - len(missing) + done:,} of {points:,} points{without}, about {left_s:,.0f} s left")


def _must_have_a_result(result: Sweep) -> None:
    """Raise the error of the points if no point has a result, and the error of a wrong `show.y`."""
    if result.count(0):
        _ = result.y
        return
    words, count, at = result.failures()[0]
    text = f"none of {len(result.records):,} points has a result; {count:,} of them: {words}"
    if result.count(NO_FIT):
        raise DoesNotFit(f"{result.where}: {text} (first at {at})")
    if result.count(BAD_INPUT):
        raise SpecError(f"{text} (first at {at})", where=result.where)
    raise TokenworksError(f"{result.where}: {text} (first at {at})")
