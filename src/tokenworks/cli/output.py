"""How verbs print: one JSON object or YAML document, or rich tables, on stdout; notes and progress on stderr."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenworks.errors import SpecError
from tokenworks.specs.load import short
from tokenworks.specs.result import Plain

WIDTH = 120  # columns where neither a terminal nor $COLUMNS says how many
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


def emit(plain: Plain, form: Literal["json", "yaml"]) -> None:
    """Print a plain result as one JSON object or YAML document."""
    try:
        if form == "json":
            text = msgspec.json.format(msgspec.json.encode(plain), indent=2).decode()
        else:
            import yaml

            text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=_is_unicode()).rstrip("\n")
    except UnicodeEncodeError as error:
        what, hint = short(repr(error.object)), "rename the file, or print a table"
        raise SpecError(f"{what} is no UTF-8", where=f"-o {form}", hint=hint) from None
    if form == "json" and not _is_unicode():
        text = re.sub(r"[^\x00-\x7f]", _json_code, text)
    with writing():
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "utf-8").lower().replace("-", "").startswith("utf")


def _json_code(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]


def timed(plain: Plain, began: float) -> Plain:
    """The result with the time of the whole command under `wall` [s]; began : when it began, by `perf_counter`."""
    plain["wall"]["total_s"] = round(time.perf_counter() - began, 6)
    return plain


def console(width: int = WIDTH) -> Console:
    """Where results go; as wide as $COLUMNS or the terminal, else `width` columns."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return Page(width=int(told))
    return Page(width=None if sys.stdout.isatty() else width)


def notes() -> Console:
    """Where everything that is not the result goes."""
    return Page(stderr=True)


def table(title: str, columns: dict[str, Literal["left", "right"]], rows: list[list[str]]) -> Table:
    """A rich table; `columns` gives each heading its side. The first column names the row, and is never broken."""
    made = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for index, (heading, side) in enumerate(columns.items()):
        made.add_column(heading, justify=side, overflow="fold", no_wrap=index == 0)
    for row in rows:
        made.add_row(*row)
    return made


def listing(
    page: Console,
    title: str,
    columns: dict[str, Literal["left", "right"]],
    rows: list[list[str]],
    spare: Sequence[str],
) -> None:
    """Print a table of one line a row; on a narrow page it leaves out `spare` columns, the first ones first."""
    left_out: list[str] = []
    endless = page.options.update(max_width=10_000)
    while True:
        kept = [index for index, heading in enumerate(columns) if heading not in left_out]
        sides = {heading: side for heading, side in columns.items() if heading not in left_out}
        made = table("", sides, [[row[index] for index in kept] for row in rows])
        if len(left_out) == len(spare) or page.measure(made, options=endless).maximum <= page.width:
            break
        left_out.append(spare[len(left_out)])
    page.print(title)
    page.print(made)
    if left_out:
        page.print(f"Left out, for {page.width} columns: {', '.join(left_out)}.")
