"""How to read a finished sweep: curves along an axis, their knees, and which input moves the result most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.errors import SpecError
from tokenworks.ledger.sweep_axes import LATIN, SweepAxis, SweepDesign
from tokenworks.ledger.sweep_file import Scale, SweepFile, Value
from tokenworks.specs.load import nearest
from tokenworks.specs.shown import Record

DEFAULT_Y = {
    "simulate": ("effective_tok_s_per_device", "output_tok_s_per_device"),
    "plan": ("effective_tok_s_per_device", "output_tok_s_per_device"),
    "estimate": ("decode_step_s", "prefill_step_s"),
}
"""Result columns that charts show if the user names none: the first one that is not zero at all points."""

STRAIGHT = 0.05
"""A curve whose points are nearer to its chord has no knee [share of the height of the curve]."""

LEAST_CURVE = 3
"""Fewest points of a curve with a knee [count]."""

METHODS = {
    "grid": "share of the variance of {y} that the mean at each value explains (first-order sensitivity index)",
    "latin": "squared standardised rank regression coefficient of {y} (SRRC)",
}
"""How inputs are ranked, in words."""


@dataclass(frozen=True, slots=True)
class SweepKnee:
    """The knee of a curve.

    Parameters
    ----------
    x, y : the point
    distance : distance of the point from the chord, with the curve scaled to a unit square; above the chord it is
        positive [-]
    """

    x: float
    y: float
    distance: float


@dataclass(frozen=True, slots=True)
class SweepCurve:
    """The result along one axis, while the other axes keep their values.

    Parameters
    ----------
    at : values of the other axes
    x : values of the axis, in ascending order
    y : results; points without a result are left out
    knee : the knee; None if there is none
    """

    at: dict[str, Value]
    x: tuple[float, ...]
    y: tuple[float, ...]
    knee: SweepKnee | None


@dataclass(frozen=True, slots=True)
class InputEffect:
    """How much an input moves the result.

    Parameters
    ----------
    path : the swept path, or the name of the axis
    share : share of the variance of the result that this input explains alone [-]
    direction : "rises" or "falls" with the input; "" for words
    """

    path: str
    share: float
    direction: str


def is_number(value: Value | None) -> bool:
    """Whether a value is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def curve_axis(file: SweepFile, design: SweepDesign, where: str) -> SweepAxis | None:
    """The axis of the curves: the one that the user names, else the first one with three numbers or more.

    Parameters
    ----------
    file, design : the sweep
    where : file of the sweep, for messages

    Raises
    ------
    SpecError : the named axis does not exist, or has words
    """
    axes = {axis.name: axis for axis in design.axes if axis.name != LATIN}
    good = [axis for axis in axes.values() if all(is_number(level[0]) for level in axis.levels)]
    if file.show.x is None:
        return next((axis for axis in good if len(axis.levels) >= LEAST_CURVE), good[0] if good else None)
    if file.show.x not in axes:
        near = nearest(file.show.x, list(axes)) or f"axes with values of their own: {', '.join(axes) or 'none'}"
        raise SpecError(f"{file.show.x} is not an axis of the sweep", where=f"{where}: show.x", hint=near)
    axis = axes[file.show.x]
    if axis not in good:
        raise SpecError(f"{axis.name} has words, not numbers", where=f"{where}: show.x", hint="name another axis")
    return axis


def curve_column(file: SweepFile, records: Sequence[Record], where: str) -> str:
    """The result column of the curves.

    Parameters
    ----------
    file : the sweep
    records : the records of all points
    where : file of the sweep, for messages

    Raises
    ------
    SpecError : no record has a number in this column
    """
    numbers = [name for name in records[0] if any(is_number(record[name]) for record in records)]
    wanted = [file.show.y] if file.show.y is not None else list(DEFAULT_Y[file.do])
    chosen = [name for name in wanted if name in numbers]
    if not chosen:
        name = wanted[0]
        hint = nearest(name, numbers) or f"columns with numbers: {', '.join(numbers)}"
        raise SpecError(f"no point has a number {name}", where=f"{where}: show.y", hint=hint)
    return next((name for name in chosen if any(record[name] for record in records)), chosen[0])


def curves_of(design: SweepDesign, records: Sequence[Record], axis: SweepAxis, y: str) -> tuple[SweepCurve, ...]:
    """The curves of a result along an axis: one for each combination of the values of the other axes.

    Parameters
    ----------
    design : the points
    records : the records of all points
    axis : the axis of the curves
    y : result column
    """
    x_path = axis.paths[0].path
    others = [one.path for other in design.axes if other is not axis for one in other.paths]
    groups: dict[tuple[Value, ...], list[tuple[float, float]]] = {}
    for record in records:
        points = groups.setdefault(tuple(record[path] for path in others), [])
        if is_number(record[y]):
            points.append((float(record[x_path]), float(record[y])))
    curves = []
    for at, points in groups.items():
        x, y_values = zip(*sorted(points), strict=True) if points else ((), ())
        curves.append(SweepCurve(dict(zip(others, at, strict=True)), x, y_values, knee_of(x, y_values, axis.scale)))
    return tuple(curves)


