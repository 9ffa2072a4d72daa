"""The rows of kernel tables as calls of the cost functions that predict them.

This module contains no physics: a shape becomes the arguments of a function in `costs`, so that the fit uses the same
functions as a step. For each shape only the fastest kernel counts. For GEMM it is the fastest of all engines, because
engines call the same libraries. For attention, experts and all-reduce it is the fastest of each engine, because engines
have their own kernels and a deployment runs one engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tokenworks.arrays import FloatArray, Floats
from tokenworks.calibrate.kernels.tables import Frame, Tables
from tokenworks.costs import collectives, moe, parts
from tokenworks.costs.kernels import Gemm, Kernels
from tokenworks.costs.rates import Rates
from tokenworks.costs.roofline import compute_dtype
from tokenworks.costs.split import Split
from tokenworks.specs.hf.formats import FP8, MXFP4, NVFP4, fp8_block
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import BF16, Format, Scan

MS, US = 1e-3, 1e-6
FP8_BLOCK = fp8_block(128, 128)

GEMM_FORMS = {"bfloat16": BF16, "fp8": FP8, "fp8_block": FP8_BLOCK, "nvfp4": NVFP4}
EXPERT_FORMS = GEMM_FORMS | {"w4a8_mxfp4_mxfp8": MXFP4, "w4a16_mxfp4": MXFP4}
LEAST, MOST = 512, 32_768
"""Sizes of a GEMM that a split layer can have: smallest number of outputs and inputs, and largest number of inputs."""

CACHE = {"l40s": 96e6, "rtx-pro-6000": 128e6}
"""Last-level cache of devices with slow memory, from NVIDIA's Ada and RTX Blackwell architecture papers [byte]. A table
repeats one kernel, so data that fit into the cache are read from the cache, which never happens in a model. Such rows
say nothing about memory. (Tables of devices with HBM show no rate above the memory bandwidth.)"""

NOTHING = 2e6
"""Reading up to this amount takes much less time than the latency of a kernel [byte]."""

# Routed experts with a gate and an up projection, without the held-out models (Kimi, GLM, Qwen3.5, MiniMax-M3).
EXPERT_SHAPES = {
    (4096, 14336, 2, 8), (6144, 16384, 2, 8), (2048, 768, 8, 128), (4096, 1536, 8, 128), (6144, 2560, 8, 160),
    (7168, 2048, 8, 256), (4096, 2048, 6, 256), (7168, 3072, 6, 384), (2880, 2880, 4, 32), (2880, 2880, 4, 128),
    (3072, 1536, 8, 256), (4096, 2048, 8, 256), (2816, 704, 8, 128), (5120, 8192, 1, 16), (5120, 8192, 1, 128),
}  # fmt: skip
SHORTEST_PREFILL, SHORTEST_CONTEXT = 512, 128  # [token]
LEAST_HEADS = 4  # query heads of a device
LARGEST_REDUCE = 128e6  # message of a prefill chunk of 8,192 tokens [byte]
LEAST_NORMAL_TOKENS = 512
"""DeepEP's normal kernels are for prefill. With fewer tokens, a row shows only their latency, which has its own value
[token]."""


@dataclass(frozen=True)
class OperationRows:
    """Rows of one kind on one machine.

    Parameters
    ----------
    name : kind of the rows
    machine : the machine
    measured : measured time of each row [s]
    predict : gives the predicted time of each row for given rates [s]
    """

    name: str
    machine: Machine
    measured: Floats
    predict: Callable[[Rates], FloatArray]


Build: TypeAlias = Callable[[Tables, str, Machine], list[OperationRows]]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation with its numbers in the calibration.

    Parameters
    ----------
    name : name of the operation
    fields : numbers of each family that rows of the operation determine
    build : makes rows from tables
    shared : numbers of all families that rows of the operation determine
    """

    name: str
    fields: tuple[str, ...]
    build: Build
    shared: tuple[str, ...] = ()


