"""Which checkpoint a measured point means: a model and the dtype that its weights were stored in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.hf import load_model
from tokenworks.specs.hf.formats import FP8, NVFP4, integers
from tokenworks.specs.model import BF16, Block, Format, Matrix, Model

CLASSES = {
    "nvfp4": "fp4", "nvfp4-w4a16": "fp4", "mxfp4": "fp4", "fp8": "fp8", "fp8-block": "fp8", "int4": "int4",
    "int8": "int8", "bf16": "bf16", "fp16": "bf16",
}  # fmt: skip
"""Stored format -> the word that measured points use for it."""

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
"""The usual recipe of a dtype: every linear layer of the blocks; routers, embeddings and heads stay in 16 bits; with
4-bit floats and routed experts, attention does, too (as modelopt's NVFP4 recipes for DeepSeek, GLM and MiniMax)."""


@functools.cache
def checkpoint(name: str, weights: str) -> Model:
    """The model, its weights stored in a dtype.

    Its own checkpoint where that stores linear layers so (mixed ones count as each of theirs); else the catalog's
    checkpoint of that dtype, its own publisher's or NVIDIA's; else the model restated by the dtype's usual recipe, with
    a note that says so.

    Parameters
    ----------
    weights : bf16, fp8, fp4, int4 or int8; or native: as the checkpoint of that name stores them

    Raises
    ------
    SpecError : a model or a dtype that is not known
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
                found = load_model(f"{publisher}/{short}{suffix}")
            except UnknownName:
                continue
            if weights in _stored(found):
                return found
    return restated(own, weights)


def restated(model: Model, weights: str) -> Model:
    """The same shapes, stored in another dtype by its usual recipe."""
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
    """The model with a draft of its own: one more layer like its last that attends, where it brings no draft layers.

    EAGLE heads are one layer of the model's width. Of a model with experts theirs is dense, so this one reads somewhat
    more at large batches: at most one layer's share a draft token.

    References
    ----------
    [1] Li et al., EAGLE-3, arXiv:2503.01840, section 3.
    """
    if model.draft:
        return model
    last = next(block for block in reversed(model.blocks) if block.scans)
    return replace(model, draft=(replace(last, name="draft layer", count=1),))


def _stored(model: Model) -> set[str]:
    """Dtypes of the linear layers; 16 bits count only where nothing is quantised."""
    found = {CLASSES.get(m.format.name, m.format.name) for b in model.blocks for m in b.matrices if m.part != "router"}
    return found if found == {"bf16"} else found - {"bf16"}
