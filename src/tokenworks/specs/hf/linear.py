"""Linear attention as matrices and a recurrent state: gated delta net, Kimi delta attention, Mamba-2."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.specs.hf.parts import Half, Place
from tokenworks.specs.model import State

CONV_BYTES = 2.0  # the last inputs of the short convolution are kept in 16 bits


@dataclass(frozen=True)
class Delta:
    """Shape of a delta-rule layer: heads and head sizes of keys and values, taps of the short convolution,
    and the size of a stored state element [byte].
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int
    state_bytes: float = 4.0


def delta_state(name: str, shape: Delta) -> State:
    """State of a delta-rule layer: a key_dim x value_dim matrix per value head, and the convolution's last inputs.

    A token decays it, reads it with its key, adds an outer product and reads it with its query: 7 FLOP an element
    (Gated DeltaNet, arXiv:2412.06464, eq. 10); the convolution does 2 x taps per channel.
    """
    elements = shape.value_heads * shape.key_dim * shape.value_dim
    channels = 2 * shape.key_heads * shape.key_dim + shape.value_heads * shape.value_dim
    size = elements * shape.state_bytes + channels * (shape.taps - 1) * CONV_BYTES
    return State(name, size, 7.0 * elements + 2.0 * shape.taps * channels, shape.value_heads)


def gated_delta(site: Place, hidden: int, shape: Delta) -> Half:
    """Gated delta net (arXiv:2412.06464) as Qwen3-Next and Qwen3.5 build it (transformers qwen3_5)."""
    made = site.at("linear_attn")
    keys, values = shape.key_heads * shape.key_dim, shape.value_heads * shape.value_dim
    matrices = (
        made.matrix("in_proj_qkv", hidden, 2 * keys + values, "attention", "out"),
        made.matrix("in_proj_z", hidden, values, "attention", "out"),
        made.matrix("in_proj_b", hidden, shape.value_heads, "attention", "out"),
        made.matrix("in_proj_a", hidden, shape.value_heads, "attention", "out"),
        made.matrix("out_proj", values, hidden, "attention", "in"),
    )
    vectors = shape.taps * (2 * keys + values) + 2 * shape.value_heads + shape.value_dim
    return Half(matrices, state=delta_state("GDN", shape), vectors=vectors)


def kimi_delta(site: Place, hidden: int, shape: Delta, *, full_rank_gate: bool) -> Half:
    """Kimi delta attention: the decay is per channel, through a low-rank map (Kimi Linear, arXiv:2510.26692).

    The output gate is of full rank in Kimi-K3, low rank in Kimi-Linear.
    """
    made = site.at("self_attn")
    wide, dim = shape.value_heads * shape.value_dim, shape.key_dim
    gate = ["g_proj"] if full_rank_gate else ["g_a_proj", "g_b_proj"]
    sizes = {
        "q_proj": (hidden, wide), "k_proj": (hidden, wide), "v_proj": (hidden, wide), "f_a_proj": (hidden, dim),
        "f_b_proj": (dim, wide), "b_proj": (hidden, shape.value_heads), "g_proj": (hidden, wide),
        "g_a_proj": (hidden, dim), "g_b_proj": (dim, wide),
    }  # fmt: skip
    names = ["q_proj", "k_proj", "v_proj", "f_a_proj", "f_b_proj", "b_proj", *gate]
    matrices = [
        made.matrix(name, *sizes[name], "attention", "none" if name.endswith("a_proj") else "out") for name in names
    ]
    matrices.append(made.matrix("o_proj", wide, hidden, "attention", "in"))
    vectors = 3 * shape.taps * wide + shape.value_heads + wide + shape.value_dim
    return Half(tuple(matrices), state=delta_state("KDA", shape), vectors=vectors)


@dataclass(frozen=True)
class Mamba:
    """Shape of a Mamba-2 mixer; `groups` share B and C as KV heads share keys."""

    heads: int
    head_dim: int
    groups: int
    state: int
    taps: int
    state_bytes: float = 4.0
    conv_bias: bool = True
    bias: bool = False


def mamba2(site: Place, hidden: int, shape: Mamba) -> Half:
    """Mamba-2 (arXiv:2405.21060) as Nemotron-H builds it (transformers nemotron_h).

    A token decays the state, adds an outer product and reads it out: 5 FLOP an element.
    """
    inner, mixed = shape.heads * shape.head_dim, 2 * shape.groups * shape.state
    channels = inner + mixed
    matrices = (
        site.matrix("in_proj", hidden, inner + channels + shape.heads, "attention", "out", bias=shape.bias),
        site.matrix("out_proj", inner, hidden, "attention", "in", bias=shape.bias),
    )
    elements = inner * shape.state
    size = elements * shape.state_bytes + channels * (shape.taps - 1) * CONV_BYTES
    state = State("Mamba-2", size, 5.0 * elements + 2.0 * shape.taps * channels, shape.heads)
    # convolution, A, D and the step bias of each head, and the gated norm
    vectors = (shape.taps + shape.conv_bias) * channels + 3 * shape.heads + inner
    return Half(matrices, state=state, vectors=vectors)
