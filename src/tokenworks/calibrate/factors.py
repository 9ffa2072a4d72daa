"""The factors that a fit may change: each multiplies a number of the calibration, for one, several or all families."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, Family
from tokenworks.specs.interval import vendor_of
from tokenworks.specs.provenance import Quantity

SHARED = {
    "sequence": 0.4,
    "elementwise": 0.2,
    "skew": 0.1,
    "rank_skew": 0.1,
    "acceptance": 0.03,
    "later_acceptance": 0.06,
}
"""Constants of the whole calibration with their freedom: the standard deviation of log(fitted / prior) [-].
All freedoms here are assumed: large if the prior is a guess, small if points say little about the constant."""

IN_SITU = {
    "kernel": 0.2, "attention_start": 0.2, "experts_start": 0.2, "expert": 0.2, "collective_start": 0.2,
    "dispatch_up": 0.2, "experts_hbm": 0.2,
}  # fmt: skip
"""Freedom of factors that the families of all measured vendors share on top of their kernel tables: a kernel inside a
captured step is fused with other kernels, and others wait for it, so its time differs from the kernel tables. Experts
of a table are equally popular and run alone: in a step some are more popular, and weights are read at a lower rate [-].
"""

ALL = "all"
"""Label of a factor of the families of all vendors with measured points. Such a factor also changes the numbers that
these families lend. The numbers of other vendors stay: points of NVIDIA and AMD say nothing about them."""

UTILISATIONS = (
    "gemm", "grouped", "hbm", "experts_hbm", "attention_prefill", "attention_decode", "attention_hbm", "latent_decode",
    "scale_up", "dispatch_up",
)  # fmt: skip
SHARES = (*UTILISATIONS, "elementwise", "acceptance", "later_acceptance")
LATENCIES = ("kernel", "walk", "attention_start", "experts_start", "expert", "collective_start", "dispatch_start")
REQUEST = ("request", 0.7)
"""Time of client, HTTP and tokeniser, which only a fit of an own machine changes, and its freedom [-]. Points of many
servers say 15 to 75 ms around 30 ms (catalog/engines), which is a factor of 2.2: 80 % of a normal distribution with 0.7
lie within a factor of 2.4."""
OF_MEASURED = ("grouped", "hbm", "experts_hbm")
OF_ASSUMED = ("gemm", "grouped", "hbm", "experts_hbm")
"""Numbers that are fitted per family: the first list if its prior comes from kernel tables, the second if assumed."""

OF_VENDOR = ("attention_decode", "attention_hbm", "kernel", "attention_start", "experts_start", "collective_start")
"""Numbers that all families of a vendor share in the fit, if their priors are assumed: they run the same software."""

MEASURED, ASSUMED = 0.05, 0.2
"""Freedom of the numbers of one family: measured by a kernel table, and assumed [-]."""

BLOCKWISE = 0.3
"""Freedom of the kernel latencies with FP8 in blocks, per engine and vendor [-]."""

MOST = 0.98
"""Largest value of a fitted share [-]."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of a fit: it multiplies the number `field` by exp(theta).

    Parameters
    ----------
    families : families with the number; () for a number of the whole calibration
    field : name of the number; `field.key` for one entry, such as `gemm.fp8`
    spread : freedom, the standard deviation of theta around 0 [-]
    label : one word for the families
    """

    families: tuple[str, ...]
    field: str
    spread: float
    label: str = ""

    @property
    def name(self) -> str:
        """Name of the factor in results, such as `nvidia-hopper.hbm`."""
        return f"{self.label}.{self.field}" if self.label else self.field


def factors_of(families: Iterable[str], prior: Calibration, *, only_assumed: bool = False) -> tuple[Factor, ...]:
    """All factors of a fit.

    Parameters
    ----------
    families : families with measured points. Factors of all families also change other families of the same vendors
    prior : calibration that the fit starts from
    only_assumed : True: leave out numbers that a kernel table measured

    Raises
    ------
    SpecError : no factor is left
    """
    measured = sorted(families)
    vendors = sorted({vendor_of(name) for name in measured})
    everywhere = tuple(name for name in sorted(prior.families) if vendor_of(name) in vendors)
    factors = [Factor((), field, spread) for field, spread in SHARED.items()]
    factors += [Factor(everywhere, field, spread, ALL) for field, spread in IN_SITU.items()]
    for name in measured:
        family = prior.families[name]
        known = not quantities(family, "hbm")[0].assumed
        fields = OF_MEASURED if known else OF_ASSUMED
        factors += [Factor((name,), field, MEASURED if known else ASSUMED, name) for field in fields]
    for vendor in vendors:
        alike = tuple(name for name in everywhere if vendor_of(name) == vendor)
        if all(quantities(prior.families[name], "hbm")[0].assumed for name in alike):
            factors += [Factor(alike, field, ASSUMED, vendor) for field in OF_VENDOR]
        engines = sorted({engine for name in alike for engine in prior.families[name].blockwise})
        factors += [Factor(alike, f"blockwise.{engine}", BLOCKWISE, vendor) for engine in engines]
    free = tuple(one for one in factors if not only_assumed or _assumed(one, prior))
    if not free:
        raise SpecError(f"has no assumed number for {', '.join(measured)}", where=f"calibration {prior.name}",
                        hint="without --only-assumed, measured numbers are also fitted")  # fmt: skip
    return free


def _assumed(factor: Factor, prior: Calibration) -> bool:
    if not factor.families:
        return bool(getattr(prior, factor.field).assumed)
    return all(q.assumed for name in factor.families for q in quantities(prior.families[name], factor.field))


def quantities(family: Family, field: str) -> list[Quantity]:
    """The numbers of a field: one number, or one per key (such as a dtype); none if the family leaves the field out.

    Parameters
    ----------
    family : the device family
    field : name of the field; `field.key` for the number of one key
    """
    field, _, key = field.partition(".")
    content = getattr(family, field)
    if content is None:
        return []
    if isinstance(content, Quantity):
        return [content]
    return [value for name, value in content.items() if key in ("", name)]


def changed(family: Family, field: str, change: Callable[[Quantity], Quantity]) -> Family:
    """The family with changed numbers of one field; the same family if it leaves the field out.

    Parameters
    ----------
    family : the device family
    field : name of the field; `field.key` for the number of one key
    change : gives the new number for an old one
    """
    field, _, key = field.partition(".")
    content = getattr(family, field)
    if content is None:
        return family
    updated: Any = (
        change(content)
        if isinstance(content, Quantity)
        else {name: change(one) if key in ("", name) else one for name, one in content.items()}
    )
    return family.model_copy(update={field: updated})


def each(calibration: Calibration, factor: Factor, change: Callable[[Quantity], Quantity]) -> Calibration:
    """The calibration with all numbers of a factor changed. A factor of all families also changes lent numbers.

    Parameters
    ----------
    calibration : the calibration
    factor : the factor
    change : gives the new number for an old one
    """
    if not factor.families:
        return calibration.model_copy(update={factor.field: change(getattr(calibration, factor.field))})
    own = {name: changed(calibration.families[name], factor.field, change) for name in factor.families}
    lent = calibration.lent
    if factor.label == ALL:
        lent = lent | {name: changed(lent[name], factor.field, change) for name in factor.families if name in lent}
    return calibration.model_copy(update={"families": calibration.families | own, "lent": lent})


def turned(calibration: Calibration, factors: Sequence[Factor], theta: Floats) -> Calibration:
    """The calibration with all its factors applied. Borrowing families change only with factors of all families.

    Parameters
    ----------
    calibration : the calibration
    factors : the factors
    theta : logarithm of each factor [-]
    """
    for factor, value in zip(factors, theta, strict=True):
        share = factor.field.partition(".")[0] in SHARES
        calibration = each(calibration, factor, partial(_scaled, by=float(np.exp(value)), share=share))
    return calibration


def _scaled(quantity: Quantity, *, by: float, share: bool) -> Quantity:
    assert quantity.value is not None
    value = quantity.value * by
    return quantity.model_copy(update={"value": min(value, max(MOST, quantity.value)) if share else value})
