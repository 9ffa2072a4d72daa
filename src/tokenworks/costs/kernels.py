"""A model as the kernels that an engine runs: matrices of one input are one GEMM, equal kernels are counted once."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs.roofline import compute_dtype
from tokenworks.specs.model import Block, Experts, Format, Matrix, Model, Scan, State


@dataclass(frozen=True, slots=True)
class Gemm:
    """One kernel of a layer: `outputs` of each split, side by side (q, k and v; gate and up).

    part : what it belongs to; of experts, the figures are those of one expert
    again : whether it also runs over what earlier chunks of a prompt have cached: an MLA latent that is expanded
    out, kv, whole : outputs that tp divides, that it divides by KV head, and that every rank computes
    """

    part: str
    inputs: FloatArray
    inner: bool
    out: FloatArray
    kv: FloatArray
    whole: FloatArray
    kv_heads: int
    form: Format
    again: bool = False

    def shape(self, tp: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Outputs and inputs on one device."""
        if self.inner:
            return self.out, self.inputs / tp
        outputs: FloatArray = self.whole
        if self.out:
            outputs = outputs + self.out / tp
        if self.kv:
            outputs = outputs + self.kv / np.minimum(tp, self.kv_heads)
        return outputs, self.inputs


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """The routed experts of a layer and the GEMMs of one expert.

    send : activations on their way to an expert: FP8 where it multiplies in 8 bits or fewer [byte/element]
    """

    experts: Experts
    gemms: tuple[Gemm, ...]
    send: float


@dataclass(frozen=True, slots=True)
class Kernels:
    """All layers of a stack. Each pair is a kernel and the number of layers that run it.

    reduces, moe_reduces : tensor-parallel reductions in layers without and with routed experts
    blockwise : whether any weight is FP8 in blocks
    mixes, mixed : halves of layers with several residual streams, and the streams of all these together
    """

    layers: int
    gemms: tuple[tuple[Gemm, int], ...]
    experts: tuple[tuple[ExpertLayer, int], ...]
    scans: tuple[tuple[Scan, int], ...]
    states: tuple[tuple[State, int], ...]
    reduces: int
    moe_reduces: int
    blockwise: bool = False
    mixes: int = 0
    mixed: int = 0


@functools.lru_cache(maxsize=256)
def kernels(blocks: tuple[Block, ...], kv_heads: int) -> Kernels:
    """Regroup the blocks of a model (or its drafts); cached, since a search asks for the same one again and again."""
    gemms: Counter[Gemm] = Counter()
    experts: Counter[ExpertLayer] = Counter()
    scans: Counter[Scan] = Counter()
    states: Counter[State] = Counter()
    for block in blocks:
        heads = max((scan.heads for scan in block.scans), default=kv_heads)
        plain = [matrix for matrix in block.matrices if matrix.part != "experts"]
        for gemm in _fused(plain, heads, again=_expands(block)):
            gemms[gemm] += block.count
        if block.experts:
            fused = _fused([matrix for matrix in block.matrices if matrix.part == "experts"], 1)
            narrow = all(gemm.form.compute in ("fp4", "fp8", "int8") for gemm in fused)
            experts[ExpertLayer(block.experts, fused, 1.0 if narrow else 2.0)] += block.count
        for scan in block.scans:
            scans[scan] += block.count
        if block.state:
            states[block.state] += block.count
    return Kernels(
        layers=sum(block.count for block in blocks),
        gemms=tuple(gemms.items()),
        experts=tuple(experts.items()),
        scans=tuple(scans.items()),
        states=tuple(states.items()),
        reduces=sum(block.count * block.all_reduces for block in blocks if not block.experts),
        blockwise=any(matrix.format.name == "fp8-block" for block in blocks for matrix in block.matrices),
        moe_reduces=sum(block.count * block.all_reduces for block in blocks if block.experts),
        mixes=sum(block.count * block.all_reduces for block in blocks if block.streams > 1),
        mixed=sum(block.count * block.all_reduces * block.streams for block in blocks if block.streams > 1),
    )


def one(matrix: Matrix) -> Gemm:
    """A matrix by itself."""
    (gemm,) = _fused([matrix], 1)
    return gemm


def _expands(block: Block) -> str:
    """The matrix that expands cached latents in prefill, where attention is not absorbed there; else no name."""
    return "kv_b_proj" if any(scan.prefill_flop < scan.decode_flop for scan in block.scans) else ""


def _fused(matrices: list[Matrix], kv_heads: int, again: str = "") -> tuple[Gemm, ...]:
    """Engines run matrices of one part, input and format as one kernel: qkv, gate and up, q_a and kv_a."""
    grouped: dict[tuple[str, int, bool, Format, bool], Counter[str]] = {}
    for matrix in matrices:
        key = (matrix.part, matrix.inputs, matrix.split == "in", matrix.format, matrix.name == again)
        grouped.setdefault(key, Counter())["out" if matrix.split == "in" else matrix.split] += matrix.outputs
    return tuple(
        Gemm(part, inputs, inner, widths["out"], widths["kv"], widths["none"], kv_heads, form, cached)
        for (part, inputs, inner, form, cached), widths in grouped.items()
    )


def dequantised(model: Model, peak: Mapping[str, float]) -> dict[str, str]:
    """Formats that a device unpacks before it multiplies, and the dtype that it multiplies in.

    Parameters
    ----------
    peak : dense rate of each dtype that the device has [FLOP/s]
    """
    found = {}
    for matrix in (matrix for block in model.blocks for matrix in block.matrices):
        dtype, unpacked = compute_dtype(matrix.format, peak)
        if unpacked:
            found[matrix.format.name] = dtype
    return found
