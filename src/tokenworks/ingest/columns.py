"""Reader for CSV files of requests. It converts plain rows of a block to arrays, and reads other rows one by one.

A plain row has as many cells as the header, no quotes, and numbers and times in their usual form. Both ways give the
same result for a plain row. Only reading one by one can say why a row is wrong.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice

import msgspec
import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Floats, Ints
from tokenworks.errors import SpecError
from tokenworks.ingest import cells
from tokenworks.ingest.rows import ClassName, Rows, Tokens
from tokenworks.ingest.table import Table
from tokenworks.specs.trace import Trace

LONGEST_ROW = 4096
"""Longest plain row [byte]."""
PART = 10_000
"""Largest number of rows that are held as objects at the same time."""


class CsvRow(msgspec.Struct):
    """One row. A format gives the column names of its files as the encoded names of these fields."""

    time: datetime | float
    input: Tokens
    output: Tokens
    kind: ClassName = msgspec.field(name="class", default="")

    @property
    def time_s(self) -> float:
        """Time since 1970, or since the start of the file's own clock [s]."""
        if isinstance(self.time, datetime):
            return (self.time if self.time.tzinfo else self.time.replace(tzinfo=UTC)).timestamp()
        return self.time


@dataclass(frozen=True, slots=True)
class RequestColumns:
    """Rows as columns. `line` is the line number in the file, `kind` is the name of the class."""

    line: Ints
    time_s: Floats
    input: Ints
    output: Ints
    kind: NDArray[np.bytes_]

    @classmethod
    def of(cls, rows: Sequence[tuple[int, CsvRow]]) -> RequestColumns:
        """Rows as columns, from pairs of a line number and a row."""
        return cls(
            np.array([line for line, _ in rows], np.int64),
            np.array([row.time_s for _, row in rows], np.float64),
            np.array([row.input for _, row in rows], np.int64),
            np.array([row.output for _, row in rows], np.int64),
            np.array([row.kind.encode() for _, row in rows], np.bytes_),
        )

    def merged(self, other: RequestColumns) -> RequestColumns:
        """The rows of both, in the order of their lines."""
        if not len(other.line):
            return self
        order = np.argsort(np.append(self.line, other.line), kind="stable")
        return RequestColumns(*(np.append(getattr(self, name), getattr(other, name))[order] for name in self.__slots__))


def read(rows: Rows, kind: type[CsvRow], *, notes: tuple[str, ...] = ()) -> Trace:
    """Read a CSV file.

    Parameters
    ----------
    rows : the file
    kind : row type of the format
    notes : assumptions and omissions of the format, to be printed with the trace
    """
    table = Table()
    for part in _Reader(rows, kind).parts():
        table.extend(part.time_s, part.input, part.output, part.kind)
    return table.trace(rows, notes=notes)


