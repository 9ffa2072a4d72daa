"""Errors of predicted training runs: over all runs, by group, and the ranking of plans."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NotRequired

import numpy as np
from scipy import stats
from typing_extensions import TypedDict

from tokenworks.calibrate.score import Reads, errors
from tokenworks.calibrate.training_case import Choose
from tokenworks.calibrate.training_points import TrainingPoint, TrainingTable
from tokenworks.calibrate.training_predict import TrainingPrediction, predict_training
from tokenworks.calibrate.validate import EXAMPLES, ErrorsPlain, ValidateInputs, sha256
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.result import Plain, envelope, inputs
from tokenworks.specs.shown import Record, Shown

TrainingPair = tuple[TrainingPoint, TrainingPrediction]

METRICS = ("tok_s_per_device", "step_s")

LEAST_PLANS = 3
"""Smallest number of plans of a group whose order counts [count]."""

GROUPS: Mapping[str, Callable[[TrainingPoint], str]] = {
    "system": lambda point: point.device,
    "model": lambda point: point.model,
    "framework": lambda point: f"{point.framework} {point.version}".strip(),
    "precision": lambda point: point.precision or "not stated",
    "method": lambda point: point.method,
}
"""Name of a grouping -> group of a run."""


class TrainingErrors(TypedDict):
    """Errors of throughput and of step time of some runs."""

    tok_s_per_device: ErrorsPlain
    step_s: ErrorsPlain


class PlannedBody(TrainingErrors):
    """Runs whose parallelism is not stated, on the choice of the planner."""

    points: int
    covered: int


class PlanRanking(TypedDict):
    """Kendall's tau of plans.

    kendall : mean over the groups, each with the number of its pairs as weight; None without groups
    groups, pairs : number of groups, and of pairs of plans
    """

    kendall: float | None
    groups: int
    pairs: int


class ValidateTrainingBody(TypedDict):
    """The plain form of `validate` for training runs.

    with_parallelism : number of runs whose parallelism is stated
    coverage : predicted runs / runs with a stated parallelism [-]
    assumed : what the files do not state, and the number of runs
    planned : runs whose parallelism is not stated
    does_not_fit : predicted runs whose memory is larger than that of the device
    ranking : order of plans by throughput at equal model and number of devices, and at equal batch, too
    rows : one row per run, if asked for
    """

    inputs: ValidateInputs
    points: int
    covered: int
    with_parallelism: int
    coverage: float | None
    skipped: list[dict[str, Any]]
    assumed: list[dict[str, Any]]
    tok_s_per_device: ErrorsPlain
    step_s: ErrorsPlain
    by: dict[str, dict[str, TrainingErrors]]
    planned: PlannedBody
    does_not_fit: int
    ranking: dict[str, PlanRanking]
    rows: NotRequired[list[dict[str, Any]]]


@dataclass(frozen=True, slots=True, repr=False)
class TrainingValidation(Shown):
    """Training runs with their predictions.

    Parameters
    ----------
    table : the runs
    calibration : calibration of the predictions
    predictions : prediction of each run
    """

    table: TrainingTable
    calibration: Calibration
    predictions: tuple[TrainingPrediction, ...]

    @property
    def headline(self) -> str:
        """How many runs were predicted, and with which calibration."""
        return f"{len(self.pairs):,} of {len(self.table.points):,} training runs predicted, {self.calibration.name}"

    def to_records(self) -> list[Record]:
        """The runs, one a record: measured, predicted, interval."""
        return self.rows()

    @property
    def pairs(self) -> list[TrainingPair]:
        """All runs with a prediction and a measured result."""
        both = zip(self.table.points, self.predictions, strict=True)
        return [(point, prediction) for point, prediction in both if prediction.step and prediction.measured]

    def plain(self) -> Plain:
        """The complete result as plain data."""
        points, pairs = self.table.points, self.pairs
        stated = [pair for pair in pairs if not pair[0].planned]
        planned = [pair for pair in pairs if pair[0].planned]
        with_parallelism = sum(not point.planned for point in points)
        errors = training_errors(stated)
        body: ValidateTrainingBody = {
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
            "with_parallelism": with_parallelism,
            "coverage": len(stated) / with_parallelism if with_parallelism else None,
            "skipped": self._skipped(),
            "assumed": self._assumed(),
            "tok_s_per_device": errors["tok_s_per_device"],
            "step_s": errors["step_s"],
            "by": {
                name: {key: training_errors(members) for key, members in _grouped(stated, of).items()}
                for name, of in GROUPS.items()
            },
            "planned": {
                "points": len(points) - with_parallelism,
                "covered": len(planned),
                **training_errors(planned),
            },
            "does_not_fit": sum(not prediction.step.fits for _, prediction in stated if prediction.step),
            "ranking": {"equal_devices": plan_ranking(stated), "equal_batch": plan_ranking(stated, batch=True)},
        }
        return envelope("validate-training", body)

    def _skipped(self) -> list[dict[str, Any]]:
        """Kinds of reasons for runs without a prediction, most frequent first, each with examples."""
        kinds: dict[str, Counter[str]] = defaultdict(Counter)
        for prediction in self.predictions:
            if prediction.why:
                kind, _, detail = prediction.why.partition(": ")
                kinds[kind][detail] += 1
        rows = [
            {"reason": kind, "count": details.total(), "examples": [text for text, _ in details.most_common(EXAMPLES)]}
            for kind, details in kinds.items()
        ]
        return sorted(rows, key=lambda row: -row["count"])

    def _assumed(self) -> list[dict[str, Any]]:
        """What the files do not state and was taken from elsewhere, most frequent first."""
        counts = Counter(text for one in self.predictions if one.case for text in one.case.assumed)
        return [{"what": text, "count": count} for text, count in counts.most_common()]

    def rows(self) -> list[dict[str, Any]]:
        """One row per run: measured value, predicted value, interval, and the reason for a missing prediction."""
        table = []
        for point, prediction in zip(self.table.points, self.predictions, strict=True):
            row: dict[str, Any] = {
                "line": point.line, "point_id": point.id, "model": point.model, "device": point.device,
                "n_devices": point.devices,
                "training": "" if prediction.case is None else str(prediction.case.training),
            }  # fmt: skip
            tokens = point.batch * point.sequence / max(point.devices, 1)
            for name in METRICS:
                measured, predicted, spread = prediction.measured, getattr(prediction, name), prediction.spread
                if name == "step_s" and measured:
                    measured = tokens / measured
                row[f"{name}_measured"] = _cell(measured)
                row[f"{name}_predicted"] = _cell(predicted)
                row[f"{name}_low"] = _cell(predicted and predicted / spread)
                row[f"{name}_high"] = _cell(predicted and predicted * spread)
            row["mfu"] = _cell(None if prediction.step is None else prediction.step.mfu)
            row["fits"] = "" if prediction.step is None else prediction.step.fits
            table.append(row | {"skipped": prediction.why})
        return table


def _cell(value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.6g}"


def training_errors(pairs: Sequence[TrainingPair]) -> TrainingErrors:
    """Errors of throughput and of step time.

    Parameters
    ----------
    pairs : runs with their predictions
    """
    reads: list[Reads] = [
        (prediction.tok_s_per_device, prediction.measured, prediction.spread)
        for _, prediction in pairs
        if prediction.tok_s_per_device and prediction.measured
    ]
    rate, step = errors(reads), errors([(measured, predicted, spread) for predicted, measured, spread in reads])
    return {
        "tok_s_per_device": None if rate is None else asdict(rate),
        "step_s": None if step is None else asdict(step),
    }


def _grouped(pairs: Sequence[TrainingPair], of: Callable[[TrainingPoint], str]) -> dict[str, list[TrainingPair]]:
    groups: dict[str, list[TrainingPair]] = defaultdict(list)
    for pair in pairs:
        groups[of(pair[0])].append(pair)
    return {key: groups[key] for key in sorted(groups)}


def plan_ranking(pairs: Sequence[TrainingPair], *, batch: bool = False) -> PlanRanking:
    """Kendall's tau-b of plans by throughput, at equal model, device, number of devices, sequence and precision.

    Parameters
    ----------
    pairs : runs with their predictions
    batch : whether plans must also have an equal global batch
    """
    groups: dict[tuple[Any, ...], list[TrainingPrediction]] = defaultdict(list)
    for point, prediction in pairs:
        key = (point.model, point.device, point.devices, point.sequence, point.framework, point.precision, point.method)
        groups[(*key, point.batch if batch else 0)].append(prediction)
    total = weight = count = 0.0
    for members in groups.values():
        if len(members) < LEAST_PLANS:
            continue
        tau = stats.kendalltau([one.tok_s_per_device for one in members], [one.measured for one in members]).statistic
        if np.isfinite(tau):
            size = len(members) * (len(members) - 1) / 2
            total, weight, count = total + size * float(tau), weight + size, count + 1
    return {"kendall": total / weight if weight else None, "groups": int(count), "pairs": int(weight)}


def validate_training(
    table: TrainingTable, calibration: Calibration, *, choose: Choose | None = None,
    say: Callable[[str], None] | None = None,
) -> TrainingValidation:  # fmt: skip
    """Predict measured training runs.

    Parameters
    ----------
    table : the runs
    calibration : calibration of the prediction
    choose : chooses the deployment of runs whose parallelism is not stated; None: such runs are skipped
    say : receives progress messages; None for no messages
    """
    predictions = predict_training(table.points, calibration, choose=choose, say=say)
    return TrainingValidation(table, calibration, tuple(predictions))
