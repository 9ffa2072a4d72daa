"""Memory of a device: weights, activations, communication buffers and the engine's reserve. The rest is KV cache.

All sizes are per device, on the most loaded rank [byte]. All functions accept arrays of splits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray, ceil_div
from tokenworks.costs.moe import local_experts
from tokenworks.costs.split import Split
from tokenworks.specs.calibration import number
from tokenworks.specs.engine import Engine
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import VECTOR_BYTES, Block, Matrix, Model

ACTIVATION = 2.0  # bf16 [byte/element]
LOGIT = 4.0  # engines sample from fp32 logits [byte/element]


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of the most loaded device of an instance.

    Parameters
    ----------
    weights : weights, with draft layers if the split speculates [byte]
    activations : peak of the temporary tensors of a step [byte]
    buffers : communication buffers [byte]
    reserve : memory that the engine keeps free [byte]
    usable : device memory x the fraction that the engine takes [byte]
    kv : rest of `usable`, for KV cache and states; negative if the model does not fit [byte]
    kv_bytes_per_token : cache that one more token of a long context adds to each device of its rank [byte/token]
    state_bytes_per_sequence : full windows and recurrent states of one sequence, at any length [byte]
    kv_tokens : tokens that all dp ranks of the instance can cache together, after the states of `max_sequences`;
        infinite if a token adds nothing [token]
    """

    weights: FloatArray
    activations: FloatArray
    buffers: FloatArray
    reserve: FloatArray
    usable: FloatArray
    kv: FloatArray
    kv_bytes_per_token: FloatArray
    state_bytes_per_sequence: FloatArray
    kv_tokens: FloatArray


def memory(
    model: Model,
    machine: Machine,
    split: Split,
    *,
    engine: Engine,
    max_sequences: FloatArray,
    chunk_tokens: FloatArray,
    memory_fraction: FloatArray,
) -> Memory:
    """Memory of the most loaded device of an instance.

        kv = hbm x fraction - weights - activations - buffers - reserve

    Weights count as they are stored. tp divides attention, dense FFN and shared experts, and each dp rank has a copy.
    A rank holds ceil((E + R) / ep) experts, and expert_tp divides each of them. A pipeline stage has ceil(L / pp)
    layers; the most loaded stage is taken to have the heaviest ones.

    Parameters
    ----------
    model : the model
    machine : the machine, of which only the device memory is used
    split : parallel widths of the instance
    engine : serving engine, with its reserve and its buffers
    max_sequences : running sequences of the instance, all dp ranks [count]
    chunk_tokens : tokens of one step of the instance, all dp ranks [token]
    memory_fraction : share of the device memory that the engine takes [-]

    Returns
    -------
    Sizes of the parts, and the KV tokens that fit.

    References
    ----------
    [1] DeepEP (deepseek-ai/DeepEP), csrc/config.hpp: layout of the low-latency buffers.
    """
    weights = weight_bytes(model, split)
    activations = activation_bytes(model, split, max_sequences=max_sequences, chunk_tokens=chunk_tokens)
    buffers = buffer_bytes(model, split, engine, max_sequences=max_sequences)
    reserve = number(engine.reserve)
    usable = machine.hbm_bytes * memory_fraction
    kv = usable - weights - activations - buffers - reserve
    per_token, per_sequence = cache_bytes(model, split)
    tokens = split.dp * cached_tokens(usable, usable - kv + per_sequence * max_sequences / split.dp, per_token)
    return Memory(weights, activations, buffers, reserve, usable, kv, per_token, per_sequence, tokens)


