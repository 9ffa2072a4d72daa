"""Reads files as bytes, blocks and lines, with size limits: plain, .gz or .xz. Counts or refuses broken rows."""

from __future__ import annotations

import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import msgspec
import numpy as np

from tokenworks.arrays import Floats, Ints
from tokenworks.errors import SpecError
from tokenworks.specs.files import opened, unreadable
from tokenworks.specs.slo import CLASS_NAME
from tokenworks.specs.trace import MAX_TOKENS, Dropped

# Size limits: a small packed file, or a line without an end, could fill the memory.
MAX_BYTES = 4 << 30
MAX_DOCUMENT = 1 << 30
MAX_LINE = MAX_BLANK = 64 << 20
BLOCK = 1 << 20
HEAD = 1 << 16
UNPACK: dict[bytes, Callable[[IO[bytes]], gzip.GzipFile | lzma.LZMAFile]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"\xfd7zXZ": lzma.LZMAFile,
}
# Errors of msgspec: for a wrong value, for a wrong encoding, and for lists that are nested too deeply.
UNDECODABLE = (ValueError, RecursionError)
DAMAGED = (gzip.BadGzipFile, EOFError, lzma.LZMAError, zlib.error)
BOM = b"\xef\xbb\xbf"
BARE_WORD = re.compile(rb"(?<=[:\[,\s])-?(?:Infinity|NaN)(?=\s*[,\]}])")
"""NaN and Infinity outside quotes. Python's json module writes them, and the JSON standard does not have them."""

Tokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
ClassName = Annotated[str, msgspec.Meta(pattern=f"^({CLASS_NAME})?$")]
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
InFlight = Annotated[int, msgspec.Meta(ge=1, le=10**6)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Item = TypeVar("Item")


def standard_json(data: bytes) -> bytes:
    """JSON text with null in place of each bare NaN and Infinity, so that a standard JSON reader accepts the text."""
    return BARE_WORD.sub(b"null", data) if b"NaN" in data or b"Infinity" in data else data


def wrong_benchmark(chosen: int | None, count: int, path: Path) -> SpecError:
    """The error for a benchmark that must be chosen, or that the file does not have.

    Parameters
    ----------
    chosen : the number that the user gave; None if none
    count : benchmarks in the file
    path : the file
    """
    words = f"has {count} benchmarks" if count != 1 else "has one benchmark"
    words += "" if chosen is None else f", and no benchmark {chosen}"
    hint = f"choose one with --benchmark 1 to {count}" if count > 1 else "leave --benchmark out"
    return SpecError(words, where=str(path), hint=hint)


class Rows:
    """A file that is read line by line. It counts broken and misplaced rows.

    Parameters
    ----------
    path : the file
    strict : True: the first broken or misplaced row is an error
    benchmark : number of the benchmark to read, from 1 on, in a file with several benchmarks; None: the file has one
    seed : random seed of formats that describe requests by their statistics
    """

    def __init__(self, path: Path, *, strict: bool = False, benchmark: int | None = None, seed: int = 0) -> None:
        self.path, self.strict = path, strict
        self.benchmark, self.seed = benchmark, seed
        self.reordered = 0
        self._dropped: dict[str, list[Any]] = {}
        self._latest = -float("inf")
        self._blank = 0
        self._pipe: bytes | None = None

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """The rows that were left out, one entry for each reason."""
        return tuple(Dropped(reason, count, where) for reason, (count, where) in self._dropped.items())

    def broken(self, line: int, field: str, right: str) -> None:
        """Count a row that is left out; with `strict`, raise an error.

        Parameters
        ----------
        line : line number
        field : field that is wrong; empty if the whole row is wrong
        right : what was expected
        """
        where = f"{self.path}:{line}"
        if self.strict:
            hint = "without --strict this row is left out"
            raise SpecError(f"{field}: {right}" if field else right, where=where, hint=hint)
        entry = self._dropped.setdefault(f"{field}: {right}" if field else right, [0, where])
        entry[0] += 1

    def beside(self, path: Path) -> Rows:
        """Another file that is read for the same trace. Its broken rows count together with those of this file."""
        other = Rows(path, strict=self.strict, benchmark=self.benchmark, seed=self.seed)
        other._dropped = self._dropped
        return other

    def chosen(self, benchmarks: Sequence[Item]) -> Item:
        """The benchmark that the user chose, or the only one.

        Parameters
        ----------
        benchmarks : the benchmarks of the file, in the order of the file

        Raises
        ------
        SpecError : the file has several benchmarks and none is chosen; or it has no benchmark of this number
        """
        count = len(benchmarks)
        if self.benchmark is None and count == 1:
            return benchmarks[0]
        if not count:
            raise SpecError("the file has no benchmark", where=str(self.path), hint="did the run end without an error?")
        if self.benchmark is None or not 1 <= self.benchmark <= count:
            raise wrong_benchmark(self.benchmark, count, self.path)
        return benchmarks[self.benchmark - 1]

    def within(self, line: int, field: str, value: int, low: int, high: int) -> bool:
        """True if the value is in its range. Otherwise the row counts as broken."""
        good = low <= value <= high
        if not good:
            self.broken(line, field, f"expected {low} to {high}")
        return good

    def in_order(self, line: int, time_s: float) -> None:
        """Count a row that is earlier than a row before it, and will be sorted; with `strict`, raise an error."""
        if time_s < self._latest:
            if self.strict:
                self._misplaced(line)
            self.reordered += 1
        self._latest = max(self._latest, time_s)

    def all_in_order(self, lines: Ints, times_s: Floats) -> None:
        """The same as `in_order`, for arrays of rows."""
        latest = np.maximum.accumulate(np.append(self._latest, times_s))
        late = np.flatnonzero(times_s < latest[:-1])
        if len(late) and self.strict:
            self._misplaced(int(lines[late[0]]))
        self.reordered += len(late)
        self._latest = float(latest[-1])

    def _misplaced(self, line: int) -> None:
        words = "the time is earlier than in the row before"
        raise SpecError(words, where=f"{self.path}:{line}", hint="sort the file by time, or leave --strict out")

    def decode(self, line: int, data: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[Item]) -> Item | None:
        """One JSON value; None if it cannot be decoded, then the row counts as broken."""
        try:
            return decoder.decode(data)
        except UNDECODABLE as error:
            self.say(line, error)
        return None

    def say(self, line: int, error: Exception) -> None:
        """Count a broken row with the message of msgspec. The field is put first.

        "Expected `int` >= 1 - at `$.input_length`" becomes "input_length: expected `int` >= 1".
        """
        if isinstance(error, UnicodeDecodeError):
            self.broken(line, "", "not UTF-8 text")
            return
        text, _, path = str(error).partition(" - at `$")
        field = re.sub(r"\[\d+\]", "[]", path.strip("`").lstrip("."))
        self.broken(line, field, re.sub(r" \(byte \d+\)", "", text[:1].lower() + text[1:]))

    @contextmanager
    def packed(self) -> Iterator[IO[bytes]]:
        """The packed bytes of the file. A pipe can be read only once, so its bytes are kept."""
        try:
            with io.BytesIO(self._pipe) if self._pipe is not None else opened(self.path, pipe=MAX_DOCUMENT) as file:
                if isinstance(file, io.BytesIO):
                    self._pipe = file.getvalue()
                yield file
        except OSError as error:
            raise unreadable(error, self.path) from None

    @contextmanager
    def _open(self) -> Iterator[IO[bytes] | gzip.GzipFile | lzma.LZMAFile]:
        with self.packed() as raw:
            magic = raw.read(6)
            raw.seek(0)
            unpack = next((opener for start, opener in UNPACK.items() if magic.startswith(start)), None)
            try:
                yield unpack(raw) if unpack else raw
            except DAMAGED as error:
                hint = "is the file complete? try to unpack it"
                raise SpecError(f"cannot be read: {error}", where=str(self.path), hint=hint) from None

    @cached_property
    def head(self) -> bytes:
        """The first 64 KiB, unpacked, by which formats are detected."""
        with self._open() as file:
            return file.read(HEAD)

    def document(self) -> bytes:
        """The whole file, unpacked."""
        with self._open() as file:
            data = file.read(MAX_DOCUMENT + 1)
        self._bound(len(data), MAX_DOCUMENT)
        return data.removeprefix(BOM)

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Number of the first line, and bytes, of each block: whole lines, about 1 MiB. Blank blocks are left out."""
        total, number, rest = 0, 1, b""
        with self._open() as file:
            while piece := file.read(BLOCK):
                if not total:
                    piece = piece.removeprefix(BOM)
                total += len(piece)
                self._bound(total, MAX_BYTES)
                end = piece.rfind(b"\n") + 1
                block, rest = (rest + piece[:end], piece[end:]) if end else (b"", rest + piece)
                if len(rest) > MAX_LINE:
                    self._too_much(number + block.count(b"\n"), MAX_LINE, "in one line")
                if block.isspace():
                    self.blank(len(block), number)
                elif block:
                    yield number, block
                number += block.count(b"\n")
        if rest.strip():
            yield number, rest

    def lines(self, blocks: Iterable[tuple[int, bytes]] | None = None) -> Iterator[tuple[int, bytes]]:
        """Line number and text of each line that is not blank, in these blocks or in the whole file."""
        for first, block in self.blocks() if blocks is None else blocks:
            blank = len(block)
            for number, line in enumerate(block.split(b"\n"), first):
                if text := line.strip():
                    blank -= len(line) + 1
                    yield number, text
            self.blank(blank, first)

    def blank(self, size: int, line: int) -> None:
        """Count the bytes of blank lines. A small packed file can have gigabytes of them, which is an error."""
        self._blank += size
        if self._blank > MAX_BLANK:
            self._too_much(line, MAX_BLANK, "of blank lines")

    def _too_much(self, line: int, most: int, what: str) -> None:
        hint = "each line of a trace has one request, or one session"
        raise SpecError(f"more than {most} bytes {what}", where=f"{self.path}:{line}", hint=hint)

    def _bound(self, size: int, most: int) -> None:
        if size > most:
            raise SpecError(f"more than {most} bytes when unpacked", where=str(self.path), hint="cut it into parts")
