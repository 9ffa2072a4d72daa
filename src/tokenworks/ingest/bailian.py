"""Reader for Qwen-Bailian JSONL: timestamps in seconds, chained hashes of blocks of 16 tokens, turns of conversations.

Format: alibaba-edu/qwen-bailian-usagetraces-anon. The last block of a request may be only partly filled. A follow-up
turn names its parent by `parent_chat_id`; the first turn has the parent -1. The file has no times of answers.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from tokenworks.ingest.mooncake import BlockId, runs_of
from tokenworks.ingest.rows import ClassName, Rows, Seconds, Tokens
from tokenworks.ingest.table import Table
from tokenworks.specs.trace import Trace

BLOCK = 16
ROOT = -1
THINK = "assumed: the pause before a turn is the time since its parent was sent: the file has no times of answers"

ChatId = Annotated[int, msgspec.Meta(ge=-1, le=1 << 62)]


class BailianRow(msgspec.Struct):
    """One line of the file. `type` is the class of the request: text, search, image, file ..."""

    chat_id: ChatId
    parent_chat_id: ChatId
    timestamp: Seconds
    input_length: Tokens
    output_length: Tokens
    hash_ids: list[BlockId]
    kind: ClassName = msgspec.field(name="type", default="")


def read(rows: Rows) -> Trace:
    """Read a Qwen-Bailian trace. A turn waits for its parent, and then for the recorded time between the two."""
    decoder, good = msgspec.json.Decoder(BailianRow), list[BailianRow]()
    for line, data in rows.lines():
        row = rows.decode(line, data, decoder)
        if row is None:
            continue
        if len(row.hash_ids) != -(-row.input_length // BLOCK):
            words = f"expected one hash for each {BLOCK} tokens of input_length, and one for the rest"
            rows.broken(line, "hash_ids", words)
            continue
        rows.in_order(line, row.timestamp)
        good.append(row)
    good.sort(key=lambda row: row.timestamp)
    return _table(good).trace(rows, hash_block_tokens=BLOCK, notes=_notes(good))


def _table(good: list[BailianRow]) -> Table:
    """A table of the requests, which must be in order of time.

    `place` has the index, the time [s] and the session of each chat that is in the table.
    """
    table = Table()
    place: dict[int, tuple[int, float, int]] = {}
    for row in good:
        index, sent, session = place.get(row.parent_chat_id, (-1, row.timestamp, len(place)))
        added = table.add(
            row.timestamp,
            row.input_length,
            row.output_length,
            session=session,
            parent=index,
            think_s=row.timestamp - sent,
            runs=runs_of(row.hash_ids),
            kind=row.kind,
        )
        place[row.chat_id] = (added, row.timestamp, session)
    return table


def _notes(good: list[BailianRow]) -> tuple[str, ...]:
    """Notes about pauses between turns, and about turns whose parent is missing."""
    known, turns, orphans = set[int](), 0, 0
    for row in good:
        if row.parent_chat_id != ROOT:
            turns += row.parent_chat_id in known
            orphans += row.parent_chat_id not in known
        known.add(row.chat_id)
    lost = f"{orphans} requests name a parent that is not before them in the file: they count as first turns"
    return (*((THINK,) if turns else ()), *((lost,) if orphans else ()))
