"""`tokenworks trace FILE`: lengths, rate over time, and how much cache its prefixes need."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from tokenworks.cli.options import Output, Switch
from tokenworks.cli.output import console, emit, table
from tokenworks.cli.progress import note_mended

if TYPE_CHECKING:
    from tokenworks.specs.trace import Trace
    from tokenworks.traffic.statistics import Reuse, Spread, Statistics

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 60


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

    read = ingest.load_trace(file, format, strict=strict)
    if limit is not None:
        read = traffic.limit(read, limit)
    found = traffic.statistics(read)
    if output == "table":
        _print(read, found)
    else:
        emit(_plain(read, found), output)


def _plain(read: Trace, found: Statistics) -> dict[str, object]:
    return {
        "name": read.name,
        "source": read.source,
        **dataclasses.asdict(found),
        "requests_over_time": _counts(read),
        "undated": read.undated,
        "classes": _classes(read),
        "dropped": [dataclasses.asdict(d) for d in read.dropped],
        "reordered": read.reordered,
        "notes": list(read.notes),
    }


def _print(read: Trace, found: Statistics) -> None:
    out = console()
    note_mended(read)
    dated = bool(found.rate) and not read.undated
    rate = f", {found.rate:.4g} requests/s, gaps with cv {found.interarrival_cv:.3g}" if dated else ", all at once"
    out.print(f"{read.name}: {found.requests:,} requests in {_time(found.span_s)}{rate}")
    if dated:
        counts = _counts(read)
        out.print("".join(BARS[-(-count * (len(BARS) - 1) // max(counts))] for count in counts))
        step = found.span_s / WIDTH
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
        shares = (f"{name} {share:.1%}" for name, share in _classes(read).items())
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


def _classes(read: Trace) -> dict[str, float]:
    """Share of the requests of each class."""
    return {name: float((read.class_of == k).mean()) for k, name in enumerate(read.classes)}


def _counts(read: Trace) -> list[int]:
    """Requests in each of `WIDTH` equal parts of the span."""
    import numpy as np

    counts: list[int] = np.histogram(read.arrival_s, bins=WIDTH, range=(0, max(read.arrival_s[-1], 1e-9)))[0].tolist()
    return counts


def _time(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