def _gemms(tables: Tables, system: str, machine: Machine) -> list[OperationRows]:
    """Dense GEMMs, the fastest kernel of each shape. Block scales and tensor scales of FP8 count as one format."""
    frame = tables.read(system, "gemm", "gemm_perf", ("gemm_dtype", "m", "n", "k"), "latency")
    if frame is None:
        return []
    m, n, k = frame["m"], frame["n"], frame["k"]
    frame = frame.where((np.minimum(n, k) >= LEAST) & (k <= MOST) & _power(m))
    kinds = []
    for form, names in ((BF16, ["bfloat16"]), (FP8, ["fp8", "fp8_block"]), (NVFP4, ["nvfp4"])):
        if form.compute not in machine.peak:
            continue
        shapes = frame.where(np.isin(frame["gemm_dtype"], names)).best(("m", "n", "k"), "latency")
        m, n, k = (shapes[key].astype(float) for key in ("m", "n", "k"))
        multiplies = 2 * m / machine.peak[form.compute] > form.bytes / machine.hbm_bandwidth
        shapes = shapes.where(multiplies | ~_cached(machine, n * k * form.bytes))
        kinds.append(_gemm_rows(machine, shapes, form))
    return [rows for rows in kinds if len(rows.measured)]


def _gemm_rows(machine: Machine, shapes: Frame, form: Format) -> OperationRows:
    m, n, k = (shapes[key].astype(float) for key in ("m", "n", "k"))
    gemm = _matrix("dense", n, k, form)

    def predict(rates: Rates) -> FloatArray:
        return parts.gemm_part(gemm, rates, Split(), m).seconds

    return OperationRows(f"gemm {form.name}", machine, MS * shapes["latency"], predict)


def _matrix(part: str, outputs: FloatArray, inputs: FloatArray, form: Format) -> Gemm:
    """A GEMM on one device (tp = 1); outputs and inputs may be arrays."""
    return Gemm(part, inputs, True, outputs, 0, 0, 1, form)


def _power(count: Any) -> Any:
    """Mask of powers of two. Tables are dense between them, and these rows are nearly equal to their neighbours."""
    return count & (count - 1) == 0


def _cached(machine: Machine, size: FloatArray) -> Any:
    """Mask of sizes that a repeated kernel reads from the last-level cache, completely or in part."""
    return (size > NOTHING) & (size < 1.5 * CACHE.get(machine.device, 0.0))


# ── attention ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _attention(tables: Tables, system: str, machine: Machine) -> list[OperationRows]:
    """Prefill and decode with KV heads and with latents (MLA): 16-bit products, both KV dtypes, no windows."""
    grouped = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "window_size")
    latent = ("batch_size", "isl", "step", "num_heads")
    kinds = []
    for family, name, keys, dtype, prefill in (
        ("attention", "context_attention_perf", grouped, "attn_dtype", True),
        ("attention", "generation_attention_perf", grouped, "attn_dtype", False),
        ("mla", "context_mla_perf", latent, "mla_dtype", True),
        ("mla", "generation_mla_perf", latent, "mla_dtype", False),
    ):
        frame = tables.read(system, family, name, (*keys, dtype, "kv_cache_dtype"), "latency")
        if frame is None:
            continue
        frame = frame.where(frame[dtype] == "bfloat16")
        if family == "attention":
            frame = frame.where((frame["window_size"] == 0) & np.isin(frame["head_dim"], (64, 128)))
        tokens = frame["isl"] if prefill else frame["isl"] + frame["step"]
        frame = frame.where(tokens >= (SHORTEST_PREFILL if prefill else SHORTEST_CONTEXT))
        heads = frame["num_heads"]
        frame = frame.where(_power(heads) & (heads >= LEAST_HEADS) & (not prefill or _power(frame["isl"])))
        # SGLang's tables unpack 8-bit latents in separate kernels at a tenth of the rate. Its server does not do so.
        engine = () if family == "mla" else ("backend",)
        shapes = frame.best((*keys, "kv_cache_dtype", *engine), "latency")
        kinds.append((_prefill if prefill else _decode)(machine, shapes))
    return [rows for rows in kinds if len(rows.measured)]


