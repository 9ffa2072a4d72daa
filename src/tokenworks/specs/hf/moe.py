"""Grouped-query decoders with routed experts: Mixtral, Qwen3-MoE, gpt-oss."""

from __future__ import annotations

from dataclasses import replace

from tokenworks.specs.hf.attention import Grouped, grouped
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.hf.dense import heads_of, window_of
from tokenworks.specs.hf.ffn import Routed, routed
from tokenworks.specs.hf.parts import Half, Site, Stack, layers

LAYER_KINDS = ("full_attention", "sliding_attention")


def experts_of(fields: Fields, count: str, topk: str = "num_experts_per_tok") -> tuple[int, int]:
    """How many experts, and how many of them a token visits."""
    experts, chosen = fields.whole(count), fields.whole(topk)
    if chosen > experts:
        raise fields.error(topk, f"{chosen} is more than the {experts} experts")
    return experts, chosen


def qwen3_moe(fields: Fields, site: Site) -> Stack:
    """Qwen3-MoE: every layer has experts, none shared (arXiv:2505.09388, table 2)."""
    fields.must("decoder_sparse_step", 1)
    fields.must("mlp_only_layers", [])
    fields.must("shared_expert_intermediate_size", 0)
    fields.must("use_qk_norm", True)
    fields.must("qkv_bias", False)
    fields.ignore("intermediate_size")
    heads, kv_heads, dim = heads_of(fields)
    hidden = fields.whole("hidden_size")
    bias = fields.flag("attention_bias")
    shape = Grouped(heads, kv_heads, dim, dim, window_of(fields), bias, bias, norms=2 * dim)
    experts = Routed(*experts_of(fields, "num_experts"), fields.whole("moe_intermediate_size"))

    def halves(at: Site, _: int) -> tuple[Half, Half]:
        return grouped(at, hidden, shape), routed(at, hidden, experts)

    return Stack(hidden, heads, kv_heads, layers(site, fields.layers(), halves, hidden), outside=hidden)


def mixtral(fields: Fields, site: Site) -> Stack:
    """Mixtral of experts (arXiv:2401.04088, table 1)."""
    heads, kv_heads, dim = heads_of(fields)
    hidden = fields.whole("hidden_size")
    window = fields.whole("sliding_window") if fields.has("sliding_window") else None
    shape = Grouped(heads, kv_heads, dim, dim, window)
    experts = Routed(
        *experts_of(fields, "num_local_experts"),
        fields.whole("intermediate_size"),
        path="block_sparse_moe",
        names=("w1", "w2"),
    )

    def halves(at: Site, _: int) -> tuple[Half, Half]:
        return grouped(at, hidden, shape), routed(at, hidden, experts)

    return Stack(hidden, heads, kv_heads, layers(site, fields.layers(), halves, hidden), outside=hidden)


def gpt_oss(fields: Fields, site: Site) -> Stack:
    """gpt-oss: windows on every other layer, a learnt sink a head, biases everywhere (arXiv:2508.10925, section 2)."""
    fields.ignore("experts_per_token", "initial_context_length")
    fields.must("attention_bias", True)
    heads, kv_heads, dim = heads_of(fields)
    hidden, count = fields.whole("hidden_size"), fields.layers()
    kinds = fields.per_layer("layer_types", count, LAYER_KINDS)
    window = fields.whole("sliding_window")
    experts = Routed(
        *experts_of(fields, "num_local_experts"), fields.whole("intermediate_size"), bias=True, router="router"
    )
    full = Grouped(heads, kv_heads, dim, dim, None, True, True, norms=heads)
    local = replace(full, window=window)

    def halves(at: Site, index: int) -> tuple[Half, Half]:
        attention = local if kinds[index] == "sliding_attention" else full
        return grouped(at, hidden, attention), routed(at, hidden, experts)

    return Stack(hidden, heads, kv_heads, layers(site, count, halves, hidden), outside=hidden)
