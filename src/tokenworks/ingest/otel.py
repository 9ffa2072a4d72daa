"""Reader for OpenTelemetry spans of vLLM in OTLP JSON: one span `llm_request` for each request, as a trace.

vLLM sends spans by gRPC or protobuf. The file exporter of an OpenTelemetry collector writes this JSON, one object per
line. Names of the attributes: vllm/tracing and vllm/v1/engine/output_processor.py. 64-bit integers may be texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.recorded import RecordedRequest, trace_of
from tokenworks.ingest.rows import UNDECODABLE, Rows
from tokenworks.ingest.runs import runs_of
from tokenworks.specs.trace import MAX_TOKENS, Trace

PROMPT, COMPLETION = "gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens"
MOST_NS = 1 << 62
DIGITS = 19


class AttributeValue(msgspec.Struct):
    """Value of an attribute; other kinds of values are not read."""

    integer: int | str | None = msgspec.field(name="intValue", default=None)


class Attribute(msgspec.Struct):
    """One attribute of a span."""

    key: str
    value: AttributeValue = msgspec.field(default_factory=AttributeValue)


class OtelSpan(msgspec.Struct):
    """One span. Times are nanoseconds since 1970."""

    start: int | str = msgspec.field(name="startTimeUnixNano")
    end: int | str = msgspec.field(name="endTimeUnixNano")
    attributes: list[Attribute] = []


class ScopeSpans(msgspec.Struct):
    """Spans of one instrumented module. Each span is decoded alone, so that a broken one does not hide the others."""

    spans: list[msgspec.Raw] = []


class ResourceSpans(msgspec.Struct):
    """Spans of one server."""

    scopes: list[ScopeSpans] = msgspec.field(name="scopeSpans", default_factory=list)


class Exported(msgspec.Struct):
    """One object of the file."""

    resources: list[ResourceSpans] = msgspec.field(name="resourceSpans")


def read(rows: Rows) -> Trace:
    """Read the requests of all spans, in order of their start. Spans without prompt tokens are no requests."""
    requests, other, base = [], 0, 0
    decoder = msgspec.json.Decoder(OtelSpan)
    for number, data in enumerate(_spans(rows), 1):
        span = rows.decode(number, data, decoder)
        if span is None:
            continue
        values = {one.key: one.value.integer for one in span.attributes}
        if PROMPT not in values:
            other += 1
            continue
        start, end = _number(span.start), _number(span.end)
        prompt, completion = (_number(values.get(key)) for key in (PROMPT, COMPLETION))
        if not 0 < start <= end <= MOST_NS:
            rows.broken(number, "startTimeUnixNano", "expected a start and a later end")
        elif rows.within(number, PROMPT, prompt, 1, MAX_TOKENS) and rows.within(
            number, COMPLETION, completion, 1, MAX_TOKENS
        ):
            base = base or start
            requests.append(RecordedRequest(1e-9 * (start - base), 1e-9 * (end - base), prompt, completion))
    notes = [f"{other} spans are no requests: they have no {PROMPT}"] if other else []
    return trace_of(rows, requests, notes=notes)


def _spans(rows: Rows) -> Iterator[msgspec.Raw]:
    """The JSON text of each span of the file."""
    for run in runs_of(rows.document(), str(rows.path)):
        try:
            exported = msgspec.json.decode(run.data, type=Exported)
        except UNDECODABLE as error:
            raise SpecError(f"not spans in OTLP JSON: {error}", where=run.place) from None
        for resource in exported.resources:
            for scope in resource.scopes:
                yield from scope.spans


def _number(value: Any) -> int:
    """A whole number, or a text of digits; -1 for anything else."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) <= DIGITS else -1
    return value if isinstance(value, int) else -1
