"""The result of `compare`: machines side by side on the same work, ranked by what an equal share of each gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from typing_extensions import TypedDict

from tokenworks.ledger.break_even import Effect
from tokenworks.ledger.curves import Crossover
from tokenworks.ledger.priced import Priced
from tokenworks.ledger.site import Placed
from tokenworks.ledger.study import Best, Study, charged
from tokenworks.ledger.terms import Terms
from tokenworks.planning.result import FrontPoint, RankedPlain, row_plain
from tokenworks.specs.price import Money
from tokenworks.specs.result import Assumed, FormOf, Inputs, Plain, assumed_plain, envelope
from tokenworks.specs.shown import Record, Shown

Equal = Literal["devices", "power", "racks", "money"]

UNITS: dict[Equal, str] = {"devices": "device", "power": "kW", "racks": "rack"}


def unit_of(equal: Equal, terms: Terms) -> str:
    """The unit of what machines have equal amounts of."""
    return UNITS.get(equal, f"{terms.currency} an hour")


def four_digits(value: float) -> str:
    """A number with four digits, or with all digits before the point: 0.01234, 148.6, 12,346."""
    return f"{value:,.0f}" if value >= 1e3 else f"{value:,.4g}"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Effective tokens of one machine / those of another, at equal amounts; the 80 % interval is `low` to `high`."""

    system: str
    against: str
    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One machine of a comparison.

    Parameters
    ----------
    system, title : names of the machine
    devices : devices that throughput is divided by [count]
    amount : amount of what is made equal: devices [count], power of the devices [kW], racks [count] or cost of an
        hour; None: not known
    effective_tok_s_per_unit : effective tokens per second of the mix, per unit of the amount; None: no value
    error : why there is no value, in words; "" for a machine with a value
    answers : one for each model
    costs : costs, place and break-even prices
    """

    system: str
    title: str
    devices: int | None
    amount: float | None
    effective_tok_s_per_unit: float | None
    error: str
    answers: tuple[Study, ...]
    costs: Priced


class CurvePlain(TypedDict):
    """A point of the curve of a machine: throughput of the machine and of a device against the speed per user."""

    output_tok_s_per_user: float
    output_tok_s_per_device: float
    output_tok_s: float
    ttft_slo_s: float
    engine: str
    label: str


class AnswerPlain(TypedDict):
    """What a machine does with one model; None and empty lists if it cannot serve the model within the SLO.

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


Range = tuple[float, float, float]
"""An amount at the low end, in the middle and at the high end of all prices."""


class CostPlain(TypedDict):
    """What a machine and its tokens cost, in the currency of the comparison; None: a price is missing.

    hourly : cost of an hour by part; capex : price by part; empty with rent
    per_million : cost of a million effective tokens (all cost), and of input, cached input and output tokens apart
    missing : what is missing, and what a user has to give for it
    words : the conditions of these costs
    """

    per_hour: Range | None
    per_device_hour: Range | None
    per_million: dict[str, Range | None]
    hourly: dict[str, Range]
    capex: dict[str, Range]
    missing: str
    words: str


class SitePlain(TypedDict):
    """What a machine needs where it stands, and what must be connected and configured."""

    boxes: int
    racks: int
    boxes_per_rack: float
    rack_units: float | None
    rack_power_w: float | None
    rack_weight_kg: float | None
    power_w: float | None
    weight_kg: float | None
    cooling: str | None
    cables: float | None
    links: int
    switches: int
    endpoints: int
    boxes_that_fit: int | None
    limited_by: str


class BreakEvenPlain(TypedDict):
    """The price of a machine at which its effective tokens cost as much as those of a rival."""

    rival: str
    utilisation: float
    price: Range | None
    per_card: Range | None
    words: str


class SystemPlain(TypedDict):
    """The plain form of a machine of a comparison.

    effects : what moves the break-even price against the first rival machine, the largest first
    """

    system: str
    title: str
    devices: int | None
    amount: float | None
    effective_tok_s_per_unit: float | None
    error: str | None
    answers: list[AnswerPlain]
    cost: CostPlain | None
    site: SitePlain | None
    break_even: list[BreakEvenPlain]
    effects: list[Annotated[Plain, FormOf(Effect)]]


