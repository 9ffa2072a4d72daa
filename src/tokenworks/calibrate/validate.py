"""Predict measured points and say how far off the predictions are."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, NotRequired

from typing_extensions import TypedDict

from tokenworks.calibrate.measured import Point, PointTable
from tokenworks.calibrate.predict import Predicted, predict
from tokenworks.calibrate.score import STARVED, Errors, grouped, little, ranking, scored
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs
from tokenworks.specs.shown import Record, Shown

ALONE = 150
"""Points below which a second process would take longer to start than it saves."""

EXAMPLES = 5
"""Reasons of a kind that the summary tells; the table of `rows` has every point's."""

PROCESSES = 2
"""Processes that predict many points, at most."""

SLICE = 40
"""Points that a process takes at a time; neighbours share configurations."""


ErrorsPlain = Annotated[Plain, FormOf(Errors)] | None


class ValidateInputs(Inputs):
    """What was predicted, and on which calibration."""

    data: str
    data_sha256: str
    ignored_columns: list[str]
    grade: str
    interval: str


class ValidateBody(TypedDict):
    """The plain form of `validate`; rows : one a point, where the points are a user's own results."""

    inputs: ValidateInputs
    points: int
    covered: int
    skipped: list[dict[str, Any]]
    assumed: list[dict[str, Any]]
    tpot: ErrorsPlain
    ttft: ErrorsPlain
    tok_s_per_device: ErrorsPlain
    energy: ErrorsPlain
    energy_left_out: list[dict[str, Any]]
    by: dict[str, dict[str, dict[str, ErrorsPlain]]]
    baseline: dict[str, dict[str, ErrorsPlain]]
    ranking: dict[str, dict[str, float | None]]
    starved_below_little_ratio: float
    rows: NotRequired[list[dict[str, Any]]]


@dataclass(frozen=True, slots=True, repr=False)
class Validation(Shown):
    """Measured points, and what was predicted of each."""

    table: PointTable
    calibration: Calibration
    predictions: tuple[Predicted, ...]

    @property
    def headline(self) -> str:
        """How many points were predicted, and with which calibration."""
        return f"{len(self.pairs):,} of {len(self.table.points):,} points predicted, {self.calibration.name}"

    def to_records(self) -> list[Record]:
        """The points, one a record: measured, predicted, interval."""
        return self.rows()

    @property
    def pairs(self) -> list[tuple[Point, Predicted]]:
        """Points that were predicted."""
        return [(p, said) for p, said in zip(self.table.points, self.predictions, strict=True) if not said.why]

    def plain(self) -> Plain:
        """Plain data: errors by metric and by group, baselines, and why points were left out."""
        pairs, points = self.pairs, self.table.points
        taken = Counter(what for _, said in pairs for what in said.assumed)
        found = scored(pairs)
        body: ValidateBody = {
            "inputs": {
                **inputs(calibration=self.calibration.name),
                "data": ", ".join(self.table.paths),
                "data_sha256": sha256(self.table.paths),
                "ignored_columns": list(self.table.ignored),
                "grade": self.calibration.grade,
                "interval": "80 %",
            },
            "points": len(points),
            "covered": len(pairs),
            "skipped": self._skipped(),
            "assumed": [{"what": what, "count": count} for what, count in taken.most_common()],
            "tpot": found["tpot"],
            "ttft": found["ttft"],
            "tok_s_per_device": found["tok_s_per_device"],
            "energy": found["energy"],
            "energy_left_out": self._without_energy(),
            "by": grouped(pairs),
            "baseline": {"tok_s_per_device_from_measured_tpot": little(pairs)},
            "ranking": ranking(pairs),
            "starved_below_little_ratio": STARVED,
        }
        if any(point.deployment for point in points):
            body["rows"] = self.rows()
        return envelope("validate", body)

    def _skipped(self) -> list[dict[str, Any]]:
        """Kinds of reasons, most frequent first, each with the reasons that it stands for."""
        kinds: dict[str, Counter[str]] = defaultdict(Counter)
        for said in self.predictions:
            kind, _, detail = said.why.partition(": ")
            if kind:
                kinds[kind][detail] += 1
        made = [
            {"reason": kind, "count": found.total(), "examples": [detail for detail, _ in found.most_common(EXAMPLES)]}
            for kind, found in kinds.items()
        ]
        return sorted(made, key=lambda item: -item["count"])

    def _without_energy(self) -> list[dict[str, Any]]:
        """Why points with a measured energy have none predicted: a TDP that is not published is not guessed."""
        found = Counter(
            f"the TDP of {point.device} is not published" if said.tdp is None else "no output tokens are counted"
            for point, said in self.pairs
            if point.measured.energy and said.energy is None
        )
        return [{"reason": reason, "count": count} for reason, count in found.most_common()]

    def rows(self) -> list[dict[str, Any]]:
        """One row a point: measured, predicted, interval, and the reason where there is none."""
        made = []
        for point, said in zip(self.table.points, self.predictions, strict=True):
            row: dict[str, Any] = {"line": point.line, "point_id": point.id}
            got = point.measured
            for name, metric, measured, predicted, scale in (
                ("tpot_ms", "tpot", got.tpot, said.tpot, 1e3),
                ("ttft_ms", "ttft", got.ttft, said.ttft, 1e3),
                ("tok_s_per_device", "tok_s_per_device", got.rate, said.rate, 1.0),
                ("joules_per_output_token", "energy", got.energy, said.energy, 1.0),
            ):
                spread = said.spread_of(metric)
                row[f"{name}_measured"] = _cell(measured, scale)
                row[f"{name}_predicted"] = _cell(predicted, scale)
                row[f"{name}_low"] = _cell(predicted, scale / spread)
                row[f"{name}_high"] = _cell(predicted, scale * spread)
            made.append(row | {"counted": got.counted, "skipped": said.why})
        return made


