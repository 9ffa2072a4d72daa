"""Memory of a device as an engine divides it: weights, activations, buffers, reserve. The rest is KV cache.

All sizes are per device, on the most loaded rank [byte]. All functions accept arrays of splits. Weights are in
`costs.weights`, temporary tensors and graphs in `costs.activations`, the blocks of the KV cache in `costs.pages`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs.activations import ACTIVATION, activation_bytes, graph_bytes
from tokenworks.costs.pages import PagedCache, drafts, plain, pool_tokens, unified
from tokenworks.costs.split import Split
from tokenworks.costs.weights import weight_bytes
from tokenworks.specs.calibration import number
from tokenworks.specs.engine import Engine
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of the most loaded device of an instance.

    Parameters
    ----------
    weights : weights as the kernels hold them, with draft layers if the split speculates [byte]
    activations : peak of the temporary tensors of a step, as far as `usable` must hold them [byte]
    buffers : communication buffers [byte]
    reserve : memory of the driver and of libraries, and of captured graphs, as far as `usable` must hold them [byte]
    usable : memory that the engine takes [byte]
    kv : rest of `usable`, for KV cache and states; negative if the model does not fit [byte]
    kv_bytes_per_token : cache that one more token of a long context adds to each device of its rank [byte/token]
    state_bytes_per_sequence : full windows and recurrent states of one sequence, at any length [byte]
    kv_tokens : tokens that all dp ranks of the instance can cache together, after the states of `max_sequences`;
        infinite if a token adds nothing [token]
    graphs : captured graphs; `reserve` holds them where the engine counts them [byte]
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
    graphs: FloatArray


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

        kv = usable - weights - activations - buffers - reserve

    An engine that profiles a step (vLLM) takes `hbm x fraction`. It measures weights, the peak of the temporary
    tensors, and memory outside torch, and gives the rest to the KV cache [1]. The context of the driver is outside this
    share, and before vLLM 0.21 the graphs are.

    An engine with a static share (SGLang) keeps `free x (1 - fraction)` for temporary tensors and graphs, where `free`
    is the memory before weights are loaded: without context and communication [2]. Temporary tensors take memory of
    the KV cache only if they need more than this.

    Parameters
    ----------
    model : the model
    machine : the machine, of which only the device memory and the device family are used
    split : parallel widths of the instance
    engine : serving engine, with its rules
    max_sequences : running sequences of the instance, all dp ranks [count]
    chunk_tokens : tokens of one step of the instance, all dp ranks [token]
    memory_fraction : share of the device memory that the engine takes [-]

    Returns
    -------
    Sizes of the parts, and the KV tokens that fit.

    References
    ----------
    [1] vllm/v1/worker/gpu_worker.py: determine_available_memory; vllm/utils/mem_utils.py: memory_profiling.
    [2] python/sglang/srt/mem_cache/kv_cache_configurator.py: _profile_available_bytes.
    """
    rules = engine.memory
    weights = weight_bytes(model, split, engine=engine, family=machine.family)
    peak = activation_bytes(model, split, engine, max_sequences=max_sequences, chunk_tokens=chunk_tokens)
    graphs = graph_bytes(model, split, engine, max_sequences=max_sequences)
    buffers = buffer_bytes(model, split, engine, max_sequences=max_sequences)
    context = number(rules.context)
    reserve: FloatArray
    if rules.budget == "static":
        free = machine.hbm_bytes - context - _group(split, engine)
        spare = free * (1 - memory_fraction)
        usable, reserve = machine.hbm_bytes - spare, context + number(rules.outside_torch)
        activations = np.maximum(peak + graphs - spare, 0.0)
    else:
        counted = number(rules.graphs_counted)
        usable = np.minimum(machine.hbm_bytes * memory_fraction, machine.hbm_bytes - context - (1 - counted) * graphs)
        activations, reserve = peak, number(rules.outside_torch) + counted * graphs
    kv = usable - weights - activations - buffers - reserve
    cache = paged(model, split, engine)
    per_token, per_sequence = _cache_bytes(model, split, cache)
    held = usable - kv + per_sequence * max_sequences / split.dp
    if cache is not None:  # prefill tokens take blocks of windows until their step ends
        held = held + cache.chunk(chunk_tokens / split.dp * number(rules.steps_in_flight))
    tokens = split.dp * cached_tokens(usable, held, per_token)
    return Memory(weights, activations, buffers, reserve, usable, kv, per_token, per_sequence, tokens, graphs)


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


