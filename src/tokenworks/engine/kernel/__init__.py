"""The compiled engine: `reference` without doing its work, by event compression; the only room that knows numba.

Between two events the batch of an instance is fixed, so its steps are one arithmetic series that is planned as a
whole and cut when something arrives. A request is touched when it arrives, is scheduled and leaves: completions wait
in a calendar keyed by the token clock of its rank, and blocks grow by counts of context mod block size. Free blocks
without content are one run in the LRU list. Function by function the rules are those of `reference`, cited there.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tokenworks.engine.kernel.base import SERIES_FULL
from tokenworks.engine.kernel.drive import advance, collect, happen, sample
from tokenworks.engine.kernel.memory import Addresses
from tokenworks.errors import SpecError

__all__ = ["SERIES_FULL", "Addresses", "advance", "collect", "compiled", "forget", "happen", "kept", "sample"]


_CACHE = Path(str(advance.stats.cache_path)) if advance.stats.cache_path else None


def _fresh(cache: Path | None) -> list[Path]:
    """Machine code on disk; numba sees changes of `drive.py` alone, so what is older than any source is deleted."""
    if cache is None:
        return []
    room = Path(__file__).parent
    compiled_in = ("gaps.py", "outside.py", "policies.py", "state.py", "types.py")
    sources = [*room.glob("*.py"), *(room.parent / name for name in compiled_in)]
    newest = max(source.stat().st_mtime for source in sources)
    found = []
    for index in cache.glob("drive.*.nbi"):
        with suppress(FileNotFoundError):  # another process may have deleted it just now
            if index.stat().st_mtime < newest:
                _delete(index)
            else:
                found.append(index)
    return found


def _delete(index: Path) -> None:
    try:
        index.unlink()
    except PermissionError:
        hint = "delete it, or set NUMBA_CACHE_DIR to a folder that can be written"
        raise SpecError("compiled code that is of no use cannot be deleted", where=str(index), hint=hint) from None


def compiled() -> bool:
    """Whether the machine code of this version is there, so that the first run starts at once."""
    return bool(advance.signatures) or any(index.name.startswith("drive.advance-") for index in _fresh(_CACHE))


def kept() -> bool:
    """Whether machine code is kept on disk for the next process."""
    return _CACHE is not None


def forget() -> bool:
    """Delete the machine code on disk; says whether there was any."""
    found = _fresh(_CACHE)
    for index in found:
        with suppress(FileNotFoundError):
            _delete(index)
    return bool(found)


_fresh(_CACHE)
