# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Writes the events of new tokens to sockets: no part of a simulation, but only this room has compiled code."""

from __future__ import annotations

from typing import Any

from numba import types

from tokenworks.engine.kernel.base import entry
from tokenworks.engine.kernel.codes import (
    COLUMNS,
    DESCRIPTOR,
    EVENTS,
    LAST,
    NUMBER,
    NUMBERS,
    PARTIAL,
    PLACE,
    ROOM,
    ROWS,
    SENT,
    SIZE,
    SLOTS,
    START,
    STRIDE,
    TIMES,
    TOKENS,
    WIDTH,
    WORDS,
)
from tokenworks.engine.kernel.tables import address_of, floats, ints, length_of, octets

_write: Any = types.ExternalFunction("write", types.int64(types.int32, types.int64, types.int64))
"""The function of the C library: descriptor, address, bytes."""


@entry("address", "address", "i8[]", "float", "int")
def write(lines, progress, order, now, size):
    """Write the next event of each stream that has a row, and one new token. Returns how many were written.

    A stream whose event the socket does not take, or not whole, has no descriptor any more: `PARTIAL` is what it took.

    Parameters
    ----------
    lines, progress : addresses of the tables of `serving.lines.Lines` and of `progress.Progress`
    order : requests of `progress`; becomes those whose event was written, then the others, each in this order
    now : tokens of a later time are not written [s]
    size : length of each word [byte]
    """
    rows, events, words, others = ints(lines, ROWS), octets(lines, EVENTS), octets(lines, WORDS), ints(lines, ROOM)
    start, most, mask = (
        address_of(lines, EVENTS),
        length_of(lines, ROWS) // COLUMNS,
        length_of(lines, WORDS) // size - 1,
    )
    numbers, tokens, slots = ints(progress, NUMBERS), ints(progress, TOKENS), ints(progress, SLOTS)
    times = floats(progress, TIMES)
    written = left = 0
    for k in range(len(order)):
        i = order[k]
        if slots[i] < most:
            row, made = slots[i] * COLUMNS, tokens[i]
            if (
                rows[row + NUMBER] == numbers[i] and made == rows[row + SENT] + 1 and made < rows[row + LAST]
                and times[i] <= now and rows[row + DESCRIPTOR] >= 0
            ):  # fmt: skip
                begin = slots[i] * WIDTH
                place = begin + rows[row + PLACE]
                word = size * ((rows[row + START] + rows[row + STRIDE] * rows[row + SENT]) & mask)
                for b in range(size):
                    events[place + b] = words[word + b]
                done = _write(rows[row + DESCRIPTOR], start + begin, rows[row + SIZE])
                if done == rows[row + SIZE]:
                    rows[row + SENT], order[written] = made, i
                    written += 1
                    continue
                rows[row + PARTIAL], rows[row + DESCRIPTOR] = max(done, 0), -1
        others[left] = i
        left += 1
    for k in range(left):
        order[written + k] = others[k]
    return written
