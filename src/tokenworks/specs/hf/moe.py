"""Decoders with grouped-query attention and routed experts: Qwen3-MoE, Mixtral, GLM-4.5, MiniMax-M2 and M3."""

from __future__ import annotations

from dataclasses import replace

from tokenworks.specs.hf.attention import Grouped, Index, block_sparse, grouped
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.hf.ffn import W123, Routed, mlp, routed
from tokenworks.specs.hf.parts import Half, Place, Stack, layers, with_drafts
from tokenworks.specs.hf.shapes import experts_of, heads_of, routed_of, windows_of

NO_DRAFT = "no draft layers are counted: the config names MTP layers, but the checkpoint does not have their weights"


def _uniform(fields: Fields, site: Place, shape: Grouped, experts: Routed, windows: list[int | None]) -> Stack:
    """A stack in which every layer has attention and routed experts."""
    hidden = fields.whole("hidden_size")

    def halves(at: Place, index: int) -> tuple[Half, Half]:
        return grouped(at, hidden, replace(shape, window=windows[index])), routed(at, hidden, experts)

    return Stack(hidden, shape.heads, shape.kv_heads, layers(site, len(windows), halves, hidden), outside=hidden)


def qwen3_moe(fields: Fields, site: Place) -> Stack:
    """Qwen3-MoE: every layer has routed experts, without shared experts (arXiv:2505.09388, table 2)."""
    fields.must("decoder_sparse_step", 1)
    fields.must("mlp_only_layers", [])
    fields.must("shared_expert_intermediate_size", 0)
    fields.must("use_qk_norm", True)
    fields.must("qkv_bias", False)
    fields.ignore("intermediate_size")
    heads, kv_heads, dim = heads_of(fields)
    bias = fields.flag("attention_bias")
    shape = Grouped(heads, kv_heads, dim, dim, None, bias, bias, norms=2 * dim)
    experts = Routed(*experts_of(fields, "num_experts"), fields.whole("moe_intermediate_size"))
    return _uniform(fields, site, shape, experts, windows_of(fields))


def mixtral(fields: Fields, site: Place) -> Stack:
    """Mixtral of experts (arXiv:2401.04088, table 1)."""
    heads, kv_heads, dim = heads_of(fields)
    window = fields.whole("sliding_window") if fields.has("sliding_window") else None
    experts = Routed(
        *experts_of(fields, "num_local_experts"),
        fields.whole("intermediate_size"),
        names=W123,
        path="block_sparse_moe",
    )
    return _uniform(fields, site, Grouped(heads, kv_heads, dim, dim), experts, [window] * fields.layers())


def minimax_m2(fields: Fields, site: Place) -> Stack:
    """MiniMax-M2: norms over all of q and all of k (transformers minimax_m2)."""
    fields.must("use_qk_norm", True)
    fields.must("use_routing_bias", True)
    fields.must("qk_norm_type", "per_layer")
    fields.must("shared_intermediate_size", 0)
    if fields.has("attn_type_list"):
        fields.per_layer("attn_type_list", fields.layers(), (1,))
    heads, kv_heads, dim = heads_of(fields)
    shape = Grouped(heads, kv_heads, dim, dim, norms=(heads + kv_heads) * dim)
    experts = Routed(
        *experts_of(fields, "num_local_experts"),
        fields.whole("intermediate_size"),
        correction=True,
        names=W123,
        path="block_sparse_moe",
    )
    fields.ignore("use_mtp", "mtp_transformer_layers")
    note = (NO_DRAFT,) if fields.has("num_mtp_modules") else ()
    return replace(_uniform(fields, site, shape, experts, [None] * fields.layers()), notes=note)


def glm4_moe(fields: Fields, site: Place) -> Stack:
    """GLM-4.5 and 4.6: grouped-query attention with experts like DeepSeek's (arXiv:2508.06471, table 1)."""
    heads, kv_heads, dim = heads_of(fields)
    hidden, inner = fields.whole("hidden_size"), fields.whole("intermediate_size")
    dense = fields.whole("first_k_dense_replace", least=0)
    norms = 2 * dim if fields.flag("use_qk_norm") else 0
    shape = Grouped(heads, kv_heads, dim, dim, bias=fields.flag("attention_bias"), norms=norms)
    experts = routed_of(fields)

    def halves(at: Place, index: int) -> tuple[Half, Half]:
        ffn = mlp(at, hidden, inner) if index < dense else routed(at, hidden, experts)
        return grouped(at, hidden, shape), ffn

    stack = Stack(hidden, heads, kv_heads, layers(site, fields.layers(), halves, hidden), outside=hidden)
    return with_drafts(stack, site, halves, fields.drafts())


def minimax_m3(fields: Fields, site: Place) -> Stack:
    """MiniMax-M3: attention over key blocks that an index branch chooses (transformers minimax_m3_vl)."""
    fields.must("use_qk_norm", True)
    fields.must("use_routing_bias", True)
    fields.must("qk_norm_type", "per_head")
    fields.must("attention_output_gate", False)
    fields.ignore("use_gemma_norm", "moe_intermediate_size", "first_k_dense_replace")
    fields.ignore("num_mtp_modules", "num_nextn_predict_layers")
    heads, kv_heads, dim = heads_of(fields)
    hidden, count = fields.whole("hidden_size"), fields.layers()
    shape = Grouped(heads, kv_heads, dim, dim, norms=2 * dim)
    index, chooses = _index(fields, count)
    experts = Routed(
        *experts_of(fields, "num_local_experts"),
        fields.whole("intermediate_size"),
        fields.whole("shared_intermediate_size") * fields.whole("n_shared_experts"),
        correction=True,
        path="block_sparse_moe",
    )
    has_experts = fields.per_layer("moe_layer_freq", count, (0, 1))
    inner = fields.whole("dense_intermediate_size")

    def halves(at: Place, number: int) -> tuple[Half, Half]:
        attention = grouped(at, hidden, shape)
        if chooses[number]:
            attention = block_sparse(at, hidden, index, attention)
        return attention, routed(at, hidden, experts) if has_experts[number] else mlp(at, hidden, inner)

    return Stack(hidden, heads, kv_heads, layers(site, count, halves, hidden), outside=hidden, notes=(NO_DRAFT,))


def _index(fields: Fields, count: int) -> tuple[Index, list[int]]:
    """The shape of the index branch, which reads `sparse_topk_blocks` whole blocks; and 1 for each layer with it."""
    sparse = fields.table("sparse_attention_config")
    sparse.must("use_sparse_attention", True)
    sparse.ignore("sparse_score_type", "sparse_disable_index_value")
    sparse.ignore("sparse_init_block", "sparse_local_block")  # these blocks are part of the chosen blocks
    reads = sparse.whole("sparse_topk_blocks") * sparse.whole("sparse_block_size")
    index = Index(sparse.whole("sparse_num_index_heads"), sparse.whole("sparse_index_dim"), reads)
    chooses: list[int] = sparse.per_layer("sparse_attention_freq", count, (0, 1))
    sparse.done()
    return index, chooses
