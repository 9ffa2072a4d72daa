"""Statistics of a trace: lengths, rate, reuse of prefixes, and the cache size that this reuse needs. All are exact."""

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
"""Number of equal time parts in which requests over time are counted."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution: mean, quantiles, maximum and total."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float
    total: float

    @classmethod
    def of(cls, values: Floats | Ints) -> Spread:
        """The distribution of values. Quantiles are interpolated linearly."""
        p50, p90, p99 = np.percentile(values, [50, 90, 99])
        total = float(values.sum(dtype=np.float64))
        return cls(total / len(values), float(p50), float(p90), float(p99), float(values.max()), total)


@dataclass(frozen=True, slots=True)
class Reuse:
    """Hits that a prefix cache could serve.

    Parameters
    ----------
    block_tokens : tokens of a block [token]
    share : hit tokens of a cache of unlimited size / all input tokens; hit tokens are those in leading blocks that an
        earlier request had [-]
    block_share : hit blocks of this cache / all blocks [-]
    unique_blocks : number of different blocks in the trace [block]
    cache_tokens : share of the hits ("0.5", "0.9", ...) -> size of the LRU cache that serves this share. The size is a
        quantile of the reuse distance: unique blocks from the last use of a block to its next use, both included
        [token]
    """

    block_tokens: int
    share: float
    block_share: float
    unique_blocks: int
    cache_tokens: dict[str, int]


SpreadPlain = Annotated[Plain, FormOf(Spread)]


class TraceBody(TypedDict):
    """The plain form of `trace`: times in seconds, lengths in tokens; `classes` has the share of each class."""

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
    """Statistics of a trace.

    Parameters
    ----------
    trace : the trace
    requests : number of requests [count]
    span_s : time of the last arrival [s]
    rate : requests / span; None if all requests arrive at once [1/s]
    interarrival_cv : coefficient of variation of the gaps between arrivals [-]
    input_tokens, output_tokens : lengths of the requests [token]
    sessions : number of sessions [count]
    turns : requests of a session [count]
    sub_agent_requests : requests of sub-agents [count]
    think_s : think times of requests that follow an answer [s]
    reuse : reuse of prefixes; None without block hashes
    """

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
        """All statistics as plain data."""
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
    """Statistics of a trace.

    Parameters
    ----------
    trace : the trace

    Returns
    -------
    Its statistics.
    """
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
    """Reuse of prefixes in a trace with block hashes."""
    block = trace.hash_block_tokens
    hits = reuses(trace)
    order = np.argsort(hits.distance, kind="stable")
    blocks = hits.blocks[order].cumsum()
    sizes = {}
    if len(order):
        for share in SHARES:
            sizes[f"{share:g}"] = block * int(hits.distance[order][np.searchsorted(blocks, share * blocks[-1])])
    hit_tokens = np.minimum(hits.leading * block, trace.input_tokens)  # the last block may be only partly filled
    return Reuse(
        block_tokens=block,
        share=float(hit_tokens.sum() / trace.input_tokens.sum(dtype=np.int64)),
        block_share=float(hits.leading.sum() / trace.run_length.sum(dtype=np.int64)),
        unique_blocks=hits.unique_blocks,
        cache_tokens=sizes,
    )
