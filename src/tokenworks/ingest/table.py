"""Columns that grow while a file is read, and become a sorted trace at its end."""

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
"""Class of a row without one, where others have one."""


class Table:
    """Rows of a trace to be; compact arrays, no object a request. They come one by one or many at once, not both."""

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
        """Add a request, of class `kind`; returns its index, by which later ones may name it as their parent."""
        if parent >= 0:  # times are often rounded to seconds
            arrival_s = max(arrival_s, self.arrival[parent])
        self.arrival.append(arrival_s)
        self.input.append(input_tokens)
        self.output.append(output_tokens)
        self.session.append(session)
        self.agent.append(agent)
        self.parent.append(parent)
        self.think.append(think_s)
        self.class_of.append(min(self.classes.setdefault(kind, len(self.classes)), CLASSES))  # so many are refused
        for start, length in runs:
            self.run_start.append(start)
            self.run_length.append(length)
        self.runs.append(len(self.run_start))
        return len(self.arrival) - 1

    def extend(self, arrival_s: Floats, input_tokens: Ints, output_tokens: Ints, kind: NDArray[np.bytes_]) -> None:
        """Add many requests that wait for nothing and share nothing; `kind` is the class of each."""
        self.arrival.frombytes(arrival_s.tobytes())
        self.input.frombytes(input_tokens.astype(np.int32).tobytes())
        self.output.frombytes(output_tokens.astype(np.int32).tobytes())
        names, first, which = np.unique(kind, return_index=True, return_inverse=True)
        number = np.empty(len(names), np.int8)
        for k in np.argsort(first).tolist():  # in the order in which they come, as `add` has them
            number[k] = min(self.classes.setdefault(names[k].decode(), len(self.classes)), CLASSES)
        self.class_of.frombytes(number[which].tobytes())

    def trace(
        self, rows: Rows, *, hash_block_tokens: int = 0, undated: bool = False, notes: tuple[str, ...] = ()
    ) -> Trace:
        """The trace: sorted by arrival, starting at 0."""
        if not self.arrival:
            reasons = "; ".join(f"{d.count} x {d.reason} ({d.where})" for d in rows.dropped)
            hint = f"left out: {reasons}" if reasons else "the file is empty"
            raise SpecError("no request could be read", where=str(rows.path), hint=hint)
        start, length = np.asarray(self.run_start), np.asarray(self.run_length)
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
            run_start=dense(start, length),
            run_length=length,
            run_offsets=self.runs if len(self.runs) > 1 else None,
            hash_block_tokens=hash_block_tokens,
            undated=undated,
            dropped=rows.dropped,
            reordered=rows.reordered,
            notes=notes,
        )


def dense(start: NDArray[np.int64], length: NDArray[np.int32]) -> NDArray[np.int64]:
    """Starts of the same runs with all ids moved down over the gaps that no run covers, so that they are 0, 1, ..."""
    end = start + length
    bounds = np.unique(np.concatenate([start, end]))
    low, high = np.searchsorted(bounds, start), np.searchsorted(bounds, end)
    open_runs = np.cumsum(np.bincount(low, minlength=len(bounds)) - np.bincount(high, minlength=len(bounds)))
    moved = np.append(0, np.cumsum(np.where(open_runs[:-1] > 0, np.diff(bounds), 0)))
    return moved[low]
