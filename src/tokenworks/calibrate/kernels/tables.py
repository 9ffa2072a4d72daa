"""Find, read and check the Parquet tables of single kernels in the package aiconfigurator-core; drop repeated rows.

    ROOT/<system>/<family>/<backend>/<version>/<name>.parquet

`operations` interprets the tables. This module reports damaged files and keeps the fastest kernel of equal shapes.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.errors import SpecError

WHEEL = "aiconfigurator-core"
EXTRA = "pip install 'tokenworks[kernels]'"


def find_tables(directory: Path | None) -> Path:
    """Directory of the kernel tables.

    Parameters
    ----------
    directory : directory of unpacked tables; None for the tables of the installed package

    Raises
    ------
    SpecError : the directory has no tables, or the package is not installed
    """
    if directory is not None:
        if not any(directory.glob("*/*/*/*/*.parquet")):
            raise SpecError("holds no kernel tables", where=str(directory),
                            hint="it needs files SYSTEM/FAMILY/BACKEND/VERSION/NAME.parquet")  # fmt: skip
        return directory
    package = importlib.util.find_spec(WHEEL.replace("-", "_"))
    if package is None or not package.submodule_search_locations:
        raise SpecError(f"the kernel tables are in the package {WHEEL}, which is not installed", hint=EXTRA)
    return Path(package.submodule_search_locations[0]) / "systems" / "data"


@dataclass(frozen=True)
class Frame:
    """Columns of equal length, from one or several tables; with the columns `backend` and `version`."""

    columns: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def where(self, keep: Any) -> Frame:
        """The rows that a mask keeps."""
        return Frame({name: column[keep] for name, column in self.columns.items()})

    def groups(self, keys: Sequence[str]) -> Any:
        """Group number of each row: rows with equal keys have equal numbers.

        Parameters
        ----------
        keys : names of the key columns
        """
        codes = np.zeros(len(self), np.int64)
        for key in keys:
            _, code = np.unique(self[key], return_inverse=True)
            _, codes = np.unique(codes * (int(code.max(initial=0)) + 1) + code, return_inverse=True)
        return codes

    def best(self, keys: Sequence[str], value: str) -> Frame:
        """The fastest row of each shape, without repeated rows and slower kernels of other engines.

        Parameters
        ----------
        keys : names of the columns that define a shape
        value : name of the time column
        """
        codes = self.groups(keys)
        order = np.lexsort((self[value], codes))
        first = np.ones(len(order), bool)
        first[1:] = np.diff(codes[order]) > 0
        return self.where(order[first])


@dataclass(frozen=True, slots=True)
class KernelTable:
    """A table file.

    Parameters
    ----------
    path : path below the directory of the tables
    rows, repeated : number of rows, and of repeated rows
    sha256 : hash of the file
    """

    path: str
    rows: int
    repeated: int
    sha256: str


@dataclass
class Tables:
    """The tables below `root`; used : the tables that were read, by path."""

    root: Path
    used: dict[str, KernelTable] = field(default_factory=dict)

    def systems(self) -> list[str]:
        """Names of the systems with tables."""
        return sorted(path.name for path in self.root.iterdir() if any(path.glob("*/*/*/*.parquet")))

    def read(self, system: str, family: str, name: str, keys: Sequence[str], value: str) -> Frame | None:
        """All tables with a name, one below the other; None without tables.

        Parameters
        ----------
        system, family, name : parts of the path of the tables
        keys : names of the columns that define a shape
        value : name of the time column; times are above zero
        """
        files = sorted(self.root.glob(f"{system}/{family}/*/*/{name}.parquet"))
        frames = [self._one(path, keys, value) for path in files]
        if not frames:
            return None
        return Frame({column: np.concatenate([frame[column] for frame in frames]) for column in frames[0].columns})

    def _one(self, path: Path, keys: Sequence[str], value: str) -> Frame:
        table = _parquet(path, [*keys, value])
        backend, version = path.parts[-3:-1]
        rows = table.num_rows
        frame = Frame(
            {name: _column(table, name, path) for name in keys}
            | {value: _times(_column(table, value, path), value, path)}
            | {"backend": np.full(rows, backend), "version": np.full(rows, version)}
        )
        repeated = rows - len(np.unique(frame.groups([*keys, value])))
        where = str(path.relative_to(self.root))
        self.used[where] = KernelTable(where, rows, repeated, hashlib.sha256(path.read_bytes()).hexdigest())
        return frame


def _parquet(path: Path, columns: Sequence[str]) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise SpecError("reading Parquet needs pyarrow, which is not installed", where=str(path), hint=EXTRA) from None
    try:
        held = parquet.read_schema(path).names
        if missing := [name for name in columns if name not in held]:
            raise SpecError(f"has no column {', '.join(missing)}", where=str(path), hint=f"it has {', '.join(held)}")
        return parquet.read_table(path, columns=list(columns), partitioning=None)
    except (ArrowException, OSError) as error:
        raise SpecError(f"is no Parquet table: {str(error).splitlines()[0]}", where=str(path)) from None


def _column(table: Any, name: str, path: Path) -> Any:
    column = table[name]
    if column.null_count:
        raise SpecError(f"{column.null_count} rows of column {name} are empty", where=str(path))
    values = np.asarray(column.to_numpy())
    return values.astype(str) if values.dtype == object else values


def _times(values: Any, name: str, path: Path) -> Floats:
    if not np.issubdtype(values.dtype, np.number):
        raise SpecError(f"column {name} holds {values.dtype}, not numbers", where=str(path))
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise SpecError(f"row {row}: {name} is {values[row]}", where=str(path), hint="a time is above 0")
    return np.asarray(values, float)
