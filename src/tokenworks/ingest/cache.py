"""Cache of parsed traces: arrays in the user's cache folder, named by the content of the file that was parsed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import typing
import zipfile
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tokenworks.errors import SpecError
from tokenworks.ingest.rows import Rows
from tokenworks.specs.save import saved
from tokenworks.specs.trace import Dropped, Trace

# Increase it when a reader changes, or when a trace gets other columns. Then files are read again, not the cache.
VERSION = 5
MOST_ROWS = 1 << 32
ARRAYS = [name for name, kind in typing.get_type_hints(Trace).items() if typing.get_origin(kind) is np.ndarray]
UNUSABLE = (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error, SpecError)


class About(msgspec.Struct):
    """The fields of a trace beside its arrays, without `source` and `name`, which belong to the path of the file.

    same : length of each array whose values are all equal; only the first value of such an array is stored
    """

    same: dict[str, int]
    hash_block_tokens: int
    classes: tuple[str, ...]
    undated: bool
    dropped: tuple[Dropped, ...]
    reordered: int
    notes: tuple[str, ...]


def folder() -> Path:
    """The cache folder: $TOKENWORKS_CACHE, else $XDG_CACHE_HOME/tokenworks, else ~/.cache/tokenworks."""
    if chosen := os.environ.get("TOKENWORKS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenworks"


def entry(rows: Rows, form: str) -> Path:
    """Path of the cached trace for this file and this format."""
    with rows.packed() as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]  # type: ignore[arg-type]
    chosen = "" if rows.benchmark is None else f"-{rows.benchmark}"
    return folder() / "traces" / f"{digest}-{form}{chosen}-{VERSION}.npz"


def load(kept: Path, path: Path) -> Trace | None:
    """The cached trace; None if there is none, or if it is damaged."""
    try:
        with kept.open("rb") as file, np.load(file, allow_pickle=False) as data:
            about = msgspec.json.decode(data["about"].tobytes(), type=About)
            arrays = {name: filled(data[name], about.same.get(name)) for name in ARRAYS}
        where = tuple(Dropped(d.reason, d.count, f"{path}:{d.where.rpartition(':')[2]}") for d in about.dropped)
        return Trace(
            name=path.name.split(".")[0],
            source=str(path),
            **arrays,
            hash_block_tokens=about.hash_block_tokens,
            classes=about.classes,
            undated=about.undated,
            dropped=where,
            reordered=about.reordered,
            notes=about.notes,
        )
    except UNUSABLE:
        return None


def save(kept: Path, trace: Trace) -> None:
    """Store a trace. If the folder cannot be written, nothing is stored, and the next run reads the file again."""
    arrays = {name: getattr(trace, name) for name in ARRAYS}
    same = {name: len(array) for name, array in arrays.items() if len(array) and not (array != array[0]).any()}
    arrays |= {name: arrays[name][:1] for name in same}
    about = About(
        same, trace.hash_block_tokens, trace.classes, trace.undated, trace.dropped, trace.reordered, trace.notes
    )  # fmt: skip
    with contextlib.suppress(OSError, SpecError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with saved(kept) as part, part.open("wb") as file:  # a reader sees the old file or the new one, never a part
            np.savez(file, about=np.frombuffer(msgspec.json.encode(about), np.uint8), **arrays)


def filled(array: NDArray[Any], length: int | None) -> NDArray[Any]:
    """An array with its full length again. np.zeros takes no memory until the array is written to."""
    if length is None:
        return array
    (value,) = array.tolist()
    if not 0 < length <= MOST_ROWS:
        raise ValueError(f"an array of length {length}")
    return np.full(length, value, array.dtype) if value else np.zeros(length, array.dtype)
