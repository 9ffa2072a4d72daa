"""A model as sums over its weights and reads of its KV cache; built from an HF config.json by `specs.hf`.

Everything that is costed comes from three things: the `Matrix`es of a block (parameters, bytes, GEMMs, how parallelism
splits them), the `Scan`s of its attention (what a query reads of the cache, what a token adds to it) and its `State`
(linear attention). A new kind of attention is a new combination of those, not a new branch in the cost model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Format:
    """How a weight is stored, and in what it is multiplied where the device can.

    bytes : [byte/element] with scales: FP8 in 128 x 128 blocks 1 + 4/16384, NVFP4 1/2 + 1/16, MXFP4 1/2 + 1/32
    compute : the widest rate it can use; W4A16 formats multiply in bf16 whatever the device has
    """

    name: str
    bytes: float
    compute: Literal["fp4", "fp8", "int8", "bf16", "fp32"]


BF16 = Format("bf16", 2.0, "bf16")

Part = Literal["attention", "dense", "shared", "router", "experts", "latent", "embedding", "head", "draft"]
Split = Literal["out", "in", "kv", "none"]


@dataclass(frozen=True, slots=True)
class Matrix:
    """One weight matrix y = W x, or `copies` equal ones (experts).

    part : what it belongs to; `experts` are divided by ep and expert-tp, the rest by tp
    split : how tp divides it: by output features, by input features, by KV head (never below one), or not at all
    """

    name: str
    inputs: int
    outputs: int
    part: Part
    split: Split
    format: Format = BF16
    copies: int = 1

    @property
    def parameters(self) -> int:
        """Elements in all copies."""
        return self.inputs * self.outputs * self.copies


@dataclass(frozen=True, slots=True)
class Scan:
    """One pass of a query over cached entries, one layer.

    stride : tokens that one entry stands for (1; 4 or 128 in compressed attention)
    reads : most entries that one query reads (top-k, window); None = all
    keeps : most entries kept per sequence (window); None = all
    elements : stored per entry over all KV heads [element]; 0 where another scan already stores them
    heads : KV heads that tp can divide; 1 = a latent, copied to every tp rank
    decode_flop, prefill_flop : per query token and entry, all query heads [FLOP]
    bytes : [byte/element] where fixed (an FP8 indexer); None = the deployment's KV dtype
    query_heads : heads that tp divides the FLOP by
    """

    name: str
    stride: int
    reads: int | None
    keeps: int | None
    elements: float
    heads: int
    query_heads: int
    decode_flop: float
    prefill_flop: float
    bytes: float | None = None
    read_elements: float | None = None  # where a scan reads what another stores; None = `elements`


@dataclass(frozen=True, slots=True)
class State:
    """Recurrent state of linear attention, one layer: read and written once a decode step, whatever the context.

    bytes : per sequence, over all heads [byte]; flop : per token, all heads [FLOP]; heads : what tp divides
    """

    bytes: float
    flop: float
    heads: int


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts of one layer: `count`, of which a token visits `topk`; `hidden` is the width that travels."""

    count: int
    topk: int
    hidden: int
    intermediate: int


@dataclass(frozen=True, slots=True)
class Block:
    """`count` equal layers. `attention` and `ffn` say which halves are there (a Mamba block has no FFN of its own).

    vectors : norm weights, biases and other small per-layer elements, kept whole on each rank [element]
    all_reduces : tensor-parallel reductions of the residual stream per layer (2 in a plain transformer)
    """

    name: str
    count: int
    matrices: tuple[Matrix, ...]
    scans: tuple[Scan, ...] = ()
    state: State | None = None
    experts: Experts | None = None
    vectors: int = 0
    all_reduces: int = 2


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint: embedding, blocks, head, and draft layers (MTP) that run only when speculation is on.

    heads, kv_heads : what tp must divide (query heads) or may exceed (KV heads)
    native_kv : the KV dtype that the checkpoint asks for, or bf16
    vision_parameters : counted, not costed; None = there is a tower, but its config does not give its size
    notes : what a reader must know (ties, dequantisation, parts not costed)
    """

    name: str
    architecture: str
    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    max_context: int
    embedding: Matrix
    head: Matrix | None
    blocks: tuple[Block, ...]
    draft: tuple[Block, ...] = ()
    native_kv: str = "bf16"
    vision_parameters: int | None = 0
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """Decoder layers, drafts left out."""
        return sum(block.count for block in self.blocks)
