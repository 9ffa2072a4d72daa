"""The compiled engine. It gives the results of `reference` with less work. Only this room imports numba.

Between two events the batch of an instance is fixed. So its steps are one arithmetic series, which is planned as a
whole and cut when an event comes. A request costs work only when it arrives, is scheduled and leaves: completions wait
in a calendar, keyed by the token clock of the rank, and the growth of blocks follows from the number of sequences by
context modulo block size. Full free blocks without a name share one node of the LRU list (in a radix tree: those of one
request). The rules of each function are explained in `reference`.

Numba is imported only to compile: what it has compiled is kept on disk, and loaded without it (`native`).
"""

from __future__ import annotations

import sys
from importlib import import_module
from threading import RLock
from typing import Any

from tokenworks.engine.kernel import native
from tokenworks.engine.kernel.addresses import Addresses
from tokenworks.engine.kernel.codes import CHANGES_FULL, SERIES_FULL, UNCHAINED

__all__ = [
    "CHANGES_FULL", "SERIES_FULL", "UNCHAINED", "Addresses", "advance", "cancel", "collect",
    "compiled", "kept", "late", "load", "most_kept", "progress", "sample", "write",
]  # fmt: skip

_HOMES = {
    "advance": "drive", "cancel": "drive", "collect": "drive", "sample": "drive",
    "late": "live", "progress": "live", "most_kept": "belady", "write": "stream",
}  # fmt: skip
_lock = RLock()
advance: native.Native
cancel: native.Native
collect: native.Native
late: native.Native
most_kept: native.Native
progress: native.Native
sample: native.Native
write: native.Native


def __getattr__(name: str) -> Any:
    """Load an entry point when it is used first; compile it if its current machine code is not on disk."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _load(name)
    return globals()[name]


def _load(name: str) -> bool:
    """Load an entry point, once; returns whether its machine code on disk was damaged."""
    with _lock:
        if name in globals():
            return False
        code, damaged = native.read(name)
        if code is None:
            code = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name).compiled()
            native.write(name, code)
        globals()[name] = native.link(code)
        return damaged


def load() -> bool:
    """Load all entry points that a simulation or a server needs; compile those that are not on disk.

    A process that compiles keeps numba, some 600 MB, as long as it lives: so a server must find all of them on disk.

    Returns
    -------
    True if machine code on disk was damaged: it was deleted and compiled again
    """
    damaged = [_load(name) for name in _needed()]
    return any(damaged)


def _needed() -> list[str]:
    """Entry points that a simulation or a server needs."""
    other = {"belady"} if sys.platform != "win32" else {"belady", "stream"}
    return [name for name, home in _HOMES.items() if home not in other]


def compiled() -> bool:
    """Whether all machine code of this version is in memory or on disk, so that the first run starts at once."""
    return all(name in globals() or native.stored(name) for name in _needed())


def kept() -> bool:
    """Whether machine code is kept on disk for the next process."""
    return native.kept()
