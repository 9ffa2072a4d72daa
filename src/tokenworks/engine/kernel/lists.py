# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Lists of waiting and of running requests, linked by `prev` and `next` of the requests; the heap of KV transfers."""

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


@jit
def push_load(s, q, done):
    """Add the transfer of `q`, which ends at `done`, to the heap of KV transfers and loads, by (time, number)."""
    at = s.world[0].loads
    s.world[0].loads += 1
    while at > 0:
        up = (at - 1) >> 1
        if s.load_s[up] < done or (s.load_s[up] == done and s.request[s.load[up]].number < s.request[q].number):
            break
        s.load_s[at], s.load[at] = s.load_s[up], s.load[up]
        at = up
    s.load_s[at], s.load[at] = done, q


@jit
def pop_load(s):
    """Remove the transfer that ends first from the heap."""
    world = s.world[0]
    world.loads -= 1
    count = world.loads
    time, q, at = s.load_s[count], s.load[count], 0
    while 2 * at + 1 < count:
        down = 2 * at + 1
        if down + 1 < count:
            a, b = s.load_s[down], s.load_s[down + 1]
            if b < a or (b == a and s.request[s.load[down + 1]].number < s.request[s.load[down]].number):
                down += 1
        if time < s.load_s[down] or (time == s.load_s[down] and s.request[q].number < s.request[s.load[down]].number):
            break
        s.load_s[at], s.load[at] = s.load_s[down], s.load[down]
        at = down
    s.load_s[at], s.load[at] = time, q
