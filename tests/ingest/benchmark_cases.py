"""Results as their clients write them (vLLM 0.32, AIPerf 0.13, GuideLLM 0.8), of a benchmark that is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenworks.ingest.benchmark import Benchmark, Lengths, Time

KNOWN = Benchmark(
    name="run.json", arrivals="at once", rate=0.0, concurrency=4, requests=10, isl=Lengths(450.0, 0.0),
    osl=Lengths(45.0, 0.0), ttft=Time(0.03), tpot=Time(0.008), tokens_per_s=4000.0,
)  # fmt: skip


def vllm(benchmark: Benchmark) -> dict[str, Any]:
    """One result of `vllm bench serve --save-result --save-detailed`."""
    inputs, outputs = (_drawn(lengths, benchmark.requests) for lengths in (benchmark.isl, benchmark.osl))
    result = {
        "date": "20260401-120000", "endpoint_type": "vllm", "backend": "vllm", "label": None, "model_id": "m",
        "tokenizer_id": "m", "num_prompts": benchmark.requests, "request_rate": benchmark.rate or "inf",
        "burstiness": 1.0, "max_concurrency": benchmark.concurrency,
        "duration": (sum(inputs) + sum(outputs)) / benchmark.tokens_per_s,
        "completed": benchmark.requests, "failed": 0, "total_input_tokens": sum(inputs),
        "total_output_tokens": sum(outputs), "request_throughput": 1.0, "request_goodput": None,
        "output_throughput": 1.0, "total_token_throughput": benchmark.tokens_per_s, "input_lens": inputs,
        "output_lens": outputs, "ttfts": [0.03] * benchmark.requests, "errors": [""] * benchmark.requests,
    }  # fmt: skip
    for name, time in (("ttft", benchmark.ttft), ("tpot", benchmark.tpot)):
        if time:
            result |= {f"mean_{name}_ms": 1e3 * time.seconds, f"p99_{name}_ms": 2e3 * time.seconds}
            result |= {} if time.mean else {f"median_{name}_ms": 1e3 * time.seconds}
    return result


def aiperf(benchmark: Benchmark) -> dict[str, Any]:
    """One `profile_export_aiperf.json`, of a run with warm-up."""
    kind = "concurrency" if benchmark.arrivals == "at once" else str(benchmark.arrivals)
    phase: dict[str, Any] = {"name": "profiling", "kind": "profiling", "type": kind, "requests": benchmark.requests}
    phase |= {"concurrency": benchmark.concurrency} if benchmark.concurrency else {}
    phase |= {"rate": benchmark.rate} if benchmark.rate else {}
    warm = {"name": "warmup", "kind": "warmup", "type": "concurrency", "exclude_from_results": True, "requests": 2}
    tokens = benchmark.requests * (benchmark.isl.mean + benchmark.osl.mean)
    export: dict[str, Any] = {
        "schema_version": "1.4", "aiperf_version": "0.13.0", "benchmark_id": "0" * 12,
        "request_count": {"unit": "requests", "avg": float(benchmark.requests)},
        "request_throughput": {"unit": "requests/sec", "avg": 1.0},
        "benchmark_duration": {"unit": "sec", "avg": tokens / benchmark.tokens_per_s},
        "input_config": {"models": {"items": [{"name": "m"}]}, "phases": [warm, phase]},
        "was_cancelled": False, "is_complete": True, "error_summary": [],
    }  # fmt: skip
    for name, lengths in (("input_sequence_length", benchmark.isl), ("output_sequence_length", benchmark.osl)):
        export[name] = {"unit": "tokens", "avg": lengths.mean, "p50": lengths.mean}
        export[name] |= {} if lengths.variation is None else {"std": lengths.mean * lengths.variation}
    for name, time in (("time_to_first_token", benchmark.ttft), ("inter_token_latency", benchmark.tpot)):
        if time:
            export[name] = {"unit": "ms", "avg": 1e3 * time.seconds, "count": benchmark.requests}
            export[name] |= {} if time.mean else {"p50": 1e3 * time.seconds, "p99": 2e3 * time.seconds}
    return export


def guidellm(*several: Benchmark) -> dict[str, Any]:
    """A report of several benchmarks."""
    return {
        "metadata": {"version": 2, "guidellm_version": "0.8.1"},
        "config": {"spec": {"profile": {"kind": "concurrent"}}},
        "benchmarks": [_one(benchmark) for benchmark in several],
        "conclusions": None,
    }


def _one(benchmark: Benchmark) -> dict[str, Any]:
    strategy: dict[str, Any] = {
        "type_": benchmark.arrivals,
        "worker_count": 1,
        "max_concurrency": benchmark.concurrency,
    }
    if benchmark.arrivals == "at once":
        strategy |= {"type_": "concurrent", "streams": benchmark.concurrency} if benchmark.concurrency else {
            "type_": "throughput", "max_concurrency": 512
        }  # fmt: skip
    else:
        strategy |= {"rate": benchmark.rate}
    tokens = benchmark.requests * (benchmark.isl.mean + benchmark.osl.mean)
    metrics: dict[str, Any] = {
        "request_totals": {
            "successful": benchmark.requests,
            "errored": 0,
            "incomplete": 1,
            "total": benchmark.requests + 1,
        },
        "time_per_output_token_ms": _all(99.0, 0.0),
        "request_dispatch_delay": None,
    }
    for name, lengths in (("prompt_token_count", benchmark.isl), ("output_token_count", benchmark.osl)):
        metrics[name] = _all(lengths.mean, lengths.mean * (lengths.variation or 0.0))
    for name, time in (("time_to_first_token_ms", benchmark.ttft), ("inter_token_latency_ms", benchmark.tpot)):
        metrics[name] = _all(1e3 * time.seconds, 0.0) if time else None
    return {
        "type_": "generative_benchmark", "config": {"strategy": strategy, "run_index": 0}, "metrics": metrics,
        "requests": {"successful": [], "errored": [], "incomplete": None, "total": None},
        "start_time": 1.0, "end_time": 2.0, "duration": tokens / benchmark.tokens_per_s,
    }  # fmt: skip


def _all(value: float, deviation: float) -> dict[str, Any]:
    one = {"mean": value, "median": value, "std_dev": deviation, "count": 10, "percentiles": {"p50": value}}
    none = {"mean": 0.0, "median": 0.0, "std_dev": 0.0, "count": 0, "percentiles": {"p50": 0.0}}
    return {"successful": one, "errored": none, "incomplete": none, "total": one}


def _drawn(lengths: Lengths, count: int) -> list[int]:
    """Whole lengths with that mean and that deviation, an even number of them."""
    off = round(lengths.mean * (lengths.variation or 0.0))
    return [round(lengths.mean) + (off if i % 2 else -off) for i in range(count)]


FORMS: dict[str, Callable[[Benchmark], dict[str, Any]]] = {"vllm": vllm, "aiperf": aiperf, "guidellm": guidellm}


def written(folder: Path, content: dict[str, Any], name: str = "run.json") -> Path:
    """As a file."""
    file = folder / name
    file.write_text(json.dumps(content))
    return file