def cached_tokens(usable: FloatArray, held: FloatArray, per_token: FloatArray) -> FloatArray:
    """KV tokens that fit into the free memory: (usable - held) / per_token.

    Parameters
    ----------
    usable : memory that the engine may use [byte]
    held : memory that weights and all other parts take [byte]
    per_token : cache of one token [byte/token]

    Returns
    -------
    Number of tokens; 0 without free memory, infinite if a token takes no memory [token].
    """
    room = np.maximum(usable - held, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(per_token > 0, room / per_token, np.inf)


def weight_bytes(model: Model, split: Split) -> FloatArray:
    """Weights on the most loaded device. The draft layers count if the split speculates.

    The first stage of a pipeline holds the embedding, the last stage holds the head. The larger one counts.

    Parameters
    ----------
    model : the model
    split : parallel widths of the instance

    Returns
    -------
    Size of the weights [byte].
    """
    layers = _heaviest([(_block_bytes(block, model, split), block.count) for block in model.blocks], split.pp)
    draft = sum(block.count * _block_bytes(block, model, split) for block in model.draft)
    embedding = model.embedding.stored / split.tp
    head = model.head.stored / split.tp if model.head else 0.0
    ends = np.where(split.pp > 1, np.maximum(embedding, model.embedding.stored / split.tp if not model.head else head),
                    embedding + head)  # fmt: skip
    return layers + ends + (split.draft_tokens > 0) * draft + VECTOR_BYTES * model.vectors


def _heaviest(layers: list[tuple[FloatArray, int]], pp: FloatArray) -> FloatArray:
    """Size of the ceil(L / pp) heaviest layers: an upper bound for every pipeline stage [byte]."""
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


def _block_bytes(block: Block, model: Model, split: Split) -> FloatArray:
    """Weights of one layer of a block on one device [byte]."""
    kv_heads = max((scan.heads for scan in block.scans), default=model.kv_heads)
    total: FloatArray = VECTOR_BYTES * block.vectors
    for matrix in block.matrices:
        total = total + _matrix_bytes(matrix, kv_heads, block, split)
    return total


def _matrix_bytes(matrix: Matrix, kv_heads: int, block: Block, split: Split) -> FloatArray:
    if block.experts and matrix.part == "experts":
        held = local_experts(block.experts.count, split.redundant, split.ep)
        return matrix.stored / matrix.copies * held / split.expert_tp
    if matrix.split == "none":
        return matrix.stored
    return matrix.stored / (np.minimum(split.tp, kv_heads) if matrix.split == "kv" else split.tp)


def activation_bytes(model: Model, split: Split, *, max_sequences: FloatArray, chunk_tokens: FloatArray) -> FloatArray:
    """Peak of the temporary tensors in the largest step.

    The peak holds the residual stream, its normed copy, the widest input and output of a GEMM, and the logits of all
    running sequences. Logits and tensors of a chunk are not needed at the same time, but engines keep memory for both.

    Parameters
    ----------
    model : the model
    split : parallel widths of the instance
    max_sequences : running sequences of the instance, all dp ranks [count]
    chunk_tokens : tokens of one step of the instance, all dp ranks [token]

    Returns
    -------
    Size on one device [byte].
    """
    tokens = chunk_tokens / split.dp
    widest: FloatArray = 0.0
    for block in model.blocks:
        for matrix in block.matrices:
            if matrix.part == "experts" and block.experts:
                share = block.experts.topk / (split.ep * split.expert_tp) * split.dp
                width = share * (2 * block.experts.intermediate + block.experts.hidden)
            else:
                width = (matrix.outputs + matrix.inputs) / (1 if matrix.split == "none" else split.tp)
            widest = np.maximum(widest, width)
    logits = max_sequences * (1 + split.draft_tokens) / split.dp * model.vocab * (LOGIT / split.tp + ACTIVATION)
    return tokens * ACTIVATION * (2 * model.hidden + 2 * widest) + logits


def buffer_bytes(model: Model, split: Split, engine: Engine, *, max_sequences: FloatArray) -> FloatArray:
    """Communication buffers: one for each communication group, and the dispatch buffers of experts between dp ranks.

    The dispatch buffers take 4 x E x T x 2 h byte: send and receive buffers, both doubled, with room for T tokens of
    width h for each of E experts [1]. T is the number that the engine reserves, or the tokens that a device decodes in
    a step if these are more.

    Parameters
    ----------
    model : the model
    split : parallel widths of the instance
    engine : serving engine, with the size of a group buffer and the dispatch tokens
    max_sequences : running sequences of the instance, all dp ranks [count]

    Returns
    -------
    Size on one device [byte].

    References
    ----------
    [1] DeepEP (deepseek-ai/DeepEP), csrc/config.hpp: layout of the low-latency buffers.
    """
    groups = 1.0 * (split.tp > 1) + (split.pp > 1) + (split.dp > 1)
    total = groups * number(engine.group_buffer)
    routed = [block.experts for block in model.blocks if block.experts]
    if routed:
        largest = max(experts.count * experts.hidden for experts in routed)
        decoding = max_sequences * (1 + split.draft_tokens) / (split.dp * split.pp * split.tp)
        slots = 4 * np.maximum(number(engine.dispatch_tokens), decoding) * largest * ACTIVATION
        total = total + (split.dp > 1) * (split.ep > 1) * slots
    return total


def cache_bytes(model: Model, split: Split) -> tuple[FloatArray, FloatArray]:
    """Cache of one token, and fixed cache of one sequence, on the most loaded device.

    tp divides the KV heads, but never one head. Each tp rank holds a whole latent (MLA). A pipeline stage holds the
    cache of its own layers.

    Parameters
    ----------
    model : the model
    split : parallel widths of the instance, and the size of a cached element

    Returns
    -------
    Cache that one more token adds [byte/token], and windows and states of a sequence at any length [byte].
    """
    blocks = [*((block, block.count) for block in model.blocks)]
    per_token = _heaviest([(_grows(block, split), count) for block, count in blocks], split.pp)
    per_sequence = _heaviest([(_fixed(block, split), count) for block, count in blocks], split.pp)
    for block in model.draft:
        speculates = split.draft_tokens > 0
        per_token = per_token + speculates * block.count * _grows(block, split)
        per_sequence = per_sequence + speculates * block.count * _fixed(block, split)
    return per_token, per_sequence


def _grows(block: Block, split: Split) -> FloatArray:
    """Cache that one more token adds in one layer [byte/token]."""
    total: FloatArray = 0.0 * split.kv_bytes
    for scan in block.scans:
        total = total + scan.growth(split.kv_bytes) / np.minimum(split.tp, scan.heads)
    return total


def _fixed(block: Block, split: Split) -> FloatArray:
    """Windows and states of one sequence in one layer [byte]."""
    total: FloatArray = 0.0 * split.kv_bytes
    for scan in block.scans:
        if scan.keeps is not None:
            size = split.kv_bytes if scan.bytes is None else scan.bytes
            total = total + scan.keeps * scan.elements * size / np.minimum(split.tp, scan.heads)
    if block.state:
        total = total + block.state.bytes / np.minimum(split.tp, block.state.heads)
    return total
