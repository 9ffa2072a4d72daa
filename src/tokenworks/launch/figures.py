"""The figures that a launch should reach: predictions with their intervals, and where a running engine shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenworks.launch.dialect import DialectEngine
from tokenworks.planning.fit_search import Width
from tokenworks.specs.slo import Slo

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure that a launch should reach.

    Parameters
    ----------
    name : name of the figure in results of tokenworks
    title : the figure in words, with its unit
    value : the prediction, in the unit of the title
    low, high : ends of the interval that should contain 80 % of measurements; None: the prediction has no interval
    read : where the figure can be read: a PromQL expression, or a line of the log of the engine
    """

    name: str
    title: str
    value: float
    low: float | None
    high: float | None
    read: str

    @property
    def text(self) -> str:
        """The figure with its interval, such as 33.6 (15.3 to 73.8)."""
        return (
            shown(self.value) if self.low is None else f"{shown(self.value)} ({shown(self.low)} to {shown(self.high)})"
        )


def shown(value: float | None) -> str:
    """A number with three significant digits, and all digits of large numbers."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


QUERIES: dict[DialectEngine, dict[str, str]] = {
    "vllm": {
        "ttft": "vllm:time_to_first_token_seconds", "tpot": "vllm:request_time_per_output_token_seconds",
        "tokens": "vllm:generation_tokens_total", "requests": "vllm:request_success_total",
    },
    "sglang": {
        "ttft": "sglang:time_to_first_token_seconds", "tpot": "sglang:request_time_per_output_token_seconds",
        "tokens": "sglang:generation_tokens_total", "requests": "sglang:num_requests_total",
    },
}  # fmt: skip
"""Engine -> metrics that it exports."""


def mean_query(metric: str) -> str:
    """The mean of a histogram over five minutes, in milliseconds."""
    return f"1000 * sum(rate({metric}_sum[5m])) / sum(rate({metric}_count[5m]))"


def percentile_query(metric: str, percentile: float) -> str:
    """A percentile of a histogram over five minutes, in milliseconds."""
    return f"1000 * histogram_quantile({percentile / 100:g}, sum by (le) (rate({metric}_bucket[5m])))"


def figures_of(expected: Mapping[str, Any], slo: Slo, osl: float, engine: DialectEngine) -> tuple[Figure, ...]:
    """The figures of a deployment under its planned load.

    Parameters
    ----------
    expected : predictions of the plan, by the names of a ranked deployment
    slo : bounds of the plan; they say which percentiles the predictions are for
    osl : mean output tokens of a request [token]
    engine : engine whose metrics show the figures
    """
    if not expected:
        return ()
    metrics, interval = QUERIES[engine], expected.get("interval") or {}
    figures = []
    for name, which, bound in (("ttft", "TTFT", slo.ttft), ("tpot", "TPOT", slo.tpot)):
        percentile = bound.percentile if bound else 99.0
        for key, title, query in (
            (f"{name}_s", f"mean {which} [ms]", mean_query(metrics[name])),
            (f"{name}_slo_s", f"{which} p{percentile:g} [ms]", percentile_query(metrics[name], percentile)),
        ):
            if expected.get(key) is not None:
                figures.append(_figure(key, title, expected[key], interval.get(key), 1e3, query))
    per_device = "output_tok_s_per_device"
    if expected.get("requests_s") is not None:
        rate, scale = expected["requests_s"], 1.0
        figures.append(_figure("requests_s", "requests/s", rate, None, 1.0, f"sum(rate({metrics['requests']}[5m]))"))
        if expected.get(per_device):
            scale = rate * osl / expected[per_device]
            query = f"sum(rate({metrics['tokens']}[5m]))"
            figures.append(
                _figure("output_tok_s", "output tokens/s", expected[per_device], interval.get(per_device), scale, query)
            )
    if expected.get("effective_tok_s_per_device") is not None and expected.get(per_device):
        share = expected["effective_tok_s_per_device"] / expected[per_device]
        title = "output tokens of requests within the SLO [% of all]"
        figures.append(_figure("effective_share", title, share, None, 100.0, "goodput in the result of bench.sh"))
    return tuple(figures)


def _figure(  # noqa: PLR0917 - a row of a table
    name: str, title: str, value: float, interval: Sequence[float] | None, scale: float, read: str
) -> Figure:
    low, high = (None, None) if not interval else (interval[0] * scale, interval[1] * scale)
    return Figure(name, title, value * scale, low, high, read)


def memory_figures(width: Width, engine: DialectEngine) -> tuple[Figure, ...]:
    """What the engine should print at its start, from the memory model.

    Parameters
    ----------
    width : memory of one instance
    engine : engine that prints the lines
    """
    lines = {
        "vllm": ("Model loading took", "Available KV cache memory", "GPU KV cache size", "Maximum concurrency"),
        "sglang": ("Load weight end", "KV Cache is allocated", "max_total_num_tokens", "max_total_num_tokens / length"),
    }[engine]
    values = (
        ("weights", "weights of one device [GiB]", width.weights / GIB),
        ("kv", "KV cache of one device [GiB]", width.kv / GIB),
        ("rank_tokens", "KV cache of one rank [token]", width.rank_tokens),
        ("concurrency", "longest requests that one rank holds at the same time", width.concurrency),
    )
    return tuple(
        Figure(name, title, value, None, None, f'log: "{line}"')
        for (name, title, value), line in zip(values, lines, strict=True)
    )
