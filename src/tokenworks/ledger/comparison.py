"""The result of `compare`: machines side by side on the same work, ranked by what an equal share of each gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from typing_extensions import TypedDict

from tokenworks.ledger.curves import Crossover
from tokenworks.ledger.study import Best, Study
from tokenworks.planning.result import FrontPoint, RankedPlain, row_plain
from tokenworks.specs.result import Assumed, FormOf, Inputs, Plain, assumed_plain, envelope
from tokenworks.specs.shown import Record, Shown

Equal = Literal["devices", "power", "racks", "money"]

UNITS: dict[Equal, str] = {"devices": "device", "power": "kW", "racks": "rack", "money": "USD/h"}
"""What machines have equal amounts of -> the unit of the amount."""


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
    amount : amount of what is made equal: devices [count], power of the devices [kW], racks [count], cost [USD/h]; None:
        not known
    effective_tok_s_per_unit : effective tokens per second of the mix, per unit of the amount; None: no value
    error : why there is no value, in words; "" for a machine with a value
    answers : one for each model
    """

    system: str
    title: str
    devices: int | None
    amount: float | None
    effective_tok_s_per_unit: float | None
    error: str
    answers: tuple[Study, ...]


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
    parts: list[PartPlain]
    curve: list[CurvePlain]
    assumed: list[Assumed]
    settled: bool


class PartPlain(TypedDict):
    """A part of the time of all devices per output token; bound_by: the roof that binds the part."""

    part: str
    device_s_per_token: float
    bound_by: str | None


class SystemPlain(TypedDict):
    """The plain form of a machine of a comparison."""

    system: str
    title: str
    devices: int | None
    amount: float | None
    effective_tok_s_per_unit: float | None
    error: str | None
    answers: list[AnswerPlain]


class CompareBody(TypedDict):
    """The plain form of `compare`.

    equal : what the machines have equal amounts of; unit : its unit
    winner : the first system; None if no machine has a value
    why : why the winner wins, in words
    """

    inputs: Inputs
    models: list[dict[str, str | float]]
    equal: str
    unit: str
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
    asked: Inputs
    notes: tuple[str, ...]
    elapsed_s: float

    @property
    def winner(self) -> Compared | None:
        """The best machine; None if none has a value."""
        first = self.systems[0]
        return first if first.effective_tok_s_per_unit is not None else None

    @property
    def headline(self) -> str:
        """The winner in one line."""
        if self.winner is None:
            return f"none of {len(self.systems)} machines has a value"
        value = self.winner.effective_tok_s_per_unit
        return f"{self.winner.system} wins: {value:,.4g} effective tokens/s per {UNITS[self.equal]}"

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
            "unit": UNITS[self.equal],
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
        }


def _answer(study: Study, weight: float) -> AnswerPlain:
    best, row, plan = study.best, study.row, study.plan
    parts: list[PartPlain] = []
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


def charged(study: Study) -> int:
    """Devices that the throughput of a machine is divided by [count]."""
    assert study.plan is not None
    return study.plan.best.devices + study.plan.best.idle_devices


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
