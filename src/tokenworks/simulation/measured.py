"""The measured window of a run, its metrics, its queue and its SLO. `engine.metrics` computes the metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Bools, Floats, Ints
from tokenworks.engine.metrics import Metrics, metrics
from tokenworks.engine.outcome import Counts, Outcome
from tokenworks.engine.types import Status
from tokenworks.specs.slo import Bound, Slo

WARM, DONE = 0.2, 0.9
"""An endless stream is measured between two times: when these shares of its requests were sent. At the first time the
system is warm; until the second time it is under load [-]."""

Chosen = Bools | None

BATCHES, STUDENT = 20, 2.093
"""Batches of a window for its confidence [count], and the 97.5 % quantile of Student's t with 19 degrees of freedom."""

SHORT, SHORT_SIGMAS = 0.02, 3.0
"""A load counts as served if the completed share of the sent requests is at least 1 - `SHORT` - `SHORT_SIGMAS` /
sqrt(arrivals): the number n of Poisson arrivals varies by sqrt(n) [-]."""

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

    def waiting(self, outcome: Outcome) -> Bools:
        """Mask of the requests that wait for their first token at the end of the window."""
        sent = (outcome.status > Status.PENDING) & (outcome.status != Status.REJECTED)
        sent &= outcome.arrival_s <= self.end_s
        waits: Bools = sent & ~(outcome.first_token_s <= self.end_s)  # NaN: no first token at all
        return waits

    def batch(self, times_s: Floats) -> Ints:
        """Batch of the window that each time lies in, 0 .. `BATCHES` - 1."""
        share = (times_s - self.start_s) / self.seconds
        number: Ints = np.clip((share * BATCHES).astype(np.int64), 0, BATCHES - 1)
        return number


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


def batch_means(values: Floats) -> tuple[float, float]:
    """Mean of a series in order of time, and half of its 95 % interval.

    The series is divided into `BATCHES` batches. Batches are long, so that their means are almost independent, though
    neighbouring values are not. With the standard deviation s of the batch means,

        half = t s / sqrt(batches)

    Parameters
    ----------
    values : series; its length is a multiple of `BATCHES`

    Returns
    -------
    The mean and the half width, in the unit of the values.

    References
    ----------
    [1] Law, Simulation Modeling and Analysis, 5th edition, section 9.5.3.
    """
    means = values.reshape(BATCHES, -1).mean(axis=1)
    return float(means.mean()), STUDENT * float(means.std(ddof=1)) / math.sqrt(BATCHES)


def percentile_confidence(values: Floats, batch: Ints, percentile: float) -> float | None:
    """Half of the 95 % interval of a percentile / the percentile, from the shares of requests beyond it.

    A batch has too few requests for a 99th percentile of its own. But the share of its requests above the percentile of
    all requests is a mean, so `batch_means` gives the interval p - h .. p + h of that share. The interval of the
    percentile lies between the percentiles p - h and p + h [1].

    Parameters
    ----------
    values : values of all requests
    batch : batch of each request
    percentile : percentile [%]

    Returns
    -------
    Half width / percentile [-]; None if the percentile is 0.

    References
    ----------
    [1] Woodruff, Journal of the American Statistical Association 47(260), 1952.
    """
    seen = float(np.percentile(values, percentile))
    above = (values > seen) - (1 - percentile / 100)
    beyond: Floats = np.bincount(batch, above, minlength=BATCHES).astype(np.float64)
    half = 100 * batch_means(beyond)[1] * BATCHES / len(values)
    low, high = np.percentile(values, [max(percentile - half, 0.0), min(percentile + half, 100.0)])
    return float(high - low) / 2 / seen if seen > 0 else None


def throughput_confidence(outcome: Outcome, span: Span) -> float | None:
    """Half of the 95 % interval of the output throughput in a window / the throughput [-]; None without tokens."""
    served = span.served(outcome)
    batch = span.batch(outcome.end_s[served])
    tokens: Floats = np.bincount(batch, outcome.output_tokens[served], minlength=BATCHES).astype(np.float64)
    mean, half = batch_means(tokens)
    return half / mean if mean > 0 else None


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


