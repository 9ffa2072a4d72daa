"""Curves of throughput against speed per user: what they say between simulated points, and where two of them cross."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.planning.result import FrontPoint


@dataclass(frozen=True, slots=True)
class Curve:
    """Throughput of one machine against the speed per user, fastest first.

    Between two points a curve is linear in the logarithms of both; it ends at its fastest point. Below the speed of its
    slowest point it keeps the throughput of this point.

    Parameters
    ----------
    speed : output tokens per second of a user [token/s]
    output : throughput in the unit of the comparison, such as output tokens per second and device
    """

    speed: Floats
    output: Floats

    @classmethod
    def of(cls, points: Sequence[FrontPoint], factor: float) -> Curve:
        """The curve of a Pareto front; `factor` turns output per device into the unit of the comparison."""
        speed = np.array([point.output_tok_s_per_user for point in points])
        return cls(speed, factor * np.array([point.output_tok_s_per_device for point in points]))

    def at(self, speed: Floats) -> Floats:
        """Throughput at speeds per user; 0 above the fastest point."""
        if not len(self.speed):
            return np.zeros(len(speed))
        low, high = np.log(self.speed[::-1]), np.log(self.output[::-1])
        between: Floats = np.exp(np.interp(np.log(speed), low, high))
        return np.where(speed > self.speed[0] * (1 + 1e-12), 0.0, between)


@dataclass(frozen=True, slots=True)
class Crossover:
    """A value of an axis at which the winner changes.

    Parameters
    ----------
    axis : what changes: output_tok_s_per_user, context, reuse, or the price of a machine
    low, high : the winner changes between these values; equal if the crossing is exact
    below, above : the winner at lower and at higher values; None: no machine has a value. With a price, the winner has
        the cheapest effective tokens
    """

    axis: str
    low: float
    high: float
    below: str | None
    above: str | None


def changes(axis: str, winners: Mapping[float, str | None]) -> Iterator[Crossover]:
    """Where the winner changes along an axis.

    Parameters
    ----------
    axis : what changes
    winners : value on the axis -> winner; None: no machine has a value
    """
    for (low, below), (high, above) in itertools.pairwise(sorted(winners.items())):
        if below != above:
            yield Crossover(axis, low, high, below, above)


def crossings(curves: Mapping[str, Curve]) -> tuple[Crossover, ...]:
    """The speeds per user at which another machine gets the highest throughput, slowest first.

    Between two neighbouring points of all curves, each curve is a line in logarithms, so each crossing is exact.

    Parameters
    ----------
    curves : machine -> curve
    """
    points = [curve.speed for curve in curves.values() if len(curve.speed)]
    if not points:
        return ()
    speeds = np.unique(np.concatenate(points))
    slowest = {name: float(curve.at(speeds[:1])[0]) for name, curve in curves.items()}
    leaders = [(float(speeds[0]), max(slowest, key=lambda name: slowest[name]))]
    for low, high in itertools.pairwise(speeds):
        leaders += _leaders(curves, float(low), float(high), leaders[-1][1])
    if len(leaders) > 1 and slowest[leaders[1][1]] >= slowest[leaders[0][1]] * (1 - 1e-12):
        leaders = leaders[1:]  # equal at the slowest speed: the one that wins above it leads from there on
    return tuple(
        Crossover("output_tok_s_per_user", speed, speed, below, above)
        for (_, below), (speed, above) in itertools.pairwise(leaders)
        if below != above
    )


def _leaders(curves: Mapping[str, Curve], low: float, high: float, before: str) -> Iterator[tuple[float, str]]:
    """Machines with the highest throughput between two speeds, each with the speed that it leads from.

    Parameters
    ----------
    curves : machine -> curve; no curve has a point between the two speeds
    low, high : the two speeds [token/s]
    before : the machine that leads below `low`; of equal curves this one keeps the lead
    """
    lines: dict[str, tuple[float, float]] = {}
    for name, curve in curves.items():
        if len(curve.speed) and curve.speed[0] >= high:
            start, end = np.log(curve.at(np.array([low, high])))
            lines[name] = (float(start), float(end - start))
    at, leader = (
        0.0,
        max(lines, key=lambda name: (round(lines[name][0], 12), round(lines[name][1], 12), name == before)),
    )
    while True:
        yield low * (high / low) ** at, leader
        start, slope = lines[leader]
        meets = {
            name: max((start - other) / (rise - slope), at)
            for name, (other, rise) in lines.items()
            if rise > slope + 1e-12
        }
        reached = {name: place for name, place in meets.items() if place < 1 - 1e-9}
        if not reached:
            return
        at = min(reached.values())
        leader = max((name for name in reached if reached[name] <= at + 1e-12), key=lambda name: lines[name][1])
