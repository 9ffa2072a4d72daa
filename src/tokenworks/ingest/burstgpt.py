"""BurstGPT CSV: Timestamp [s], Request tokens, Response tokens; a failed request has a response of 0 and is left out.

Format: HPMLL/BurstGPT, data/BurstGPT_*.csv (arXiv:2401.17644). A column `class` is our own addition.
"""

from __future__ import annotations

import msgspec

from tokenworks.ingest.rows import ClassName, Rows, Seconds, Tokens
from tokenworks.ingest.table import Table
from tokenworks.specs.trace import Trace


class Row(msgspec.Struct):
    """One line."""

    time: Seconds = msgspec.field(name="Timestamp")
    request: Tokens = msgspec.field(name="Request tokens")
    response: Tokens = msgspec.field(name="Response tokens")
    kind: ClassName = msgspec.field(name="class", default="")


def read(rows: Rows) -> Trace:
    """Read a BurstGPT trace."""
    table = Table()
    for line, row in rows.csv(Row):
        rows.in_order(line, row.time)
        table.add(row.time, row.request, row.response, kind=row.kind)
    return table.trace(rows)
