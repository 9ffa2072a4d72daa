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

__all__ = ["SERIES_FULL", "advance", "collect", "compiled", "happen", "sample"]


_CACHE = Path(str(advance.stats.cache_path))


def _fresh(cache: Path) -> list[Path]:
    """Machine code on disk; numba sees changes of `drive.py` alone, so what is older than any source is deleted."""
    room = Path(__file__).parent
    compiled_in = ("gaps.py", "outside.py", "policies.py", "state.py", "types.py")
    sources = [*room.glob("*.py"), *(room.parent / name for name in compiled_in)]
    newest = max(source.stat().st_mtime for source in sources)
    found = []
    for index in cache.glob("drive.*.nbi"):
        with suppress(FileNotFoundError):  # another process may have deleted it just now
            if index.stat().st_mtime < newest:
                index.unlink()
            else:
                found.append(index)
    return found


def compiled() -> bool:
    """Whether the machine code of this version is on disk, so that the first run starts at once."""
    return any(index.name.startswith("drive.advance-") for index in _fresh(_CACHE))


_fresh(_CACHE)
