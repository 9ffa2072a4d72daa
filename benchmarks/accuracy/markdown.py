"""Tables in Markdown, and numbers in words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH = 120
"""Longest line of text [character]."""

WORDS = {
    "agg": "aggregated", "disagg": "disaggregated", "none": "no MTP", "mtp": "MTP", "burst": "burst",
    "starved": "starved", "other": "other sources", "experimental": "experimental (OSL 128)",
    "prefill_only": "prefill alone", "decode_only": "decode alone", "poisson": "requests at a rate",
    "constant": "requests at a rate", "offline": "offline",
}  # fmt: skip


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, with an empty line in front."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n" + "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def wrapped(text: str) -> str:
    """Text in Markdown with short lines. Tables, headings and comments keep their lines."""
    lines = []
    for line in text.splitlines():
        indent = "  " if line.startswith("- ") else ""
        short = line.startswith(("|", "#", "<")) or len(line) <= WIDTH
        lines += (
            [line]
            if short
            else textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        )
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def kind_words(name: str) -> str:
    """The name of a kind of points in words."""
    return ", ".join(WORDS.get(word, word) for word in name.split()) if " EP " not in name else "disaggregated, EP > 8"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in per cent; "" for None."""
    return "" if share is None else f"{100 * share:.{digits}f} %"


def signed(share: float | None) -> str:
    """A share in per cent with its sign; "" for None."""
    return "" if share is None else f"{100 * share:+.0f} %"


def factor(value: float | None) -> str:
    """A factor; "" for None."""
    return "" if value is None else f"{value:.2f}"


def number(value: Any) -> str:
    """A number with three or four significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
