"""Stacks with both full and windowed (or chunked) attention layers: gpt-oss, Step, MiMo-V2, Llama-4, Gemma-4."""

from __future__ import annotations

from dataclasses import replace

from tokenworks.specs.hf.attention import Gate, Grouped, grouped
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.hf.ffn import Names, Routed, beside, mlp, routed
from tokenworks.specs.hf.parts import Half, Place, Stack, layer, layers, with_drafts
from tokenworks.specs.hf.shapes import LAYER_KINDS, experts_of, heads_of
from tokenworks.specs.model import Block


def gpt_oss(fields: Fields, site: Place) -> Stack:
    """gpt-oss: windows in every second layer, one learned sink per head, and biases (arXiv:2508.10925, section 2)."""
    fields.ignore("experts_per_token", "initial_context_length")
    fields.must("attention_bias", True)
    heads, kv_heads, dim = heads_of(fields)
    hidden, count = fields.whole("hidden_size"), fields.layers()
    experts = Routed(
        *experts_of(fields, "num_local_experts"),
        fields.whole("intermediate_size"),
        bias=True,
        names=Names(gate="gate_up_proj"),
        experts="experts",
    )
    full = Grouped(heads, kv_heads, dim, dim, None, True, True, norms=heads)
    local = replace(full, window=fields.whole("sliding_window"))
    kinds = fields.per_layer("layer_types", count, LAYER_KINDS)

    def halves(at: Place, index: int) -> tuple[Half, Half]:
        shape = local if kinds[index] == "sliding_attention" else full
        return grouped(at, hidden, shape), routed(at, hidden, experts)

    return Stack(hidden, heads, kv_heads, layers(site, count, halves, hidden), outside=hidden)


def step3(fields: Fields, site: Place) -> Stack:
    """Step-3.5 and 3.7 Flash: windowed layers have more query heads; each head has an output gate (vLLM step3p5)."""
    fields.ignore("moe_router_scaling_factor", "use_moe_router_bias", "n_shared_experts")
    heads, kv_heads, dim = heads_of(fields)
    hidden, count = fields.whole("hidden_size"), fields.layers()
    gate: Gate = "head" if fields.flag("use_head_wise_attn_gate") else ""
    full = Grouped(heads, kv_heads, dim, dim, gate=gate, norms=2 * dim)
    other = fields.table("attention_other_setting")
    other.ignore("attention_type", "true_head_dim")
    local = replace(
        full,
        heads=other.whole("num_attention_heads"),
        kv_heads=other.whole("num_attention_groups"),
        key_dim=other.whole("head_dim"),
        value_dim=other.whole("head_dim"),
        window=fields.whole("sliding_window"),
    )
    other.done()
    drafts = fields.drafts()
    kinds = fields.per_layer("layer_types", count, LAYER_KINDS, extra=drafts)
    experts = Routed(
        *experts_of(fields, "num_experts"),
        fields.whole("moe_intermediate_size"),
        fields.whole("share_expert_dim"),
        correction=True,
        path="moe",
        shared_path="share_expert",
    )
    dense, inner = fields.whole("first_k_dense_replace", least=0), fields.whole("intermediate_size")

    def halves(at: Place, index: int) -> tuple[Half, Half]:
        # MTP layers, which come after the last layer, have a window and a dense FFN.
        windowed = index >= count or kinds[index] == "sliding_attention"
        ffn = mlp(at, hidden, inner) if index < dense or index >= count else routed(at, hidden, experts)
        return grouped(at, hidden, local if windowed else full), ffn

    stack = Stack(hidden, heads, kv_heads, layers(site, count, halves, hidden), outside=hidden)
    return with_drafts(stack, site, halves, drafts)


def mimo_v2(fields: Fields, site: Place) -> Stack:
    """MiMo-V2-Flash: five windowed layers, then a full one; values are narrower than keys (its report, section 2)."""
    fields.ignore(
        "attention_value_scale", "swa_rope_theta", "sliding_window_size", "attention_chunk_size", "hybrid_block_size"
    )
    heads, kv_heads, dim = heads_of(fields)
    hidden, count = fields.whole("hidden_size"), fields.layers()
    bias = fields.flag("attention_bias")
    sinks = fields.flag("add_full_attention_sink_bias"), fields.flag("add_swa_attention_sink_bias")
    full = Grouped(heads, kv_heads, dim, fields.whole("v_head_dim"), bias=bias, norms=heads * sinks[0])
    swa_heads = fields.whole("swa_num_attention_heads")
    local = Grouped(
        swa_heads,
        fields.whole("swa_num_key_value_heads"),
        fields.whole("swa_head_dim"),
        fields.whole("swa_v_head_dim"),
        fields.whole("sliding_window"),
        bias=bias,
        norms=swa_heads * sinks[1],
    )
    windowed = fields.per_layer("hybrid_layer_pattern", count, (0, 1))
    has_experts = fields.per_layer("moe_layer_freq", count, (0, 1))
    inner = fields.whole("moe_intermediate_size")
    shared = inner * fields.or_zero("n_shared_experts")
    experts = Routed(*experts_of(fields, "n_routed_experts"), inner, shared, correction=True)
    dense = fields.whole("intermediate_size")

    def halves(at: Place, index: int) -> tuple[Half, Half]:
        ffn = routed(at, hidden, experts) if has_experts[index] else mlp(at, hidden, dense)
        return grouped(at, hidden, local if windowed[index] else full), ffn

    return Stack(hidden, heads, kv_heads, layers(site, count, halves, hidden), outside=hidden)