def _scan(shapes: Frame) -> Scan:
    """Scans as arrays over shapes: KV heads, or a latent of 512 + 64 elements (absorbed MLA, DeepSeek-V2, 2.1)."""
    heads = shapes["num_heads"].astype(float)
    if "head_dim" not in shapes.columns:
        return Scan("mla", 1, None, None, 576.0, 1, heads, 2 * heads * (576 + 512), 2 * heads * (192 + 128))
    size, kv = shapes["head_dim"].astype(float), shapes["num_key_value_heads"].astype(float)
    return Scan("gqa", 1, None, None, 2 * kv * size, kv, heads, 4 * heads * size, 4 * heads * size)


def _decode(machine: Machine, shapes: Frame) -> OperationRows:
    read = shapes["batch_size"] * (shapes["isl"] + shapes["step"]) * _scan(shapes).elements * _kv_bytes(shapes)
    shapes = shapes.where(~_cached(machine, read))
    sequences = shapes["batch_size"].astype(float)
    scan, split = _scan(shapes), Split(kv_bytes=_kv_bytes(shapes))
    batch = parts.RankBatch(sequences, sequences * (shapes["isl"] + shapes["step"]), 1.0, 0.0, 0.0, 0.0, 0.0)
    return OperationRows(f"decode {scan.name}", machine, MS * shapes["latency"], _attends(scan, split, batch))


def _prefill(machine: Machine, shapes: Frame) -> OperationRows:
    """Complete prompts: each token attends to itself and to all tokens before it, T (T + 1) / 2 in total."""
    sequences, tokens = shapes["batch_size"].astype(float), shapes["isl"].astype(float)
    seen = sequences * tokens * (tokens + 1) / 2
    scan, split = _scan(shapes), Split(kv_bytes=_kv_bytes(shapes))
    batch = parts.RankBatch(0.0, 0.0, 1.0, sequences * tokens, seen, 0.0, 0.0)
    return OperationRows(f"prefill {scan.name}", machine, MS * shapes["latency"], _attends(scan, split, batch))


def _attends(scan: Scan, split: Split, batch: parts.RankBatch) -> Callable[[Rates], FloatArray]:
    stack = Kernels(layers=1, gemms=(), experts=(), scans=((scan, 1),), states=(), reduces=0, moe_reduces=0)
    return lambda rates: parts.attention_parts(stack, rates, split, batch)["attention"].seconds


def _kv_bytes(shapes: Frame) -> Floats:
    return np.where(shapes["kv_cache_dtype"] == "fp8", 1.0, 2.0)


# ── experts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _experts(tables: Tables, system: str, machine: Machine) -> list[OperationRows]:
    """A layer of routed experts on one device. Tokens are even: active experts = choices, at most all experts.

    A series (kernel, shape, split) is left out if one of its rows is faster than reading its weights. This is the case
    for the DeepSeek-V3 rows of SGLang and vLLM: their even routing uses only half of the groups.
    """
    shape = ("hidden_size", "inter_size", "topk", "num_experts")
    keys = (*shape, "num_tokens", "moe_tp_size", "moe_ep_size")
    frame = tables.read(system, "moe", "moe_perf", (*keys, "moe_dtype", "distribution", "kernel_source"), "latency")
    if frame is None:
        return []
    known = np.array([tuple(row) in EXPERT_SHAPES for row in zip(*(frame[key].tolist() for key in shape), strict=True)])
    even = (frame["distribution"] == "balanced") & (frame["num_experts"] % frame["moe_ep_size"] == 0)
    frame = frame.where(known & even & _power(frame["num_tokens"]))
    kinds = []
    for dtype, form in EXPERT_FORMS.items():
        if dtype == "w4a16_mxfp4" and "fp4" in machine.peak:
            continue  # on devices with FP4 units, engines multiply MXFP4 in 8 bits
        rows = frame.where(frame["moe_dtype"] == dtype)
        split = (*shape, "moe_tp_size", "moe_ep_size", "backend", "version", "kernel_source")
        series = rows.groups(split)
        weights = _weights(rows, form)
        wrong = weights / machine.hbm_bandwidth > MS * rows["latency"]
        shapes = rows.where(~_cached(machine, weights) & ~np.isin(series, series[wrong])).best(
            (*keys, "backend"), "latency"
        )
        if len(shapes):
            kinds.append(_expert_rows(f"experts {dtype}", machine, shapes, form))
    return kinds


