"""Files that users name, opened for reading at once, or refused with words that say why not."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import IO

from tokenworks.errors import SpecError


def opened(path: Path | str, *, pipe: int = 0) -> IO[bytes]:
    """A file that can be read, and again from its start; no device, and no pipe that nobody writes to.

    Parameters
    ----------
    pipe : a pipe, such as <(...) of a shell, is read whole if it gives no more than so many bytes; 0: it is refused

    Raises
    ------
    SpecError : missing, a folder, not permitted, a device, a pipe that cannot be read
    """
    try:
        file = open(path, "rb", opener=_at_once)  # noqa: SIM115 - it is the caller's, or closed below
        kind = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(kind):
            return file
        with file:
            if pipe and stat.S_ISFIFO(kind):
                return io.BytesIO(_piped(file, str(path), pipe))
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise unreadable(error, path) from None
    raise SpecError(f"is a {'pipe' if stat.S_ISFIFO(kind) else 'device'}", where=str(path), hint="give a file")


def _at_once(path: str, flags: int) -> int:
    """Open a pipe without waiting until somebody writes to it; files take no notice."""
    return os.open(path, flags | os.O_NONBLOCK)


def _piped(file: IO[bytes], where: str, most: int) -> bytes:
    """All that a pipe gives, once."""
    pipe = file.fileno()
    try:
        start = os.read(pipe, io.DEFAULT_BUFFER_SIZE)
    except BlockingIOError:  # somebody is about to write
        start = None
    if start == b"":
        raise SpecError(
            "is a pipe that nobody writes to", where=where, hint="give a file, or a pipe while it is written"
        )
    os.set_blocking(pipe, True)
    data = (start or b"") + file.read(most + 1)
    if len(data) > most:
        raise SpecError(f"is a pipe of more than {most} bytes", where=where, hint="write it to a file first")
    return data


def unreadable(error: OSError | ValueError, path: Path | str) -> SpecError:
    """What the system says of a file that cannot be read, in words."""
    match error:
        case FileNotFoundError():
            return SpecError("no such file", where=str(path))
        case IsADirectoryError():
            return SpecError("is a folder", where=str(path), hint="name the file in it")
        case PermissionError():
            hint = "it takes the right to read the file and to enter its folders"
            return SpecError("not permitted to read it", where=str(path), hint=hint)
    return SpecError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=str(path))


def is_there(path: Path | str) -> bool:
    """Whether a path leads to something.

    Raises
    ------
    SpecError : a folder on the way hides it
    """
    try:
        os.lstat(path)
    except PermissionError as error:
        raise unreadable(error, path) from None
    except (OSError, ValueError):  # among them every name that can be no path
        return False
    return True