def llama4(fields: Fields, site: Place) -> Stack:
    """Llama-4: three layers of chunked attention, then a full one (transformers llama4).

    Every `interleave_moe_layer_step`-th layer has routed experts and a shared expert. A chunk costs as much as a window
    of its length, which is an upper bound.
    """
    fields.ignore("use_qk_norm", "attn_scale", "floor_scale", "attn_temperature_tuning")  # no weights
    heads, kv_heads, dim = heads_of(fields)
    hidden, count = fields.whole("hidden_size"), fields.layers()
    bias = fields.flag("attention_bias")
    full = Grouped(heads, kv_heads, dim, dim, None, bias, bias)
    local = replace(full, window=fields.whole("attention_chunk_size"), local="chunked")
    interval, step = fields.whole("no_rope_layer_interval"), fields.whole("interleave_moe_layer_step")
    inner, wide = fields.whole("intermediate_size"), fields.whole("intermediate_size_mlp")
    experts = Routed(
        *experts_of(fields, "num_local_experts"),
        inner,
        shared=inner,
        path="feed_forward",
        experts="experts",
        shared_path="shared_expert",
    )

    def halves(at: Place, index: int) -> tuple[Half, Half]:
        shape = local if (index + 1) % interval else full  # layers without rotary embedding see the whole context
        ffn = mlp(at, hidden, wide, path="feed_forward") if (index + 1) % step else routed(at, hidden, experts)
        return grouped(at, hidden, shape), ffn

    return Stack(hidden, heads, kv_heads, layers(site, count, halves, hidden), outside=hidden)


def gemma4(fields: Fields, site: Place) -> Stack:
    """Gemma-4: windowed layers, and full layers with wider heads whose key is also the value (transformers gemma4).

    Experts run beside a dense MLP.
    """
    fields.ignore("use_bidirectional_attention", "vocab_size_per_layer_input", "expert_intermediate_size")
    fields.must("hidden_size_per_layer_input", 0)
    fields.must("num_kv_shared_layers", 0)
    fields.must("use_double_wide_mlp", False)
    heads, kv_heads, dim = heads_of(fields)
    hidden, count = fields.whole("hidden_size"), fields.layers()
    bias, window, wide = fields.flag("attention_bias"), fields.whole("sliding_window"), fields.whole("global_head_dim")
    local = Grouped(heads, kv_heads, dim, dim, window, bias, bias, norms=2 * dim)
    key_is_value = fields.flag("attention_k_eq_v")
    full_heads = fields.whole("num_global_key_value_heads") if key_is_value else kv_heads
    full = Grouped(heads, full_heads, wide, wide, None, bias, bias, key_is_value=key_is_value, norms=2 * wide)
    kinds = fields.per_layer("layer_types", count, LAYER_KINDS)
    inner = fields.whole("intermediate_size")
    experts = _gemma_experts(fields) if fields.flag("enable_moe_block") else None

    def block(at: Place, index: int) -> Block:
        attention = grouped(at, hidden, local if kinds[index] == "sliding_attention" else full)
        if experts is None:
            return layer((attention, mlp(at, hidden, inner)), hidden, norms=4)
        # Beside the usual four norms there are three for the two branches, and a scale of the router's input.
        ffn = beside(mlp(at, hidden, inner, "shared"), routed(at, hidden, experts))
        return layer((attention, ffn), hidden, norms=8)

    return Stack(hidden, heads, kv_heads, [block(site.at(f"layers.{i}"), i) for i in range(count)], outside=hidden)


def _gemma_experts(fields: Fields) -> Routed:
    return Routed(
        *experts_of(fields, "num_experts", "top_k_experts"),
        fields.whole("moe_intermediate_size"),
        correction=True,  # the router's scale of each expert
        path="",
    )
