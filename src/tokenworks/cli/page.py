"""The page that commands print on: no control characters, lines wrapped between words, errors of stdout in words."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from tokenworks.errors import SpecError

BARS = " ▁▂▃▄▅▆▇█"
_ASCII_BARS = str.maketrans(BARS, " _.:-=+*#")

ADDRESS = 20
"""A longer word with slashes is an address, or a path [character]."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal obeys, characters that change the direction of text, and bytes that are not UTF-8.

Line ends and tabs are not among them.
"""


def escaped(text: str) -> str:
    r"""Text from a file, a name or a path, with control characters written as \x1b, so that a terminal shows them."""
    return _CONTROL.sub(lambda match: _code(ord(match[0])), text)


def _code(point: int) -> str:
    if 0xDC80 <= point <= 0xDCFF:  # Python's code for a byte of a file name that is not UTF-8
        point -= 0xDC00
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def pieces(text: str) -> list[tuple[str, str]]:
    """Words of a text, each after the blank or the empty string before it. A long address also breaks after a slash."""
    parts = []
    for word in text.split():
        first, *others = re.split(r"(?<=/)(?=.)", word) if len(word) > ADDRESS else [word]
        parts += [(" ", first), *(("", other) for other in others)]
    return parts


def wrapped(text: str, width: int) -> list[str]:
    """Lines of a text, wrapped between words; only a word that is wider than a line is broken.

    Parameters
    ----------
    width : width of a line [character]
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        if cell_len(paragraph) <= width:
            lines.append(paragraph)
            continue
        indent = paragraph[: len(paragraph) - len(paragraph.lstrip(" "))][: width // 2]
        room, line = width - len(indent), indent
        for blank, word in pieces(paragraph):
            if cell_len(line) + len(blank) + cell_len(word) <= width and line != indent:
                line += blank + word
                continue
            if line != indent:
                lines.append(line)
            *full, last = chop_cells(word, room) if cell_len(word) > room else [word]
            lines += [indent + part for part in full]
            line = indent + last
        lines.append(line)
    return lines


def columns_told() -> int | None:
    """Width of the page that the variable COLUMNS gives [character]; None without a usable number."""
    told = os.environ.get("COLUMNS", "")
    return int(told) if told.isdecimal() and int(told) else None


class Page(Console):
    """A console that escapes control characters. If a result cannot be written, the page raises an error.

    On stderr a failed write is ignored, because nobody can read a message about it.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)
        self._wraps = self.is_terminal or columns_told() is not None

    def paragraph(self, text: str) -> None:
        """Print a line of any length.

        On a terminal, or with the variable COLUMNS, the line wraps between words. In a file or a pipe it stays whole,
        so that `grep` sees it in one piece.
        """
        text = escaped(text)
        for part in wrapped(text, self.width) if self._wraps else [text]:
            self.print(part, soft_wrap=True)

    def render_str(self, text: str, **how: Any) -> Text:
        """The text as it is shown. All strings pass through here."""
        text = escaped(text)
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            text = text.translate(_ASCII_BARS)
        return super().render_str(text, **how)

    def print(self, *things: Any, **how: Any) -> None:
        """Print; a failure on stdout becomes a message for the user."""
        with contextlib.suppress(OSError) if self.stderr else writing():
            super().print(*things, **how)

    def on_broken_pipe(self) -> None:
        """Let the command line decide what a closed pipe means. Without this method, rich ends the process with 1."""
        self.quiet = self.stderr
        raise BrokenPipeError


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Wrap code that writes to stdout: a full disk becomes a message; a closed pipe stays a `BrokenPipeError`."""
    try:
        yield
    except OSError as error:
        _drop_stdout()
        if isinstance(error, BrokenPipeError):
            raise
        why, hint = error.strerror or str(error), "write the output to a disk with free space"
        raise SpecError(f"cannot be written: {why}", where="stdout", hint=hint) from error


def open_stdout() -> None:
    """Check that stdout is open. A character that its encoding does not have becomes `?`, not an error."""
    if sys.stdout is None:
        raise SpecError("is closed", where="stdout", hint="leave it open, or send it to a file or /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _drop_stdout() -> None:
    """Drop output that is not written yet, so that Python does not fail on it when the process ends."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
