# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Writes the events of new tokens to sockets. This is no part of a simulation: it is here as only this room compiles."""

from __future__ import annotations

from numba import types

from tokenworks.engine.kernel.base import entry
from tokenworks.engine.kernel.codes import (
    COLUMNS,
    DESCRIPTOR,
    LAST,
    NUMBER,
    PARTIAL,
    PLACE,
    SENT,
    SIZE,
    START,
    STRIDE,
    WIDTH,
)
from tokenworks.engine.kernel.tables import address_of, floats, ints, length_of, octets

_write = types.ExternalFunction("write", types.int64(types.int32, types.int64, types.int64))
"""The function of the C library: descriptor, address, bytes."""


@entry("address", "address", "i8[]", "float", "int")
def write(lines, progress, order, now, size):
    """Write the next event of each stream that has a row, and one new token. Returns how many were written.

    Parameters
    ----------
    lines : address of the table of `serving.lines.Lines`: rows, events, words, and room for requests
    progress : address of the table of `progress.Progress`
    order : requests of `progress`; becomes those whose event was written, then the others, each in this order
    now : tokens of a later time are not written [s]
    size : length of each word [byte]
    """
    rows, events, words, others = ints(lines, 0), octets(lines, 1), octets(lines, 2), ints(lines, 3)
    start, most, mask = address_of(lines, 1), length_of(lines, 0) // COLUMNS, length_of(lines, 2) // size - 1
    numbers, tokens, times, slots = ints(progress, 4), ints(progress, 5), floats(progress, 7), ints(progress, 10)
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
