"""`simulate --per-request FILE`: a row for each request, as CSV or Parquet."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenworks.errors import SpecError
from tokenworks.specs.save import must_be_writable, saved

if TYPE_CHECKING:
    from tokenworks.simulation.run import Simulation

CHUNK = 65_536


def check(path: Path) -> None:
    """Check before the simulation that the file can be written."""
    if path.suffix not in FORMATS:
        hint = "end the name in .csv or .parquet"
        raise SpecError("is neither .csv nor .parquet", where=f"--per-request {path}", hint=hint)
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        hint = 'install the extra, pip install "tokenworks[parquet]", or write a .csv'
        raise SpecError("Parquet needs pyarrow, which is not installed", where=f"--per-request {path}", hint=hint)
    must_be_writable(path)


def write(simulation: Simulation, path: Path) -> None:
    """Write one row per request. A time that does not exist, because the request did not get so far, is empty."""
    from tokenworks.simulation.per_request import columns

    with saved(path) as part:
        FORMATS[path.suffix](part, columns(simulation))


def _csv(path: Path, columns: dict[str, Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(columns)
        count = len(columns["rank"])
        for low in range(0, count, CHUNK):
            part = slice(low, low + CHUNK)
            rows.writerows(zip(*(_texts(key, values, part) for key, values in columns.items()), strict=True))


def _texts(key: str, values: Any, part: slice) -> Iterable[Any]:
    if key.endswith("_s"):
        return ("" if time != time else f"{time:.9g}" for time in values[part].tolist())  # noqa: PLR0124 - NaN
    if isinstance(values, tuple):
        words, index = values
        return (words[i] for i in index[part].tolist())
    numbers: list[int] = values[part].tolist()
    return numbers


def _parquet(path: Path, columns: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {
        key: pa.DictionaryArray.from_arrays(pa.array(values[1]), pa.array(values[0]))
        if isinstance(values, tuple)
        else pa.array(values, from_pandas=key.endswith("_s"))  # NaN becomes null
        for key, values in columns.items()
    }
    pq.write_table(pa.table(arrays), path)


FORMATS: dict[str, Callable[[Path, dict[str, Any]], None]] = {".csv": _csv, ".parquet": _parquet}