def knee_of(x: Sequence[float], y: Sequence[float], scale: Scale = "linear") -> SweepKnee | None:
    """The knee of a curve: the point with the largest vertical distance from the chord.

    The curve is scaled to a unit square, and the chord connects its first and its last point. In the unit square, the
    point with the largest vertical distance also has the largest perpendicular distance [1].

    Parameters
    ----------
    x : values in ascending order
    y : results
    scale : "log": distances on the x axis are ratios

    Returns
    -------
    The knee; None for a curve of fewer than `LEAST_CURVE` points, or nearer than `STRAIGHT` to its chord.

    References
    ----------
    [1] Satopaa et al., Finding a "Kneedle" in a Haystack, ICDCS Workshops 2011, section 3.
    """
    if len(x) < LEAST_CURVE or x[-1] <= x[0] or (scale == "log" and x[0] <= 0):
        return None
    across: Floats = np.log(np.asarray(x, float)) if scale == "log" else np.asarray(x, float)
    up: Floats = np.asarray(y, float)
    height = float(up.max() - up.min())
    if height <= 0:
        return None
    across = (across - across[0]) / (across[-1] - across[0])
    up = (up - up.min()) / height
    distance = up - (up[0] + (up[-1] - up[0]) * across)
    place = int(np.argmax(np.abs(distance)))
    if abs(distance[place]) < STRAIGHT:
        return None
    return SweepKnee(float(x[place]), float(y[place]), float(distance[place]))


# ── which input moves the result most ─────────────────────────────────────────────────────────────────────────────


def effects_of(design: SweepDesign, records: Sequence[Record], y: str) -> tuple[InputEffect, ...]:
    """The inputs of a sweep, the one that moves the result most first.

    In a grid, an input has the share of the variance that the means at its values explain: V[E(y|x)] / V[y], the
    first-order sensitivity index [1]. In a Latin hypercube, an input has the square of its coefficient in a linear
    regression of the ranks of y on the ranks of all numeric inputs, all of them standardised [2]. Words have no rank:
    beside a Latin hypercube, their share is that of their means of the ranks of y.

    Parameters
    ----------
    design : the points
    records : the records of all points; points without a result are left out
    y : result column

    References
    ----------
    [1] Saltelli et al., Global Sensitivity Analysis: The Primer, Wiley 2008, section 1.2.
    [2] Saltelli and Marivoet, Reliability Engineering and System Safety 28, 1990 (SRRC).
    """
    kept = [record for record in records if is_number(record[y])]
    if len(kept) < LEAST_CURVE:
        return ()
    result = np.array([float(record[y]) for record in kept])
    if result.max() == result.min():
        return ()
    inputs = {name: [record[path] for record in kept] for name, path in _inputs(design)}
    inputs = {name: values for name, values in inputs.items() if len(set(values)) > 1}
    by_number = {name: ranks(values) for name, values in inputs.items() if all(map(is_number, values))}
    rank = ranks(result.tolist())
    if design.sampled:
        shares = _regressed(by_number, rank)
        shares |= {name: _main_effect(values, rank) for name, values in inputs.items() if name not in by_number}
    else:
        shares = {name: _main_effect(values, result) for name, values in inputs.items()}
    effects = []
    for name, share in shares.items():
        slope = float(np.corrcoef(by_number[name], rank)[0, 1]) if name in by_number else 0.0
        effects.append(InputEffect(name, share, "rises" if slope > 0 else "falls" if slope < 0 else ""))
    return tuple(sorted(effects, key=lambda effect: -effect.share))


def _inputs(design: SweepDesign) -> list[tuple[str, str]]:
    """Name of each input, and the path whose values stand for it. Paths that change together are one input."""
    pairs: list[tuple[str, str]] = []
    for axis in design.axes:
        names = [one.path for one in axis.paths] if axis.name == LATIN else [axis.name]
        pairs += zip(names, (one.path for one in axis.paths), strict=False)
    return pairs


def _main_effect(inputs: Sequence[Value], result: Floats) -> float:
    """Share of the variance of a result that its means at the values of an input explain [-]."""
    _, places = np.unique(np.array([repr(value) for value in inputs]), return_inverse=True)
    counts = np.bincount(places)
    means = np.bincount(places, result) / counts
    centre = result.mean()
    return float((counts * (means - centre) ** 2).sum() / ((result - centre) ** 2).sum())


def _regressed(columns: dict[str, Floats], rank: Floats) -> dict[str, float]:
    """Squared standardised coefficients of a linear regression of ranks on ranks; none with too few points."""
    if not columns or len(rank) <= len(columns) + 1:
        return {}
    matrix = np.stack([_standard(values) for values in columns.values()], axis=1)
    coefficients = np.linalg.lstsq(matrix, _standard(rank), rcond=None)[0]
    return {name: float(value) ** 2 for name, value in zip(columns, coefficients, strict=True)}


def _standard(values: Floats) -> Floats:
    standard: Floats = (values - values.mean()) / values.std()
    return standard


def ranks(values: Sequence[float]) -> Floats:
    """Ranks of numbers from 1 on; equal numbers have the mean of their ranks."""
    _, places, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = ends - (counts - 1) / 2
    return means[places]