class _Reader:
    """Reads one file: first the header, then the rows."""

    def __init__(self, rows: Rows, kind: type[CsvRow]) -> None:
        self.rows, self.kind = rows, kind
        self.fields = {field.name: field for field in msgspec.structs.fields(kind)}
        self.heading: list[str] = []

    def parts(self) -> Iterator[RequestColumns]:
        """All valid rows, in the order of the file."""
        blocks = self.rows.blocks()
        for first, block in blocks:
            if b'"' in block:  # a quoted cell can have a line break in it, so blocks may end inside a row from here on
                yield from self.singly(self.rows.lines(chain([(first, block)], blocks)))
                return
            yield from self.at_once(*(self.after_heading(first, block) if not self.heading else (first, block)))

    def after_heading(self, first: int, block: bytes) -> tuple[int, bytes]:
        """Read the header of a block, and return the rest of the block with the number of its first line."""
        header = re.search(rb"\S[^\n]*", block)
        assert header
        number = first + block.count(b"\n", 0, header.end())
        list(self.records([(number, header[0].strip())]))
        return number, block[header.end() :]

    def at_once(self, first: int, block: bytes) -> Iterator[RequestColumns]:
        """The rows of a block without quotes."""
        block += b"" if block.endswith(b"\n") else b"\n"
        text = np.frombuffer(block + bytes(cells.PAD), np.uint8)
        ends = np.flatnonzero(text == ord("\n"))
        starts = np.append(0, ends[:-1] + 1)
        plain, requests = self.plain(text, starts, ends, first)
        empty = ends - starts == (text[starts] == ord("\r"))
        self.rows.blank(int((ends - starts + 1)[empty].sum()), first)
        odd = np.flatnonzero(~(plain | empty)).tolist()
        if odd and self.rows.strict:  # read in the order of the file, so that the error names the first wrong row
            yield from self.singly(self.rows.lines([(first, block)]))
            return
        others = self.records(self.rows.lines((first + i, block[starts[i] : ends[i] + 1]) for i in odd))
        requests = requests.merged(RequestColumns.of(list(others)))
        self.rows.all_in_order(requests.line, requests.time_s)
        yield requests

    def plain(self, text: cells.Text, starts: Ints, ends: Ints, first: int) -> tuple[NDArray[np.bool_], RequestColumns]:
        """A mask of the plain lines, and the requests in these lines."""
        commas = np.flatnonzero(text == ord(","))
        comma = np.searchsorted(commas, starts)
        whole = np.diff(comma, append=len(commas)) == len(self.heading) - 1
        at = np.flatnonzero(whole & (ends - starts <= LONGEST_ROW))
        starts, comma = starts[at], comma[at]
        ends = ends[at] - (text[ends[at] - 1] == ord("\r"))
        place = {name: k for k, name in enumerate(self.heading)}  # the last of two columns with the same name counts

        def cell(name: str) -> tuple[Ints, Ints]:
            k = place[self.fields[name].encode_name]
            low = starts if k == 0 else commas[comma + k - 1] + 1
            return low, ends if k == len(self.heading) - 1 else commas[comma + k]

        time_s, good = (cells.times if self.fields["time"].type is datetime else cells.seconds)(text, *cell("time"))
        kind = np.zeros(len(at), "S1")
        if self.fields["kind"].encode_name in place:
            kind, right = cells.words(text, *cell("kind"))
            good &= right
        lengths = {}
        for name in ("input", "output"):
            lengths[name], right = cells.tokens(text, *cell(name))
            good &= right
        whole[:] = False
        whole[at[good]] = True
        return whole, RequestColumns(
            at[good] + first, time_s[good], lengths["input"][good], lengths["output"][good], kind[good]
        )

    def singly(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[RequestColumns]:
        """The rows of these lines, read one by one."""
        records = self.records(lines)
        while part := list(islice(self.ordered(records), PART)):
            yield RequestColumns.of(part)

    def ordered(self, records: Iterable[tuple[int, CsvRow]]) -> Iterator[tuple[int, CsvRow]]:
        """The same rows; each row is checked for the order of times."""
        for line, row in records:
            self.rows.in_order(line, row.time_s)
            yield line, row

    def records(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, CsvRow]]:
        """Line number and row of each valid row. The first line of the file is the header."""
        number = 0

        def text() -> Iterator[str]:
            nonlocal number
            for number, line in lines:  # noqa: B007
                yield line.decode(errors="replace")

        reader = csv.reader(text())
        try:
            if not self.heading:
                self.heading = self.checked(next(reader, []))
            for values in reader:
                try:
                    yield (
                        number,
                        msgspec.convert(dict(zip(self.heading, values, strict=False)), self.kind, strict=False),
                    )
                except ValueError as error:
                    self.rows.say(number, error)
        except csv.Error as error:
            raise SpecError(f"not CSV: {error}", where=f"{self.rows.path}:{number}") from None

    def checked(self, names: list[str]) -> list[str]:
        """The column names of the header; an error if a needed column is missing."""
        heading = [name.strip() for name in names]
        need = [field.encode_name for field in self.fields.values() if field.required]
        if missing := [name for name in need if name not in heading]:
            hint = f"the header has {heading}"
            raise SpecError(f"no column {', '.join(missing)}", where=f"{self.rows.path}:1", hint=hint)
        return heading
