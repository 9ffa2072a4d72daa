"""Files that users name: opened for reading, or refused with a message that says why."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import IO

from tokenworks.errors import SpecError


def opened(path: Path | str, *, pipe: int = 0) -> IO[bytes]:
    """Open a file for reading. The file can be read several times from its start.

    Parameters
    ----------
    path : path of the file
    pipe : largest size of a pipe, such as <(...) of a shell, which is read completely; 0: pipes are refused [byte]

    Raises
    ------
    SpecError : the path is missing, a folder, not permitted, a device, or a pipe that cannot be read
    """
    try:
        file = open(path, "rb", opener=_at_once)  # noqa: SIM115 - the caller closes it, or it is closed below
        kind = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(kind):
            return file
        with file:
            if pipe and stat.S_ISFIFO(kind):
                return io.BytesIO(_piped(file, str(path), pipe))
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise unreadable(error, path) from None
    raise SpecError(f"is a {'pipe' if stat.S_ISFIFO(kind) else 'device'}", where=str(path), hint="give a file")


def content(path: Path | str, *, most: int, hint: str) -> bytes:
    """The whole content of a file, or of a pipe.

    Parameters
    ----------
    path : path of the file
    most : largest size [byte]
    hint : what to do about a larger file

    Raises
    ------
    SpecError : the file cannot be read (`opened`), or it is too large
    """
    try:
        with opened(path, pipe=most) as file:
            data = file.read(most + 1)
    except OSError as error:
        raise unreadable(error, path) from None
    if len(data) > most:
        raise SpecError(f"is over {most / 1e6:.0f} MB", where=str(path), hint=hint)
    return data


def text(path: Path | str, *, most: int, hint: str) -> str:
    """The whole content of a file in UTF-8, with or without a byte order mark; parameters as in `content`.

    Raises
    ------
    SpecError : the file cannot be read, is too large, or is not UTF-8
    """
    try:
        return content(path, most=most, hint=hint).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"is not UTF-8 text (byte {error.start})", where=str(path)) from None


def _at_once(path: str, flags: int) -> int:
    """Open a path. For a pipe, do not wait until another program writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _piped(file: IO[bytes], where: str, most: int) -> bytes:
    """The content of a pipe, which can be read once."""
    pipe = file.fileno()
    try:
        start = os.read(pipe, io.DEFAULT_BUFFER_SIZE)
    except BlockingIOError:  # another program has opened the pipe, and has not written yet
        start = None
    if start == b"":
        raise SpecError(
            "is a pipe without a writer", where=where, hint="give a file, or a pipe while a program writes to it"
        )
    os.set_blocking(pipe, True)
    data = (start or b"") + file.read(most + 1)
    if len(data) > most:
        raise SpecError(f"is a pipe of more than {most} bytes", where=where, hint="write it to a file first")
    return data


def unreadable(error: OSError | ValueError, path: Path | str) -> SpecError:
    """The error for a file that cannot be read, from the error of the operating system."""
    match error:
        case FileNotFoundError():
            return SpecError("no such file", where=str(path))
        case IsADirectoryError():
            return SpecError("is a folder", where=str(path), hint="name the file in it")
        case PermissionError():
            hint = "you need permission to read the file and to enter its folders"
            return SpecError("not permitted to read it", where=str(path), hint=hint)
    return SpecError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=str(path))


def is_there(path: Path | str) -> bool:
    """Whether a path exists.

    Raises
    ------
    SpecError : no permission to look into a folder of the path
    """
    try:
        os.lstat(path)
    except PermissionError as error:
        raise unreadable(error, path) from None
    except (OSError, ValueError):  # also for names that cannot be a path
        return False
    return True
