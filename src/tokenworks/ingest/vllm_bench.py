"""Reader for results with single requests of `vllm bench serve` and of SGLang's `bench_serving`, as a trace.

vLLM writes single requests with --save-detailed, SGLang with --output-details. Both append runs to a file, one a line.
`vllm_summary` and `sglang_summary` read the same files as benchmarks.
"""

from __future__ import annotations

import math

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.recorded import RecordedRequest, starts_in_loop, trace_of
from tokenworks.ingest.rows import InFlight, Rows, standard_json
from tokenworks.ingest.runs import runs_of
from tokenworks.specs.trace import MAX_TOKENS, Trace

Numbers = list[float]
LISTS = ("input_lens", "output_lens", "ttfts", "itls")
LONGEST_S = 1e12
HINT = "run `vllm bench serve` with --save-result --save-detailed, or SGLang's bench_serving with --output-details"


class BenchResult(msgspec.Struct):
    """The fields of a result that are read. An infinite request rate is the text "inf", or None (SGLang)."""

    input_lens: list[int] = []
    output_lens: list[int] = []
    start_times: Numbers = []
    ttfts: Numbers = []
    itls: list[Numbers] = []
    errors: list[str | None] = []
    max_concurrency: InFlight | None = None
    request_rate: float | str | None = "inf"

    @property
    def closed(self) -> bool:
        """True if the client sent a request when another one ended."""
        return self.max_concurrency is not None and self.at_once

    @property
    def at_once(self) -> bool:
        """True if the client waited for no arrival times."""
        return self.request_rate in ("inf", None)


def read(rows: Rows) -> Trace:
    """Read a benchmark result. A run with `max_concurrency` requests in flight becomes a closed loop.

    Files of SGLang, and of vLLM before `start_times` (2025), have no start times. In a closed loop they follow from the
    durations, because the client sends the requests in order. With a request rate, all requests start at 0, and a note
    says at which rate they were sent.
    """
    where = str(rows.path)
    run = rows.chosen(runs_of(standard_json(rows.document()), where))
    try:
        result = msgspec.json.decode(run.data, type=BenchResult)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"not a result of vllm bench serve: {error}", where=run.place) from None
    if not result.input_lens:
        raise SpecError("no input_lens: the result has no single requests", where=run.place, hint=HINT)
    names = (*LISTS, "start_times") if result.start_times else LISTS
    columns = {name: getattr(result, name) for name in names}
    columns |= {"errors": result.errors} if result.errors else {}
    if len({len(values) for values in columns.values()}) != 1:
        sizes = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise SpecError("the lists have different lengths", where=run.place, hint=sizes)
    good = [i for i in range(len(result.input_lens)) if _sound(rows, result, i)]
    durations = [result.ttfts[i] + math.fsum(result.itls[i]) for i in good]
    starts, undated, notes = [result.start_times[i] for i in good] if result.start_times else [], False, []
    if not starts:
        slots = result.max_concurrency if result.closed and result.max_concurrency else len(good) or 1
        starts = starts_in_loop(durations, slots) if result.at_once else [0.0] * len(good)
        undated = not result.at_once
        notes = [_note(result)]
    requests = [
        RecordedRequest(start, start + duration, result.input_lens[i], result.output_lens[i])
        for i, start, duration in zip(good, starts, durations, strict=True)
    ]
    slots = result.max_concurrency or 0 if result.closed else 0
    return trace_of(rows, requests, slots=slots, notes=notes, undated=undated)


def _note(result: BenchResult) -> str:
    """What the reader did instead of start times, in words."""
    words = "the file has no start times"
    if result.closed:
        return f"{words}: they follow from a closed loop of {result.max_concurrency} requests in flight"
    if result.at_once:
        return f"{words}: the client sent all requests at once"
    if isinstance(result.request_rate, str):
        return f"{words}: all requests start at 0; play them with --rate, or play the trace that the client used"
    return f"{words}: all requests start at 0; play them with --rate {result.request_rate:g}, the rate of the run"


def _sound(rows: Rows, result: BenchResult, i: int) -> bool:
    """True if request `i` completed, with possible lengths and times. Otherwise the request counts as broken."""
    if result.errors and result.errors[i]:
        rows.broken(i + 1, "errors", "expected none: the request failed in the run")
        return False
    times = [result.ttfts[i], *result.itls[i], *(result.start_times[i : i + 1])]
    if not all(math.isfinite(time) and -LONGEST_S <= time <= LONGEST_S for time in times):
        rows.broken(i + 1, "ttfts, itls, start_times", "expected finite times")
        return False
    return rows.within(i + 1, "input_lens[]", result.input_lens[i], 1, MAX_TOKENS) and rows.within(
        i + 1, "output_lens[]", result.output_lens[i], 1, MAX_TOKENS
    )
