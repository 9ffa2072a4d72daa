"""How commands print: one JSON object, one YAML document or tables on stdout; notes and progress on stderr."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Literal

import msgspec

from tokenworks.cli.page import Page, columns_told, writing
from tokenworks.errors import SpecError
from tokenworks.specs.load import short
from tokenworks.specs.result import Plain

WIDTH = 120
"""Width of the page if neither a terminal nor $COLUMNS gives one [character]."""


def emit(plain: Plain, form: Literal["json", "yaml"]) -> None:
    """Print a plain result as one JSON object or YAML document."""
    try:
        if form == "json":
            text = msgspec.json.format(msgspec.json.encode(plain), indent=2).decode()
        else:
            import yaml

            text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=_is_unicode()).rstrip("\n")
    except UnicodeEncodeError as error:
        text, hint = short(repr(error.object)), "rename the file, or print a table"
        raise SpecError(f"{text} is not UTF-8", where=f"-o {form}", hint=hint) from None
    if form == "json" and not _is_unicode():
        text = re.sub(r"[^\x00-\x7f]", _json_code, text)
    write(text + "\n")


def write(text: str) -> None:
    """Print text without any change."""
    with writing():
        sys.stdout.write(text)
        sys.stdout.flush()


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "utf-8").lower().replace("-", "").startswith("utf")


def _json_code(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def timed(plain: Plain, began: float) -> Plain:
    """The result, with the time of the whole command under `wall` [s].

    Parameters
    ----------
    began : `time.perf_counter()` at the start of the command [s]
    """
    plain["wall"]["total_s"] = round(time.perf_counter() - began, 6)
    return plain


def console(width: int = WIDTH) -> Page:
    """The page for results, on stdout.

    Parameters
    ----------
    width : width of the page if neither $COLUMNS nor a terminal gives one [character]
    """
    if told := columns_told():
        return Page(width=told)
    return Page(width=None if sys.stdout.isatty() else width)


def notes() -> Page:
    """The page for notes and progress, on stderr."""
    return Page(stderr=True)
