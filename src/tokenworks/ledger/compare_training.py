"""`tokenworks.compare_training`: the best plan of each machine to train the same model, at equal amounts."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenworks.costs.ratio import ratio_width
from tokenworks.errors import DoesNotFit, NoPrediction, SpecError
from tokenworks.ledger.compare_asked import command_numbers
from tokenworks.ledger.compare_machines import (
    AMOUNTS,
    NO_AMOUNT,
    AskedMachines,
    Equal,
    Measures,
    Ratio,
    does_not_stand,
    unit_of,
)
from tokenworks.ledger.cost import machine_cost
from tokenworks.ledger.priced import paying
from tokenworks.ledger.site import Hardware, placed
from tokenworks.ledger.terms import Pay
from tokenworks.ledger.train_comparison import TrainCompared, TrainComparison, TrainStudy
from tokenworks.ledger.train_reasons import train_reasons
from tokenworks.ledger.workers import Say, each
from tokenworks.planning.train import storage_rate, train
from tokenworks.planning.train_asked import AskedTraining, asked_training
from tokenworks.planning.train_goodput import AfterFailure
from tokenworks.processes import cores
from tokenworks.specs.calibration import DEFAULT, CalibrationLike, calibration_name, load_calibration
from tokenworks.specs.compose import parts
from tokenworks.specs.given import Assume, given
from tokenworks.specs.price import Currency, Prices, Region
from tokenworks.specs.reliability import PUBLISHED, ReliabilityLike, load_reliability
from tokenworks.specs.result import inputs
from tokenworks.specs.training import MethodName, PrecisionName

DAY_H = 24.0
AREAS = ("machine", "calibration")
"""Areas of numbers that training reads."""


def compare_training(
    model: str,
    on: Sequence[str],
    *,
    tokens: str | float = "1T",
    batch: str | int | None = None,
    seq: int | None = None,
    method: MethodName | None = None,
    precision: PrecisionName | None = None,
    after_failure: AfterFailure = "elastic",
    storage: str | None = None,
    equal: Equal = "devices",
    assume: Assume = None,
    assume_of: Mapping[str, Assume] | None = None,
    calibration: CalibrationLike = DEFAULT,
    reliability: ReliabilityLike = PUBLISHED,
    prices: str | Path | Mapping[str, Any] | Prices | None = None,
    pay: Pay = "buy",
    currency: Currency = "USD",
    region: Region = "cn",
    room: str | Path | Mapping[str, Any] | None = None,
    workers: int | None = None,
    progress: Say | None = None,
) -> TrainComparison:
    """Plan the same training run on several machines, and rank them by the tokens per second that the run keeps.

    A machine trains all the time, so its cost is that of 100 % utilisation.

    Parameters
    ----------
    model : the model, as `train` takes it
    on : machines, as `train` takes them
    tokens, batch, seq, method, precision, after_failure, storage, calibration, reliability : as `train` takes them
    equal : what the machines have equal amounts of: devices, power of the devices while they train, racks, or cost an
        hour
    assume : numbers of machine and calibration for all machines, as `train` takes them
    assume_of : numbers of one machine, by its name in `on`
    prices, pay, currency, region, room : as `compare` takes them
    workers : processes; None: one for each processor. The number changes no result [count]
    progress : told in words what happens

    Raises
    ------
    SpecError : bad input; a machine that cannot train the model is part of the result instead
    """
    began = time.perf_counter()
    asked = AskedRuns(
        on=tuple(on), assume=given(assume),
        assume_of={name: given(numbers) for name, numbers in (assume_of or {}).items()}, equal=equal,
        paying=paying(prices=prices, pay=pay, utilisation=1.0, currency=currency, region=region, room=room),
        reliability=load_reliability(reliability), workers=cores() if workers is None else workers, model=model,
        arguments={
            "tokens": tokens, "batch": batch, "seq": seq, "method": method, "precision": precision,
            "after_failure": after_failure, "storage": storage, "calibration": calibration,
        },
        rates=reliability,
    )  # fmt: skip
    run = asked.check()
    systems = _ranked(asked, progress)
    ratios = tuple(_ratios(systems))
    base = run.setting.base
    notes = (f"{one.system}: {note}" for one in systems if one.study.run for note in one.study.run.notes)
    return TrainComparison(
        tokens=run.tokens, batch_sequences=base.global_batch, seq_len=base.seq_len, method=base.method.name,
        equal=equal, rates=asked.reliability, systems=systems, ratios=ratios,
        why=train_reasons(systems, ratios, unit_of(equal, asked.paying.terms)), terms=asked.paying.terms,
        asked=inputs(model=model, calibration=calibration_name(calibration), given=asked.given),
        notes=(*_notes(equal), *notes), elapsed_s=time.perf_counter() - began,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AskedRuns(AskedMachines):
    """A comparison of machines that train.

    Parameters
    ----------
    model : the model
    arguments : arguments of `train` that all machines share
    rates : failure rates and times, as the user gave them
    """

    model: str
    arguments: Mapping[str, Any]
    rates: ReliabilityLike

    def check(self) -> AskedTraining:
        """Refuse bad input before the first search.

        Returns
        -------
        What the first machine whose numbers are published must compute.
        """
        self.must_be_machines()
        for item in self.given:
            if item.area not in AREAS:
                hint = f"it reads numbers of {' and '.join(AREAS)}"
                raise SpecError(f"training reads no numbers of {item.area}", where=item.where, hint=hint)
        load_calibration(self.arguments["calibration"], assume=self.assume)
        storage_rate(self.arguments["storage"])
        names = ("tokens", "batch", "seq", "method", "precision")
        wanted = {name: self.arguments[name] for name in names}
        asked: list[AskedTraining] = []
        missing: list[NoPrediction] = []
        for name in self.on:
            try:
                numbers = self.numbers(name)
                one = asked_training(self.model, name, **wanted, deploy=None, devices=None, assume=numbers)
                asked.append(one)
            except NoPrediction as error:
                missing.append(error)
        if not asked:
            raise missing[0]
        return asked[0]

    def questions(self) -> list[TrainQuestion]:
        """One run for each machine."""
        return [
            TrainQuestion(
                self.model, name, {
                    **self.arguments, "reliability": self.reliability, "assume": self.numbers(name) or None, "top": 1
                }, self._command(name),
            )
            for name in self.on
        ]  # fmt: skip

    def _command(self, name: str) -> str:
        words = ["tokenworks", "train", self.model, "--on", name]
        for option, usual in (("tokens", None), ("batch", None), ("seq", None), ("method", None), ("precision", None),
                              ("after_failure", "elastic"), ("storage", None)):  # fmt: skip
            value = self.arguments[option]
            if value not in (None, usual):
                words += [f"--{option.replace('_', '-')}", str(value)]
        if isinstance(self.rates, str | Path) and str(self.rates) != PUBLISHED:
            words += ["--reliability", str(self.rates)]
        return shlex.join([*words, *command_numbers(self.arguments["calibration"], self.numbers(name)), "--top", "1"])


@dataclass(frozen=True, slots=True)
class TrainQuestion:
    """One run that a comparison needs.

    Parameters
    ----------
    model, system : as `train` takes them
    arguments : the other arguments of `train`
    command : command that prints the plan
    """

    model: str
    system: str
    arguments: Mapping[str, Any]
    command: str


def train_study(question: TrainQuestion, progress: Say | None = None) -> TrainStudy:
    """Plan the run on one machine. A machine that cannot train the model has the reason in `error`."""
    try:
        run = train(question.model, question.system, **question.arguments, progress=progress)
    except (DoesNotFit, SpecError) as error:
        return TrainStudy(None, str(error), error.exit_code, question.command)
    return TrainStudy(run, "", 0, question.command)


def _ranked(asked: AskedRuns, say: Say | None) -> tuple[TrainCompared, ...]:
    """The machines with their runs and costs, best first."""
    questions = asked.questions()
    weights = [float(parts(one.system).devices) for one in questions]
    bought, room = asked.bought(), asked.paying.terms.room
    out = {name: error for name, one in bought.items() if (error := does_not_stand(one, room))}
    kept = [one for one in questions if one.system not in out]
    found = each(
        train_study, kept, names=[one.system for one in kept], workers=asked.workers,
        weights=[weight for one, weight in zip(questions, weights, strict=True) if one.system not in out], say=say,
    )  # fmt: skip
    studies = {one.system: study for one, study in zip(kept, found, strict=True)}
    for one in questions:
        if error := out.get(one.system):
            studies[one.system] = TrainStudy(None, str(error), error.exit_code, one.command)
    rows = [_compared(asked, name, bought[name], studies[name]) for name in asked.on]
    return tuple(sorted(rows, key=lambda row: -(row.kept_tok_s_per_unit or 0.0)))


def _compared(asked: AskedRuns, name: str, machine: Hardware, study: TrainStudy) -> TrainCompared:
    """One machine, with the tokens that its run keeps per unit of the amount that is equal."""
    title, run = parts(name).system.title, study.run
    if run is None:
        return TrainCompared(name, title, None, None, None, study.error, study, None, None)
    best, devices, terms = run.best, run.setting.machine.devices, asked.paying.terms
    power_w = None if best.power_w is None else best.power_w * best.devices
    cost = machine_cost(machine, asked.paying.prices, terms, busy_w=power_w)
    paid = None if cost.per_hour is None else cost.per_hour * (best.days * DAY_H)
    place = placed(machine, terms.room) if machine.rack_units is not None else None
    measures = Measures(devices, power_w, place, cost)
    amount = AMOUNTS[asked.equal](measures)
    value = None if amount is None else best.tok_s * run.goodput.share / amount
    error = NO_AMOUNT[asked.equal](measures) if amount is None else ""
    return TrainCompared(name, title, devices, amount, value, error, study, cost, paid)


def _ratios(systems: Sequence[TrainCompared]) -> Iterator[Ratio]:
    """The winner against each other machine with a value. The errors of two runs count as independent."""
    valued = [one for one in systems if one.kept_tok_s_per_unit]
    for other in valued[1:]:
        yield train_ratio(valued[0], other)


def train_ratio(one: TrainCompared, other: TrainCompared) -> Ratio:
    """Kept tokens of one machine / those of another at equal amounts, with the 80 % interval.

    No calibration measures how the errors of two training runs go together, so they count as independent: the widest
    interval.

    Parameters
    ----------
    one, other : two machines with values
    """
    assert one.kept_tok_s_per_unit
    assert other.kept_tok_s_per_unit
    value = one.kept_tok_s_per_unit / other.kept_tok_s_per_unit
    (down, up), (other_down, other_up) = _log_widths(one), _log_widths(other)
    low, high = ratio_width(down, other_up, 0.0), ratio_width(up, other_down, 0.0)
    return Ratio(one.system, other.system, value * math.exp(-low), value, value * math.exp(high))


def _log_widths(one: TrainCompared) -> tuple[float, float]:
    """Log widths of the interval of the speed, below and above its value [-]."""
    best = one.study.best
    assert best is not None
    low, high = best.interval["tok_s_per_device"]
    return math.log(best.tok_s_per_device / low), math.log(high / best.tok_s_per_device)


def _notes(equal: Equal) -> Iterator[str]:
    """What a reader must know beside the numbers."""
    yield "Intervals of ratios count the errors of two runs as independent: nobody measured how they go together."
    if equal == "power":
        yield "Power is that of the devices while they train, without hosts and network."
