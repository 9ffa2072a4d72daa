"""The factors that a calibration may turn: each multiplies one physical number of a device family, or of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tokenworks.costs.arrays import Floats
from tokenworks.specs.calibration import Calibration, Family
from tokenworks.specs.provenance import Quantity

UTILISATIONS = (
    "gemm", "grouped", "hbm", "attention_prefill", "attention_hbm", "scale_up", "dispatch_up",
)  # fmt: skip
LATENCIES = ("kernel", "attention_start", "experts_start", "collective_start", "dispatch_start")
GLOBAL = {"unhidden": 0.1, "skew": 0.2, "acceptance": 0.2}
"""Constants of all families, and how far each may lie from its prior, as a log-deviation [-]."""

RATES_MEASURED, STARTS_MEASURED, ASSUMED = 0.03, 0.07, 0.15
"""The same of a family's own: what a kernel table measured moves little, a latency more, as each engine launches its
own kernels, and what nobody measured moves most."""

MOST = 0.98
"""No share is fitted above this [-]."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One constant: `field` of a family (None: of all) is multiplied by exp(theta); `spread` is theta's prior.

    `gemm` is the rate in every dtype, `gemm.fp8` in one.
    """

    family: str | None
    field: str
    spread: float

    @property
    def name(self) -> str:
        """As it is printed."""
        return f"{self.family}.{self.field}" if self.family else self.field


def factors_of(families: Iterable[str], prior: Calibration, *, only_assumed: bool = False) -> tuple[Factor, ...]:
    """All that can be turned for the families that were measured.

    Parameters
    ----------
    only_assumed : leave what a kernel table measured as it is
    """
    own = [
        Factor(name, field, _freedom(prior.families[name], field))
        for name in families
        for field in (*UTILISATIONS, *LATENCIES)
        if not only_assumed or _quantity(prior.families[name], field).assumed
    ]
    shared = [
        Factor(None, field, spread)
        for field, spread in GLOBAL.items()
        if not only_assumed or getattr(prior, field).assumed
    ]
    return (*own, *shared)


def _quantity(family: Family, field: str) -> Quantity:
    """The rate of GEMM goes by the first dtype of the family."""
    found = next(iter(family.gemm.values())) if field == "gemm" else getattr(family, field)
    assert isinstance(found, Quantity)
    return found


def _freedom(family: Family, field: str) -> float:
    """By what the prior rests on."""
    if _quantity(family, field).assumed:
        return ASSUMED
    return STARTS_MEASURED if field in LATENCIES else RATES_MEASURED


def turned(calibration: Calibration, factors: Sequence[Factor], theta: Floats) -> Calibration:
    """The calibration with its factors turned. A family that borrows from another one follows it."""
    families = dict(calibration.families)
    changes: dict[str, Quantity] = {}
    for factor, value in zip(factors, theta, strict=True):
        by = float(np.exp(value))
        if factor.family is None:
            changes[factor.field] = _scaled(getattr(calibration, factor.field), by, share=factor.field != "skew")
            continue
        families[factor.family] = _turn(families[factor.family], factor.field, by)
    return calibration.model_copy(update={"families": families, **changes})


def _turn(family: Family, field: str, by: float) -> Family:
    if field == "gemm":
        return family.model_copy(
            update={"gemm": {key: _scaled(util, by, share=True) for key, util in family.gemm.items()}}
        )
    if "." in field:
        name, _, dtype = field.partition(".")
        rates = getattr(family, name)
        return family.model_copy(update={name: {**rates, dtype: _scaled(rates[dtype], by, share=True)}})
    return family.model_copy(update={field: _scaled(getattr(family, field), by, share=field in UTILISATIONS)})


def _scaled(found: Quantity, by: float, *, share: bool) -> Quantity:
    assert found.value is not None
    value = found.value * by
    return found.model_copy(update={"value": min(value, max(MOST, found.value)) if share else value})
