"""Reader for the result JSON of `vllm bench serve --save-result`, as a benchmark. `vllm_bench` reads it as a trace."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.benchmark import Benchmark, Lengths, Number, above_zero, decode, failures, time_of
from tokenworks.ingest.rows import Count, InFlight
from tokenworks.specs.trace import MAX_TOKENS

FORM = "result of vllm bench serve"
Length = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class SummaryResult(msgspec.Struct):
    """The fields of a result that are read (vLLM of May 2025 to 0.32).

    An infinite request rate is the text "inf". Results of 2025 have no `failed`: there it is num_prompts - completed.
    """

    completed: Count
    total_input_tokens: Count
    total_output_tokens: Count
    total_token_throughput: Number
    failed: Count | None = None
    num_prompts: Count = 0
    request_rate: Number | str = "inf"
    burstiness: Number = 1.0
    max_concurrency: InFlight | None = None
    median_ttft_ms: Number | None = None
    mean_ttft_ms: Number | None = None
    median_tpot_ms: Number | None = None
    mean_tpot_ms: Number | None = None
    input_lens: list[Length] = []
    output_lens: list[Length] = []
    start_times: list[Number] = []


def read(data: bytes, where: str, name: str) -> tuple[Benchmark, ...]:
    """Read a result: one benchmark. Only files of --save-detailed have lengths and times of single requests."""
    result = decode(data, SummaryResult, FORM, where)
    failed = max(0, result.num_prompts - result.completed) if result.failed is None else result.failed
    notes = failures(failed, result.completed, where)
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
            isl=lengths_of(result.total_input_tokens, result.completed, result.input_lens, "total_input_tokens", where),
            osl=lengths_of(
                result.total_output_tokens, result.completed, result.output_lens, "total_output_tokens", where
            ),
            ttft=time_of(result.median_ttft_ms, result.mean_ttft_ms, "median_ttft_ms", where),
            tpot=time_of(result.median_tpot_ms, result.mean_tpot_ms, "median_tpot_ms", where),
            tokens_per_s=above_zero(result.total_token_throughput, "total_token_throughput", where),
            sent_s=_since_first(result.start_times) if rate else (),
            notes=notes,
        ),
    )


def _since_first(times: Sequence[float]) -> tuple[float, ...]:
    """The times in rising order, from the first one on [s]."""
    return tuple(time - min(times) for time in sorted(times))


def lengths_of(total: int, count: int, each: Sequence[int], path: str, where: str) -> Lengths:
    """Mean and variation of a length.

    Parameters
    ----------
    total : sum of the lengths of all completed requests [token]
    count : completed requests [count]
    each : lengths of single requests; empty if the file does not have them [token]
    path, where : key of the total, and place of the run, for messages
    """
    mean = above_zero(total, path, where) / count
    sent = [length for length in each if length]  # a failed request has the output length 0
    return Lengths(mean, statistics.pstdev(sent) / mean if sent else None)
