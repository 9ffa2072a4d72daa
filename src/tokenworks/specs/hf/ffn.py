"""The FFN half of a layer as matrices: a gated or plain MLP, or routed experts with router and shared experts."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.specs.hf.parts import Half, Place
from tokenworks.specs.model import Experts, Matrix, Part

NAMES = {
    "gated": ("gate_proj", "down_proj"), "w123": ("w1", "w2"), "fused": ("gate_up_proj", "down_proj"),
    "plain": ("up_proj", "down_proj"),
}  # fmt: skip
"""Style of an FFN -> module names of its first and last matrix. Without a gate ("plain"), it is down(act(up x))."""


@dataclass(frozen=True)
class Mlp:
    """Shape of an MLP.

    Parameters
    ----------
    inner : inner width [count]
    style : a key of `NAMES`
    bias, out_bias : True if the first matrices, or the last one, have a bias
    path : module path
    part : part of the layer: dense, or shared where it runs beside routed experts
    norms : elements of its own norms [count]
    """

    inner: int
    style: str = "gated"
    bias: bool = False
    out_bias: bool = False
    path: str = "mlp"
    part: str = "dense"
    norms: int = 0


def mlp(site: Place, hidden: int, shape: Mlp) -> Half:
    """An MLP: down(act(gate x) * up x), or down(act(up x)). Gate and up are one matrix, as engines run them."""
    part: Part = "shared" if shape.part == "shared" else "dense"
    pair = _pair(site.at(shape.path), hidden, shape.inner, part, shape.style, bias=shape.bias, out_bias=shape.out_bias)
    return Half(tuple(pair), vectors=shape.norms)


def _pair(
    site: Place,
    hidden: int,
    inner: int,
    part: Part,
    style: str,
    *,
    copies: int = 1,
    bias: bool = False,
    out_bias: bool = False,
) -> list[Matrix]:
    """The two matrices of an MLP: up (with gate) and down."""
    prefix = "shared_" if part == "shared" else ""
    first, last = NAMES[style]
    gated = style != "plain"
    name = prefix + ("gate_up_proj" if gated else "up_proj")
    return [
        site.matrix(first, hidden, inner * (1 + gated), part, "out", copies=copies, bias=bias, name=name),
        site.matrix(last, inner, hidden, part, "in", copies=copies, bias=out_bias, name=f"{prefix}down_proj"),
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
    shared_bias : True if the shared experts have biases
    latent : width of the experts' input; 0 = the hidden size [count]
    latent_norm : True if this input has a norm
    correction : elements of the biases or scales of the router that choose experts [count]
    bias, router_bias : True if the experts, or the router, have biases
    router : outputs of the router; 0 = one for each expert [count]
    style : a key of `ffn.NAMES`
    path, experts, shared_path : module paths in the checkpoint
    latent_names : module names of the projections to and from the latent
    norms : elements of its own norms [count]
    """

    count: int
    topk: int
    inner: int
    shared: int = 0
    shared_gate: bool = False
    shared_bias: bool = False
    latent: int = 0
    latent_norm: bool = False
    correction: int = 0
    bias: bool = False
    router_bias: bool = False
    router: int = 0
    style: str = "gated"
    path: str = "mlp"
    experts: str = "experts.0"
    shared_path: str = "shared_experts"
    latent_names: str = "fc1_latent_proj fc2_latent_proj"
    norms: int = 0


def routed(site: Place, hidden: int, shape: Routed) -> Half:
    """A router, the routed experts, and the shared experts, which every token visits."""
    at = site.at(shape.path)
    width, bias = shape.latent or hidden, shape.shared_bias
    router = shape.router or shape.count
    matrices = [at.matrix("router", hidden, router, "router", "none", bias=shape.router_bias)]
    if shape.latent:
        down, up = shape.latent_names.split()
        matrices.append(at.matrix(down, hidden, width, "latent", "none"))
        matrices.append(at.matrix(up, width, hidden, "latent", "none"))
    inside, style = at.at(shape.experts), shape.style
    pair = _pair(inside, width, shape.inner, "experts", style, copies=shape.count, bias=shape.bias, out_bias=shape.bias)
    matrices += pair
    if shape.shared:
        matrices += _pair(at.at(shape.shared_path), hidden, shape.shared, "shared", style, bias=bias, out_bias=bias)
    if shape.shared_gate:
        matrices.append(at.matrix("shared_expert_gate", hidden, 1, "shared", "none", fixed=True))
    vectors = shape.correction + shape.latent_norm * width + shape.norms
    return Half(tuple(matrices), experts=Experts(shape.count, shape.topk, width, shape.inner), vectors=vectors)
