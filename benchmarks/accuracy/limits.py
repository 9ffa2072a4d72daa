"""How well a prediction can be: what the error of the frontier consists of, and how well repeats predict each other."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.kept import Figures, rows_of
from benchmarks.accuracy.repeats import Run, dated_runs, differences, of_other_days, of_other_versions, runs_of
from benchmarks.accuracy.software import by_other_splits, without_factors
from tokenworks.calibrate.frontier import SPEEDS, Frontier, frontier, usable, workload_of
from tokenworks.calibrate.measured import Point, read_points
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.score import Pair, kind
from tokenworks.specs.calibration import load_calibration

SOFTWARE = ("device", "engine", "model", "mode", "mtp")
"""What the points of one software stack have in common."""

KEYS: dict[str, Callable[[Point], Any]] = {
    "device": lambda point: point.device,
    "engine": lambda point: point.engine,
    "model": lambda point: (point.model, point.weights),
    "mode": lambda point: point.mode,
    "mtp": lambda point: point.mtp,
    "lengths": lambda point: (round(point.nominal_isl), round(point.osl)),
    "split": lambda point: point.split,
}

WITHOUT: dict[str, tuple[str, ...]] = {
    "device": ("device",),
    "model": ("model",),
    "engine": ("engine",),
    "device and engine": ("device", "engine"),
    "device and model": ("device", "model"),
    "software stack": SOFTWARE,
    "software stack and lengths": (*SOFTWARE, "lengths"),
    "software stack and split": (*SOFTWARE, "split"),
}
"""Groups whose median error is taken out of the predictions, one after the other."""

PARTS: dict[str, Callable[[Point], bool]] = {
    "without starved points": lambda point: not (point.mode == "disagg" and point.starved),
    "aggregated points only": lambda point: point.mode == "agg",
    "without MTP": lambda point: point.mtp == "none",
    "points of InferenceX only": lambda point: point.group == "inferencex-dump",
    "without DeepSeek-V4-Pro": lambda point: "DeepSeek-V4" not in point.model,
}

KINDS = ("", "agg none", "agg mtp", "disagg none", "disagg mtp")
"""Kinds of points whose TPOT is scored with and without factors of software stacks; "": all points."""

SHOWN, FEW = 15, 5
"""Software stacks that the page lists, and the number of points from which one counts [count]."""

ERRORS, DRAWS = (0.05, 0.1, 0.15), 20
"""Standard deviations of invented errors of TPOT, as logarithms [-], and the number of draws of each."""


def limits(data: Path, rows: Sequence[dict[str, str]]) -> Figures:
    """What the error of the frontier consists of, and how well repeated measurements predict each other.

    Parameters
    ----------
    data : file of the measured points
    rows : the row of `validate --out` for each point
    """
    pairs = [pair for pair in map(_pair, read_points(data).points, rows) if usable(pair)]
    path, calibration = dated_runs(), load_calibration()
    plain = without_factors(pairs, calibration)
    left = by_other_splits(plain, calibration)
    return {
        "as_predicted": scored(pairs),
        "without_factors": scored(plain),
        "by_other_splits": scored(left),
        "kinds": {name: [_by_kind(one, name) for one in (plain, left, pairs)] for name in KINDS},
        "true_tpot": scored([_true_tpot(pair) for pair in pairs]),
        "without": {title: scored(_without(pairs, names)) for title, names in WITHOUT.items()},
        "only_software": scored(_only(pairs, SOFTWARE)),
        "stacks": _stacks(pairs),
        "parts": {name: scored([pair for pair in pairs if part(pair[0])]) for name, part in PARTS.items()},
        "invented": {str(error): _invented(pairs, error) for error in ERRORS},
        "at_measured_points": _at_measured(pairs),
        "choice": _choice(pairs),
        "repeats": _repeats(pairs, runs_of(rows_of(data), path)) if path else None,
    }


def _by_kind(pairs: Sequence[Pair], name: str) -> float:
    """Median error of TPOT of the points of a kind [-]."""
    return float(np.median([abs(math.expm1(_logs(pair)[0])) for pair in pairs if name in ("", kind(pair[0]))]))


def _pair(point: Point, row: dict[str, str]) -> Pair:
    """A point with its prediction, from the row of `validate --out`."""
    tpot, rate = row["tpot_ms_predicted"], row["tok_s_per_device_predicted"]
    return point, Predicted(tpot=1e-3 * float(tpot) if tpot else None, rate=float(rate) if rate else None)


def scored(pairs: Sequence[Pair]) -> Figures | None:
    """Errors of the frontier and of the ratio of two machines; None without a frontier."""
    plain = frontier(pairs)
    whole, ratio = plain["tok_s_per_device"], plain["ratio"]["all"]
    if not whole:
        return None
    told: Figures = {"n": whole["n"], "median_ape": whole["median_ape"], "bias": whole["bias"]}
    return told | {"ratios": ratio["n"] if ratio else 0, "ratio_median_ape": ratio["median_ape"] if ratio else None}


# ── causes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _values(pair: Pair) -> tuple[float, float, float, float]:
    """Predicted TPOT and throughput, and measured TPOT and throughput, of a usable point [s, token/s per device]."""
    point, one = pair
    return _known(one.tpot), _known(one.rate), _known(point.measured.tpot), _known(point.measured.rate)


def _known(value: float | None) -> float:
    assert value is not None
    return value


def _true_tpot(pair: Pair) -> Pair:
    """The pair with the measured TPOT as prediction. The throughput of a closed loop is in inverse proportion to it."""
    tpot, rate, true, _ = _values(pair)
    return pair[0], replace(pair[1], tpot=true, rate=rate * tpot / true)


def _logs(pair: Pair) -> tuple[float, float]:
    """log(predicted / measured) of TPOT and of throughput [-]."""
    tpot, rate, true_tpot, true_rate = _values(pair)
    return math.log(tpot / true_tpot), math.log(rate / true_rate)


def _moved(pair: Pair, by_tpot: float, by_rate: float) -> Pair:
    """The pair with its predictions multiplied by exp(by_tpot) and exp(by_rate)."""
    tpot, rate, _, _ = _values(pair)
    return pair[0], replace(pair[1], tpot=tpot * math.exp(by_tpot), rate=rate * math.exp(by_rate))


def _exact(pair: Pair) -> Pair:
    """The pair with its measured values as prediction."""
    point, one = pair
    return point, replace(one, tpot=point.measured.tpot, rate=point.measured.rate)


def _medians(pairs: Sequence[Pair], names: Sequence[str]) -> list[tuple[float, float]]:
    """For each pair the median errors of its group, as logarithms [-]."""
    keys = [tuple(KEYS[name](point) for name in names) for point, _ in pairs]
    groups: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for key, pair in zip(keys, pairs, strict=True):
        groups[key].append(_logs(pair))
    medians = {key: np.median(np.array(members), axis=0) for key, members in groups.items()}
    return [(float(medians[key][0]), float(medians[key][1])) for key in keys]


def _without(pairs: Sequence[Pair], names: Sequence[str]) -> list[Pair]:
    moves = _medians(pairs, names)
    return [_moved(pair, -tpot, -rate) for pair, (tpot, rate) in zip(pairs, moves, strict=True)]


def _only(pairs: Sequence[Pair], names: Sequence[str]) -> list[Pair]:
    moves = _medians(pairs, names)
    return [_moved(_exact(pair), tpot, rate) for pair, (tpot, rate) in zip(pairs, moves, strict=True)]


def _stacks(pairs: Sequence[Pair]) -> list[Figures]:
    """The software stacks that move the errors most: number of points x |log of the median ratio|, largest first."""
    groups: dict[Any, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[tuple(KEYS[name](pair[0]) for name in SOFTWARE)].append(pair)
    told: list[Figures] = []
    for (device, engine, (model, weights), mode, mtp), members in groups.items():
        off = np.array([_logs(pair)[0] for pair in members])
        told.append({"stack": f"{device}, {engine}, {model} {weights}", "kind": f"{mode} {mtp}", "n": len(members),
                     "bias": float(np.expm1(np.median(off))),
                     "median_ape": float(np.median(np.abs(np.expm1(off))))})  # fmt: skip
    large = [one for one in told if one["n"] >= FEW]
    return sorted(large, key=lambda one: (-one["n"] * abs(math.log1p(one["bias"])), one["stack"], one["kind"]))[:SHOWN]


def _invented(pairs: Sequence[Pair], error: float) -> Figures:
    """Errors of frontiers if the only error is one random factor on TPOT for each software stack: mean of the draws."""
    keys = [tuple(KEYS[name](point) for name in SOFTWARE) for point, _ in pairs]
    stacks = sorted(set(keys), key=str)
    draws = []
    for seed in range(DRAWS):
        drawn = dict(zip(stacks, np.random.default_rng(seed).normal(0.0, error, len(stacks)), strict=True))
        moved = [_moved(_exact(pair), drawn[key], -drawn[key]) for pair, key in zip(pairs, keys, strict=True)]
        draws.append(scored(moved))
    return {name: float(np.mean([one[name] for one in draws if one])) for name in ("median_ape", "ratio_median_ape")}


def _machines(pairs: Iterable[Pair]) -> list[list[Pair]]:
    groups: dict[Any, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[workload_of(pair[0]), pair[0].device].append(pair)
    return [groups[key] for key in sorted(groups)]


def _frontiers(pairs: Sequence[Pair]) -> tuple[Frontier, Frontier]:
    """The measured and the predicted frontier of a machine."""
    tpot, rate, true_tpot, true_rate = np.array([_values(pair) for pair in pairs]).T
    return Frontier.of(list(1 / true_tpot), list(true_rate)), Frontier.of(list(1 / tpot), list(rate))


def _at_measured(pairs: Sequence[Pair]) -> Figures:
    """Errors at the speeds of the measured Pareto points: there, no measured throughput is interpolated."""
    off = []
    for members in _machines(pairs):
        seen, ours = _frontiers(members)
        values = [(ours.at(float(speed)), rate) for speed, rate in zip(seen.speeds, seen.rates, strict=True)]
        off += [abs(value / rate - 1) for value, rate in values if value]
    return {"n": len(off), "median_ape": float(np.median(off))}


def _choice(pairs: Sequence[Pair]) -> Figures:
    """Whether the predicted frontier is held by the engine and the split that hold the measured one.

    `lost` is what the predicted choice gives, measured, below the highest measured throughput.
    """
    same_engine, same_split, lost = [], [], []
    for members in _machines(pairs):
        options: dict[Any, list[Pair]] = defaultdict(list)
        for point, prediction in members:
            key = point.engine, KEYS["split"](point), point.weights
            options[key].append((point, prediction))
        curves = {key: _frontiers(part) for key, part in options.items()}
        for speed in SPEEDS:
            both = {key: (seen.at(speed), ours.at(speed)) for key, (seen, ours) in curves.items()}
            known = {key: (seen, ours) for key, (seen, ours) in both.items() if seen and ours}
            if len(known) < 2:
                continue
            best = max(known, key=lambda key: known[key][0])
            chosen = max(known, key=lambda key: known[key][1])
            same_engine.append(best[0] == chosen[0])
            same_split.append(best == chosen)
            lost.append(1 - known[chosen][0] / known[best][0])
    return {"n": len(lost), "same_engine": float(np.mean(same_engine)), "same_split": float(np.mean(same_split)),
            "lost_median": float(np.median(lost)), "lost_mean": float(np.mean(lost)),
            "lost_p90": float(np.quantile(lost, 0.9))}  # fmt: skip


# ── repeats ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _repeats(pairs: Sequence[Pair], runs: dict[str, list[Run]]) -> Figures:
    """How well one run of a configuration predicts another one, scored as our predictions are."""
    again = [(pair, runs[pair[0].id]) for pair in pairs if pair[0].id in runs]
    first = [(pair, min(own)) for pair, own in again]
    days = [(pair, (min(own), max(own))) for pair, own in again if min(own).day != max(own).day]
    once = [abs(math.log(run.tpot / _values(pair)[2])) for pair, run in first]
    return {
        "points": len(again),
        "table": _spread(once),
        "table_frontier": scored([_by(pair, run.tpot) for pair, run in first]),
        "table_ours": scored([pair for pair, _ in first]),
        "days": _spread(differences((own for _, own in again), of_other_days)),
        "versions": _spread(differences((own for _, own in again), of_other_versions)),
        "days_frontier": scored([_by(_as_measured(pair, old.tpot), new.tpot) for pair, (old, new) in days]),
        "days_ours": scored([_as_measured(pair, old.tpot) for pair, (old, _) in days]),
    }


def _spread(logs: Sequence[float]) -> Figures | None:
    """Number of pairs, and median and mean of the difference of TPOT; None without pairs."""
    off = np.expm1(np.array(logs))
    return {"n": len(logs), "median": float(np.median(off)), "mean": float(np.mean(off))} if logs else None


def _by(pair: Pair, tpot: float) -> Pair:
    """The pair with another run as its prediction."""
    _, _, true, rate = _values(pair)
    return pair[0], replace(pair[1], tpot=tpot, rate=rate * true / tpot)


def _as_measured(pair: Pair, tpot: float) -> Pair:
    """The pair with another run as its measured value."""
    point, prediction = pair
    _, _, true, rate = _values(pair)
    return replace(point, measured=replace(point.measured, tpot=tpot, rate=rate * true / tpot)), prediction
