"""The cost of an engine step by part: seconds, FLOP, bytes, and the roof that binds each part."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import FloatArray

COMPUTE, HBM, LATENCY, UP, OUT, HOST = "compute", "hbm", "latency", "scale-up", "scale-out", "host"


@dataclass(frozen=True, slots=True)
class Kernel:
    """The cost of one kernel or one collective on the most loaded device.

    Parameters
    ----------
    seconds : time [s]
    flop : work [FLOP]
    bytes : traffic of device memory; for a collective, bytes that the device sends [byte]
    roofs : name of a roof -> time that this roof alone would take [s]; the largest time binds
    """

    seconds: FloatArray
    flop: FloatArray
    bytes: FloatArray
    roofs: Mapping[str, FloatArray]

    def bound(self) -> NDArray[np.str_]:
        """Name of the roof that binds, for each element: compute, hbm, latency, scale-up, scale-out or host."""
        return _largest(self.roofs)


@dataclass(frozen=True, slots=True)
class Sum:
    """Parts that run one after the other.

    Only `seconds` is computed at once, because a search needs nothing else. FLOP, bytes and roofs are computed when
    they are read.

    Parameters
    ----------
    seconds : time of all terms [s]
    terms : pairs of a part and the number of times that it runs
    """

    seconds: FloatArray
    terms: tuple[tuple[Kernel | Sum, FloatArray], ...]

    @property
    def flop(self) -> FloatArray:
        """Work of all terms [FLOP]."""
        return sum(part.flop * factor for part, factor in self.terms)

    @property
    def bytes(self) -> FloatArray:
        """Bytes of all terms [byte]."""
        return sum(part.bytes * factor for part, factor in self.terms)

    @property
    def roofs(self) -> Mapping[str, FloatArray]:
        """Time of all terms on each roof [s]."""
        by_roof: dict[str, FloatArray] = {}
        for part, factor in self.terms:
            for roof, seconds in part.roofs.items():
                by_roof[roof] = by_roof.get(roof, 0.0) + seconds * factor
        return by_roof

    def bound(self) -> NDArray[np.str_]:
        """Name of the roof that binds, for each element: compute, hbm, latency, scale-up, scale-out or host."""
        return _largest(self.roofs)


PartTime: TypeAlias = Kernel | Sum
Parts: TypeAlias = dict[str, PartTime]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The cost of one step of an instance.

    Parameters
    ----------
    parts : name of a part -> its cost
    seconds : time of one pass with overlap, at most the sum of the parts [s]
    """

    parts: Parts
    seconds: FloatArray

    @property
    def flop(self) -> FloatArray:
        """Work of all parts on one device [FLOP]."""
        return sum((part.flop for part in self.parts.values()), 0.0)

    def slowed(self, factor: FloatArray) -> Breakdown:
        """The step with every part longer by a factor; work, traffic and roofs stay.

        Parameters
        ----------
        factor : new time / time now [-]
        """
        parts: Parts = {name: Sum(part.seconds * factor, ((part, 1),)) for name, part in self.parts.items()}
        return Breakdown(parts, self.seconds * factor)

    def bound(self) -> NDArray[np.str_]:
        """Name of the roof that binds parts of the largest total time, for each element."""
        spent: dict[str, FloatArray] = {}
        for part in self.parts.values():
            names = part.bound()
            for roof in part.roofs:
                spent[roof] = spent.get(roof, 0.0) + part.seconds * (names == roof)
        return _largest(spent)


def plus(*parts: PartTime) -> Sum:
    """The cost of several parts that run one after the other.

    Parameters
    ----------
    parts : costs of the single parts

    Returns
    -------
    Their sum: seconds, FLOP, bytes and roofs add up.
    """
    return Sum(_sum([part.seconds for part in parts]), tuple((part, 1) for part in parts))


def times(part: PartTime, factor: FloatArray) -> Sum:
    """The cost of a part that runs several times.

    Parameters
    ----------
    part : cost of one run
    factor : number of runs [count]

    Returns
    -------
    The cost of all runs.
    """
    return Sum(part.seconds * factor, ((part, factor),))


def _sum(values: Sequence[FloatArray]) -> FloatArray:
    return functools.reduce(operator.add, values)  # the built-in sum() would first add 0 to the first array


def total(parts: Parts) -> FloatArray:
    """Time of all parts without overlap.

    Parameters
    ----------
    parts : name of a part -> its cost

    Returns
    -------
    Sum of the times [s].
    """
    return _sum([part.seconds for part in parts.values()])


def _largest(roofs: Mapping[str, FloatArray]) -> NDArray[np.str_]:
    names = np.array(list(roofs))
    largest: NDArray[np.str_] = names[np.argmax(np.stack(np.broadcast_arrays(*roofs.values())), axis=0)]
    return largest
