"""Predict measured points and compute the errors of the predictions."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

from typing_extensions import TypedDict

from tokenworks.calibrate.frontier import FrontierPlain, frontier
from tokenworks.calibrate.measured import STARVED, UNKNOWN_SPLIT, Point, PointTable
from tokenworks.calibrate.predict import Predicted, predict
from tokenworks.calibrate.score import Errors, grouped, little, ranking, scored
from tokenworks.processes import cores, follow_parent, processes
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs
from tokenworks.specs.shown import Record, Shown

ALONE = 150
"""Up to this number of points, one process is faster than two: the second one takes time to start [count]."""

EXAMPLES = 5
"""Reasons per kind in the summary. `rows` has the reason of every point [count]."""

PROCESSES = 2
"""Largest number of processes [count]."""

SLICE = 40
"""Points that a process predicts at a time. Neighbouring points share configurations [count]."""


ErrorsPlain = Annotated[Plain, FormOf(Errors)] | None


class ValidateInputs(Inputs):
    """Inputs: the data files, and the calibration."""

    data: str
    data_sha256: str
    ignored_columns: list[str]
    grade: str
    interval: str


class ValidateBody(TypedDict):
    """The plain form of `validate`; rows : one row per point, if the points are a user's own results."""

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
    frontier: FrontierPlain
    starved_below_little_ratio: float
    rows: NotRequired[list[dict[str, Any]]]


@dataclass(frozen=True, slots=True, repr=False)
class Validation(Shown):
    """Measured points with their predictions.

    Parameters
    ----------
    table : the points
    calibration : calibration of the predictions
    predictions : prediction of each point
    """

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
        """Points that have a prediction, with the prediction."""
        return [
            (p, prediction)
            for p, prediction in zip(self.table.points, self.predictions, strict=True)
            if not prediction.why
        ]

    def plain(self) -> Plain:
        """Plain data: errors per metric and per group, baselines, and reasons for points without a prediction."""
        pairs, points = self.pairs, self.table.points
        assumed = Counter(what for _, prediction in pairs for what in prediction.assumed)
        overall = scored(pairs)
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
            "assumed": [{"what": what, "count": count} for what, count in assumed.most_common()],
            "tpot": overall["tpot"],
            "ttft": overall["ttft"],
            "tok_s_per_device": overall["tok_s_per_device"],
            "energy": overall["energy"],
            "energy_left_out": self._without_energy(),
            "by": grouped(pairs),
            "baseline": {"tok_s_per_device_from_measured_tpot": little(pairs)},
            "ranking": ranking(pairs),
            "frontier": frontier(pairs),
            "starved_below_little_ratio": STARVED,
        }
        if any(point.deployment for point in points):
            body["rows"] = self.rows()
        return envelope("validate", body)

    def _skipped(self) -> list[dict[str, Any]]:
        """Kinds of reasons for points without a prediction, most frequent first, each with examples."""
        kinds: dict[str, Counter[str]] = defaultdict(Counter)
        for prediction in self.predictions:
            kind, _, detail = prediction.why.partition(": ")
            if UNKNOWN_SPLIT in detail:
                kind, detail = UNKNOWN_SPLIT, detail.partition(f"{UNKNOWN_SPLIT}: ")[2]
            if kind:
                kinds[kind][detail] += 1
        reasons = [
            {
                "reason": kind,
                "count": details.total(),
                "examples": [detail for detail, _ in details.most_common(EXAMPLES)],
            }
            for kind, details in kinds.items()
        ]
        return sorted(reasons, key=lambda item: -item["count"])

    def _without_energy(self) -> list[dict[str, Any]]:
        """Reasons for points with a measured and without a predicted energy. A TDP is never guessed."""
        reasons = Counter(
            f"the TDP of {point.device} is not published" if prediction.tdp is None else "no output tokens are counted"
            for point, prediction in self.pairs
            if point.measured.energy and prediction.energy is None
        )
        return [{"reason": reason, "count": count} for reason, count in reasons.most_common()]

    def rows(self) -> list[dict[str, Any]]:
        """One row per point: measured value, predicted value, interval, and the reason for a missing prediction."""
        table = []
        for point, prediction in zip(self.table.points, self.predictions, strict=True):
            row: dict[str, Any] = {"line": point.line, "point_id": point.id}
            results = point.measured
            for name, metric, measured, predicted, scale in (
                ("tpot_ms", "tpot", results.tpot, prediction.tpot, 1e3),
                ("ttft_ms", "ttft", results.ttft, prediction.ttft, 1e3),
                ("tok_s_per_device", "tok_s_per_device", results.rate, prediction.rate, 1.0),
                ("joules_per_output_token", "energy", results.energy, prediction.energy, 1.0),
            ):
                spread = prediction.spread_of(metric)
                row[f"{name}_measured"] = _cell(measured, scale)
                row[f"{name}_predicted"] = _cell(predicted, scale)
                row[f"{name}_low"] = _cell(predicted, scale / spread)
                row[f"{name}_high"] = _cell(predicted, scale * spread)
            table.append(row | {"counted": results.counted, "skipped": prediction.why})
        return table


def _cell(value: float | None, scale: float) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value * scale:.6g}"


def sha256(paths: Iterable[str | Path]) -> str:
    """SHA-256 of the bytes of all files, one after the other, in hexadecimal.

    Parameters
    ----------
    paths : the files
    """
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()


def validate(table: PointTable, calibration: Calibration, *, say: Callable[[str], None] | None = None) -> Validation:
    """Predict measured points by simulation.

    Parameters
    ----------
    table : the points
    calibration : calibration of the simulation
    say : receives progress messages; None for no messages
    """
    return Validation(table, calibration, tuple(predict_all(table.points, calibration, say=say)))


def predict_all(
    points: Sequence[Point], calibration: Calibration, *, say: Callable[[str], None] | None = None
) -> list[Predicted]:
    """Predict points; several processes if there are many points.

    Parameters
    ----------
    points : measured points
    calibration : calibration of the simulation
    say : receives progress messages; None for no messages

    Returns
    -------
    The prediction of each point, in the order of the points
    """
    order = sorted(range(len(points)), key=lambda i: (points[i].model, points[i].device, points[i].engine))
    jobs = [order[i : i + SLICE] for i in range(0, len(order), SLICE)]
    predictions: list[Predicted | None] = [None] * len(points)
    count = min(PROCESSES, cores())
    if len(points) <= ALONE or count == 1:
        results = (predict_each([points[i] for i in job], calibration) for job in jobs)
        _gather(predictions, jobs, results, say)
    else:
        with processes(count, follow_parent) as pool:
            begun = [pool.submit(predict_each, [points[i] for i in job], calibration) for job in jobs]
            _gather(predictions, jobs, (one.result() for one in begun), say)
    return [one for one in predictions if one is not None]


def _gather(predictions: list[Predicted | None], jobs: list[list[int]], results: Any, say: Any) -> None:
    done = 0
    for job, result in zip(jobs, results, strict=True):
        for i, one in zip(job, result, strict=True):
            predictions[i] = one
        done += len(job)
        if say:
            say(f"predicted {done:,} of {len(predictions):,} points")


def predict_each(points: Sequence[Point], calibration: Calibration) -> list[Predicted]:
    """Predict points one after the other, in this process.

    Parameters
    ----------
    points : measured points
    calibration : calibration of the simulation
    """
    return [predict(point, calibration) for point in points]
