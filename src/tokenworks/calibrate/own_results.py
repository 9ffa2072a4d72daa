"""Turn a user's own benchmark results into measured points of a deployment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenworks import ingest
from tokenworks.calibrate.measured import LoadKind, Measured, Point, PointTable, Worker, point_of_cells, read_points
from tokenworks.errors import SpecError
from tokenworks.ingest.benchmark import Arrivals, Benchmark, Lengths, Load
from tokenworks.ingest.load import format_of
from tokenworks.ingest.rows import Rows
from tokenworks.specs.deployment import Deployment

NATIVE = "native"
"""Dtype of the weights if the model name is the name of the checkpoint."""

LOADS: dict[Arrivals, LoadKind] = {"poisson": "poisson", "constant": "constant"}
"""Kind of load, for arrivals with a rate. Requests that arrive at once are a closed loop with a limit on requests in
flight, else a burst."""


ASSUMED = "assumed: "
"""Beginning of a note about an assumption of a reader."""


def measured_table(
    paths: Sequence[Path],
    deployment: Deployment | None,
    limit: int | None = None,
    *,
    benchmark: int | None = None,
    load: str | None = None,
) -> PointTable:
    """The points of CSV files and of benchmark results, in the order of the files.

    Parameters
    ----------
    paths : CSV files of points, or benchmark results (JSON, JSONL)
    deployment : deployment that the benchmark results were measured on. A CSV and a result of InferenceX describe their
        own deployments; a deployment of the user replaces the one of InferenceX
    limit : read only this many points; None for all
    benchmark : read only the benchmark with this number of each result file, from 1 on; None for all
    load : load of results that do not record it, such as `concurrency=16`; None if all record it

    Raises
    ------
    SpecError : a file cannot be read, benchmark results have no deployment, or a choice of the user chooses nothing
    """
    points: list[Point] = []
    results, unrecorded = 0, 0
    ignored: dict[str, None] = {}
    notes: list[str] = []
    sent = None if load is None else Load.parse(load)
    for path in paths:
        if not _is_json(path):
            _refuse_trace(path)
            table = read_points(path, limit)
            points += table.points
            ignored |= dict.fromkeys(table.ignored)
            continue
        file = ingest.read_benchmarks(path, benchmark=benchmark, load=sent)
        results, unrecorded = results + 1, unrecorded + (not file.records_load)
        notes += file.notes
        for one in file.benchmarks:
            points.append(_point(one, deployment, path))
            notes += [f"{one.name}: {note}" for note in one.notes if not note.startswith(ASSUMED)]
    if benchmark is not None and not results:
        raise SpecError("chooses from benchmark results, and --data has none", where="--benchmark", hint="leave it out")
    if load is not None and not unrecorded:
        raise SpecError("every file of --data records its load", where="--load", hint="leave it out")
    files, kept = tuple(map(str, paths)), tuple(points[:limit])
    return PointTable(files, kept, tuple(ignored), tuple(notes), of_results=results == len(files))


def _is_json(path: Path) -> bool:
    """Whether a file begins like JSON. For a file that cannot be read, `read_points` gives the error."""
    return os.path.isfile(path) and Rows(path).head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))


def _refuse_trace(path: Path) -> None:
    """Refuse a CSV or Parquet file that is a trace."""
    form = format_of(Rows(path)) if os.path.isfile(path) else None
    if form is not None:
        hint = f"give measured points; this file can be played with `simulate --trace {path}`"
        raise SpecError(f"is a trace of the format {form}", where=str(path), hint=hint)


def _point(benchmark: Benchmark, deployment: Deployment | None, path: Path) -> Point:
    """The point of a benchmark, on the deployment of the user or on the one that the file describes."""
    assumed = tuple(note.removeprefix(ASSUMED) for note in benchmark.notes if note.startswith(ASSUMED))
    if deployment is not None:
        point = point_of(benchmark, deployment)
    elif benchmark.point:
        point = point_of_cells(str(path), 1, dict(benchmark.point))
    else:
        raise SpecError("is a benchmark result without a deployment", where=str(path), hint="give --deployment FILE")
    return replace(point, assumed=(*point.assumed, *assumed))


def point_of(benchmark: Benchmark, deployment: Deployment) -> Point:
    """The measured point of one benchmark.

    Parameters
    ----------
    benchmark : the benchmark result
    deployment : the deployment that it was measured on
    """
    roles = deployment.roles
    isl, osl = benchmark.isl, benchmark.osl
    known = isl.variation is not None and osl.variation is not None and not isl.nominal
    arrivals = benchmark.arrivals or "at once"
    return Point(
        line=1, id=benchmark.name, group="", model=deployment.model, weights=NATIVE, device=deployment.system,
        devices=deployment.devices, engine=deployment.engine, mode="disagg" if len(roles) > 1 else "agg",
        drafts=max(role.draft_tokens for role in roles),
        workers=tuple(
            Worker(r.name, r.parallel.devices, r.parallel.tp, r.parallel.dp, r.parallel.pp, r.parallel.ep, r.replicas)
            for r in roles
        ),
        load=LOADS.get(arrivals, "burst" if benchmark.concurrency is None else "closed"),
        concurrency=float(benchmark.concurrency or 0), rate=benchmark.rate, requests=benchmark.requests,
        isl=_mean(isl), osl=_mean(osl), nominal_isl=isl.nominal or _mean(isl),
        measured=Measured(
            tpot=benchmark.tpot.seconds if benchmark.tpot else None,
            ttft=benchmark.ttft.seconds if benchmark.ttft else None,
            rate=benchmark.tokens_per_s / deployment.devices,
            energy=benchmark.joules_per_output_token,
            tpot_mean=bool(benchmark.tpot and benchmark.tpot.mean),
            ttft_mean=bool(benchmark.ttft and benchmark.ttft.mean),
        ),
        variation=(isl.variation or 0.0, osl.variation or 0.0) if known else None,
        sent_s=benchmark.sent_s,
        deployment=deployment,
    )  # fmt: skip


def _mean(lengths: Lengths) -> float:
    """Mean length; a whole number if the variation is unknown, because all lengths then count as equal [token]."""
    return lengths.mean if lengths.variation is not None or lengths.nominal else round(lengths.mean)
