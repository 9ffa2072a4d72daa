"""Building blocks of a model: places in the checkpoint, halves of a layer, layers, and the stack of all layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tokenworks.specs.hf.formats import Formats, Kind
from tokenworks.specs.model import Block, Experts, Matrix, Part, Scan, Split, State

KIND_OF_PART: dict[Part, Kind] = {"router": "fixed", "embedding": "outer", "head": "outer"}


@dataclass(frozen=True)
class Half:
    """One half of a layer: attention or FFN. `vectors` : elements of small weights such as norms [count]."""

    matrices: tuple[Matrix, ...]
    scans: tuple[Scan, ...] = ()
    state: State | None = None
    experts: Experts | None = None
    vectors: int = 0


@dataclass(frozen=True)
class Place:
    """A place (module path) in the checkpoint. `matrix` gives the weight of a module there, in its storage format.

    Parameters
    ----------
    formats : formats of the checkpoint
    path : module path
    narrow : part that a mixed recipe stores in its narrow format: experts, or the FFN of a dense model
    """

    formats: Formats
    path: str = ""
    narrow: Part = "experts"

    def at(self, path: str) -> Place:
        """A place below this one."""
        return Place(self.formats, f"{self.path}.{path}" if self.path and path else self.path or path, self.narrow)

    def root(self) -> Place:
        """The top of the checkpoint."""
        return replace(self, path="")

    def matrix(
        self,
        module: str,
        inputs: int,
        outputs: int,
        part: Part,
        split: Split,
        *,
        copies: int = 1,
        bias: bool = False,
        name: str = "",
        fixed: bool = False,
    ) -> Matrix:
        """The weight of a module.

        Parameters
        ----------
        module : name of the module at this place
        inputs, outputs : input and output features [count]
        part, split, copies, bias : see `specs.model.Matrix`
        name : name of the matrix; empty = last component of `module`
        fixed : True if the weight is never quantised
        """
        kind = "fixed" if fixed else KIND_OF_PART.get(part, "experts" if part == self.narrow else "linear")
        form = self.formats.of(f"{self.path}.{module}" if self.path else module, kind)
        return Matrix(name or module.rsplit(".", 1)[-1], inputs, outputs, part, split, form, copies, bias)


@dataclass(frozen=True)
class Stack:
    """A model without embedding and head, with one block per layer (not merged).

    Parameters
    ----------
    hidden : width of the residual stream [count]
    heads : query heads, which tp must divide [count]
    kv_heads : KV heads; tp may be larger [count]
    layers, draft : blocks of the layers, and of the draft layers
    outside : elements outside the layers, such as the final norm [count]
    kv : KV dtype that the architecture fixes; empty = none
    notes : facts for the user
    """

    hidden: int
    heads: int
    kv_heads: int
    layers: Sequence[Block]
    draft: Sequence[Block] = ()
    outside: int = 0
    kv: str = ""
    notes: tuple[str, ...] = ()


def layer(
    halves: Iterable[Half],
    hidden: int,
    *,
    norms: int = 2,
    vectors: int = 0,
    extra: tuple[Matrix, ...] = (),
    name: str = "",
) -> Block:
    """One layer from its halves.

    Parameters
    ----------
    halves : attention, FFN or both
    hidden : width of the residual stream [count]
    norms : norms of this width [count]
    vectors : elements of other small weights [count]
    extra : matrices beside the matrices of the halves
    name : name of the layer; empty = "moe layer" or "dense layer"
    """
    parts = tuple(halves)
    state = next((half.state for half in parts if half.state), None)
    experts = next((half.experts for half in parts if half.experts), None)
    return Block(
        name or ("moe layer" if experts else "dense layer"),
        1,
        extra + tuple(matrix for half in parts for matrix in half.matrices),
        tuple(scan for half in parts for scan in half.scans),
        state,
        experts,
        vectors=norms * hidden + vectors + sum(half.vectors for half in parts),
        all_reduces=len(parts),
    )


def mtp(site: Place, hidden: int, halves: Iterable[Half], extra: tuple[Matrix, ...] = ()) -> Block:
    """A multi-token-prediction layer (DeepSeek-V3, arXiv:2412.19437, section 2.2).

    It has a projection of the hidden state and the embedding of the next token, a plain layer, and norms for both
    inputs and for the output.
    """
    joined = site.matrix("eh_proj", 2 * hidden, hidden, "draft", "none", fixed=True)
    return layer(halves, hidden, norms=5, extra=(joined, *extra), name="mtp layer")


def merged(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """Blocks in which equal layers are one block with a count, in the order of their first layer."""
    same: dict[int, list[Block]] = {}  # a block that is used again is the same object, so it is hashed only once
    for each in blocks:
        same.setdefault(id(each), []).append(each)
    counts: dict[Block, int] = {}
    for group in same.values():
        counts[group[0]] = counts.get(group[0], 0) + len(group) * group[0].count
    return tuple(replace(each, count=count) for each, count in counts.items())
