"""Reader for files of `tokenworks record`: one request a line. It is read as a trace, or as one benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.benchmark import Benchmark, Lengths, Time, above_zero
from tokenworks.ingest.mooncake import BlockId, runs_of
from tokenworks.ingest.rows import Rows, Seconds, Tokens
from tokenworks.ingest.table import Table
from tokenworks.specs.trace import Trace

FORM = "recording of tokenworks record"
MARKS = ("arrival_s", "block_tokens", "ttft_s")
"""Keys of every line, and of no other format."""
REPLAYED = "requests are sent at their recorded times; a client with a fixed number of requests in flight would wait"

BlockTokens = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class RecordedRow(msgspec.Struct):
    """One line of the file."""

    arrival_s: Seconds
    input_tokens: Tokens
    output_tokens: Tokens
    block_tokens: BlockTokens
    ttft_s: Seconds | None = None
    e2el_s: Seconds | None = None
    blocks: list[BlockId] = []


def read(rows: Rows) -> Trace:
    """Read a recording as a trace. Its lines stand in the order of the ends of the requests, so they are sorted."""
    table, decoder, size = Table(), msgspec.json.Decoder(RecordedRow), 0
    for line, data in rows.lines():
        row = rows.decode(line, data, decoder)
        if row is None:
            continue
        size = size or row.block_tokens
        if row.block_tokens != size:
            rows.broken(line, "block_tokens", f"expected {size}, as in the lines before")
            continue
        if len(row.blocks) > row.input_tokens // size:
            rows.broken(line, "blocks", f"expected at most one hash for each {size} tokens of input_tokens")
            continue
        table.add(row.arrival_s, row.input_tokens, row.output_tokens, runs=runs_of(row.blocks))
    return table.trace(rows, hash_block_tokens=size if table.run_start else 0)


def benchmark_of(lines: Sequence[tuple[str, bytes]], where: str, name: str) -> Benchmark:
    """All requests of a recording as one benchmark, played at their recorded times. TTFT and TPOT are medians.

    Parameters
    ----------
    lines : place of each line for messages, and its JSON text
    where : path of the file
    name : name of the point
    """
    decoder, good, broken = msgspec.json.Decoder(RecordedRow), list[RecordedRow](), list[str]()
    for place, data in lines:
        try:
            good.append(decoder.decode(data))
        except (ValueError, RecursionError) as error:
            broken.append(f"{place}: {error}")
    complete = [one for one in good if one.e2el_s is not None]
    notes = [REPLAYED]
    if broken:
        notes.append(f"left out {len(broken)} lines: {broken[0]}")
    if len(complete) < len(good):
        notes.append(f"left out {len(good) - len(complete)} requests whose client left before the end")
    if not complete:
        raise SpecError("no request completed", where=where, hint="record longer: there is no result to compare with")
    complete.sort(key=lambda one: one.arrival_s)
    isl, osl = (
        Lengths(statistics.fmean(sizes), statistics.pstdev(sizes) / statistics.fmean(sizes))
        for sizes in ([one.input_tokens for one in complete], [one.output_tokens for one in complete])
    )
    first = complete[0].arrival_s
    seconds = above_zero(max(one.arrival_s + (one.e2el_s or 0.0) for one in complete) - first, "e2el_s", where)
    span = complete[-1].arrival_s - first
    rate = (len(complete) - 1) / span if span else len(complete) / seconds
    ttfts = [one.ttft_s for one in complete if one.ttft_s]
    tpots = [
        (one.e2el_s - one.ttft_s) / (one.output_tokens - 1)
        for one in complete
        if one.ttft_s and one.e2el_s and one.output_tokens > 1 and one.e2el_s > one.ttft_s
    ]
    return Benchmark(
        name=f"{name} {isl.mean:.0f}/{osl.mean:.0f}", arrivals="poisson", rate=rate,
        concurrency=None, requests=len(complete), isl=isl, osl=osl,
        ttft=Time(statistics.median(ttfts)) if ttfts else None, tpot=Time(statistics.median(tpots)) if tpots else None,
        tokens_per_s=len(complete) * (isl.mean + osl.mean) / seconds,
        sent_s=tuple(one.arrival_s - first for one in complete), notes=tuple(notes),
    )  # fmt: skip
