"""The FFN half of a layer as matrices: a gated or plain MLP, or routed experts with router and shared experts."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.specs.hf.parts import Half, Place
from tokenworks.specs.model import Experts, Matrix, Part


@dataclass(frozen=True)
class Names:
    """Module names of an FFN. Without a gate (None), the FFN is down(act(up x))."""

    gate: str | None = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


GATED, PLAIN, W123 = Names(), Names(gate=None), Names("w1", "w3", "w2")


def mlp(site: Place, hidden: int, inner: int, part: Part = "dense", *, names: Names = GATED, path: str = "mlp") -> Half:
    """An MLP: down(act(gate x) * up x), or down(act(up x)). Gate and up are one matrix, as engines run them."""
    return Half(tuple(_pair(site.at(path), hidden, inner, part, names)))


def _pair(
    site: Place, hidden: int, inner: int, part: Part, names: Names, *, copies: int = 1, bias: bool = False
) -> list[Matrix]:
    """The two matrices of an MLP: up (with gate) and down."""
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

    Parameters
    ----------
    count : number of experts [count]
    topk : experts that a token visits [count]
    inner : inner width of an expert [count]
    shared : inner width of all shared experts together; 0 = none [count]
    shared_gate : True if a scalar gate multiplies the output of the shared experts
    latent : width of the experts' input; 0 = the hidden size [count]
    latent_norm : True if this input has a norm
    correction : True if the router has one correction bias per expert for its choice
    bias : True if router and experts have biases
    names, path, experts, shared_path, latent_names : module names and paths in the checkpoint
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
    """A router, the routed experts, and the shared experts, which every token visits."""
    at = site.at(shape.path)
    width = shape.latent or hidden
    matrices = [at.matrix("router", hidden, shape.count, "router", "none", bias=shape.bias)]
    if shape.latent:
        down, up = shape.latent_names
        matrices.append(at.matrix(down, hidden, width, "latent", "none"))
        matrices.append(at.matrix(up, width, hidden, "latent", "none"))
    matrices += _pair(
        at.at(shape.experts), width, shape.inner, "experts", shape.names, copies=shape.count, bias=shape.bias
    )
    if shape.shared:
        matrices += _pair(at.at(shape.shared_path), hidden, shape.shared, "shared", shape.names)
    if shape.shared_gate:
        matrices.append(at.matrix("shared_expert_gate", hidden, 1, "shared", "none", fixed=True))
    vectors = shape.correction * shape.count + shape.latent_norm * width
    return Half(tuple(matrices), experts=Experts(shape.count, shape.topk, width, shape.inner), vectors=vectors)


def beside(first: Half, second: Half) -> Half:
    """Two FFNs of one layer with the same input, whose outputs are added (Gemma-4: a dense MLP and experts)."""
    return Half(
        first.matrices + second.matrices,
        experts=first.experts or second.experts,
        vectors=first.vectors + second.vectors,
    )
