"""Curves of throughput against speed per user: what they say between simulated points, and where two of them cross."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.planning.result import FrontPoint

STEPS = 400
"""Speeds between the slowest and the fastest point at which curves are compared [count]."""


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
    axis : what changes: output_tok_s_per_user, context or reuse
    low, high : the winner changes between these values; equal if the crossing is exact
    below, above : the winner at lower and at higher values; None: no machine has a value
    """

    axis: str
    low: float
    high: float
    below: str | None
    above: str | None


def crossings(curves: Mapping[str, Curve]) -> tuple[Crossover, ...]:
    """The speeds per user at which another machine gets the highest throughput, slowest first.

    Parameters
    ----------
    curves : machine -> curve
    """
    every = np.concatenate([curve.speed for curve in curves.values()]) if curves else np.zeros(0)
    if not len(every):
        return ()
    speeds = np.unique(np.concatenate([np.geomspace(every.min(), every.max(), STEPS), every]))
    winners = _winners(curves, speeds)
    found = []
    for i in np.flatnonzero(winners[1:] != winners[:-1]):
        low, high = float(speeds[i]), float(speeds[i + 1])
        for _ in range(40):
            middle = (low * high) ** 0.5
            if _winners(curves, np.array([middle]))[0] == winners[i]:
                low = middle
            else:
                high = middle
        names = [*curves, None]
        found.append(Crossover("output_tok_s_per_user", low, high, names[winners[i]], names[winners[i + 1]]))
    return tuple(found)


def _winners(curves: Mapping[str, Curve], speeds: Floats) -> Floats:
    """Index of the machine with the highest throughput at each speed; -1 where none is so fast."""
    outputs = np.array([curve.at(speeds) for curve in curves.values()])
    best = outputs.argmax(axis=0)
    return np.where(outputs.max(axis=0) > 0, best, -1)
