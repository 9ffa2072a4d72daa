"""A model as sums over its weights and reads of its KV cache; built from an HF config.json by `specs.hf`.

Everything that is costed comes from three things: the `Matrix`es of a block (parameters, bytes, GEMMs, how parallelism
splits them), the `Scan`s of its attention (what a query reads of the cache, what a token adds to it) and its `State`
(linear attention). A new kind of attention is a new combination of those, not a new branch in the cost model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenworks.arrays import FloatArray


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
VECTOR_BYTES = 2.0  # norms and biases are kept in 16 bits by every format we know [byte/element]

METHODS = {"yarn": "YaRN", "linear": "linear rope scaling", "dynamic": "dynamic rope scaling"}
"""`rope_type` -> its name in words."""

Part = Literal["attention", "dense", "shared", "router", "experts", "latent", "embedding", "head", "draft"]
Split = Literal["out", "in", "kv", "none"]


@dataclass(frozen=True, slots=True)
class Matrix:
    """One weight matrix y = W x (+ b), or `copies` equal ones (experts).

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
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Elements in all copies."""
        return (self.inputs + self.bias) * self.outputs * self.copies

    @property
    def stored(self) -> float:
        """What all copies take in memory [byte]."""
        return self.copies * self.outputs * (self.inputs * self.format.bytes + self.bias * VECTOR_BYTES)


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

    def growth(self, kv_bytes: FloatArray) -> FloatArray:
        """What one more token of a long context adds [byte]; `kv_bytes` [byte/element] where not fixed."""
        return 0.0 if self.keeps is not None else self.elements * (self.bytes or kv_bytes) / self.stride


@dataclass(frozen=True, slots=True)
class State:
    """Recurrent state of linear attention, one layer: read and written once a decode step, whatever the context.

    name : the kind (GDN, KDA, Mamba-2)
    bytes : per sequence, over all heads [byte]; flop : per token, all heads [FLOP]; heads : what tp divides
    """

    name: str
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
    """`count` equal layers, wherever in the stack they stand: attention, FFN or both (a Mamba block has no FFN).

    vectors : norm weights, biases and other small per-layer elements, kept whole on each rank [element]
    all_reduces : tensor-parallel reductions of the residual stream per layer (2 in a plain transformer)
    streams : residual streams, which are mixed before and after each half where there are several (hyper-connections)
    """

    name: str
    count: int
    matrices: tuple[Matrix, ...]
    scans: tuple[Scan, ...] = ()
    state: State | None = None
    experts: Experts | None = None
    vectors: int = 0
    all_reduces: int = 2
    streams: int = 1


@dataclass(frozen=True, slots=True)
class ExtendedContext:
    """A longer context that the publisher documents, by rope scaling.

    Parameters
    ----------
    tokens : longest input + output of a request with the scaling [token]
    method : `rope_type` of the scaling, such as yarn
    factor : how many times as long the scaling makes the context
    source : model card, or file and key of the config.json
    """

    tokens: int
    method: str
    factor: float
    source: str

    @property
    def words(self) -> str:
        """Method and factor, such as "with YaRN, factor 4"."""
        return f"with {METHODS.get(self.method, self.method)}, factor {self.factor:g}"


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint: embedding, blocks, head, and draft layers (MTP) that run only when speculation is on.

    heads, kv_heads : what tp must divide (query heads) or may exceed (KV heads)
    head : None = tied: the embedding is multiplied once more, and stored once
    max_context : longest input + output of a request [token]: the model's own limit, or one that the user set
    own_context : the model's own limit where the user set another one [token]; None where `max_context` is its own
    extended_context : a longer limit that the publisher documents; None where there is none
    vectors : elements outside the blocks, such as the final norm
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
    vectors: int = 0
    native_kv: str = "bf16"
    vision_parameters: int | None = 0
    notes: tuple[str, ...] = ()
    extended_context: ExtendedContext | None = None
    own_context: int | None = None

    @property
    def layers(self) -> int:
        """Decoder layers, drafts left out."""
        return sum(block.count for block in self.blocks)


def parameters(model: Model) -> int:
    """All weights of the language model: the sum of the weight shapes, drafts and vision tower left out."""
    head = model.head.parameters if model.head else 0
    return model.embedding.parameters + head + model.vectors + sum(map(_block_parameters, model.blocks))


def draft_parameters(model: Model) -> int:
    """Weights of the draft layers (MTP); the embedding and head that they share with the model left out."""
    return sum(map(_block_parameters, model.draft))


def active_parameters(model: Model) -> int:
    """Weights that a token meets in multiplications: `parameters` less the experts that it does not visit, and less
    the embedding where that is only looked up (a tied one is multiplied as the head). Publishers differ: some add it.
    """
    idle = model.embedding.parameters if model.head else 0
    for block in model.blocks:
        if block.experts:
            routed = sum(matrix.parameters for matrix in block.matrices if matrix.part == "experts")
            idle += block.count * routed * (block.experts.count - block.experts.topk) // block.experts.count
    return parameters(model) - idle


def weight_bytes(model: Model) -> float:
    """One copy of all weights as stored, drafts left out [byte]."""
    head = model.head.stored if model.head else 0.0
    return model.embedding.stored + head + VECTOR_BYTES * model.vectors + sum(map(_block_bytes, model.blocks))


def kv_bytes_per_token(model: Model, kv_bytes: float) -> float:
    """Cache that one more token of a long context takes, all layers, one copy [byte].

    A scan that keeps a window adds nothing once it is full; one with `stride` adds an entry every so many tokens.

    Parameters
    ----------
    kv_bytes : size of one stored element where the scan does not fix it [byte]
    """
    return float(sum(block.count * scan.growth(kv_bytes) for block in model.blocks for scan in block.scans))


def window_bytes_per_sequence(model: Model, kv_bytes: float) -> float:
    """Cache of the windows once they are full, all layers, one copy [byte per sequence]."""
    return sum(
        block.count * scan.keeps * scan.elements * (scan.bytes or kv_bytes)
        for block in model.blocks
        for scan in block.scans
        if scan.keeps is not None
    )


def state_bytes_per_sequence(model: Model) -> float:
    """Recurrent state of the linear attention layers, one copy [byte per sequence]."""
    return sum(block.count * block.state.bytes for block in model.blocks if block.state)


def attention_kinds(model: Model) -> dict[str, int]:
    """Layers of each kind of attention, most first, such as {"GDN": 45, "GQA": 15}.

    A layer that scans more than once (a window beside compressed entries, an indexer) goes by its longest reach.
    """
    kinds: dict[str, int] = {}
    for block in model.blocks:
        scans = [scan.name for scan in block.scans if scan.name != "indexer"]
        kind = block.state.name if block.state else scans[-1] if scans else ""
        if kind:
            kinds[kind] = kinds.get(kind, 0) + block.count
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def weight_formats(model: Model) -> dict[str, float]:
    """Share of the stored bytes in each format, largest first; drafts left out."""
    held: dict[str, float] = {}
    outer = [(1, matrix) for matrix in (model.embedding, model.head) if matrix]
    for count, matrix in outer + [(block.count, matrix) for block in model.blocks for matrix in block.matrices]:
        held[matrix.format.name] = held.get(matrix.format.name, 0.0) + count * matrix.stored
    total = sum(held.values())
    return {name: part / total for name, part in sorted(held.items(), key=lambda item: -item[1])}


def _block_parameters(block: Block) -> int:
    return block.count * (block.vectors + sum(matrix.parameters for matrix in block.matrices))


def _block_bytes(block: Block) -> float:
    return block.count * (VECTOR_BYTES * block.vectors + sum(matrix.stored for matrix in block.matrices))
