"""What a trace is like: lengths, rate, reuse of prefixes, and how much cache that reuse needs. Exact, on runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
from typing_extensions import TypedDict

from tokenworks.arrays import Floats, Ints
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs
from tokenworks.specs.trace import Dropped, Trace
from tokenworks.traffic.distance import reuses

SHARES = (0.5, 0.9, 0.99, 1.0)

PARTS = 60
"""The span of a trace is counted in so many equal parts."""


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


SpreadPlain = Annotated[Plain, FormOf(Spread)]


class TraceBody(TypedDict):
    """The plain form of `trace`; times in seconds, lengths in tokens, classes : the share of each."""

    inputs: Inputs
    name: str
    source: str
    requests: int
    span_s: float
    rate: float | None
    interarrival_cv: float | None
    input_tokens: SpreadPlain
    output_tokens: SpreadPlain
    sessions: int
    turns: SpreadPlain | None
    sub_agent_requests: int
    think_s: SpreadPlain | None
    reuse: Annotated[Plain, FormOf(Reuse)] | None
    requests_over_time: list[int]
    undated: bool
    classes: dict[str, float]
    dropped: list[Annotated[Plain, FormOf(Dropped)]]
    reordered: int
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A trace in numbers; times in seconds, lengths in tokens."""

    trace: Trace = field(repr=False, compare=False)
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

    @property
    def over_time(self) -> list[int]:
        """Requests in each of `PARTS` equal parts of the span."""
        arrival = self.trace.arrival_s
        counts: list[int] = np.histogram(arrival, bins=PARTS, range=(0, max(arrival[-1], 1e-9)))[0].tolist()
        return counts

    @property
    def classes(self) -> dict[str, float]:
        """Share of the requests of each class [-]."""
        return {name: float((self.trace.class_of == k).mean()) for k, name in enumerate(self.trace.classes)}

    def plain(self) -> Plain:
        """The whole answer as plain data."""
        trace = self.trace
        body: TraceBody = {
            "inputs": inputs(),
            "name": trace.name,
            "source": trace.source,
            "requests": self.requests,
            "span_s": self.span_s,
            "rate": self.rate,
            "interarrival_cv": self.interarrival_cv,
            "input_tokens": asdict(self.input_tokens),
            "output_tokens": asdict(self.output_tokens),
            "sessions": self.sessions,
            "turns": None if self.turns is None else asdict(self.turns),
            "sub_agent_requests": self.sub_agent_requests,
            "think_s": None if self.think_s is None else asdict(self.think_s),
            "reuse": None if self.reuse is None else asdict(self.reuse),
            "requests_over_time": self.over_time,
            "undated": trace.undated,
            "classes": self.classes,
            "dropped": [asdict(one) for one in trace.dropped],
            "reordered": trace.reordered,
            "notes": list(trace.notes),
        }
        return envelope("trace", body)


def statistics(trace: Trace) -> Statistics:
    """Statistics of a trace; `rate` is requests / span [1/s], None where all come at once."""
    gaps = np.diff(trace.arrival_s)
    span = float(trace.arrival_s[-1])
    in_session = trace.session[trace.session >= 0]
    turns = np.bincount(in_session)
    waiting = trace.think_s[trace.parent >= 0]
    return Statistics(
        trace=trace,
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
