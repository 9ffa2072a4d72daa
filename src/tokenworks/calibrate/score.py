"""Errors of predictions: over all points, per group of points, and the ranking of configurations."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from tokenworks.arrays import Floats
from tokenworks.calibrate.measured import Measured, Point
from tokenworks.calibrate.predict import Predicted

Pair = tuple[Point, Predicted]
Reads = tuple[float, float, float]
METRICS = ("tpot", "ttft", "tok_s_per_device", "energy")


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors e = predicted / measured - 1 of one metric.

    Parameters
    ----------
    n : number of points
    mape, median_ape, p90_ape : mean, median and 90th percentile of |e| [-]
    bias : median of e [-]
    inside_interval : share of the points inside their predicted 80 % interval [-]
    """

    n: int
    mape: float
    median_ape: float
    bias: float
    p90_ape: float
    inside_interval: float


def errors(reads: Sequence[Reads]) -> Errors | None:
    """Errors of one metric; None without points.

    Parameters
    ----------
    reads : predicted value, measured value and spread of each point
    """
    if not reads:
        return None
    predicted, measured, spread = np.array(reads).T
    ratio = predicted / measured
    off = np.abs(ratio - 1)
    inside = np.abs(np.log(ratio)) <= np.log(spread) + 1e-12
    return Errors(
        n=len(reads),
        mape=float(off.mean()),
        median_ape=float(np.median(off)),
        bias=float(np.median(ratio) - 1),
        p90_ape=float(np.quantile(off, 0.9)),
        inside_interval=float(inside.mean()),
    )


class ErrorsOfLogs(TypedDict):
    """Errors without intervals, see `Errors`."""

    n: int
    mape: float
    median_ape: float
    bias: float
    p90_ape: float


def errors_of_logs(log_errors: Floats) -> ErrorsOfLogs:
    """Errors as plain data without intervals.

    Parameters
    ----------
    log_errors : log(predicted / measured) of each point; NaN is left out [-]
    """
    summary = errors([(float(ratio), 1.0, 1.0) for ratio in np.exp(log_errors[np.isfinite(log_errors)])])
    assert summary is not None
    return {
        "n": summary.n,
        "mape": summary.mape,
        "median_ape": summary.median_ape,
        "bias": summary.bias,
        "p90_ape": summary.p90_ape,
    }


def reads(pairs: Iterable[Pair], metric: str) -> list[Reads]:
    """Predicted value, measured value and spread of each point that has both values.

    Parameters
    ----------
    pairs : points with their predictions
    metric : `tpot`, `ttft`, `tok_s_per_device` or `energy`
    """
    triples = []
    for point, prediction in pairs:
        results = point.measured
        predicted, measured = {
            "tpot": (prediction.tpot, results.tpot),
            "ttft": (prediction.ttft, results.ttft),
            "tok_s_per_device": (prediction.rate, results.rate),
            "energy": (prediction.energy, results.energy),
        }[metric]
        if predicted and measured:
            triples.append((predicted, measured, prediction.spread_of(metric)))
    return triples


