"""Layers with a recurrent state as matrices: gated delta net, Kimi delta attention, Mamba 1 and 2, and others."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    full_gate, full_decay : True if the output gate, or the decay, of Kimi delta attention has full rank
    path : module path
    vectors : elements of its small weights; 0 = those of the paper [count]
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int
    state_bytes: int = 4
    full_gate: bool = True
    full_decay: bool = False
    path: str = "linear_attn"
    vectors: int = 0


def delta_state(name: str, shape: Delta) -> State:
    """State of a delta-rule layer: a key_dim x value_dim matrix per value head, and the last inputs of the convolution.

    For each token, a kernel scales the matrix by a decay, reads it with the key, adds an outer product, and reads it
    with the query: 7 FLOP per element (Gated DeltaNet, arXiv:2412.06464, eq. 10). The convolution does 2 x taps FLOP
    per channel.
    """
    elements = shape.value_heads * shape.key_dim * shape.value_dim
    channels = 2 * shape.key_heads * shape.key_dim + shape.value_heads * shape.value_dim
    size = elements * float(shape.state_bytes) + channels * (shape.taps - 1) * CONV_BYTES
    return State(name, size, 7.0 * elements + 2.0 * shape.taps * channels, shape.value_heads)


def gated_delta(site: Place, hidden: int, shape: Delta) -> Half:
    """Gated delta net (arXiv:2412.06464) of Qwen3-Next and Qwen3.5 (transformers qwen3_5)."""
    at = site.at(shape.path)
    keys, values = shape.key_heads * shape.key_dim, shape.value_heads * shape.value_dim
    matrices = (
        at.matrix("in_proj_qkv", hidden, 2 * keys + values, "attention", "out"),
        at.matrix("in_proj_z", hidden, values, "attention", "out"),
        at.matrix("in_proj_b", hidden, shape.value_heads, "attention", "out"),
        at.matrix("in_proj_a", hidden, shape.value_heads, "attention", "out"),
        at.matrix("out_proj", values, hidden, "attention", "in"),
    )
    vectors = shape.vectors or shape.taps * (2 * keys + values) + 2 * shape.value_heads + shape.value_dim
    return Half(matrices, state=delta_state("GDN", shape), vectors=vectors)


def kimi_delta(site: Place, hidden: int, shape: Delta) -> Half:
    """Kimi delta attention: each channel has its own decay, from a low-rank map (Kimi Linear, arXiv:2510.26692).

    The output gate has full rank in Kimi-K3, and low rank in Kimi-Linear.
    """
    at = site.at(shape.path)
    wide, dim = shape.value_heads * shape.value_dim, shape.key_dim
    gate = ["g_proj"] if shape.full_gate else ["g_a_proj", "g_b_proj"]
    sizes = {
        "q_proj": (hidden, wide), "k_proj": (hidden, wide), "v_proj": (hidden, wide), "f_a_proj": (hidden, dim),
        "f_b_proj": (dim, wide), "b_proj": (hidden, shape.value_heads), "g_proj": (hidden, wide),
        "g_a_proj": (hidden, dim), "g_b_proj": (dim, wide), "f_proj": (hidden, wide),
    }  # fmt: skip
    decay = ["f_proj"] if shape.full_decay else ["f_a_proj", "f_b_proj"]
    names = ["q_proj", "k_proj", "v_proj", *decay, "b_proj", *gate]
    matrices = [
        at.matrix(name, *sizes[name], "attention", "none" if name.endswith("a_proj") else "out") for name in names
    ]
    matrices.append(at.matrix("o_proj", wide, hidden, "attention", "in"))
    vectors = shape.vectors or 3 * shape.taps * wide + shape.value_heads + wide + shape.value_dim
    return Half(tuple(matrices), state=delta_state("KDA", shape), vectors=vectors)


@dataclass(frozen=True)
class Mamba:
    """Shape of a Mamba mixer.

    Parameters
    ----------
    heads, head_dim : heads and their size; Mamba-1: channels, and 1 [count]
    state : state elements per channel [count]
    taps : taps of the short convolution [count]
    groups : groups of heads that share B and C, like KV heads share keys [count]
    rank : rank of the time step of Mamba-1 [count]
    state_bytes : size of an element of the state [byte/element]
    conv_bias, bias : True if the convolution, or the projections, have a bias
    gated_norm : True if the output has a gated norm
    norms : elements of other norms [count]
    path : module path
    """

    heads: int
    head_dim: int
    state: int
    taps: int
    groups: int = 1
    rank: int = 0
    state_bytes: int = 4
    conv_bias: bool = True
    bias: bool = False
    gated_norm: bool = True
    norms: int = 0
    path: str = ""


def mamba2(site: Place, hidden: int, shape: Mamba) -> Half:
    """Mamba-2 (arXiv:2405.21060) of Nemotron-H (transformers nemotron_h).

    For each token, a kernel scales the state by a decay, adds an outer product and reads the state: 5 FLOP per element.
    """
    at = site.at(shape.path)
    inner, mixed = shape.heads * shape.head_dim, 2 * shape.groups * shape.state
    channels = inner + mixed
    matrices = (
        at.matrix("in_proj", hidden, inner + channels + shape.heads, "attention", "out", bias=shape.bias),
        at.matrix("out_proj", inner, hidden, "attention", "in", bias=shape.bias),
    )
    # convolution; A, D and step bias of each head; gated norm
    vectors = (shape.taps + shape.conv_bias) * channels + 3 * shape.heads + shape.gated_norm * inner + shape.norms
    return Half(matrices, state=_scanned("Mamba-2", inner, channels, shape), vectors=vectors)


def _scanned(name: str, inner: int, channels: int, shape: Mamba) -> State:
    """State of a selective scan: `state` elements per channel, and the last inputs of the convolution."""
    elements = inner * shape.state
    size = elements * float(shape.state_bytes) + channels * (shape.taps - 1) * CONV_BYTES
    return State(name, size, 5.0 * elements + 2.0 * shape.taps * channels, shape.heads)


def mamba1(site: Place, hidden: int, shape: Mamba) -> Half:
    """Mamba-1 (arXiv:2312.00752, section 3.4): each channel has its own A, and its time step is a low-rank map."""
    at = site.at(shape.path)
    inner = shape.heads * shape.head_dim
    matrices = (
        at.matrix("in_proj", hidden, 2 * inner, "attention", "out", bias=shape.bias),
        at.matrix("x_proj", inner, shape.rank + 2 * shape.state, "attention", "in"),
        at.matrix("dt_proj", shape.rank, inner, "attention", "out", bias=True),
        at.matrix("out_proj", inner, hidden, "attention", "in", bias=shape.bias),
    )
    vectors = (shape.taps + shape.conv_bias) * inner + (shape.state + 1) * inner + shape.norms
    return Half(matrices, state=_scanned("Mamba-1", inner, inner, shape), vectors=vectors)


@dataclass(frozen=True)
class Short:
    """Shape of a gated short convolution: channels, taps, and whether there are biases.

    Parameters
    ----------
    channels : channels of the convolution [count]
    taps : taps [count]
    bias : True if convolution and projections have a bias
    path : module path
    """

    channels: int
    taps: int
    bias: bool = False
    path: str = "conv"


def short_conv(site: Place, hidden: int, shape: Short) -> Half:
    """Gated short convolution of LFM2 (arXiv:2511.23404, section 2): two gates and the input come from one matrix."""
    at = site.at(shape.path)
    matrices = (
        at.matrix("in_proj", hidden, 3 * shape.channels, "attention", "out", bias=shape.bias),
        at.matrix("out_proj", shape.channels, hidden, "attention", "in", bias=shape.bias),
    )
    size = shape.channels * (shape.taps - 1) * CONV_BYTES
    state = State("short conv", size, (2.0 * shape.taps + 2) * shape.channels, shape.channels)
    return Half(matrices, state=state, vectors=(shape.taps + shape.bias) * shape.channels)


@dataclass(frozen=True)
class Recurrent:
    """Shape of any other layer with a recurrent state, by its weights and its state.

    Parameters
    ----------
    label : kind of layer
    heads : heads that tp divides [count]
    state : elements of the state of a sequence [count]
    inputs : name of each matrix that reads the hidden state -> its output features [count]
    output : input features of the output projection; 0 = none [count]
    vectors : elements of small weights [count]
    conv : elements of the last inputs of a convolution [count]
    state_bytes : size of an element of the state [byte/element]
    times : states that the layer has, one for each pass of a loop over the layers [count]
    path : module path
    """

    label: str
    heads: int
    state: int = 0
    inputs: dict[str, int] = field(default_factory=dict)
    output: int = 0
    vectors: int = 0
    conv: int = 0
    state_bytes: int = 4
    times: int = 1
    path: str = "self_attn"


def recurrent(site: Place, hidden: int, shape: Recurrent) -> Half:
    """A linear attention whose state is scaled, gets an outer product, and is read: 5 FLOP per element and token."""
    at = site.at(shape.path)
    matrices = [at.matrix(name, hidden, outputs, "attention", "out") for name, outputs in shape.inputs.items()]
    if shape.output:
        matrices.append(at.matrix("o_proj", shape.output, hidden, "attention", "in"))
    size = shape.times * (shape.state * float(shape.state_bytes) + shape.conv * CONV_BYTES)
    state = State(shape.label, size, 5.0 * shape.times * shape.state, shape.heads)
    return Half(tuple(matrices), state=state, vectors=shape.vectors)
