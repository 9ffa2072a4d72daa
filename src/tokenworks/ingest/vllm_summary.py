"""Reader for the result JSON of `vllm bench serve --save-result`, as a benchmark. `vllm_bench` reads it as a trace."""

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
    """The fields of a result that are read (vLLM 0.32). An infinite request rate is the text "inf"."""

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
    """Read a result: one benchmark. Only files of --save-detailed have the lengths of single requests."""
    result = decode(data, SummaryResult, FORM, where)
    none_failed(result.failed, result.completed, where)
    rate = 0.0 if isinstance(result.request_rate, str) else above_zero(result.request_rate, "request_rate", where)
    if rate and result.burstiness != 1:
        hint = "only Poisson arrivals (1.0) are simulated"
        raise SpecError(f"{result.burstiness:g} cannot be simulated", where=f"{where}: burstiness", hint=hint)
    return (
        Benchmark(
            name=name,
            arrivals="poisson" if rate else "at once",
            rate=rate,
            concurrency=result.max_concurrency,
            requests=result.completed,
            isl=_lengths(result.total_input_tokens, result.completed, result.input_lens, "total_input_tokens", where),
            osl=_lengths(
                result.total_output_tokens, result.completed, result.output_lens, "total_output_tokens", where
            ),
            ttft=time_of(result.median_ttft_ms, result.mean_ttft_ms, "median_ttft_ms", where),
            tpot=time_of(result.median_tpot_ms, result.mean_tpot_ms, "median_tpot_ms", where),
            tokens_per_s=above_zero(result.total_token_throughput, "total_token_throughput", where),
        ),
    )


def _lengths(total: int, count: int, each: Sequence[int], path: str, where: str) -> Lengths:
    mean = above_zero(total, path, where) / count
    return Lengths(mean, statistics.pstdev(each) / mean if each else None)
