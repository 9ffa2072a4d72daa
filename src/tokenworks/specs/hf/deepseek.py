"""DeepSeek and similar models: latent attention with routed experts (V2, V3, R1, V3.2, Kimi-K2, GLM-5); DeepSeek-V4."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenworks.specs.hf.attention import Index, latent, lightning, sparse
from tokenworks.specs.hf.compressed import OVERLAPPING, Compressed, compressed
from tokenworks.specs.hf.config import Fields
from tokenworks.specs.hf.ffn import W123, mlp, routed
from tokenworks.specs.hf.formats import FP32, MXFP4, Formats
from tokenworks.specs.hf.parts import Half, Place, Stack, layer, layers, mtp, with_drafts
from tokenworks.specs.hf.shapes import index_of, latent_of, routed_of
from tokenworks.specs.model import Block, Matrix, Part


@dataclass(frozen=True)
class Chosen:
    """Sparse attention of a stack.

    Parameters
    ----------
    index : shape of the indexer
    own : for each layer, True if it has its own indexer; False if it reads the entries that an earlier layer chose
    """

    index: Index
    own: tuple[bool, ...]


def deepseek_v3(fields: Fields, site: Place) -> Stack:
    """DeepSeek-V2 (arXiv:2405.04434), V3 and R1 (arXiv:2412.19437, section 4.2), Kimi-K2 (arXiv:2507.20534)."""
    return _stack(fields, site, None)


def deepseek_v32(fields: Fields, site: Place) -> Stack:
    """DeepSeek-V3.2: V3 with a lightning indexer in every layer (DeepSeek-V3.2-Exp report, section 2.1)."""
    return _stack(fields, site, Chosen(index_of(fields), ()))


def glm_moe_dsa(fields: Fields, site: Place) -> Stack:
    """GLM-5: like V3.2. In 5.2 and later, most layers use the choice of the last full indexer (`indexer_types`)."""
    fields.ignore(
        "indexer_rope_interleave", "index_share_for_mtp_iteration", "index_skip_topk_offset", "index_topk_freq",
        "index_topk_pattern", "moe_router_dtype", "num_experts",
    )  # fmt: skip
    fields.must("mlp_bias", False)
    count = fields.layers()
    kinds = fields.per_layer("indexer_types", count, ("full", "shared")) if fields.has("indexer_types") else []
    if kinds and kinds[0] != "full":
        raise fields.error(
            "indexer_types[0]", "the first layer has no indexer before it to share", hint="known: 'full'"
        )
    if fields.has("layer_types"):
        fields.per_layer("layer_types", count, ("deepseek_sparse_attention",))
    if fields.has("mlp_layer_types"):
        dense = fields.whole("first_k_dense_replace", least=0)
        expected = ["dense"] * dense + ["sparse"] * (count - dense)
        if fields.per_layer("mlp_layer_types", count, ("dense", "sparse")) != expected:
            raise fields.error("mlp_layer_types", f"does not agree with first_k_dense_replace={dense}")
    return _stack(fields, site, Chosen(index_of(fields), tuple(kind == "full" for kind in kinds)))


def _stack(fields: Fields, site: Place, chosen: Chosen | None) -> Stack:
    """A stack with latent attention, dense first layers and routed experts in all others."""
    fields.must("attention_bias", False)
    fields.must("moe_layer_freq", 1)
    hidden, count = fields.whole("hidden_size"), fields.layers()
    dense = fields.whole("first_k_dense_replace", least=0)
    inner = fields.whole("intermediate_size")
    shape, experts = latent_of(fields), routed_of(fields)
    if chosen and not shape.query_rank:
        raise fields.error("q_lora_rank", "the field is missing", hint="the queries of the indexer need this latent")

    def attention(at: Place, number: int) -> Half:
        half = latent(at, hidden, shape)
        if chosen is None:
            return half
        if number < len(chosen.own) and not chosen.own[number]:
            return sparse(half, chosen.index.reads)
        return lightning(at, hidden, shape.query_rank, chosen.index, half)

    def halves(at: Place, number: int) -> tuple[Half, Half]:
        ffn = mlp(at, hidden, inner) if number < dense else routed(at, hidden, experts)
        return attention(at, number), ffn

    stack = Stack(hidden, shape.heads, 1, layers(site, count, halves, hidden), outside=hidden)
    return with_drafts(stack, site, halves, fields.drafts())


def deepseek_v4(fields: Fields, site: Place) -> Stack:
    """DeepSeek-V4: compressed attention, hyper-connections, experts in every layer (DeepSeek-V4 report, section 2;
    transformers deepseek_v4).
    """
    fields.must("attention_bias", False)
    fields.must("num_key_value_heads", 1)
    # The first layers choose their experts by a table of token ids, which is no parameter and takes no time.
    fields.ignore("num_hash_layers", "hc_eps", "hc_sinkhorn_iters", "compress_rope_theta")
    hidden, count = fields.whole("hidden_size"), fields.layers()
    drafts = fields.drafts()
    heads = fields.whole("num_attention_heads")
    shape = Compressed(
        heads,
        fields.whole("head_dim"),
        fields.whole("qk_rope_head_dim"),
        fields.whole("q_lora_rank"),
        fields.whole("o_groups"),
        fields.whole("o_lora_rank"),
        fields.whole("sliding_window"),
        index_of(fields),
    )
    if heads % shape.groups:
        raise fields.error("o_groups", f"{shape.groups} does not divide {heads} heads")
    ratios = fields.per_layer("compress_ratios", count + drafts, (0, OVERLAPPING, 128))
    streams = fields.whole("hc_mult")
    experts = replace(routed_of(fields), names=W123, path="ffn")

    def halves(at: Place, number: int) -> tuple[Half, Half]:
        return compressed(at, hidden, shape, ratios[number]), routed(at, hidden, experts)

    def block(at: Place, number: int) -> Block:
        return replace(layer(halves(at, number), hidden, extra=_hyper(hidden, streams)), streams=streams)

    main, base = _v4_formats(fields, site.formats)
    stack = [block(replace(site, formats=main).at(f"layers.{number}"), number) for number in range(count)]
    draft = []
    for number in range(drafts):
        at = replace(site, formats=base).at(f"mtp.{number}")
        mixed = mtp(at, hidden, halves(at, count + number))
        draft.append(replace(mixed, matrices=mixed.matrices + _hyper(hidden, streams), streams=streams))
    outside = hidden + streams * (streams * hidden + 1) + 1  # the final norm, and the hyper-connection of the head
    note = f"the KV cache is always FP8 with a BF16 rotary part, {shape.entry_bytes:.4g} bytes an element"
    return Stack(hidden, heads, 1, stack, draft, outside, kv="fp8", notes=(note,))


def _hyper(hidden: int, streams: int) -> tuple[Matrix, ...]:
    """Manifold-constrained hyper-connections, in FP32: matrices before attention and before the FFN.

    They map all residual streams to the weights that mix these streams (DeepSeek-V4 report, section 2.2).
    """
    outputs = (2 + streams) * streams
    parts: tuple[tuple[Part, str], ...] = ("attention", "hc_attn_fn"), ("router", "hc_ffn_fn")
    return tuple(Matrix(name, streams * hidden, outputs, part, "none", FP32) for part, name in parts)


def _v4_formats(fields: Fields, formats: Formats) -> tuple[Formats, Formats]:
    """Formats of the layers, and formats of the draft layer. With `expert_dtype` fp4, routed experts are MXFP4.

    Checkpoints with NVFP4 experts come from a quantiser. It left the draft layer and the excluded modules in the format
    of DeepSeek's own checkpoint.
    """
    native = fields.has("expert_dtype") and fields.word("expert_dtype", ("fp4", "fp8")) == "fp4"
    if formats.experts.name == "nvfp4":
        linear = formats.kept_as
        return formats, Formats(formats.plain, linear, MXFP4 if native else linear)
    base = replace(formats, experts=MXFP4) if native else formats
    return base, base
