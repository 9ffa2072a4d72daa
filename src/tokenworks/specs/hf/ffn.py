"""Feed-forward halves as matrices: a gated or plain MLP, and routed experts with their router and shared experts."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.specs.hf.parts import Half, Place
from tokenworks.specs.model import Experts, Matrix, Part


@dataclass(frozen=True)
class Names:
    """What a family calls its FFN modules; `gate` None = no gate, act(up x) alone."""

    gate: str | None = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


GATED, PLAIN, W123 = Names(), Names(gate=None), Names("w1", "w3", "w2")


def mlp(site: Place, hidden: int, inner: int, part: Part = "dense", *, names: Names = GATED, path: str = "mlp") -> Half:
    """down(act(gate x) * up x), or down(act(up x)); gate and up are one matrix, as engines run them."""
    return Half(tuple(_pair(site.at(path), hidden, inner, part, names)))


def _pair(
    site: Place, hidden: int, inner: int, part: Part, names: Names, *, copies: int = 1, bias: bool = False
) -> list[Matrix]:
    prefix = "shared_" if part == "shared" else ""
    wide, up = (inner, names.up) if names.gate is None else (2 * inner, names.gate)
    name = prefix + ("up_proj" if names.gate is None else "gate_up_proj")
    return [
        site.matrix(up, hidden, wide, part, "out", copies=copies, bias=bias, name=name),
        site.matrix(names.down, inner, hidden, part, "in", copies=copies, bias=bias, name=f"{prefix}down_proj"),
    ]


@dataclass(frozen=True)
class Routed:
    """Shape of routed experts.

    count, topk, inner : experts, how many a token visits, and their width
    shared : width of the shared experts together, 0 = none; shared_gate : a scalar gate on them
    latent : width that the experts see where it is not the hidden size, 0 = the hidden size; latent_norm : normed
    correction : a bias an expert that steers the choice; bias : router and experts have biases
    """

    count: int
    topk: int
    inner: int
    shared: int = 0
    shared_gate: bool = False
    latent: int = 0
    latent_norm: bool = False
    correction: bool = False
    bias: bool = False
    names: Names = GATED
    path: str = "mlp"
    experts: str = "experts.0"
    shared_path: str = "shared_experts"
    latent_names: tuple[str, str] = ("fc1_latent_proj", "fc2_latent_proj")


def routed(site: Place, hidden: int, shape: Routed) -> Half:
    """A router, `count` experts of which a token visits `topk`, and the shared experts that every token visits."""
    made = site.at(shape.path)
    width = shape.latent or hidden
    matrices = [made.matrix("router", hidden, shape.count, "router", "none", bias=shape.bias)]
    if shape.latent:
        down, up = shape.latent_names
        matrices.append(made.matrix(down, hidden, width, "latent", "none"))
        matrices.append(made.matrix(up, width, hidden, "latent", "none"))
    matrices += _pair(
        made.at(shape.experts), width, shape.inner, "experts", shape.names, copies=shape.count, bias=shape.bias
    )
    if shape.shared:
        matrices += _pair(made.at(shape.shared_path), hidden, shape.shared, "shared", shape.names)
    if shape.shared_gate:
        matrices.append(made.matrix("shared_expert_gate", hidden, 1, "shared", "none", fixed=True))
    vectors = shape.correction * shape.count + shape.latent_norm * width
    return Half(tuple(matrices), experts=Experts(shape.count, shape.topk, width, shape.inner), vectors=vectors)


def beside(first: Half, second: Half) -> Half:
    """Two FFNs of one layer that run on the same input and are summed (Gemma-4: a dense MLP beside experts)."""
    return Half(
        first.matrices + second.matrices,
        experts=first.experts or second.experts,
        vectors=first.vectors + second.vectors,
    )
