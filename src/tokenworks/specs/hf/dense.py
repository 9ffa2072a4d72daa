"""Plain decoders: Llama, Qwen2, Qwen3, MiMo-7B; and the fields that every grouped-query family shares."""

from __future__ import annotations

from tokenworks.specs.hf.attention import Grouped, grouped
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.hf.ffn import gated
from tokenworks.specs.hf.parts import Half, Site, Stack, layers


def heads_of(fields: Fields) -> tuple[int, int, int]:
    """Query heads, KV heads and head size. KV heads divide the query heads; a null head_dim is hidden / heads."""
    heads = fields.whole("num_attention_heads")
    kv_heads = fields.whole("num_key_value_heads")
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", f"{kv_heads} does not divide {heads} query heads")
    if fields.has("head_dim"):
        return heads, kv_heads, fields.whole("head_dim")
    hidden = fields.whole("hidden_size")
    if hidden % heads:
        raise fields.error("head_dim", f"the field is missing, and {hidden} / {heads} heads is no whole number")
    return heads, kv_heads, hidden // heads


def window_of(fields: Fields) -> int | None:
    """The sliding window where `use_sliding_window` turns it on."""
    if not fields.flag("use_sliding_window") or not fields.has("sliding_window"):
        fields.ignore("sliding_window")
        return None
    return fields.whole("sliding_window")


def llama(fields: Fields, site: Site) -> Stack:
    """Llama 2 and 3 (arXiv:2407.21783, table 3)."""
    fields.must("mlp_bias", False)
    bias = fields.flag("attention_bias")
    return _plain(fields, site, bias=bias, out_bias=bias)


def qwen2(fields: Fields, site: Site) -> Stack:
    """Qwen2 and 2.5: biases on q, k and v (arXiv:2412.15115, section 2)."""
    return _plain(fields, site, bias=True)


def qwen3(fields: Fields, site: Site) -> Stack:
    """Qwen3: no bias, RMSNorm on q and k of each head (arXiv:2505.09388, section 2)."""
    bias = fields.flag("attention_bias")
    return _plain(fields, site, bias=bias, out_bias=bias, head_norms=2)


def _plain(fields: Fields, site: Site, *, bias: bool, out_bias: bool = False, head_norms: int = 0) -> Stack:
    heads, kv_heads, dim = heads_of(fields)
    hidden, inner = fields.whole("hidden_size"), fields.whole("intermediate_size")
    window = window_of(fields)
    full_below = fields.whole("max_window_layers", least=0) if window else 0
    shape = Grouped(heads, kv_heads, dim, dim, bias=bias, out_bias=out_bias, norms=head_norms * dim)
    local = Grouped(heads, kv_heads, dim, dim, window, bias, out_bias, norms=head_norms * dim)

    def halves(at: Site, index: int) -> tuple[Half, Half]:
        attention = local if window and index >= full_below else shape
        return grouped(at, hidden, attention), gated(at, hidden, inner)

    return Stack(hidden, heads, kv_heads, layers(site, fields.layers(), halves, hidden), outside=hidden)