def _cell(value: float | None, scale: float) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value * scale:.6g}"


def sha256(paths: Iterable[str | Path]) -> str:
    """Of the bytes of all files, one after the other, in hexadecimal."""
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()


def validate(table: PointTable, calibration: Calibration, *, say: Callable[[str], None] | None = None) -> Validation:
    """Predict measured points by simulation.

    Parameters
    ----------
    say : told how far it is
    """
    return Validation(table, calibration, tuple(predict_all(table.points, calibration, say=say)))


def predict_all(
    points: Sequence[Point], calibration: Calibration, *, say: Callable[[str], None] | None = None
) -> list[Predicted]:
    """Predict points in their order; several processes where there are many."""
    order = sorted(range(len(points)), key=lambda i: (points[i].model, points[i].device, points[i].engine))
    jobs = [order[i : i + SLICE] for i in range(0, len(order), SLICE)]
    made: list[Predicted | None] = [None] * len(points)
    processes = min(PROCESSES, os.cpu_count() or 1)
    if len(points) <= ALONE or processes == 1:
        results = (predict_some([points[i] for i in job], calibration) for job in jobs)
        _gather(made, jobs, results, say)
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            work = [[points[i] for i in job] for job in jobs]
            _gather(made, jobs, pool.map(predict_some, work, [calibration] * len(work)), say)
    return [one for one in made if one is not None]


def _gather(made: list[Predicted | None], jobs: list[list[int]], results: Any, say: Any) -> None:
    done = 0
    for job, result in zip(jobs, results, strict=True):
        for i, one in zip(job, result, strict=True):
            made[i] = one
        done += len(job)
        if say:
            say(f"predicted {done:,} of {len(made):,} points")


def predict_some(points: Sequence[Point], calibration: Calibration) -> list[Predicted]:
    """Predict points one after the other."""
    return [predict(point, calibration) for point in points]
