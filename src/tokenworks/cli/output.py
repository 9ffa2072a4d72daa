"""How verbs print: one JSON object or YAML document, or rich tables, on stdout; notes and progress on stderr."""

from __future__ import annotations

import math
import sys
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.table import Table

OutputFormat = Literal["table", "json", "yaml"]


def emit(value: Any, form: Literal["json", "yaml"]) -> None:
    """Print plain data (dicts, lists, numbers, dataclasses made plain) as one JSON object or YAML document."""
    plain = msgspec.to_builtins(_rounded(value))
    if form == "json":
        text = msgspec.json.format(msgspec.json.encode(plain), indent=2).decode()
    else:
        import yaml

        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).rstrip("\n")
    sys.stdout.write(text + "\n")


def _rounded(value: Any) -> Any:
    """Floats to 9 significant digits, so that the same input prints the same bytes on any machine."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        return _rounded(value.item())
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(f"{value:.9g}")
    return value


def console() -> Console:
    """Where results go; as wide as the terminal, 120 columns when there is none."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)


def notes() -> Console:
    """Where everything that is not the result goes."""
    return Console(stderr=True, highlight=False, markup=False)


def table(title: str, columns: dict[str, Literal["left", "right"]], rows: list[list[str]]) -> Table:
    """A rich table; `columns` gives each heading its side."""
    made = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for heading, side in columns.items():
        made.add_column(heading, justify=side, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made
