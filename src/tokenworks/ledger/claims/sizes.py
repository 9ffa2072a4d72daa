"""Plans on domains of other sizes, and the smallest size that meets an SLO."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.ledger.claims.asks import ClaimAsk, PlanAsk
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.workers import Say
from tokenworks.planning.intervals import RatioInterval, ratio_interval
from tokenworks.planning.result import Ranked
from tokenworks.specs.compose import parts
from tokenworks.specs.deployment import EngineName
from tokenworks.specs.given import Given

ENGINE: EngineName = "sglang"
"""Engine of all plans that are compared with each other, so that no difference is one of engines. It is the engine that
the makers of the supernode adapt (C33)."""


SAME_CARD = 0.99
"""Correlation of the errors of two sizes of one card [-]. Nobody measured it. It is the largest one that a calibration
writes, so two sizes that this correlation does not tell apart cannot be told apart at all."""

UNCERTAIN = (
    "Two sizes are told apart only if the errors of both predictions are almost the same ones: the intervals assume a "
    f"correlation of {SAME_CARD} (assumed). Measured between different cards, the correlation is 0.00: with it, no two "
    "sizes here are told apart."
)


def size_ratio(one: Ranked, other: Ranked) -> RatioInterval:
    """Effective tokens per card of one size of a machine / those of another size of the same card, with `SAME_CARD`."""
    width = ratio_interval(one, other, SAME_CARD)
    value = one.effective_tok_s_per_device / other.effective_tok_s_per_device
    return RatioInterval(value * width.low / width.value, value, value * width.high / width.value)


def own_size(basis: Basis) -> int:
    """Cards of a domain of the supernode [count]."""
    return basis.parts(basis.mix.machine).domain


def sizes(basis: Basis) -> tuple[int, ...]:
    """The sizes of the mix, and that of the supernode, smallest first [count]."""
    return tuple(sorted({*basis.mix.domains, own_size(basis)}))


def size_plan(
    basis: Basis, model: str, size: int, *, domains: int = 1, workload: str | None = None, slo: str | None = None,
    simulate: bool = True,
) -> PlanAsk:  # fmt: skip
    """A plan on domains of another size, of the same card and fabric.

    Parameters
    ----------
    size : cards of a domain [count]
    domains : domains, connected by the network of the supernode [count]

    The other parameters are those of `Basis.plan`.
    """
    on, system = basis.mix.machine, system_of(basis.mix.machine)
    more: tuple[Given, ...] = ()
    if domains == 1 and size < basis.parts(on).system.host.devices:  # a part of a host
        on = f"{system}:{size}"
    elif size != own_size(basis) or domains > 1:
        on = system if domains == 1 else f"{domains}x{system}"
        more = tuple(Given(path=path, value=str(size), why="size of the domain") for path in ("devices", "domain"))
    return basis.plan(model, on, workload=workload, slo=slo, more=more, engine=ENGINE, simulate=simulate)


@dataclass(frozen=True, slots=True)
class SmallestSize:
    """The smallest machine for one SLO.

    Parameters
    ----------
    slo : the SLO, in words
    size : devices of the machine; None: no machine of the list meets the SLO [count]
    pressure : largest of time / bound of the deployment that decided [-]; None: there is none
    error : why no machine meets the SLO, in words; empty: one does
    """

    slo: str
    size: int | None
    pressure: float | None
    error: str = ""


@dataclass(frozen=True)
class SmallestAsk(ClaimAsk):
    """The smallest machine that meets each of several SLOs; the answer is a tuple of `SmallestSize`.

    Parameters
    ----------
    model, workload : what is served, for tables
    plans : for each SLO, the tightest first, the plans on all machines, the smallest first. A machine that meets an SLO
        meets all looser ones, and each larger machine meets them, too
    """

    model: str
    workload: str
    plans: tuple[tuple[PlanAsk, ...], ...]

    @property
    def name(self) -> str:
        """Model and workload."""
        return f"smallest machine for {self.model.rsplit('/', 1)[-1]}, {self.workload}"

    @property
    def command(self) -> str:
        """The first plan."""
        return self.plans[0][0].command

    @property
    def weight(self) -> float:
        """Mostly one small plan."""
        return 20.0

    def answer(self, say: Say | None) -> tuple[SmallestSize, ...]:
        """The sizes, in the order of the SLOs."""
        found: list[SmallestSize] = []
        least = len(self.plans[0])
        for plans in self.plans:
            one = self._of(plans[: least + 1], say)
            found.append(one)
            if one.size is not None:
                least = next(place for place, ask in enumerate(plans) if _devices(ask) == one.size)
        return tuple(found)

    def _of(self, plans: tuple[PlanAsk, ...], say: Say | None) -> SmallestSize:
        slo, error, pressure = plans[0].slo or "", "", None
        for ask in plans:
            study = ask.answer(say)
            if study.row is not None:
                return SmallestSize(slo, _devices(ask), study.row.slo_pressure)
            error, pressure = study.error, study.plan.best.slo_pressure if study.plan else None
        return SmallestSize(slo, None, pressure, error)


def _devices(ask: PlanAsk) -> int:
    return parts(ask.system, assume=ask.assume or None, devices=ask.devices).devices
