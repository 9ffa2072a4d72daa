"""Columns to which a reader adds requests, and which become a sorted trace at the end of the file."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Floats, Ints
from tokenworks.errors import SpecError
from tokenworks.ingest.rows import Rows
from tokenworks.specs.slo import CLASSES
from tokenworks.specs.trace import Trace

Runs = Sequence[tuple[int, int]]
UNNAMED = "default"
"""Class of a row without a class, if other rows have one."""


class Table:
    """The columns of a future trace, as compact arrays without an object per request.

    A reader uses either `add`, for single requests, or `extend`, for arrays of requests, but not both.
    """

    def __init__(self) -> None:
        self.arrival, self.think = array("d"), array("d")
        self.input, self.output = array("i"), array("i")
        self.session, self.agent, self.parent = array("i"), array("i"), array("i")
        self.class_of, self.classes = array("b"), dict[str, int]()
        self.run_start, self.run_length, self.runs = array("q"), array("i"), array("q", [0])

    def add(
        self,
        arrival_s: float,
        input_tokens: int,
        output_tokens: int,
        *,
        session: int = -1,
        agent: int = 0,
        parent: int = -1,
        think_s: float = 0.0,
        runs: Runs = (),
        kind: str = "",
    ) -> int:
        """Add a request of class `kind`, and return its index. Later requests can use this index as their parent."""
        if parent >= 0:  # times are often rounded to seconds, so a request could be earlier than its parent
            arrival_s = max(arrival_s, self.arrival[parent])
        self.arrival.append(arrival_s)
        self.input.append(input_tokens)
        self.output.append(output_tokens)
        self.session.append(session)
        self.agent.append(agent)
        self.parent.append(parent)
        self.think.append(think_s)
        self.class_of.append(min(self.classes.setdefault(kind, len(self.classes)), CLASSES))  # Trace refuses too many
        for start, length in runs:
            self.run_start.append(start)
            self.run_length.append(length)
        self.runs.append(len(self.run_start))
        return len(self.arrival) - 1

    def extend(self, arrival_s: Floats, input_tokens: Ints, output_tokens: Ints, kind: NDArray[np.bytes_]) -> None:
        """Add arrays of requests without parents and without shared blocks. `kind` is the class of each."""
        self.arrival.frombytes(arrival_s.tobytes())
        self.input.frombytes(input_tokens.astype(np.int32).tobytes())
        self.output.frombytes(output_tokens.astype(np.int32).tobytes())
        names, first, which = np.unique(kind, return_index=True, return_inverse=True)
        number = np.empty(len(names), np.int8)
        for k in np.argsort(first).tolist():  # classes in the order of their first request, as in `add`
            number[k] = min(self.classes.setdefault(names[k].decode(), len(self.classes)), CLASSES)
        self.class_of.frombytes(number[which].tobytes())

    def trace(
        self, rows: Rows, *, hash_block_tokens: int = 0, undated: bool = False, notes: tuple[str, ...] = ()
    ) -> Trace:
        """The trace: sorted by arrival, with the first arrival at 0."""
        if not self.arrival:
            reasons = "; ".join(f"{d.count} x {d.reason} ({d.where})" for d in rows.dropped)
            hint = f"left out: {reasons}" if reasons else "the file is empty"
            raise SpecError("no request could be read", where=str(rows.path), hint=hint)
        start, length = np.asarray(self.run_start), np.asarray(self.run_length)
        named = dense(start, length)
        if several := unchained(named, length, np.asarray(self.runs)) if len(start) else 0:
            words = f"{several:,} block ids that stand after different blocks: they are no chained hashes"
            notes = (*notes, f"{words}, and KV tiers may miss hits of these blocks")
        return Trace.of(
            np.asarray(self.arrival),
            np.asarray(self.input),
            np.asarray(self.output),
            name=rows.path.name.split(".")[0],
            source=str(rows.path),
            session=self.session or None,
            agent=self.agent or None,
            parent=self.parent or None,
            class_of=self.class_of,
            classes=() if list(self.classes) == [""] else tuple(name or UNNAMED for name in self.classes),
            think_s=self.think or None,
            run_start=named,
            run_length=length,
            run_offsets=self.runs if len(self.runs) > 1 else None,
            hash_block_tokens=hash_block_tokens,
            undated=undated,
            dropped=rows.dropped,
            reordered=rows.reordered,
            notes=notes,
        )


def dense(start: NDArray[np.int64], length: NDArray[np.int32]) -> NDArray[np.int64]:
    """New starts of the runs, so that all ids together are 0, 1, 2, ... without gaps."""
    order = np.argsort(start, kind="stable")
    first, reached = start[order], np.maximum.accumulate((start + length)[order])
    first -= np.cumsum(np.maximum(first - np.append(0, reached[:-1])[: len(first)], 0))
    moved = np.empty_like(first)
    moved[order] = first
    return moved


def unchained(start: NDArray[np.int64], length: NDArray[np.int32], offsets: NDArray[np.int64]) -> int:
    """Number of ids that stand after different ids. 0: equal ids also mean equal blocks before, as of chained hashes.

    Parameters
    ----------
    start, length, offsets : runs of ids and their requests, as in `Trace`
    """
    before = np.append(-1, (start + length - 1)[:-1])
    before[offsets[:-1][np.diff(offsets) > 0]] = -1  # a request begins
    order = np.argsort(start, kind="stable")
    first, reached = start[order], np.maximum.accumulate((start + length)[order])
    earlier = np.searchsorted(first, start)  # runs that begin before this one
    within = (earlier > 0) & (reached[earlier - 1] > start) & (before != start - 1)
    same = first[1:] == first[:-1]
    differ = same & (before[order][1:] != before[order][:-1])
    return len(np.union1d(start[within], first[1:][differ]))
