"""Peak of the temporary tensors of a step, and memory of captured graphs.

All sizes are per device [byte]. All functions accept arrays of splits.
"""

from __future__ import annotations

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs.split import Split
from tokenworks.specs.calibration import number
from tokenworks.specs.engine import Engine
from tokenworks.specs.model import Model

ACTIVATION = 2.0  # bf16 [byte/element]

INPUTS, RESIDUALS = 2, 2
"""Tensors of the hidden width at the peak of a layer: input, normed input; each residual before and after [count]."""


def activation_bytes(
    model: Model, split: Split, engine: Engine, *, max_sequences: FloatArray, chunk_tokens: FloatArray
) -> FloatArray:
    """Peak of the temporary tensors: the largest layer, or the sampler. Both do not run at the same time.

    A dense layer with T tokens of a rank holds T x 2 byte x (4 h + 3 f / tp): input, normed input, and the residual
    before and after, of the hidden width h; gate and up together (2 f), and their product (f). Each further residual
    stream adds 2 h. A layer with routed experts has the work space of the fused kernel
    instead: for each pair of token and expert the larger one of h and 2 f / expert_tp, and f / expert_tp [1]. Without
    data parallelism a device has room for all pairs, with it for the pairs that it receives.

    The sampler holds the logits of N sequences with V entries, in copies of `logit` byte together, beside the hidden
    states of the step. N is at most T, as a step has no more tokens.

    Parameters
    ----------
    model : the model
    split : parallel widths of the instance
    engine : engine, with the memory of its sampler
    max_sequences : running sequences of the instance, all dp ranks [count]
    chunk_tokens : tokens of one step of the instance, all dp ranks [token]

    Returns
    -------
    Size on one device [byte].

    References
    ----------
    [1] vllm/model_executor/layers/fused_moe/fused_moe.py: intermediate_cache13, intermediate_cache2.
    """
    tokens = chunk_tokens / split.dp
    widest: FloatArray = 0.0
    streams = max(block.streams for block in model.blocks)
    for block in model.blocks:
        inner: FloatArray = 0.0
        for matrix in block.matrices:
            if matrix.part in ("dense", "shared"):
                # the widest matrix of an FFN is gate and up together: 2 f outputs, then f
                inner = np.maximum(inner, 1.5 * max(matrix.outputs, matrix.inputs) / split.tp)
            elif matrix.part in ("attention", "latent") and matrix.split != "none":
                inner = np.maximum(inner, (matrix.outputs + matrix.inputs) / split.tp)
        if block.experts:
            width = block.experts.intermediate / split.expert_tp
            pairs = np.where(split.dp > 1, split.dp / split.ep, 1.0) * block.experts.topk
            inner = np.maximum(inner, pairs * (np.maximum(2 * width, block.experts.hidden) + width))
        widest = np.maximum(widest, inner)
    layer = tokens * ACTIVATION * ((INPUTS + RESIDUALS * streams) * model.hidden + widest)
    sampled = np.minimum(max_sequences * (1 + split.draft_tokens) / split.dp, tokens)
    sampler = sampled * model.vocab * number(engine.memory.logit) + tokens * ACTIVATION * model.hidden
    return np.maximum(layer, sampler)


def derived_share(engine: Engine, hbm_bytes: float, *, chunk: int, graph_sequences: int, devices: int) -> float | None:
    """The share of device memory that an engine takes if the user gives none.

    Parameters
    ----------
    engine : engine with its rule
    hbm_bytes : memory of the device that software sees [byte]
    chunk : token budget of a step of one rank [token]
    graph_sequences : largest batch with a captured graph [count]
    devices : tp x pp [count]

    Returns
    -------
    Share [-], rounded to three digits as SGLang does; None if the engine has one default for all devices.

    References
    ----------
    [1] python/sglang/srt/arg_groups/memory_hook.py: handle_gpu_memory_settings.
    """
    rule = engine.memory.derived
    if rule is None:
        return None
    kept = number(rule.base) + chunk * number(rule.token) + graph_sequences * number(rule.graph)
    kept += devices * number(rule.device)
    if hbm_bytes > number(rule.large):
        kept = max(kept, number(rule.least))
    return max(round(1 - kept / hbm_bytes, 3), 0.01)


def graph_bytes(model: Model, split: Split, engine: Engine, *, max_sequences: FloatArray) -> FloatArray:
    """Memory of captured graphs: one graph for each captured batch size and each layer of the stage.

    vLLM captures 1, 2 and 4 sequences, every multiple of 8 up to 248, and every multiple of 16 above [1].

    Parameters
    ----------
    model : the model
    split : parallel widths of the instance
    engine : engine, with its largest captured batch
    max_sequences : running sequences of the instance, all dp ranks [count]

    Returns
    -------
    Size on one device [byte].

    References
    ----------
    [1] vllm/config/vllm.py: cudagraph_capture_sizes.
    """
    largest = np.minimum(max_sequences * (1 + split.draft_tokens) / split.dp, number(engine.graph_tokens))
    sizes = np.minimum(largest, 3.0) + np.minimum(largest, 248.0) // 8 + np.maximum(largest - 240.0, 0.0) // 16
    total: FloatArray = sizes * model.layers / split.pp * number(engine.memory.graph)
    return total
