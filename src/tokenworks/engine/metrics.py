"""Results in the words of `vllm bench serve`, and effective tokens under an SLO."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tokenworks.arrays import Bools, Floats, Ints
from tokenworks.engine.gaps import ITL_BINS, itl_middle
from tokenworks.engine.types import Outcome, Status


@dataclass(frozen=True)
class Metrics:
    """Names and definitions of `vllm bench serve` (benchmarks/serve.py, 0.19); times in ms, rates per second.

    Over completed requests: ttft = first token - sending; e2el = end - sending; tpot = (e2el - ttft) / (output - 1) of
    requests with more than one token; itl = each gap between two tokens that the client sees, from all requests, at
    the resolution of the histogram (0.4 %), those of requests that did not complete included.
    duration : from the first sending to the last end [s]; request_goodput : completed within the SLO
    effective_throughput : output tokens of those requests, a second
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
    """Measure an outcome.

    Parameters
    ----------
    ttft_s, tpot_s : the SLO that an effective request meets, both; for all, or one for each [s]
    window : only requests sent in it count, and with it the duration is its width, if finite (steady state) [s]
    chosen : only these requests count (a class)
    itl_counts : gaps by duration that belong to them, see `types.Counts`; None: of all requests, over the whole run
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
    """Mean, median, standard deviation and 99th percentile [s -> ms]; 0 without values, as vLLM has it."""
    if not len(values):
        values = np.zeros(1)
    median, p99 = np.percentile(values, [50, 99])
    mean, std = values.mean(), values.std()
    found = {"mean": mean, "median": median, "std": std, "p99": p99}
    return {f"{kind}_{name}_ms": float(value) * 1e3 for kind, value in found.items()}


def _itl_spread(counts: Ints) -> dict[str, float]:
    """The same from the histogram, all its groups: a percentile is the middle of its bin, within 0.4 %."""
    counts = counts.reshape(-1, ITL_BINS).sum(axis=0)
    used = np.flatnonzero(counts)
    if not len(used):
        return _spread("itl", np.zeros(0))
    weight, value = counts[used], itl_middle()[used]
    below, total = np.cumsum(weight), int(weight.sum())
    mean = float((weight * value).sum()) / total
    std = math.sqrt(float((weight * (value - mean) ** 2).sum()) / total)
    median, p99 = (float(value[np.searchsorted(below, share * total)]) for share in (0.5, 0.99))
    found = {"mean": mean, "median": median, "std": std, "p99": p99}
    return {f"{kind}_itl_ms": seconds * 1e3 for kind, seconds in found.items()}
