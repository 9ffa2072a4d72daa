"""Small files in the formats of other tools, with invented numbers that can be checked by hand."""

from __future__ import annotations

import json
from typing import Any

BAILIAN = [
    {"chat_id": 7, "parent_chat_id": -1, "timestamp": 10.0, "input_length": 40, "output_length": 9, "type": "text",
     "turn": 1, "hash_ids": [4, 5, 9]},
    {"chat_id": 8, "parent_chat_id": -1, "timestamp": 12.5, "input_length": 33, "output_length": 5, "type": "search",
     "turn": 1, "hash_ids": [4, 6, 7]},
    {"chat_id": 9, "parent_chat_id": 7, "timestamp": 70.25, "input_length": 64, "output_length": 3, "type": "text",
     "turn": 2, "hash_ids": [4, 5, 10, 11]},
]  # fmt: skip
"""Three requests with blocks of 16 tokens; the third one follows the first one."""


RECORDING = [
    {"arrival_s": 1.5, "input_tokens": 40, "output_tokens": 9, "block_tokens": 16, "ttft_s": 0.1, "e2el_s": 0.5,
     "cached_tokens": 0, "blocks": [4, 1 << 60]},
    {"arrival_s": 0.5, "input_tokens": 50, "output_tokens": 3, "block_tokens": 16, "ttft_s": None, "e2el_s": 2.5,
     "cached_tokens": None, "blocks": [4, 1 << 60, 7]},
]  # fmt: skip
"""Two requests in the order of their ends; they share two blocks."""


def sglang(**changes: Any) -> dict[str, Any]:
    """One run of SGLang: 4 requests of 100 + 10 tokens in 0.5 s, two in flight, without single requests."""
    return {
        "tag": None, "backend": "sglang", "dataset_name": "random", "request_rate": float("inf"), "max_concurrency": 2,
        "server_info": None, "duration": 0.5, "completed": 4, "total_input_tokens": 400, "total_output_tokens": 40,
        "total_output_tokens_retokenized": 40, "request_throughput": 8.0, "input_throughput": 800.0,
        "output_throughput": 80.0, "total_throughput": 880.0, "mean_e2e_latency_ms": 150.0, "mean_ttft_ms": 61.0,
        "median_ttft_ms": 60.0, "mean_tpot_ms": 10.5, "median_tpot_ms": 10.0, "mean_itl_ms": 10.0,
        "accept_length": None, **changes,
    }  # fmt: skip


DETAILS: dict[str, Any] = {
    "input_lens": [100, 100, 100, 100], "output_lens": [3, 3, 3, 3], "ttfts": [0.1, 0.2, 0.1, 0.1],
    "itls": [[0.05, 0.05]] * 4, "generated_texts": [""] * 4, "errors": [""] * 4,
}  # fmt: skip
"""Single requests of a run: they last 0.2, 0.3, 0.2 and 0.2 s."""

INFERENCEX: dict[str, Any] = {
    "hw": "h200", "conc": 16, "image": "x", "model": "deepseek-ai/DeepSeek-R1-0528", "framework": "sglang",
    "precision": "fp8", "spec_decoding": "none", "disagg": False, "isl": 1000, "osl": 2000, "is_multinode": False,
    "tp": 8, "pp": 1, "pcp_size": 1, "ep": 8, "dp_attention": "false", "tput_per_gpu": 90.0,
    "output_tput_per_gpu": 60.0, "input_tput_per_gpu": 30.0, "mean_ttft": 0.5, "median_ttft": 0.4, "mean_tpot": 0.02,
    "median_tpot": 0.018, "median_intvty": 55.5556,
}  # fmt: skip
"""A single-node result: 8 GPUs."""

INFERENCEX_MULTI: dict[str, Any] = {
    **{key: value for key, value in INFERENCEX.items() if key not in ("tp", "pp", "ep", "pcp_size", "dp_attention")},
    "hw": "gb200", "framework": "dynamo-sglang", "disagg": True, "is_multinode": True, "prefill_tp": 4,
    "prefill_ep": 4, "prefill_dp_attention": "true", "prefill_num_workers": 2, "decode_tp": 16, "decode_ep": 16,
    "decode_dp_attention": "true", "decode_num_workers": 1, "num_prefill_gpu": 8, "num_decode_gpu": 16,
    "tput_per_gpu": 100.0, "output_tput_per_gpu": 50.0, "input_tput_per_gpu": 200.0,
}  # fmt: skip
"""A disaggregated result: (200 x 8 + 50 x 16) / 24 = 100 token/s per GPU."""


def record(start_ms: int, end_ms: int, tokens: int, talk: str = "", **changes: Any) -> dict[str, Any]:
    """One line of AIPerf's profile_export.jsonl: a request with 5 output tokens."""
    metadata = {"session_num": 0, "x_correlation_id": talk or f"c{start_ms}", "turn_index": 0, "worker_id": "w",
                "request_start_ns": 1_790_000_000_000_000_000 + start_ms * 1_000_000, "request_ack_ns": None,
                "request_end_ns": 1_790_000_000_000_000_000 + end_ms * 1_000_000, "benchmark_phase": "profiling",
                "was_cancelled": False}  # fmt: skip
    gap = (end_ms - start_ms - 20) / 4
    metrics = {
        "input_sequence_length": {"value": tokens, "unit": "tokens"},
        "output_sequence_length": {"value": 5, "unit": "tokens"},
        "time_to_first_token": {"value": 20.0, "unit": "ms"}, "inter_token_latency": {"value": gap, "unit": "ms"},
        "inter_chunk_latency": {"value": [gap] * 4, "unit": "ms"},
    }  # fmt: skip
    return {"metadata": metadata | changes, "metrics": metrics, "error": None}


