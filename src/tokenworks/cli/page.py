"""A page that text of others cannot disturb, and what a closed, full or ascii stdout means; `--help` needs no more."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from tokenworks.errors import SpecError

BARS = " ▁▂▃▄▅▆▇█"
_ASCII_BARS = str.maketrans(BARS, " _.:-=+*#")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys or turns around, and bytes that are no text; line ends and tabs are left."""


def escaped(text: str) -> str:
    r"""Text of others (names, paths, what a file says) with its control characters as \x1b, for a terminal to show."""
    return _CONTROL.sub(lambda found: _code(ord(found[0])), text)


def _code(point: int) -> str:
    if 0xDC80 <= point <= 0xDCFF:  # Python's word for a byte of a file name that is no UTF-8
        point -= 0xDC00
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


class Page(Console):
    """A console that escapes what it prints, and whose failure is an error that says so.

    Where it prints notes, on stderr, a failure is passed over: there is nobody left to tell.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """The text as it is shown: all strings, those in tables too, come through here."""
        text = escaped(text)
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            text = text.translate(_ASCII_BARS)
        return super().render_str(text, **how)

    def print(self, *things: Any, **how: Any) -> None:
        """Print, or say why not."""
        with contextlib.suppress(OSError) if self.stderr else writing():
            super().print(*things, **how)

    def on_broken_pipe(self) -> None:
        """Leave it to the command line what a reader who has seen enough means; rich would end with 1."""
        self.quiet = self.stderr
        raise BrokenPipeError


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Around what writes to stdout: a full disk becomes words; a reader who left stays a `BrokenPipeError`."""
    try:
        yield
    except OSError as error:
        _drop_stdout()
        if isinstance(error, BrokenPipeError):
            raise
        why, hint = error.strerror or str(error), "send it where there is room"
        raise SpecError(f"cannot be written: {why}", where="stdout", hint=hint) from error


def open_stdout() -> None:
    """See that there is a stdout; what its encoding does not know becomes `?`, not an error."""
    if sys.stdout is None:
        raise SpecError("is closed", where="stdout", hint="leave it open, or send it to a file or /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _drop_stdout() -> None:
    """Send what is still to be written to nowhere, so that Python does not fail at it when it ends."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
