"""Reader for the BurstGPT CSV: Timestamp [s], Request tokens, Response tokens. Failed requests (no response tokens) are
left out.

Format: HPMLL/BurstGPT, data/BurstGPT_*.csv (arXiv:2401.17644). Our own files may have one more column, `class`.
"""

from __future__ import annotations

import msgspec

from tokenworks.ingest import columns
from tokenworks.ingest.rows import Rows, Seconds, Tokens
from tokenworks.specs.trace import Trace


class BurstGptRow(columns.CsvRow):
    """One line of the file."""

    time: Seconds = msgspec.field(name="Timestamp")
    input: Tokens = msgspec.field(name="Request tokens")
    output: Tokens = msgspec.field(name="Response tokens")


def read(rows: Rows) -> Trace:
    """Read a BurstGPT trace."""
    return columns.read(rows, BurstGptRow)