FAILED = {**record(90, 95, 1), "metrics": {"error_isl": {"value": 100}}, "error": {"code": 503, "type": "HTTPError"}}
RECORDS = [record(0, 60, 100, "a"), record(160, 240, 300, "a"), FAILED, record(50, 110, 200, "b")]
"""Two conversations and a failed request. The second turn of `a` starts 0.1 s after the first one ended."""


def guidellm_request(start: float, ttft_ms: float, itl_ms: float, outputs: int) -> dict[str, Any]:
    """One request of a GuideLLM report, with 100 prompt tokens."""
    end = start + 1e-3 * (ttft_ms + itl_ms * (outputs - 1))
    return {
        "type_": "generative_request_stats", "request_id": "r", "prompt_tokens": 100, "output_tokens": outputs,
        "info": {"status": "completed", "timings": {"request_start": start, "request_end": end}, "error": None},
        "time_to_first_token_ms": ttft_ms, "inter_token_latency_ms": itl_ms,
    }  # fmt: skip


def guidellm(version: int = 1) -> dict[str, Any]:
    """A report with one stream, then with two streams and a failed request. TPOT is weighted as GuideLLM does it."""
    good = [guidellm_request(0.0, 50, 10, 5), guidellm_request(1.0, 50, 20, 5), guidellm_request(2.0, 50, 30, 41)]
    failed = {**good[0], "output_tokens": None, "inter_token_latency_ms": None}

    def one(streams: int, errored: list[dict[str, Any]]) -> dict[str, Any]:
        totals = {"successful": 3, "errored": len(errored), "incomplete": 0, "total": 3 + len(errored)}
        metrics: dict[str, Any] = {
            "request_totals": totals,
            **{key: {"successful": {"mean": mean, "median": mean, "std_dev": std}}
               for key, mean, std in (("prompt_token_count", 100.0, 0.0), ("output_token_count", 17.0, 16.97),
                                      ("time_to_first_token_ms", 50.0, 0.0), ("inter_token_latency_ms", 30.0, 5.0))},
        }  # fmt: skip
        strategy = {"type_": "concurrent", "streams": streams}
        return {"type_": "generative_benchmark", "config": {"strategy": strategy}, "metrics": metrics,
                "requests": {"successful": good, "errored": errored, "incomplete": [], "total": None},
                "start_time": 0.0, "duration": 3.0}  # fmt: skip

    about: dict[str, Any] = {"metadata": {"version": version, "guidellm_version": "0.6.0" if version == 1 else "0.8.1"}}
    about |= {"args": {}} if version == 1 else {"config": {"spec": {}}, "conclusions": None}
    return about | {"benchmarks": [one(1, []), one(2, [failed])]}


def span(start_ms: int, end_ms: int, prompt: int | str, **changes: Any) -> dict[str, Any]:
    """One OpenTelemetry span of vLLM: a request with 8 output tokens."""
    attributes = [
        {"key": "gen_ai.latency.time_to_first_token", "value": {"doubleValue": 0.05}},
        {"key": "gen_ai.usage.prompt_tokens", "value": {"intValue": prompt}},
        {"key": "gen_ai.usage.completion_tokens", "value": {"intValue": "8"}},
        {"key": "gen_ai.request.id", "value": {"stringValue": "req"}},
    ]
    base = 1_790_000_000_000
    return {"traceId": "0", "spanId": "1", "name": "llm_request", "kind": 2, "attributes": attributes, "status": {},
            "startTimeUnixNano": f"{base + start_ms}000000", "endTimeUnixNano": f"{base + end_ms}000000",
            **changes}  # fmt: skip


def otel(*spans: dict[str, Any]) -> dict[str, Any]:
    """One object of an OpenTelemetry collector."""
    return {"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [{"scope": {}, "spans": list(spans)}]}]}


SERVEGEN = "0,0.5,2.0,Gamma,0.25,8.0\n600,0,0,,0,0\n1200,2.0,1.4,Weibull,0.5,0.25\n"
"""0.25 x 8 = 2 s is the mean gap of the first window; 0.25 x Gamma(1 + 1/0.5) = 0.5 s that of the last one."""
DATASET = {
    "0": {"input_tokens": "{100: 0.5, 300: 0.5}", "output_tokens": "{7: 1.0}", "reason_ratio": "{0.0: 1.0}"},
    "21600": {"input_tokens": "{}", "output_tokens": "{}"},
}

PER_REQUEST = (
    "arrival_s,scheduled_s,first_token_s,end_s,input_tokens,output_tokens,cached_tokens,preemptions,rank,status,class\n"
    "0,0.03,0.05,0.09,512,6,0,0,0,completed,chat\n"
    "1.5,,,,99999,6,0,0,0,rejected,batch\n"
    ",,,,20,6,0,0,0,pending,chat\n"
)
"""A request that completed, one that was sent and refused, and one that was never sent."""

VLLM_2025: dict[str, Any] = {
    "date": "20250530-101500", "backend": "vllm", "model_id": "m", "tokenizer_id": "m", "num_prompts": 5,
    "request_rate": 2.0, "burstiness": 1.0, "max_concurrency": None, "duration": 2.0, "completed": 4,
    "total_input_tokens": 400, "total_output_tokens": 12, "request_throughput": 2.0, "request_goodput:": None,
    "output_throughput": 6.0, "total_token_throughput": 206.0, "mean_ttft_ms": 125.0, "median_ttft_ms": 110.0,
    "mean_tpot_ms": 51.0, "median_tpot_ms": 50.0,
}  # fmt: skip
"""vLLM of May 2025: `request_goodput:` with a colon, and no `failed`; 4 of 5 requests completed."""


def lines(*rows: object) -> bytes:
    """JSON, one object per line. Python writes infinity as the bare word Infinity."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
