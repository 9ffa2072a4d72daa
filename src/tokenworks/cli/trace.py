"""`tokenworks trace FILE`: lengths, rate over time, and how much cache its prefixes need."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tokenworks.cli.options import Output, Switch
from tokenworks.cli.output import console, emit, table, timed
from tokenworks.cli.page import BARS
from tokenworks.cli.progress import note_mended

if TYPE_CHECKING:
    from tokenworks.traffic.statistics import Reuse, Spread, Statistics


def trace(
    file: Path,
    /,
    *,
    format: str | None = None,  # noqa: A002 - it is the option's name
    strict: Switch = False,
    limit: int | None = None,
    output: Output = "table",
) -> None:
    """Show a trace of requests: lengths, rate over time, sessions, reuse of prefixes and the cache it needs.

    Parameters
    ----------
    file
        Mooncake, Azure, BurstGPT, ShareGPT, agent sessions, TraceLab, vllm bench serve; plain, .gz or .xz
    format
        name the format instead of telling it by the content
    strict
        stop at the first broken or misplaced row; otherwise it is left out, or sorted, and counted
    limit
        only the first so many requests
    """
    from tokenworks import ingest, traffic

    began = time.perf_counter()
    read = ingest.load_trace(file, format, strict=strict)
    if limit is not None:
        read = traffic.limit(read, limit)
    found = traffic.statistics(read)
    if output == "table":
        _print(found)
    else:
        emit(timed(found.plain(), began), output)


def _print(found: Statistics) -> None:
    out, read = console(), found.trace
    note_mended(read)
    dated = bool(found.rate) and not read.undated
    rate = f", {found.rate:.4g} requests/s, gaps with cv {found.interarrival_cv:.3g}" if dated else ", all at once"
    out.print(f"{read.name}: {found.requests:,} requests in {_time(found.span_s)}{rate}")
    if dated:
        counts = found.over_time
        out.print("".join(BARS[-(-count * (len(BARS) - 1) // max(counts))] for count in counts))
        step = found.span_s / len(counts)
        out.print(f"one column is {_time(step)}, the highest {max(counts) / step:.4g} requests/s\n")
    rows = [_row("input [token]", found.input_tokens), _row("output [token]", found.output_tokens)]
    if found.turns:
        rows.append(_row("requests a session", found.turns))
    if found.think_s:
        rows.append(_row("think time [s]", found.think_s))
    columns = ("mean", "p50", "p90", "p99", "max", "total")
    out.print(table("", {"": "left", **dict.fromkeys(columns, "right")}, rows))
    if found.sessions:
        out.print(f"\n{found.sessions:,} sessions, {found.sub_agent_requests:,} requests of sub-agents")
    if read.classes:
        shares = (f"{name} {share:.1%}" for name, share in found.classes.items())
        out.print("classes: " + ", ".join(shares))
    out.print("\n" + _reuse(found.reuse))
    for note in read.notes:
        out.print(f"note: {note}")


def _row(name: str, spread: Spread) -> list[str]:
    return [name, *(f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in dataclasses.astuple(spread))]


def _reuse(reuse: Reuse | None) -> str:
    if reuse is None:
        return "reuse of prefixes: not recorded"
    words = f"reuse of prefixes: {reuse.share:.1%} of input tokens with a cache without an end"
    words += f" ({reuse.unique_blocks:,} different blocks of {reuse.block_tokens} tokens)"
    for share, tokens in reuse.cache_tokens.items():
        words += f"\n  {float(share):4.0%} of these hits need an LRU cache of {tokens:>15,} tokens"
    return words


def _time(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
