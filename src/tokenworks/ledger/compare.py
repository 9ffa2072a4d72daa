"""`tokenworks.compare`: the best simulated plan of each machine on the same work, at equal amounts."""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tokenworks.errors import DoesNotFit, NotPublished, SpecError, UnknownName
from tokenworks.ledger.comparison import Compared, Comparison, Equal, Ratio, unit_of
from tokenworks.ledger.cost import Served
from tokenworks.ledger.curves import Curve, changes, crossings
from tokenworks.ledger.priced import (
    Machines,
    Paying,
    Priced,
    hardware,
    paying,
    price_crossovers,
    priced,
    served,
    with_reuse,
)
from tokenworks.ledger.reasons import reasons
from tokenworks.ledger.site import Hardware, Room, placed
from tokenworks.ledger.study import TOP, Question, Study, charged, study, without
from tokenworks.ledger.terms import Pay
from tokenworks.ledger.workers import Say, cores, each
from tokenworks.planning.bench import Budget
from tokenworks.planning.intervals import ratio_interval
from tokenworks.planning.plan import prepare
from tokenworks.planning.setting import EngineChoice, workload_of
from tokenworks.specs.calibration import DEFAULT, CalibrationLike, calibration_name, load_calibration
from tokenworks.specs.compose import parts
from tokenworks.specs.given import Assume, Given, given
from tokenworks.specs.load import WorkloadLike
from tokenworks.specs.price import Currency, Prices, Region
from tokenworks.specs.price_file import api_price
from tokenworks.specs.result import Inputs, inputs
from tokenworks.specs.slo import Slo, SloLike
from tokenworks.specs.workload import Workload

Axis = Literal["context", "reuse"]
CONTEXTS = (0.25, 0.5, 2.0, 4.0, 8.0)
"""Factors on the input length at which `--crossover context` compares the machines again [-]."""

