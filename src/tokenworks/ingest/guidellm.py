"""Reader for the JSON report of GuideLLM (0.6 to 0.8): one benchmark for each rate or number of streams.

The report is read as benchmarks, or one of its benchmarks as a trace. `inter_token_latency_ms` of a request is what we
call TPOT, but GuideLLM weights it by output tokens when it summarises. So TPOT is taken from the single requests.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.benchmark import (
    Arrivals,
    Benchmark,
    Deviation,
    Lengths,
    Number,
    Time,
    above_zero,
    decode,
    failures,
    time_of,
)
from tokenworks.ingest.recorded import RecordedRequest, trace_of
from tokenworks.ingest.rows import Count, InFlight, Rows
from tokenworks.specs.trace import MAX_TOKENS, Trace

FORM = "JSON report of GuideLLM"
ARRIVALS: dict[str, Arrivals] = {
    "synchronous": "at once", "concurrent": "at once", "throughput": "at once", "constant": "constant",
    "poisson": "poisson",
}  # fmt: skip
"""Strategy -> arrivals in the simulation. The replay of a trace is not simulated."""
WEIGHTED = (
    "TPOT is GuideLLM's median over output tokens: the report has not all single requests, so the median over requests "
    "is unknown"
)


class Summary(msgspec.Struct):
    """Statistics over the requests with one status."""

    mean: Number
    median: Number
    std_dev: Deviation = 0.0


class GuidellmMetric(msgspec.Struct):
    """A metric of the successful requests; null if there is none, such as TTFT without streaming."""

    successful: Summary | None = None


class Totals(msgspec.Struct):
    """Number of requests by status. Incomplete requests were cut off at the end of the run."""

    successful: Count
    errored: Count


class GuidellmMetrics(msgspec.Struct):
    """The metrics that are read. `time_per_output_token_ms` is not one of them, because it includes the first token."""

    request_totals: Totals
    prompt_token_count: GuidellmMetric | None = None
    output_token_count: GuidellmMetric | None = None
    time_to_first_token_ms: GuidellmMetric | None = None
    inter_token_latency_ms: GuidellmMetric | None = None


class Strategy(msgspec.Struct):
    """The way in which requests were sent."""

    type_: str
    streams: InFlight | None = None
    max_concurrency: InFlight | None = None
    rate: Number | None = 0.0


class GuidellmConfig(msgspec.Struct):
    """The settings of a benchmark."""

    strategy: Strategy


class Timings(msgspec.Struct):
    """Times of a request since 1970 [s]."""

    request_start: Number | None = None
    request_end: Number | None = None


class RequestInfo(msgspec.Struct):
    """Times of a request, and its conversation if it has several turns."""

    timings: Timings = msgspec.field(default_factory=Timings)
    conversation_id: str | None = None


class RequestStats(msgspec.Struct):
    """One request of a benchmark."""

    info: RequestInfo = msgspec.field(default_factory=RequestInfo)
    prompt_tokens: Number | None = None
    output_tokens: Number | None = None
    inter_token_latency_ms: Number | None = None


class Statuses(msgspec.Struct):
    """Single requests by status."""

    successful: list[RequestStats] | None = None
    errored: list[RequestStats] | None = None
    incomplete: list[RequestStats] | None = None


class One(msgspec.Struct):
    """One benchmark of a report."""

    config: GuidellmConfig
    metrics: GuidellmMetrics
    duration: Number
    requests: Statuses = msgspec.field(default_factory=Statuses)


class Report(msgspec.Struct):
    """The part of a report that is read; equal in schema versions 1 (GuideLLM 0.6) and 2 (0.7 and 0.8)."""

    benchmarks: list[One]


def read(data: bytes, where: str, name: str) -> tuple[Benchmark | SpecError, ...]:
    """Read a report: all its benchmarks, and an error in place of each benchmark that cannot be used."""
    report = _report(data, where)
    if not report.benchmarks:
        hint = "did the run end without an error?"
        raise SpecError("the report has no benchmark", where=f"{where}: benchmarks", hint=hint)
    results: list[Benchmark | SpecError] = []
    for i, one in enumerate(report.benchmarks):
        try:
            results.append(_benchmark(one, f"{where}: benchmarks[{i}]", name))
        except SpecError as error:
            results.append(error)
    return tuple(results)


def read_trace(rows: Rows) -> Trace:
    """Read the successful requests of one benchmark. Streams become a closed loop; other requests keep their times."""
    report = _report(rows.document(), str(rows.path))
    one = rows.chosen(report.benchmarks)
    requests = []
    for number, stats in enumerate(one.requests.successful or (), 1):
        timings = stats.info.timings
        lengths = (("prompt_tokens", stats.prompt_tokens), ("output_tokens", stats.output_tokens))
        if timings.request_start is None or timings.request_end is None:
            rows.broken(number, "requests.successful[].info.timings", "expected request_start and request_end")
        elif all(
            rows.within(number, f"requests.successful[].{key}", round(n or 0), 1, MAX_TOKENS) for key, n in lengths
        ):
            requests.append(
                RecordedRequest(
                    timings.request_start, timings.request_end, round(stats.prompt_tokens or 0),
                    round(stats.output_tokens or 0), stats.info.conversation_id or "",
                )
            )  # fmt: skip
    for kind, words in (("errored", "the request failed"), ("incomplete", "the end of the run cut the request off")):
        for number, _ in enumerate(getattr(one.requests, kind) or (), 1):
            rows.broken(number, f"requests.{kind}[]", f"expected none: {words}")
    how = one.config.strategy
    slots = {"synchronous": 1, "concurrent": how.streams or how.max_concurrency or 0}.get(how.type_, 0)
    return trace_of(rows, requests, slots=slots)


def _report(data: bytes, where: str) -> Report:
    """The report in a file."""
    return decode(data, Report, FORM, where)


def _benchmark(one: One, where: str, name: str) -> Benchmark:
    """One benchmark of a report; an error if it cannot be used."""
    how, metrics = one.config.strategy, one.metrics
    if how.type_ not in ARRIVALS:
        hint = f"these can be simulated: {', '.join(ARRIVALS)}"
        raise SpecError(f"{how.type_!r} cannot be simulated", where=f"{where}.config.strategy.type_", hint=hint)
    arrivals, count, rate = ARRIVALS[how.type_], metrics.request_totals.successful, how.rate or 0.0
    notes = failures(metrics.request_totals.errored, count, where)
    good = one.requests.successful or []
    isl, osl = (
        _lengths(metric, [getattr(each, key) for each in good], kind, where)
        for metric, key, kind in (
            (metrics.prompt_token_count, "prompt_tokens", "prompt_token_count"),
            (metrics.output_token_count, "output_tokens", "output_token_count"),
        )
    )
    ttft, tpot = _summary(metrics.time_to_first_token_ms), _summary(metrics.inter_token_latency_ms)
    median = time_of(tpot.median, tpot.mean, "metrics.inter_token_latency_ms", where) if tpot else None
    each_ms = [each.inter_token_latency_ms for each in good if each.inter_token_latency_ms]
    if len(good) == count and each_ms:
        path = "requests.successful[].inter_token_latency_ms"
        median = Time(1e-3 * above_zero(statistics.median(each_ms), path, where))
    elif median and osl.variation:
        notes = (*notes, WEIGHTED)
    cap = how.streams or how.max_concurrency
    cap = 1 if how.type_ == "synchronous" else cap
    if how.type_ == "throughput" and cap and cap >= count:
        cap = None  # all were sent at once
    return Benchmark(
        name=f"{name} {how.type_}" + (f" {rate or cap:g}" if rate or cap else ""),
        arrivals=arrivals,
        rate=0.0 if arrivals == "at once" else above_zero(rate, "config.strategy.rate", where),
        concurrency=cap,
        requests=count,
        isl=isl,
        osl=osl,
        ttft=time_of(ttft.median, ttft.mean, "metrics.time_to_first_token_ms", where) if ttft else None,
        tpot=median,
        tokens_per_s=count * (isl.mean + osl.mean) / above_zero(one.duration, "duration", where),
        notes=notes,
    )


def _summary(metric: GuidellmMetric | None) -> Summary | None:
    """The summary of the successful requests; None if the report has none."""
    return metric.successful if metric else None


def _lengths(metric: GuidellmMetric | None, each: Sequence[float | None], kind: str, where: str) -> Lengths:
    """Mean and variation of a length: from the summary of the report, else from its single requests."""
    summary, sent = _summary(metric), [length for length in each if length]
    if summary is not None:
        mean = above_zero(summary.mean, f"metrics.{kind}", where)
        return Lengths(mean, summary.std_dev / mean)
    if not sent:
        hint = "give the report as GuideLLM wrote it"
        raise SpecError("no lengths of successful requests", where=f"{where}.metrics.{kind}", hint=hint)
    mean = above_zero(statistics.fmean(sent), f"metrics.{kind}", where)
    return Lengths(mean, statistics.pstdev(sent) / mean)
