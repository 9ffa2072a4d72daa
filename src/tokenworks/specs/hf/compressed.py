"""DeepSeek-V4's attention: one shared key-value a token, a window, and entries compressed from 4 or 128 tokens."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.specs.hf.attention import Index, index_scan
from tokenworks.specs.hf.parts import Half, Place
from tokenworks.specs.model import Matrix, Scan

OVERLAPPING = 4  # the compression ratio whose windows overlap, and whose entries an indexer chooses among
ENTRY_SCALE_BYTES = 8  # seven E8M0 scales of 64 FP8 elements, and one byte of padding


@dataclass(frozen=True)
class Compressed:
    """Shape of the attention of all layers; `index.reads` is the top-k of the layers that choose."""

    heads: int
    dim: int
    rope: int
    query_rank: int
    groups: int
    out_rank: int
    window: int
    index: Index

    @property
    def entry_bytes(self) -> float:
        """[byte/element] of a cached entry: FP8, the rotary part in BF16 (DeepSeek-V4 report, section 2.3)."""
        return (self.dim + self.rope + ENTRY_SCALE_BYTES) / self.dim


def compressed(site: Place, hidden: int, shape: Compressed, ratio: int) -> Half:
    """Attention of one layer: a window of raw entries beside compressed ones (`ratio` 0: the window alone).

    An entry is key and value at once, one for all heads, so a query does 2 x heads x 2 dim FLOP with each. Ratio 4
    (compressed sparse attention) reads the top-k that the indexer chose, ratio 128 (heavily compressed) all of them.
    The output goes through `groups` low-rank maps, each of its own heads (DeepSeek-V4 report, sections 2.3.1 to 2.3.3;
    transformers deepseek_v4).
    """
    made = site.at("attn")
    wide = shape.heads * shape.dim
    matrices = [
        made.matrix("wq_a", hidden, shape.query_rank, "attention", "none"),
        made.matrix("wq_b", shape.query_rank, wide, "attention", "out"),
        made.matrix("wkv", hidden, shape.dim, "attention", "none"),
        made.matrix("wo_a", wide // shape.groups, shape.groups * shape.out_rank, "attention", "out"),
        made.matrix("wo_b", shape.groups * shape.out_rank, hidden, "attention", "in"),
    ]
    scans = [_scan(shape, "window", 1, shape.window, shape.window)]
    vectors = shape.query_rank + shape.dim + shape.heads  # two norms, and a sink a head
    if ratio:
        matrices += _compressor(made, hidden, shape.dim, ratio, "compressor")
        vectors += _compressor_vectors(shape.dim, ratio)
        chooses = ratio == OVERLAPPING
        scans.append(_scan(shape, "CSA" if chooses else "HCA", ratio, shape.index.reads if chooses else None, None))
    if ratio == OVERLAPPING:
        index, own = shape.index, made.at("indexer")
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
    """What pools `ratio` tokens into one entry: values and their gate, never quantised."""
    width = _width(dim, ratio)
    made = site.at("compressor")
    return [
        made.matrix(module, hidden, width, "attention", "none", name=f"{name}_{module}", fixed=True)
        for module in ("wkv", "wgate")
    ]


def _compressor_vectors(dim: int, ratio: int) -> int:
    return ratio * _width(dim, ratio) + dim  # the position bias of each gate, and a norm
