"""The points of a sweep: axes with their values, all combinations of them, and the Latin hypercube."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import PCG64, Generator

from tokenworks.arrays import Floats
from tokenworks.errors import SpecError
from tokenworks.ledger.sweep_file import (
    MOST_POINTS,
    LatinHypercube,
    ListAxis,
    RangeAxis,
    Scale,
    SweepFile,
    TogetherAxis,
    Value,
)
from tokenworks.ledger.sweep_paths import SweptPath

DIGITS = 12
"""Significant digits of the values of a range, so that 0.1 + 0.2 is 0.3 [count]."""

LATIN = "latin"
"""Name of the axis that the Latin hypercube makes."""


@dataclass(frozen=True)
class SweepAxis:
    """One axis: its paths take the values of a level at the same time.

    Parameters
    ----------
    name : name of the axis: its path, or a name that the user gave to several paths
    paths : paths that change along the axis
    levels : values of the paths at each level; numbers are in SI units
    scale : scale in charts, and for the knee
    """

    name: str
    paths: tuple[SweptPath, ...]
    levels: tuple[tuple[Value, ...], ...]
    scale: Scale = "linear"


@dataclass(frozen=True)
class SweepDesign:
    """All points of a sweep: the combinations of the levels of all axes. The last axis changes fastest.

    Parameters
    ----------
    axes : the axes; a Latin hypercube is one axis with a level per sample
    """

    axes: tuple[SweepAxis, ...]

    def __len__(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of levels of each axis."""
        return tuple(len(axis.levels) for axis in self.axes)

    @cached_property
    def paths(self) -> dict[str, SweptPath]:
        """All paths, by their text."""
        return {one.path: one for axis in self.axes for one in axis.paths}

    @property
    def sampled(self) -> bool:
        """Whether a Latin hypercube chooses values."""
        return any(axis.name == LATIN for axis in self.axes)

    def at(self, number: int) -> dict[str, Value]:
        """The values of all paths at a point.

        Parameters
        ----------
        number : number of the point, from 0 on
        """
        places = np.unravel_index(number, self.shape)
        values: dict[str, Value] = {}
        for axis, place in zip(self.axes, places, strict=True):
            values |= zip((one.path for one in axis.paths), axis.levels[int(place)], strict=True)
        return values


def design_of(file: SweepFile, paths: dict[str, SweptPath], where: str) -> SweepDesign:
    """The points of a sweep.

    Parameters
    ----------
    file : the sweep
    paths : the swept paths, by their text
    where : file of the sweep, for messages

    Raises
    ------
    SpecError : a value that cannot be read, a range without a sample, or too many points
    """
    axes: list[SweepAxis] = []
    sampled: dict[str, RangeAxis] = {}
    for name, form in file.over.items():
        place = f"{where}: over.{name}"
        match form:
            case RangeAxis(steps=None):
                if file.latin is None:
                    hint = "add steps: N to the range, or `latin: {points: N, seed: 0}` to the file"
                    raise SpecError("has neither steps nor a sample", where=place, hint=hint)
                sampled[name] = form
            case RangeAxis():
                levels = tuple((value,) for value in _spaced(form, paths[name], place))
                axes.append(SweepAxis(name, (paths[name],), levels, form.scale))
            case TogetherAxis():
                axes.append(_together(name, form, paths, place))
            case _:
                values, scale = (form.values, form.scale) if isinstance(form, ListAxis) else (form, "linear")
                levels = tuple((paths[name].read(value, place),) for value in values)
                _must_differ(levels, place)
                axes.append(SweepAxis(name, (paths[name],), levels, scale))
    if file.latin is not None:
        if not sampled:
            hint = "leave the steps of a range out, so that the sample chooses its values"
            raise SpecError("there is no range to sample", where=f"{where}: latin", hint=hint)
        axes.insert(0, _latin(file.latin, sampled, paths, where))
    design = SweepDesign(tuple(axes))
    if len(design) > MOST_POINTS:
        hint = f"a sweep has at most {MOST_POINTS:,} points: sweep fewer values, or take a Latin hypercube"
        raise SpecError(f"{len(design):,} points", where=f"{where}: over", hint=hint)
    return design


