"""`tokenworks trace FILE`: lengths, rate over time, and the cache that the prefixes need."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tokenworks.cli.options import REQUESTS, Output, Switch
from tokenworks.cli.output import console, emit, timed
from tokenworks.cli.page import BARS
from tokenworks.cli.progress import note_mended
from tokenworks.cli.tables import print_table

if TYPE_CHECKING:
    from tokenworks.traffic.statistics import Reuse, Spread, Statistics


def trace(
    file: Annotated[Path, Parameter(group=REQUESTS)],
    /,
    *,
    format: Annotated[str | None, Parameter(group=REQUESTS)] = None,  # noqa: A002 - name of the option
    benchmark: Annotated[int | None, Parameter(group=REQUESTS)] = None,
    seed: Annotated[int, Parameter(group=REQUESTS)] = 0,
    strict: Annotated[Switch, Parameter(group=REQUESTS)] = False,
    limit: Annotated[int | None, Parameter(group=REQUESTS)] = None,
    output: Output = "table",
) -> None:
    """Show a trace of requests: lengths, rate over time, sessions, prefix reuse and the cache that it needs.

    Parameters
    ----------
    file
        Trace of Mooncake, Qwen-Bailian, Azure, BurstGPT, ServeGen, ShareGPT, agent sessions or TraceLab; single
        requests of vllm bench serve, SGLang bench_serving, AIPerf (profile_export.jsonl), GuideLLM or OpenTelemetry
        spans of vLLM; a file of simulate --per-request or of record. Plain, .gz or .xz.
    format
        Format of the file, if its content does not tell: sharegpt, agents, bailian, mooncake, tracelab, aiperf,
        guidellm, otel, sglang-bench, vllm-bench, llmservingsim, azure, burstgpt, per-request, per-request-parquet,
        recording or servegen.
    benchmark
        Number of the benchmark, from 1 on, in a file with several (GuideLLM, SGLang, vllm bench serve).
    seed
        Random seed of the requests that are drawn from a ServeGen file.
    strict
        Stop at the first row that is broken or out of order. By default such rows are left out or sorted, and counted.
    limit
        Read only the first LIMIT requests.
    """
    from tokenworks import ingest, traffic

    began = time.perf_counter()
    read = ingest.load_trace(file, format, strict=strict, benchmark=benchmark, seed=seed)
    if limit is not None:
        read = traffic.limit(read, limit)
    statistics = traffic.statistics(read)
    if output == "table":
        _print(statistics)
    else:
        emit(timed(statistics.plain(), began), output)


def _print(statistics: Statistics) -> None:
    out, read = console(), statistics.trace
    note_mended(read)
    dated = bool(statistics.rate) and not read.undated
    rate = (
        f", {statistics.rate:.4g} requests/s, variation of the gaps {statistics.interarrival_cv:.3g}"
        if dated
        else ", all at once"
    )
    out.paragraph(f"{read.name}: {statistics.requests:,} requests in {_time(statistics.span_s)}{rate}")
    if dated:
        counts = statistics.over_time
        out.print("".join(BARS[-(-count * (len(BARS) - 1) // max(counts))] for count in counts))
        step = statistics.span_s / len(counts)
        out.paragraph(f"one column is {_time(step)}; the highest one has {max(counts) / step:.4g} requests/s\n")
    rows = [_row("input [token]", statistics.input_tokens), _row("output [token]", statistics.output_tokens)]
    if statistics.turns:
        rows.append(_row("requests per session", statistics.turns))
    if statistics.think_s:
        rows.append(_row("think time [s]", statistics.think_s))
    columns = ("mean", "p50", "p90", "p99", "max", "total")
    print_table(out, {"": "left", **dict.fromkeys(columns, "right")}, rows, spare=("total", "p90"))
    if statistics.sessions:
        out.paragraph(f"\n{statistics.sessions:,} sessions, {statistics.sub_agent_requests:,} requests of sub-agents")
    if read.classes:
        shares = (f"{name} {share:.1%}" for name, share in statistics.classes.items())
        out.paragraph("classes: " + ", ".join(shares))
    out.paragraph("\n" + _reuse(statistics.reuse))
    for note in read.notes:
        out.paragraph(f"note: {note}")


def _row(name: str, spread: Spread) -> list[str]:
    return [name, *(f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in dataclasses.astuple(spread))]


def _reuse(reuse: Reuse | None) -> str:
    if reuse is None:
        return "prefix reuse: not recorded"
    words = f"prefix reuse: {reuse.share:.1%} of the input tokens with an unlimited cache"
    words += f" ({reuse.unique_blocks:,} different blocks of {reuse.block_tokens} tokens)"
    for share, tokens in reuse.cache_tokens.items():
        words += f"\n  {float(share):4.0%} of these hits need an LRU cache of {tokens:>13,} tokens"
    return words


def _time(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
