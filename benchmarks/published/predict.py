"""Predict the published figures with the commands of the product, as Python functions, and a calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import tokenworks
from benchmarks.published.front import Front
from tokenworks.calibrate.case import case
from tokenworks.calibrate.measured import Point, PointTable, read_points
from tokenworks.calibrate.predict import Predicted
from tokenworks.costs.ratio import ratio_width
from tokenworks.costs.requests import accepted_tokens
from tokenworks.planning.estimate import Estimate, StepEstimate
from tokenworks.specs.calibration import load_calibration, number

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "published"
PRODUCTION = ROOT / "benchmarks" / "accuracy" / "production.csv"

SERVING = "serving"
"""The default calibration, which was frozen before the predictions were made."""

ACCEPTANCE = 0.7
"""Acceptance of the draft token of CloudMatrix-Infer (arXiv:2506.12708, section 5.1) [-]."""

NODE = 8
"""Cards of a node of DeepSeek [count]."""

HITS = 0.563
"""Input tokens of DeepSeek's day that the cache served / all input tokens [-]."""

DAY_BATCH = 12_672
"""Sequences of a decode instance of 144 cards: 14,800 tok/s / 8 cards / 21 tok/s per user = 88 a card [count]."""

SPEEDS = (75.0, 120.0, 164.0)
"""Speeds at which GB200 and B200 are compared [token/s per user]."""

MI300X_IN_FLIGHT = 10_800
"""Requests in flight in all runs on MI300X (--max-concurrency) [count]."""

MI300X_REQUESTS = 162_000
"""Requests of a run on MI300X: 15 times those in flight, so that the steady state is long [count]."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted value with its 80 % interval.

    Parameters
    ----------
    value, low, high : in the unit of the figure
    grade : what the prediction is based on
    """

    value: float
    low: float
    high: float
    grade: str

    @classmethod
    def around(cls, value: float, factor: float, grade: str) -> Prediction:
        """A value with an interval of a factor each way."""
        return cls(value, value / factor, value * factor, grade)


Predictions = dict[str, Prediction]
"""The prediction of each figure of a case, by its id."""


def cloudmatrix384(calibration: str, only: Sequence[str] = ()) -> Predictions:
    """Single steps of CloudMatrix384, from the rows of production.csv.

    Parameters
    ----------
    calibration : name in the catalog, or a file
    only : ids of the rows; () for all
    """
    settings: dict[str, dict[str, Any]] = {
        "cloudmatrix-prefill": {}, "cloudmatrix-prefill-balanced": {"calibration.rank_skew": 0},
        **{f"cloudmatrix-decode-{batch}": {"calibration.acceptance": ACCEPTANCE} for batch in (96, 24, 8)},
    }  # fmt: skip
    rows = {point.id: point for point in read_points(PRODUCTION).points}
    found: Predictions = {}
    for name, assume in settings.items():
        if only and name not in only:
            continue
        (predicted,) = _predicted([rows[name]], calibration, assume)
        grade = case(rows[name], load_calibration(calibration, assume=assume)).site.rates.grade
        for metric, value in (("rate", predicted.rate), ("tpot", _ms(predicted.tpot))):
            if value is not None:
                found[f"{name}.{metric}"] = Prediction.around(value, predicted.spread, grade)
    return found


def deepseek_day(calibration: str) -> Predictions:
    """Steps of DeepSeek's prefill and decode instances, as rates of a node."""
    found: Predictions = {}
    for name, drafts in (("none", 0), ("mtp", 1)):
        given = yaml.safe_load((EXAMPLES / "deepseek-day.yaml").read_text(encoding="utf-8"))
        given["roles"][1]["draft_tokens"] = drafts
        steps = tokenworks.estimate(
            given, workload=EXAMPLES / "deepseek-day-requests.yaml", batch=DAY_BATCH, calibration=calibration
        )
        prefill, decode = steps.steps
        computed = prefill.prefill / prefill.seconds * NODE / prefill.role.parallel.devices
        found["prefill"] = _step(steps, prefill, computed / (1 - HITS))
        gained = accepted_tokens(drafts, steps.rates.acceptance, steps.rates.later_acceptance)
        tpot = decode.seconds / float(gained)
        found[f"tpot.{name}"] = _step(steps, decode, 1e3 * tpot)
        found[f"decode.{name}"] = _step(steps, decode, DAY_BATCH / tpot * NODE / decode.role.parallel.devices)
    return found


