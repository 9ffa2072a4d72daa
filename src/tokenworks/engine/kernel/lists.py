# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Lists of waiting and of running requests, linked by the fields `prev` and `next` of the requests."""

from __future__ import annotations

from tokenworks.engine.kernel.base import QUEUED, inline, jit


@inline
def unlink(request, q, first, last):
    """Remove `q` from a list. Returns the new (first, last)."""
    before, after = request[q].prev, request[q].next
    if before >= 0:
        request[before].next = after
    else:
        first = after
    if after >= 0:
        request[after].prev = before
    else:
        last = before
    return first, last


@inline
def wait(s, r, q, front):
    """Queue `q` at the front or the end of its class."""
    rank, me = s.rank[r], s.request[q]
    c = me.priority
    if front:
        old = rank.head[c]
        me.prev, me.next = -1, old
        rank.head[c] = q
        if old >= 0:
            s.request[old].prev = q
        else:
            rank.tail[c] = q
    else:
        old = rank.tail[c]
        me.prev, me.next = old, -1
        rank.tail[c] = q
        if old >= 0:
            s.request[old].next = q
        else:
            rank.head[c] = q
    rank.waiting += 1
    me.status = QUEUED


@inline
def unwait(s, r, q):
    """Remove `q` from the queue of its class."""
    rank = s.rank[r]
    c = s.request[q].priority
    first, last = unlink(s.request, q, rank.head[c], rank.tail[c])
    rank.head[c], rank.tail[c] = first, last
    rank.waiting -= 1


@inline
def run_before(s, r, q, place):
    """Insert `q` into the running list before `place`, or at the end if `place` is -1."""
    rank, me = s.rank[r], s.request[q]
    before = rank.last if place < 0 else s.request[place].prev
    me.prev, me.next = before, place
    if before >= 0:
        s.request[before].next = q
    else:
        rank.first = q
    if place >= 0:
        s.request[place].prev = q
    else:
        rank.last = q
    rank.running += 1


@jit
def to_decodes(s, r, q):
    """Move the running `q` before the first unfinished prefill of the rank: its own prompt is complete."""
    rank = s.rank[r]
    first, last = unlink(s.request, q, rank.first, rank.last)
    rank.first, rank.last = first, last
    rank.running -= 1
    run_before(s, r, q, rank.prefill)
