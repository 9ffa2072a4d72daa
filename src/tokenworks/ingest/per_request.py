"""Reader for files of `simulate --per-request`: the requests of a simulation, as CSV or Parquet, played once more.

The reader takes arrival, requested lengths and class. Times of the simulation are results, so they are not read.
"""

from __future__ import annotations

import importlib.util
import io
import re
from typing import Any

import msgspec
import numpy as np

from tokenworks.errors import SpecError
from tokenworks.ingest import columns
from tokenworks.ingest.rows import Rows, Seconds, Tokens
from tokenworks.ingest.table import Table
from tokenworks.specs.slo import CLASS_NAME
from tokenworks.specs.trace import MAX_TOKENS, Trace

NOTE = (
    "the file has no block hashes and no parents: requests share no prefixes, and each is sent at its time in the "
    "simulation"
)
NEEDED = ("arrival_s", "input_tokens", "output_tokens")
MOST_SECONDS = 1e12


class SimulatedRequest(columns.CsvRow):
    """One line of a CSV."""

    time: Seconds = msgspec.field(name="arrival_s")
    input: Tokens = msgspec.field(name="input_tokens")
    output: Tokens = msgspec.field(name="output_tokens")


def read(rows: Rows) -> Trace:
    """Read a CSV. A request that the simulation never sent has no arrival, and is left out."""
    return columns.read(rows, SimulatedRequest, notes=(NOTE,))


def read_parquet(rows: Rows) -> Trace:
    """Read a Parquet file, which needs pyarrow."""
    where = str(rows.path)
    if importlib.util.find_spec("pyarrow") is None:
        hint = 'install the extra, pip install "tokenworks[parquet]", or write a .csv with --per-request'
        raise SpecError("Parquet needs pyarrow, which is not installed", where=where, hint=hint)
    data = _columns(rows)
    times, *lengths = (data[name] for name in NEEDED)
    kinds = data.get("class", np.full(len(times), "", object))
    good = np.isfinite(times) & (times >= 0) & (times <= MOST_SECONDS)
    for row in np.flatnonzero(~good).tolist():
        rows.broken(row + 1, "arrival_s", "expected a time: the request was not sent")
    for name, values in zip(NEEDED[1:], lengths, strict=True):
        sound = (values >= 1) & (values <= MAX_TOKENS) & (values == np.rint(values))
        for row in np.flatnonzero(good & ~sound).tolist():
            rows.broken(row + 1, name, f"expected 1 to {MAX_TOKENS}")
        good &= sound
    table = Table()
    at = np.flatnonzero(good)
    rows.all_in_order(at + 1, times[at])
    table.extend(times[at], lengths[0][at].astype(np.int64), lengths[1][at].astype(np.int64), _classes(kinds[at]))
    return table.trace(rows, notes=(NOTE,))


def _columns(rows: Rows) -> dict[str, Any]:
    """The columns that are read, as arrays; missing numbers are NaN."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = str(rows.path)
    try:
        file = pq.ParquetFile(io.BytesIO(rows.document()))
        names = file.schema_arrow.names
        if missing := [name for name in NEEDED if name not in names]:
            hint = f"it has {', '.join(names[:8])}; give a file of `simulate --per-request`"
            raise SpecError(f"no column {', '.join(missing)}", where=where, hint=hint)
        wanted = [*NEEDED, *(["class"] if "class" in names else [])]
        table = file.read(wanted)
        numbers = {name: table[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in NEEDED}
        kinds = {name: np.array(table[name].cast(pa.string()).to_pylist(), object) for name in wanted[3:]}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SpecError(f"cannot be read: {error}", where=where, hint="is the file complete?") from None
    return numbers | kinds


def _classes(kinds: Any) -> Any:
    """Names of classes as bytes; a name that is no class name is an empty one."""
    names = {kind: kind if kind and re.fullmatch(CLASS_NAME, kind) else "" for kind in set(kinds.tolist())}
    return np.array([names[kind].encode() for kind in kinds.tolist()], np.bytes_)
