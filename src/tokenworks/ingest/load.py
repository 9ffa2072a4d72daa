"""The formats by name, how to tell them apart, and `load_trace`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenworks.errors import SpecError, UnknownName
from tokenworks.ingest import agents, azure, burstgpt, cache, llmservingsim, mooncake, sharegpt, tracelab, vllm_bench
from tokenworks.ingest.rows import Rows
from tokenworks.specs.trace import Trace


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """A reader, and the words that stand in the first 64 KiB of its files and of no other's."""

    read: Callable[[Rows], Trace]
    marks: tuple[bytes, ...]


# ShareGPT comes first: its text may hold any other word, but never its own mark unescaped.
FORMATS: dict[str, TraceFormat] = {
    "sharegpt": TraceFormat(sharegpt.read, (b'"conversations"',)),
    "agents": TraceFormat(agents.read, (b'"requests"', b'"hash_rl"')),
    "mooncake": TraceFormat(mooncake.read, (b'"input_length"', b'"output_length"')),
    "tracelab": TraceFormat(tracelab.read, (b'"input_tokens_total"', b'"timing_events"')),
    "vllm-bench": TraceFormat(vllm_bench.read, (b'"request_throughput"',)),
    "llmservingsim": TraceFormat(llmservingsim.read, (b'"input_toks"', b'"output_toks"')),
    "azure": TraceFormat(azure.read, (b"ContextTokens", b"GeneratedTokens")),
    "burstgpt": TraceFormat(burstgpt.read, (b"Request tokens", b"Response tokens")),
}


def load_trace(path: Path | str, form: str | None = None, *, strict: bool = False) -> Trace:
    """Read a trace of any known format, plain, .gz or .xz; what was parsed once is kept as arrays.

    Parameters
    ----------
    path : the file
    form : one of `FORMATS`; None: told by the content
    strict : stop at the first broken or misplaced row, instead of leaving it out, or sorting it, and counting

    Raises
    ------
    SpecError : unreadable, of no known format, without a single sound row; strict: a row is broken
    """
    path = Path(path)
    if form is not None and form not in FORMATS:
        raise UnknownName("format", form, FORMATS, hint=f"known are {', '.join(FORMATS)}")
    rows = Rows(path, strict=strict)
    form = form or sniff(rows)
    kept = cache.entry(rows, form)
    trace = cache.load(kept, path)
    if trace is None or (strict and (trace.dropped or trace.reordered)):
        trace = FORMATS[form].read(rows)
        cache.save(kept, trace)
    return trace


def sniff(rows: Rows) -> str:
    """The format of a file by what stands at its beginning."""
    head = rows.head
    for name, form in FORMATS.items():
        if all(mark in head for mark in form.marks):
            return name
    if not head.strip():
        raise SpecError("the file is empty", where=str(rows.path))
    packed = head[257:262] == b"ustar" or head.startswith(b"PK\x03\x04")
    hint = "unpack the archive first" if packed else f"force one of {', '.join(FORMATS)} with --format"
    raise SpecError("not a trace of a known format", where=str(rows.path), hint=hint)
