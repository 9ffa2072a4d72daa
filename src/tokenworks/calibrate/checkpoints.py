"""Find the checkpoint of a measured point, from its model and the dtype of its weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.hf import load_model
from tokenworks.specs.hf.formats import FP8, NVFP4, integers
from tokenworks.specs.model import BF16, DTYPES, Block, Format, Matrix, Model

SUFFIXES = {"fp8": ("-FP8",), "fp4": ("-NVFP4",), "int4": (), "int8": (), "bf16": ("",)}
PUBLISHERS = ("nvidia",)

INT4, INT8 = integers(4, 128, zeros=True, activations=None), integers(8, None, zeros=False, activations=8)


def _all(form: Format) -> Callable[[Matrix, bool], Format]:
    return lambda matrix, routed: BF16 if matrix.part == "router" else form  # noqa: ARG005


def _four_bits(matrix: Matrix, routed: bool) -> Format:
    return BF16 if matrix.part == "router" or (routed and matrix.part in ("attention", "latent")) else NVFP4


RECIPES: dict[str, Callable[[Matrix, bool], Format]] = {
    "bf16": _all(BF16),
    "fp8": _all(FP8),
    "fp4": _four_bits,
    "int4": _all(INT4),
    "int8": _all(INT8),
}
"""The usual recipe of each dtype. It applies to every linear layer of the blocks. Routers, embeddings and output layers
stay in 16 bits. With 4-bit floats and routed experts, attention also stays in 16 bits (as in modelopt's NVFP4 recipes
for DeepSeek, GLM and MiniMax)."""


@functools.cache
def checkpoint(name: str, weights: str) -> Model:
    """The model with its weights in a dtype.

    The first of these that exists: the checkpoint of this name, if it stores linear layers in the dtype (a mixed
    checkpoint counts for each of its dtypes); a checkpoint of the catalog with this dtype, from the same publisher or
    from NVIDIA; the model converted by the usual recipe of the dtype, with a note.

    Parameters
    ----------
    name : name of the model
    weights : bf16, fp8, fp4, int4 or int8; or native: the formats of the checkpoint with this name

    Raises
    ------
    SpecError : the model or the dtype is unknown
    """
    if weights == "native":
        return load_model(name)
    if weights not in RECIPES:
        raise SpecError(f"weights {weights!r}", hint=f"want one of {', '.join(RECIPES)}")
    own = load_model(name)
    if weights in _stored(own):
        return own
    owner, _, short = own.name.partition("/")
    for publisher in (owner, *PUBLISHERS):
        for suffix in SUFFIXES[weights]:
            try:
                candidate = load_model(f"{publisher}/{short}{suffix}")
            except UnknownName:
                continue
            if weights in _stored(candidate):
                return candidate
    return restated(own, weights)


def restated(model: Model, weights: str) -> Model:
    """The model with the same shapes, in another dtype by its usual recipe.

    Parameters
    ----------
    model : the model
    weights : bf16, fp8, fp4, int4 or int8
    """
    form = RECIPES[weights]

    def block(one: Block) -> Block:
        routed = one.experts is not None
        return replace(one, matrices=tuple(replace(m, format=form(m, routed)) for m in one.matrices))

    note = f"assumed: {model.name} restated in {weights} by the usual recipe of that dtype"
    return replace(
        model,
        blocks=tuple(map(block, model.blocks)),
        draft=tuple(map(block, model.draft)),
        native_kv="fp8" if weights in ("fp8", "fp4") else "bf16",
        notes=(*model.notes, note),
    )


def drafted(model: Model) -> Model:
    """The model with draft layers. A model without any gets one: a copy of its last layer with attention.

    An EAGLE head is one layer with the width of the model. For a model with experts, the EAGLE layer is dense. The
    copied layer has experts, so it reads somewhat more at large batches: at most one layer per draft token.

    Parameters
    ----------
    model : the model

    References
    ----------
    [1] Li et al., EAGLE-3, arXiv:2503.01840, section 3.
    """
    if model.draft:
        return model
    last = next(block for block in reversed(model.blocks) if block.scans)
    return replace(model, draft=(replace(last, name="draft layer", count=1),))


def _stored(model: Model) -> set[str]:
    """Dtypes of the linear layers. bf16 counts only if nothing is quantised."""
    dtypes = {DTYPES.get(m.format.name, m.format.name) for b in model.blocks for m in b.matrices if m.part != "router"}
    return dtypes if dtypes == {"bf16"} else dtypes - {"bf16"}
