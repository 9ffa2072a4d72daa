"""Attention that reads a KV cache, as matrices and scans: grouped-query, latent (MLA), sparse by index (DSA, MSA)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tokenworks.specs.hf.parts import Half, Place
from tokenworks.specs.model import Matrix, Scan

Gate = Literal["", "query", "head"]
INDEX_SCALE_BYTES = 4  # one FP32 scale for the FP8 index key of a token (DeepSeek-V3.2-Exp, inference/model.py)


@dataclass(frozen=True)
class Grouped:
    """Shape of MHA, GQA or MQA.

    window : tokens kept and read, None = all; local : what a windowed layer is called
    gate : an output gate, made by a wider q_proj ("query") or by g_proj, one value a head ("head")
    key_is_value : no v_proj, the key's projection serves as value (the cache still holds both)
    norms : elements of q and k norms, and of sinks
    """

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None
    bias: bool = False
    out_bias: bool = False
    gate: Gate = ""
    key_is_value: bool = False
    norms: int = 0
    local: str = "sliding"
    path: str = "self_attn"


def grouped(site: Place, hidden: int, shape: Grouped) -> Half:
    """Grouped-query attention (Ainslie et al., arXiv:2305.13245).

    A cached entry holds a key and a value of every KV head; a query does 2 FLOP per multiply-add with both:
    2 x heads x (key_dim + value_dim) per entry, in prefill and decode alike.
    """
    made = site.at(shape.path)
    key, value = shape.kv_heads * shape.key_dim, shape.kv_heads * shape.value_dim
    out = shape.heads * shape.value_dim
    query = shape.heads * shape.key_dim + (out if shape.gate == "query" else 0)
    matrices = [
        made.matrix("q_proj", hidden, query, "attention", "out", bias=shape.bias),
        made.matrix("k_proj", hidden, key, "attention", "kv", bias=shape.bias),
    ]
    if not shape.key_is_value:
        matrices.append(made.matrix("v_proj", hidden, value, "attention", "kv", bias=shape.bias))
    if shape.gate == "head":
        matrices.append(made.matrix("g_proj", hidden, shape.heads, "attention", "out"))
    matrices.append(made.matrix("o_proj", out, hidden, "attention", "in", bias=shape.out_bias))
    flop = 2.0 * shape.heads * (shape.key_dim + shape.value_dim)
    label = "MHA" if shape.heads == shape.kv_heads else "MQA" if shape.kv_heads == 1 else "GQA"
    name = label if shape.window is None else f"{shape.local} {label}"
    scan = Scan(name, 1, shape.window, shape.window, key + value, shape.kv_heads, shape.heads, flop, flop)
    return Half(tuple(matrices), (scan,), vectors=shape.norms)


@dataclass(frozen=True)
class Latent:
    """Shape of MLA; `query_rank` 0 = queries straight from the hidden state; `gate`: an output gate, g_proj."""

    heads: int
    query_rank: int
    kv_rank: int
    nope: int
    rope: int
    value: int
    gate: bool = False


def latent(site: Place, hidden: int, shape: Latent) -> Half:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    The cache of a token is one latent for all heads, `kv_rank + rope`, and every tp rank holds it whole. Decode absorbs
    kv_b into the query: 2 x heads x ((kv_rank + rope) + kv_rank) FLOP per entry; prefill expands the latent first:
    2 x heads x ((nope + rope) + value).
    """
    made = site.at("self_attn")
    query, out = shape.heads * (shape.nope + shape.rope), shape.heads * shape.value
    matrices: list[Matrix] = []
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
    scan = Scan(
        "MLA",
        stride=1,
        reads=None,
        keeps=None,
        elements=shape.kv_rank + shape.rope,
        heads=1,
        query_heads=shape.heads,
        decode_flop=2.0 * shape.heads * (2 * shape.kv_rank + shape.rope),
        prefill_flop=2.0 * shape.heads * (shape.nope + shape.rope + shape.value),
    )
    return Half(tuple(matrices), (scan,), vectors=shape.query_rank + shape.kv_rank)


@dataclass(frozen=True)
class Index:
    """Shape of an indexer: `heads` queries of `dim` score every token; the attention reads the best `reads`."""

    heads: int
    dim: int
    reads: int


def index_scan(index: Index, *, stride: int = 1, split: bool = False, element_bytes: float | None = None) -> Scan:
    """An indexer's pass over all its keys: one key of `dim` an entry, 2 x heads x dim FLOP.

    Keys are FP8 with an FP32 scale a token, unless `element_bytes` says otherwise; `split`: tp divides its heads.
    """
    flop = 2.0 * index.heads * index.dim
    return Scan(
        "indexer",
        stride=stride,
        reads=None,
        keeps=None,
        elements=index.dim,
        heads=1,
        query_heads=index.heads if split else 1,
        decode_flop=flop,
        prefill_flop=flop,
        bytes=element_bytes or (index.dim + INDEX_SCALE_BYTES) / index.dim,
    )


def sparse(half: Half, reads: int) -> Half:
    """The same attention reading `reads` chosen entries; where it was latent, prefill too runs absorbed, as MQA does
    (DeepSeek-V3.2-Exp report, section 2.1).
    """
    scan = half.scans[0]
    flop = scan.decode_flop
    return replace(half, scans=(replace(scan, name=f"{scan.name} top-k", reads=reads, prefill_flop=flop),))


def lightning(site: Place, hidden: int, query_rank: int, index: Index, half: Half) -> Half:
    """`half` made sparse by its own lightning indexer (DeepSeek-V3.2-Exp report, section 2.1).

    Queries come from the query latent; every rank holds the indexer whole; weights_proj stays unquantised.
    """
    made = site.at("self_attn.indexer")
    matrices = (
        made.matrix("wq_b", query_rank, index.heads * index.dim, "attention", "none", name="index_wq_b"),
        made.matrix("wk", hidden, index.dim, "attention", "none", name="index_wk"),
        made.matrix("weights_proj", hidden, index.heads, "attention", "none", name="index_weights", fixed=True),
    )
    chosen = sparse(half, index.reads)
    return replace(
        chosen,
        matrices=half.matrices + matrices,
        scans=(*chosen.scans, index_scan(index)),
        vectors=half.vectors + 2 * index.dim,  # the LayerNorm of wk has weight and bias
    )


def block_sparse(site: Place, hidden: int, index: Index, half: Half) -> Half:
    """`half` made sparse by an index branch that scores keys and picks whole blocks (MiniMax-M3; transformers
    minimax_m3_vl). One shared index key a token, kept in 16 bits.
    """
    made = site.at("self_attn")
    matrices = (
        made.matrix("index_q_proj", hidden, index.heads * index.dim, "attention", "kv"),
        made.matrix("index_k_proj", hidden, index.dim, "attention", "none"),
    )
    chosen = sparse(half, index.reads)
    return replace(
        chosen,
        matrices=half.matrices + matrices,
        scans=(*chosen.scans, index_scan(index, split=True, element_bytes=2.0)),
        vectors=half.vectors + 2 * index.dim,
    )
