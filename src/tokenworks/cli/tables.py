"""Tables as text: columns that fit the page, cells that wrap between words, and no word that is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.cells import cell_len

from tokenworks.cli.page import Page, escaped, pieces, wrapped

Side = Literal["left", "right"]
Columns = dict[str, Side]
"""Heading of each column, and the side that its cells are aligned to."""

GAP = 2
LONG_WORD = 60
"""A longer word, such as an address, may be broken [character]."""


def print_table(
    page: Page,
    columns: Columns,
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    wraps: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print a table that is no wider than the page.

    A narrow page changes the table in this order, and only as far as needed: headings wrap, the columns `wraps` wrap,
    the columns `spare` are left out, all other columns on the left side wrap, each row becomes a block of lines.

    Parameters
    ----------
    columns : heading and side of each column; cells of a column on the right side never wrap
    rows : cells of each row, in the order of the columns
    title : line above the table; empty for none
    wraps : headings of columns with long cells, which wrap first
    spare : headings of columns that a narrow page leaves out, the least important one first
    """
    if title:
        page.paragraph(title)
    every = [
        _column(heading, side, [row[index] for row in rows]) for index, (heading, side) in enumerate(columns.items())
    ]
    kept, left_out = every, []
    for heading in spare:
        if _fits(kept, page.width, wraps):
            break
        kept = [column for column in kept if column.heading != heading]
        left_out.append(heading)
    if not _fits(kept, page.width, wraps):
        wraps = [column.heading for column in kept]
    if not _fits(kept, page.width, wraps):
        _print_blocks(page, every)
        return
    _print_columns(page, _narrowed(kept, page.width, wraps))
    if left_out:
        page.paragraph(f"Left out, for {page.width} columns: {', '.join(left_out)}. `-o json` has all columns.")


@dataclass(frozen=True)
class _Column:
    """One column: its cells without control characters, and its width [character]."""

    heading: str
    side: Side
    cells: tuple[str, ...]
    width: int

    def needed(self, wraps: Sequence[str]) -> int:
        """Least width with a wrapped heading; the cells wrap if `wraps` names the column."""
        word = max(map(cell_len, self.heading.split()), default=0)
        if self.side == "left" and self.heading in wraps:
            words = (cell_len(word) for cell in self.cells for _, word in pieces(cell))
            return max(word, min(LONG_WORD, max(words, default=0)))
        return max(word, max(map(cell_len, self.cells), default=0))


def _column(heading: str, side: Side, cells: Sequence[str]) -> _Column:
    clean_heading, *clean = (escaped(text).replace("\t", " ") for text in (heading, *cells))
    width = max(cell_len(line) for text in (clean_heading, *clean) for line in text.split("\n"))
    return _Column(clean_heading, side, tuple(clean), width)


def _fits(columns: Sequence[_Column], width: int, wraps: Sequence[str]) -> bool:
    return sum(column.needed(wraps) for column in columns) + GAP * (len(columns) - 1) <= width


def _narrowed(columns: Sequence[_Column], width: int, wraps: Sequence[str]) -> list[_Column]:
    """The columns with widths that fit the page: headings wrap first, then the widest cells."""
    narrowed = list(columns)
    room = width - GAP * (len(columns) - 1)
    for names in ((), wraps):
        while sum(column.width for column in narrowed) > room:
            wide = [index for index, column in enumerate(narrowed) if column.width > column.needed(names)]
            if not wide:
                break
            widest = max(wide, key=lambda index: narrowed[index].width)
            narrowed[widest] = replace(narrowed[widest], width=narrowed[widest].width - 1)
    return narrowed


def _print_columns(page: Page, columns: Sequence[_Column]) -> None:
    headings = [wrapped(column.heading, column.width) for column in columns]
    height = max(map(len, headings))
    for line in _lines([[""] * (height - len(parts)) + parts for parts in headings], columns):
        page.print(line, style="bold", soft_wrap=True)
    for cells in zip(*(column.cells for column in columns), strict=True):
        parts = [wrapped(cell, column.width) for cell, column in zip(cells, columns, strict=True)]
        for line in _lines(parts, columns):
            page.print(line, soft_wrap=True)


def _lines(cells: Sequence[list[str]], columns: Sequence[_Column]) -> list[str]:
    """Lines of one row, from the lines of its cells."""
    lines = []
    for number in range(max(map(len, cells))):
        parts = [cell[number] if number < len(cell) else "" for cell in cells]
        lines.append((" " * GAP).join(map(_aligned, parts, columns)).rstrip())
    return lines


def _aligned(text: str, column: _Column) -> str:
    blanks = " " * (column.width - cell_len(text))
    return blanks + text if column.side == "right" else text + blanks


def _print_blocks(page: Page, columns: Sequence[_Column]) -> None:
    """Each row as a block of lines, a heading and a cell a line: for a page too narrow for columns."""
    label = max(cell_len(column.heading) for column in columns)
    for number, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        if number:
            page.print()
        for column, cell in zip(columns, cells, strict=True):
            if not cell:
                continue
            room = page.width - label - GAP
            if max((cell_len(word) for _, word in pieces(cell)), default=0) <= room:
                first, *others = wrapped(cell, room)
                indent = " " * (label + GAP)
                page.print(f"{column.heading:<{label}}{' ' * GAP}{first}", soft_wrap=True)
            else:
                indent, others = " " * GAP, wrapped(cell, page.width - GAP)
                page.print(column.heading, soft_wrap=True)
            for line in others:
                page.print(indent + line, soft_wrap=True)
