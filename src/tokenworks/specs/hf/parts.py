"""What a layer is made of: a site in the checkpoint, the halves built there, and the whole stack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from tokenworks.specs.hf.formats import Formats, Kind
from tokenworks.specs.model import Block, Experts, Matrix, Part, Scan, Split, State

FIXED_PARTS: frozenset[Part] = frozenset({"router", "embedding", "head"})


@dataclass(frozen=True)
class Half:
    """Attention, or FFN: what one layer takes from it."""

    matrices: tuple[Matrix, ...]
    scans: tuple[Scan, ...] = ()
    state: State | None = None
    experts: Experts | None = None
    vectors: int = 0


@dataclass(frozen=True)
class Place:
    """A place in the checkpoint. `matrix` makes the weight of one module there, in the format it is stored in.

    narrow : the part that a mixed recipe stores in its narrow format (experts; the FFN of a dense model)
    """

    formats: Formats
    path: str = ""
    narrow: Part = "experts"

    def at(self, path: str) -> Place:
        """A site below this one."""
        return replace(self, path=".".join(part for part in (self.path, path) if part))

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
        """The weight of `module`; `fixed` = never quantised, whatever the config says."""
        kind: Kind = "fixed" if fixed or part in FIXED_PARTS else "experts" if part == self.narrow else "linear"
        form = self.formats.of(f"{self.path}.{module}" if self.path else module, kind)
        return Matrix(name or module.rsplit(".", 1)[-1], inputs, outputs, part, split, form, copies, bias)


@dataclass(frozen=True)
class Stack:
    """A model without its embedding and head: one block a layer, not yet merged.

    heads, kv_heads : what tp must divide, and may exceed; kv : a KV dtype that the architecture fixes
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
    halves: Iterable[Half], hidden: int, *, norms: int = 2, extra: tuple[Matrix, ...] = (), name: str = ""
) -> Block:
    """One layer of the given halves, with `norms` norm weights of the hidden size, and `extra` matrices beside them."""
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
        vectors=norms * hidden + sum(half.vectors for half in parts),
        all_reduces=len(parts),
    )


def layers(site: Place, count: int, halves: Callable[[Place, int], Iterable[Half]], hidden: int) -> list[Block]:
    """The plain stack: layer i stands at `layers.i` and has two norms."""
    return [layer(halves(site.at(f"layers.{index}"), index), hidden) for index in range(count)]


def mtp(site: Place, hidden: int, halves: Iterable[Half]) -> Block:
    """A multi-token-prediction layer (DeepSeek-V3, arXiv:2412.19437, section 2.2): a projection of the previous hidden
    state beside the next token's embedding, a plain layer, and norms of both inputs and of the output.
    """
    joined = site.matrix("eh_proj", 2 * hidden, hidden, "draft", "none", fixed=True)
    return layer(halves, hidden, norms=5, extra=(joined,), name="mtp layer")


def with_drafts(stack: Stack, site: Place, halves: Callable[[Place, int], Iterable[Half]], count: int) -> Stack:
    """The stack with `count` MTP layers, which stand after the last layer and are built by the same function."""
    first = len(stack.layers)
    sites = [(site.at(f"layers.{number}"), number) for number in range(first, first + count)]
    return replace(stack, draft=[mtp(at, stack.hidden, halves(at, number)) for at, number in sites])


def merged(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """Equal layers as one block with a count, in order of first appearance."""
    counts: dict[Block, int] = {}
    for each in blocks:
        counts[each] = counts.get(each, 0) + each.count
    return tuple(replace(each, count=count) for each, count in counts.items())
