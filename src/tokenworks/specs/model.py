"""A model as its weights, the reads of its KV cache, and its recurrent states. `specs.hf` builds it from a config.json.

The cost model uses three things: each `Matrix` of a block (parameters, bytes, GEMMs, split by parallelism), each `Scan`
of its attention (cache entries that a query reads and a token adds), and its `State` (linear attention). A new kind of
attention is a new combination of these, not a new branch in the cost model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenworks.arrays import FloatArray
from tokenworks.specs.shown import Record, Shown


@dataclass(frozen=True, slots=True)
class Format:
    """Storage format of a weight, and dtype of its multiplication.

    Parameters
    ----------
    name : name of the format
    bytes : size with scales: FP8 in 128 x 128 blocks 1 + 4/16384, NVFP4 1/2 + 1/16, MXFP4 1/2 + 1/32 [byte/element]
    compute : dtype of the multiplication, if the device has it; W4A16 formats multiply in bf16 on every device
    """

    name: str
    bytes: float
    compute: Literal["fp4", "fp8", "int8", "bf16", "fp32"]


DTYPES = {
    "nvfp4": "fp4", "nvfp4-w4a16": "fp4", "mxfp4": "fp4", "fp8": "fp8", "fp8-block": "fp8", "int4": "int4",
    "int8": "int8", "bf16": "bf16", "fp16": "bf16",
}  # fmt: skip
"""Dtype of the weights, as users and benchmarks name it, by storage format."""

BF16 = Format("bf16", 2.0, "bf16")
VECTOR_BYTES = 2.0  # all known formats store norms and biases in 16 bits [byte/element]

METHODS = {"yarn": "YaRN", "linear": "linear rope scaling", "dynamic": "dynamic rope scaling"}
"""`rope_type` -> its name in words."""

Part = Literal["attention", "dense", "shared", "router", "experts", "latent", "embedding", "head", "draft"]
Split = Literal["out", "in", "kv", "none"]


@dataclass(frozen=True, slots=True)
class Matrix:
    """One weight matrix y = W x (+ b), or several of the same shape (experts).

    Parameters
    ----------
    name : name of the weight
    inputs, outputs : input and output features [count]
    part : part of the layer; ep and expert_tp divide `experts`, tp divides the other parts
    split : the way in which tp divides it: by output features, by input features, by KV head (never below one), or not
    format : storage format
    copies : number of matrices, such as one for each expert [count]
    bias : True if there is a bias b
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
        """Elements of all copies [count]."""
        return (self.inputs + self.bias) * self.outputs * self.copies

    @property
    def stored(self) -> float:
        """Size of all copies in memory [byte]."""
        return self.copies * self.outputs * (self.inputs * self.format.bytes + self.bias * VECTOR_BYTES)


@dataclass(frozen=True, slots=True)
class Scan:
    """One pass of a query over the cache entries of one layer.

    Parameters
    ----------
    name : kind of attention, such as GQA, MLA or indexer
    stride : tokens per cache entry: 1, or 4 and 128 in compressed attention [token]
    reads : most entries that one query reads (top-k, window); None = all [count]
    keeps : most entries that the cache keeps per sequence (window); None = all [count]
    elements : elements of an entry, all KV heads; 0 if another scan stores the entry [count]
    heads : KV heads that tp can divide; 1 = a latent, which every tp rank copies [count]
    query_heads : query heads, by which tp can divide the FLOP [count]
    decode_flop, prefill_flop : work per query token and entry, all query heads [FLOP]
    bytes : size of an element if it is fixed (an FP8 indexer); None = KV dtype of the deployment [byte/element]
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

    @property
    def latent(self) -> bool:
        """True if keys and values share an entry (MLA): it has more products per element than separate ones."""
        return self.decode_flop > 2 * self.query_heads * self.elements

    def growth(self, kv_bytes: FloatArray) -> FloatArray:
        """Cache that one more token of a long context adds, one layer.

        Parameters
        ----------
        kv_bytes : size of one cached element, if the scan does not fix it [byte/element]

        Returns
        -------
        Added cache [byte/token].
        """
        return 0.0 if self.keeps is not None else self.elements * (self.bytes or kv_bytes) / self.stride


@dataclass(frozen=True, slots=True)
class State:
    """Recurrent state of linear attention in one layer. A decode step reads and writes it once, at any context length.

    Parameters
    ----------
    name : kind of linear attention (GDN, KDA, Mamba-2)
    bytes : size of the state of one sequence, all heads [byte]
    flop : work per token, all heads [FLOP]
    heads : heads that tp divides [count]
    """

    name: str
    bytes: float
    flop: float
    heads: int


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts of one layer.

    Parameters
    ----------
    count : number of experts [count]
    topk : experts that a token visits [count]
    hidden : width of the activations that dispatch and combine send [count]
    intermediate : inner width of an expert [count]
    """

    count: int
    topk: int
    hidden: int
    intermediate: int


