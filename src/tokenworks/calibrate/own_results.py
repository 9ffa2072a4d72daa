"""Turn a user's own benchmark results into measured points of a deployment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tokenworks import ingest
from tokenworks.calibrate.measured import LoadKind, Measured, Point, PointTable, Worker, read_points
from tokenworks.errors import SpecError
from tokenworks.ingest.benchmark import Arrivals, Benchmark, Lengths
from tokenworks.ingest.rows import Rows
from tokenworks.specs.deployment import Deployment

NATIVE = "native"
"""Dtype of the weights if the model name is the name of the checkpoint."""

LOADS: dict[Arrivals, LoadKind] = {"poisson": "poisson", "constant": "constant"}
"""Kind of load, for arrivals with a rate. Requests that arrive at once are a closed loop with a limit on requests in
flight, else a burst."""


def measured_table(paths: Sequence[Path], deployment: Deployment | None, limit: int | None = None) -> PointTable:
    """The points of CSV files and of benchmark results, in the order of the files.

    Parameters
    ----------
    paths : CSV files of points, or JSON files of benchmark results
    deployment : deployment that the benchmark results were measured on; a CSV describes its own deployments
    limit : read only this many points; None for all

    Raises
    ------
    SpecError : a file cannot be read, or benchmark results have no deployment
    """
    points: list[Point] = []
    ignored: dict[str, None] = {}
    for path in paths:
        if not _is_object(path):
            table = read_points(path, limit)
            points += table.points
            ignored |= dict.fromkeys(table.ignored)
        elif deployment is None:
            raise SpecError(
                "is a benchmark result without a deployment", where=str(path), hint="give --deployment FILE"
            )
        else:
            points += [point_of(one, deployment) for one in ingest.load_benchmarks(path)]
    return PointTable(tuple(map(str, paths)), tuple(points[:limit]), tuple(ignored))


def _is_object(path: Path) -> bool:
    """Whether a file begins like a JSON object. For a file that cannot be read, `read_points` gives the error."""
    return os.path.isfile(path) and Rows(path).head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def point_of(benchmark: Benchmark, deployment: Deployment) -> Point:
    """The measured point of one benchmark.

    Parameters
    ----------
    benchmark : the benchmark result
    deployment : the deployment that it was measured on
    """
    roles = deployment.roles
    isl, osl = benchmark.isl, benchmark.osl
    known = isl.variation is not None and osl.variation is not None
    return Point(
        line=1, id=benchmark.name, group="", model=deployment.model, weights=NATIVE, device=deployment.system,
        devices=deployment.devices, engine=deployment.engine, mode="disagg" if len(roles) > 1 else "agg",
        drafts=max(role.draft_tokens for role in roles),
        workers=tuple(
            Worker(r.name, r.parallel.devices, r.parallel.tp, r.parallel.dp, r.parallel.pp, r.parallel.ep, r.replicas)
            for r in roles
        ),
        load=LOADS.get(benchmark.arrivals, "burst" if benchmark.concurrency is None else "closed"),
        concurrency=float(benchmark.concurrency or 0), rate=benchmark.rate, requests=benchmark.requests,
        isl=_mean(isl), osl=_mean(osl), nominal_isl=_mean(isl),
        measured=Measured(
            tpot=benchmark.tpot.seconds if benchmark.tpot else None,
            ttft=benchmark.ttft.seconds if benchmark.ttft else None,
            rate=benchmark.tokens_per_s / deployment.devices,
            tpot_mean=bool(benchmark.tpot and benchmark.tpot.mean),
            ttft_mean=bool(benchmark.ttft and benchmark.ttft.mean),
        ),
        variation=(isl.variation or 0.0, osl.variation or 0.0) if known else None,
        deployment=deployment,
    )  # fmt: skip


def _mean(lengths: Lengths) -> float:
    """Mean length; a whole number if the variation is unknown, because all lengths then count as equal [token]."""
    return lengths.mean if lengths.variation is not None else round(lengths.mean)