def buffer_bytes(model: Model, split: Split, engine: Engine, *, max_sequences: FloatArray) -> FloatArray:
    """Communication buffers: those of all groups of an instance with several devices, and the dispatch buffers of
    experts between dp ranks.

    The dispatch buffers take 4 x E x T x 2 h byte: send and receive buffers, both doubled, with room for T tokens of
    width h for each of E experts [1]. T is the number that the engine reserves, or the tokens that a device decodes in
    a step if these are more.

    Parameters
    ----------
    model : the model
    split : parallel widths of the instance
    engine : serving engine, with the size of the buffers of groups and the dispatch tokens
    max_sequences : running sequences of the instance, all dp ranks [count]

    Returns
    -------
    Size on one device [byte].

    References
    ----------
    [1] DeepEP (deepseek-ai/DeepEP), csrc/config.hpp: layout of the low-latency buffers.
    """
    total = _group(split, engine)
    routed = [block.experts for block in model.blocks if block.experts]
    if routed:
        largest = max(experts.count * experts.hidden for experts in routed)
        decoding = max_sequences * (1 + split.draft_tokens) / (split.dp * split.pp * split.tp)
        slots = 4 * np.maximum(number(engine.dispatch_tokens), decoding) * largest * ACTIVATION
        total = total + (split.dp > 1) * (split.ep > 1) * slots
    return total


def _group(split: Split, engine: Engine) -> FloatArray:
    """Buffers of all communication groups of an instance with several devices [byte]."""
    return (split.devices > 1) * number(engine.memory.group)


def cache_bytes(model: Model, split: Split, engine: Engine | None = None) -> tuple[FloatArray, FloatArray]:
    """Cache of one token, and fixed cache of one sequence, on the most loaded device.

    Parameters
    ----------
    model : the model
    split : parallel widths of the instance, and the size of a cached element
    engine : engine that holds the cache in its blocks; None: without blocks, as it is sent over a network

    Returns
    -------
    Cache that one more token adds [byte/token], and windows and states of a sequence at any length [byte].
    """
    return _cache_bytes(model, split, paged(model, split, engine))


def _cache_bytes(model: Model, split: Split, cache: PagedCache | None) -> tuple[FloatArray, FloatArray]:
    if cache is None:
        return plain(model, split)
    draft_token, draft_sequence = drafts(model, split)
    return cache.per_token + draft_token, cache.per_sequence + draft_sequence


def paged(model: Model, split: Split, engine: Engine | None) -> PagedCache | None:
    """The blocks in which an engine holds the cache; None where blocks change nothing."""
    return unified(model, split, engine) if engine is not None and engine.memory.pages == "unified" else None


def engine_tokens(
    model: Model, split: Split, engine: Engine, *, free: FloatArray, length: FloatArray, chunk_tokens: FloatArray
) -> FloatArray:
    """KV tokens of one rank as the engine prints them at its start.

    vLLM divides the memory by the cache of a request of the longest length, and multiplies by this length: "Maximum
    concurrency" and "GPU KV cache size" [1]. SGLang prints the size of its pool, "max_total_num_tokens" [2].

    Parameters
    ----------
    model, split, engine : as in `memory`
    free : memory for the cache on one device [byte]
    length : longest request that the engine accepts [token]
    chunk_tokens : tokens of one step of the instance, all dp ranks [token]

    Returns
    -------
    Number of tokens [token].

    References
    ----------
    [1] vllm/v1/core/kv_cache_utils.py: get_kv_cache_capacity.
    [2] python/sglang/srt/model_executor/pool_configurator.py.
    """
    free = np.maximum(free, 0.0)
    if engine.memory.pages == "pools":
        return pool_tokens(model, split, engine, free)
    return length * free / request_bytes(model, split, engine, length=length, chunk_tokens=chunk_tokens)


def request_bytes(
    model: Model, split: Split, engine: Engine, *, length: FloatArray, chunk_tokens: FloatArray
) -> FloatArray:
    """Cache of one request of a length on one device, as an engine demands it at its start [byte].

    Parameters
    ----------
    model, split, engine : as in `memory`
    length : input + output of the request [token]
    chunk_tokens : tokens of one step of the instance, all dp ranks [token]
    """
    in_flight = chunk_tokens / split.dp * number(engine.memory.steps_in_flight)
    cache = paged(model, split, engine)
    if cache is None:
        per_token, per_sequence = plain(model, split)
        return per_token * np.ceil(length / engine.kv_block) * engine.kv_block + per_sequence
    draft_token, draft_sequence = drafts(model, split)
    return cache.request(length, in_flight) + draft_token * length + draft_sequence
