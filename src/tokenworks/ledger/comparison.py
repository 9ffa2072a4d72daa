"""The result of `compare`: machines side by side on the same work, ranked by what an equal share of each gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

from typing_extensions import TypedDict

from tokenworks.ledger.break_even import Effect
from tokenworks.ledger.compare_machines import Ratio
from tokenworks.ledger.curves import Crossover
from tokenworks.ledger.priced import Priced
from tokenworks.ledger.priced_plain import (
    BreakEvenPlain,
    CostPlain,
    SitePlain,
    break_even_plain,
    cost_plain,
    site_plain,
)
from tokenworks.ledger.ranked_machines import RankedMachines
from tokenworks.ledger.study import Best, Study, TierGain, TierUse, charged
from tokenworks.ledger.uptime import DeploymentUptime, SystemUptime
from tokenworks.planning.result import FrontPoint, RankedPlain, row_plain
from tokenworks.specs.result import Assumed, FormOf, Inputs, Plain, assumed_plain, envelope
from tokenworks.specs.shown import Record


@dataclass(frozen=True, slots=True)
class Compared:
    """One machine of a comparison.

    Parameters
    ----------
    system, title : names of the machine
    devices : devices that throughput is divided by [count]
    amount : amount of what is made equal: devices [count], power of the devices [kW], racks [count] or cost of an
        hour; None: not known
    effective_tok_s_per_unit : effective tokens per second of the mix, per unit of the amount, while no part fails;
        None: no value
    capacity : mean capacity that failures leave to the mix [-]; None: no value, or not known
    error : why there is no value, in words; "" for a machine with a value
    answers : one for each model
    costs : costs, place and break-even prices
    uptime : availability of the machine without software; None: not known
    """

    system: str
    title: str
    devices: int | None
    amount: float | None
    effective_tok_s_per_unit: float | None
    capacity: float | None
    error: str
    answers: tuple[Study, ...]
    costs: Priced
    uptime: SystemUptime | None

    @property
    def expected_tok_s_per_unit(self) -> float | None:
        """Effective tokens per second and unit in the mean over a long time, failures included; None: not known."""
        if self.effective_tok_s_per_unit is None or self.capacity is None:
            return None
        return self.effective_tok_s_per_unit * self.capacity


class CurvePlain(TypedDict):
    """A point of the curve of a machine: throughput of the machine and of a device against the speed per user."""

    output_tok_s_per_user: float
    output_tok_s_per_device: float
    output_tok_s: float
    ttft_slo_s: float
    engine: str
    label: str


class TierGainPlain(TypedDict):
    """KV tiers below HBM of the best deployment: `hbm`, then the tiers; and the same deployment without the tiers."""

    uses: list[Annotated[Plain, FormOf(TierUse)]]
    without_effective_tok_s: float
    without_meets_slo: bool


class AnswerPlain(TypedDict):
    """What a machine does with one model; None and empty lists if it cannot serve the model within the SLO.

    availability : how much of the time the best deployment serves
    tiers : KV tiers below HBM; None: the best deployment has none
    users : requests in flight, and users who think about the next turn
    parts : time of all devices per output token, part by part, with the roof that binds the part
    token_shares : share of the busy time by kind of token
    command : the command that prints the plan with these values
    """

    model: str
    weight: float
    error: str | None
    command: str
    best: RankedPlain | None
    availability: Annotated[Plain, FormOf(DeploymentUptime)] | None
    tiers: TierGainPlain | None
    effective_tok_s: float | None
    output_tok_s: float | None
    input_tok_s: float | None
    cached_tok_s: float | None
    users: float | None
    watts_per_device: float | None
    joules_per_effective_token: float | None
    token_shares: dict[str, float] | None
    parts: list[PartTimePlain]
    curve: list[CurvePlain]
    assumed: list[Assumed]
    settled: bool


class PartTimePlain(TypedDict):
    """A part of the time of all devices per output token; bound_by: the roof that binds the part."""

    part: str
    device_s_per_token: float
    bound_by: str | None


class UptimePlain(TypedDict):
    """How much of the time a machine works, without its software."""

    whole: float
    usable_devices: float
    failures_per_year: float
    assumed: list[Assumed]


class SystemPlain(TypedDict):
    """The plain form of a machine of a comparison.

    capacity : mean capacity that failures leave to the mix
    expected_tok_s_per_unit : effective_tok_s_per_unit x capacity
    availability : the machine without its software
    effects : what moves the break-even price against the first rival machine, the largest first
    """

    system: str
    title: str
    devices: int | None
    amount: float | None
    effective_tok_s_per_unit: float | None
    capacity: float | None
    expected_tok_s_per_unit: float | None
    error: str | None
    answers: list[AnswerPlain]
    availability: UptimePlain | None
    cost: CostPlain | None
    site: SitePlain | None
    break_even: list[BreakEvenPlain]
    effects: list[Annotated[Plain, FormOf(Effect)]]


class CompareBody(TypedDict):
    """The plain form of `compare`.

    equal : what the machines have equal amounts of; unit : its unit
    reliability : name of the failure rates; tiers : KV tiers that each plan may have, as `--tiers` names them
    currency : currency of all costs; terms : their conditions
    winner : the first system; None if no machine has a value
    why : why the winner wins, in words
    """

    inputs: Inputs
    models: list[dict[str, str | float]]
    equal: str
    unit: str
    reliability: str
    tiers: str
    currency: str
    terms: str
    notes: list[str]
    winner: str | None
    why: list[str]
    systems: list[SystemPlain]
    ratios: list[Annotated[Plain, FormOf(Ratio)]]
    crossovers: list[Annotated[Plain, FormOf(Crossover)]]


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Comparison(RankedMachines[Compared]):
    """The answer of `compare`.

    Parameters
    ----------
    models : model -> share of the effective tokens [-]
    tiers : KV tiers that each plan may have: auto, none or the name of a set-up
    crossovers : where another machine wins
    """

    RANKED_BY = "effective tokens/s"

    models: Mapping[str, float]
    tiers: str
    crossovers: tuple[Crossover, ...]

    @staticmethod
    def value_of(one: Compared) -> float | None:
        """Tokens per second and unit."""
        return one.effective_tok_s_per_unit

    def to_records(self) -> list[Record]:
        """One record a machine."""
        names = ("system", "title", "devices", "amount", "effective_tok_s_per_unit", "expected_tok_s_per_unit", "error")
        return [{name: getattr(one, name) for name in names} for one in self.systems]

    def plain(self) -> Plain:
        """The whole answer as plain data; only `wall` differs between two runs."""
        body: CompareBody = {
            "inputs": self.asked,
            "models": [{"model": model, "weight": weight} for model, weight in self.models.items()],
            "equal": self.equal,
            "unit": self.unit,
            "reliability": self.rates.name,
            "tiers": self.tiers,
            "currency": self.terms.currency,
            "terms": self.terms.words,
            "notes": list(self.notes),
            "winner": self.winner.system if self.winner else None,
            "why": list(self.why),
            "systems": [self._system(one) for one in self.systems],
            "ratios": [asdict(ratio) for ratio in self.ratios],
            "crossovers": [asdict(crossing) for crossing in self.crossovers],
        }
        return envelope("compare", body, {"elapsed_s": self.elapsed_s})

    def _system(self, one: Compared) -> SystemPlain:
        return {
            "system": one.system,
            "title": one.title,
            "devices": one.devices,
            "amount": one.amount,
            "effective_tok_s_per_unit": one.effective_tok_s_per_unit,
            "capacity": one.capacity,
            "expected_tok_s_per_unit": one.expected_tok_s_per_unit,
            "error": one.error or None,
            "answers": [
                _answer(study, weight) for study, weight in zip(one.answers, self.models.values(), strict=True)
            ],
            "availability": None if one.uptime is None else uptime_plain(one.uptime),
            "cost": None if one.costs.cost is None else cost_plain(one.costs.cost),
            "site": None if one.costs.placed is None else site_plain(one.costs.placed),
            "break_even": [break_even_plain(rival) for rival in one.costs.rivals],
            "effects": [asdict(effect) for effect in one.costs.effects],
        }


def uptime_plain(uptime: SystemUptime) -> UptimePlain:
    """The availability of a machine as plain data."""
    return {
        "whole": uptime.whole,
        "usable_devices": uptime.usable_devices,
        "failures_per_year": uptime.failures_per_year,
        "assumed": assumed_plain(uptime.assumed),
    }


def _answer(study: Study, weight: float) -> AnswerPlain:
    best, row, plan = study.best, study.row, study.plan
    parts: list[PartTimePlain] = []
    if best:
        parts = [
            {"part": part, "device_s_per_token": seconds, "bound_by": best.roofs.get(part)}
            for part, seconds in best.spent.items()
        ]
    return {
        "model": study.model,
        "weight": weight,
        "error": study.error or None,
        "command": study.command,
        "best": row_plain(row) if row else None,
        "availability": asdict(study.uptime) if study.uptime else None,
        "tiers": _tiers(study.tiers) if study.tiers else None,
        "effective_tok_s": best.effective_tok_s if best else None,
        "output_tok_s": best.output_tok_s if best else None,
        "input_tok_s": best.input_tok_s if best else None,
        "cached_tok_s": best.cached_tok_s if best else None,
        "users": best.users if best else None,
        "watts_per_device": best.watts_per_device if best else None,
        "joules_per_effective_token": joules(study),
        "token_shares": asdict(best.shares) if best else None,
        "parts": parts,
        "curve": [_point(point, charged(study)) for point in plan.pareto] if plan else [],
        "assumed": assumed_plain(plan.assumed) if plan else [],
        "settled": plan is not None and plan.decision is not None and plan.decision.settled,
    }


def _tiers(gain: TierGain) -> TierGainPlain:
    return {
        "uses": [asdict(one) for one in gain.uses],
        "without_effective_tok_s": gain.without_effective_tok_s,
        "without_meets_slo": gain.without_meets_slo,
    }


def joules(study: Study) -> float | None:
    """Energy of all devices per effective token [J]; None without a plan, or if the TDP is not published."""
    best: Best | None = study.best
    if best is None or best.watts_per_device is None or not best.effective_tok_s:
        return None
    return best.watts_per_device * charged(study) / best.effective_tok_s


def _point(point: FrontPoint, devices: int) -> CurvePlain:
    return {
        "output_tok_s_per_user": point.output_tok_s_per_user,
        "output_tok_s_per_device": point.output_tok_s_per_device,
        "output_tok_s": point.output_tok_s_per_device * devices,
        "ttft_slo_s": point.ttft_slo_s,
        "engine": point.deployment.engine,
        "label": str(point.deployment),
    }
