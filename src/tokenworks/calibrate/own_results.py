"""A user's own benchmark results as measured points of a deployment: measure three, get your machine."""

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
"""The dtype of a point whose model names its checkpoint."""

LOADS: dict[Arrivals, LoadKind] = {"poisson": "poisson", "constant": "constant"}
"""Loads by a rate; requests that come at once are a closed loop where some must wait, else a burst."""


def measured_table(paths: Sequence[Path], deployment: Deployment | None, limit: int | None = None) -> PointTable:
    """The points of CSV files and of benchmark results, in the order of the files.

    Parameters
    ----------
    deployment : what the results were measured on; a CSV says that itself
    limit : only the first so many points
    """
    points: list[Point] = []
    ignored: dict[str, None] = {}
    for path in paths:
        if not _is_object(path):
            table = read_points(path, limit)
            points += table.points
            ignored |= dict.fromkeys(table.ignored)
        elif deployment is None:
            raise SpecError("which deployment was this measured on?", where=str(path), hint="give --deployment FILE")
        else:
            points += [point_of(one, deployment) for one in ingest.load_benchmarks(path)]
    return PointTable(tuple(map(str, paths)), tuple(points[:limit]), tuple(ignored))


def _is_object(path: Path) -> bool:
    """Whether a file begins as a JSON object does; what cannot be read is for `read_points` to say."""
    return os.path.isfile(path) and Rows(path).head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def point_of(found: Benchmark, deployment: Deployment) -> Point:
    """One benchmark of a deployment."""
    roles = deployment.roles
    isl, osl = found.isl, found.osl
    known = isl.variation is not None and osl.variation is not None
    return Point(
        line=1, id=found.name, group="", model=deployment.model, weights=NATIVE, device=deployment.system,
        devices=deployment.devices, engine=deployment.engine, mode="disagg" if len(roles) > 1 else "agg",
        drafts=max(role.draft_tokens for role in roles),
        workers=tuple(
            Worker(r.name, r.parallel.devices, r.parallel.tp, r.parallel.dp, r.parallel.pp, r.parallel.ep, r.replicas)
            for r in roles
        ),
        load=LOADS.get(found.arrivals, "burst" if found.concurrency is None else "closed"),
        concurrency=float(found.concurrency or 0), rate=found.rate, requests=found.requests,
        isl=_mean(isl), osl=_mean(osl), nominal_isl=_mean(isl),
        measured=Measured(
            tpot=found.tpot.seconds if found.tpot else None,
            ttft=found.ttft.seconds if found.ttft else None,
            rate=found.tokens_per_s / deployment.devices,
            tpot_mean=bool(found.tpot and found.tpot.mean),
            ttft_mean=bool(found.ttft and found.ttft.mean),
        ),
        variation=(isl.variation or 0.0, osl.variation or 0.0) if known else None,
        deployment=deployment,
    )  # fmt: skip


def _mean(lengths: Lengths) -> float:
    """A whole number where nothing says how lengths vary: then they are taken as equal."""
    return lengths.mean if lengths.variation is not None else round(lengths.mean)
