"""A model as the kernels that an engine runs: matrices with the same input are one GEMM, equal kernels one entry."""

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
    """One GEMM of a layer. It can hold several matrices side by side (q, k and v; gate and up).

    Parameters
    ----------
    part : part of the layer, see `specs.model.Part`; for experts, the numbers are for one expert
    inputs : input features [count]
    inner : True if tp divides the inputs, not the outputs
    out : output features that tp divides [count]
    kv : output features that tp divides by KV head, never below one head [count]
    whole : output features that every rank computes [count]
    kv_heads : KV heads of the layer [count]
    form : format of the weights
    again : True if the GEMM also runs over the cached tokens of earlier chunks: it expands MLA latents
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
        """Size of the GEMM on one device.

        Parameters
        ----------
        tp : tensor-parallel width [count]

        Returns
        -------
        Output features and input features [count, count].
        """
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
    """The routed experts of a layer.

    Parameters
    ----------
    experts : number of experts, top-k and sizes
    gemms : GEMMs of one expert
    send : size of an activation on its way to an expert; 1 (FP8) if the experts multiply in 8 bits or fewer
        [byte/element]
    """

    experts: Experts
    gemms: tuple[Gemm, ...]
    send: float


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels of all layers. Each pair is a kernel and the number of layers that run it.

    Parameters
    ----------
    layers : number of layers [count]
    gemms, experts, scans, states : pairs of a kernel and its number of layers
    reduces : tensor-parallel all-reduces in layers without routed experts [count]
    moe_reduces : tensor-parallel all-reduces in layers with routed experts [count]
    blockwise : True if any weight is stored as FP8 in blocks
    mixes : layer halves (attention or FFN) that have several residual streams [count]
    mixed : residual streams of all these halves together [count]
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
    """Turn the blocks of a model into kernels. The result is cached, because a search asks for the same model often.

    Parameters
    ----------
    blocks : blocks of the model, or of its draft layers
    kv_heads : KV heads of layers that have no scan [count]

    Returns
    -------
    All kernels, each with the number of layers that run it.
    """
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
    """The GEMM of a single matrix.

    Parameters
    ----------
    matrix : the weight, such as the head of the model

    Returns
    -------
    A GEMM that holds only this matrix.
    """
    (gemm,) = _fused([matrix], 1)
    return gemm


def _expands(block: Block) -> str:
    """Name of the matrix that expands cached latents during prefill. Empty if prefill attention is absorbed, too."""
    return "kv_b_proj" if any(scan.prefill_flop < scan.decode_flop for scan in block.scans) else ""


def _fused(matrices: list[Matrix], kv_heads: int, again: str = "") -> tuple[Gemm, ...]:
    """Join matrices of the same part, input and format into one GEMM, as engines do: qkv, gate and up, q_a and kv_a."""
    grouped: dict[tuple[str, int, bool, Format, bool], Counter[str]] = {}
    for matrix in matrices:
        key = (matrix.part, matrix.inputs, matrix.split == "in", matrix.format, matrix.name == again)
        grouped.setdefault(key, Counter())["out" if matrix.split == "in" else matrix.split] += matrix.outputs
    return tuple(
        Gemm(part, inputs, inner, widths["out"], widths["kv"], widths["none"], kv_heads, form, cached)
        for (part, inputs, inner, form, cached), widths in grouped.items()
    )


def dequantised(model: Model, peak: Mapping[str, float]) -> dict[str, str]:
    """Weight formats of the model for which the device has no arithmetic, so that kernels unpack the weights first.

    Parameters
    ----------
    model : the model
    peak : dtype -> dense peak rate of the device [FLOP/s]

    Returns
    -------
    Name of each such format -> dtype in which the device multiplies it.
    """
    dtype_of = {}
    for matrix in (matrix for block in model.blocks for matrix in block.matrices):
        dtype, unpacked = compute_dtype(matrix.format, peak)
        if unpacked:
            dtype_of[matrix.format.name] = dtype
    return dtype_of
