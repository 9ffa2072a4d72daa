"""What a step costs, part by part: seconds, FLOP, bytes, and the roof that binds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokenworks.costs.arrays import FloatArray

COMPUTE, HBM, LATENCY, UP, OUT, HOST = "compute", "hbm", "latency", "scale-up", "scale-out", "host"


@dataclass(frozen=True, slots=True)
class PartTime:
    """One part of a step on the most loaded device, over all layers.

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
        spent: dict[str, Any] = {}
        for part in self.parts.values():
            names = part.bound()
            for roof in part.roofs:
                spent[roof] = spent.get(roof, 0.0) + part.seconds * (names == roof)
        return _largest(spent)


def plus(*parts: PartTime) -> PartTime:
    """One part after the other."""
    roofs: dict[str, FloatArray] = {}
    for part in parts:
        for roof, seconds in part.roofs.items():
            roofs[roof] = roofs.get(roof, 0.0) + seconds
    return PartTime(
        sum((part.seconds for part in parts), 0.0),
        sum((part.flop for part in parts), 0.0),
        sum((part.bytes for part in parts), 0.0),
        roofs,
    )


def times(part: PartTime, factor: FloatArray) -> PartTime:
    """A part that runs `factor` times."""
    roofs = {roof: seconds * factor for roof, seconds in part.roofs.items()}
    return PartTime(part.seconds * factor, part.flop * factor, part.bytes * factor, roofs)


def total(parts: Parts) -> FloatArray:
    """All parts one after the other [s]."""
    return sum((part.seconds for part in parts.values()), 0.0)


def _largest(roofs: Mapping[str, FloatArray]) -> NDArray[np.str_]:
    names = np.array(list(roofs))
    found: NDArray[np.str_] = names[np.argmax(np.stack(np.broadcast_arrays(*roofs.values())), axis=0)]
    return found
