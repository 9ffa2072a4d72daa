"""Reader for ShareGPT JSON: conversations as text. Lengths are estimates, and there are no times.

Format: a list of {"id", "conversations": [{"from", "value"}]}, like anon8231489123/ShareGPT_Vicuna_unfiltered.
"""

from __future__ import annotations

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.rows import UNDECODABLE, Rows
from tokenworks.ingest.table import Table
from tokenworks.specs.trace import MAX_TOKENS, Trace

BYTES_PER_TOKEN = 4
BLOCK = 16
ANSWERS = {"gpt", "chatgpt", "bing", "bard", "assistant"}
NOTES = (
    f"assumed: lengths are UTF-8 bytes / {BYTES_PER_TOKEN}, the usual rule of thumb for English; no tokenizer was run",
    "assumed: every conversation starts at 0 and its turns follow without think time; the file has no times",
)


class Message(msgspec.Struct):
    """One message of a conversation."""

    speaker: str = msgspec.field(name="from")
    value: str


class Conversation(msgspec.Struct):
    """One conversation of the list."""

    conversations: list[Message]


def read(rows: Rows) -> Trace:
    """Read conversations. Each answer is a request. Its input is all text before the answer."""
    try:
        records = msgspec.json.decode(rows.document(), type=list[msgspec.Raw])
    except UNDECODABLE as error:
        raise SpecError(f"not a JSON list: {error}", where=str(rows.path), hint="is the file complete?") from None
    table, decoder, blocks = Table(), msgspec.json.Decoder(Conversation), 0
    for number, record in enumerate(records, 1):
        row = rows.decode(number, record, decoder)
        if row is None:
            continue
        text_bytes, parent = 0, -1
        for message in row.conversations:
            size = len(message.value.encode())
            before, after = tokens(text_bytes), tokens(size)
            if message.speaker in ANSWERS and text_bytes and size and max(before, after) <= MAX_TOKENS:
                runs = [(blocks, before // BLOCK)] if before >= BLOCK else []
                parent = table.add(0.0, before, after, session=number - 1, parent=parent, runs=runs)
            text_bytes += size
        if parent < 0:
            rows.broken(number, "conversations", "expected a message and an answer to it")
        blocks += tokens(text_bytes) // BLOCK + 1
    return table.trace(rows, hash_block_tokens=BLOCK if table.run_start else 0, undated=True, notes=NOTES)


def tokens(size: int) -> int:
    """Estimated tokens of a text of `size` bytes, at least 1."""
    return max(1, round(size / BYTES_PER_TOKEN))