def _spread(shapes: Frame) -> tuple[Floats, Floats]:
    """Expert choices on a device, at least one; and experts with at least one token."""
    choices = np.maximum(shapes["num_tokens"] * shapes["topk"] / shapes["moe_ep_size"], 1.0)
    return choices, np.minimum(choices, shapes["num_experts"] / shapes["moe_ep_size"])


def _weights(shapes: Frame, form: Format) -> Floats:
    """Weights of the experts with at least one token [byte]."""
    matrices = 3 * shapes["hidden_size"] * shapes["inter_size"] / shapes["moe_tp_size"]
    return np.asarray(_spread(shapes)[1] * matrices * form.bytes)


def _expert_rows(name: str, machine: Machine, shapes: Frame, form: Format) -> OperationRows:
    choices, touched = _spread(shapes)
    hidden, inner = shapes["hidden_size"].astype(float), shapes["inter_size"] / shapes["moe_tp_size"]
    matrices = (_matrix("experts", 2 * inner, hidden, form), _matrix("experts", hidden, inner, form))

    def predict(rates: Rates) -> FloatArray:
        start = rates.experts_start * (parts.UNPACKED if compute_dtype(form, rates.gemm)[1] else 1.0)
        seconds = [parts.grouped_part(gemm, rates, Split(), choices, touched).seconds for gemm in matrices]
        return sum(seconds) + start + touched * rates.expert

    return OperationRows(name, machine, MS * shapes["latency"], predict)


# ── collectives ───────────────────────────────────────────────────────────────────────────────────────────────────


def _collectives(tables: Tables, system: str, machine: Machine) -> list[OperationRows]:
    """All-reduce with the kernels of each engine inside captured graphs; all-gather with NCCL, as in all engines."""
    keys, kinds = ("num_gpus", "message_size"), []
    frame = tables.read(system, "comm", "custom_allreduce_perf", (*keys, "kernel_source"), "latency")
    if frame is not None:
        frame = frame.where(np.char.find(frame["kernel_source"], "eager") < 0)
        kinds.append(_message_rows("all-reduce", machine, frame, (*keys, "backend"), collectives.all_reduce))
    frame = tables.read(system, "comm", "nccl_perf", (*keys, "op_name", "nccl_dtype"), "latency")
    if frame is not None:
        frame = frame.where((frame["op_name"] == "all_gather") & (frame["nccl_dtype"] == "half"))
        kinds.append(_message_rows("all-gather", machine, frame, keys, collectives.all_gather))
    return [rows for rows in kinds if len(rows.measured)]


def _message_rows(
    name: str, machine: Machine, frame: Frame, keys: tuple[str, ...], collective: Callable[..., FloatArray]
) -> OperationRows:
    """Rows of one collective with 16-bit elements inside one domain."""
    frame = frame.where((frame["num_gpus"] <= machine.domain) & (2 * frame["message_size"] <= LARGEST_REDUCE))
    shapes = frame.best(keys, "latency")
    size, n = 2.0 * shapes["message_size"], shapes["num_gpus"].astype(float)

    def predict(rates: Rates) -> FloatArray:
        return collective(size, n, domain=rates.domain, inner=rates.inner, outer=rates.outer)

    return OperationRows(name, machine, MS * shapes["latency"], predict)


def _dispatch(tables: Tables, system: str, machine: Machine) -> list[OperationRows]:
    """Dispatch (FP8) and combine (BF16): both modes of DeepEP, and the all-to-all of TensorRT-LLM inside a domain."""
    keys = ("node_num", "hidden_size", "num_token", "num_topk")
    kinds = []
    for mode, copies, values in (
        ("ll", moe.direct_copies, ("dispatch_avg_t_us", "combine_avg_t_us")),
        ("normal", moe.forwarded_copies, ("dispatch_transmit_us", "combine_transmit_us")),
    ):
        for value, element in zip(values, (1.0, 2.0), strict=True):
            frame = tables.read(system, "comm", f"wideep_deepep_{mode}_perf", keys, value)
            if frame is None:
                continue
            if mode == "normal":
                frame = frame.where(frame["num_token"] >= LEAST_NORMAL_TOKENS)
            shapes = frame.best(keys, value)
            kinds.append(
                _exchange_rows(
                    f"DeepEP {mode} {value.partition('_')[0]}", machine, US * shapes[value], copies,
                    devices=shapes["node_num"] * machine.host.devices, topk=shapes["num_topk"],
                    sent=element * shapes["num_token"] * shapes["hidden_size"],
                )
            )  # fmt: skip
    return [*kinds, *_all_to_all(tables, system, machine)]


def _all_to_all(tables: Tables, system: str, machine: Machine) -> list[OperationRows]:
    keys = ("moe_ep_size", "hidden_size", "num_tokens", "topk")
    frame = tables.read(system, "comm", "trtllm_alltoall_perf", (*keys, "op_name", "moe_dtype"), "latency")
    if frame is None:
        return []
    kinds = []
    for name, dtype, element in (("dispatch", "fp8", 1.0), ("dispatch", "bfloat16", 2.0), ("combine", "bfloat16", 2.0)):
        chosen = (frame["op_name"] == f"alltoall_{name}") & (frame["moe_dtype"] == dtype)
        shapes = frame.where(chosen & (frame["moe_ep_size"] <= machine.domain)).best(keys, "latency")
        kinds.append(
            _exchange_rows(
                f"all-to-all {name}", machine, MS * shapes["latency"], moe.direct_copies,
                devices=shapes["moe_ep_size"], topk=shapes["topk"],
                sent=element * shapes["num_tokens"] * shapes["hidden_size"],
            )
        )  # fmt: skip
    return [rows for rows in kinds if len(rows.measured)]


def _exchange_rows(
    name: str, machine: Machine, measured: Floats, copies: Callable[..., tuple[FloatArray, FloatArray]], *,
    devices: FloatArray, topk: FloatArray, sent: FloatArray,
) -> OperationRows:  # fmt: skip
    """Rows of dispatch or combine; sent : one copy of all tokens of a device [byte]."""
    near, far = copies(topk, ep=devices, expert_tp=1, domain=machine.domain)

    def predict(rates: Rates) -> FloatArray:
        return parts.exchange_part(near * sent, far * sent, rates, Split(ep=devices)).seconds

    return OperationRows(name, machine, measured, predict)


OPERATIONS: Sequence[Operation] = (
    Operation("gemm", ("gemm.bf16", "gemm.fp8", "gemm.fp4", "hbm", "kernel", "walk"), _gemms),
    Operation(
        "attention",
        ("attention_prefill", "attention_decode", "attention_hbm", "latent_decode", "latent_fp8", "attention_start"),
        _attention,
        shared=("query", "sequence", "context_walk"),
    ),
    Operation(
        "experts", ("grouped.bf16", "grouped.fp8", "grouped.fp4", "experts_hbm", "experts_start", "expert"), _experts
    ),
    Operation("collectives", ("scale_up", "collective_start"), _collectives, shared=("ring",)),
    Operation("dispatch", ("dispatch_up", "dispatch_out", "dispatch_start"), _dispatch),
)
"""All operations, in the order of the fit: experts use the dense rate that the fit of GEMMs gives."""
