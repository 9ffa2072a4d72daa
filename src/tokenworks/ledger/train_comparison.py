"""The result of `compare_training`: machines side by side that train the same model, ranked by the tokens they keep."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

from typing_extensions import TypedDict

from tokenworks.ledger.compare_machines import Ratio
from tokenworks.ledger.cost import MachineCost
from tokenworks.ledger.priced_plain import MachineCostPlain, Range, machine_cost_plain, range_plain
from tokenworks.ledger.ranked_machines import RankedMachines
from tokenworks.planning.train_goodput import Goodput
from tokenworks.planning.train_result import TrainRow, TrainRowPlain, TrainRun
from tokenworks.specs.price import Money
from tokenworks.specs.result import Assumed, FormOf, Inputs, Plain, assumed_plain, envelope
from tokenworks.specs.shown import Record


@dataclass(frozen=True, slots=True)
class TrainStudy:
    """The training run of one machine.

    Parameters
    ----------
    run : the run; None: no plan
    error : why there is no plan, in words; "" for a machine with a plan
    exit_code : exit code that `train` ends with
    command : command that prints the plan
    """

    run: TrainRun | None
    error: str
    exit_code: int
    command: str

    @property
    def best(self) -> TrainRow | None:
        """The fastest plan; None without a plan."""
        return self.run.best if self.run else None


@dataclass(frozen=True, slots=True)
class TrainCompared:
    """One machine of a comparison of training.

    Parameters
    ----------
    system, title : names of the machine
    devices : devices of the machine; None: no plan [count]
    amount : amount of what is made equal: devices [count], power of the devices [kW], racks [count] or cost of an
        hour; None: not known
    kept_tok_s_per_unit : tokens per second that the run keeps, checkpoints and failures counted, per unit of the
        amount; None: no value
    error : why there is no value, in words; "" for a machine with a value
    study : the run
    cost : what an hour of the machine costs; None: no plan, or the machine does not fit the room
    run_cost : what the whole run costs; None: a price is missing
    """

    system: str
    title: str
    devices: int | None
    amount: float | None
    kept_tok_s_per_unit: float | None
    error: str
    study: TrainStudy
    cost: MachineCost | None
    run_cost: Money | None


class TrainSystemPlain(TypedDict):
    """The plain form of a machine of a comparison of training.

    kept_tok_s_per_unit : tokens per second that the run keeps / amount
    best : the fastest plan; goodput : its share of the time with progress
    grade : what the prediction is based on
    run_cost : cost of the whole run
    command : the command that prints the plan with these values
    """

    system: str
    title: str
    devices: int | None
    amount: float | None
    kept_tok_s_per_unit: float | None
    error: str | None
    best: TrainRowPlain | None
    goodput: Annotated[Plain, FormOf(Goodput)] | None
    grade: str | None
    cost: MachineCostPlain | None
    run_cost: Range | None
    assumed: list[Assumed]
    command: str


class CompareTrainingBody(TypedDict):
    """The plain form of `compare_training`.

    tokens : tokens of the whole run
    equal : what the machines have equal amounts of; unit : its unit
    reliability : name of the failure rates
    currency : currency of all costs; terms : their conditions
    winner : the first system; None if no machine has a value
    why : why the winner wins, in words
    """

    inputs: Inputs
    tokens: float
    batch_sequences: int
    seq_len: int
    method: str
    equal: str
    unit: str
    reliability: str
    currency: str
    terms: str
    notes: list[str]
    winner: str | None
    why: list[str]
    systems: list[TrainSystemPlain]
    ratios: list[Annotated[Plain, FormOf(Ratio)]]


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class TrainComparison(RankedMachines[TrainCompared]):
    """The answer of `compare_training`.

    Parameters
    ----------
    tokens : tokens of the whole run [token]
    batch_sequences, seq_len : sequences of an optimiser step [count], and their length [token]
    method : what is trained
    """

    RANKED_BY = "kept tokens/s"

    tokens: float
    batch_sequences: int
    seq_len: int
    method: str

    @staticmethod
    def value_of(one: TrainCompared) -> float | None:
        """Tokens per second and unit."""
        return one.kept_tok_s_per_unit

    def to_records(self) -> list[Record]:
        """One record a machine."""
        names = ("system", "title", "devices", "amount", "kept_tok_s_per_unit", "error")
        return [
            {
                **{name: getattr(one, name) for name in names},
                **{name: getattr(one.study.best, name, None) for name in ("days", "mfu", "energy_kwh")},
            }
            for one in self.systems
        ]

    def plain(self) -> Plain:
        """The whole answer as plain data; only `wall` differs between two runs."""
        body: CompareTrainingBody = {
            "inputs": self.asked,
            "tokens": self.tokens,
            "batch_sequences": self.batch_sequences,
            "seq_len": self.seq_len,
            "method": self.method,
            "equal": self.equal,
            "unit": self.unit,
            "reliability": self.rates.name,
            "currency": self.terms.currency,
            "terms": self.terms.words,
            "notes": list(self.notes),
            "winner": self.winner.system if self.winner else None,
            "why": list(self.why),
            "systems": [_system(one) for one in self.systems],
            "ratios": [asdict(ratio) for ratio in self.ratios],
        }
        return envelope("compare-training", body, {"elapsed_s": self.elapsed_s})


def _system(one: TrainCompared) -> TrainSystemPlain:
    run = one.study.run
    return {
        "system": one.system,
        "title": one.title,
        "devices": one.devices,
        "amount": one.amount,
        "kept_tok_s_per_unit": one.kept_tok_s_per_unit,
        "error": one.error or None,
        "best": run.best.plain() if run else None,
        "goodput": asdict(run.goodput) if run else None,
        "grade": run.grade if run else None,
        "cost": None if one.cost is None else machine_cost_plain(one.cost),
        "run_cost": range_plain(one.run_cost),
        "assumed": assumed_plain(run.assumed) if run else [],
        "command": one.study.command,
    }
