"""Latent attention with routed experts: DeepSeek-V3 and R1, V3.2, Kimi-K2, GLM-5."""

from __future__ import annotations

from tokenworks.specs.hf.attention import Index, Latent, latent
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.hf.ffn import Routed, gated, routed
from tokenworks.specs.hf.moe import experts_of
from tokenworks.specs.hf.parts import Half, Site, Stack, layers, mtp


def latent_of(fields: Fields) -> Latent:
    """The shape of MLA. `num_key_value_heads` says nothing here: the latent serves all heads."""
    fields.ignore("num_key_value_heads", "qk_head_dim", "head_dim")
    return Latent(
        fields.whole("num_attention_heads"),
        fields.whole("q_lora_rank") if fields.has("q_lora_rank") else 0,
        fields.whole("kv_lora_rank"),
        fields.whole("qk_nope_head_dim"),
        fields.whole("qk_rope_head_dim"),
        fields.whole("v_head_dim"),
    )


def routed_of(fields: Fields) -> Routed:
    """The shape of DeepSeekMoE: fine-grained routed experts and shared ones (arXiv:2412.19437, section 2.1.2)."""
    inner = fields.whole("moe_intermediate_size")
    return Routed(
        *experts_of(fields, "n_routed_experts"),
        inner,
        shared=inner * fields.or_zero("n_shared_experts"),
        correction=True,
    )


def deepseek_v3(fields: Fields, site: Site) -> Stack:
    """DeepSeek-V3 (arXiv:2412.19437, section 4.2), R1 and Kimi-K2 (arXiv:2507.20534)."""
    return _stack(fields, site, None)


def deepseek_v32(fields: Fields, site: Site) -> Stack:
    """DeepSeek-V3.2: V3 with a lightning indexer (DeepSeek-V3.2-Exp report, section 2.1)."""
    shape = Index(fields.whole("index_n_heads"), fields.whole("index_head_dim"), fields.whole("index_topk"))
    return _stack(fields, site, shape)


def _stack(fields: Fields, site: Site, index: Index | None) -> Stack:
    fields.must("attention_bias", False)
    fields.must("moe_layer_freq", 1)
    hidden, count = fields.whole("hidden_size"), fields.layers()
    dense, inner = fields.whole("first_k_dense_replace", least=0), fields.whole("intermediate_size")
    shape, experts = latent_of(fields), routed_of(fields)

    def halves(at: Site, number: int) -> tuple[Half, Half]:
        ffn = gated(at, hidden, inner) if number < dense else routed(at, hidden, experts)
        return latent(at, hidden, shape, index), ffn

    draft = [
        mtp(at, hidden, halves(at, number))
        for number in range(count, count + fields.or_zero("num_nextn_predict_layers"))
        for at in [site.at(f"layers.{number}")]
    ]
    return Stack(hidden, shape.heads, 1, layers(site, count, halves, hidden), draft, outside=hidden)
