"""Attention with a KV cache, as matrices and scans: grouped-query, latent (MLA), sparse by an index (DSA, MSA)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenworks.specs.hf.parts import Half, Place
from tokenworks.specs.model import Matrix, Scan

INDEX_SCALE_BYTES = 4  # one FP32 scale for the FP8 index key of a token (DeepSeek-V3.2-Exp, inference/model.py)


@dataclass(frozen=True)
class Grouped:
    """Shape of MHA, GQA or MQA.

    Parameters
    ----------
    heads, kv_heads : query heads and KV heads [count]
    key_dim, value_dim : size of a key and of a value per head [count]
    window : tokens that are kept and read; None = all [token]
    bias, kv_bias, out_bias : True if the projection of q, of k and v, or of the output has a bias
    gate : output gate, empty = none: from a wider q_proj ("query"), or from g_proj with one value per head ("head") or
        per element ("full")
    key_is_value : True if there is no v_proj and the key is also the value; the cache still has both
    norms : elements of q and k norms, and of sinks [count]
    local : name of a windowed layer
    path : module path of the attention
    borrowed : True if the layer has no keys and values of its own, and reads the cache of an earlier layer
    kv_weights : True if the layer has k_proj and v_proj
    cached : False if keys and values do not grow with the text, as in cross attention to an image
    input : width of the input; 0 = the hidden size [count]
    output : width of the output; 0 = the hidden size [count]
    index_heads, index_dim : queries and size of an index branch that chooses whole blocks; 0 = there is none [count]
    topk : cache entries that the index branch chooses [count]
    index_norms : elements of the norms of the index branch [count]
    weights : False if the layer uses the weights of an earlier layer again, with a cache of its own
    times : caches that the layer has, one for each pass of a loop over the layers [count]
    """

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None
    bias: bool = False
    kv_bias: bool = False
    out_bias: bool = False
    gate: str = ""
    key_is_value: bool = False
    norms: int = 0
    local: str = "sliding"
    path: str = "self_attn"
    borrowed: bool = False
    kv_weights: bool = True
    cached: bool = True
    input: int = 0
    output: int = 0
    index_heads: int = 0
    index_dim: int = 0
    topk: int = 0
    index_norms: int = 0
    weights: bool = True
    times: int = 1


def grouped(site: Place, hidden: int, shape: Grouped) -> Half:
    """Grouped-query attention (Ainslie et al., arXiv:2305.13245).

    A cache entry has a key and a value for every KV head. A query multiplies with both, with 2 FLOP per multiply-add:
    2 x heads x (key_dim + value_dim) per entry, in prefill and in decode.
    """
    at = site.at(shape.path)
    width = shape.input or hidden
    key, value = shape.kv_heads * shape.key_dim, shape.kv_heads * shape.value_dim
    out = shape.heads * shape.value_dim
    query = shape.heads * shape.key_dim + (out if shape.gate == "query" else 0)
    matrices = [at.matrix("q_proj", width, query, "attention", "out", bias=shape.bias)]
    if shape.kv_weights:
        matrices.append(at.matrix("k_proj", width, key, "attention", "kv", bias=shape.kv_bias))
    if shape.kv_weights and not shape.key_is_value:
        matrices.append(at.matrix("v_proj", width, value, "attention", "kv", bias=shape.kv_bias))
    if shape.gate in ("head", "full"):
        size = shape.heads if shape.gate == "head" else out
        matrices.append(at.matrix("g_proj", hidden, size, "attention", "out"))
    matrices.append(at.matrix("o_proj", out, shape.output or hidden, "attention", "in", bias=shape.out_bias))
    flop = 2.0 * shape.heads * (shape.key_dim + shape.value_dim)
    label = "MHA" if shape.heads == shape.kv_heads else "MQA" if shape.kv_heads == 1 else "GQA"
    name = label if shape.window is None else f"{shape.local} {label}"
    stored = 0 if shape.borrowed else key + value
    scan = Scan(name, 1, shape.window, shape.window, stored, shape.kv_heads, shape.heads, flop, flop)
    if not shape.weights:
        return Half((), (scan,))
    half = Half(tuple(matrices), (scan,) * (shape.times * shape.cached), vectors=shape.norms)
    if not shape.topk:
        return half
    return block_sparse(at, hidden, Index(shape.index_heads, shape.index_dim, shape.topk), shape.index_norms, half)


@dataclass(frozen=True)
class Cache:
    """A KV cache alone; the weights of its attention are in the table as `extra`.

    Parameters
    ----------
    name : kind of attention
    heads, query_heads : KV heads that tp can divide, and query heads [count]
    elements : elements of a cache entry [count]
    dim : size of a key and of a value per head [count]
    """

    name: str
    heads: int
    query_heads: int
    elements: int
    dim: int


def cache(_site: Place, _hidden: int, shape: Cache) -> Half:
    """The reads of a KV cache: 2 x query_heads x 2 dim FLOP per entry."""
    flop = 4.0 * shape.query_heads * shape.dim
    return Half((), (Scan(shape.name, 1, None, None, shape.elements, shape.heads, shape.query_heads, flop, flop),))


@dataclass(frozen=True)
class Latent:
    """Shape of MLA, with a lightning indexer if `topk` is not 0.

    Parameters
    ----------
    heads : query heads [count]
    kv_rank : width of the KV latent [count]
    nope, rope : parts of a head's key without and with rotary embedding [count]
    value : size of a head's value [count]
    query_rank : width of the query latent; 0 = queries come directly from the hidden state [count]
    gate : output gate, empty = none: from a wider q_b_proj ("query"), or from g_proj with one value per head ("head")
        or per element ("full")
    query_input : width of the input of q_b_proj; 0 = `query_rank` [count]
    bias : True if the projections of the latents and of the output have a bias
    norms : elements of the norms [count]
    path : module path of the attention
    index_heads, index_dim : queries of the indexer and their size [count]
    topk : cache entries that attention reads; 0 = all [count]
    own_index : False if the layer reads the entries that the indexer of an earlier layer chose
    index_input : width of the input of the index queries; 0 = `query_rank` [count]
    window : tokens that are kept and read; None = all [token]
    """

    heads: int
    kv_rank: int
    nope: int
    value: int
    query_rank: int = 0
    rope: int = 0
    gate: str = ""
    query_input: int = 0
    bias: bool = False
    norms: int = 0
    path: str = "self_attn"
    index_heads: int = 0
    index_dim: int = 0
    topk: int = 0
    own_index: bool = True
    index_input: int = 0
    window: int | None = None


def latent(site: Place, hidden: int, shape: Latent) -> Half:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    The cache entry of a token is one latent for all heads, with `kv_rank + rope` elements. Every tp rank has the whole
    latent. Decode absorbs kv_b into the query, with 2 x heads x ((kv_rank + rope) + kv_rank) FLOP per entry. Prefill
    expands the latent first, with 2 x heads x ((nope + rope) + value) FLOP per entry.
    """
    at = site.at(shape.path)
    query, out = shape.heads * (shape.nope + shape.rope), shape.heads * shape.value
    bias = shape.bias
    matrices: list[Matrix] = []
    if shape.query_rank:
        matrices.append(at.matrix("q_a_proj", hidden, shape.query_rank, "attention", "none", bias=bias))
        wide = query + (out if shape.gate == "query" else 0)
        matrices.append(at.matrix("q_b_proj", shape.query_input or shape.query_rank, wide, "attention", "out"))
    else:
        matrices.append(at.matrix("q_proj", hidden, query, "attention", "out"))
    expanded = shape.heads * (shape.nope + shape.value)
    matrices += [
        at.matrix("kv_a_proj_with_mqa", hidden, shape.kv_rank + shape.rope, "attention", "none", bias=bias),
        at.matrix("kv_b_proj", shape.kv_rank, expanded, "attention", "out"),
        at.matrix("o_proj", out, hidden, "attention", "in", bias=bias),
    ]
    if shape.gate in ("head", "full"):
        size = shape.heads if shape.gate == "head" else out
        matrices.append(at.matrix("g_proj", hidden, size, "attention", "out"))
    scan = Scan(
        "MLA" if shape.window is None else "sliding MLA",
        stride=1,
        reads=shape.window,
        keeps=shape.window,
        elements=shape.kv_rank + shape.rope,
        heads=1,
        query_heads=shape.heads,
        decode_flop=2.0 * shape.heads * (2 * shape.kv_rank + shape.rope),
        prefill_flop=2.0 * shape.heads * (shape.nope + shape.rope + shape.value),
    )
    half = Half(tuple(matrices), (scan,), vectors=shape.norms)
    if not shape.topk:
        return half
    if not shape.own_index:
        return sparse(half, shape.topk)
    source = shape.index_input or shape.query_rank
    return lightning(at, hidden, source, Index(shape.index_heads, shape.index_dim, shape.topk), half)


