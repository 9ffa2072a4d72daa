"""The best throughput at a speed per user, interpolated between predicted points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from tokenworks.calibrate.predict import Predicted


@dataclass(frozen=True, slots=True)
class Front:
    """Points of which no other one is faster per user and has more throughput, slowest first.

    Parameters
    ----------
    speeds : 1 / TPOT [token/s per user]
    rates : throughput [token/s per device]
    spreads : interval factor of throughput at a given speed [-]
    """

    speeds: tuple[float, ...]
    rates: tuple[float, ...]
    spreads: tuple[float, ...]

    @classmethod
    def of(cls, points: Sequence[Predicted]) -> Front:
        """The front of predicted points.

        Parameters
        ----------
        points : predictions with TPOT and throughput
        """
        known = [(1 / one.tpot, one.rate, one.frontier_spread) for one in points if one.tpot and one.rate]
        best: list[tuple[float, float, float]] = []
        for one in sorted(known, reverse=True):
            if not best or one[1] > best[-1][1]:
                best.append(one)
        speeds, rates, spreads = zip(*reversed(best), strict=True)
        return cls(speeds, rates, spreads)

    def at(self, speed: float) -> tuple[float, float] | None:
        """Throughput at a speed, and its interval factor, that of the nearest point; None beyond the front.

        Parameters
        ----------
        speed : speed at which throughput is wanted [token/s per user]
        """
        if not self.speeds[0] <= speed <= self.speeds[-1]:
            return None
        nearest = int(np.argmin(np.abs(np.array(self.speeds) - speed)))
        return float(PchipInterpolator(self.speeds, self.rates)(speed)), self.spreads[nearest]
