"""Requests of a recorded run: start, end and lengths of each request, as a trace. Readers of several clients use it."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Floats, Ints
from tokenworks.ingest.rows import Rows
from tokenworks.ingest.table import Table
from tokenworks.specs.trace import Trace


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request of a run.

    Parameters
    ----------
    start_s, end_s : time at which the request was sent, and time of its last token, on any clock [s]
    input_tokens, output_tokens : lengths [token]
    conversation : name of the conversation that the request belongs to; empty if none
    """

    start_s: float
    end_s: float
    input_tokens: int
    output_tokens: int
    conversation: str = ""


def trace_of(
    rows: Rows, requests: Sequence[RecordedRequest], *, slots: int = 0, notes: Sequence[str] = (), undated: bool = False
) -> Trace:
    """The trace of a run.

    A turn of a conversation waits for the turn before it. In a closed loop without conversations, a request waits for
    the request whose slot it takes. All other requests are sent at their recorded times.

    Parameters
    ----------
    rows : the file
    requests : the requests of the run, in any order
    slots : most requests in flight of a closed loop; 0: the client did not wait for answers [count]
    notes : assumptions of the reader
    undated : True if the file has no start times
    """
    base = min((one.start_s for one in requests), default=0.0)
    ordered = sorted(requests, key=lambda one: one.start_s)
    turns = Counter(one.conversation for one in ordered if one.conversation)
    talks = any(count > 1 for count in turns.values())
    start = np.array([one.start_s for one in ordered]) - base
    end = np.array([one.end_s for one in ordered]) - base
    if slots and not talks:
        parent, think = freed_by(start, end, slots)
    else:
        parent, think = -np.ones(len(ordered), np.int64), 0 * end
    table, numbers, last = Table(), dict[str, int](), dict[str, int]()
    for k, one in enumerate(ordered):
        session, waits, pause = -1, int(parent[k]), float(think[k])
        if talks and one.conversation:
            session = numbers.setdefault(one.conversation, len(numbers))
            waits = last.get(one.conversation, -1)
            pause = max(0.0, float(start[k] - end[waits])) if waits >= 0 else 0.0
            last[one.conversation] = k
        table.add(
            float(start[k]), one.input_tokens, one.output_tokens, session=session, parent=waits, think_s=pause
        )  # fmt: skip
    return table.trace(rows, notes=tuple(notes), undated=undated)


def freed_by(start: Floats, end: Floats, slots: int) -> tuple[Ints, Floats]:
    """For a run with `slots` requests in flight: the request whose end let each request start, and the think time.

    The k-th start (from 0) takes the slot of the (k - slots)-th end.

    Parameters
    ----------
    start : start times in ascending order [s]
    end : end times of the same requests [s]
    slots : requests in flight [count]

    Returns
    -------
    Index of the parent of each request, -1 = none; and think times [s].
    """
    n = len(start)
    parent = np.full(n, -1)
    k = np.arange(slots, n)
    ended = np.argsort(end, kind="stable")[: len(k)]
    parent[slots:] = np.where(ended < k, ended, k - slots)  # times of a client can be wrong by microseconds
    think = np.where(parent >= 0, start - end[parent], 0.0)
    return parent, np.maximum(think, 0.0)


def starts_in_loop(durations: Sequence[float], slots: int) -> list[float]:
    """Start times of requests that a client sends in order, with `slots` requests in flight, without pauses [s].

    Parameters
    ----------
    durations : time from sending a request to its last token, in the order in which the requests are sent [s]
    slots : requests in flight [count]
    """
    ends: list[float] = []
    starts = []
    for duration in durations:
        now = heapq.heappop(ends) if len(ends) >= slots else 0.0
        starts.append(now)
        heapq.heappush(ends, now + duration)
    return starts
