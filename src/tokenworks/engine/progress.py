"""What a caller sees of requests in flight, for a simulation that is played in real time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Floats, Ints
from tokenworks.engine.kernel.native import ArrayTable


@dataclass(frozen=True)
class Levels:
    """Requests, KV blocks and counters of each rank: arrays over the ranks of all pools.

    running, waiting : requests that run, and requests that wait in a queue
    kv_used, kv_total : blocks of the KV cache in use, and all blocks
    query_tokens, hit_tokens, prefill_tokens, preemptions : as in `outcome.PoolCounts`
    busy_s : time that the instance of the rank spent in steps [s]
    """

    running: Ints
    waiting: Ints
    kv_used: Ints
    kv_total: Ints
    query_tokens: Ints
    hit_tokens: Ints
    prefill_tokens: Ints
    preemptions: Ints
    busy_s: Floats

    def of(self, ranks: list[int]) -> Levels:
        """The levels of some ranks.

        Parameters
        ----------
        ranks : numbers of the ranks
        """
        return Levels(**{name: values[ranks] for name, values in vars(self).items()})


class Progress:
    """Requests with new output tokens since the last call of `Simulator.progress`, also those that have completed.

    numbers, tokens, more : number of each of these requests, its output tokens so far, and how many of them are new
    times : time at which the client gets the last of these tokens; with pipeline stages it may lie after now [s]
    gaps : mean time between the new tokens of the request; NaN if its first token is among them [s]
    ranks : number of its rank, over all pools
    slots : place of the request in memory, which no other request in flight has
    next_s : no request has another token before this time [s]
    """

    def __init__(self) -> None:
        self.next_s = np.inf
        self._count = np.zeros(1, np.int64)
        self._owner, self._seen, self._last = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        self._fit(64)

    def _fit(self, slots: int) -> None:
        more = slots - len(self._owner)
        self._owner = np.concatenate([self._owner, np.full(more, -1, np.int64)])
        self._seen = np.concatenate([self._seen, np.zeros(more, np.int64)])
        self._last = np.concatenate([self._last, np.zeros(more)])
        self._numbers, self._tokens, self._more, self._ranks, self._slots = (
            np.zeros(slots, np.int64) for _ in range(5)
        )
        self._times, self._gaps = np.zeros(slots), np.zeros(slots)
        self._table = ArrayTable(
            "i8 i8 f8 i8 i8 i8 i8 f8 f8 i8 i8", self._owner, self._seen, self._last, self._count,
            self._numbers, self._tokens, self._more, self._times, self._gaps, self._ranks, self._slots,
        )  # fmt: skip

    def table(self, slots: int) -> int:
        """Address of the table for the kernel, with room for `slots` slots."""
        if slots > len(self._owner):
            self._fit(2 * slots)
        return self._table.address

    def __len__(self) -> int:
        return int(self._count[0])

    @property
    def numbers(self) -> Ints:
        """Numbers of the requests with new tokens."""
        return self._numbers[: len(self)]

    @property
    def tokens(self) -> Ints:
        """Output tokens of these requests so far."""
        return self._tokens[: len(self)]

    @property
    def more(self) -> Ints:
        """New output tokens of these requests."""
        return self._more[: len(self)]

    @property
    def times(self) -> Floats:
        """Time of the last token of these requests [s]."""
        return self._times[: len(self)]

    @property
    def gaps(self) -> Floats:
        """Mean time between the new tokens of these requests [s]."""
        return self._gaps[: len(self)]

    @property
    def ranks(self) -> Ints:
        """Ranks of these requests."""
        return self._ranks[: len(self)]

    @property
    def slots(self) -> Ints:
        """Slots of these requests."""
        return self._slots[: len(self)]
