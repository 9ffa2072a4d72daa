"""Files that commands write: there whole or not at all, and refused before the work where they cannot be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenworks.errors import SpecError


@contextmanager
def saved(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` when all of it is there; an error leaves what was there before.

    Raises
    ------
    SpecError : cannot be written
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device takes it as it comes, a folder does not
            yield path
            return
        whole = path.resolve()
        part = whole.with_name(f".{whole.name}.{os.getpid()}")
        try:
            yield part
            os.replace(part, whole)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise SpecError(f"cannot be written: {error.strerror or error}", where=str(path)) from None


def must_be_writable(path: Path) -> None:
    """Say before long work, not after it, that there is no place for its result.

    Raises
    ------
    SpecError : cannot be written
    """
    if path.is_dir():
        raise SpecError("cannot be written: is a folder", where=str(path), hint="name a file")
    if not path.parent.is_dir():
        raise SpecError(f"cannot be written: there is no folder {path.parent}", where=str(path))
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SpecError("cannot be written: not permitted", where=str(path))
