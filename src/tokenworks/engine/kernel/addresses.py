"""The arrays of `state.EngineState` as compiled code takes them: one table of their addresses and shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenworks.engine.state import (
    CHANGE,
    COST,
    EVENT,
    HALT,
    INSTANCE,
    LINK,
    LOSS,
    NODE,
    OUTSIDE,
    POOL,
    RANK,
    REQUEST,
    WORLD,
    EngineState,
)
from tokenworks.engine.tier_state import CELL, ERRAND, EXTENT, FLOW, GROUP, LANE, PRIORITY, RUN, STORE, TIER

_F8, _I1, _I4, _I8, _U8 = (np.dtype(name) for name in ("f8", "i1", "i4", "i8", "u8"))
ITEMS: dict[str, np.dtype[Any]] = {
    "request": REQUEST, "rank": RANK, "instance": INSTANCE, "link": LINK, "pool": POOL, "world": WORLD,
    "halt": HALT, "loss": LOSS, "cost": COST,
    "by_tokens": _F8, "growth": _I4, "calendar": _I4, "node": NODE, "table": _I4, "ids": _I8, "offsets": _I8,
    "named": _I4, "held": _I4, "open": _I4, "heap": _I4, "outside": OUTSIDE, "load_s": _F8, "load": _I4,
    "event": EVENT, "change": CHANGE, "pin": _I4, "known": _U8, "itl": _I8, "series": _I8, "freed_s": _F8,
    "tier": TIER, "store": STORE, "lane": LANE, "lane_link": _I4, "group": GROUP, "shelf": _I4, "alone": _I4,
    "pending": _I4, "errand": ERRAND, "run": RUN, "run_name": _I8, "key_at": _U8, "cell": CELL,
    "extent": EXTENT, "priority": PRIORITY, "node_run": _I4, "node_block": _I4, "node_uses": _I4, "origin": _I1,
    "flow": FLOW, "flow_heap": _I4,
}  # fmt: skip
ARRAYS = EngineState._fields
TWO_DIMENSIONS = {"known", "itl", "series"}
WORDS = 3  # of each array in the table: its address, its rows, and the items of a row


class Addresses:
    """Addresses and shapes of all arrays, as compiled code takes them; holds the arrays, so that they stay."""

    def __init__(self) -> None:
        self._state: tuple[Any, ...] = (None,) * len(ARRAYS)
        self.words = np.zeros(WORDS * len(ARRAYS), np.int64)
        self._address = self.words.ctypes.data

    def of(self, state: EngineState) -> int:
        """Address of the table of `state`; looks only at arrays that were replaced since the last call.

        Raises
        ------
        TypeError : an array is of another type, or has gaps; compiled code would read the wrong bytes
        """
        if state is not self._state:
            for at, name in enumerate(ARRAYS):
                if state[at] is not self._state[at]:
                    self.words[WORDS * at : WORDS * at + WORDS] = _row(name, getattr(state, name))
            self._state = state
        return self._address


def _row(name: str, array: NDArray[Any]) -> tuple[int, ...]:
    """Address, rows and items of a row, 0 where a row is one item."""
    if array.dtype != ITEMS[name] or not array.flags.c_contiguous:
        raise TypeError(f"EngineState.{name}: want a contiguous array of {ITEMS[name]}, not of {array.dtype}")
    return (array.ctypes.data, *array.shape, 0)[:WORDS]
