"""Readers of shapes that are the same in several architectures."""

from __future__ import annotations

from tokenworks.specs.hf.attention import Index, Latent
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.hf.ffn import Routed

LAYER_KINDS = ("full_attention", "sliding_attention")


def heads_of(fields: Fields) -> tuple[int, int, int]:
    """Query heads, KV heads and head size. KV heads must divide query heads. Without head_dim, it is hidden / heads."""
    heads, kv_heads = fields.whole("num_attention_heads"), fields.whole("num_key_value_heads")
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", f"{kv_heads} does not divide {heads} query heads")
    if fields.has("head_dim"):
        return heads, kv_heads, fields.whole("head_dim")
    hidden = fields.whole("hidden_size")
    if hidden % heads:
        raise fields.error("head_dim", f"the field is missing, and {hidden} / {heads} heads is no whole number")
    return heads, kv_heads, hidden // heads


def windows_of(fields: Fields) -> list[int | None]:
    """The sliding window of each layer of a Qwen model; None = the layer sees all tokens [token].

    `use_sliding_window` switches windows on. Windowed layers are the layers of `layer_types`, or else all layers from
    `max_window_layers` on.
    """
    count, window = fields.layers(), None
    if fields.flag("use_sliding_window") and fields.has("sliding_window"):
        window = fields.whole("sliding_window")
    fields.ignore("sliding_window", "max_window_layers")
    if fields.has("layer_types"):
        kinds = fields.per_layer("layer_types", count, LAYER_KINDS)
        if window is None and "sliding_attention" in kinds:
            words = "there are sliding layers, but use_sliding_window or sliding_window switches windows off"
            raise fields.error("layer_types", words)
        return [window if kind == "sliding_attention" else None for kind in kinds]
    if window is None:
        return [None] * count
    first = fields.whole("max_window_layers", least=0)
    return [window if index >= first else None for index in range(count)]


def experts_of(fields: Fields, count: str, topk: str = "num_experts_per_tok") -> tuple[int, int]:
    """Number of experts, and number of experts that a token visits."""
    experts, chosen = fields.whole(count), fields.whole(topk)
    if chosen > experts:
        raise fields.error(topk, f"{chosen} is more than the {experts} experts")
    return experts, chosen


def routed_of(fields: Fields) -> Routed:
    """The shape of DeepSeekMoE: fine-grained routed experts and shared experts (arXiv:2412.19437, section 2.1.2)."""
    inner = fields.whole("moe_intermediate_size")
    shared = inner * fields.or_zero("n_shared_experts")
    return Routed(*experts_of(fields, "n_routed_experts"), inner, shared, correction=True)


def latent_of(fields: Fields, *, gate: bool = False) -> Latent:
    """The shape of MLA. `num_key_value_heads` has no meaning here, because all heads share the latent."""
    fields.ignore("num_key_value_heads", "qk_head_dim", "head_dim")
    return Latent(
        fields.whole("num_attention_heads"),
        fields.whole("q_lora_rank") if fields.has("q_lora_rank") else 0,
        fields.whole("kv_lora_rank"),
        fields.whole("qk_nope_head_dim"),
        fields.whole("qk_rope_head_dim", least=0),
        fields.whole("v_head_dim"),
        gate,
    )


def index_of(fields: Fields) -> Index:
    """The shape of a lightning indexer."""
    return Index(fields.whole("index_n_heads"), fields.whole("index_head_dim"), fields.whole("index_topk"))
