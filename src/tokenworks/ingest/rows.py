"""Files as bounded bytes, lines and rows: plain, .gz or .xz; a broken row is counted or stops the reading."""

from __future__ import annotations

import csv
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import msgspec

from tokenworks.errors import SpecError
from tokenworks.specs.slo import CLASS_NAME
from tokenworks.specs.trace import MAX_TOKENS, Dropped

# A small file can unpack to more than any memory, and a line without an end can too.
MAX_BYTES = 4 << 30
MAX_DOCUMENT = 1 << 30
MAX_LINE = 64 << 20
HEAD = 1 << 16
UNPACK: dict[bytes, Callable[[IO[bytes]], gzip.GzipFile | lzma.LZMAFile]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"\xfd7zXZ": lzma.LZMAFile,
}
# What msgspec raises, for a wrong value, a wrong encoding, and lists in lists without end.
UNDECODABLE = (ValueError, RecursionError)
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)

Tokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
ClassName = Annotated[str, msgspec.Meta(pattern=f"^({CLASS_NAME})?$")]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Item = TypeVar("Item")


class Rows:
    """One file being read: gives its lines, and keeps count of what was wrong with them."""

    def __init__(self, path: Path, *, strict: bool = False) -> None:
        self.path, self.strict = path, strict
        self.reordered = 0
        self._dropped: dict[str, list[Any]] = {}
        self._latest = -float("inf")

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """What was left out, a reason each."""
        return tuple(Dropped(reason, count, where) for reason, (count, where) in self._dropped.items())

    def broken(self, line: int, field: str, right: str) -> None:
        """Leave a row out and count it; strict: stop. `right` says what the field should have been."""
        where = f"{self.path}:{line}"
        if self.strict:
            raise SpecError(f"{field}: {right}" if field else right, where=where, hint="without --strict it is skipped")
        entry = self._dropped.setdefault(f"{field}: {right}" if field else right, [0, where])
        entry[0] += 1

    def within(self, line: int, field: str, value: int, low: int, high: int) -> bool:
        """Is the value in its range? If not, the row is broken."""
        good = low <= value <= high
        if not good:
            self.broken(line, field, f"expected {low} to {high}")
        return good

    def in_order(self, line: int, time_s: float) -> None:
        """Note a row that is earlier than one before it: it will be sorted; strict: stop."""
        if time_s < self._latest:
            if self.strict:
                raise SpecError(
                    "earlier than the row before", where=f"{self.path}:{line}", hint="sort the file by time"
                )
            self.reordered += 1
        self._latest = max(self._latest, time_s)

    def decode(self, line: int, data: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[Item]) -> Item | None:
        """One JSON value, or None and the row is broken."""
        try:
            return decoder.decode(data)
        except UNDECODABLE as error:
            self._say(line, error)
        return None

    def _say(self, line: int, error: Exception) -> None:
        """What msgspec says, "Expected `int` >= 1 - at `$.input_length`", with the field first."""
        if isinstance(error, UnicodeDecodeError):
            self.broken(line, "", "not UTF-8 text")
            return
        text, _, path = str(error).partition(" - at `$")
        field = re.sub(r"\[\d+\]", "[]", path.strip("`").lstrip("."))
        self.broken(line, field, re.sub(r" \(byte \d+\)", "", text[:1].lower() + text[1:]))

    @contextmanager
    def _open(self) -> Iterator[IO[bytes] | gzip.GzipFile | lzma.LZMAFile]:
        try:
            with self.path.open("rb") as raw:
                magic = raw.read(6)
                raw.seek(0)
                unpack = next((opener for start, opener in UNPACK.items() if magic.startswith(start)), None)
                yield unpack(raw) if unpack else raw
        except UNREADABLE as error:
            hint = "is it whole? try to unpack it" if isinstance(error, (EOFError, lzma.LZMAError, zlib.error)) else ""
            raise SpecError(f"cannot read: {error}", where=str(self.path), hint=hint) from None

    @cached_property
    def head(self) -> bytes:
        """The first 64 KiB, unpacked, to tell formats apart."""
        with self._open() as file:
            return file.read(HEAD)

    def document(self) -> bytes:
        """The whole file, unpacked."""
        with self._open() as file:
            data = file.read(MAX_DOCUMENT + 1)
        self._bound(len(data), MAX_DOCUMENT)
        return data.removeprefix(b"\xef\xbb\xbf")

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Line number and line, without empty ones."""
        total = number = 0
        with self._open() as file:
            while line := file.readline(MAX_LINE + 1):
                number += 1
                total += len(line)
                self._bound(total, MAX_BYTES)
                if len(line) > MAX_LINE:
                    self.broken(number, "", f"expected a line of at most {MAX_LINE} bytes")
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_LINE)
                        total += len(line)
                        self._bound(total, MAX_BYTES)
                    continue
                text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
                if text:
                    yield number, text

    def csv(self, kind: type[Item]) -> Iterator[tuple[int, Item]]:
        """Line number and row of a CSV with a heading; numbers and times read from text."""
        number = 0

        def text() -> Iterator[str]:
            nonlocal number
            for number, line in self.lines():  # noqa: B007
                yield line.decode(errors="replace")

        reader = csv.reader(text())
        try:
            heading = [name.strip() for name in next(reader, [])]
            need = [f.encode_name for f in msgspec.structs.fields(kind) if f.required]  # type: ignore[arg-type]
            if missing := [name for name in need if name not in heading]:
                raise SpecError(f"no column {', '.join(missing)}", where=f"{self.path}:1", hint=f"it has {heading}")
            for cells in reader:
                try:
                    yield number, msgspec.convert(dict(zip(heading, cells, strict=False)), kind, strict=False)
                except ValueError as error:
                    self._say(number, error)
        except csv.Error as error:
            raise SpecError(f"not CSV: {error}", where=f"{self.path}:{number}") from None

    def _bound(self, size: int, most: int) -> None:
        if size > most:
            raise SpecError(f"more than {most} bytes when unpacked", where=str(self.path), hint="cut it into parts")
