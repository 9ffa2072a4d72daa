"""Feed-forward halves as matrices: a gated MLP, and routed experts with their router and shared expert."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.specs.hf.parts import Half, Site
from tokenworks.specs.model import Experts, Matrix, Part


def gated(site: Site, hidden: int, inner: int, *, path: str = "mlp", part: Part = "dense") -> Half:
    """down(act(gate x) * up x): gate and up are one matrix of 2 x `inner` outputs, as engines run them."""
    made = site.at(path)
    return Half(
        (
            made.matrix("gate_proj", hidden, 2 * inner, part, "out", name="gate_up_proj"),
            made.matrix("down_proj", inner, hidden, part, "in"),
        )
    )


@dataclass(frozen=True)
class Routed:
    """Shape of routed experts. `shared`: width of the shared experts together; `shared_gate`: a scalar gate on them;
    `correction`: a bias a expert that steers the router; `bias`: router and experts have biases; `width`: what the
    experts see where it is not the hidden size (latent experts); `names`: gate and down modules of an expert.
    """

    count: int
    topk: int
    inner: int
    shared: int = 0
    shared_gate: bool = False
    correction: bool = False
    bias: bool = False
    path: str = "mlp"
    router: str = "gate"
    names: tuple[str, str] = ("gate_proj", "down_proj")
    shared_path: str = "shared_experts"
    gated: bool = True


def routed(site: Site, hidden: int, shape: Routed) -> Half:
    """A router, `count` experts of which a token visits `topk`, and the shared expert that every token visits."""
    made = site.at(shape.path)
    expert = made.at("experts.0")
    gate, down = shape.names
    up = 2 if shape.gated else 1
    matrices = [
        made.matrix(shape.router, hidden, shape.count, "router", "none", bias=shape.bias, name="router"),
        expert.matrix(
            gate, hidden, up * shape.inner, "experts", "out",
            copies=shape.count, bias=shape.bias, name="gate_up_proj" if shape.gated else "up_proj",
        ),
        expert.matrix(
            down, shape.inner, hidden, "experts", "in", copies=shape.count, bias=shape.bias, name="down_proj"
        ),
    ]  # fmt: skip
    matrices += _shared(made, hidden, shape)
    experts = Experts(shape.count, shape.topk, hidden, shape.inner)
    return Half(tuple(matrices), experts=experts, vectors=shape.count if shape.correction else 0)


def _shared(made: Site, hidden: int, shape: Routed) -> list[Matrix]:
    if not shape.shared:
        return []
    site = made.at(shape.shared_path)
    up = 2 if shape.gated else 1
    name = "shared_gate_up_proj" if shape.gated else "shared_up_proj"
    module = "gate_proj" if shape.gated else "up_proj"
    matrices = [
        site.matrix(module, hidden, up * shape.shared, "shared", "out", name=name),
        site.matrix("down_proj", shape.shared, hidden, "shared", "in", name="shared_down_proj"),
    ]
    if shape.shared_gate:
        matrices.append(made.matrix("shared_expert_gate", hidden, 1, "shared", "none", fixed=True))
    return matrices
