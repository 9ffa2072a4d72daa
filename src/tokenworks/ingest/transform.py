"""Traces from traces: the first n, another rate, many copies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tokenworks.errors import SpecError
from tokenworks.specs.trace import FloatArray, IntArray, Trace


def limit(trace: Trace, requests: int) -> Trace:
    """The first `requests` requests."""
    if requests < 1:
        raise SpecError(f"limit {requests}", hint="give at least 1 request")
    if requests >= len(trace):
        return trace
    runs = int(trace.run_offsets[requests])
    names = ("arrival_s", "input_tokens", "output_tokens", "session", "agent", "parent", "think_s")
    return replace(
        trace,
        **{name: getattr(trace, name)[:requests] for name in names},
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
    if not (np.isfinite(factor) and factor > 0):
        raise SpecError(f"a rate cannot be scaled by {factor}", hint="give a factor above 0")
    first = trace.arrival_s[roots(trace.parent)]
    return _again(trace, arrival_s=first / factor + (trace.arrival_s - first))


def starts(trace: Trace, start_s: FloatArray) -> Trace:
    """The same requests with the conversations starting at `start_s` [s], one for each request without a parent."""
    root = roots(trace.parent)
    moved = np.zeros(len(trace))
    moved[trace.parent < 0] = start_s
    return _again(trace, arrival_s=moved[root] + (trace.arrival_s - trace.arrival_s[root]))


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


def roots(parent: IntArray) -> IntArray:
    """The request without a parent from which each one descends; the pointers double at each pass."""
    root = np.where(parent < 0, np.arange(len(parent)), parent)
    while (root != root[root]).any():
        root = root[root]
    return root


def _again(trace: Trace, **changed: object) -> Trace:
    columns = {name: getattr(trace, name) for name in Trace.__slots__}
    return Trace.of(**{**columns, **changed})