@dataclass(frozen=True, slots=True)
class Observed:
    """The values that a bound of the SLO applies to.

    Parameters
    ----------
    bound : the bound
    values : TTFT or TPOT of each request [s]
    at_s : end of each request; the end of the window for a request that still waits [s]
    """

    bound: Bound
    values: Floats
    at_s: Floats

    @property
    def seen(self) -> Seen:
        """The value at the percentile of the bound."""
        return Seen.of(self.bound, self.values)

    def confidence(self, span: Span) -> float | None:
        """Half of the 95 % interval of the value / the value [-], by `percentile_confidence`."""
        return percentile_confidence(self.values, span.batch(self.at_s), self.bound.percentile)


def observed(
    outcome: Outcome, slo: Slo, span: Span, chosen: Chosen = None, *, endless: bool = False
) -> dict[str, Observed]:
    """The values of each bound of the SLO, by name (`ttft`, `tpot`); empty if no request completed.

    In an endless stream, requests that still wait for their first token at the end of the window also count for TTFT,
    with the time that they have waited. Without these requests, an overloaded deployment would look fast: only the
    requests that were served count.

    Parameters
    ----------
    outcome : result of the engine
    slo : the bounds
    span : the measured window
    chosen : mask of the requests that count; None for all
    endless : whether the window is a part of an endless stream
    """
    served = span.served(outcome)
    served = served if chosen is None else served & chosen
    late = span.waiting(outcome) if endless else np.zeros_like(served)
    late = late if chosen is None else late & chosen
    ttft = np.append((outcome.first_token_s - outcome.arrival_s)[served], span.end_s - outcome.arrival_s[late])
    several = served & (outcome.output_tokens > 1)
    tpot = (outcome.end_s - outcome.first_token_s)[several] / (outcome.output_tokens[several] - 1)
    first_s = np.append(outcome.end_s[served], np.full(int(late.sum()), span.end_s))
    return {
        name: Observed(bound, values, at_s)
        for name, bound, values, at_s in (
            ("ttft", slo.ttft, ttft, first_s),
            ("tpot", slo.tpot, tpot, outcome.end_s[several]),
        )
        if bound and len(values)
    }


@dataclass(frozen=True, slots=True)
class Flow:
    """Requests that were sent and completed in a window.

    Parameters
    ----------
    sent, completed : requests; refused requests do not count [count]
    due : requests that an open loop sends in this time if answers take no time. Turns of a session wait for answers, so
        an overloaded deployment gets fewer requests than are due. For independent requests: `sent` [count]
    arrivals : independent arrivals that the due requests belong to: sessions, or the requests themselves [count]
    """

    sent: int
    completed: int
    due: float
    arrivals: float

    @classmethod
    def of(cls, outcome: Outcome, span: Span, *, due_rate: float | None = None, turns: float = 1.0) -> Flow:
        """Count the requests of a window.

        Parameters
        ----------
        outcome : result of the engine
        span : the window
        due_rate : due requests per second of an open loop of sessions; None for independent requests [1/s]
        turns : requests of a session [count]
        """
        real = (outcome.status > Status.PENDING) & (outcome.status != Status.REJECTED)
        sent = int((real & (outcome.arrival_s >= span.start_s) & (outcome.arrival_s <= span.end_s)).sum())
        due = sent if due_rate is None else due_rate * span.seconds
        return cls(sent, int(span.served(outcome).sum()), due, due / turns)

    @property
    def served(self) -> bool:
        """Whether as many requests complete as are due, within chance.

        The least share of completed requests is 1 - `SHORT` - `SHORT_SIGMAS` / sqrt(arrivals).
        """
        return self.completed >= self.due * (1 - SHORT - SHORT_SIGMAS / math.sqrt(max(self.arrivals, 1.0)))


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
