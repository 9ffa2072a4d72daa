"""KV cache in the blocks in which an engine holds it: layers with windows and states beside layers that keep all.

An engine gives memory to a request in blocks of a fixed number of tokens. Three kinds of layers exist: "grows" keeps
all tokens, "window" keeps the last tokens, and "state" keeps one state of fixed size. All sizes are per device, on the
most loaded rank [byte]. All functions accept arrays of splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tokenworks.arrays import FloatArray, ceil_div
from tokenworks.costs.split import Split
from tokenworks.costs.weights import heaviest
from tokenworks.specs.calibration import number
from tokenworks.specs.engine import Engine
from tokenworks.specs.model import Block, Model, Scan

STATE_BYTES = 4.0  # compressors keep fp32 states [byte/element]
SPARSE_BLOCK = 256
"""Block of vLLM for compressed attention (`--block-size 256`) [token]."""

RING_STRIDE, RING = 4, 8
"""Stride of the compressor whose states SGLang keeps in rings beside the pages of windows; states of a ring [count]."""

WINDOW_BLOCK = 64
"""Block of the window beside compressed attention, vllm/v1/attention/backends/mla/sparse_swa.py [token]."""

STATES = {4: (4, 2), 128: (8, 1)}
"""Stride of a compressor -> block of its states [token], and strides that the states reach back: vLLM's
models/deepseek_v4/compressor.py."""


@dataclass(frozen=True, slots=True)
class Pages:
    """One kind of layers, as groups of layers that share the blocks of a request.

    Parameters
    ----------
    kind : what a layer keeps
    groups : groups of layers, each with blocks of its own [count]
    tokens : tokens of a block [token]
    keeps : tokens of a window [token]
    """

    kind: Literal["grows", "window", "state"]
    groups: FloatArray
    tokens: FloatArray
    keeps: int = 0


@dataclass(frozen=True, slots=True)
class PagedCache:
    """KV cache of the most loaded device in the blocks of an engine.

    Parameters
    ----------
    block : size of a block of the shared pool [byte]
    pages : the kinds of layers that share the pool
    """

    block: FloatArray
    pages: tuple[Pages, ...]

    @property
    def per_token(self) -> FloatArray:
        """Cache that one more token of a long context adds [byte/token]."""
        total: FloatArray = 0.0 * self.block
        for part in self.pages:
            if part.kind == "grows":
                total = total + part.groups * self.block / part.tokens
        return total

    @property
    def per_sequence(self) -> FloatArray:
        """Windows and states of a sequence that decodes, at any length [byte]."""
        return self._fixed(1.0)

    def chunk(self, tokens: FloatArray) -> FloatArray:
        """Blocks of windows for prefill tokens of one step, until the step ends [byte].

        Parameters
        ----------
        tokens : prefill tokens of a step of one rank [token]
        """
        total: FloatArray = 0.0 * self.block
        for part in self.pages:
            if part.kind == "window":
                total = total + part.groups * self.block * np.maximum(tokens - 1, 0) / part.tokens
        return total

    def request(self, tokens: FloatArray, in_flight: FloatArray) -> FloatArray:
        """Cache that a request needs: whole blocks of each group, as vLLM counts them at its start.

        Parameters
        ----------
        tokens : length of the request [token]
        in_flight : tokens of all steps that run at the same time on one rank [token]
        """
        total: FloatArray = 0.0 * self.block
        for part in self.pages:
            if part.kind == "grows":
                total = total + part.groups * self.block * np.ceil(tokens / part.tokens)
        return total + self._fixed(in_flight, tokens)

    def _fixed(self, in_flight: FloatArray, most: FloatArray = np.inf) -> FloatArray:
        total: FloatArray = 0.0 * self.block
        for part in self.pages:
            if part.kind == "window":
                kept = np.minimum(part.keeps - 1 + in_flight, most)
                total = total + part.groups * self.block * (np.ceil(kept / part.tokens) + 1)
            elif part.kind == "state":
                total = total + part.groups * self.block
        return total


def unified(model: Model, split: Split, engine: Engine) -> PagedCache | None:
    """The blocks of vLLM's hybrid KV cache manager; None for models whose layers all keep all tokens.

    All groups take blocks of one pool, so a block has the same size for all. Kinds of layers with smaller pages take
    more tokens a block if a whole number of their pages fits, else their pages are padded. Each group has as many
    layers as the smallest kind, or as the largest kind if that is less than 1.5 times as many [1]. The page of an
    attention layer grows until a recurrent state fits [2]. Layers of compressed attention with all their caches form
    one group whose block sets the size for windows and compressor states [3].

    Parameters
    ----------
    model : the model
    split : parallel widths of the instance, and the size of a cached element
    engine : engine with its block size

    References
    ----------
    [1] vllm/v1/core/kv_cache_utils.py: unify_kv_cache_spec_page_size, _get_kv_cache_groups_uniform_page_size.
    [2] vllm/platforms/interface.py: "Setting attention block size to ... tokens".
    [3] vllm/v1/core/kv_cache_utils.py: _get_packed_kv_cache_groups; vllm/models/deepseek_v4/attention.py.
    """
    hybrid = any(block.state or any(scan.keeps is not None for scan in block.scans) for block in model.blocks)
    if not hybrid:
        return None
    if any(scan.stride > 1 for block in model.blocks for scan in block.scans):
        return _compressed(model, split)
    return _uniform_pages(model, split, engine)


def _size(scan: Scan, split: Split) -> FloatArray:
    """Cache of one entry of a scan on one device [byte]."""
    return scan.elements * (split.kv_bytes if scan.bytes is None else scan.bytes) / np.minimum(split.tp, scan.heads)


def _uniform_pages(model: Model, split: Split, engine: Engine) -> PagedCache:
    """Groups with the same number of layers, and blocks with the same page for each layer."""
    grows: list[tuple[FloatArray, int]] = []
    windows: dict[int, list[tuple[FloatArray, int]]] = {}
    states: list[tuple[FloatArray, int]] = []
    for block in model.blocks:
        kept: list[Scan] = [scan for scan in block.scans if scan.keeps is not None]
        full = sum((_size(scan, split) for scan in block.scans if scan.keeps is None), 0.0 * split.kv_bytes)
        if any(scan.keeps is None for scan in block.scans):
            grows.append((full, block.count))
        for scan in kept:
            assert scan.keeps is not None
            windows.setdefault(scan.keeps, []).append((_size(scan, split), block.count))
        if block.state:
            states.append((block.state.bytes / np.minimum(split.tp, block.state.heads) + 0.0 * split.kv_bytes,
                           block.count))  # fmt: skip
    kinds = [("grows", 0, grows), *(("window", keeps, entries) for keeps, entries in windows.items())]
    base = float(engine.kv_block)
    pages = {(kind, keeps): _largest(entries) * base for kind, keeps, entries in kinds if entries}
    page: FloatArray = np.maximum.reduce(np.broadcast_arrays(*pages.values())) if pages else 0.0 * split.kv_bytes
    if states:
        state = _largest(states)
        page = np.where(page > 0, np.ceil(state / np.maximum(page, 1.0)).clip(1) * page, state)
    counts = [sum(count for _, count in entries) for _, _, entries in kinds if entries]
    counts += [sum(count for _, count in states)] if states else []
    stages = [ceil_div(count, split.pp) for count in counts]
    least, most = (choose(np.broadcast_arrays(*stages)) for choose in (np.minimum.reduce, np.maximum.reduce))
    size = np.where(most < 1.5 * least, most, least)
    parts: list[Pages] = []
    for (kind, keeps), own in pages.items():
        times = page / own
        whole = np.abs(times - np.round(times)) < 1e-9
        tokens = base * np.where(whole, np.round(times), 1.0 if not states else np.floor(times))
        parts.append(Pages(kind, ceil_div(stages[len(parts)], size), tokens, keeps))  # type: ignore[arg-type]
    if states:
        parts.append(Pages("state", ceil_div(stages[-1], size), page * 0.0 + 1.0))
    return PagedCache(size * page, tuple(parts))


def _largest(entries: list[tuple[FloatArray, int]]) -> FloatArray:
    """The largest cache of a layer [byte/token]."""
    largest: FloatArray = np.maximum.reduce(np.broadcast_arrays(*(size for size, _ in entries)))
    return largest


def _compressed(model: Model, split: Split) -> PagedCache:
    """Groups of DeepSeek-V4: all compressed caches, windows, and the states of the compressors of each stride."""
    layers = dict.fromkeys(STATES, 0)
    compressed: FloatArray = 0.0 * split.kv_bytes
    states: dict[int, FloatArray] = dict.fromkeys(STATES, compressed)
    windows, keeps, page = 0, 1, compressed
    for block in model.blocks:
        for scan in block.scans:
            if scan.keeps is not None:
                windows, keeps, page = windows + block.count, scan.keeps, _size(scan, split) * WINDOW_BLOCK
                continue
            compressed = compressed + block.count * _size(scan, split) * SPARSE_BLOCK / scan.stride
            if scan.stride in STATES:
                tokens, back = STATES[scan.stride]
                state = tokens * 2 * back * scan.elements * STATE_BYTES
                states[scan.stride] = states[scan.stride] + block.count * state
        for stride in {scan.stride for scan in block.scans} & set(layers):
            layers[stride] += block.count
    of_stride = [count for count in layers.values() if count]
    repeats = _group_size([windows, *of_stride], layers[min(layers)] or 1)
    sizes = np.broadcast_arrays(compressed, repeats * page, *states.values())
    parts = [
        Pages("grows", 1.0, float(SPARSE_BLOCK)),
        Pages("window", float(-(-windows // repeats)), float(WINDOW_BLOCK), keeps),
    ]
    for stride, count in layers.items():
        if count:
            tokens, back = STATES[stride]
            parts.append(Pages("window", 1.0, float(tokens), back * stride))
    return PagedCache(np.maximum.reduce(sizes) / split.pp, tuple(parts))


def _group_size(counts: list[int], least: int) -> int:
    """Layers of a group that waste the fewest layers of padding, at least `least`; the larger one of two equal ones."""
    waste = {size: sum(-count % size for count in counts) for size in range(least, max([*counts, least]) + 1)}
    return max(waste, key=lambda size: (-waste[size], size))


def plain(model: Model, split: Split) -> tuple[FloatArray, FloatArray]:
    """Cache of one token, and fixed cache of one sequence, without blocks.

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
    per_token = heaviest([(_grows(block, split), count) for block, count in blocks], split.pp)
    per_sequence = heaviest([(_kept(block, split), count) for block, count in blocks], split.pp)
    draft_token, draft_sequence = drafts(model, split)
    return per_token + draft_token, per_sequence + draft_sequence


