"""Reader for TraceLab round traces: one model call a line, with the tokens that the provider's cache served, no hashes.

Format: uw-syfi/TraceLab, round_trace.jsonl. The reader generates block ids: a call shares as many tokens with the call
before it in its session as the provider's cache served. Cached tokens of the first call of a session are taken as a
prefix that all sessions of this model share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from tokenworks.ingest.rows import Rows, Tokens
from tokenworks.ingest.table import Table
from tokenworks.specs.trace import MAX_TOKENS, Trace

BLOCK = 64
SPACE = MAX_TOKENS // BLOCK
INPUTS = {"user_message", "tool_result"}
NOTES = (f"assumed: shared blocks of {BLOCK} tokens, from the hits of the provider's cache; the file has no hashes",)

Prefix = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class Event(msgspec.Struct):
    """One event of a call, with its time."""

    event_type: str
    timestamp: datetime


class Round(msgspec.Struct):
    """One line of the file."""

    session_id: str
    model: str
    input_tokens_total: Tokens
    prefix_tokens: Prefix
    output_tokens: Tokens
    timing_events: Annotated[list[Event], msgspec.Meta(min_length=1)]


@dataclass(slots=True)
class RecordedSession:
    """State of a session: its number, its last call, the end of that call [s], and the block runs of its context."""

    number: int
    parent: int = -1
    end_s: float = 0.0
    runs: list[tuple[int, int]] = field(default_factory=list)


def read(rows: Rows) -> Trace:
    """Read TraceLab rounds. Calls of a session are in order; calls of several sessions may be mixed."""
    table, decoder = Table(), msgspec.json.Decoder(Round)
    sessions: dict[str, RecordedSession] = {}
    models: dict[str, int] = {}
    free = 0
    for line, data in rows.lines():
        row = rows.decode(line, data, decoder)
        if row is None:
            continue
        session = sessions.setdefault(row.session_id, RecordedSession(len(sessions)))
        blocks, served = row.input_tokens_total // BLOCK, min(row.prefix_tokens, row.input_tokens_total) // BLOCK
        if session.parent < 0:
            session.runs = [(models.setdefault(row.model, len(models)) * SPACE, served)]
        session.runs = cut(session.runs, served)
        fresh = blocks - sum(length for _, length in session.runs)
        if fresh:  # the first ids belong to models; the own ids of sessions are far above them
            session.runs.append(((1 << 40) + free, fresh))
            free += fresh
        start, end = span(row.timing_events)
        session.parent = table.add(
            start,
            row.input_tokens_total,
            row.output_tokens,
            session=session.number,
            parent=session.parent,
            think_s=max(0.0, start - session.end_s) if session.parent >= 0 else 0.0,
            runs=session.runs,
        )
        session.end_s = end
    return table.trace(rows, hash_block_tokens=BLOCK if table.run_start else 0, notes=NOTES)


def cut(runs: list[tuple[int, int]], blocks: int) -> list[tuple[int, int]]:
    """The first `blocks` blocks of the runs."""
    kept = []
    for start, length in runs:
        if blocks <= 0:
            break
        kept.append((start, min(length, blocks)))
        blocks -= length
    return kept


def span(events: list[Event]) -> tuple[float, float]:
    """Time at which the call was sent (its last input event), and time of its end, since 1970 [s]."""
    times = [(e.timestamp if e.timestamp.tzinfo else e.timestamp.replace(tzinfo=UTC)).timestamp() for e in events]
    sent = [time for time, event in zip(times, events, strict=True) if event.event_type in INPUTS]
    return max(sent, default=times[0]), max(times)
