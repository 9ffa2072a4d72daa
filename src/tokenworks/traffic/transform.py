"""Traces from traces: the first n, another rate, a stream of conversations, many copies, smaller blocks."""

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
"""Far beyond anything real: a second of a trace becomes 30 years, or 30 years become a second."""

WINDOW = 3600.0
"""So long a stream of conversations is long enough, however long they last [s]."""


def limit(trace: Trace, requests: int) -> Trace:
    """The first `requests` requests."""
    if requests < 1:
        raise SpecError(f"limit {requests}", hint="give at least 1 request")
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
    """The same requests at `factor` times the rate.

    What nobody waits for comes sooner; think times are people's and tools', and stay. So conversations start closer
    together and last as long as they did.
    """
    if not LEAST_SCALE <= factor <= MOST_SCALE:
        hint = f"give a factor above 0, of {LEAST_SCALE:g} to {MOST_SCALE:g}"
        raise SpecError(f"a rate cannot be scaled by {factor:g}", where=trace.name, hint=hint)
    first = trace.arrival_s[roots(trace.parent)]
    return _again(trace, arrival_s=first / factor + (trace.arrival_s - first))


def stream(trace: Trace, rate: float, random: Generator) -> Trace:
    """A window of the endless stream that brings these conversations at a mean of `rate` requests a second [1/s].

    Conversations start as Poisson has it, also before the window: those under way when it opens go on from the turn
    that they are at (the ones before it are left out), and what comes after it closes is left out, so that all of it is
    at its rate. Conversation k of n_k requests lasts D_k, as recorded, and starts anywhere in [-D_k, T) (given their
    number, starts of a Poisson process are independent and uniform), which makes the rate the sum of n_k / (T + D_k):
    T follows. Where that is less than the longest lasts, or `WINDOW`, there are copies, with block hashes of their own.
    """
    if not (np.isfinite(rate) and rate > 0):
        raise SpecError(f"{rate:g} requests/s", where=trace.name, hint="give a rate above 0")
    root, _, lasts = _conversations(trace)
    turns = np.bincount(root, minlength=len(trace)).astype(np.float64)
    low = max(min(WINDOW, float(lasts.max())), 1e-9)
    copies = math.ceil(rate / float((turns / (low + lasts)).sum()))
    hint = "give a lower --rate: all copies of the trace that it takes are made"
    must_hold(copies * len(trace), runs=copies * len(trace.run_start), where=f"--rate {rate:g}", hint=hint)
    high = copies * len(trace) / rate + low
    for _ in range(100):
        middle = (low + high) / 2
        enough = copies * float((turns / (middle + lasts)).sum()) > rate
        low, high = (middle, high) if enough else (low, middle)
    many = replicate(trace, copies, every_s=0.0)
    root, since, lasts = _conversations(many)
    at = (random.random(len(many)) * (high + lasts) - lasts)[root] + since
    return _within(many, at, high)


def _conversations(trace: Trace) -> tuple[Ints, Floats, Floats]:
    """Of each request the one that began its conversation, the time since [s], and how long the one it began lasts."""
    root = roots(trace.parent)
    since = trace.arrival_s - trace.arrival_s[root]
    lasts = np.zeros(len(trace))
    np.maximum.at(lasts, root, since)
    return root, since, lasts


def _within(trace: Trace, at: Floats, end_s: float) -> Trace:
    """The requests sent at 0 to `end_s`, if those are the times; one whose parent came before waits for nobody."""
    kept = (at >= 0) & (at < end_s)
    if not kept.any():
        raise SpecError(f"no request in a window of {end_s:,.0f} s", where=trace.name, hint="give a higher rate")
    place = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)  # a parent of -1 finds the last place
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
    """Copies of a trace, each with its own block hashes and sessions, each `every_s` after the one before [s].

    By default a copy starts when the one before it has ended (its span and one mean gap later), so that the rate
    stays what it was; 0 plays all at once.
    """
    if copies < 1:
        raise SpecError(f"{copies} copies", hint="give at least 1")
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
    """The same block hashes for smaller blocks, full ones only: what an engine with blocks of this size would hash.

    A block of k x block_tokens becomes k blocks; what reaches beyond the last full block of the input is cut off.
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
    some = length > 0
    return replace(
        trace,
        run_start=trace.run_start[some] * parts,
        run_length=length[some].astype(np.int32),
        run_offsets=np.append(0, np.cumsum(np.bincount(request[some], minlength=len(trace)))),
        hash_block_tokens=block_tokens if some.any() else 0,
    )


def roots(parent: Ints) -> Ints:
    """The request without a parent from which each one descends; the pointers double at each pass."""
    root = np.where(parent < 0, np.arange(len(parent)), parent)
    while (root != root[root]).any():
        root = root[root]
    return root


def _again(trace: Trace, **changed: object) -> Trace:
    columns = {name: getattr(trace, name) for name in Trace.__slots__}
    return Trace.of(**{**columns, **changed})
