"""Weights on the most loaded device of an instance, as the kernels of an engine hold them.

All sizes are per device [byte]. All functions accept arrays of splits.
"""

from __future__ import annotations

import numpy as np

from tokenworks.arrays import FloatArray, ceil_div
from tokenworks.costs.moe import local_experts
from tokenworks.costs.split import Split
from tokenworks.specs.calibration import number
from tokenworks.specs.engine import Engine, KernelWeights
from tokenworks.specs.model import VECTOR_BYTES, Block, Matrix, Model

TOWER = 2.0
"""Engines hold vision towers in bf16 [byte/element]."""


def weight_bytes(model: Model, split: Split, *, engine: Engine | None = None, family: str = "") -> FloatArray:
    """Weights on the most loaded device. The draft layers count if the split speculates.

    tp divides attention, dense FFN, shared experts and vision tower, and each dp rank has a copy. A rank holds
    ceil((E + R) / ep) experts, and expert_tp divides each of them. A pipeline stage has ceil(L / pp) layers; the most
    loaded stage is taken to have the heaviest ones. The first stage of a pipeline holds the embedding, the last stage
    holds the head. The larger one counts.

    Parameters
    ----------
    model : the model
    split : parallel widths of the instance
    engine : engine whose kernels hold the weights; None: as the checkpoint stores them, without the vision tower
    family : family of the device, which selects the kernels

    Returns
    -------
    Size of the weights [byte].
    """
    held = {} if engine is None else _kernels(model, engine, family)
    layers = heaviest([(_block_bytes(block, model, split, held), block.count) for block in model.blocks], split.pp)
    draft = sum(block.count * _block_bytes(block, model, split, held) for block in model.draft)
    embedding = model.embedding.stored / split.tp
    head = model.head.stored / split.tp if model.head else 0.0
    ends = np.where(split.pp > 1, np.maximum(embedding, model.embedding.stored / split.tp if not model.head else head),
                    embedding + head)  # fmt: skip
    tower = 0.0 if engine is None else TOWER * (model.vision_parameters or 0) / split.tp
    return layers + ends + tower + (split.draft_tokens > 0) * draft + VECTOR_BYTES * model.vectors


def heaviest(layers: list[tuple[FloatArray, int]], pp: FloatArray) -> FloatArray:
    """Size of the ceil(L / pp) heaviest layers: an upper bound for every pipeline stage [byte].

    Parameters
    ----------
    layers : size of one layer, and number of such layers
    pp : pipeline stages [count]
    """
    sizes = np.stack(np.broadcast_arrays(*(size for size, _ in layers), pp * 0.0)[:-1])
    order = np.argsort(-sizes, axis=0)
    sizes = np.take_along_axis(sizes, order, axis=0)
    counts = np.array([count for _, count in layers])[order]
    left = ceil_div(sum(count for _, count in layers), pp)
    total: FloatArray = 0.0
    for size, count in zip(sizes, counts, strict=True):
        taken = np.minimum(left, count)
        total, left = total + taken * size, left - taken
    return total


def _kernels(model: Model, engine: Engine, family: str) -> dict[str, KernelWeights]:
    """The kernels for each format of expert weights that they hold in another form than the checkpoint."""
    matrices = [matrix for block in model.blocks for matrix in block.matrices]
    beside_fp8 = any(matrix.format.name == "fp8-block" for matrix in matrices)
    formats = {matrix.format.name for matrix in matrices if matrix.part == "experts"}
    held: dict[str, KernelWeights] = {}
    for kernel in engine.memory.kernels:
        runs = not kernel.families or family.startswith(kernel.families)
        if runs and kernel.format in formats and (beside_fp8 or not kernel.beside_fp8):
            held.setdefault(kernel.format, kernel)
    return held


def _block_bytes(block: Block, model: Model, split: Split, held: dict[str, KernelWeights]) -> FloatArray:
    """Weights of one layer of a block on one device [byte]."""
    kv_heads = max((scan.heads for scan in block.scans), default=model.kv_heads)
    total: FloatArray = VECTOR_BYTES * block.vectors
    for matrix in block.matrices:
        total = total + _matrix_bytes(matrix, kv_heads, block, split, held)
    return total


def _matrix_bytes(
    matrix: Matrix, kv_heads: int, block: Block, split: Split, held: dict[str, KernelWeights]
) -> FloatArray:
    if block.experts and matrix.part == "experts":
        local = local_experts(block.experts.count, split.redundant, split.ep)
        stored = matrix.stored / matrix.copies * local / split.expert_tp
        kernel = held.get(matrix.format.name)
        return stored if kernel is None else stored * _held(kernel, matrix, block, split)
    if matrix.split == "none":
        return matrix.stored
    return matrix.stored / (np.minimum(split.tp, kv_heads) if matrix.split == "kv" else split.tp)


def _held(kernel: KernelWeights, matrix: Matrix, block: Block, split: Split) -> FloatArray:
    """Size of experts in a kernel / size in the checkpoint [-]: both widths padded, and the extra bytes."""
    assert block.experts is not None
    inner, hidden = block.experts.intermediate / split.expert_tp, block.experts.hidden
    padded = np.ceil(inner / kernel.inner) * kernel.inner * (ceil_div(hidden, kernel.hidden) * kernel.hidden)
    return padded / (inner * hidden) * (1 + number(kernel.extra) / matrix.format.bytes)
