"""What of a run is measured, whether the queue stayed, and whether the SLO held; `engine.metrics` does the counting."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Bools, Floats, Ints
from tokenworks.engine.metrics import Metrics, metrics
from tokenworks.engine.types import Counts, Outcome, Status
from tokenworks.specs.slo import Bound, Slo

WARM, DONE = 0.2, 0.9
"""An endless stream is measured from when one share of it was sent until the other was: warm, and under load."""

Chosen = Bools | None

GROWTH = 0.05
"""A queue that takes more than this share of what arrives grows without end [-]."""


@dataclass(frozen=True, slots=True)
class Span:
    """The stretch of simulated time that is measured [s]."""

    start_s: float
    end_s: float

    @classmethod
    def whole(cls, outcome: Outcome) -> Span:
        """From the first sending to the last end."""
        sent = outcome.arrival_s[outcome.status > Status.PENDING]
        ends = outcome.end_s[outcome.status == Status.COMPLETED]
        if not len(sent):
            return cls(0.0, outcome.now_s)
        return cls(float(sent.min()), float(ends.max(initial=sent.max())))

    @property
    def seconds(self) -> float:
        """Its length [s]."""
        return max(self.end_s - self.start_s, 1e-12)

    def served(self, outcome: Outcome) -> Bools:
        """Requests that completed in it."""
        done = outcome.status == Status.COMPLETED
        kept: Bools = done & (outcome.end_s >= self.start_s) & (outcome.end_s <= self.end_s)
        return kept


@dataclass(frozen=True)
class Promises:
    """What each request is promised: the SLOs of its classes, and the class of each (an index into them)."""

    slos: tuple[Slo, ...]
    class_of: NDArray[np.int8]

    def limits(self, name: str) -> Floats:
        """The bound on `ttft` or `tpot` of each request [s]."""
        bounds: tuple[Bound | None, ...] = tuple(getattr(slo, name) for slo in self.slos)
        limits: Floats = np.array([bound.value if bound else math.inf for bound in bounds])[self.class_of]
        return limits


def measure(outcome: Outcome, promises: Promises, span: Span, itl_counts: Ints, chosen: Chosen = None) -> Metrics:
    """Metrics of the requests that completed in a span, or of the `chosen` ones of them, per second of it.

    Not of those sent in it: of what an overloaded deployment was sent, it served less. `itl_counts`: in the span.
    """
    served = span.served(outcome)
    found = metrics(
        outcome,
        ttft_s=promises.limits("ttft"),
        tpot_s=promises.limits("tpot"),
        chosen=served if chosen is None else served & chosen,
        itl_counts=itl_counts,
    )
    share = found.duration / span.seconds
    rates = (
        "request_throughput", "request_goodput", "output_throughput", "total_token_throughput", "effective_throughput"
    )  # fmt: skip
    return replace(found, duration=span.seconds, **{name: getattr(found, name) * share for name in rates})


@dataclass(frozen=True, slots=True)
class Seen:
    """A bound of the SLO, what was seen at its percentile [s], and whether it held."""

    percentile: float
    bound_s: float
    seen_s: float
    met: bool

    @classmethod
    def of(cls, bound: Bound, values: Floats) -> Seen:
        """Of requests' values [s]."""
        seen = float(np.percentile(values, bound.percentile))
        return cls(bound.percentile, bound.value, seen, seen <= bound.value)


def bounds(outcome: Outcome, slo: Slo, span: Span, chosen: Chosen = None) -> dict[str, Seen]:
    """Each bound of the SLO over the (chosen) requests that completed in a span; empty where none did."""
    served = span.served(outcome)
    served = served if chosen is None else served & chosen
    ttft = (outcome.first_token_s - outcome.arrival_s)[served]
    several = served & (outcome.output_tokens > 1)
    tpot = (outcome.end_s - outcome.first_token_s)[several] / (outcome.output_tokens[several] - 1)
    pairs = (("ttft", slo.ttft, ttft), ("tpot", slo.tpot, tpot))
    return {name: Seen.of(bound, values) for name, bound, values in pairs if bound and len(values)}


@dataclass(frozen=True)
class Window:
    """The stretch that is measured, and what was counted in it."""

    span: Span
    counts: Counts

    @classmethod
    def of(cls, outcome: Outcome, marks: tuple[Counts, ...], end: Counts) -> Window:
        """Of all there is everything; of an endless stream, whose `marks` there are, the steady part.

        marks : counts when `WARM` and `DONE` of all was sent, as far as it came; end : counts at the end
        """
        if not marks:
            return cls(Span.whole(outcome), end)
        last = marks[1] if len(marks) > 1 else end
        return cls(Span(marks[0].now_s, last.now_s), last.since(marks[0]))


@dataclass(frozen=True, slots=True)
class Backlog:
    """Requests that waited for their first step, and all sent so far, at quarters of the time of sending."""

    at_s: tuple[float, ...]
    waiting: tuple[int, ...]
    sent: tuple[int, ...]

    @classmethod
    def of(cls, outcome: Outcome) -> Backlog:
        """Of all that was sent and not refused."""
        real = (outcome.status > Status.PENDING) & (outcome.status != Status.REJECTED)
        sent = np.sort(outcome.arrival_s[real])
        if not len(sent):
            return cls((), (), ())
        scheduled = np.sort(outcome.scheduled_s[real])  # NaN comes last: never scheduled
        at = sent[0] + (sent[-1] - sent[0]) * np.array([0.25, 0.5, 0.75, 1.0])
        begun = np.searchsorted(scheduled, at, side="right")
        came = np.searchsorted(sent, at, side="right")
        return cls(tuple(at.tolist()), tuple((came - begun).tolist()), tuple(came.tolist()))

    @property
    def stable(self) -> bool:
        """Whether the queue stays: over the later half it must not take `GROWTH` of what comes, nor 3 sqrt(arrivals).

        Less than that is chance: the number of arrivals itself varies by its root.
        """
        if not self.at_s or self.at_s[-1] == self.at_s[0]:
            return True
        _, middle, later, last = self.waiting
        came = self.sent[-1] - self.sent[1]
        return not (middle < later < last and last - middle > max(GROWTH * came, 3 * math.sqrt(came)))
