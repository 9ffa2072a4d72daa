"""Small kernel tables in the form of aiconfigurator-core's, made here."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

Row = Mapping[str, Any]

LONG = 1e3
"""A time that no shape below is quicker than [ms]."""

GEMMS = [
    {"gemm_dtype": dtype, "m": m, "n": n, "k": k, "latency": LONG}
    for dtype, m, (n, k) in product(
        ("bfloat16", "fp8_block", "nvfp4"), (1, 32, 512, 8192), ((512, 1024), (4096, 4096), (1024, 8192), (16384, 8192))
    )
]
HEADS = {"num_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "window_size": 0, "attn_dtype": "bfloat16"}
CONTEXT = [
    HEADS | {"batch_size": b, "isl": isl, "step": 0, "kv_cache_dtype": "bfloat16", "latency": LONG}
    for b, isl in product((1, 8), (512, 2048, 16384))
]
GENERATION = [
    HEADS | {"batch_size": b, "isl": 1, "step": step, "kv_cache_dtype": kv, "latency": LONG}
    for b, step, kv in product((1, 16, 128), (255, 4095, 32767), ("bfloat16", "fp8"))
] + [  # many query heads for one head of the cache: bound by products
    HEADS | {"num_heads": 128, "num_key_value_heads": 1, "batch_size": b, "isl": 1, "step": step,
             "kv_cache_dtype": "fp8", "latency": LONG}
    for b, step in product((16, 128), (4095, 32767))
]  # fmt: skip
LATENT = [
    {"batch_size": b, "isl": 1, "step": step, "num_heads": heads, "mla_dtype": "bfloat16",
     "kv_cache_dtype": kv, "latency": LONG}
    for b, step, heads, kv in product((1, 64, 512), (255, 8191), (16, 128), ("bfloat16", "fp8"))
]  # fmt: skip
EXPERTS = [
    {"moe_dtype": dtype, "num_tokens": tokens, "hidden_size": hidden, "inter_size": inter, "topk": topk,
     "num_experts": experts, "moe_tp_size": tp, "moe_ep_size": ep, "distribution": "balanced",
     "kernel_source": "best", "latency": LONG}
    for dtype, tokens, (tp, ep), (hidden, inter, topk, experts) in product(
        ("bfloat16", "fp8_block", "nvfp4"), (1, 8, 64, 1024, 16384), ((1, 1), (1, 8), (8, 1)),
        ((4096, 1536, 8, 128), (7168, 2048, 8, 256), (4096, 14336, 2, 8)),
    )
]  # fmt: skip
REDUCES = [
    {"num_gpus": n, "message_size": 2**power, "kernel_source": "graph", "latency": LONG}
    for n, power in product((2, 4, 8), range(8, 26, 2))
]
LOW_LATENCY = [
    {"node_num": nodes, "hidden_size": 7168, "num_token": tokens, "num_topk": 8, "dispatch_avg_t_us": 1e6,
     "combine_avg_t_us": 1e6}
    for nodes, tokens in product((1, 4), (1, 32, 512))
]  # fmt: skip


def write(root: Path, where: str, rows: Sequence[Row]) -> Path:
    """One table: `system/family/backend/version/name`."""
    file = root / f"{where}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), file)
    return file


def tables(root: Path, *systems: str) -> Path:
    """All operations of each system, every time as `LONG` as the next."""
    for system in systems:
        write(root, f"{system}/gemm/vllm/1.0/gemm_perf", GEMMS)
        write(root, f"{system}/attention/vllm/1.0/context_attention_perf", CONTEXT)
        write(root, f"{system}/attention/vllm/1.0/generation_attention_perf", GENERATION)
        write(root, f"{system}/mla/trtllm/1.0/generation_mla_perf", LATENT)
        write(root, f"{system}/moe/vllm/1.0/moe_perf", EXPERTS)
        write(root, f"{system}/comm/vllm/1.0/custom_allreduce_perf", REDUCES)
        write(root, f"{system}/comm/sglang/1.0/wideep_deepep_ll_perf", LOW_LATENCY)
    return root