@dataclass(frozen=True, slots=True)
class Block:
    """Equal layers, at any places of the stack: attention, FFN or both (a Mamba block has no FFN).

    Parameters
    ----------
    name : name of the layers
    count : number of layers [count]
    matrices : weight matrices of one layer
    scans : passes over the KV cache in one layer
    state : recurrent state of linear attention; None = there is none
    experts : routed experts; None = there are none
    vectors : elements of norms, biases and other small weights per layer; each rank has all of them [count]
    all_reduces : tensor-parallel all-reduces per layer (2 in a plain transformer) [count]
    streams : residual streams; several streams are mixed before and after each half layer (hyper-connections) [count]
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
    factor : scaled length / original length of the context [-]
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


@dataclass(frozen=True, slots=True, repr=False)
class Model(Shown):
    """A checkpoint: embedding, blocks, head, and draft layers (MTP), which run only with speculation.

    Parameters
    ----------
    name, architecture : id of the model, and `model_type` of its config
    hidden, vocab : width of the residual stream, and size of the vocabulary [count]
    heads : query heads, which tp must divide [count]
    kv_heads : KV heads; tp may be larger [count]
    embedding, head : matrices; no head = tied: the embedding is stored once and also used as the head
    blocks : layers of the model
    draft : draft layers (MTP)
    max_context : longest input + output of a request [token]: the model's own limit, or one that the user set
    own_context : the model's own limit where the user set another one [token]; None where `max_context` is its own
    extended_context : a longer limit that the publisher documents; None where there is none
    vectors : elements outside the blocks, such as the final norm [count]
    native_kv : KV dtype of the checkpoint; bf16 if it has none
    vision_parameters : elements of the encoders (vision, audio) with their connectors, which have no cost here;
        None = the config does not give their size
    notes : facts that a user must know: defaults that were used, assumed formats, parts without cost
    converted : note about weights that were converted for a device; empty: the weights are the published ones
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
    converted: str = ""

    @property
    def headline(self) -> str:
        """Name and size."""
        return f"{self.name}: {parameters(self) / 1e9:,.1f} B parameters, {self.layers} layers ({self.architecture})"

    def to_records(self) -> list[Record]:
        """The blocks, one a record; parameters of all equal layers together."""
        return [
            {"block": block.name, "layers": block.count, "parameters": _block_parameters(block)}
            for block in self.blocks
        ]

    @property
    def layers(self) -> int:
        """Decoder layers, without draft layers [count]."""
        return sum(block.count for block in self.blocks)

    @property
    def weights(self) -> str:
        """Dtype in which most parameters of the blocks are stored, such as fp8; see `DTYPES`."""
        held: dict[str, int] = {}
        for block in self.blocks:
            for matrix in block.matrices:
                dtype = DTYPES.get(matrix.format.name, matrix.format.name)
                held[dtype] = held.get(dtype, 0) + block.count * matrix.parameters
        return max(held, key=lambda dtype: held[dtype])


def parameters(model: Model) -> int:
    """All weights of the language model, without draft layers and vision tower [count]."""
    head = model.head.parameters if model.head else 0
    return model.embedding.parameters + head + model.vectors + sum(map(_block_parameters, model.blocks))


def draft_parameters(model: Model) -> int:
    """Weights of the draft layers (MTP), without embedding and head, which they share with the model [count]."""
    return sum(map(_block_parameters, model.draft))


def active_parameters(model: Model) -> int:
    """Weights with which a token is multiplied [count].

    These are all `parameters` without the experts that a token does not visit, and without the embedding. A tied
    embedding counts, because it is the head. Publishers differ: a few of them always count the embedding.
    """
    idle = model.embedding.parameters if model.head else 0
    for block in model.blocks:
        if block.experts:
            routed = sum(matrix.parameters for matrix in block.matrices if matrix.part == "experts")
            idle += block.count * routed * (block.experts.count - block.experts.topk) // block.experts.count
    return parameters(model) - idle


def weight_bytes(model: Model) -> float:
    """Size of one copy of all weights, without draft layers [byte]."""
    head = model.head.stored if model.head else 0.0
    return model.embedding.stored + head + VECTOR_BYTES * model.vectors + sum(map(_block_bytes, model.blocks))


def kv_bytes_per_token(model: Model, kv_bytes: float) -> float:
    """Cache that one more token of a long context takes, all layers, one copy.

    A full window does not grow. A scan with a `stride` adds one entry every `stride` tokens.

    Parameters
    ----------
    model : the model
    kv_bytes : size of one cached element, if the scan does not fix it [byte/element]

    Returns
    -------
    Cache [byte/token].
    """
    return float(sum(block.count * scan.growth(kv_bytes) for block in model.blocks for scan in block.scans))


def window_bytes_per_sequence(model: Model, kv_bytes: float) -> float:
    """Cache of all full windows of a sequence, all layers, one copy.

    Parameters
    ----------
    model : the model
    kv_bytes : size of one cached element, if the scan does not fix it [byte/element]

    Returns
    -------
    Cache of one sequence [byte].
    """
    return sum(
        block.count * scan.keeps * scan.elements * (scan.bytes or kv_bytes)
        for block in model.blocks
        for scan in block.scans
        if scan.keeps is not None
    )


def state_bytes_per_sequence(model: Model) -> float:
    """Recurrent states of one sequence, all layers, one copy [byte]."""
    return sum(block.count * block.state.bytes for block in model.blocks if block.state)


def attention_kinds(model: Model) -> dict[str, int]:
    """Number of layers of each kind of attention, largest number first, such as {"GDN": 45, "GQA": 15}.

    A layer with several scans (a window and compressed entries, an indexer) counts as its last scan, which reaches
    furthest. A layer with both attention and a state has both names, joined by +.
    """
    kinds: dict[str, int] = {}
    for block in model.blocks:
        scans = [scan.name for scan in block.scans if scan.name != "indexer"]
        kind = "+".join([*scans[-1:], *([block.state.name] if block.state else [])])
        if kind:
            kinds[kind] = kinds.get(kind, 0) + block.count
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def weight_formats(model: Model) -> dict[str, float]:
    """Share of the stored bytes in each format, largest share first, without draft layers [-]."""
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
