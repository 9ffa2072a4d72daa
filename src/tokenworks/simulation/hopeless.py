"""Whether an endless run that still goes on misses its SLO, whatever comes."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from tokenworks.arrays import Ints
from tokenworks.engine.simulator import Simulator
from tokenworks.simulation.measured import Promises


class Hopeless:
    """Tells of a run whether a bound of its SLO is missed already.

    The values of a bound belong to the requests that complete in the measured window, and to those that wait at its
    end. They are n at most: the requests that are sent until the window ends, without those that ended before it
    began. With percentile p, the bound is missed if L of the values are beyond it, with

        L > n - floor((n - 1) p / 100)

    The right side does not fall when n grows. So if the requests that have completed so far are late often enough for
    the largest n, then the bound is missed now and at the end of the window.

    Parameters
    ----------
    promises : SLO of each request
    """

    def __init__(self, promises: Promises) -> None:
        slos = promises.slos
        self._class_of = promises.class_of
        self._bounds = [(slo.ttft, slo.tpot) for slo in slos]
        self._ttft_s, self._tpot_s = (
            np.array([bound.value if bound else math.inf for bound in bounds])
            for bounds in zip(*self._bounds, strict=True)
        )

    def __call__(self, simulator: Simulator, start_s: float, last: int) -> bool:
        """Whether the run misses its SLO.

        Parameters
        ----------
        simulator : the run, in its measured window
        start_s : time at which the window began [s]
        last : requests that are sent until the window ends [count]
        """
        gone, late = simulator.late(start_s, self._ttft_s, self._tpot_s)
        return any(
            bound is not None and count > most - math.floor((most - 1) * bound.percentile / 100)
            for bounds, counts, own in zip(self._bounds, late.tolist(), self._of_class.tolist(), strict=True)
            for most in (min(own, last - gone),)
            for bound, count in zip(bounds, counts, strict=True)
        )

    @cached_property
    def _of_class(self) -> Ints:
        """Requests of each class [count]."""
        return np.bincount(self._class_of, minlength=len(self._bounds))