REUSES = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Shares of the input tokens that the prefix cache serves at which `--crossover reuse` compares again [-]."""


def compare(
    models: str | Sequence[str] | Mapping[str, float],
    on: Sequence[str],
    *,
    workload: WorkloadLike | None = None,
    isl: float | None = None,
    osl: float | None = None,
    slo: SloLike | None = None,
    engine: EngineChoice = "auto",
    equal: Equal = "devices",
    assume: Assume = None,
    assume_of: Mapping[str, Assume] | None = None,
    calibration: CalibrationLike = DEFAULT,
    budget: str | None = None,
    prices: str | Path | Mapping[str, Any] | Prices | None = None,
    pay: Pay = "buy",
    utilisation: float | Sequence[float] = 0.5,
    currency: Currency = "USD",
    region: Region = "cn",
    room: str | Path | Mapping[str, Any] | None = None,
    api: str | None = None,
    crossover: Sequence[Axis] = (),
    workers: int | None = None,
    progress: Say | None = None,
) -> Comparison:
    """Plan the same work on several machines, and rank them by effective tokens per second at equal amounts.

    Parameters
    ----------
    models : a model, or models with their shares of the effective tokens; without shares all are equal
    on : machines, as `plan` takes them
    workload, isl, osl, slo, engine, calibration, budget : as `plan` takes them
    equal : what the machines have equal amounts of: devices, power of the devices under load, racks, or cost an hour
    assume : numbers for all machines, as `plan` takes them
    assume_of : numbers of one machine, by its name in `on`
    prices : a price list in place of prices of the catalog, or litellm's list of API prices
    pay : "buy" the machines, or "rent" their devices
    utilisation : share of the time in which the machines serve; break-even prices are computed for each of several [-]
    currency, region : currency of all costs, and region of the price of electricity
    room : where the machines stand, as `site.Room` reads it
    api : model of the price list whose API price is a rival; None: the compared model
    crossover : axes on which the comparison is repeated: context, reuse
    workers : processes; None: one for each processor. The number changes no result [count]
    progress : told in words what happens

    Raises
    ------
    SpecError : bad input; a machine that cannot do the work is part of the result instead
    """
    began = time.perf_counter()
    shares = _shares(models)
    asked = _Asked(
        shares, tuple(on),
        {"workload": workload, "isl": isl, "osl": osl, "rate": None, "concurrency": None, "slo": slo, "engine": engine,
         "calibration": calibration},
        given(assume), {name: given(numbers) for name, numbers in (assume_of or {}).items()}, budget, equal,
        paying(
            prices=prices, pay=pay, utilisation=utilisation, currency=currency, region=region, room=room, api=api
        ), cores() if workers is None else workers,
    )  # fmt: skip
    asked.check()
    systems, unknown = _ranked(asked, progress)
    curves = {one.system: _curve(one) for one in systems if one.effective_tok_s_per_unit is not None}
    crossed = list(crossings(curves)) if len(shares) == 1 else []
    for axis in dict.fromkeys(crossover):
        rows = _repeated(asked, axis, systems, progress)
        crossed += changes(axis, {value: _winner(ranked) for value, ranked in rows.items()})
        systems = _with_reuse(asked, systems, rows) if axis == "reuse" else systems
    crossed += price_crossovers({one.system: one.costs for one in systems})
    ratios = tuple(_ratios(systems, load_calibration(calibration, assume=asked.assume).correlation))
    return Comparison(
        models=shares, equal=equal, systems=systems, ratios=ratios,
        why=reasons(systems, ratios, unit_of(equal, asked.paying.terms), shares), crossovers=tuple(crossed),
        terms=asked.paying.terms, asked=asked.inputs(),
        notes=(*_notes(systems, equal), *unknown), elapsed_s=time.perf_counter() - began,
    )  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """What is compared.

    Parameters
    ----------
    shares : model -> share of the effective tokens [-]
    on : machines
    arguments : arguments of `prepare` that all plans share
    assume, assume_of : numbers for all machines, and numbers by machine
    budget : as `plan` takes it
    equal : what the machines have equal amounts of
    paying : prices and conditions
    workers : processes [count]
    """

    shares: Mapping[str, float]
    on: tuple[str, ...]
    arguments: Mapping[str, Any]
    assume: tuple[Given, ...]
    assume_of: Mapping[str, tuple[Given, ...]]
    budget: str | None
    equal: Equal
    paying: Paying
    workers: int

    def check(self) -> None:
        """Refuse bad input before the first plan, which may take minutes."""
        if len(set(self.on)) < len(self.on):
            twice = next(name for name in self.on if self.on.count(name) > 1)
            raise SpecError("is given twice", where=f"--on {twice}", hint="give each machine once")
        if len(self.on) < 2:
            hint = "give two or more, such as --on scalex40 --on 5xhgx-h100"
            raise SpecError("a comparison needs two machines", where="--on", hint=hint)
        for name in self.assume_of:
            if name not in self.on:
                hint = f"one of {', '.join(self.on)}, as --on has it"
                raise SpecError("is not compared", where=f"--assume {name}=", hint=hint)
        for name, item in ((name, item) for name, items in self.assume_of.items() for item in items):
            if item.area == "workload":
                hint = "all machines do the same work: give this number without a machine, or with --set"
                raise SpecError("belongs to the workload", where=f"--assume {name}=...: {item.path}", hint=hint)
        Budget.of(self.budget)
        if self.paying.api:
            _api_of(self.paying.prices, self.paying.api)
        for question in self.questions():
            with contextlib.suppress(DoesNotFit, NotPublished):
                prepare(question.model, question.system, **question.arguments)

    def questions(self, *more: Given) -> list[Question]:
        """One plan for each machine and model, machine by machine."""
        return [self._question(model, name, more) for name in self.on for model in self.shares]

    def _question(self, model: str, name: str, more: Sequence[Given]) -> Question:
        numbers = (*self.assume, *self.assume_of.get(name, ()), *more)
        return Question(
            model, name, {**self.arguments, "assume": numbers or None}, self.budget, self._command(model, name, numbers)
        )

    def _command(self, model: str, name: str, numbers: Sequence[Given]) -> str:
        words = ["tokenworks", "plan", model, "--on", name]
        for option in ("workload", "isl", "osl", "slo"):
            if (value := self.arguments[option]) is not None:
                words += [f"--{option}", _written(value) if isinstance(value, float) else str(value)]
        if self.arguments["engine"] != "auto":
            words += ["--engine", str(self.arguments["engine"])]
        if self.arguments["calibration"] != DEFAULT:
            words += ["--calibration", calibration_name(self.arguments["calibration"])]
        for item in numbers:
            path = item.path if item.area != "machine" else f"machine.{item.path}"
            words += ["--set", f"{path}={item.value}"]
        if self.budget:
            words += ["--budget", str(self.budget)]
        return shlex.join([*words, "--top", str(TOP)])

    def workload(self) -> Workload:
        """The workload that all machines serve."""
        wanted = {name: self.arguments[name] for name in ("isl", "osl", "rate", "concurrency")}
        return workload_of(self.arguments["workload"], **wanted, assume=self.assume)

    def inputs(self) -> Inputs:
        """The inputs of the comparison as plain data."""
        workload, slo = self.workload(), self.arguments["slo"]
        return inputs(
            workload=workload, slo=str(Slo.of(workload.slo if slo is None else slo)),
            engine=str(self.arguments["engine"]),
            calibration=calibration_name(self.arguments["calibration"]),
            given=(*self.assume, *(item for items in self.assume_of.values() for item in items)),
        )  # fmt: skip


def _written(value: float) -> str:
    """A number with all its digits, without a needless ".0"."""
    return repr(int(value)) if value == int(value) else repr(value)


def _api_of(prices: Prices, model: str) -> None:
    """Refuse an API price that the list does not have."""
    try:
        api_price(prices, model)
    except UnknownName as error:
        raise SpecError(error.message, where="--api", hint=error.hint) from None


def _shares(models: str | Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    """Shares of the effective tokens by model; their sum is 1."""
    if isinstance(models, str):
        models = [models]
    weights = dict(models) if isinstance(models, Mapping) else dict.fromkeys(models, 1.0)
    if not weights:
        raise SpecError("no model", where="MODEL", hint="give one or more")
    if not isinstance(models, Mapping) and len(weights) < len(models):
        raise SpecError("a model is given twice", where="MODEL", hint="give each model once, with its share")
    for model, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            hint = f"write a number above 0, such as {model}=0.5"
            raise SpecError(f"{weight:g} is no share", where=f"share of {model}", hint=hint)
    return {model: weight / sum(weights.values()) for model, weight in weights.items()}


def _ranked(asked: _Asked, say: Say | None, *more: Given) -> tuple[tuple[Compared, ...], tuple[str, ...]]:
    """The machines with their studies and costs, best first; and sentences about prices that are not known."""
    questions = asked.questions(*more)
    names = [f"{one.system}, {one.model}" if len(asked.shares) > 1 else str(one.system) for one in questions]
    weights = [float(parts(str(one.system)).devices) for one in questions]
    bought = {name: hardware(name, (*asked.assume, *asked.assume_of.get(name, ()))) for name in asked.on}
    too_large = {
        name: error for name, one in bought.items() if (error := _does_not_stand(one, asked.paying.terms.room))
    }
    kept = [i for i, one in enumerate(questions) if one.system not in too_large]
    planned = each(
        study, [questions[i] for i in kept], names=[names[i] for i in kept], workers=asked.workers,
        weights=[weights[i] for i in kept], say=say,
    )  # fmt: skip
    answered = dict(zip(kept, planned, strict=True))
    studies = [
        answered[i] if i in answered else without(one, too_large[str(one.system)]) for i, one in enumerate(questions)
    ]
    width = len(asked.shares)
    answers = {name: studies[i * width : (i + 1) * width] for i, name in enumerate(asked.on)}
    machines = {
        name: (bought[name], None if any(one.error for one in own) else served(own, asked.shares))
        for name, own in answers.items()
    }
    costs, unknown = priced(machines, asked.paying, next(iter(asked.shares)))
    rows = [_compared(name, own, machines[name][1], costs[name], asked.equal) for name, own in answers.items()]
    return tuple(sorted(rows, key=lambda row: -(row.effective_tok_s_per_unit or 0.0))), unknown


def _does_not_stand(machine: Hardware, room: Room) -> DoesNotFit | None:
    """Why a machine does not stand in the room; None if it does, or if its height is not published."""
    try:
        if machine.rack_units is not None:
            placed(machine, room)
    except DoesNotFit as error:
        return error
    return None


def _compared(name: str, studies: Sequence[Study], rates: Served | None, costs: Priced, equal: Equal) -> Compared:
    """One machine, with its effective tokens per unit of the amount that is equal."""
    title = parts(name).system.title
    if rates is None:
        errors = [one.error for one in studies if one.error]
        if len(errors) < len(studies) or len(set(errors)) > 1:
            errors = [f"{one.model}: {one.error}" for one in studies if one.error]
        error = "; ".join(dict.fromkeys(errors))
        return Compared(name, title, None, None, None, error, tuple(studies), costs)
    devices = charged(studies[0])
    amount = AMOUNTS[equal](devices, rates, costs)
    if amount is None:
        return Compared(name, title, devices, None, None, costs.error or NO_AMOUNT[equal](costs), tuple(studies), costs)
    return Compared(name, title, devices, amount, rates.effective_tok_s / amount, "", tuple(studies), costs)


def _racks(_devices: int, _rates: Served, costs: Priced) -> float | None:
    place = costs.placed
    return None if place is None else place.hardware.systems / place.boxes_per_rack


def _dollars(_devices: int, _rates: Served, costs: Priced) -> float | None:
    an_hour = costs.cost and costs.cost.per_hour
    return an_hour.mid if an_hour else None


def _kilowatts(_devices: int, rates: Served, _costs: Priced) -> float | None:
    return None if rates.power_w is None else rates.power_w / 1e3


AMOUNTS: dict[Equal, Callable[[int, Served, Priced], float | None]] = {
    "devices": lambda devices, _rates, _costs: float(devices),
    "power": _kilowatts,
    "racks": _racks,
    "money": _dollars,
}
"""What machines have equal amounts of -> the amount of a machine; None: not known."""

NO_AMOUNT: dict[Equal, Callable[[Priced], str]] = {
    "power": lambda _: "the power of its device is not published; give it with --assume SYSTEM=FILE",
    "racks": lambda _: "its height is not published; give machine.rack_units with --assume SYSTEM=FILE",
    "money": lambda costs: f"it has no cost; {costs.cost.needed if costs.cost else 'no price'}",
}
"""Why a machine has no amount."""


def _curve(one: Compared) -> Curve:
    plan = one.answers[0].plan
    assert plan is not None
    assert one.devices is not None
    assert one.amount is not None
    return Curve.of(plan.pareto, one.devices / one.amount)


def _ratios(systems: Sequence[Compared], correlation: float) -> Iterator[Ratio]:
    """The winner against each other machine with a value, with the interval of the ratio."""
    valued = [one for one in systems if one.effective_tok_s_per_unit is not None]
    for other in valued[1:]:
        yield ratio_of(valued[0], other, correlation)


def ratio_of(one: Compared, other: Compared, correlation: float) -> Ratio:
    """Effective tokens of one machine / those of another at equal amounts, with the 80 % interval.

    Both machines are measured by the same kind of error: that of throughput at a given speed per user. With several
    models, the interval is that of the model whose interval is the widest.

    Parameters
    ----------
    one, other : two machines with values
    correlation : correlation of the log errors of two predictions [-]
    """
    assert one.effective_tok_s_per_unit
    assert other.effective_tok_s_per_unit
    value = one.effective_tok_s_per_unit / other.effective_tok_s_per_unit
    rows = [(mine.row, theirs.row) for mine, theirs in zip(one.answers, other.answers, strict=True)]
    widths = [ratio_interval(mine, theirs, correlation) for mine, theirs in rows if mine and theirs]
    widest = max(widths, key=lambda width: width.high / width.low)
    return Ratio(one.system, other.system, value * widest.low / widest.value, value, value * widest.high / widest.value)


def _repeated(
    asked: _Asked, axis: Axis, systems: tuple[Compared, ...], say: Say | None
) -> dict[float, tuple[Compared, ...]]:
    """The comparison at a few values of an axis, smallest first; `systems` is the one at the value of the workload."""
    workload = asked.workload()
    if axis == "context":
        base, values = workload.isl, [float(round(workload.isl * factor)) for factor in CONTEXTS]
    else:
        base, values = workload.hit_share, list(REUSES)
    rows = {base: systems}
    for value in values:
        if value not in rows:
            told = None if say is None else (lambda words, at=value: say(f"{axis} {at:g}: {words}"))
            rows[value] = _ranked(asked, told, *numbers_at(axis, workload, value))[0]
    return dict(sorted(rows.items()))


def _with_reuse(
    asked: _Asked, systems: tuple[Compared, ...], rows: Mapping[float, tuple[Compared, ...]]
) -> tuple[Compared, ...]:
    """The machines with the effect of reuse on break-even prices: between the nearest values below and above."""
    values, at = list(rows), list(rows).index(asked.workload().hit_share)
    ends = (values[max(at - 1, 0)], values[min(at + 1, len(values) - 1)])
    reuse = {f"{value:.0%} of the input": _served(rows[value]) for value in ends}
    costs = with_reuse({one.system: one.costs for one in systems}, _served(systems), reuse, asked.paying)
    return tuple(replace(one, costs=costs[one.system]) for one in systems)


def _served(systems: Sequence[Compared]) -> Machines:
    """Hardware of each machine that serves within the SLO, and what it serves."""
    costs = {one.system: one.costs.cost for one in systems}
    return {name: (cost.hardware, cost.served) for name, cost in costs.items() if cost is not None}


def numbers_at(axis: Axis, workload: Workload, value: float) -> tuple[Given, ...]:
    """The numbers of a workload that change with its context or its reuse.

    The context that a session keeps in the cache grows with the input and with the reuse. The variation of the input
    tokens that must be computed keeps its value, or falls to the largest one that the variation of the input allows:
    u (1 + v^2) <= isl (1 + isl_cv^2), with the mean u and the variation v of the computed input tokens.

    Parameters
    ----------
    axis : context: the input tokens of a request; reuse: the share of them that the prefix cache serves
    workload : the workload of the comparison
    value : the other value of the axis [token or -]
    """
    if axis == "context":
        changed = {"isl": value, "reused_context": workload.reused_context * value / workload.isl}
    else:
        share = workload.reused_context / workload.hit_share if workload.hit_share else workload.isl
        changed = {"hit_share": value, "reused_context": share * value}
        if workload.uncached_cv is not None:
            most = (1 + workload.isl_cv**2) / (1 - value) - 1
            changed["uncached_cv"] = min(workload.uncached_cv, math.sqrt(most))
    return tuple(
        Given(path=f"workload.{name}", value=_written(number), why=f"--crossover {axis}")
        for name, number in changed.items()
    )


def _winner(systems: Sequence[Compared]) -> str | None:
    return systems[0].system if systems[0].effective_tok_s_per_unit is not None else None


def _notes(systems: Sequence[Compared], equal: Equal) -> Iterator[str]:
    """What a reader must know beside the numbers."""
    open_ = [one.system for one in systems for answer in one.answers if answer.plan and not _settled(answer)]
    if open_:
        names = ", ".join(dict.fromkeys(open_))
        yield f"Not settled: {names}. The budget ended before every deployment was simulated that could be better."
    if equal == "power":
        yield "Power is that of the devices under load, without hosts and network."
    notes = (note for one in systems for answer in one.answers if answer.plan for note in answer.plan.notes)
    yield from dict.fromkeys(notes)


def _settled(answer: Study) -> bool:
    return bool(answer.plan and answer.plan.decision and answer.plan.decision.settled)
