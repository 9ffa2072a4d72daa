"""Attention of DeepSeek-V4: one key-value per token for all heads, a window, and entries that hold 4 or 128 tokens."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.specs.hf.attention import Index, index_scan
from tokenworks.specs.hf.parts import Half, Place
from tokenworks.specs.model import Matrix, Scan

OVERLAPPING = 4  # compression ratio with overlapping windows; an indexer chooses among its entries
ENTRY_SCALE_BYTES = 8  # seven E8M0 scales, each for 64 FP8 elements, and one byte of padding


@dataclass(frozen=True)
class Compressed:
    """Shape of the attention in all layers.

    Parameters
    ----------
    heads, dim : query heads, and size of a key-value entry [count]
    rope : elements with rotary embedding [count]
    query_rank : width of the query latent [count]
    groups, out_rank : low-rank maps of the output, and their width [count]
    window : tokens of the window [token]
    index_heads, index_dim : queries of the indexer and their size [count]
    topk : entries that a query reads in layers with ratio 4 [count]
    ratio : tokens per compressed entry; 0 = only the window [token]
    path : module path of the attention
    """

    heads: int
    dim: int
    rope: int
    query_rank: int
    groups: int
    out_rank: int
    window: int
    index_heads: int
    index_dim: int
    topk: int
    ratio: int = 0
    path: str = "attn"

    @property
    def entry_bytes(self) -> float:
        """Size of an element of a cache entry: FP8, with the rotary part in BF16 [byte/element].

        Source: DeepSeek-V4 report, section 2.3.
        """
        return (self.dim + self.rope + ENTRY_SCALE_BYTES) / self.dim


def compressed(site: Place, hidden: int, shape: Compressed) -> Half:
    """Attention of one layer: a window of raw entries and, unless the ratio is 0, compressed entries.

    An entry is key and value at the same time, for all heads. So a query does 2 x heads x 2 dim FLOP per entry. With
    ratio 4 (compressed sparse attention) a query reads the top-k entries of the indexer. With ratio 128 (heavily
    compressed attention) it reads all entries. The output goes through `groups` low-rank maps, each for some heads
    (DeepSeek-V4 report, sections 2.3.1 to 2.3.3; transformers deepseek_v4).
    """
    at, ratio = site.at(shape.path), shape.ratio
    wide = shape.heads * shape.dim
    matrices = [
        at.matrix("wq_a", hidden, shape.query_rank, "attention", "none"),
        at.matrix("wq_b", shape.query_rank, wide, "attention", "out"),
        at.matrix("wkv", hidden, shape.dim, "attention", "none"),
        at.matrix("wo_a", wide // shape.groups, shape.groups * shape.out_rank, "attention", "out"),
        at.matrix("wo_b", shape.groups * shape.out_rank, hidden, "attention", "in"),
    ]
    scans = [_scan(shape, "window", 1, shape.window, shape.window)]
    vectors = shape.query_rank + shape.dim + shape.heads  # two norms, and one sink per head
    if ratio:
        matrices += _compressor(at, hidden, shape.dim, ratio, "compressor")
        vectors += _compressor_vectors(shape.dim, ratio)
        chooses = ratio == OVERLAPPING
        scans.append(_scan(shape, "CSA" if chooses else "HCA", ratio, shape.topk if chooses else None, None))
    if ratio == OVERLAPPING:
        index, own = Index(shape.index_heads, shape.index_dim, shape.topk), at.at("indexer")
        matrices += [
            own.matrix("wq_b", shape.query_rank, index.heads * index.dim, "attention", "none", name="index_wq_b"),
            own.matrix("weights_proj", hidden, index.heads, "attention", "none", name="index_weights", fixed=True),
            *_compressor(own, hidden, index.dim, ratio, "index"),
        ]
        vectors += _compressor_vectors(index.dim, ratio)
        scans.append(index_scan(index, stride=ratio))
    return Half(tuple(matrices), tuple(scans), vectors=vectors)


def _scan(shape: Compressed, name: str, stride: int, reads: int | None, keeps: int | None) -> Scan:
    flop = 4.0 * shape.heads * shape.dim
    return Scan(name, stride, reads, keeps, shape.dim, 1, shape.heads, flop, flop, bytes=shape.entry_bytes)


def _width(dim: int, ratio: int) -> int:
    return dim * (2 if ratio == OVERLAPPING else 1)


def _compressor(site: Place, hidden: int, dim: int, ratio: int, name: str) -> list[Matrix]:
    """The weights that pool `ratio` tokens into one entry: values and their gate. They are never quantised."""
    width = _width(dim, ratio)
    at = site.at("compressor")
    return [
        at.matrix(module, hidden, width, "attention", "none", name=f"{name}_{module}", fixed=True)
        for module in ("wkv", "wgate")
    ]


def _compressor_vectors(dim: int, ratio: int) -> int:
    return ratio * _width(dim, ratio) + dim  # the position bias of each gate, and a norm
