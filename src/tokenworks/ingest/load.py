"""The trace formats by name, their detection, and `load_trace`."""

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
    """A trace format.

    Parameters
    ----------
    read : reader of the format
    marks : words that are in the first 64 KiB of every file of this format, and of no other format
    """

    read: Callable[[Rows], Trace]
    marks: tuple[bytes, ...]


# ShareGPT is first: its text can have the marks of other formats in it, but never its own mark unescaped.
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
    """Read a trace of any known format, plain, .gz or .xz. A parsed trace is stored in the cache.

    Parameters
    ----------
    path : the file
    form : one of `FORMATS`; None: detected by the content
    strict : True: stop at the first broken or misplaced row; False: leave out broken rows and sort misplaced ones, and
        count both

    Raises
    ------
    SpecError : a file that cannot be read, of unknown format, or without a valid row; with `strict`, a broken row
    """
    path = Path(path)
    if form is not None and form not in FORMATS:
        raise UnknownName("format", form, FORMATS, hint=f"known formats: {', '.join(FORMATS)}")
    rows = Rows(path, strict=strict)
    form = form or sniff(rows)
    kept = cache.entry(rows, form)
    trace = cache.load(kept, path)
    if trace is None or (strict and (trace.dropped or trace.reordered)):
        trace = FORMATS[form].read(rows)
        cache.save(kept, trace)
    return trace


def sniff(rows: Rows) -> str:
    """The format of a file, detected by the words at its beginning."""
    head = rows.head
    for name, form in FORMATS.items():
        if all(mark in head for mark in form.marks):
            return name
    if not head.strip():
        raise SpecError("the file is empty", where=str(rows.path))
    packed = head[257:262] == b"ustar" or head.startswith(b"PK\x03\x04")
    hint = "unpack the archive first" if packed else f"force one of {', '.join(FORMATS)} with --format"
    raise SpecError("not a trace of a known format", where=str(rows.path), hint=hint)
