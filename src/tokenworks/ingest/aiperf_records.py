"""Reader for `profile_export.jsonl` of AIPerf: one request a line. It is read as a trace, or as one benchmark.

Layout: AIPerf 0.13, docs/tutorials/working-with-profile-exports.md. Times are nanoseconds since 1970. As a benchmark,
the file does not say how the client sent its requests; `aiperf` reads the summary of the same run, which does.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated

import msgspec

from tokenworks.ingest.benchmark import Benchmark, Lengths, Number, Time, above_zero, failures
from tokenworks.ingest.recorded import RecordedRequest, trace_of
from tokenworks.ingest.rows import Rows, Tokens
from tokenworks.specs.trace import Trace

FORM = "profile_export.jsonl of AIPerf"
PROFILED = "profiling"
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class RecordMetric(msgspec.Struct):
    """A number of one request."""

    value: Number


class RecordTokens(msgspec.Struct):
    """A length of one request [token]."""

    value: Tokens


class RecordMetrics(msgspec.Struct):
    """The metrics of a request that are read. `inter_token_latency` is the mean gap, which we call TPOT [ms]."""

    input_sequence_length: RecordTokens | None = None
    output_sequence_length: RecordTokens | None = None
    time_to_first_token: RecordMetric | None = None
    inter_token_latency: RecordMetric | None = None


class Metadata(msgspec.Struct):
    """Times and conversation of a request."""

    request_start_ns: Nanoseconds
    request_end_ns: Nanoseconds
    benchmark_phase: str = PROFILED
    x_correlation_id: str | None = None
    was_cancelled: bool = False


class Record(msgspec.Struct):
    """One line of the file."""

    metadata: Metadata
    metrics: RecordMetrics
    error: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def failed(self) -> bool:
        """True if the request has no complete answer."""
        return bytes(self.error) != b"null" or self.metadata.was_cancelled


def read_trace(rows: Rows) -> Trace:
    """Read the requests of the profiled phase. Turns of a conversation wait for the turn before, and a think time."""
    base, warm, requests = 0, 0, []
    decoder = msgspec.json.Decoder(Record)
    for line, data in rows.lines():
        record = rows.decode(line, data, decoder)
        if record is None or not _complete(rows, line, record):
            continue
        if record.metadata.benchmark_phase != PROFILED:
            warm += 1
            continue
        base = base or record.metadata.request_start_ns
        requests.append(_request(record, base))
    notes = [f"{warm} requests of the warm-up are left out"] if warm else []
    return trace_of(rows, requests, notes=notes)


def _complete(rows: Rows, line: int, record: Record) -> bool:
    """True if the request of a record has an answer and both lengths. Otherwise the record counts as broken."""
    if record.failed:
        rows.broken(line, "error", "expected null: the request failed or was cancelled in the run")
        return False
    for name in ("input_sequence_length", "output_sequence_length"):
        if getattr(record.metrics, name) is None:
            rows.broken(line, f"metrics.{name}", "expected a number of tokens")
            return False
    return True


def _request(record: Record, base: int) -> RecordedRequest:
    """The request of a record without failure. Times count from `base` [ns]."""
    about, metrics = record.metadata, record.metrics
    assert metrics.input_sequence_length is not None
    assert metrics.output_sequence_length is not None
    return RecordedRequest(
        1e-9 * (about.request_start_ns - base),
        1e-9 * (about.request_end_ns - base),
        metrics.input_sequence_length.value,
        metrics.output_sequence_length.value,
        about.x_correlation_id or "",
    )


def benchmark_of(lines: Sequence[tuple[str, bytes]], where: str, name: str) -> Benchmark:
    """All requests of the profiled phase, as one benchmark. TTFT and TPOT are medians over requests.

    Parameters
    ----------
    lines : place of each record for messages, and its JSON text
    where : path of the file
    name : name of the point
    """
    decoder, records, broken = msgspec.json.Decoder(Record), list[Record](), list[str]()
    for place, data in lines:
        try:
            records.append(decoder.decode(data))
        except (ValueError, RecursionError) as error:
            broken.append(f"{place}: {error}")
    records = [record for record in records if record.metadata.benchmark_phase == PROFILED]
    good = [one for one in records if not one.failed and one.metrics.input_sequence_length]
    good = [one for one in good if one.metrics.output_sequence_length]
    notes = failures(len(records) - len(good), len(good), where)
    notes += (f"left out {len(broken)} lines: {broken[0]}",) if broken else ()
    requests = [_request(one, good[0].metadata.request_start_ns) for one in good]
    seconds = max(one.end_s for one in requests) - min(one.start_s for one in requests)
    isl, osl = (
        Lengths(statistics.fmean(sizes), statistics.pstdev(sizes) / statistics.fmean(sizes))
        for sizes in ([one.input_tokens for one in requests], [one.output_tokens for one in requests])
    )
    ttft, tpot = (
        _median([getattr(one.metrics, metric) for one in good], metric, where)
        for metric in ("time_to_first_token", "inter_token_latency")
    )
    return Benchmark(
        name=f"{name} {isl.mean:.0f}/{osl.mean:.0f}", arrivals=None, rate=0.0, concurrency=None, requests=len(good),
        isl=isl, osl=osl, ttft=ttft, tpot=tpot,
        tokens_per_s=len(good) * (isl.mean + osl.mean) / above_zero(seconds, "metadata", where), notes=notes,
    )  # fmt: skip


def _median(metrics: Sequence[RecordMetric | None], path: str, where: str) -> Time | None:
    """The median of a time over requests, from milliseconds; None if no request has one."""
    values = [metric.value for metric in metrics if metric is not None and metric.value]
    return Time(1e-3 * above_zero(statistics.median(values), f"metrics.{path}", where)) if values else None
