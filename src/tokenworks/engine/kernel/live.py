# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: PLR0917, PLR1714 compiled functions have no keyword-only arguments, and `in` is slower there
"""What a caller sees of requests while the simulation goes on: new output tokens, and how many were late."""

from __future__ import annotations

import math

import numpy as np

from tokenworks.engine.kernel.base import COMPLETED, QUEUED, RUNNING, entry, inline
from tokenworks.engine.kernel.codes import (
    COUNT,
    GAPS,
    LATEST,
    MORE,
    NUMBERS,
    OWNER,
    RANKS,
    SEEN,
    SLOTS,
    TIMES,
    TOKENS,
)
from tokenworks.engine.kernel.drive import next_event
from tokenworks.engine.kernel.memory import state_at
from tokenworks.engine.kernel.steps import time_after
from tokenworks.engine.kernel.tables import floats, ints
from tokenworks.engine.kernel.tokens import last_decode


@inline
def next_time(s):
    """Time of the next event, or of the next end of a planned step [s]. Call it after `drive.advance`."""
    _, time, _ = next_event(s)
    for i in range(len(s.instance)):
        if s.instance[i].planned > 1:
            time = min(time, time_after(s, i, s.instance[i].done + 1))
    return time


@entry("address", "int", "address")
def progress(table, slots, caller):
    """List the requests with new output tokens, also those that have completed. Returns `next_time`.

    Parameters
    ----------
    slots : number of slots to look at
    caller : address of the table of `progress.Progress`
    """
    s = state_at(table)
    # the request in each slot at the last call, its output tokens then, and the time of the last of them
    owner, seen, last, counts = ints(caller, OWNER), ints(caller, SEEN), floats(caller, LATEST), ints(caller, COUNT)
    numbers, tokens, more, ranks = ints(caller, NUMBERS), ints(caller, TOKENS), ints(caller, MORE), ints(caller, RANKS)
    times, gaps, places = floats(caller, TIMES), floats(caller, GAPS), ints(caller, SLOTS)
    fresh = 0
    for q in range(slots):
        me = s.request[q]
        if me.number < 0 or (me.status != RUNNING and me.status != QUEUED and me.status != COMPLETED):
            continue
        if owner[q] != me.number:
            owner[q], seen[q] = me.number, 0
        made, when = me.generated, me.end_s
        if me.status == COMPLETED:
            made = me.output
        elif me.decoding:
            made = me.output - (me.target - s.rank[me.at].clock)
            if not me.fresh:
                when = last_decode(s, me.at)
        if made > seen[q]:
            if me.status != COMPLETED:
                when += me.lag_s
            gaps[fresh] = (when - last[q]) / (made - seen[q]) if seen[q] else math.nan
            numbers[fresh], tokens[fresh], more[fresh] = me.number, made, made - seen[q]
            times[fresh], ranks[fresh], places[fresh] = when, me.at, q
            seen[q], last[q] = made, when
            fresh += 1
    counts[0] = fresh
    return next_time(s)


@entry("address", "int", "float", "f8[]", "f8[]", "i8[]")
def late(table, slots, start_s, ttft_s, tpot_s, counts):
    """Count late requests among those that have completed. Returns how many requests ended before `start_s`.

    Parameters
    ----------
    slots : number of slots to look at; no request was taken
    start_s : a request counts if it completed at this time or later
    ttft_s, tpot_s : bounds of each group of requests
    counts : becomes the number of requests beyond the bounds: of each group of TTFT, and of TPOT
    """
    s = state_at(table)
    gone = 0
    for q in range(slots):
        me = s.request[q]
        if me.status < COMPLETED:
            continue
        if me.end_s < start_s:
            gone += 1
        elif me.status == COMPLETED:
            g, output = np.int64(me.group), np.int64(me.output)
            if me.first_s - me.sent_s > ttft_s[g]:
                counts[2 * g] += 1
            if output > 1 and (me.end_s - me.first_s) / (output - 1) > tpot_s[g]:
                counts[2 * g + 1] += 1
    return gone