class CompareBody(TypedDict):
    """The plain form of `compare`.

    equal : what the machines have equal amounts of; unit : its unit
    currency : currency of all costs; terms : their conditions
    winner : the first system; None if no machine has a value
    why : why the winner wins, in words
    """

    inputs: Inputs
    models: list[dict[str, str | float]]
    equal: str
    unit: str
    currency: str
    terms: str
    notes: list[str]
    winner: str | None
    why: list[str]
    systems: list[SystemPlain]
    ratios: list[Annotated[Plain, FormOf(Ratio)]]
    crossovers: list[Annotated[Plain, FormOf(Crossover)]]


@dataclass(frozen=True, slots=True, repr=False)
class Comparison(Shown):
    """The answer of `compare`.

    Parameters
    ----------
    models : model -> share of the effective tokens [-]
    equal : what the machines have equal amounts of
    systems : the machines, best first; machines without a value come last
    ratios : the winner against each other machine with a value
    why : why the winner wins, in words
    crossovers : where another machine wins
    terms : the conditions of all costs
    asked : the inputs, as plain data
    notes : what a reader must know beside the numbers
    elapsed_s : time of the comparison [s]
    """

    models: Mapping[str, float]
    equal: Equal
    systems: tuple[Compared, ...]
    ratios: tuple[Ratio, ...]
    why: tuple[str, ...]
    crossovers: tuple[Crossover, ...]
    terms: Terms
    asked: Inputs
    notes: tuple[str, ...]
    elapsed_s: float

    @property
    def winner(self) -> Compared | None:
        """The best machine; None if none has a value."""
        first = self.systems[0]
        return first if first.effective_tok_s_per_unit is not None else None

    @property
    def unit(self) -> str:
        """The unit of what the machines have equal amounts of."""
        return unit_of(self.equal, self.terms)

    @property
    def headline(self) -> str:
        """The winner in one line."""
        if self.winner is None:
            return f"none of {len(self.systems)} machines has a value"
        value = self.winner.effective_tok_s_per_unit or 0.0
        return f"{self.winner.system} wins: {four_digits(value)} effective tokens/s per {self.unit}"

    def to_records(self) -> list[Record]:
        """One record a machine."""
        names = ("system", "title", "devices", "amount", "effective_tok_s_per_unit", "error")
        return [{name: getattr(one, name) for name in names} for one in self.systems]

    def plain(self) -> Plain:
        """The whole answer as plain data; only `wall` differs between two runs."""
        body: CompareBody = {
            "inputs": self.asked,
            "models": [{"model": model, "weight": weight} for model, weight in self.models.items()],
            "equal": self.equal,
            "unit": self.unit,
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
            "error": one.error or None,
            "answers": [
                _answer(study, weight) for study, weight in zip(one.answers, self.models.values(), strict=True)
            ],
            "cost": _cost(one.costs),
            "site": None if one.costs.placed is None else _site(one.costs.placed),
            "break_even": [
                {
                    "rival": rival.name,
                    "utilisation": rival.break_even.terms.utilisation,
                    "price": _range(rival.break_even.price),
                    "per_card": _range(rival.break_even.per_card),
                    "words": rival.break_even.words,
                }
                for rival in one.costs.rivals
            ],
            "effects": [asdict(effect) for effect in one.costs.effects],
        }


def _range(money: Money | None) -> Range | None:
    return None if money is None else (money.low, money.mid, money.high)


def _ranges(parts: Mapping[str, Money]) -> dict[str, Range]:
    return {name: (money.low, money.mid, money.high) for name, money in parts.items()}


def _cost(costs: Priced) -> CostPlain | None:
    one = costs.cost
    if one is None:
        return None
    return {
        "per_hour": _range(one.per_hour),
        "per_device_hour": _range(one.per_device_hour),
        "per_million": {
            "effective": _range(one.per_million_effective),
            "input": _range(one.per_million_input),
            "cached_input": _range(one.per_million_cached),
            "output": _range(one.per_million_output),
        },
        "hourly": _ranges(one.hourly),
        "capex": _ranges(one.capex.parts) if one.capex else {},
        "missing": one.needed,
        "words": one.words,
    }


def _site(place: Placed) -> SitePlain:
    one = place.hardware
    return {
        "boxes": place.boxes,
        "racks": place.racks,
        "boxes_per_rack": place.boxes_per_rack,
        "rack_units": one.rack_units,
        "rack_power_w": place.rack_power_w,
        "rack_weight_kg": place.rack_weight_kg,
        "power_w": one.power_w,
        "weight_kg": one.weight_kg,
        "cooling": one.cooling,
        "cables": one.cables,
        "links": one.links,
        "switches": one.switches,
        "endpoints": one.endpoints,
        "boxes_that_fit": place.fits,
        "limited_by": place.limited_by,
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
