"""Reader for Mooncake JSONL: timestamp [ms], lengths, and chained hashes of blocks of 512 tokens. The last block may be
only partly filled.

Format: kvcache-ai/Mooncake, FAST25-release/traces. Our own files may have one more field, `class`. Files of other tools
may have no hash_ids, or empty ones.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import msgspec

from tokenworks.ingest.rows import ClassName, Rows, Seconds, Tokens
from tokenworks.ingest.table import Runs, Table
from tokenworks.specs.trace import Trace

BLOCK = 512
BlockId = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class MooncakeRow(msgspec.Struct):
    """One line of the file."""

    timestamp: Seconds
    input_length: Tokens
    output_length: Tokens
    hash_ids: list[BlockId] = []
    kind: ClassName = msgspec.field(name="class", default="")


def read(rows: Rows) -> Trace:
    """Read a Mooncake trace."""
    table, decoder, bare = Table(), msgspec.json.Decoder(MooncakeRow), 0
    for line, data in rows.lines():
        row = rows.decode(line, data, decoder)
        if row is None:
            continue
        if row.hash_ids and len(row.hash_ids) != -(-row.input_length // BLOCK):
            words = f"expected one hash for each {BLOCK} tokens of input_length, and one for the rest"
            rows.broken(line, "hash_ids", words)
            continue
        bare += not row.hash_ids
        rows.in_order(line, row.timestamp)
        runs = runs_of(row.hash_ids)
        table.add(row.timestamp / 1000, row.input_length, row.output_length, runs=runs, kind=row.kind)
    notes = (f"{bare} requests have no hash_ids: they share no blocks with other requests",) if bare else ()
    return table.trace(rows, hash_block_tokens=BLOCK if table.run_start else 0, notes=notes)


def runs_of(ids: list[int]) -> Runs:
    """Ids as runs of consecutive ids: [0, 14, 15, 16] -> [(0, 1), (14, 3)]."""
    if not ids:
        return ()
    breaks = [i for i, (a, b) in enumerate(pairwise(ids), 1) if b != a + 1]
    return [(ids[a], b - a) for a, b in pairwise([0, *breaks, len(ids)])]
