"""What an engine run says in the words of `vllm bench serve`: throughput, latencies, goodput, stability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenworks.engine.metrics import itl_middle
from tokenworks.engine.types import Floats, Outcome, Status
from tokenworks.specs.slo import Slo

WARM, DONE = 0.2, 0.9
"""An endless stream is measured from when one share of it was sent until the other was: warm, and under load."""

GROWTH = 0.05
"""A queue that takes more than this share of what arrives grows without end [-]."""

PERCENTILE = 99.0


@dataclass(frozen=True, slots=True)
class Span:
    """The stretch of simulated time that is measured [s]."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """Its length [s]."""
        return max(self.end_s - self.start_s, 1e-12)


def span(outcome: Outcome, *, endless: bool) -> Span:
    """What to measure: of all there is everything, of a sample of an endless stream the steady part."""
    sent = outcome.arrival_s[outcome.status > Status.PENDING]
    ends = outcome.end_s[outcome.status == Status.COMPLETED]
    if not len(sent):
        return Span(0.0, outcome.now_s)
    if endless:
        return Span(*(float(t) for t in np.quantile(sent, (WARM, DONE))))
    return Span(float(sent.min()), float(ends.max(initial=sent.max())))


@dataclass(frozen=True, slots=True)
class Served:
    """Requests that completed within a span; arrays of one length [token, s].

    tpot : mean per output token after the first; 0 where there is one only, as `vllm bench serve` counts goodput
    """

    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    ttft: Floats
    tpot: Floats
    e2el: Floats

    @classmethod
    def of(cls, outcome: Outcome, within: Span) -> Served:
        """Those that ended in the span."""
        done = outcome.status == Status.COMPLETED
        done &= (outcome.end_s >= within.start_s) & (outcome.end_s <= within.end_s)
        first, end, sent = outcome.first_token_s[done], outcome.end_s[done], outcome.arrival_s[done]
        output = outcome.output_tokens[done]
        tpot = np.where(output > 1, (end - first) / np.maximum(output - 1, 1), 0.0)
        return cls(outcome.input_tokens[done], output, first - sent, tpot, end - sent)

    def __len__(self) -> int:
        return len(self.ttft)

    def good(self, slo: Slo) -> NDArray[np.bool_]:
        """Whose tokens are effective: TTFT and mean TPOT both within the SLO."""
        kept = np.ones(len(self), dtype=np.bool_)
        for bound, values in ((slo.ttft, self.ttft), (slo.tpot, self.tpot)):
            if bound:
                kept &= values <= bound.value
        return kept

    @property
    def several(self) -> Floats:
        """TPOT of requests that have one: of more than one output token [s]."""
        return self.tpot[self.output_tokens > 1]


def spread(values: Floats, name: str) -> dict[str, float | None]:
    """Mean, median, deviation and 99th percentile [ms], under the keys of `vllm bench serve`; None where nothing is."""
    if not len(values):
        return _named(name, [None] * 4)
    low, high = np.percentile(values, (50, PERCENTILE))
    return _named(name, [1e3 * float(x) for x in (values.mean(), low, values.std(), high)])


def gaps(counts: NDArray[np.int64]) -> dict[str, float | None]:
    """The same of gaps between output tokens, from their histogram: within 0.4 %."""
    total = int(counts.sum())
    if not total:
        return _named("itl", [None] * 4)
    middle, below = itl_middle(), np.cumsum(counts)
    mean = float((counts * middle).sum() / total)
    deviation = float(np.sqrt((counts * (middle - mean) ** 2).sum() / total))
    low, high = (float(middle[np.searchsorted(below, share * total)]) for share in (0.5, PERCENTILE / 100))
    return _named("itl", [1e3 * x for x in (mean, low, deviation, high)])


def _named(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    keys = (f"mean_{name}_ms", f"median_{name}_ms", f"std_{name}_ms", f"p{PERCENTILE:g}_{name}_ms")
    return dict(zip(keys, values, strict=True))


def bounds(served: Served, slo: Slo) -> dict[str, dict[str, float | bool]]:
    """Each bound of the SLO: what it binds, what was seen there, and whether it held."""
    found: dict[str, dict[str, float | bool]] = {}
    for name, bound, values in (("ttft", slo.ttft, served.ttft), ("tpot", slo.tpot, served.several)):
        if bound and len(values):
            seen = float(np.percentile(values, bound.percentile))
            found[name] = {
                "percentile": bound.percentile, "bound_ms": 1e3 * bound.value, "seen_ms": 1e3 * seen,
                "met": seen <= bound.value,
            }  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class Backlog:
    """Requests that waited for their first step, at quarters of the time in which requests were sent."""

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
        return not (middle < later < last and last - middle > max(GROWTH * came, 3 * np.sqrt(came)))
