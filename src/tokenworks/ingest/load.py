"""The trace formats by name, their detection by content, and `load_trace`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenworks.errors import SpecError, UnknownName
from tokenworks.ingest import (
    agents,
    aiperf_records,
    azure,
    bailian,
    burstgpt,
    cache,
    guidellm,
    llmservingsim,
    mooncake,
    otel,
    per_request,
    recording,
    servegen,
    sharegpt,
    tracelab,
    vllm_bench,
)
from tokenworks.ingest.rows import BOM, Rows
from tokenworks.specs.trace import Trace


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """A trace format.

    Parameters
    ----------
    read : reader of the format
    marks : words that are in the first 64 KiB of every file of this format, and not all of them in a file of a format
        further down in the list
    start : pattern of the first bytes of every file of this format
    several : True if a file can have several benchmarks, of which the user chooses one
    cached : True if the trace depends on this file alone, so that the cache can keep it
    """

    read: Callable[[Rows], Trace]
    marks: tuple[bytes, ...] = ()
    start: re.Pattern[bytes] = re.compile(b"")
    several: bool = False
    cached: bool = True

    def fits(self, head: bytes) -> bool:
        """True if a file that begins with `head` has this format."""
        return all(mark in head for mark in self.marks) and self.start.match(head) is not None


SERVEGEN = re.compile(rb"\s*[0-9.]+,[0-9.eE+-]+,[^,\n]*,(Gamma|Weibull)?,[^,\n]*,[^,\n]*\s")

# ShareGPT is first: its text can have the marks of other formats in it, but never its own mark unescaped.
FORMATS: dict[str, TraceFormat] = {
    "sharegpt": TraceFormat(sharegpt.read, (b'"conversations"',)),
    "agents": TraceFormat(agents.read, (b'"requests"', b'"hash_rl"')),
    "bailian": TraceFormat(bailian.read, (b'"parent_chat_id"', b'"hash_ids"')),
    "recording": TraceFormat(recording.read, (b'"arrival_s"', b'"block_tokens"', b'"ttft_s"')),
    "mooncake": TraceFormat(mooncake.read, (b'"input_length"', b'"output_length"')),
    "tracelab": TraceFormat(tracelab.read, (b'"input_tokens_total"', b'"timing_events"')),
    "aiperf": TraceFormat(aiperf_records.read_trace, (b'"request_start_ns"', b'"metrics"')),
    "guidellm": TraceFormat(guidellm.read_trace, (b'"guidellm_version"',), several=True),
    "otel": TraceFormat(otel.read, (b'"resourceSpans"',)),
    "sglang-bench": TraceFormat(vllm_bench.read, (b'"total_output_tokens_retokenized"',), several=True),
    "vllm-bench": TraceFormat(vllm_bench.read, (b'"request_throughput"',), several=True),
    "llmservingsim": TraceFormat(llmservingsim.read, (b'"input_toks"', b'"output_toks"')),
    "azure": TraceFormat(azure.read, (b"ContextTokens", b"GeneratedTokens")),
    "burstgpt": TraceFormat(burstgpt.read, (b"Request tokens", b"Response tokens")),
    "per-request": TraceFormat(per_request.read, (b"first_token_s", b"input_tokens"), re.compile(rb"\s*arrival_s,")),
    "per-request-parquet": TraceFormat(per_request.read_parquet, start=re.compile(rb"PAR1")),
    "servegen": TraceFormat(servegen.read, start=SERVEGEN, cached=False),
}

# Files that people try, and that are no trace: what each one is, and what to give instead.
OTHERS: dict[tuple[bytes, ...], tuple[str, str]] = {
    (b'"tput_per_gpu"', b'"conc"'): (
        "is a result of InferenceX, which has no single requests",
        "compare it with a prediction: `validate --data FILE`",
    ),
    (b'"aiperf_version"',): (
        "is the summary of an AIPerf run, which has no single requests",
        "give profile_export.jsonl of the same run, or compare the summary with `validate --data FILE`",
    ),
    (b'"input_tokens": "{', b'"output_tokens": "{'): (
        "is the dataset of a ServeGen client: it has lengths, and no times",
        f"give the CSV beside it, chunk-N{servegen.ENDING}",
    ),
}  # fmt: skip
NAMED_KEYS = re.compile(rb'"([^"\\\n]{1,40})"\s*:')
SHOWN_KEYS, SHOWN_BYTES = 5, 60


def load_trace(
    path: Path | str, form: str | None = None, *, strict: bool = False, benchmark: int | None = None, seed: int = 0
) -> Trace:
    """Read a trace of any known format, plain, .gz or .xz. A parsed trace is stored in the cache.

    Parameters
    ----------
    path : the file; for ServeGen also the folder of its clients
    form : one of `FORMATS`; None: detected by the content
    strict : True: stop at the first broken or misplaced row; False: leave out broken rows and sort misplaced ones, and
        count both
    benchmark : number of the benchmark, from 1 on, in a file with several (GuideLLM, SGLang, vLLM); None: it has one
    seed : random seed of a format that describes requests by their statistics (ServeGen)

    Raises
    ------
    SpecError : a file that cannot be read, of unknown format, or without a valid row; with `strict`, a broken row
    """
    path = Path(path)
    if form is not None and form not in FORMATS:
        raise UnknownName("format", form, FORMATS, hint=f"known formats: {', '.join(FORMATS)}")
    rows = Rows(path, strict=strict, benchmark=benchmark, seed=seed)
    form = form or ("servegen" if servegen.is_folder(path) else sniff(rows))
    reader = FORMATS[form]
    if benchmark is not None and not reader.several:
        several = ", ".join(name for name, each in FORMATS.items() if each.several)
        hint = f"leave --benchmark out: it chooses from a file of {several}"
        raise SpecError(f"has the format {form}, without benchmarks", where=str(path), hint=hint)
    if not reader.cached:
        return reader.read(rows)
    kept = cache.entry(rows, form)
    trace = cache.load(kept, path)
    if trace is None or (strict and (trace.dropped or trace.reordered)):
        trace = reader.read(rows)
        cache.save(kept, trace)
    return trace


def format_of(rows: Rows) -> str | None:
    """The trace format of a file, detected by its beginning; None if it has none."""
    head = rows.head.removeprefix(BOM)
    if other_kind(head):
        return None
    return next((name for name, form in FORMATS.items() if form.fits(head)), None)


def sniff(rows: Rows) -> str:
    """The format of a file, detected by its beginning.

    Raises
    ------
    SpecError : no format fits; the message says what the file looks like, and what to give instead
    """
    form, head = format_of(rows), rows.head.removeprefix(BOM)
    if form is not None:
        return form
    where = str(rows.path)
    if not head.strip():
        raise SpecError("the file is empty", where=where)
    if other := other_kind(head):
        raise SpecError(other[0], where=where, hint=other[1])
    packed = head[257:262] == b"ustar" or head.startswith(b"PK\x03\x04")
    hint = "unpack the archive first" if packed else f"force one of {', '.join(FORMATS)} with --format"
    raise SpecError(f"not a trace of a known format{looks_like(head)}", where=where, hint=hint)


def other_kind(head: bytes) -> tuple[str, str] | None:
    """What a file is that is no trace, and what to give instead; None if it may be a trace.

    Parameters
    ----------
    head : first bytes of the file
    """
    return next((other for marks, other in OTHERS.items() if all(mark in head for mark in marks)), None)


def looks_like(head: bytes) -> str:
    """What a file looks like, in words for a message: its first JSON keys, or its first line.

    Parameters
    ----------
    head : first bytes of the file
    """
    keys = list(dict.fromkeys(NAMED_KEYS.findall(head)))[:SHOWN_KEYS]
    if head.lstrip()[:1] in (b"{", b"[") and keys:
        return f" (its keys are {b', '.join(keys).decode(errors='replace')} ...)"
    line = head.strip().partition(b"\n")[0][:SHOWN_BYTES].decode(errors="replace")
    return f" (it begins with {line!r})" if line.isprintable() else " (it is no text)"
