"""How verbs print: one JSON object or YAML document, or rich tables, on stdout; notes and progress on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table

from tokenworks.cli.page import Page, writing
from tokenworks.errors import SpecError
from tokenworks.specs.load import short
from tokenworks.specs.result import Plain

WIDTH = 120  # columns where neither a terminal nor $COLUMNS says how many


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
    write(text + "\n")


def write(text: str) -> None:
    """Print text as it is."""
    with writing():
        sys.stdout.write(text)
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
