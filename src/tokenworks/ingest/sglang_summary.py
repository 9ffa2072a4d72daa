"""Reader for one line of the JSONL of SGLang's `bench_serving`: one run, as a benchmark. `vllm_bench` reads traces.

Layout: sglang 0.5.23, sglang/benchmark/serving.py. The file grows by one line for each run.
"""

from __future__ import annotations

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.benchmark import Benchmark, Number, above_zero, decode, failures, time_of
from tokenworks.ingest.rows import Count, InFlight
from tokenworks.ingest.vllm_summary import Length, lengths_of

FORM = "run of SGLang bench_serving"


class SglangRun(msgspec.Struct):
    """The fields of a run that are read. Python writes an unlimited rate as the bare word Infinity, read as None."""

    completed: Count
    duration: Number
    total_input_tokens: Count
    total_output_tokens: Count
    request_rate: Number | str | None = None
    max_concurrency: InFlight | None = None
    median_ttft_ms: Number | None = None
    mean_ttft_ms: Number | None = None
    median_tpot_ms: Number | None = None
    mean_tpot_ms: Number | None = None
    input_lens: list[Length] = []
    output_lens: list[Length] = []
    errors: list[str | None] = []


def read(data: bytes, where: str, name: str) -> tuple[Benchmark, ...]:
    """Read a run: one benchmark. TPOT has the same definition as in vLLM: (E2EL - TTFT) / (output tokens - 1)."""
    run = decode(data, SglangRun, FORM, where)
    notes = failures(sum(map(bool, run.errors)), run.completed, where)
    rate, place = run.request_rate, f"{where}: request_rate"
    if isinstance(rate, str) and rate != "inf":
        hint = "the requests followed a trace file: give that file to `simulate --trace`"
        raise SpecError(f"{rate!r} is no load of its own", where=place, hint=hint)
    poisson = 0.0 if rate is None or isinstance(rate, str) else above_zero(rate, "request_rate", where)
    load = f"rate {poisson:g}" if poisson else f"concurrency {run.max_concurrency}" if run.max_concurrency else "burst"
    tokens = run.total_input_tokens + run.total_output_tokens
    return (
        Benchmark(
            name=f"{name} {load}",
            arrivals="poisson" if poisson else "at once",
            rate=poisson,
            concurrency=run.max_concurrency,
            requests=run.completed,
            isl=lengths_of(run.total_input_tokens, run.completed, run.input_lens, "total_input_tokens", where),
            osl=lengths_of(run.total_output_tokens, run.completed, run.output_lens, "total_output_tokens", where),
            ttft=time_of(run.median_ttft_ms, run.mean_ttft_ms, "median_ttft_ms", where),
            tpot=time_of(run.median_tpot_ms, run.mean_tpot_ms, "median_tpot_ms", where),
            tokens_per_s=tokens / above_zero(run.duration, "duration", where),
            notes=notes,
        ),
    )
