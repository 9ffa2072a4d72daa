"""The measured window of a run, its metrics, its queue and its SLO. `engine.metrics` computes the metrics."""

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
"""An endless stream is measured between two times: when these shares of its requests were sent. At the first time the
system is warm; until the second time it is under load [-]."""

Chosen = Bools | None

GROWTH = 0.05
"""A queue is unstable if it grows by more than this share of the requests that arrive [-]."""


@dataclass(frozen=True, slots=True)
class Span:
    """The measured window of simulated time: from `start_s` to `end_s` [s]."""

    start_s: float
    end_s: float

    @classmethod
    def whole(cls, outcome: Outcome) -> Span:
        """The window from the first request sent to the last request completed."""
        sent = outcome.arrival_s[outcome.status > Status.PENDING]
        ends = outcome.end_s[outcome.status == Status.COMPLETED]
        if not len(sent):
            return cls(0.0, outcome.now_s)
        return cls(float(sent.min()), float(ends.max(initial=sent.max())))

    @property
    def seconds(self) -> float:
        """Length of the window [s]."""
        return max(self.end_s - self.start_s, 1e-12)

    def served(self, outcome: Outcome) -> Bools:
        """Mask of the requests that completed inside the window."""
        done = outcome.status == Status.COMPLETED
        kept: Bools = done & (outcome.end_s >= self.start_s) & (outcome.end_s <= self.end_s)
        return kept


@dataclass(frozen=True)
class Promises:
    """SLO of each request.

    Parameters
    ----------
    slos : SLO of each class
    class_of : class of each request, an index into `slos`
    """

    slos: tuple[Slo, ...]
    class_of: NDArray[np.int8]

    def limits(self, name: str) -> Floats:
        """Bound of each request on `ttft` or `tpot` [s]; infinite without a bound."""
        bounds: tuple[Bound | None, ...] = tuple(getattr(slo, name) for slo in self.slos)
        limits: Floats = np.array([bound.value if bound else math.inf for bound in bounds])[self.class_of]
        return limits


def measure(outcome: Outcome, promises: Promises, span: Span, itl_counts: Ints, chosen: Chosen = None) -> Metrics:
    """Metrics of the requests that completed inside a window; rates are per second of the window.

    Requests count by their completion, not by their arrival: an overloaded deployment completes fewer than arrive.

    Parameters
    ----------
    outcome : result of the engine
    promises : SLO of each request
    span : the measured window
    itl_counts : histogram of the gaps between tokens inside the window [count]
    chosen : mask of the requests that are measured; None for all
    """
    served = span.served(outcome)
    totals = metrics(
        outcome,
        ttft_s=promises.limits("ttft"),
        tpot_s=promises.limits("tpot"),
        chosen=served if chosen is None else served & chosen,
        itl_counts=itl_counts,
    )
    share = totals.duration / span.seconds
    rates = (
        "request_throughput", "request_goodput", "output_throughput", "total_token_throughput", "effective_throughput"
    )  # fmt: skip
    return replace(totals, duration=span.seconds, **{name: getattr(totals, name) * share for name in rates})


@dataclass(frozen=True, slots=True)
class Seen:
    """A bound of the SLO and the simulated value.

    Parameters
    ----------
    percentile : percentile of the requests that the bound applies to [%]
    bound_s, seen_s : the bound, and the simulated value at the percentile [s]
    met : whether the bound holds
    """

    percentile: float
    bound_s: float
    seen_s: float
    met: bool

    @classmethod
    def of(cls, bound: Bound, values: Floats) -> Seen:
        """Compare a bound with the values of all requests [s]."""
        seen = float(np.percentile(values, bound.percentile))
        return cls(bound.percentile, bound.value, seen, seen <= bound.value)


def bounds(outcome: Outcome, slo: Slo, span: Span, chosen: Chosen = None) -> dict[str, Seen]:
    """Each bound of the SLO with the simulated value, by name (`ttft`, `tpot`); empty if no request completed.

    Parameters
    ----------
    outcome : result of the engine
    slo : the bounds
    span : the measured window
    chosen : mask of the requests that count; None for all
    """
    served = span.served(outcome)
    served = served if chosen is None else served & chosen
    ttft = (outcome.first_token_s - outcome.arrival_s)[served]
    several = served & (outcome.output_tokens > 1)
    tpot = (outcome.end_s - outcome.first_token_s)[several] / (outcome.output_tokens[several] - 1)
    pairs = (("ttft", slo.ttft, ttft), ("tpot", slo.tpot, tpot))
    return {name: Seen.of(bound, values) for name, bound, values in pairs if bound and len(values)}


@dataclass(frozen=True)
class Window:
    """The measured window, and the counts of the engine inside it."""

    span: Span
    counts: Counts

    @classmethod
    def of(cls, outcome: Outcome, marks: tuple[Counts, ...], end: Counts) -> Window:
        """The window of a run: the whole run without `marks`, else the steady part of an endless stream.

        Parameters
        ----------
        outcome : result of the engine
        marks : counts at the times when the shares `WARM` and `DONE` of the requests were sent; fewer if the run was
            stopped before; empty for a trace as it was recorded
        end : counts at the end of the run
        """
        if not marks:
            return cls(Span.whole(outcome), end)
        last = marks[1] if len(marks) > 1 else end
        return cls(Span(marks[0].now_s, last.now_s), last.since(marks[0]))


@dataclass(frozen=True, slots=True)
class Backlog:
    """The queue at a quarter, half, three quarters and the end of the sending time.

    Parameters
    ----------
    at_s : the four times [s]
    waiting : requests that wait for their first step [count]
    sent : requests sent so far [count]
    """

    at_s: tuple[float, ...]
    waiting: tuple[int, ...]
    sent: tuple[int, ...]

    @classmethod
    def of(cls, outcome: Outcome) -> Backlog:
        """The backlog of all requests that were sent and not refused."""
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
        """Whether the queue stays finite.

        It is unstable if it grows in both later quarters, and in the later half by more than `GROWTH` x arrivals and
        more than 3 sqrt(arrivals). Smaller growth can be chance: the number of Poisson arrivals n varies by sqrt(n).
        """
        if not self.at_s or self.at_s[-1] == self.at_s[0]:
            return True
        _, middle, later, last = self.waiting
        came = self.sent[-1] - self.sent[1]
        return not (middle < later < last and last - middle > max(GROWTH * came, 3 * math.sqrt(came)))
