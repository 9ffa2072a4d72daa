"""The result JSON of `vllm bench serve --save-result`, as a benchmark; `vllm_bench` reads the same file as a trace."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.benchmark import Benchmark, Lengths, Number, above_zero, decode, none_failed, time_of
from tokenworks.ingest.rows import Count, InFlight
from tokenworks.specs.trace import MAX_TOKENS

FORM = "result of vllm bench serve"
Length = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class SummaryResult(msgspec.Struct):
    """What is read of a result (vLLM 0.32); a request rate of infinity is written as text, "inf"."""

    completed: Count
    total_input_tokens: Count
    total_output_tokens: Count
    total_token_throughput: Number
    failed: Count = 0
    request_rate: Number | str = "inf"
    burstiness: Number = 1.0
    max_concurrency: InFlight | None = None
    median_ttft_ms: Number | None = None
    mean_ttft_ms: Number | None = None
    median_tpot_ms: Number | None = None
    mean_tpot_ms: Number | None = None
    input_lens: list[Length] = []
    output_lens: list[Length] = []


def read(data: bytes, where: str, name: str) -> tuple[Benchmark, ...]:
    """A file is one benchmark. Lengths of single requests are there with --save-detailed only."""
    found = decode(data, SummaryResult, FORM, where)
    none_failed(found.failed, found.completed, where)
    rate = 0.0 if isinstance(found.request_rate, str) else above_zero(found.request_rate, "request_rate", where)
    if rate and found.burstiness != 1:
        hint = "only Poisson arrivals (1.0) are simulated"
        raise SpecError(f"{found.burstiness:g}", where=f"{where}: burstiness", hint=hint)
    return (
        Benchmark(
            name=name,
            arrivals="poisson" if rate else "at once",
            rate=rate,
            concurrency=found.max_concurrency,
            requests=found.completed,
            isl=_lengths(found.total_input_tokens, found.completed, found.input_lens, "total_input_tokens", where),
            osl=_lengths(found.total_output_tokens, found.completed, found.output_lens, "total_output_tokens", where),
            ttft=time_of(found.median_ttft_ms, found.mean_ttft_ms, "median_ttft_ms", where),
            tpot=time_of(found.median_tpot_ms, found.mean_tpot_ms, "median_tpot_ms", where),
            tokens_per_s=above_zero(found.total_token_throughput, "total_token_throughput", where),
        ),
    )


def _lengths(total: int, count: int, each: Sequence[int], path: str, where: str) -> Lengths:
    mean = above_zero(total, path, where) / count
    return Lengths(mean, statistics.pstdev(each) / mean if each else None)
