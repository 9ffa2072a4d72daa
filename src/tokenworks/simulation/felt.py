"""What the requests of a run felt in windows of time: TTFT, TPOT, failures, and effective tokens per second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tokenworks.arrays import Bools, Floats, Ints
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.types import Status
from tokenworks.simulation.measured import Promises

WIDTHS = (1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 21600.0, 86400.0)
"""Widths of the windows of a series [s]."""
MOST_WINDOWS = 120
"""Windows of a series that are enough, if the largest width allows it [count]."""
LEAST_WINDOWS = 10
"""A run of a minute or more has windows of a minute, if it has this number of them [count]."""
AROUND_S = 300.0
"""Length of the windows before and after a fault [s]."""


def good_requests(outcome: Outcome, promises: Promises) -> Bools:
    """Mask of the requests that completed and kept their SLO: their output tokens are effective.

    Parameters
    ----------
    outcome : results of a run
    promises : SLO of each request
    """
    ttft = outcome.first_token_s - outcome.arrival_s
    tpot = (outcome.end_s - outcome.first_token_s) / np.maximum(outcome.output_tokens - 1, 1)
    with np.errstate(invalid="ignore"):  # requests without a first token
        kept: Bools = (ttft <= promises.limits("ttft")) & (tpot <= promises.limits("tpot"))
    kept &= outcome.status == Status.COMPLETED
    return kept


def effective_tokens(outcome: Outcome, promises: Promises) -> int:
    """Output tokens of all requests of a run that kept their SLO [token].

    Parameters
    ----------
    outcome : results of a run
    promises : SLO of each request
    """
    return int(outcome.output_tokens[good_requests(outcome, promises)].sum(dtype=np.int64))


@dataclass(frozen=True, slots=True)
class FeltWindow:
    """A window of time, as requests felt it. None: no request to take a percentile of.

    Parameters
    ----------
    from_s, to_s : start and end of the window [s]
    arrived : requests that arrived in the window
    failed : requests of these that failed, or that were refused
    completed : requests that completed in the window
    median_ttft_ms, p99_ttft_ms : TTFT of the requests that arrived in the window and got a token [ms]
    median_tpot_ms, p99_tpot_ms : TPOT of the requests that completed in the window [ms]
    output_tok_s, effective_tok_s : output tokens of the requests that completed in the window, and of these that kept
        their SLO, per second of the window [token/s]
    """

    from_s: float
    to_s: float
    arrived: int
    failed: int
    completed: int
    median_ttft_ms: float | None
    p99_ttft_ms: float | None
    median_tpot_ms: float | None
    p99_tpot_ms: float | None
    output_tok_s: float
    effective_tok_s: float


@dataclass(slots=True)
class RequestTimes:
    """The requests of a run in the order of their arrivals, and of their ends.

    Parameters
    ----------
    outcome : results of the run
    promises : SLO of each request
    """

    outcome: Outcome
    promises: Promises
    arrived_s: Floats = field(init=False)
    ended_s: Floats = field(init=False)
    by_arrival: Ints = field(init=False)
    by_end: Ints = field(init=False)
    good: Bools = field(init=False)

    def __post_init__(self) -> None:
        outcome = self.outcome
        sent, done = outcome.status > Status.PENDING, outcome.status == Status.COMPLETED
        self.by_arrival = np.flatnonzero(sent)[np.argsort(outcome.arrival_s[sent], kind="stable")]
        self.by_end = np.flatnonzero(done)[np.argsort(outcome.end_s[done], kind="stable")]
        self.arrived_s, self.ended_s = outcome.arrival_s[self.by_arrival], outcome.end_s[self.by_end]
        self.good = good_requests(outcome, self.promises)

    def felt(self, from_s: float, to_s: float) -> FeltWindow:
        """One window of time.

        Parameters
        ----------
        from_s, to_s : start and end of the window; requests at its end belong to the next window [s]
        """
        outcome = self.outcome
        came = self.by_arrival[slice(*np.searchsorted(self.arrived_s, [from_s, to_s]))]
        done = self.by_end[slice(*np.searchsorted(self.ended_s, [from_s, to_s]))]
        status = outcome.status[came]
        ttft = (outcome.first_token_s - outcome.arrival_s)[came]
        several = done[outcome.output_tokens[done] > 1]
        tpot = (outcome.end_s - outcome.first_token_s)[several] / (outcome.output_tokens[several] - 1)
        width = max(to_s - from_s, 1e-12)
        tokens = outcome.output_tokens[done].astype(np.int64)
        return FeltWindow(
            from_s, to_s, len(came), int(((status == Status.FAILED) | (status == Status.REJECTED)).sum()), len(done),
            *_percentiles(ttft[~np.isnan(ttft)]), *_percentiles(tpot), float(tokens.sum()) / width,
            float(tokens[self.good[done]].sum()) / width,
        )  # fmt: skip


def _percentiles(values: Floats) -> tuple[float | None, float | None]:
    """Median and 99th percentile [ms]; None without values."""
    if not len(values):
        return None, None
    median, p99 = np.percentile(values, [50, 99])
    return 1e3 * float(median), 1e3 * float(p99)


def phases(at_s: float, whole_s: float, end_s: float) -> tuple[tuple[float, float], ...]:
    """Windows before, during and after a fault.

    Parameters
    ----------
    at_s : time of the fault [s]
    whole_s : time at which nothing of the fault is left [s]
    end_s : end of the run [s]
    """
    at_s = min(at_s, end_s)
    over = min(max(whole_s, at_s), end_s)
    return (max(at_s - AROUND_S, 0.0), at_s), (at_s, over), (over, min(over + AROUND_S, end_s))


def series_edges(span_s: float, end_s: float) -> Sequence[float]:
    """Edges of the windows of a series: windows of a minute for a run of ten minutes to two hours [s].

    Parameters
    ----------
    span_s : time in which requests arrive [s]
    end_s : end of the run; the last window ends at this time or later, and at most at four times `span_s` [s]
    """
    least = max(span_s / MOST_WINDOWS, 60.0 if span_s >= 60.0 * LEAST_WINDOWS else span_s / 60.0)
    width = next((one for one in WIDTHS if one >= least), WIDTHS[-1])
    last = min(max(end_s, width), max(4 * span_s, width))
    count = max(1, math.ceil(last / width * (1 - 1e-12)))
    return [width * number for number in range(count + 1)]
