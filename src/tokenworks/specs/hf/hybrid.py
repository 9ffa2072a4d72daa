"""Stacks with linear attention: Qwen3.5, Nemotron-H, Kimi-Linear and K3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenworks.specs.hf.attention import Gate, Grouped, grouped, latent
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.hf.ffn import PLAIN, W123, Routed, mlp, routed
from tokenworks.specs.hf.linear import Delta, Mamba, gated_delta, kimi_delta, mamba2
from tokenworks.specs.hf.parts import Half, Place, Stack, layer, layers, mtp
from tokenworks.specs.hf.shapes import experts_of, heads_of, latent_of
from tokenworks.specs.model import Block

STATE_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


def qwen3_5(fields: Fields, site: Place) -> Stack:
    """Qwen3.5 and 3.6: three layers of gated delta net, then one of full attention with an output gate.

    Source: transformers qwen3_5.
    """
    inner, hidden = fields.whole("intermediate_size"), fields.whole("hidden_size")
    return _qwen3_5(fields, site, lambda at: mlp(at, hidden, inner))


def qwen3_5_moe(fields: Fields, site: Place) -> Stack:
    """Qwen3.5 with experts in every layer, and a gated shared expert (transformers qwen3_5_moe)."""
    fields.ignore("intermediate_size")
    hidden = fields.whole("hidden_size")
    experts = Routed(
        *experts_of(fields, "num_experts"),
        fields.whole("moe_intermediate_size"),
        fields.whole("shared_expert_intermediate_size"),
        shared_gate=True,
        shared_path="shared_expert",
    )
    return _qwen3_5(fields, site, lambda at: routed(at, hidden, experts))


def _qwen3_5(fields: Fields, site: Place, ffn: Callable[[Place], Half]) -> Stack:
    """The stack of Qwen3.5 with any FFN."""
    fields.ignore("output_gate_type")
    fields.must("mtp_use_dedicated_embeddings", False)
    fields.must("mlp_only_layers", [])
    heads, kv_heads, dim = heads_of(fields)
    hidden, count = fields.whole("hidden_size"), fields.layers()
    kinds = fields.per_layer("layer_types", count, ("linear_attention", "full_attention"))
    if fields.has("full_attention_interval"):
        every = fields.whole("full_attention_interval")
        if [kind == "full_attention" for kind in kinds] != [not (index + 1) % every for index in range(count)]:
            raise fields.error("full_attention_interval", f"{every} does not agree with layer_types")
    gate: Gate = "query" if fields.flag("attn_output_gate") else ""
    bias = fields.flag("attention_bias")
    full = Grouped(heads, kv_heads, dim, dim, None, bias, bias, gate, norms=2 * dim)
    linear = Delta(
        fields.whole("linear_num_key_heads"),
        fields.whole("linear_num_value_heads"),
        fields.whole("linear_key_head_dim"),
        fields.whole("linear_value_head_dim"),
        fields.whole("linear_conv_kernel_dim"),
        STATE_BYTES[fields.word("mamba_ssm_dtype", STATE_BYTES)],
    )

    def halves(at: Place, index: int) -> tuple[Half, Half]:
        is_full = index >= count or kinds[index] == "full_attention"
        return grouped(at, hidden, full) if is_full else gated_delta(at, hidden, linear), ffn(at)

    root = site.root()
    numbers = range(fields.drafts("mtp_num_hidden_layers"))
    draft = [mtp(root.at("mtp"), hidden, halves(root.at(f"mtp.layers.{number}"), count)) for number in numbers]
    return Stack(hidden, heads, kv_heads, layers(site, count, halves, hidden), draft, outside=hidden)


def nemotron_h(fields: Fields, site: Place) -> Stack:
    """Nemotron-H and Nemotron-3: each layer is only one of Mamba-2, attention, MLP or experts.

    Sources: arXiv:2504.03624, section 2; latent experts: Nemotron-3 report, section 2.1.
    """
    fields.ignore(
        "chunk_size", "expand", "mamba_hidden_act", "mlp_hidden_act", "moe_shared_expert_overlap",
        "num_logits_to_keep", "rescale_prenorm_residual", "residual_in_fp32", "sliding_window", "time_step_floor",
        "time_step_limit", "time_step_max", "time_step_min", "time_step_rank", "use_mamba_kernels",
    )  # fmt: skip
    for key in ("attention_bias", "mlp_bias", "use_bias"):
        fields.must(key, False)
    hidden = fields.whole("hidden_size")
    heads, kv_heads = fields.whole("num_attention_heads"), fields.whole("num_key_value_heads")
    dim = fields.either("head_dim", "attention_head_dim")
    attention = Grouped(heads, kv_heads, dim, dim, path="")
    mamba = Mamba(
        fields.whole("mamba_num_heads"),
        fields.whole("mamba_head_dim"),
        fields.whole("n_groups"),
        fields.whole("ssm_state_size"),
        fields.whole("conv_kernel"),
        STATE_BYTES[fields.word("mamba_ssm_cache_dtype", STATE_BYTES)],
        fields.flag("use_conv_bias"),
        fields.flag("mamba_proj_bias"),
    )
    kinds = _pattern(fields, "hybrid_override_pattern", "layers_block_type")
    if fields.has("num_hidden_layers") and fields.layers() != len(kinds):
        words = f"{fields.layers()} does not agree with the pattern, which has {len(kinds)} layers"
        raise fields.error("num_hidden_layers", words)
    drafts: list[str] = []
    if fields.drafts():
        drafts = _pattern(fields, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    fields.ignore("mtp_hybrid_override_pattern", "mtp_layers_block_type")
    experts = _nemotron_experts(fields) if "moe" in (*kinds, *drafts) else None
    inner = fields.whole("intermediate_size") if "mlp" in kinds else 0
    fields.ignore("intermediate_size")

    def half(at: Place, kind: str) -> Half:
        mixer = at.at("mixer")
        if kind == "mamba":
            return mamba2(mixer, hidden, mamba)
        if kind == "attention":
            return grouped(mixer, hidden, attention)
        if kind == "mlp" or experts is None:
            return mlp(mixer, hidden, inner, names=PLAIN, path="")
        return routed(mixer, hidden, experts)

    names = {"mamba": "mamba layer", "attention": "attention layer", "mlp": "mlp layer", "moe": "moe layer"}
    stack = [
        layer((half(site.at(f"layers.{index}"), kind),), hidden, norms=1, name=names[kind])
        for index, kind in enumerate(kinds)
    ]
    root = site.root().at("mtp")
    halves = [half(root.at(f"layers.{index}"), kind) for index, kind in enumerate(drafts)]
    draft = [mtp(root, hidden, halves)] * fields.drafts()
    return Stack(hidden, heads, kv_heads, stack, draft, outside=hidden)


def _pattern(fields: Fields, letters: str, words: str) -> list[str]:
    kinds = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    if fields.has(words):
        value: Any = fields.raw(words)
        return fields.per_layer(words, len(value) if isinstance(value, list) else 1, tuple(kinds.values()))
    value = fields.raw(letters)
    if not isinstance(value, str) or not value or set(value) - set(kinds):
        raise fields.error(letters, f"{value!r} is not a pattern", hint=f"known letters: {' '.join(kinds)}")
    return [kinds[letter] for letter in value]


def _nemotron_experts(fields: Fields) -> Routed:
    return Routed(
        *experts_of(fields, "n_routed_experts"),
        fields.whole("moe_intermediate_size"),
        fields.whole("moe_shared_expert_intermediate_size") * fields.whole("n_shared_experts"),
        latent=fields.or_zero("moe_latent_size"),
        correction=True,
        names=PLAIN,
        path="",
    )


def kimi_linear(fields: Fields, site: Place) -> Stack:
    """Kimi-Linear and Kimi-K3: Kimi delta attention, and MLA in every fourth layer.

    K3 has also latent experts and attention over earlier residuals. Sources: Kimi-Linear, arXiv:2510.26692, section 4;
    Kimi-K3, arXiv:2607.24653, section 2.
    """
    fields.ignore(
        "activation_situ_beta", "activation_situ_linear_beta", "mla_use_nope", "moe_renormalize",
        "moe_router_activation_func", "num_expert_group", "use_grouped_topk", "model_max_length",
    )  # fmt: skip
    fields.must("moe_layer_freq", 1)
    fields.must("num_nextn_predict_layers", 0)
    hidden, count = fields.whole("hidden_size"), fields.layers()
    shape = latent_of(fields, gate=fields.flag("mla_use_output_gate"))
    linear, delta, is_linear, full_rank = _kimi_delta(fields, count)
    inner = fields.whole("moe_intermediate_size")
    experts = Routed(
        *experts_of(fields, "num_experts", "num_experts_per_token"),
        inner,
        inner * fields.or_zero("num_shared_experts"),
        latent=fields.or_zero("routed_expert_hidden_size"),
        latent_norm=fields.flag("latent_moe_use_norm"),
        correction=True,
        names=W123,
        path="block_sparse_moe",
        latent_names=("routed_expert_down_proj", "routed_expert_up_proj"),
    )
    linear.done()
    dense, wide = fields.whole("first_k_dense_replace", least=0), fields.whole("intermediate_size")
    # Attention over earlier residuals has a norm and a query vector before each half layer, and before the head.
    residual = 2 if fields.has("attn_res_block_size") and fields.whole("attn_res_block_size") else 0

    def block(at: Place, index: int) -> Block:
        mixer = (
            kimi_delta(at, hidden, delta, full_rank_gate=full_rank) if is_linear[index] else latent(at, hidden, shape)
        )
        ffn = mlp(at, hidden, wide) if index < dense else routed(at, hidden, experts)
        return layer((mixer, ffn), hidden, norms=2 + 2 * residual)

    stack = [block(site.at(f"layers.{index}"), index) for index in range(count)]
    return Stack(hidden, shape.heads, 1, stack, outside=hidden * (1 + residual))


def _kimi_delta(fields: Fields, count: int) -> tuple[Fields, Delta, list[bool], bool]:
    """The fields of linear attention, its shape, True for each linear layer, and True for a full-rank output gate."""
    linear = fields.table("linear_attn_config")
    linear.ignore("gate_lower_bound")
    heads, dim = linear.whole("num_heads"), linear.whole("head_dim")
    delta = Delta(heads, heads, dim, dim, linear.whole("short_conv_kernel_size"))
    numbers = {key: linear.raw(key) for key in ("kda_layers", "full_attn_layers")}
    for key, value in numbers.items():
        if not isinstance(value, list) or not all(type(number) is int for number in value):
            raise linear.error(key, f"want a list of layer numbers, got {value!r}")
    if sorted(numbers["kda_layers"] + numbers["full_attn_layers"]) != list(range(1, count + 1)):
        words = f"kda_layers and full_attn_layers together must have each layer from 1 to {count} exactly once"
        raise linear.error("kda_layers", words)
    chosen = set(numbers["kda_layers"])
    return linear, delta, [index + 1 in chosen for index in range(count)], linear.flag("use_full_rank_gate")
