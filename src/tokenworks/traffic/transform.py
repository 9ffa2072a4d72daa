"""Transforms of traces: the first n requests, another rate, a stream of conversations, copies, smaller blocks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from tokenworks.arrays import Floats, Ints
from tokenworks.errors import SpecError
from tokenworks.specs.trace import Trace, ranges
from tokenworks.traffic.memory import must_hold

PER_REQUEST = ("input_tokens", "output_tokens", "session", "agent", "class_of")

LEAST_SCALE, MOST_SCALE = 1e-9, 1e9
"""Limits of a scale factor: at these, one second of a trace becomes 30 years, or 30 years become one second."""

WINDOW = 3600.0
"""Longest lower limit for the length of a stream [s]. Streams are at least as long as the longest conversation, if this
is shorter."""


def limit(trace: Trace, requests: int) -> Trace:
    """The first requests of a trace.

    Parameters
    ----------
    trace : the trace
    requests : number of requests to keep, at least 1 [count]

    Returns
    -------
    A trace of the first `requests` requests, or of all if there are fewer.
    """
    if requests < 1:
        raise SpecError(f"{requests} requests: the limit must be at least 1", hint="give at least 1 request")
    if requests >= len(trace):
        return trace
    runs = int(trace.run_offsets[requests])
    return replace(
        trace,
        **{name: getattr(trace, name)[:requests] for name in ("arrival_s", "parent", "think_s", *PER_REQUEST)},
        run_start=trace.run_start[:runs],
        run_length=trace.run_length[:runs],
        run_offsets=trace.run_offsets[: requests + 1],
        hash_block_tokens=trace.hash_block_tokens if runs else 0,
    )


def scale(trace: Trace, factor: float) -> Trace:
    """The same requests at a multiple of the rate.

    Conversations start closer together (or further apart). Think times belong to people and tools, so they do not
    change, and a conversation lasts as long as before.

    Parameters
    ----------
    trace : the trace
    factor : new rate / rate of the trace [-]

    Returns
    -------
    The scaled trace.
    """
    if not LEAST_SCALE <= factor <= MOST_SCALE:
        hint = f"give a factor above 0, of {LEAST_SCALE:g} to {MOST_SCALE:g}"
        raise SpecError(f"a rate cannot be scaled by {factor:g}", where=trace.name, hint=hint)
    first = trace.arrival_s[roots(trace.parent)]
    return _again(trace, arrival_s=first / factor + (trace.arrival_s - first))


def stream(trace: Trace, rate: float, random: Generator) -> Trace:
    """A time window of an endless stream of the conversations of a trace.

    Conversations start by a Poisson process, before the window, too. A conversation that has begun before the window
    continues in it from its current turn; the turns before are left out. Requests after the end of the window are left
    out. So the whole window has the given rate.

    Conversation k has n_k requests, lasts D_k as recorded, and starts at a uniform time in [-D_k, T). (For a given
    number of starts, the starts of a Poisson process are independent and uniform.) The rate is then the sum of
    n_k / (T + D_k), which gives T. If T would be shorter than the longest conversation (or than `WINDOW`, if that is
    less), the trace is copied, and each copy has its own block hashes.

    Parameters
    ----------
    trace : a trace with conversations
    rate : mean rate of the stream, in requests a second [1/s]
    random : random stream of the start times

    Returns
    -------
    The requests in the window [0, T).
    """
    if not (np.isfinite(rate) and rate > 0):
        raise SpecError(f"{rate:g} requests/s is no rate", where=trace.name, hint="give a rate above 0")
    root, _, lasts = _conversations(trace)
    turns = np.bincount(root, minlength=len(trace)).astype(np.float64)
    low = max(min(WINDOW, float(lasts.max())), 1e-9)
    copies = math.ceil(rate / float((turns / (low + lasts)).sum()))
    hint = "give a lower --rate: a higher rate needs more copies of the trace"
    must_hold(copies * len(trace), runs=copies * len(trace.run_start), where=f"--rate {rate:g}", hint=hint)
    high = copies * len(trace) / rate + low
    for _ in range(100):
        middle = (low + high) / 2
        enough = copies * float((turns / (middle + lasts)).sum()) > rate
        low, high = (middle, high) if enough else (low, middle)
    copied = replicate(trace, copies, every_s=0.0)
    root, since, lasts = _conversations(copied)
    at = (random.random(len(copied)) * (high + lasts) - lasts)[root] + since
    return _within(copied, at, high)


def _conversations(trace: Trace) -> tuple[Ints, Floats, Floats]:
    """For each request: the first request of its conversation, the time since that request [s], and the duration of the
    conversation that it starts, 0 if it starts none [s].
    """
    root = roots(trace.parent)
    since = trace.arrival_s - trace.arrival_s[root]
    lasts = np.zeros(len(trace))
    np.maximum.at(lasts, root, since)
    return root, since, lasts


def _within(trace: Trace, at: Floats, end_s: float) -> Trace:
    """The requests whose time `at` is in [0, end_s). A request whose parent is before 0 has no parent any more."""
    kept = (at >= 0) & (at < end_s)
    if not kept.any():
        raise SpecError(f"no request in a window of {end_s:,.0f} s", where=trace.name, hint="give a higher rate")
    place = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)  # index -1 (no parent) takes the last element, -1
    parent = place[trace.parent][kept]
    counts = np.diff(trace.run_offsets)[kept]
    moved = ranges(trace.run_offsets[:-1][kept], counts)
    return _again(
        trace,
        undated=False,
        arrival_s=at[kept],
        parent=parent,
        think_s=np.where(parent < 0, 0.0, trace.think_s[kept]),
        **{name: getattr(trace, name)[kept] for name in PER_REQUEST},
        run_start=trace.run_start[moved],
        run_length=trace.run_length[moved],
        run_offsets=np.append(0, np.cumsum(counts)),
        hash_block_tokens=trace.hash_block_tokens if len(moved) else 0,
    )


def replicate(trace: Trace, copies: int, *, every_s: float | None = None) -> Trace:
    """Copies of a trace, one after the other or at the same time. Each copy has its own block hashes and sessions.

    Parameters
    ----------
    trace : the trace
    copies : number of copies, at least 1 [count]
    every_s : time between the starts of two copies; 0 starts all at once; None: a copy starts one mean gap after the
        end of the copy before it, so that the rate stays the same [s]

    Returns
    -------
    The trace of all copies.
    """
    if copies < 1:
        raise SpecError(f"{copies} copies: there must be at least one", hint="give at least 1")
    n, runs = len(trace), len(trace.run_start)
    span = float(trace.arrival_s[-1])
    step = span + span / max(1, n - 1) if every_s is None else every_s
    copy = np.arange(copies)[:, None]
    sessions = int(trace.session.max()) + 1
    offsets = (trace.run_offsets[:-1] + copy * runs).ravel()
    return _again(
        trace,
        arrival_s=(trace.arrival_s + copy * step).ravel(),
        input_tokens=np.tile(trace.input_tokens, copies),
        output_tokens=np.tile(trace.output_tokens, copies),
        session=np.where(trace.session < 0, -1, trace.session + copy * sessions).ravel(),
        agent=np.tile(trace.agent, copies),
        parent=np.where(trace.parent < 0, -1, trace.parent + copy * n).ravel(),
        class_of=np.tile(trace.class_of, copies),
        think_s=np.tile(trace.think_s, copies),
        run_start=(trace.run_start + copy * trace.id_count).ravel(),
        run_length=np.tile(trace.run_length, copies),
        run_offsets=np.append(offsets, copies * runs),
    )


def reblock(trace: Trace, block_tokens: int) -> Trace:
    """The same trace with block hashes for smaller blocks, as an engine with this block size would compute them.

    A block of k x block_tokens tokens becomes k blocks. Only full blocks of the input remain.

    Parameters
    ----------
    trace : a trace with block hashes
    block_tokens : size of the new blocks, a divisor of the block size of the trace [token]

    Returns
    -------
    The trace with smaller blocks.
    """
    parts, rest = divmod(trace.hash_block_tokens, block_tokens)
    if rest or not parts:
        size = trace.hash_block_tokens
        hint = f"give a divisor of {size}" if size else "the trace has none"
        raise SpecError(f"cannot cut block hashes into blocks of {block_tokens} tokens", where=trace.name, hint=hint)
    request = np.repeat(np.arange(len(trace)), np.diff(trace.run_offsets))
    length = trace.run_length * parts
    before = np.cumsum(length) - length
    room = trace.input_tokens[request] // block_tokens - (before - before[trace.run_offsets[:-1][request]])
    length = np.clip(length, 0, room)
    filled = length > 0
    return replace(
        trace,
        run_start=trace.run_start[filled] * parts,
        run_length=length[filled].astype(np.int32),
        run_offsets=np.append(0, np.cumsum(np.bincount(request[filled], minlength=len(trace)))),
        hash_block_tokens=block_tokens if filled.any() else 0,
    )


def roots(parent: Ints) -> Ints:
    """For each request, the first request of its conversation.

    Parameters
    ----------
    parent : request before each one in its conversation; -1 = none

    Returns
    -------
    Index of the first request. Each pass of the loop doubles the distance that the pointers go.
    """
    root = np.where(parent < 0, np.arange(len(parent)), parent)
    while (root != root[root]).any():
        root = root[root]
    return root


def _again(trace: Trace, **changed: object) -> Trace:
    """The trace with other columns, sorted and checked again."""
    columns = {name: getattr(trace, name) for name in Trace.__slots__}
    return Trace.of(**{**columns, **changed})
