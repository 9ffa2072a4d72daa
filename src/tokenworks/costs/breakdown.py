"""What a step costs, part by part: seconds, FLOP, bytes, and the roof that binds."""

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
    """A part of a step by itself, on the most loaded device: one kernel or collective.

    seconds : [s]; flop : [FLOP]; bytes : of device memory, or sent, for a collective [byte]
    roofs : time on each roof by itself [s]; the largest binds
    """

    seconds: FloatArray
    flop: FloatArray
    bytes: FloatArray
    roofs: Mapping[str, FloatArray]

    def bound(self) -> NDArray[np.str_]:
        """Name of the roof that binds, elementwise: compute, hbm, latency, scale-up, scale-out or host."""
        return _largest(self.roofs)


@dataclass(frozen=True, slots=True)
class Sum:
    """Parts that run one after the other, each so many times. A search asks for `seconds` alone, so the rest waits."""

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
        found: dict[str, FloatArray] = {}
        for part, factor in self.terms:
            for roof, seconds in part.roofs.items():
                found[roof] = found.get(roof, 0.0) + seconds * factor
        return found

    def bound(self) -> NDArray[np.str_]:
        """Name of the roof that binds, elementwise: compute, hbm, latency, scale-up, scale-out or host."""
        return _largest(self.roofs)


PartTime: TypeAlias = Kernel | Sum
Parts: TypeAlias = dict[str, PartTime]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A step of an instance.

    parts : by name; seconds : one pass, overlap applied [s]: at most the sum of the parts
    """

    parts: Parts
    seconds: FloatArray

    @property
    def flop(self) -> FloatArray:
        """All parts [FLOP], of one device."""
        return sum((part.flop for part in self.parts.values()), 0.0)

    def bound(self) -> NDArray[np.str_]:
        """What binds the step, elementwise: the roof under which most seconds were spent."""
        spent: dict[str, FloatArray] = {}
        for part in self.parts.values():
            names = part.bound()
            for roof in part.roofs:
                spent[roof] = spent.get(roof, 0.0) + part.seconds * (names == roof)
        return _largest(spent)


def plus(*parts: PartTime) -> Sum:
    """One part after the other."""
    return Sum(_sum([part.seconds for part in parts]), tuple((part, 1) for part in parts))


def times(part: PartTime, factor: FloatArray) -> Sum:
    """A part that runs `factor` times."""
    return Sum(part.seconds * factor, ((part, factor),))


def _sum(values: Sequence[FloatArray]) -> FloatArray:
    return functools.reduce(operator.add, values)  # sum() would begin with 0 + the first array


def total(parts: Parts) -> FloatArray:
    """All parts one after the other [s]."""
    return _sum([part.seconds for part in parts.values()])


def _largest(roofs: Mapping[str, FloatArray]) -> NDArray[np.str_]:
    names = np.array(list(roofs))
    found: NDArray[np.str_] = names[np.argmax(np.stack(np.broadcast_arrays(*roofs.values())), axis=0)]
    return found
