"""Storage formats of weights, and the format of each module of a checkpoint. `quantisation.py` reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tokenworks.specs.model import BF16, Format

FP32 = Format("fp32", 4.0, "fp32")
FP8 = Format("fp8", 1.0, "fp8")
NVFP4 = Format("nvfp4", 0.5 + 1 / 16, "fp4")
# Checkpoints with MXFP4 weights (gpt-oss, DeepSeek-V4) use 8-bit or 16-bit activations. The mixed FP4 x FP8 product of
# tensor cores runs at the FP8 rate.
MXFP4 = Format("mxfp4", 0.5 + 1 / 32, "fp8")

# OCP Microscaling Formats v1.0, section 5: an E8M0 scale for each 32 elements.
MXFP8 = Format("mxfp8", 1 + 1 / 32, "fp8")

Kind = Literal["linear", "experts", "fixed", "outer"]


def fp8_block(rows: int, columns: int) -> Format:
    """FP8 with one FP32 scale per block (DeepSeek-V3, arXiv:2412.19437, section 3.3.2)."""
    return Format("fp8-block", 1 + 4 / (rows * columns), "fp8")


def integers(bits: int, group: int | None, *, zeros: bool, activations: int | None) -> Format:
    """Integer weights with a 16-bit scale per group, and a zero point of `bits` if `zeros`. W4A16 multiplies in BF16.

    Parameters
    ----------
    bits : bits of a weight
    group : weights of a group; None = no groups [count]
    zeros : True if zero points are stored
    activations : bits of the activations; None = they are not quantised
    """
    scales = 0.0 if group is None else (16 + bits * zeros) / 8 / group
    return Format(f"int{bits}", bits / 8 + scales, "int8" if bits == 8 and activations == 8 else "bf16")


def nothing_kept(_: str) -> bool:
    """Matches no module."""
    return False


@dataclass(frozen=True)
class Formats:
    """The formats of the modules of a checkpoint.

    Parameters
    ----------
    plain : format of modules that are never quantised
    linear, experts : formats of quantised linear layers, and of routed experts
    kept : function that is True for the path of a module that is not quantised
    kept_as : format of these modules: plain, or FP8 if the base checkpoint was FP8
    overrides : pairs of a function on module paths and a format, which come before all other rules
    outer : format of embedding and output layer; None = they are not quantised
    native_kv : KV dtype of the checkpoint
    notes : facts for the user, such as assumed formats
    """

    plain: Format = BF16
    linear: Format = BF16
    experts: Format = BF16
    kept: Callable[[str], bool] = nothing_kept
    kept_as: Format = BF16
    overrides: tuple[tuple[Callable[[str], bool], Format], ...] = ()
    outer: Format | None = None
    native_kv: str = "bf16"
    notes: tuple[str, ...] = field(default=())

    @property
    def uniform(self) -> bool:
        """True if the format of a module depends only on its kind, not on its path."""
        return self.kept is nothing_kept and not self.overrides

    def of(self, module: str, kind: Kind) -> Format:
        """The format of a module, by its path in the checkpoint. Routers (`fixed`) are plain, and embeddings and output
        layers (`outer`) too, unless the method quantises them.
        """
        if kind == "outer":
            return self.outer or self.plain
        if kind == "fixed":
            return self.plain
        for matches, form in self.overrides:
            if matches(module):
                return form
        if self.kept(module):
            return self.kept_as
        return self.experts if kind == "experts" else self.linear
