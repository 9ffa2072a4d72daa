"""Parsed traces kept as arrays in the user's cache folder, named by the content of the file they came from."""

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

# Raise it when a reader reads otherwise, or a trace has other columns: what is cached is then read anew.
VERSION = 3
MOST_ROWS = 1 << 32
ARRAYS = [name for name, kind in typing.get_type_hints(Trace).items() if typing.get_origin(kind) is np.ndarray]
UNUSABLE = (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error, SpecError)


class About(msgspec.Struct):
    """What a trace has beside its arrays; `source` and `name` belong to the path, not to the content.

    same : length of each array whose values are all the same; such an array is kept as its first value
    """

    same: dict[str, int]
    hash_block_tokens: int
    classes: tuple[str, ...]
    undated: bool
    dropped: tuple[Dropped, ...]
    reordered: int
    notes: tuple[str, ...]


def folder() -> Path:
    """$TOKENWORKS_CACHE, else $XDG_CACHE_HOME/tokenworks, else ~/.cache/tokenworks."""
    if chosen := os.environ.get("TOKENWORKS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenworks"


def entry(rows: Rows, form: str) -> Path:
    """Where the trace of this file, read in this format, is kept."""
    with rows.packed() as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]  # type: ignore[arg-type]
    return folder() / "traces" / f"{digest}-{form}-{VERSION}.npz"


def load(kept: Path, path: Path) -> Trace | None:
    """The trace if it is kept and whole, else None."""
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
    """Keep a trace; a folder that cannot be written is no error, the next run reads the file again."""
    arrays = {name: getattr(trace, name) for name in ARRAYS}
    same = {name: len(array) for name, array in arrays.items() if len(array) and not (array != array[0]).any()}
    arrays |= {name: arrays[name][:1] for name in same}
    about = About(
        same, trace.hash_block_tokens, trace.classes, trace.undated, trace.dropped, trace.reordered, trace.notes
    )  # fmt: skip
    with contextlib.suppress(OSError, SpecError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with saved(kept) as part, part.open("wb") as file:  # a reader sees the old file or the new one, never half
            np.savez(file, about=np.frombuffer(msgspec.json.encode(about), np.uint8), **arrays)


def filled(array: NDArray[Any], length: int | None) -> NDArray[Any]:
    """An array as it was before it was kept: zeros take no memory until somebody writes to them."""
    if length is None:
        return array
    (value,) = array.tolist()
    if not 0 < length <= MOST_ROWS:
        raise ValueError(f"an array of length {length}")
    return np.full(length, value, array.dtype) if value else np.zeros(length, array.dtype)
