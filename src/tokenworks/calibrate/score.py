"""Errors of predictions against measurements: sizes, groups, and whether configurations are ranked rightly."""

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

STARVED = 0.5
"""Disaggregated points whose measured throughput is below this share of Little's law wait for something else [-]."""

Pair = tuple[Point, Predicted]
Reads = tuple[float, float, float]
METRICS = ("tpot", "ttft", "tok_s_per_device", "energy")


@dataclass(frozen=True, slots=True)
class Errors:
    """Of one metric over n points: e = predicted / measured - 1.

    mape, median_ape, p90_ape : of |e|; bias : median of e; inside_interval : share in the predicted 80 % interval
    """

    n: int
    mape: float
    median_ape: float
    bias: float
    p90_ape: float
    inside_interval: float


def errors(reads: Sequence[Reads]) -> Errors | None:
    """Of (predicted, measured, spread) triples; None where there are none."""
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
    """Errors of n points without intervals, see `Errors`."""

    n: int
    mape: float
    median_ape: float
    bias: float
    p90_ape: float


def errors_of_logs(log_errors: Floats) -> ErrorsOfLogs:
    """The same of log(predicted / measured), as plain data without intervals; NaN counts as not there."""
    found = errors([(float(ratio), 1.0, 1.0) for ratio in np.exp(log_errors[np.isfinite(log_errors)])])
    assert found is not None
    return {
        "n": found.n,
        "mape": found.mape,
        "median_ape": found.median_ape,
        "bias": found.bias,
        "p90_ape": found.p90_ape,
    }


def reads(pairs: Iterable[Pair], metric: str) -> list[Reads]:
    """Predicted, measured and spread where there are both."""
    found = []
    for point, said in pairs:
        got = point.measured
        predicted, measured = {
            "tpot": (said.tpot, got.tpot),
            "ttft": (said.ttft, got.ttft),
            "tok_s_per_device": (said.rate, got.rate),
            "energy": (said.energy, got.energy),
        }[metric]
        if predicted and measured:
            found.append((predicted, measured, said.spread_of(metric)))
    return found


def scored(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Errors of each metric, as plain data."""
    made = {metric: errors(reads(pairs, metric)) for metric in METRICS}
    return {metric: None if found is None else asdict(found) for metric, found in made.items()}


def batch_class(point: Point) -> str:
    """Requests in flight a device, in powers of four."""
    each = (point.concurrency or point.requests) / point.devices
    if each <= 0:
        return "open"
    low = 4 ** math.floor(math.log(each, 4))
    return f"{low:g}..{4 * low:g}" if each >= 1 else "below 1"


def kind(point: Point) -> str:
    """Which figures may be read together: disaggregated points that starve, bursts and experiments stand apart."""
    if point.mode == "disagg" and point.little_ratio is not None and point.little_ratio < STARVED:
        return "disagg starved"
    special = "" if point.group in ("", "inferencex-dump") and point.load == "closed" else f" {source(point)}"
    return f"{point.mode} {point.mtp}{special}"


def source(point: Point) -> str:
    """Bursts, experimental points, and the rest."""
    if point.load in ("burst", "offline", "poisson", "constant"):
        return point.load
    return "experimental" if "experimental" in point.group else "other" if point.group else "closed"


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
    """Errors by every grouping."""
    made: dict[str, dict[str, Any]] = {}
    for name, of in GROUPS.items():
        parts: dict[str, list[Pair]] = defaultdict(list)
        for pair in pairs:
            parts[of(pair[0])].append(pair)
        made[name] = {key: scored(parts[key]) for key in sorted(parts)}
    return made


# ── trivial baselines ─────────────────────────────────────────────────────────────────────────────────────────────


def little(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Throughput from *measured* TPOT by Little's law without TTFT: C (isl + osl) / (osl tpot devices), by mode.

    What anybody knows who has measured TPOT: throughput says something only where it beats this.
    """
    made: dict[str, list[Reads]] = defaultdict(list)
    for point, _ in pairs:
        got = point.measured
        if point.load != "closed" or not got.tpot or not got.rate or got.counted != "total":
            continue
        rate = point.concurrency * (point.isl + point.osl) / (point.osl * got.tpot * point.devices)
        made[point.mode].append((rate, got.rate, 1.0))
    found = {mode: errors(rows) for mode, rows in sorted(made.items())}
    return {mode: None if one is None else asdict(one) for mode, one in found.items()}


# ── ranking ───────────────────────────────────────────────────────────────────────────────────────────────────────


def ranking(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Kendall's tau over pairs of configurations at equal model, device, engine, dtype, MTP, lengths and concurrency.

    tau = (concordant - discordant) / pairs, pooled over groups; predicted ties count as neither. Beside it what ranking
    by devices alone gives: more devices, lower TPOT, and fewer tokens a device.
    """
    groups: dict[tuple[Any, ...], list[Pair]] = defaultdict(list)
    for point, said in pairs:
        key = (point.model, point.device, point.engine, point.weights, point.drafts, point.isl, point.osl,
               point.load, point.concurrency, point.group)  # fmt: skip
        groups[key].append((point, said))
    return {name: _tau(groups.values(), said, seen) for name, (said, seen) in RANKED.items()}


RANKED: dict[str, tuple[Callable[[Predicted], float | None], Callable[[Measured], float | None]]] = {
    "tpot": (lambda said: said.tpot, lambda got: got.tpot),
    "tok_s_per_device": (lambda said: said.rate, lambda got: got.rate),
}


def _tau(
    groups: Iterable[list[Pair]], said: Callable[[Predicted], float | None], seen: Callable[[Measured], float | None]
) -> dict[str, Any]:
    ours = trivial = count = 0
    for members in groups:
        for (a, said_a), (b, said_b) in combinations(members, 2):
            ours_a, ours_b, seen_a, seen_b = said(said_a), said(said_b), seen(a.measured), seen(b.measured)
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