def blackwell(calibration: str) -> Predictions:
    """The best throughput of GB200 and of B200 at three speeds per user, and the ratio of both.

    A speed that no predicted point reaches has no prediction.
    """
    points = read_points(EXAMPLES / "blackwell.csv").points
    read = load_calibration(calibration)
    fronts, grades = {}, {}
    for device in ("gb200", "b200"):
        own = [point for point in points if point.device == device]
        grades[device] = case(own[0], read).site.rates.grade
        fronts[device] = Front.of(_predicted(own, calibration, {}))
    found: Predictions = {}
    for speed in SPEEDS:
        at = {device: front.at(speed) for device, front in fronts.items()}
        for device, one in at.items():
            if one:
                found[f"{device}.{speed:g}"] = Prediction.around(*one, grades[device])
        if (rack := at["gb200"]) and (server := at["b200"]):
            width = ratio_width(math.log(rack[1]), math.log(server[1]), read.correlation)
            found[f"ratio.{speed:g}"] = Prediction.around(rack[0] / server[0], math.exp(width), grades["gb200"])
    return found


def mi300x(calibration: str, lengths: Sequence[int] = (1000, 512, 2000)) -> Predictions:
    """Five servers of MI300X in a closed loop.

    Parameters
    ----------
    calibration : name in the catalog, or a file
    lengths : input and output lengths to predict [token]
    """
    found: Predictions = {}
    requests = yaml.safe_load((EXAMPLES / "mi300x-requests.yaml").read_text(encoding="utf-8"))
    for length in lengths:
        played = tokenworks.simulate(
            EXAMPLES / "mi300x.yaml", workload=requests | {"isl": length, "osl": length},
            concurrency=MI300X_IN_FLIGHT, requests=MI300X_REQUESTS, calibration=calibration,
            assume={"machine.device.nic": "25 GB/s"},
        ).plain()  # fmt: skip
        for name, metric in (("rate", "output_throughput"), ("itl", "mean_itl_ms")):
            found[f"{length}.{name}"] = Prediction.around(played[metric], played["spread"], played["grade"])
        wide = number(load_calibration(calibration).ttft_spread)
        found[f"{length}.ttft"] = Prediction.around(played["mean_ttft_ms"] / 1e3, wide, played["grade"])
    return found


def sd200(calibration: str) -> Predictions:
    """One decode step of one sequence on 64 cards whose numbers are assumed."""
    steps = tokenworks.estimate(
        "deepseek-ai/DeepSeek-R1", "sd200", deploy="tp=64,ep=64", batch=1, isl=4096, osl=1024,
        assume=EXAMPLES / "sd200.yaml", calibration=calibration,
    )  # fmt: skip
    (decode,) = (one for one in steps.steps if one.kind == "decode")
    return {"tpot": _step(steps, decode, 1e3 * decode.seconds)}


PREDICT: dict[str, Callable[[str], Predictions]] = {
    "cloudmatrix384": cloudmatrix384,
    "deepseek-day": deepseek_day,
    "blackwell": blackwell,
    "mi300x-2p3d": mi300x,
    "sd200": sd200,
}
"""What predicts the figures of each case."""


def _predicted(points: Sequence[Point], calibration: str, assume: dict[str, Any]) -> tuple[Predicted, ...]:
    """Predictions of points; each must have one."""
    table = PointTable(("published figures",), tuple(points), ())
    predicted = tokenworks.validate(table, assume=assume, calibration=calibration).predictions
    for point, one in zip(points, predicted, strict=True):
        assert not one.why, f"{point.id}: {one.why}"
    return predicted


def _step(steps: Estimate, of: StepEstimate, value: float) -> Prediction:
    """A value that follows from the time of a step."""
    return Prediction.around(value, steps.spread(of), steps.rates.grade)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds
