"""What the kernel tables measure, each row as the call of a cost function that predicts it.

Nothing of the physics is here: a shape becomes the arguments of `costs`, so that what is fitted is what a step uses.
Of a shape the best kernel counts: over all engines where they call the same libraries (GEMM), of each engine where it
runs its own (attention, experts, all-reduce), since a deployment runs one of them and not the best of three.
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
"""Matrices that a layer has after it was split: outputs and inputs of at least, inputs of at most so many."""

CACHE = {"l40s": 96e6, "rtx-pro-6000": 128e6}
"""Last-level cache beside slow memory [byte], NVIDIA Ada and RTX Blackwell architecture papers. A table repeats one
kernel, so that what fits is read from there, as in no model: such rows say nothing of memory. (Tables of devices with
HBM show no rate above that of their memory.)"""
NOTHING = 2e6
"""Reading so little takes no time beside a kernel's latency [byte]."""

# Routed experts with a gate and an up projection; sealed models (Kimi, GLM, Qwen3.5, MiniMax-M3) are not among them.
EXPERT_SHAPES = {
    (4096, 14336, 2, 8), (6144, 16384, 2, 8), (2048, 768, 8, 128), (4096, 1536, 8, 128), (6144, 2560, 8, 160),
    (7168, 2048, 8, 256), (4096, 2048, 6, 256), (7168, 3072, 6, 384), (2880, 2880, 4, 32), (2880, 2880, 4, 128),
    (3072, 1536, 8, 256), (4096, 2048, 8, 256), (2816, 704, 8, 128), (5120, 8192, 1, 16), (5120, 8192, 1, 128),
}  # fmt: skip
SHORTEST_PREFILL, SHORTEST_CONTEXT = 512, 128  # [token]
LEAST_HEADS = 4  # query heads that a device has
LARGEST_REDUCE = 128e6  # of a prefill chunk of 8,192 tokens [byte]
LEAST_NORMAL_TOKENS = 512
"""DeepEP's normal kernels serve prefill; below that their start, which is another one, is all that shows."""


@dataclass(frozen=True)
class OperationRows:
    """Rows of one kind on one machine: what was measured [s], and what the cost functions say [s]."""

    name: str
    machine: Machine
    measured: Floats
    predict: Callable[[Rates], FloatArray]


Build: TypeAlias = Callable[[Tables, str, Machine], list[OperationRows]]


@dataclass(frozen=True, slots=True)
class Operation:
    """Factors that rows of one kind fix, and how tables become such rows.

    fields : of each family; shared : of all families
    """

    name: str
    fields: tuple[str, ...]
    build: Build
    shared: tuple[str, ...] = ()


def _gemms(tables: Tables, system: str, machine: Machine) -> list[OperationRows]:
    """Dense GEMMs, the best kernel of each shape; block and tensor scales of FP8 are one format."""
    frame = tables.read(system, "gemm", "gemm_perf", ("gemm_dtype", "m", "n", "k"), "latency")
    if frame is None:
        return []
    m, n, k = frame["m"], frame["n"], frame["k"]
    frame = frame.where((np.minimum(n, k) >= LEAST) & (k <= MOST) & _power(m))
    made = []
    for form, names in ((BF16, ["bfloat16"]), (FP8, ["fp8", "fp8_block"]), (NVFP4, ["nvfp4"])):
        if form.compute not in machine.peak:
            continue
        shapes = frame.where(np.isin(frame["gemm_dtype"], names)).best(("m", "n", "k"), "latency")
        m, n, k = (shapes[key].astype(float) for key in ("m", "n", "k"))
        multiplies = 2 * m / machine.peak[form.compute] > form.bytes / machine.hbm_bandwidth
        shapes = shapes.where(multiplies | ~_cached(machine, n * k * form.bytes))
        made.append(_gemm_rows(machine, shapes, form))
    return [rows for rows in made if len(rows.measured)]


def _gemm_rows(machine: Machine, shapes: Frame, form: Format) -> OperationRows:
    m, n, k = (shapes[key].astype(float) for key in ("m", "n", "k"))
    gemm = _matrix("dense", n, k, form)

    def predict(rates: Rates) -> FloatArray:
        return parts.gemm_part(gemm, rates, Split(), m).seconds

    return OperationRows(f"gemm {form.name}", machine, MS * shapes["latency"], predict)


def _matrix(part: str, outputs: FloatArray, inputs: FloatArray, form: Format) -> Gemm:
    """Split by inputs, that is by tp = 1: outputs and inputs are those of one device, and may be arrays."""
    return Gemm(part, inputs, True, outputs, 0, 0, 1, form)


def _power(count: Any) -> Any:
    """Powers of two: between them tables are dense, and their rows would only repeat their neighbours."""
    return count & (count - 1) == 0


def _cached(machine: Machine, size: FloatArray) -> Any:
    """What a repeated kernel finds in the last-level cache, or half of it there."""
    return (size > NOTHING) & (size < 1.5 * CACHE.get(machine.device, 0.0))


# ── attention ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _attention(tables: Tables, system: str, machine: Machine) -> list[OperationRows]:
    """Prefill and decode, of KV heads and of latents (MLA), multiplied in 16 bits, both KV dtypes; no windows."""
    grouped = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "window_size")
    latent = ("batch_size", "isl", "step", "num_heads")
    made = []
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
        # SGLang unpacks latents of 8 bits in kernels of their own, at a tenth of the rate: not what it serves with.
        engine = () if family == "mla" else ("backend",)
        shapes = frame.best((*keys, "kv_cache_dtype", *engine), "latency")
        made.append((_prefill if prefill else _decode)(machine, shapes))
    return [rows for rows in made if len(rows.measured)]


def _scan(shapes: Frame) -> Scan:
    """An array of scans: KV heads, or a latent of 512 + 64 elements, absorbed in decode (DeepSeek-V2, section 2.1)."""
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
    """Whole prompts: each token sees those before it, T (T + 1) / 2 in all."""
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
    """A layer of routed experts on one device, tokens spread evenly: as many experts as choices, up to all.

    A series (kernel, shape, split) with a row that is quicker than its weights can be read is not what it says, and
    left out: SGLang's and vLLM's DeepSeek-V3 rows, whose even routing meets only half of the groups.
    """
    shape = ("hidden_size", "inter_size", "topk", "num_experts")
    keys = (*shape, "num_tokens", "moe_tp_size", "moe_ep_size")
    frame = tables.read(system, "moe", "moe_perf", (*keys, "moe_dtype", "distribution", "kernel_source"), "latency")
    if frame is None:
        return []
    known = np.array([tuple(row) in EXPERT_SHAPES for row in zip(*(frame[key].tolist() for key in shape), strict=True)])
    even = (frame["distribution"] == "balanced") & (frame["num_experts"] % frame["moe_ep_size"] == 0)
    frame = frame.where(known & even & _power(frame["num_tokens"]))
    made = []
    for dtype, form in EXPERT_FORMS.items():
        if dtype == "w4a16_mxfp4" and "fp4" in machine.peak:
            continue  # with FP4 units engines multiply MXFP4 in 8 bits
        rows = frame.where(frame["moe_dtype"] == dtype)
        split = (*shape, "moe_tp_size", "moe_ep_size", "backend", "version", "kernel_source")
        series = rows.groups(split)
        weights = _weights(rows, form)
        wrong = weights / machine.hbm_bandwidth > MS * rows["latency"]
        shapes = rows.where(~_cached(machine, weights) & ~np.isin(series, series[wrong])).best(
            (*keys, "backend"), "latency"
        )
        if len(shapes):
            made.append(_expert_rows(f"experts {dtype}", machine, shapes, form))
    return made


def _spread(shapes: Frame) -> tuple[Floats, Floats]:
    """Choices that meet a device, at least one, and experts that they touch."""
    choices = np.maximum(shapes["num_tokens"] * shapes["topk"] / shapes["moe_ep_size"], 1.0)
    return choices, np.minimum(choices, shapes["num_experts"] / shapes["moe_ep_size"])


def _weights(shapes: Frame, form: Format) -> Floats:
    """Weights of the touched experts [byte]."""
    matrices = 3 * shapes["hidden_size"] * shapes["inter_size"] / shapes["moe_tp_size"]
    return np.asarray(_spread(shapes)[1] * matrices * form.bytes)


def _expert_rows(name: str, machine: Machine, shapes: Frame, form: Format) -> OperationRows:
    choices, touched = _spread(shapes)
    hidden, inner = shapes["hidden_size"].astype(float), shapes["inter_size"] / shapes["moe_tp_size"]
    matrices = (_matrix("experts", 2 * inner, hidden, form), _matrix("experts", hidden, inner, form))

    def predict(rates: Rates) -> FloatArray:
        start = rates.experts_start * (parts.UNPACKED if compute_dtype(form, rates.gemm)[1] else 1.0)
        made = [parts.grouped_part(gemm, rates, Split(), choices, touched).seconds for gemm in matrices]
        return sum(made) + start + touched * rates.expert

    return OperationRows(name, machine, MS * shapes["latency"], predict)


# ── collectives ───────────────────────────────────────────────────────────────────────────────────────────────────


def _collectives(tables: Tables, system: str, machine: Machine) -> list[OperationRows]:
    """All-reduce by the kernels of each engine, as captured graphs launch them; all-gather by NCCL, as all use it."""
    keys, made = ("num_gpus", "message_size"), []
    frame = tables.read(system, "comm", "custom_allreduce_perf", (*keys, "kernel_source"), "latency")
    if frame is not None:
        frame = frame.where(np.char.find(frame["kernel_source"], "eager") < 0)
        made.append(_message_rows("all-reduce", machine, frame, (*keys, "backend"), collectives.all_reduce))
    frame = tables.read(system, "comm", "nccl_perf", (*keys, "op_name", "nccl_dtype"), "latency")
    if frame is not None:
        frame = frame.where((frame["op_name"] == "all_gather") & (frame["nccl_dtype"] == "half"))
        made.append(_message_rows("all-gather", machine, frame, keys, collectives.all_gather))
    return [rows for rows in made if len(rows.measured)]


def _message_rows(
    name: str, machine: Machine, frame: Frame, keys: tuple[str, ...], collective: Callable[..., FloatArray]
) -> OperationRows:
    """Messages of 16 bits in one domain."""
    frame = frame.where((frame["num_gpus"] <= machine.domain) & (2 * frame["message_size"] <= LARGEST_REDUCE))
    shapes = frame.best(keys, "latency")
    size, n = 2.0 * shapes["message_size"], shapes["num_gpus"].astype(float)

    def predict(rates: Rates) -> FloatArray:
        return collective(size, n, domain=rates.domain, inner=rates.inner, outer=rates.outer)

    return OperationRows(name, machine, MS * shapes["latency"], predict)


def _dispatch(tables: Tables, system: str, machine: Machine) -> list[OperationRows]:
    """Dispatch (FP8) and combine (BF16): DeepEP in its two modes, and TensorRT-LLM's all-to-all inside a domain."""
    keys = ("node_num", "hidden_size", "num_token", "num_topk")
    made = []
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
            made.append(
                _exchange_rows(
                    f"DeepEP {mode} {value.partition('_')[0]}", machine, US * shapes[value], copies,
                    devices=shapes["node_num"] * machine.host.devices, topk=shapes["num_topk"],
                    sent=element * shapes["num_token"] * shapes["hidden_size"],
                )
            )  # fmt: skip
    return [*made, *_all_to_all(tables, system, machine)]


def _all_to_all(tables: Tables, system: str, machine: Machine) -> list[OperationRows]:
    keys = ("moe_ep_size", "hidden_size", "num_tokens", "topk")
    frame = tables.read(system, "comm", "trtllm_alltoall_perf", (*keys, "op_name", "moe_dtype"), "latency")
    if frame is None:
        return []
    made = []
    for name, dtype, element in (("dispatch", "fp8", 1.0), ("dispatch", "bfloat16", 2.0), ("combine", "bfloat16", 2.0)):
        mine = (frame["op_name"] == f"alltoall_{name}") & (frame["moe_dtype"] == dtype)
        shapes = frame.where(mine & (frame["moe_ep_size"] <= machine.domain)).best(keys, "latency")
        made.append(
            _exchange_rows(
                f"all-to-all {name}", machine, MS * shapes["latency"], moe.direct_copies,
                devices=shapes["moe_ep_size"], topk=shapes["topk"],
                sent=element * shapes["num_tokens"] * shapes["hidden_size"],
            )
        )  # fmt: skip
    return [rows for rows in made if len(rows.measured)]


def _exchange_rows(
    name: str, machine: Machine, measured: Floats, copies: Callable[..., tuple[FloatArray, FloatArray]], *,
    devices: FloatArray, topk: FloatArray, sent: FloatArray,
) -> OperationRows:  # fmt: skip
    """`sent` : one copy of all tokens of a device [byte]."""
    near, far = copies(topk, ep=devices, expert_tp=1, domain=machine.domain)

    def predict(rates: Rates) -> FloatArray:
        return parts.exchange_part(near * sent, far * sent, rates, Split(ep=devices)).seconds

    return OperationRows(name, machine, measured, predict)


OPERATIONS: Sequence[Operation] = (
    Operation("gemm", ("gemm.bf16", "gemm.fp8", "gemm.fp4", "hbm", "kernel", "walk"), _gemms),
    Operation(
        "attention",
        ("attention_prefill", "attention_decode", "attention_hbm", "attention_start"),
        _attention,
        shared=("query", "sequence", "context_walk"),
    ),
    Operation(
        "experts", ("grouped.bf16", "grouped.fp8", "grouped.fp4", "experts_hbm", "experts_start", "expert"), _experts
    ),
    Operation("collectives", ("scale_up", "collective_start"), _collectives, shared=("ring",)),
    Operation("dispatch", ("dispatch_up", "dispatch_out", "dispatch_start"), _dispatch),
)
"""In this order: experts are held against the dense rate and the bandwidth that GEMMs have shown."""
