"""Attention that reads a KV cache, as matrices and scans: grouped-query, latent (MLA), sparse by index (DSA)."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.specs.hf.parts import Half, Site
from tokenworks.specs.model import Scan

INDEX_SCALE_BYTES = 4  # one FP32 scale for the FP8 key of a token (DeepSeek-V3.2-Exp, inference/model.py)


@dataclass(frozen=True)
class Grouped:
    """Shape of MHA, GQA or MQA. `window`: tokens kept and read, None = all; `gate`: q_proj also makes an output gate;
    `key_is_value`: no v_proj, the key's projection serves as value; `norms`: elements of q and k norms and of sinks.
    """

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None
    bias: bool = False
    out_bias: bool = False
    gate: bool = False
    key_is_value: bool = False
    norms: int = 0
    path: str = "self_attn"
    local: str = "sliding"


def grouped(site: Site, hidden: int, shape: Grouped) -> Half:
    """Grouped-query attention (Ainslie et al., arXiv:2305.13245).

    A cached entry holds a key and a value of every KV head; a query does 2 FLOP per multiply-add with both:
    2 x heads x (key_dim + value_dim) per entry, in prefill and decode alike.
    """
    made = site.at(shape.path)
    key, value = shape.kv_heads * shape.key_dim, shape.kv_heads * shape.value_dim
    out = shape.heads * shape.value_dim
    query = shape.heads * shape.key_dim + (out if shape.gate else 0)
    matrices = [
        made.matrix("q_proj", hidden, query, "attention", "out", bias=shape.bias),
        made.matrix("k_proj", hidden, key, "attention", "kv", bias=shape.bias),
    ]
    if not shape.key_is_value:
        matrices.append(made.matrix("v_proj", hidden, value, "attention", "kv", bias=shape.bias))
    matrices.append(made.matrix("o_proj", out, hidden, "attention", "in", bias=shape.out_bias))
    flop = 2.0 * shape.heads * (shape.key_dim + shape.value_dim)
    label = _label(shape.heads, shape.kv_heads)
    name = label if shape.window is None else f"{shape.local} {label}"
    scan = Scan(name, 1, shape.window, shape.window, key + value, shape.kv_heads, shape.heads, flop, flop)
    return Half(tuple(matrices), (scan,), vectors=shape.norms)


def _label(heads: int, kv_heads: int) -> str:
    return "MHA" if heads == kv_heads else "MQA" if kv_heads == 1 else "GQA"


@dataclass(frozen=True)
class Latent:
    """Shape of MLA; `query_rank` 0 = queries straight from the hidden state; `gate`: an output gate of full rank."""

    heads: int
    query_rank: int
    kv_rank: int
    nope: int
    rope: int
    value: int
    gate: bool = False


@dataclass(frozen=True)
class Index:
    """Shape of a lightning indexer: it scores every token and the attention reads the best `topk`."""

    heads: int
    dim: int
    topk: int


def latent(site: Site, hidden: int, shape: Latent, index: Index | None = None, *, topk: int | None = None) -> Half:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1), sparse with `index` (DSA).

    The cache of a token is one latent for all heads, `kv_rank + rope`, and every tp rank holds it whole. Decode absorbs
    kv_b into the query: 2 x heads x ((kv_rank + rope) + kv_rank) FLOP per entry; prefill expands the latent first:
    2 x heads x ((nope + rope) + value). `topk` without `index`: the layer reads what an earlier layer's indexer chose.
    """
    made = site.at("self_attn")
    query = shape.heads * (shape.nope + shape.rope)
    out = shape.heads * shape.value
    matrices = []
    if shape.query_rank:
        matrices.append(made.matrix("q_a_proj", hidden, shape.query_rank, "attention", "none"))
        matrices.append(made.matrix("q_b_proj", shape.query_rank, query, "attention", "out"))
    else:
        matrices.append(made.matrix("q_proj", hidden, query, "attention", "out"))
    expanded = shape.heads * (shape.nope + shape.value)
    matrices += [
        made.matrix("kv_a_proj_with_mqa", hidden, shape.kv_rank + shape.rope, "attention", "none"),
        made.matrix("kv_b_proj", shape.kv_rank, expanded, "attention", "out"),
        made.matrix("o_proj", out, hidden, "attention", "in"),
    ]
    if shape.gate:
        matrices.append(made.matrix("g_proj", hidden, out, "attention", "out"))
    reads = index.topk if index else topk
    scan = Scan(
        "MLA" if reads is None else "MLA top-k",
        stride=1,
        reads=reads,
        keeps=None,
        elements=shape.kv_rank + shape.rope,
        heads=1,
        query_heads=shape.heads,
        decode_flop=2.0 * shape.heads * (2 * shape.kv_rank + shape.rope),
        prefill_flop=2.0 * shape.heads * (shape.nope + shape.rope + shape.value),
    )
    half = Half(tuple(matrices), (scan,), vectors=shape.query_rank + shape.kv_rank)
    return half if index is None else _with_indexer(made, hidden, shape, index, half)


def _with_indexer(made: Site, hidden: int, shape: Latent, index: Index, half: Half) -> Half:
    """The lightning indexer (DeepSeek-V3.2-Exp report, section 2.1): `index.heads` queries from the query latent, one
    FP8 key a token with an FP32 scale, 2 x heads x dim FLOP per entry; weights_proj stays unquantised.
    """
    site = made.at("indexer")
    matrices = (
        site.matrix("wq_b", shape.query_rank, index.heads * index.dim, "attention", "none"),
        site.matrix("wk", hidden, index.dim, "attention", "none"),
        site.matrix("weights_proj", hidden, index.heads, "attention", "none", fixed=True),
    )
    flop = 2.0 * index.heads * index.dim
    scan = Scan(
        "indexer",
        stride=1,
        reads=None,
        keeps=None,
        elements=index.dim,
        heads=1,
        query_heads=1,  # the indexer is whole on every rank
        decode_flop=flop,
        prefill_flop=flop,
        bytes=(index.dim + INDEX_SCALE_BYTES) / index.dim,
    )
    # wk carries a LayerNorm with weight and bias.
    return Half(half.matrices + matrices, (*half.scans, scan), vectors=half.vectors + 2 * index.dim)
