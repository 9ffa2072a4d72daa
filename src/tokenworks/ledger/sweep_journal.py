"""The files of a sweep: a journal of finished points beside the Parquet file, and the Parquet file at the end."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tokenworks.errors import SpecError
from tokenworks.ledger.sweep_paths import SweptPath
from tokenworks.specs.save import must_be_writable, saved
from tokenworks.specs.shown import Record


@dataclass(frozen=True, slots=True)
class SweepStamp:
    """What a file must say so that its points belong to a sweep.

    Parameters
    ----------
    version : version of tokenworks
    sweep : hash of the sweep
    """

    version: str
    sweep: str


Rows = dict[int, Record]
"""Number of a point -> its record."""

JOURNAL, PARQUET = "tokenworks.sweep-journal/1", "tokenworks.sweep/1"
METADATA = b"tokenworks.sweep"
ANEW = "name another file, or delete this one to compute the sweep again"


def must_have_pyarrow(where: str) -> None:
    """Refuse a Parquet file if pyarrow is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        hint = 'install the extra, pip install "tokenworks[sweep]"'
        raise SpecError("Parquet needs pyarrow, which is not installed", where=where, hint=hint)


class SweepJournal:
    """Finished points on disk. After a crash, a sweep goes on from here.

    The first line names the sweep. Each other line is the checksum of a record, and the record. A line that a crash cut
    off is at the end of the file, and is computed again.

    Parameters
    ----------
    parquet : path of the Parquet file; the journal lies beside it
    stamp : version and hash of the sweep
    """

    def __init__(self, parquet: Path, stamp: SweepStamp) -> None:
        self.path = parquet.with_name(f"{parquet.name}.journal")
        self.head = {"schema": JOURNAL, **asdict(stamp)}
        self.rows: Rows = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> SweepJournal:
        must_be_writable(self.path)
        try:
            file = self.path.open("a+b")
        except OSError as error:
            raise SpecError(f"cannot be written: {error.strerror or error}", where=str(self.path)) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            hint = "wait for its end, or name another Parquet file"
            raise SpecError("another sweep writes this file", where=str(self.path), hint=hint) from None
        self._file = file
        try:
            self._read(file)
        except BaseException:
            file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            if not self.rows:  # an empty journal helps nobody
                self.remove()
            self._file.close()

    def add(self, rows: Iterable[tuple[int, Record]]) -> None:
        """Keep finished points on disk before the sweep goes on."""
        assert self._file is not None
        lines = []
        for number, record in rows:
            self.rows[number] = record
            lines.append(_line([number, record]))
        try:
            self._file.write(b"".join(lines))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            hint = "the same command goes on from here, when the disk has space"
            raise SpecError(f"cannot be written: {error.strerror or error}", where=str(self.path), hint=hint) from None

    def remove(self) -> None:
        """Delete the journal: the Parquet file has all points."""
        self.path.unlink(missing_ok=True)

    def _read(self, file: IO[bytes]) -> None:
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
        good = 0
        for count, line in enumerate(lines):
            value = _value(line)
            if value is None:
                if count < len(lines) - 1:
                    raise SpecError("is damaged", where=f"{self.path}: line {count + 1}", hint=ANEW)
                break
            if count == 0:
                must_be_of(value, self.head, self.path)
            else:
                number, record = value
                self.rows[int(number)] = record
            good += len(line)
        file.truncate(good)
        if not good:
            file.write(_line(self.head))
            file.flush()
            os.fsync(file.fileno())


def _line(value: Any) -> bytes:
    """A value as a line: its checksum, and its JSON."""
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _value(line: bytes) -> Any:
    """The value of a line; None if the line is not complete."""
    check, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or check != b"%08x" % zlib.crc32(text):
        return None
    return json.loads(text)


def must_be_of(data: Any, head: Mapping[str, Any], path: Path) -> None:
    """Refuse a file of another sweep, or of another version of this program.

    Parameters
    ----------
    data : what the file says about its sweep
    head : what the file of this sweep says
    path : the file
    """
    if not isinstance(data, Mapping) or data.get("schema") != head["schema"]:
        raise SpecError("is not a file of a sweep of this version", where=str(path), hint=ANEW)
    if data.get("version") != head["version"]:
        words = f"was written by tokenworks {data.get('version')}, and this is {head['version']}"
        raise SpecError(words, where=str(path), hint=ANEW)
    if data.get("sweep") != head["sweep"]:
        words = "has the points of another sweep: the sweep file, or a file that it names, has changed"
        raise SpecError(words, where=str(path), hint=ANEW)


# ── Parquet ───────────────────────────────────────────────────────────────────────────────────────────────────────


def read_parquet(path: Path, stamp: SweepStamp) -> list[Record] | None:
    """The records of a finished sweep; None if there is no file yet.

    Parameters
    ----------
    path : the Parquet file
    stamp : version and hash of the sweep

    Raises
    ------
    SpecError : the file is no Parquet file, or belongs to another sweep or version
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return None
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(f"cannot be read as Parquet: {words}", where=str(path), hint=ANEW) from None
    data = (table.schema.metadata or {}).get(METADATA, b"null")
    must_be_of(json.loads(data), {"schema": PARQUET, **asdict(stamp)}, path)
    records: list[Record] = table.to_pylist()
    return records


def write_parquet(path: Path, stamp: SweepStamp, records: Sequence[Record], paths: Mapping[str, SweptPath]) -> None:
    """Write the Parquet file, completely or not at all. Equal records give equal bytes.

    Parameters
    ----------
    path : the Parquet file
    stamp : version and hash of the sweep
    records : the records of all points, in order, all with the same keys
    paths : the swept paths; the unit of a path becomes metadata of its column
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields, arrays = [], []
    for name in records[0]:
        values = [record[name] for record in records]
        kind = _kind(values)
        typed = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}[kind]
        arrays.append(pa.array(values, typed))
        unit = paths[name].unit if name in paths else None
        fields.append(pa.field(name, typed, metadata={"unit": unit} if unit else None))
    head = {"schema": PARQUET, **asdict(stamp)}
    schema = pa.schema(fields, metadata={METADATA: json.dumps(head)})
    with saved(path) as part:
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), part)


def _kind(values: Iterable[Any]) -> type:
    """The type of a column: the narrowest one that holds all its values."""
    values = list(values)
    kinds = {type(value) for value in values if value is not None}
    if not kinds or kinds in ({float}, {int, float}):
        return float
    if kinds == {int}:
        return int if all(value is None or abs(value) < 2**63 for value in values) else float
    return bool if kinds == {bool} else str


def aligned(rows: Rows, points: int) -> list[Record]:
    """The records of all points in order, all with the same keys and types; None where a record has no value."""
    names = dict.fromkeys(name for number in range(points) for name in rows[number])
    last = ("exit_code", "error")
    columns: dict[str, list[Any]] = {}
    for name in (*(name for name in names if name not in last), *last):
        values = [rows[number].get(name) for number in range(points)]
        kind = _kind(values)
        columns[name] = [None if value is None else kind(value) for value in values]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
