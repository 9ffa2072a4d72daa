# mypy: allow-untyped-defs, allow-untyped-calls
"""The compiled sweep of Belady's bound; `engine.belady` explains it."""

from __future__ import annotations

from tokenworks.engine.kernel.base import entry, jit


@jit
def _sink(heap, size):
    """Remove the top of a heap that has `size` numbers besides it."""
    last, at = heap[size], 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= last:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = last


@entry("i4[]", "int", "i4[]", "i1[]")
def most_kept(event, room, heap, dropped):
    """Most intervals of which at most `room` overlap.

    event : begins and ends of intervals in the order of time: i + 1 at the begin of interval i, -(i + 1) at its end.
        Intervals are numbered in the order of their ends
    heap : memory for one number for each interval: intervals that began, the latest end on top. Intervals that have
        ended stay in it, below all others
    dropped : memory for one value for each interval, zeros
    """
    size, held, kept = 0, 0, 0
    for number in event:
        if number < 0:
            if not dropped[-number - 1]:
                held -= 1
                kept += 1
            continue
        at = size
        while at and heap[(at - 1) >> 1] < number:
            heap[at] = heap[(at - 1) >> 1]
            at = (at - 1) >> 1
        heap[at] = number
        size, held = size + 1, held + 1
        if held > room:
            dropped[heap[0] - 1] = 1
            size, held = size - 1, held - 1
            _sink(heap, size)
    return kept
