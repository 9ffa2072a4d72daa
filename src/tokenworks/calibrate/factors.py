"""The factors that a calibration may turn: each multiplies one physical number, of some device families or of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, Family
from tokenworks.specs.provenance import Quantity

SHARED = {"sequence": 0.4, "elementwise": 0.4, "skew": 0.1, "acceptance": 0.2}
"""Constants of the whole calibration, and how far each may lie from its prior, as a log-deviation [-].
Like all such freedoms here it is assumed: wide where the prior is a guess, narrow where points tell little of it."""

IN_SITU = {
    "kernel": 0.2, "attention_start": 0.2, "experts_start": 0.2, "expert": 0.2, "collective_start": 0.2,
    "dispatch_up": 0.2,
}  # fmt: skip
"""The same of what all families have alike beside their tables: a kernel inside a captured step, fused with others and
waited for by others, is not the kernel that a table measures by itself."""

ALL = "all"
"""Label of a factor of all families, which turns what they lend, too."""

UTILISATIONS = (
    "gemm", "grouped", "hbm", "experts_hbm", "attention_prefill", "attention_decode", "attention_hbm", "scale_up",
    "dispatch_up",
)  # fmt: skip
SHARES = (*UTILISATIONS, "elementwise", "acceptance")
LATENCIES = ("kernel", "walk", "attention_start", "experts_start", "expert", "collective_start", "dispatch_start")
OF_MEASURED = ("grouped", "hbm", "experts_hbm")
OF_ASSUMED = ("gemm", "grouped", "hbm", "experts_hbm")
"""What is fitted of a family itself, by whether its numbers are of kernel tables or assumed."""

OF_VENDOR = ("attention_decode", "attention_hbm", "kernel", "attention_start", "experts_start", "collective_start")
"""What is fitted of all families of a vendor alike, where they are assumed: the same software runs on them."""

MEASURED, ASSUMED = 0.05, 0.2
"""The same of a family's own: what a kernel table measured, and what nobody did."""

BLOCKWISE = 0.3
"""The same of what engines lose on FP8 in blocks, by vendor."""

MOST = 0.98
"""No share is fitted above this [-]."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One constant: `field` of `families` (none: of the calibration) is multiplied by exp(theta).

    spread : of theta's prior; label : the families in a word
    """

    families: tuple[str, ...]
    field: str
    spread: float
    label: str = ""

    @property
    def name(self) -> str:
        """As it is printed."""
        return f"{self.label}.{self.field}" if self.label else self.field


def factors_of(families: Iterable[str], prior: Calibration, *, only_assumed: bool = False) -> tuple[Factor, ...]:
    """All that can be turned where some families were measured.

    Parameters
    ----------
    families : with measured points; what is fitted for all turns in the others, too
    only_assumed : leave what a kernel table measured as it is

    Raises
    ------
    SpecError : nothing is left to turn
    """
    measured = sorted(families)
    everywhere = tuple(sorted(prior.families))
    made = [Factor((), field, spread) for field, spread in SHARED.items()]
    made += [Factor(everywhere, field, spread, ALL) for field, spread in IN_SITU.items()]
    for name in measured:
        family = prior.families[name]
        known = not quantities(family, "hbm")[0].assumed
        fields = OF_MEASURED if known else OF_ASSUMED
        made += [Factor((name,), field, MEASURED if known else ASSUMED, name) for field in fields]
    for vendor in sorted({name.split("-")[0] for name in measured}):
        alike = tuple(name for name in everywhere if name.split("-")[0] == vendor)
        if all(quantities(prior.families[name], "hbm")[0].assumed for name in alike):
            made += [Factor(alike, field, ASSUMED, vendor) for field in OF_VENDOR]
        engines = sorted({engine for name in alike for engine in prior.families[name].blockwise})
        made += [Factor(alike, f"blockwise.{engine}", BLOCKWISE, vendor) for engine in engines]
    free = tuple(one for one in made if not only_assumed or _assumed(one, prior))
    if not free:
        raise SpecError(f"assumes nothing of {', '.join(measured)}", where=f"calibration {prior.name}",
                        hint="fit what is measured, too: without --only-assumed")  # fmt: skip
    return free


def _assumed(factor: Factor, prior: Calibration) -> bool:
    if not factor.families:
        return bool(getattr(prior, factor.field).assumed)
    return all(q.assumed for name in factor.families for q in quantities(prior.families[name], factor.field))


def quantities(family: Family, field: str) -> list[Quantity]:
    """The numbers of a field: one, or one for each dtype; `field.key` is one entry of a field with keys."""
    field, _, key = field.partition(".")
    found = getattr(family, field)
    if isinstance(found, Quantity):
        return [found]
    return [value for name, value in found.items() if key in ("", name)]


def changed(family: Family, field: str, change: Callable[[Quantity], Quantity]) -> Family:
    """The family with these numbers changed."""
    field, _, key = field.partition(".")
    found = getattr(family, field)
    made: Any = (
        change(found)
        if isinstance(found, Quantity)
        else {name: change(one) if key in ("", name) else one for name, one in found.items()}
    )
    return family.model_copy(update={field: made})


def each(calibration: Calibration, factor: Factor, change: Callable[[Quantity], Quantity]) -> Calibration:
    """The calibration with all numbers of a factor changed, lent ones too if it is of all families."""
    if not factor.families:
        return calibration.model_copy(update={factor.field: change(getattr(calibration, factor.field))})
    own = {name: changed(calibration.families[name], factor.field, change) for name in factor.families}
    lent = calibration.lent
    if factor.label == ALL:
        lent = {name: changed(family, factor.field, change) for name, family in lent.items()}
    return calibration.model_copy(update={"families": calibration.families | own, "lent": lent})


def turned(calibration: Calibration, factors: Sequence[Factor], theta: Floats) -> Calibration:
    """The calibration with its factors turned. A family that borrows follows those of all families alone."""
    for factor, value in zip(factors, theta, strict=True):
        share = factor.field.partition(".")[0] in SHARES
        calibration = each(calibration, factor, partial(_scaled, by=float(np.exp(value)), share=share))
    return calibration


def _scaled(found: Quantity, *, by: float, share: bool) -> Quantity:
    assert found.value is not None
    value = found.value * by
    return found.model_copy(update={"value": min(value, max(MOST, found.value)) if share else value})