def scored(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Errors of each metric, as plain data.

    Parameters
    ----------
    pairs : points with their predictions
    """
    by_metric = {metric: errors(reads(pairs, metric)) for metric in METRICS}
    return {metric: None if one is None else asdict(one) for metric, one in by_metric.items()}


def batch_class(point: Point) -> str:
    """Group of a point by requests in flight per device, in powers of four."""
    each = (point.concurrency or point.requests) / point.devices
    if each <= 0:
        return "open"
    low = 4 ** math.floor(math.log(each, 4))
    return f"{low:g}..{4 * low:g}" if each >= 1 else "below 1"


def kind(point: Point) -> str:
    """Group of a point by mode, MTP and source. Starved points, bursts and experiments have their own groups."""
    if point.mode == "disagg" and point.starved:
        return "disagg starved"
    special = "" if point.group in ("", "inferencex-dump") and point.load == "closed" else f" {source(point)}"
    return f"{point.mode} {point.mtp}{special}"


def source(point: Point) -> str:
    """Group of a point by load and origin: burst, offline, a rate, experimental, other or closed."""
    if point.load in ("burst", "offline", "poisson", "constant"):
        return point.load
    return "experimental" if point.experiment else "other" if point.group else "closed"


GROUPS: dict[str, Callable[[Point], str]] = {
    "kind": kind,
    "system": lambda point: point.device,
    "model": lambda point: f"{point.model} {point.weights}",
    "engine": lambda point: point.engine,
    "mode": lambda point: point.mode,
    "mtp": lambda point: point.mtp,
    "batch": batch_class,
    "load": source,
}


def grouped(pairs: Sequence[Pair]) -> dict[str, dict[str, Any]]:
    """Errors of each metric in each group, for every grouping in `GROUPS`.

    Parameters
    ----------
    pairs : points with their predictions
    """
    by_group: dict[str, dict[str, Any]] = {}
    for name, of in GROUPS.items():
        parts: dict[str, list[Pair]] = defaultdict(list)
        for pair in pairs:
            parts[of(pair[0])].append(pair)
        by_group[name] = {key: scored(parts[key]) for key in sorted(parts)}
    return by_group


# ── trivial baselines ─────────────────────────────────────────────────────────────────────────────────────────────


def little(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Errors of a trivial prediction, by mode: throughput from the *measured* TPOT by Little's law, without TTFT:

        rate = C (isl + osl) / (osl tpot devices)

    Everybody with a measured TPOT can compute this. A predicted throughput is only useful if it has smaller errors.

    Parameters
    ----------
    pairs : points with their predictions
    """
    by_mode: dict[str, list[Reads]] = defaultdict(list)
    for point, _ in pairs:
        results = point.measured
        if point.load != "closed" or not results.tpot or not results.rate or results.counted != "total":
            continue
        rate = point.concurrency * (point.isl + point.osl) / (point.osl * results.tpot * point.devices)
        by_mode[point.mode].append((rate, results.rate, 1.0))
    scores = {mode: errors(rows) for mode, rows in sorted(by_mode.items())}
    return {mode: None if one is None else asdict(one) for mode, one in scores.items()}


# ── ranking ───────────────────────────────────────────────────────────────────────────────────────────────────────


def ranking(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Kendall's tau over pairs of configurations with equal model, device, engine, dtype, MTP, lengths and concurrency.

    tau = (concordant - discordant) / pairs, over all groups. Predicted ties are neither concordant nor discordant.
    The result also has tau of a trivial ranking: more devices mean lower TPOT and fewer tokens per device.

    Parameters
    ----------
    pairs : points with their predictions
    """
    groups: dict[tuple[Any, ...], list[Pair]] = defaultdict(list)
    for point, prediction in pairs:
        key = (point.model, point.device, point.engine, point.weights, point.drafts, point.isl, point.osl,
               point.load, point.concurrency, point.group)  # fmt: skip
        groups[key].append((point, prediction))
    return {name: _tau(groups.values(), predicted, seen) for name, (predicted, seen) in RANKED.items()}


RANKED: dict[str, tuple[Callable[[Predicted], float | None], Callable[[Measured], float | None]]] = {
    "tpot": (lambda prediction: prediction.tpot, lambda results: results.tpot),
    "tok_s_per_device": (lambda prediction: prediction.rate, lambda results: results.rate),
}


def _tau(
    groups: Iterable[list[Pair]],
    predicted: Callable[[Predicted], float | None],
    seen: Callable[[Measured], float | None],
) -> dict[str, Any]:
    ours = trivial = count = 0
    for members in groups:
        for (a, predicted_a), (b, predicted_b) in combinations(members, 2):
            ours_a, ours_b, seen_a, seen_b = (
                predicted(predicted_a),
                predicted(predicted_b),
                seen(a.measured),
                seen(b.measured),
            )
            if a.workers == b.workers or not (ours_a and ours_b and seen_a and seen_b):
                continue
            truth = _sign(seen_a, seen_b)
            ours += truth * _sign(ours_a, ours_b)
            trivial += truth * _sign(b.devices, a.devices)
            count += 1
    return {
        "pairs": count,
        "predicted": ours / count if count else None,
        "by_devices": trivial / count if count else None,
    }


def _sign(a: float, b: float) -> int:
    return (a > b) - (a < b)
