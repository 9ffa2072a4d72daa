"""What a trace is like: lengths, rate, reuse of prefixes, and how much cache that reuse needs. Exact, on runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Floats, Ints
from tokenworks.specs.trace import Trace
from tokenworks.traffic.distance import reuses

SHARES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in six numbers."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float
    total: float

    @classmethod
    def of(cls, values: Floats | Ints) -> Spread:
        """The spread of values; quantiles are interpolated linearly."""
        p50, p90, p99 = np.percentile(values, [50, 90, 99])
        total = float(values.sum(dtype=np.float64))
        return cls(total / len(values), float(p50), float(p90), float(p99), float(values.max()), total)


@dataclass(frozen=True, slots=True)
class Reuse:
    """What a prefix cache could serve.

    share : input tokens in leading blocks that an earlier request had / all input tokens: a cache without an end
    block_share : the same in blocks
    unique_blocks : different blocks in the trace
    cache_tokens : size of an LRU cache [token] that serves a share of these hits, by the share: "0.5", "0.9", ...
        It is a quantile of the reuse distance: the unique blocks from a block's last use to its next, both included
    """

    block_tokens: int
    share: float
    block_share: float
    unique_blocks: int
    cache_tokens: dict[str, int]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A trace in numbers; times in seconds, lengths in tokens."""

    requests: int
    span_s: float
    rate: float | None
    interarrival_cv: float | None
    input_tokens: Spread
    output_tokens: Spread
    sessions: int
    turns: Spread | None
    sub_agent_requests: int
    think_s: Spread | None
    reuse: Reuse | None


def statistics(trace: Trace) -> Statistics:
    """Statistics of a trace; `rate` is requests / span [1/s], None where all come at once."""
    gaps = np.diff(trace.arrival_s)
    span = float(trace.arrival_s[-1])
    in_session = trace.session[trace.session >= 0]
    turns = np.bincount(in_session)
    waiting = trace.think_s[trace.parent >= 0]
    return Statistics(
        requests=len(trace),
        span_s=span,
        rate=len(trace) / span if span > 0 else None,
        interarrival_cv=float(gaps.std() / gaps.mean()) if span > 0 else None,
        input_tokens=Spread.of(trace.input_tokens),
        output_tokens=Spread.of(trace.output_tokens),
        sessions=int((turns > 0).sum()),
        turns=Spread.of(turns[turns > 0]) if len(in_session) else None,
        sub_agent_requests=int((trace.agent > 0).sum()),
        think_s=Spread.of(waiting) if len(waiting) else None,
        reuse=_reuse(trace) if trace.hash_block_tokens else None,
    )


def _reuse(trace: Trace) -> Reuse:
    block = trace.hash_block_tokens
    found = reuses(trace)
    order = np.argsort(found.distance, kind="stable")
    blocks = found.blocks[order].cumsum()
    sizes = {}
    if len(order):
        for share in SHARES:
            sizes[f"{share:g}"] = block * int(found.distance[order][np.searchsorted(blocks, share * blocks[-1])])
    hit_tokens = np.minimum(found.leading * block, trace.input_tokens)  # the last block may be partly filled
    return Reuse(
        block_tokens=block,
        share=float(hit_tokens.sum() / trace.input_tokens.sum(dtype=np.int64)),
        block_share=float(found.leading.sum() / trace.run_length.sum(dtype=np.int64)),
        unique_blocks=found.unique_blocks,
        cache_tokens=sizes,
    )
