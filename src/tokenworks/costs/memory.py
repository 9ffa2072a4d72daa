"""Where a device's memory goes: weights, activations, communication, the engine's reserve; the rest holds KV cache.

Everything is per device [byte], on the most loaded rank, and works on arrays of splits.
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
    """Per device [byte], the most loaded rank.

    usable : device memory x the fraction that the engine takes; kv : what is left of it; negative: does not fit
    kv_bytes_per_token : what one more token of a long context adds to each device of its rank
    state_bytes_per_sequence : windows (full) and recurrent states of a sequence, whatever its length
    kv_tokens : tokens that an instance can cache, all dp ranks, after the states of `max_sequences`; inf where a token
        adds nothing
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
    """Memory of one instance's most loaded device [byte].

        kv = hbm x fraction - weights - activations - buffers - reserve

    Weights of every layer as stored: attention, dense FFN and shared experts over tp, copied to each dp rank; experts
    over ep x expert_tp, ceil((E + R) / ep) of them; pipeline stages of ceil(L / pp) layers, the heaviest ones together.

    Parameters
    ----------
    max_sequences, chunk_tokens : per instance, all dp ranks: sequences that run, tokens of one step
    memory_fraction : of device memory that the engine takes, for everything [-]

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
    """Tokens of KV cache in what memory is left: (usable - held) / per_token, none where nothing is left [token].

    Parameters
    ----------
    usable : memory that may be used; held : what weights and the rest take of it [byte]
    per_token : of the cache [byte/token]; without limit where a token takes nothing
    """
    room = np.maximum(usable - held, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(per_token > 0, room / per_token, np.inf)


def weight_bytes(model: Model, split: Split) -> FloatArray:
    """Weights on the most loaded device, drafts where the split speculates [byte]."""
    layers = _heaviest([(_block_bytes(block, model, split), block.count) for block in model.blocks], split.pp)
    draft = sum(block.count * _block_bytes(block, model, split) for block in model.draft)
    embedding = model.embedding.stored / split.tp
    head = model.head.stored / split.tp if model.head else 0.0
    ends = np.where(split.pp > 1, np.maximum(embedding, model.embedding.stored / split.tp if not model.head else head),
                    embedding + head)  # fmt: skip
    return layers + ends + (split.draft_tokens > 0) * draft + VECTOR_BYTES * model.vectors


def _heaviest(layers: list[tuple[FloatArray, int]], pp: FloatArray) -> FloatArray:
    """Bytes of the ceil(L / pp) heaviest layers: a stage cannot be worse [byte]."""
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
    """One layer of a block on one device [byte]."""
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
    """Peak of temporary tensors in the largest step [byte].

    The residual stream and its normed copy, the widest pair of tensors between two GEMMs, and the logits of all running
    sequences (which are not alive at the same time as a chunk's, but engines profile and keep both pools).
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
    """Communication buffers: one for each group, and the dispatch buffers of experts between dp ranks [byte].

    Dispatch: 4 x E x T x 2 h: send and receive, twice, T tokens of a device for every expert [1 of `memory`]: as many
    as the engine reserves, or as its share of the running sequences decodes in a step if that is more.
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
    """Cache of one token, and of one sequence whatever its length, on the most loaded device [byte, byte].

    KV heads are divided by tp down to one, a latent is whole on each tp rank, pipeline stages hold their own layers.
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
    total: FloatArray = 0.0 * split.kv_bytes
    for scan in block.scans:
        total = total + scan.growth(split.kv_bytes) / np.minimum(split.tp, scan.heads)
    return total


def _fixed(block: Block, split: Split) -> FloatArray:
    total: FloatArray = 0.0 * split.kv_bytes
    for scan in block.scans:
        if scan.keeps is not None:
            size = split.kv_bytes if scan.bytes is None else scan.bytes
            total = total + scan.keeps * scan.elements * size / np.minimum(split.tp, scan.heads)
    if block.state:
        total = total + block.state.bytes / np.minimum(split.tp, block.state.heads)
    return total
