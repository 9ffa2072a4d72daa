"""Metrics of an outcome: the metrics of `vllm bench serve`, and effective tokens under an SLO."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tokenworks.arrays import Bools, Floats, Ints
from tokenworks.engine.gaps import ITL_BINS, itl_middle
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.types import Status


@dataclass(frozen=True)
class Metrics:
    """Metrics with the names and definitions of `vllm bench serve` (benchmarks/serve.py, 0.19).

    Times end in `_ms`. Rates are per second. Completed requests count, with these definitions:

        ttft = time of first token - time of sending
        e2el = time of last token - time of sending
        tpot = (e2el - ttft) / (output tokens - 1), for requests with more than one output token
        itl  = gap between two output tokens of a request, also of requests that did not complete, within 0.4 %

    completed : completed requests
    duration : from the first sending to the last end [s]
    total_input_tokens, total_output_tokens : tokens of completed requests [token]
    request_throughput : completed requests [1/s]
    request_goodput : completed requests that meet the SLO [1/s]
    output_throughput, total_token_throughput : output tokens, input + output tokens [token/s]
    effective_throughput : output tokens of requests that meet the SLO [token/s]
    """

    completed: int
    duration: float
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float
    request_goodput: float
    output_throughput: float
    total_token_throughput: float
    effective_throughput: float
    mean_ttft_ms: float
    median_ttft_ms: float
    std_ttft_ms: float
    p99_ttft_ms: float
    mean_tpot_ms: float
    median_tpot_ms: float
    std_tpot_ms: float
    p99_tpot_ms: float
    mean_itl_ms: float
    median_itl_ms: float
    std_itl_ms: float
    p99_itl_ms: float
    mean_e2el_ms: float
    median_e2el_ms: float
    std_e2el_ms: float
    p99_e2el_ms: float


def metrics(
    outcome: Outcome,
    *,
    ttft_s: ArrayLike = math.inf,
    tpot_s: ArrayLike = math.inf,
    window: tuple[float, float] = (-math.inf, math.inf),
    chosen: Bools | None = None,
    itl_counts: Ints | None = None,
) -> Metrics:
    """Metrics of an outcome, or of the requests of a time window or a class.

    Parameters
    ----------
    outcome : results of a simulation
    ttft_s, tpot_s : SLO, the highest TTFT and the highest TPOT of a request: one number, or one for each request [s]
    window : only requests sent in [start, end) count; the width of a finite window is the duration [s]
    chosen : only requests that are True here count, such as the requests of a class; None = all
    itl_counts : gaps of the requests that count, as in `types.Counts`; None = all gaps of the outcome
    """
    done = outcome.status == Status.COMPLETED
    sent = outcome.arrival_s
    if window != (-math.inf, math.inf):
        done &= (sent >= window[0]) & (sent < window[1])
    if chosen is not None:
        done &= chosen
    start, ttft = sent[done], outcome.first_token_s[done] - sent[done]
    e2el, tokens = outcome.end_s[done] - start, outcome.output_tokens[done]
    tpot = (e2el - ttft) / np.maximum(tokens - 1, 1)
    good = (ttft <= np.broadcast_to(ttft_s, done.shape)[done]) & (tpot <= np.broadcast_to(tpot_s, done.shape)[done])
    count, inputs, outputs = len(ttft), int(outcome.input_tokens[done].sum()), int(tokens.sum())
    if math.isfinite(window[1] - window[0]):
        duration = window[1] - window[0]
    else:
        duration = float((start + e2el).max() - start.min()) if count else 0.0
    per_second = 1.0 / duration if duration > 0 else 0.0
    spread = {
        **_spread("ttft", ttft), **_spread("tpot", tpot[tokens > 1]),
        **_itl_spread(outcome.itl_counts if itl_counts is None else itl_counts), **_spread("e2el", e2el),
    }  # fmt: skip
    return Metrics(
        completed=count, duration=duration, total_input_tokens=inputs, total_output_tokens=outputs,
        request_throughput=count * per_second, request_goodput=int(good.sum()) * per_second,
        output_throughput=outputs * per_second, total_token_throughput=(inputs + outputs) * per_second,
        effective_throughput=int(tokens[good].sum()) * per_second, **spread,
    )  # fmt: skip


def _spread(name: str, values: Floats) -> dict[str, float]:
    """Mean, median, standard deviation and 99th percentile of `values` [s], in ms; 0 without values, as in vLLM."""
    if not len(values):
        values = np.zeros(1)
    median, p99 = np.percentile(values, [50, 99])
    mean, std = values.mean(), values.std()
    statistics = {"mean": mean, "median": median, "std": std, "p99": p99}
    return {f"{kind}_{name}_ms": float(value) * 1e3 for kind, value in statistics.items()}


def _itl_spread(counts: Ints) -> dict[str, float]:
    """Mean, median, standard deviation and 99th percentile of the gaps in a histogram, in ms, within 0.4 %."""
    counts = counts.reshape(-1, ITL_BINS).sum(axis=0)
    used = np.flatnonzero(counts)
    if not len(used):
        return _spread("itl", np.zeros(0))
    weight, value = counts[used], itl_middle()[used]
    below, total = np.cumsum(weight), int(weight.sum())
    mean = float((weight * value).sum()) / total
    std = math.sqrt(float((weight * (value - mean) ** 2).sum()) / total)
    median, p99 = (float(value[np.searchsorted(below, share * total)]) for share in (0.5, 0.99))
    statistics = {"mean": mean, "median": median, "std": std, "p99": p99}
    return {f"{kind}_itl_ms": seconds * 1e3 for kind, seconds in statistics.items()}
