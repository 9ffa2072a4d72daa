"""Dense decoders: Llama, Mistral, Qwen2, Qwen3, MiMo-7B, and Nemotron models from architecture search (DeciLM)."""

from __future__ import annotations

from dataclasses import replace

from tokenworks.specs.hf.attention import Grouped, grouped
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.hf.ffn import mlp
from tokenworks.specs.hf.parts import Half, Place, Stack, layer, layers, with_drafts
from tokenworks.specs.hf.shapes import heads_of, windows_of
from tokenworks.specs.model import Block


def _plain(fields: Fields, site: Place, windows: list[int | None], **extra: bool | int) -> Stack:
    heads, kv_heads, dim = heads_of(fields)
    hidden, inner = fields.whole("hidden_size"), fields.whole("intermediate_size")
    shape = Grouped(heads, kv_heads, dim, dim, **extra)  # type: ignore[arg-type]

    def halves(at: Place, index: int) -> tuple[Half, Half]:
        window = windows[index] if index < len(windows) else None
        return grouped(at, hidden, replace(shape, window=window)), mlp(at, hidden, inner)

    stack = Stack(hidden, heads, kv_heads, layers(site, fields.layers(), halves, hidden), outside=hidden)
    return with_drafts(stack, site, halves, fields.drafts())


def llama(fields: Fields, site: Place) -> Stack:
    """Llama 2 and 3 (arXiv:2407.21783, table 3)."""
    fields.must("mlp_bias", False)
    bias = fields.flag("attention_bias")
    return _plain(fields, site, [], bias=bias, out_bias=bias)


def mistral(fields: Fields, site: Place) -> Stack:
    """Mistral: Llama with a window in every layer, or in no layer (arXiv:2310.06825, section 2)."""
    window = fields.whole("sliding_window") if fields.has("sliding_window") else None
    return _plain(fields, site, [window] * fields.layers())


def qwen2(fields: Fields, site: Place) -> Stack:
    """Qwen2 and 2.5: biases on q, k and v (arXiv:2412.15115, section 2)."""
    fields.ignore("use_mrope")
    return _plain(fields, site, windows_of(fields), bias=True)


def mimo(fields: Fields, site: Place) -> Stack:
    """MiMo-7B: Qwen2 with a multi-token-prediction layer (arXiv:2505.07608, section 2.2)."""
    fields.must("attention_bias", True)
    return qwen2(fields, site)


def qwen3(fields: Fields, site: Place) -> Stack:
    """Qwen3: no bias, RMSNorm on q and k of each head (arXiv:2505.09388, section 2)."""
    bias = fields.flag("attention_bias")
    dim = heads_of(fields)[2]
    return _plain(fields, site, windows_of(fields), bias=bias, out_bias=bias, norms=2 * dim)


def decilm(fields: Fields, site: Place) -> Stack:
    """Nemotron-NAS (arXiv:2411.19146). `block_configs` has KV heads and FFN width of each layer; each may be absent."""
    fields.must("attention_bias", False)
    fields.must("mlp_bias", False)
    blocks = fields.raw("block_configs")
    hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    if not isinstance(blocks, list) or len(blocks) != fields.layers() or hidden % heads:
        raise fields.error("block_configs", f"want {fields.layers()} blocks, one a layer")
    stack: list[Block] = []
    groups: list[int] = []
    for index, block in enumerate(blocks):
        at = site.at(f"layers.{index}")
        spec = Fields(block if isinstance(block, dict) else {}, fields.where, path=f"block_configs[{index}].")
        halves: list[Half] = []
        attention, ffn = spec.table("attention"), spec.table("ffn")
        for part in (attention, ffn):
            part.must("replace_with_linear", False)
        if not attention.flag("no_op"):
            group = attention.whole("n_heads_in_group")
            groups.append(heads // group)
            halves.append(grouped(at, hidden, Grouped(heads, heads // group, hidden // heads, hidden // heads)))
        if not ffn.flag("no_op"):
            halves.append(mlp(at, hidden, _rounded(ffn.number("ffn_mult") * 2 * hidden / 3)))
        stack.append(layer(halves, hidden, norms=len(halves)))
    if not groups:
        raise fields.error("block_configs", "no layer has attention")
    return Stack(hidden, heads, min(groups), stack, outside=hidden)


def _rounded(width: float) -> int:
    """An FFN width, rounded up to a multiple of 256 like in DeciLM."""
    return -(-int(width) // 256) * 256