def drafts(model: Model, split: Split) -> tuple[FloatArray, FloatArray]:
    """The same of the draft layers, if the split speculates [byte/token, byte]."""
    per_token: FloatArray = 0.0 * split.kv_bytes
    per_sequence: FloatArray = 0.0 * split.kv_bytes
    speculates = split.draft_tokens > 0
    for block in model.draft:
        per_token = per_token + speculates * block.count * _grows(block, split)
        per_sequence = per_sequence + speculates * block.count * _kept(block, split)
    return per_token, per_sequence


def _grows(block: Block, split: Split) -> FloatArray:
    """Cache that one more token adds in one layer [byte/token]."""
    total: FloatArray = 0.0 * split.kv_bytes
    for scan in block.scans:
        total = total + scan.growth(split.kv_bytes) / np.minimum(split.tp, scan.heads)
    return total


def _kept(block: Block, split: Split) -> FloatArray:
    """Windows and states of one sequence in one layer [byte]."""
    total: FloatArray = 0.0 * split.kv_bytes
    for scan in block.scans:
        if scan.keeps is not None:
            total = total + scan.keeps * _size(scan, split)
    if block.state:
        total = total + block.state.bytes / np.minimum(split.tp, block.state.heads)
    return total


def pool_tokens(model: Model, split: Split, engine: Engine, free: FloatArray) -> FloatArray:
    """Tokens that SGLang's pools hold: a pool of all tokens, and pools of windows and states in fixed proportion.

        tokens = free / (1 + state share) / (bytes that grow + window share x bytes of windows)

    Models that have only windows put all tokens in the pool of windows. The states of compressors with stride 4 are in
    the pool of windows, too: a ring of 8 states for 256 tokens.

    Parameters
    ----------
    model : the model
    split : parallel widths of the instance, and the size of a cached element
    engine : engine with the shares of its pools
    free : memory for the cache [byte]

    References
    ----------
    [1] python/sglang/srt/model_executor/pool_configurator.py: HybridSWAPoolConfigurator.
    [2] python/sglang/srt/mem_cache/kv_cache_configurator.py: _handle_max_mamba_cache.
    """
    grows, _ = plain(model, split)
    windows = heaviest([(_window_token(block, split), block.count) for block in model.blocks], split.pp)
    rules = engine.memory
    if any(block.state for block in model.blocks) and rules.state_share is not None:
        free = free / (1 + number(rules.state_share))
    compressed = any(scan.stride > 1 for block in model.blocks for scan in block.scans)
    window_share = rules.compressed_window_share if compressed else rules.window_share
    share = 1.0 if window_share is None else number(window_share)
    cell = np.where(grows > 0, grows + share * windows, windows)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(cell > 0, np.maximum(free, 0.0) / cell, np.inf)


def _window_token(block: Block, split: Split) -> FloatArray:
    """Cache of one token in the windows of one layer [byte/token]."""
    total: FloatArray = 0.0 * split.kv_bytes
    for scan in block.scans:
        if scan.keeps is not None:
            total = total + _size(scan, split)
        elif scan.stride == RING_STRIDE:
            total = total + RING / SPARSE_BLOCK * 4 * scan.elements * STATE_BYTES
    return total