def _together(name: str, form: TogetherAxis, paths: dict[str, SweptPath], where: str) -> SweepAxis:
    """The axis of several paths that change at the same time."""
    counts = {path: len(values) for path, values in form.together.items()}
    if len(set(counts.values())) > 1:
        words = ", ".join(f"{path} has {count}" for path, count in counts.items())
        raise SpecError(f"lists of different lengths: {words}", where=where, hint="give each path one value a level")
    columns = [
        [paths[path].read(value, f"{where}.{path}") for value in values] for path, values in form.together.items()
    ]
    levels = tuple(zip(*columns, strict=True))
    if not levels:
        raise SpecError("has no values", where=where, hint="give each path one value a level")
    _must_differ(levels, where)
    return SweepAxis(name, tuple(paths[path] for path in form.together), levels, form.scale)


def _must_differ(levels: tuple[tuple[Value, ...], ...], where: str) -> None:
    """Refuse a level that the list holds twice."""
    seen: set[tuple[tuple[type, Value], ...]] = set()
    for level in levels:
        key = tuple((type(value), value) for value in level)
        if key in seen:
            words = ", ".join(map(str, level))
            raise SpecError(f"{words} stands there twice", where=where, hint="write each value once")
        seen.add(key)


def _bounds(form: RangeAxis, path: SweptPath, where: str) -> tuple[float, float]:
    """The two bounds of a range, in SI units."""
    low, high = path.read(form.from_, f"{where}.from"), path.read(form.to, f"{where}.to")
    for value in (low, high):
        if isinstance(value, (str, bool)):
            raise SpecError(f"{value!r} is a word", where=where, hint="a range needs numbers: list the words instead")
    assert not isinstance(low, str)
    assert not isinstance(high, str)
    if not low < high:
        raise SpecError(f"from {form.from_} to {form.to}", where=where, hint="write the lower value first")
    if form.scale == "log" and low <= 0:
        raise SpecError(f"a log scale cannot start at {form.from_}", where=where, hint="start above 0")
    return float(low), float(high)


def _spaced(form: RangeAxis, path: SweptPath, where: str) -> list[Value]:
    """The values of a range with steps; whole numbers where the path takes only those."""
    low, high = _bounds(form, path, where)
    assert form.steps is not None
    return list(dict.fromkeys(_stretched(np.linspace(0.0, 1.0, form.steps), low, high, form.scale, path)))


def _stretched(shares: Floats, low: float, high: float, scale: Scale, path: SweptPath) -> list[Value]:
    """Values at shares of a range [-]; whole numbers where the path takes only those."""
    values = low * (high / low) ** shares if scale == "log" else low + (high - low) * shares
    if path.whole:
        return [int(value) for value in np.clip(np.rint(values), low, high)]
    return [min(max(float(f"{value:.{DIGITS}g}"), low), high) for value in values]


def _latin(
    sample: LatinHypercube, ranges: dict[str, RangeAxis], paths: dict[str, SweptPath], where: str
) -> SweepAxis:  # fmt: skip
    """The axis of a Latin hypercube, with a level per sample."""
    random = Generator(PCG64(sample.seed))
    columns = []
    for name, form in ranges.items():
        low, high = _bounds(form, paths[name], f"{where}: over.{name}")
        columns.append(_stretched(strata(random, sample.points), low, high, form.scale, paths[name]))
    return SweepAxis(LATIN, tuple(paths[name] for name in ranges), tuple(zip(*columns, strict=True)))


def strata(random: Generator, points: int) -> Floats:
    """One column of a Latin hypercube: a random number in each of `points` equal parts of [0, 1), in random order [1].

    Parameters
    ----------
    random : stream of random numbers
    points : size of the sample [count]

    References
    ----------
    [1] McKay, Beckman and Conover, Technometrics 21(2), 1979.
    """
    shares: Floats = (random.permutation(points) + random.random(points)) / points
    return shares
