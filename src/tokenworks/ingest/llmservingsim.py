"""Reader for LLMServingSim bench JSONL: requests of a run on a real engine, with arrival_time [s] and lengths.

Format: casys-kaist/LLMServingSim, bench/examples/*/requests.jsonl.
"""

from __future__ import annotations

import msgspec

from tokenworks.ingest.rows import Rows, Seconds, Tokens
from tokenworks.ingest.table import Table
from tokenworks.specs.trace import Trace


class SimulatedRow(msgspec.Struct):
    """One line of the file."""

    arrival_time: Seconds
    input_toks: Tokens
    output_toks: Tokens


def read(rows: Rows) -> Trace:
    """Read the requests of a recorded run."""
    table, decoder = Table(), msgspec.json.Decoder(SimulatedRow)
    for line, data in rows.lines():
        row = rows.decode(line, data, decoder)
        if row is not None:
            rows.in_order(line, row.arrival_time)
            table.add(row.arrival_time, row.input_toks, row.output_toks)
    return table.trace(rows)
