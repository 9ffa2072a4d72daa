"""The compiled engine. It gives the results of `reference` with less work. Only this room imports numba.

Between two events the batch of an instance is fixed. So its steps are one arithmetic series, which is planned as a
whole and cut when an event comes. A request costs work only when it arrives, is scheduled and leaves: completions wait
in a calendar, keyed by the token clock of the rank, and the growth of blocks follows from the number of sequences by
context modulo block size. Full free blocks without a name share one node of the LRU list (in a radix tree: those of one
request). The rules of each function are explained in `reference`.

Numba takes as long to import as most commands need for all the rest. So it is imported when a name of this room is
used first.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenworks.errors import SpecError

if TYPE_CHECKING:
    from tokenworks.engine.kernel.base import CHANGES_FULL, CLEARED, REMOVED, SERIES_FULL, STORED, UNCHAINED
    from tokenworks.engine.kernel.drive import advance, cancel, collect, sample
    from tokenworks.engine.kernel.live import late, progress
    from tokenworks.engine.kernel.memory import Addresses

__all__ = [
    "CHANGES_FULL", "CLEARED", "REMOVED", "SERIES_FULL", "STORED", "UNCHAINED", "Addresses", "advance", "cancel",
    "collect", "compiled", "forget", "kept", "late", "progress", "sample",
]  # fmt: skip

_HOMES = {
    "CHANGES_FULL": "base", "CLEARED": "base", "REMOVED": "base", "SERIES_FULL": "base", "STORED": "base",
    "UNCHAINED": "base", "Addresses": "memory", "advance": "drive", "cancel": "drive", "collect": "drive",
    "sample": "drive", "late": "live", "progress": "live",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the room when one of its names is used first."""
    if name not in {*_HOMES, "_CACHE"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    names = globals()
    for one, home in _HOMES.items():
        names[one] = getattr(import_module(f"{__name__}.{home}"), one)
    path = names["advance"].stats.cache_path
    names["_CACHE"] = Path(str(path)) if path else None
    _fresh(names["_CACHE"])
    return names[name]


def _cache() -> Path | None:
    """Folder of the machine code; None if none can be written."""
    folder: Path | None = globals()["_CACHE"] if "_CACHE" in globals() else __getattr__("_CACHE")
    return folder


def _fresh(cache: Path | None) -> list[Path]:
    """Index files of current machine code on disk. Outdated code is deleted: numba checks one file of each function."""
    if cache is None:
        return []
    room = Path(__file__).parent
    compiled_in = ("gaps.py", "outside.py", "policies.py", "state.py", "tier_state.py", "tiers.py", "types.py")
    sources = [*room.glob("*.py"), *(room.parent / name for name in compiled_in)]
    newest = max(source.stat().st_mtime for source in sources)
    current = []
    for index in [*cache.glob("drive.*.nbi"), *cache.glob("live.*.nbi")]:
        with suppress(FileNotFoundError):  # another process may have deleted it just now
            if index.stat().st_mtime < newest:
                _delete(index)
            else:
                current.append(index)
    return current


def _delete(index: Path) -> None:
    try:
        index.unlink()
    except PermissionError:
        hint = "delete the file, or set NUMBA_CACHE_DIR to a folder that can be written"
        raise SpecError("outdated compiled code cannot be deleted", where=str(index), hint=hint) from None


def compiled() -> bool:
    """Whether machine code of this version is in memory or on disk, so that the first run starts at once."""
    folder = _cache()
    return bool(advance.signatures) or any(index.name.startswith("drive.advance-") for index in _fresh(folder))


def kept() -> bool:
    """Whether machine code is kept on disk for the next process."""
    return _cache() is not None


def forget() -> bool:
    """Delete the machine code on disk. Returns whether there was any."""
    indices = _fresh(_cache())
    for index in indices:
        with suppress(FileNotFoundError):
            _delete(index)
    return bool(indices)
