"""Reader for the result JSON of `vllm bench serve --save-result --save-detailed`: a measured run, as a trace."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from tokenworks.errors import SpecError
from tokenworks.ingest.rows import UNDECODABLE, InFlight, Rows
from tokenworks.ingest.table import Table
from tokenworks.specs.trace import MAX_TOKENS, Trace

Numbers = list[float]


class BenchResult(msgspec.Struct):
    """The fields of a result that are read. An infinite request rate is the text "inf"."""

    input_lens: list[int] = []
    output_lens: list[int] = []
    start_times: Numbers = []
    ttfts: Numbers = []
    itls: list[Numbers] = []
    errors: list[str | None] = []
    max_concurrency: InFlight | None = None
    request_rate: float | str = "inf"


def read(rows: Rows) -> Trace:
    """Read a benchmark result. A run with `max_concurrency` requests in flight becomes a closed loop."""
    where = str(rows.path)
    try:
        result = msgspec.json.decode(rows.document(), type=BenchResult)
    except UNDECODABLE as error:
        raise SpecError(f"not a result of vllm bench serve: {error}", where=where) from None
    if not (result.start_times and result.input_lens):
        hint = "run vllm bench serve with --save-result --save-detailed"
        raise SpecError("no start_times and input_lens: the result has no single requests", where=where, hint=hint)
    columns = {name: getattr(result, name) for name in ("input_lens", "output_lens", "ttfts", "itls", "start_times")}
    if len({len(values) for values in columns.values()}) != 1:
        sizes = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise SpecError("the lists have different lengths", where=where, hint=sizes)
    good = [i for i in np.argsort(result.start_times, kind="stable").tolist() if _sound(rows, result, i)]
    start = np.array(result.start_times)[good]
    end = start + np.array([result.ttfts[i] + sum(result.itls[i]) for i in good])
    closed = result.max_concurrency is not None and result.request_rate == "inf"
    parent, think = freed_by(start, end, result.max_concurrency or 1) if closed else (-np.ones(len(good), int), 0 * end)
    table = Table()
    for k, i in enumerate(good):
        table.add(
            float(start[k]),
            result.input_lens[i],
            result.output_lens[i],
            parent=int(parent[k]),
            think_s=float(think[k]),
        )
    return table.trace(rows)


def _sound(rows: Rows, result: BenchResult, i: int) -> bool:
    if result.errors and result.errors[i]:
        rows.broken(i + 1, "errors", "expected none: the request failed in the run")
        return False
    return rows.within(i + 1, "input_lens[]", result.input_lens[i], 1, MAX_TOKENS) and rows.within(
        i + 1, "output_lens[]", result.output_lens[i], 1, MAX_TOKENS
    )


def freed_by(start: np.ndarray[Any, Any], end: np.ndarray[Any, Any], slots: int) -> tuple[Any, Any]:
    """For a run with `slots` requests in flight: the request whose end let each request start, and the think time.

    The k-th start (from 0) takes the slot of the (k - slots)-th end.

    Parameters
    ----------
    start : start times in ascending order [s]
    end : end times of the same requests [s]
    slots : requests in flight [count]

    Returns
    -------
    Index of the parent of each request, -1 = none; and think times [s].
    """
    n = len(start)
    parent = np.full(n, -1)
    k = np.arange(slots, n)
    ended = np.argsort(end, kind="stable")[: len(k)]
    parent[slots:] = np.where(ended < k, ended, k - slots)  # times of a client can be wrong by microseconds
    think = np.where(parent >= 0, start - end[parent], 0.0)
    return parent, np.maximum(think, 0.0)