@dataclass(frozen=True)
class Index:
    """Shape of an indexer: `heads` queries of size `dim` score every token; attention reads the `reads` best tokens."""

    heads: int
    dim: int
    reads: int


def index_scan(index: Index, *, stride: int = 1, split: bool = False, element_bytes: float | None = None) -> Scan:
    """The pass of an indexer over all its keys, with 2 x heads x dim FLOP per key.

    Parameters
    ----------
    index : shape of the indexer
    stride : tokens per key [token]
    split : True if tp divides the heads of the indexer
    element_bytes : size of an element of a key; None = FP8 with one FP32 scale per key [byte/element]
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
    """The same attention, but a query reads only `reads` chosen entries.

    For latent attention, prefill runs absorbed like decode (DeepSeek-V3.2-Exp report, section 2.1).
    """
    scan = half.scans[0]
    flop = scan.decode_flop
    return replace(half, scans=(replace(scan, name=f"{scan.name} top-k", reads=reads, prefill_flop=flop),))


def lightning(site: Place, hidden: int, source: int, index: Index, half: Half) -> Half:
    """The attention `half` as sparse attention, with a lightning indexer (DeepSeek-V3.2-Exp report, section 2.1).

    The queries of the indexer come from the query latent, of width `source`. Every rank has the whole indexer.
    weights_proj is not quantised.
    """
    at = site.at("indexer")
    matrices = (
        at.matrix("wq_b", source, index.heads * index.dim, "attention", "none", name="index_wq_b"),
        at.matrix("wk", hidden, index.dim, "attention", "none", name="index_wk"),
        at.matrix("weights_proj", hidden, index.heads, "attention", "none", name="index_weights", fixed=True),
    )
    chosen = sparse(half, index.reads)
    return replace(
        chosen,
        matrices=half.matrices + matrices,
        scans=(*chosen.scans, index_scan(index)),
        vectors=half.vectors + 2 * index.dim,  # the LayerNorm of wk has weight and bias
    )


def block_sparse(at: Place, hidden: int, index: Index, norms: int, half: Half) -> Half:
    """The attention `half` as sparse attention, with an index branch that scores keys and chooses whole blocks.

    Each token has one index key for all heads, stored in 16 bits (MiniMax-M3; transformers minimax_m3_vl).
    """
    matrices = (
        at.matrix("index_q_proj", hidden, index.heads * index.dim, "attention", "kv"),
        at.matrix("index_k_proj", hidden, index.dim, "attention", "none"),
    )
    chosen = sparse(half, index.reads)
    return replace(
        chosen,
        matrices=half.matrices + matrices,
        scans=(*chosen.scans, index_scan(index, split=True, element_bytes=2.0)),
        vectors=half.vectors + norms,
    )
