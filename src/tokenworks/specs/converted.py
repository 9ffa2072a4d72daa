"""Weights that are converted for a device: FP8 weights as INT8, for a device that serves no FP8 checkpoint."""

from __future__ import annotations

from dataclasses import replace

from tokenworks.specs.hf.formats import integers
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Block, Matrix, Model

INT8 = integers(8, None, zeros=False, activations=8)
"""INT8 weights with one scale per output channel, multiplied with INT8 activations (W8A8)."""

STORED = {"fp8": ("fp8", "fp8-block")}
"""Dtype of published weights -> names of the storage formats that are converted."""


def converted_for(model: Model, machine: Machine) -> Model:
    """The model as the devices of a machine serve it.

    A device can name checkpoints that are converted for it (`checkpoints` in its file): an INT8 checkpoint takes the
    place of an FP8 one. Weights of other formats stay as they are.

    Parameters
    ----------
    model : the model, as it was published
    machine : the machine

    Returns
    -------
    The model with converted weights and a note about them in `converted`; or the same model.
    """
    stored = {name for dtype in machine.checkpoints for name in STORED[dtype]}
    blocks, draft = (tuple(_block(one, stored) for one in part) for part in (model.blocks, model.draft))
    if not stored or blocks == model.blocks:
        return model
    note = (
        f"Weights: {model.name} was published in FP8. {machine.device} serves no FP8 checkpoint, so the weights here "
        "are converted to INT8: one byte per weight, multiplied with INT8 activations (W8A8)."
    )
    return replace(model, blocks=blocks, draft=draft, converted=note)


def _block(block: Block, stored: set[str]) -> Block:
    return replace(block, matrices=tuple(_matrix(one, stored) for one in block.matrices))


def _matrix(matrix: Matrix, stored: set[str]) -> Matrix:
    return replace(matrix, format=INT8) if matrix.format.name in stored else matrix
