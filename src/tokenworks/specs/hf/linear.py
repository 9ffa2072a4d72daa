"""Linear attention as matrices and recurrent states: gated delta net, Kimi delta attention, Mamba-2."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.specs.hf.parts import Half, Place
from tokenworks.specs.model import State

CONV_BYTES = 2.0  # the state has the last inputs of the short convolution, in 16 bits [byte/element]


@dataclass(frozen=True)
class Delta:
    """Shape of a delta-rule layer.

    Parameters
    ----------
    key_heads, value_heads : heads of keys and of values [count]
    key_dim, value_dim : size of a key and of a value per head [count]
    taps : taps of the short convolution [count]
    state_bytes : size of an element of the state [byte/element]
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int
    state_bytes: float = 4.0


def delta_state(name: str, shape: Delta) -> State:
    """State of a delta-rule layer: a key_dim x value_dim matrix per value head, and the last inputs of the convolution.

    For each token, a kernel scales the matrix by a decay, reads it with the key, adds an outer product, and reads it
    with the query: 7 FLOP per element (Gated DeltaNet, arXiv:2412.06464, eq. 10). The convolution does 2 x taps FLOP
    per channel.
    """
    elements = shape.value_heads * shape.key_dim * shape.value_dim
    channels = 2 * shape.key_heads * shape.key_dim + shape.value_heads * shape.value_dim
    size = elements * shape.state_bytes + channels * (shape.taps - 1) * CONV_BYTES
    return State(name, size, 7.0 * elements + 2.0 * shape.taps * channels, shape.value_heads)


def gated_delta(site: Place, hidden: int, shape: Delta) -> Half:
    """Gated delta net (arXiv:2412.06464) of Qwen3-Next and Qwen3.5 (transformers qwen3_5)."""
    at = site.at("linear_attn")
    keys, values = shape.key_heads * shape.key_dim, shape.value_heads * shape.value_dim
    matrices = (
        at.matrix("in_proj_qkv", hidden, 2 * keys + values, "attention", "out"),
        at.matrix("in_proj_z", hidden, values, "attention", "out"),
        at.matrix("in_proj_b", hidden, shape.value_heads, "attention", "out"),
        at.matrix("in_proj_a", hidden, shape.value_heads, "attention", "out"),
        at.matrix("out_proj", values, hidden, "attention", "in"),
    )
    vectors = shape.taps * (2 * keys + values) + 2 * shape.value_heads + shape.value_dim
    return Half(matrices, state=delta_state("GDN", shape), vectors=vectors)


def kimi_delta(site: Place, hidden: int, shape: Delta, *, full_rank_gate: bool) -> Half:
    """Kimi delta attention: each channel has its own decay, from a low-rank map (Kimi Linear, arXiv:2510.26692).

    The output gate has full rank in Kimi-K3, and low rank in Kimi-Linear.
    """
    at = site.at("self_attn")
    wide, dim = shape.value_heads * shape.value_dim, shape.key_dim
    gate = ["g_proj"] if full_rank_gate else ["g_a_proj", "g_b_proj"]
    sizes = {
        "q_proj": (hidden, wide), "k_proj": (hidden, wide), "v_proj": (hidden, wide), "f_a_proj": (hidden, dim),
        "f_b_proj": (dim, wide), "b_proj": (hidden, shape.value_heads), "g_proj": (hidden, wide),
        "g_a_proj": (hidden, dim), "g_b_proj": (dim, wide),
    }  # fmt: skip
    names = ["q_proj", "k_proj", "v_proj", "f_a_proj", "f_b_proj", "b_proj", *gate]
    matrices = [
        at.matrix(name, *sizes[name], "attention", "none" if name.endswith("a_proj") else "out") for name in names
    ]
    matrices.append(at.matrix("o_proj", wide, hidden, "attention", "in"))
    vectors = 3 * shape.taps * wide + shape.value_heads + wide + shape.value_dim
    return Half(tuple(matrices), state=delta_state("KDA", shape), vectors=vectors)


@dataclass(frozen=True)
class Mamba:
    """Shape of a Mamba-2 mixer.

    Parameters
    ----------
    heads, head_dim : heads and their size [count]
    groups : groups of heads that share B and C, like KV heads share keys [count]
    state : state elements per channel [count]
    taps : taps of the short convolution [count]
    state_bytes : size of an element of the state [byte/element]
    conv_bias, bias : True if the convolution, or the projections, have a bias
    """

    heads: int
    head_dim: int
    groups: int
    state: int
    taps: int
    state_bytes: float = 4.0
    conv_bias: bool = True
    bias: bool = False


def mamba2(site: Place, hidden: int, shape: Mamba) -> Half:
    """Mamba-2 (arXiv:2405.21060) of Nemotron-H (transformers nemotron_h).

    For each token, a kernel scales the state by a decay, adds an outer product and reads the state: 5 FLOP per element.
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
    # convolution; A, D and step bias of each head; gated norm
    vectors = (shape.taps + shape.conv_bias) * channels + 3 * shape.heads + inner
    return Half(matrices, state=state, vectors=vectors)
