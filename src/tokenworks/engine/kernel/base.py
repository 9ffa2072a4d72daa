# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Decorators that compile the kernel, and constants for it.

Functions of the kernel take the whole `state.EngineState` as s (see `memory`), and indices: r of a rank, i of an
instance, q of a request. They create no arrays, so they compile without reference counts (`_nrt`), which makes them
thirty times as fast. Only the entry points in `drive` are kept on disk; all other functions are compiled into them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from tokenworks.engine.kernel.inner import ApartCompiler, InnerCompiler
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
DONE, SERIES_FULL, EVENTS_FULL, CHANGES_FULL, UNCHAINED = 0, 1, 2, 3, 4
STORED, REMOVED, CLEARED = 0, 1, 2  # kinds of changes of a prefix cache
NEVER = math.inf
GOLDEN = np.uint64(0x9E3779B97F4A7C15)

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
# Inner functions are not called from Python or C: they have no wrappers for such calls, and no own machine code.
_INNER: dict[str, Any] = {"pipeline_class": InnerCompiler, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
jit = njit(**_OPTIONS, **_INNER)
# Functions of features that few clusters use stay apart, which keeps the time to compile the others.
apart = njit(forceinline=False, **_OPTIONS, **{**_INNER, "pipeline_class": ApartCompiler})
inline = njit(forceinline=True, **_OPTIONS, **_INNER)


def entry(function):
    """Compile an entry point, and keep the machine code on disk if a folder for it can be written.

    An entry point works on the state that it gets, and needs no Python: other threads run meanwhile (`nogil`).
    """
    try:
        return njit(cache=True, nogil=True, **_OPTIONS)(function)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written, as in a container
        return njit(nogil=True, **_OPTIONS)(function)
