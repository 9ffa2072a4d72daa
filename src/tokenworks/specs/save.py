"""Files that commands write: completely or not at all. A path that cannot be written is refused before the work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenworks.errors import SpecError


@contextmanager
def saved(path: Path) -> Iterator[Path]:
    """A temporary path. It becomes `path` at the end of the block; after an error, the old file stays.

    Parameters
    ----------
    path : path of the file to write

    Raises
    ------
    SpecError : the file cannot be written
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device is written directly; a folder gives an error
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
    """Check a path for a result before a long computation.

    Raises
    ------
    SpecError : the path cannot be written
    """
    if path.is_dir():
        raise SpecError("cannot be written: is a folder", where=str(path), hint="name a file")
    if not path.parent.is_dir():
        raise SpecError(f"cannot be written: there is no folder {path.parent}", where=str(path))
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SpecError("cannot be written: not permitted", where=str(path))
