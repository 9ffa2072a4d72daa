"""Streams whose events compiled code writes: most of them differ from the one before by one word and nothing else.

In Python, an event takes as long as the system call that sends it. So the events of a turn are written in one
loop of compiled code (`engine.kernel.stream`). What it does not write is left to `answers.StreamAnswer`: first and last
tokens, several tokens at once, and streams whose client reads slowly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tokenworks.arrays import Ints
from tokenworks.engine import kernel
from tokenworks.engine.kernel.codes import COLUMNS, NUMBER, PARTIAL, SENT, WIDTH
from tokenworks.engine.kernel.native import ArrayTable
from tokenworks.engine.progress import Progress
from tokenworks.serving.driver import Job
from tokenworks.serving.words import Words


class Form(NamedTuple):
    """An event whose text may be replaced.

    begin, end : what stands before and after the text
    """

    begin: bytes
    end: bytes


class Lines:
    """The streams that have a row, by the slots of their requests.

    A stream has a row while all that was written to it is in the socket. Whoever writes to its transport takes the row
    away first (`leave`). A connection that is lost cancels its jobs, which takes their rows away, before its descriptor
    is closed and may become another connection's.

    Parameters
    ----------
    words : words of answers as they stand in JSON, all equally long
    """

    def __init__(self, words: list[bytes]) -> None:
        self._size, self._words = len(words[0]), np.frombuffer(b"".join(words), np.int8)
        self._rows, self._events = np.zeros((0, COLUMNS), np.int64), np.zeros((0, WIDTH), np.int8)
        self._room = np.zeros(0, np.int64)
        self._write = kernel.write  # loaded here, and not in the first turn
        self._fit(64)

    def _fit(self, slots: int) -> None:
        rows, events = np.full((slots, COLUMNS), -1, np.int64), np.empty((slots, WIDTH), np.int8)
        rows[: len(self._rows)], events[: len(self._events)] = self._rows, self._events
        self._rows, self._events = rows, events
        self._arrange()

    def _arrange(self) -> None:
        self._table = ArrayTable(
            "i8 i1 i1 i8", self._rows.reshape(-1), self._events.reshape(-1), self._words, self._room
        )

    def enter(self, job: Job, form: Form, descriptor: int) -> None:
        """Give a stream a row.

        Parameters
        ----------
        job : its job; the tokens that it has sent are in the socket
        form : its events
        descriptor : its socket
        """
        words: Words = job.more
        size = len(form.begin) + self._size + len(form.end)
        if size > WIDTH:
            return
        if job.slot >= len(self._rows):
            self._fit(2 * job.slot)
        event = form.begin + bytes(self._size) + form.end
        self._events[job.slot, :size] = np.frombuffer(event, np.int8)
        self._rows[job.slot] = (
            job.number, job.sent, job.output_tokens, descriptor, size, len(form.begin), words.start, words.stride, 0,
        )  # fmt: skip

    def leave(self, job: Job) -> int:
        """Take the row of a stream away, and write into the job what it has sent.

        Returns
        -------
        Bytes of the event after that which are in the socket already
        """
        if not 0 <= job.slot < len(self._rows):
            return 0
        row = self._rows[job.slot]
        if row[NUMBER] != job.number:
            return 0
        row[NUMBER], job.sent = -1, int(row[SENT])
        return int(row[PARTIAL])

    def write(self, progress: Progress, order: Ints, now: float) -> int:
        """Write what can be written.

        Parameters
        ----------
        progress : requests with new tokens
        order : these requests, in the order in which they shall be written; becomes those that were written, then the
            others
        now : tokens of a later time are not written [s]

        Returns
        -------
        Requests whose event was written [count]
        """
        if len(order) > len(self._room):
            self._room = np.zeros(2 * len(order), np.int64)
            self._arrange()
        written: int = self._write(self._table.address, progress.table(0), order, now, self._size)
        return written
