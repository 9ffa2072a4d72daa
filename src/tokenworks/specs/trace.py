"""Single requests as plain arrays: arrival, lengths, shared blocks, and the request that each one waits for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenworks.arrays import Floats, Ints
from tokenworks.errors import SpecError
from tokenworks.specs.shown import Record, Shown
from tokenworks.specs.slo import CLASSES

Number = TypeVar("Number", np.float64, np.int32, np.int8)

# No published model reads more than 10 M tokens. A longer request is an error in the file.
MAX_TOKENS = 1 << 24
_BATCH = 1 << 20


@dataclass(frozen=True, slots=True)
class Dropped:
    """Rows that were left out for the same reason.

    Parameters
    ----------
    reason : why the rows were left out
    count : number of rows
    where : place of the first of these rows
    """

    reason: str
    count: int
    where: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Trace(Shown):
    """n requests in order of arrival. A request stands after its parent. It takes 45 bytes, without block hashes.

    Parameters
    ----------
    name, source : name of the trace, and where it comes from
    arrival_s : time at which each request was sent, in ascending order, from the first request on. For a request with a
        parent it is the recorded time; without a recorded time, it is the earliest possible time (if all answers took
        no time) [s]
    input_tokens, output_tokens : lengths, at least 1 [token]
    session : number of the conversation of each request; -1 = none
    agent : 0 for turns of the conversation itself, k for requests of its k-th sub-agent
    parent : index of the request whose last token this request waits for; -1 = none, then it is sent at `arrival_s`
    class_of : class of each request, as index into `classes`; 0 if there are no classes
    think_s : time from the last token of the parent to this request: think time, tool time; 0 without a parent [s]
    run_start, run_length, run_offsets : block hashes of request i are the runs `run_offsets[i]:run_offsets[i+1]`. Each
        run is the ids start, start + 1, ... Equal ids mean equal tokens. Hashes are chained, so equal ids also mean
        equal blocks before. Ids are small (below `id_count`), so arrays can be indexed with them
    hash_block_tokens : tokens of a block; 0 if the source has no hashes, then requests share nothing. The last block of
        a request may be only partly filled (Mooncake), or left out (agent sessions) [token]
    classes : names of the classes of requests; empty if there are none
    undated : True if the source has no start times of its conversations; then all start at 0
    dropped : rows that were left out, with the reason
    reordered : number of rows that stood after a later one and were sorted
    notes : assumptions and omissions of the reader, to be printed with the trace
    """

    name: str
    source: str
    arrival_s: Floats
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    session: NDArray[np.int32]
    agent: NDArray[np.int32]
    parent: NDArray[np.int32]
    class_of: NDArray[np.int8]
    think_s: Floats
    run_start: NDArray[np.int64]
    run_length: NDArray[np.int32]
    run_offsets: NDArray[np.int64]
    hash_block_tokens: int = 0
    classes: tuple[str, ...] = ()
    undated: bool = False
    dropped: tuple[Dropped, ...] = ()
    reordered: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for wrong, words in self._broken():
            if wrong:
                raise SpecError(words, where=self.name)

    def _broken(self) -> Iterable[tuple[bool, str]]:
        n, runs = len(self.arrival_s), len(self.run_start)
        columns = (self.input_tokens, self.output_tokens, self.session, self.agent, self.parent, self.class_of,
                   self.think_s)  # fmt: skip
        yield n == 0, "the trace has no request"
        yield any(len(column) != n for column in columns), f"all columns must have {n} rows, like arrival_s"
        for times in (self.arrival_s, self.think_s):
            yield not np.isfinite(times).all() or bool((times < 0).any()), "times must be finite and not negative"
        yield falls(self.arrival_s), "arrival_s must not fall"
        for column in (self.input_tokens, self.output_tokens):
            yield bool(((column < 1) | (column > MAX_TOKENS)).any()), f"lengths must be 1 to {MAX_TOKENS} tokens"
        yield (
            bool((self.parent >= np.arange(n, dtype=np.int32)).any() or (self.parent < -1).any()),
            "a parent must stand before its request",
        )
        yield len(self.classes) > CLASSES, f"{len(self.classes)} classes of requests: at most {CLASSES}"
        known = (self.class_of >= 0) & (self.class_of < max(len(self.classes), 1))
        yield not known.all(), "class_of must index classes"
        ends = len(self.run_offsets) == n + 1 and self.run_offsets[0] == 0 and self.run_offsets[-1] == runs
        yield not ends or falls(self.run_offsets), "run_offsets must rise from 0 to all runs"
        yield len(self.run_length) != runs or bool((self.run_length < 1).any()), "hash runs must have a length"
        yield bool((self.run_start < 0).any()), "hash ids must not be negative"
        yield (self.hash_block_tokens < 1) != (runs == 0), "hash runs and hash_block_tokens belong together"

    @classmethod
    def of(
        cls,
        arrival_s: ArrayLike,
        input_tokens: ArrayLike,
        output_tokens: ArrayLike,
        *,
        name: str = "trace",
        session: ArrayLike | None = None,
        agent: ArrayLike | None = None,
        parent: ArrayLike | None = None,
        class_of: ArrayLike | None = None,
        think_s: ArrayLike | None = None,
        run_start: ArrayLike = (),
        run_length: ArrayLike = (),
        run_offsets: ArrayLike | None = None,
        hash_block_tokens: int = 0,
        **about: Any,
    ) -> Trace:
        """A trace from columns in any order. The rows are sorted by arrival, and the first arrival becomes 0.

        Rows with the same arrival keep their order. Columns that are not given get their defaults.

        Parameters
        ----------
        arrival_s, ... : columns, see `Trace`; `parent` has indices into the rows as they are given
        about : other fields of `Trace`: source, dropped, notes ...
        """
        arrival = np.asarray(arrival_s, dtype=np.float64)
        n = len(arrival)
        order = np.argsort(arrival, kind="stable") if falls(arrival) else None

        def column(values: ArrayLike | None, kind: type[Number], empty: int = 0) -> NDArray[Number]:
            if values is None:  # np.zeros takes no memory until the array is written to
                return np.full(n, empty, kind) if empty else np.zeros(n, kind)
            array = np.asarray(values, kind)
            return array if order is None else array[order]

        parents = column(parent, np.int32, -1)
        starts, lengths = np.asarray(run_start, np.int64), np.asarray(run_length, np.int32)
        offsets = np.zeros(n + 1, np.int64) if run_offsets is None else np.asarray(run_offsets, np.int64)
        if order is not None and parent is not None:
            place = np.empty(n + 1, np.int32)
            place[order], place[-1] = np.arange(n), -1  # index -1 (no parent) takes the last element, -1
            parents = place[parents]
        if order is not None and len(starts):
            counts = np.diff(offsets)[order]
            moved = ranges(offsets[:-1][order], counts)
            starts, lengths = starts[moved], lengths[moved]
            offsets = np.concatenate([[0], np.cumsum(counts)])
        arrival = column(arrival, np.float64)
        return cls(
            name=name,
            source=about.pop("source", ""),
            arrival_s=arrival - arrival[0] if n else arrival,
            input_tokens=column(input_tokens, np.int32),
            output_tokens=column(output_tokens, np.int32),
            session=column(session, np.int32, -1),
            agent=column(agent, np.int32),
            parent=parents,
            class_of=column(class_of, np.int8),
            think_s=column(think_s, np.float64),
            run_start=starts,
            run_length=lengths,
            run_offsets=offsets,
            hash_block_tokens=hash_block_tokens,
            **about,
        )

    @property
    def headline(self) -> str:
        """Name, size and length of the trace."""
        last = float(self.arrival_s.max()) if len(self) else 0.0
        return f"{self.name}: {len(self):,} requests, the last one at {last:,.0f} s"

    def to_records(self) -> list[Record]:
        """The requests, one a record."""
        columns = {
            "arrival_s": self.arrival_s, "input_tokens": self.input_tokens, "output_tokens": self.output_tokens,
            "session": self.session, "parent": self.parent, "think_s": self.think_s,
        }  # fmt: skip
        return [
            dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)
        ]

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def id_count(self) -> int:
        """Smallest number that is larger than every block id."""
        return int((self.run_start + self.run_length).max(initial=0))

    @property
    def hash_offsets(self) -> NDArray[np.int64]:
        """Index in `hash_ids` at which the blocks of each request begin: int64[n + 1]."""
        blocks = np.concatenate([[0], np.cumsum(self.run_length, dtype=np.int64)])
        offsets: NDArray[np.int64] = blocks[self.run_offsets]
        return offsets

    @property
    def hash_ids(self) -> NDArray[np.int64]:
        """Block hashes of all requests, one request after the other. Each call creates the array (agents: 700 MB)."""
        return ranges(self.run_start, self.run_length)


def falls(values: Floats | Ints) -> bool:
    """True if any value is smaller than the value before it."""
    return bool((values[1:] < values[:-1]).any())


def ranges(starts: Ints, counts: Ints) -> NDArray[np.int64]:
    """The integers start, start + 1, ... start + count - 1 of each pair (start, count), in one array."""
    shift = starts.astype(np.int64) - np.concatenate([[0], np.cumsum(counts[:-1], dtype=np.int64)])[: len(starts)]
    integers = np.repeat(shift, counts)
    for low in range(0, len(integers), _BATCH):  # a second array of this length could be gigabytes
        part = integers[low : low + _BATCH]
        part += np.arange(low, low + len(part), dtype=np.int64)
    return integers
