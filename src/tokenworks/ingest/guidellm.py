"""Reader for the JSON report of GuideLLM: one benchmark for each rate or number of streams."""

from __future__ import annotations

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.benchmark import (
    Arrivals,
    Benchmark,
    Deviation,
    Lengths,
    Number,
    above_zero,
    decode,
    none_failed,
    time_of,
)
from tokenworks.ingest.rows import Count, InFlight

FORM = "JSON report of GuideLLM"
ARRIVALS: dict[str, Arrivals] = {
    "synchronous": "at once", "concurrent": "at once", "throughput": "at once", "constant": "constant",
    "poisson": "poisson",
}  # fmt: skip
"""Strategy -> arrivals in the simulation. The replay of a trace is not simulated."""


class Summary(msgspec.Struct):
    """Statistics over the requests with one status."""

    mean: Number
    median: Number
    std_dev: Deviation


class GuidellmMetric(msgspec.Struct):
    """A metric of the successful requests; null if there is none, such as TTFT without streaming."""

    successful: Summary | None = None


class Totals(msgspec.Struct):
    """Number of requests by status. Incomplete requests (cut off at the end of the run) are not read."""

    successful: Count
    errored: Count


class GuidellmMetrics(msgspec.Struct):
    """The metrics that are read. `time_per_output_token_ms` is not one of them, because it includes the first token."""

    request_totals: Totals
    prompt_token_count: GuidellmMetric
    output_token_count: GuidellmMetric
    time_to_first_token_ms: GuidellmMetric | None = None
    inter_token_latency_ms: GuidellmMetric | None = None


class Strategy(msgspec.Struct):
    """The way in which requests were sent."""

    type_: str
    streams: InFlight | None = None
    max_concurrency: InFlight | None = None
    rate: Number = 0.0


class GuidellmConfig(msgspec.Struct):
    """The settings of a benchmark."""

    strategy: Strategy


class One(msgspec.Struct):
    """One benchmark of a report."""

    config: GuidellmConfig
    metrics: GuidellmMetrics
    duration: Number


class Report(msgspec.Struct):
    """The part of a report that is read (GuideLLM 0.8)."""

    benchmarks: list[One]


def read(data: bytes, where: str, name: str) -> tuple[Benchmark, ...]:
    """Read a report: all its benchmarks."""
    report = decode(data, Report, FORM, where)
    if not report.benchmarks:
        hint = "did the run end without an error?"
        raise SpecError("the report has no benchmark", where=f"{where}: benchmarks", hint=hint)
    return tuple(_benchmark(one, f"{where}: benchmarks[{i}]", name) for i, one in enumerate(report.benchmarks))


def _benchmark(one: One, where: str, name: str) -> Benchmark:
    how, metrics = one.config.strategy, one.metrics
    if how.type_ not in ARRIVALS:
        hint = f"these can be simulated: {', '.join(ARRIVALS)}"
        raise SpecError(f"{how.type_!r} cannot be simulated", where=f"{where}.config.strategy.type_", hint=hint)
    arrivals, count = ARRIVALS[how.type_], metrics.request_totals.successful
    none_failed(metrics.request_totals.errored, count, where)
    isl, osl = (_lengths(metrics, kind, where) for kind in ("prompt_token_count", "output_token_count"))
    ttft, tpot = _summary(metrics.time_to_first_token_ms), _summary(metrics.inter_token_latency_ms)
    cap = how.streams or how.max_concurrency
    if how.type_ == "throughput" and cap and cap >= count:
        cap = None  # all were sent at once
    return Benchmark(
        name=f"{name} {how.type_}" + (f" {how.rate or cap:g}" if how.rate or cap else ""),
        arrivals=arrivals,
        rate=0.0 if arrivals == "at once" else above_zero(how.rate, "config.strategy.rate", where),
        concurrency=cap,
        requests=count,
        isl=isl,
        osl=osl,
        ttft=time_of(ttft.median, ttft.mean, "metrics.time_to_first_token_ms", where) if ttft else None,
        tpot=time_of(tpot.median, tpot.mean, "metrics.inter_token_latency_ms", where) if tpot else None,
        tokens_per_s=count * (isl.mean + osl.mean) / above_zero(one.duration, "duration", where),
    )


def _summary(metric: GuidellmMetric | None) -> Summary | None:
    return metric.successful if metric else None


def _lengths(metrics: GuidellmMetrics, kind: str, where: str) -> Lengths:
    summary = _summary(getattr(metrics, kind))
    if summary is None:
        raise SpecError("no request succeeded", where=f"{where}.metrics.{kind}")
    mean = above_zero(summary.mean, f"metrics.{kind}", where)
    return Lengths(mean, summary.std_dev / mean)
