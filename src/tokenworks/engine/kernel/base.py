# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Decorators that compile the kernel, and constants for it.

Functions of the kernel take the whole `state.EngineState` as s (see `memory`), and indices: r of a rank, i of an
instance, q of a request. They create no arrays, so they compile without reference counts (`_nrt`), which makes them
thirty times as fast. Only the entry points have machine code that is kept (`native`); all other functions are
compiled into them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types

from tokenworks.engine.kernel.inner import ApartCompiler, InnerCompiler
from tokenworks.engine.kernel.native import ARRAYS, Code
from tokenworks.engine.outside import KINDS
from tokenworks.engine.types import Status

PENDING, QUEUED, RUNNING = int(Status.PENDING), int(Status.QUEUED), int(Status.RUNNING)
COMPLETED, REJECTED, CANCELLED = int(Status.COMPLETED), int(Status.REJECTED), int(Status.CANCELLED)
FAILED = int(Status.FAILED)
PREFILL, DECODE = 1, 2
ROUND_ROBIN, LEAST_LOADED, POWER_OF_TWO = 0, 1, 2
STEP, LOAD, OPEN, FOLLOW, OUTSIDE, FREED, FETCHED = 0, 1, 2, 3, 4, 5, 6
CANCEL, STOP, START, PAUSE, COST, LOSE, BACK = (
    KINDS[kind] for kind in ("cancel", "stop", "start", "pause", "cost", "lose", "back")
)
NEVER = math.inf
GOLDEN = np.uint64(0x9E3779B97F4A7C15)

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
# Functions have no wrappers of numba for calls from Python and C (`native`); inner functions have no own machine code.
_BARE: dict[str, Any] = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_INNER: dict[str, Any] = {**_BARE, "pipeline_class": InnerCompiler}
jit = njit(**_INNER)
# Functions of features that few clusters use stay apart, which keeps the time to compile the others.
apart = njit(forceinline=False, **{**_INNER, "pipeline_class": ApartCompiler})
inline = njit(forceinline=True, **_INNER)


def entry(*takes):
    """Declare an entry point: a function that Python calls, compiled with all functions that it calls.

    An entry point works on the state that it gets, and needs no Python: other threads run meanwhile.

    Parameters
    ----------
    takes : what it takes, in order: names in `native.NUMBERS`, or of arrays in `native.ARRAYS`
    """

    def declare(function):
        return EntryPoint(function, takes)

    return declare


class EntryPoint:
    """An entry point that is not compiled yet; parameters as in `entry`."""

    def __init__(self, function, takes):
        self.function, self.takes = function, takes

    def compiled(self):
        """The machine code, without what numba adds for calls from Python."""
        kinds = tuple(_TYPES[name] for name in self.takes)
        function = njit(kinds, **_BARE)(self.function)
        made: Any = function.overloads[kinds]
        gives = _GIVES[made.signature.return_type]
        return Code(made.fndesc.llvm_func_name, self.takes, gives, made.library._get_compiled_object())


_TYPES = {"address": types.int64, "int": types.int64, "float": types.float64} | {
    name: types.Array(types.Integer.from_bitwidth(8 * item.itemsize) if item.kind == "i" else types.float64, 1, "C")
    for name, item in ARRAYS.items()
}
_GIVES = {types.int64: "int", types.float64: "float", types.none: "none"}
