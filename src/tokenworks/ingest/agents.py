"""Reader for coding-agent sessions of kv-cache-tester (Weka): one session a line, with nested sub-agents.

Format: callanjfox/kv-cache-tester, traces. Hashes of full blocks are runs, `hash_rl = [start, length, ...]`. They are
valid inside one session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from tokenworks.ingest.rows import Rows, Seconds
from tokenworks.ingest.table import Table
from tokenworks.specs.trace import MAX_TOKENS, Trace

RunNumber = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class Call(msgspec.Struct, tag_field="type", tag="n"):
    """One request. `t` is the time since the start of its session or sub-agent [s]."""

    t: Seconds
    input: int = msgspec.field(name="in")
    output: int = msgspec.field(name="out")
    hash_rl: list[RunNumber]
    api_time: Seconds | None = None
    think_time: Seconds | None = None


class StreamedCall(Call, tag_field="type", tag="s"):
    """One request with a streamed answer."""


class SubAgent(msgspec.Struct, tag_field="type", tag="subagent"):
    """A sub-agent. `t` is the time of its end; without a duration (asynchronous), `t` is the time of its start [s]."""

    t: Seconds
    duration_ms: Seconds | None
    requests: list[Call | StreamedCall]


class AgentSession(msgspec.Struct):
    """One line of the file."""

    block_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    hash_id_scope: Literal["local"]
    requests: list[Call | StreamedCall | SubAgent]
    duplicate_of: str | None = None


@dataclass(frozen=True, slots=True)
class Last:
    """The request that the next request waits for, and the time of the end of its answer [s]."""

    index: int = -1
    end_s: float = 0.0


def read(rows: Rows) -> Trace:
    """Read agent sessions. All sessions start at 0, because the file has no start times. Duplicates are left out."""
    table, decoder = Table(), msgspec.json.Decoder(AgentSession)
    sessions = duplicates = base = block = 0
    for line, data in rows.lines():
        session = rows.decode(line, data, decoder)
        if session is None:
            continue
        if session.duplicate_of is not None:
            duplicates += 1
            continue
        block = block or session.block_size
        if session.block_size != block:
            rows.broken(line, "block_size", f"expected {block}, like the sessions before")
            continue
        base = _Reader(rows, table, line, sessions, base, block).read(session)
        sessions += 1
    notes = ["all sessions start at 0: the file has no start times"]
    if duplicates:
        notes.append(f"{duplicates} sessions left out: the file marks them as duplicates of other sessions")
    return table.trace(rows, hash_block_tokens=block, undated=True, notes=tuple(notes))


@dataclass(slots=True)
class _Reader:
    """Reads one session. `base` is the first free block id."""

    rows: Rows
    table: Table
    line: int
    session: int
    base: int
    block: int
    width: int = 0

    def read(self, session: AgentSession) -> int:
        """Add all requests of the session, and return the first free block id.

        The next turn of the session waits for its last turn, and for the sub-agents between these turns: for the one
        that ends last. No turn waits for an asynchronous sub-agent.
        """
        own = waits = Last()
        agents = 0
        for item in session.requests:
            if not isinstance(item, SubAgent):
                own = waits = self.call(item, 0.0, waits, 0, own.index == waits.index)
                continue
            agents += 1
            start = item.t if item.duration_ms is None else max(0.0, item.t - item.duration_ms / 1000)
            last = own
            for k, call in enumerate(item.requests):
                last = self.call(call, start, last, agents, k > 0)
            if item.duration_ms is not None and last.end_s >= waits.end_s:
                waits = last
        return self.base + self.width

    def call(self, call: Call, start_s: float, after: Last, agent: int, same: bool) -> Last:
        """Add one request that waits for `after`.

        Parameters
        ----------
        call : the request
        start_s : start of the session or sub-agent [s]
        after : request that it waits for
        agent : 0 for the session itself, else the number of the sub-agent
        same : True if `after` is a request of the same agent; only then the recorded think time counts
        """
        if not self.sound(call):
            return after
        sent = start_s + call.t
        think = call.think_time if same and call.think_time is not None else max(0.0, sent - after.end_s)
        runs = list(zip(call.hash_rl[::2], call.hash_rl[1::2], strict=True))
        self.width = max([self.width, *(start + length for start, length in runs)])
        index = self.table.add(
            sent,
            call.input,
            call.output,
            session=self.session,
            agent=agent,
            parent=after.index,
            think_s=think if after.index >= 0 else 0.0,
            runs=[(self.base + start, length) for start, length in runs],
        )
        return Last(index, sent + (call.api_time or 0.0))

    def sound(self, call: Call) -> bool:
        """True if lengths and hashes are possible. Otherwise the request is left out."""
        runs = call.hash_rl[1::2]
        within, line = self.rows.within, self.line
        if not within(line, "requests[].in", call.input, 1, MAX_TOKENS):
            return False
        if not within(line, "requests[].out", call.output, 1, MAX_TOKENS):
            return False
        if len(call.hash_rl) % 2 or 0 in runs or sum(runs) != call.input // self.block:
            words = f"expected runs with one hash for each {self.block} tokens of `in`"
            self.rows.broken(line, "requests[].hash_rl", words)
            return False
        return True
