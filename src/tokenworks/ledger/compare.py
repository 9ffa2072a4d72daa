"""`tokenworks.compare`: the best simulated plan of each machine on the same work, at equal amounts."""

from __future__ import annotations

import itertools
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenworks.errors import SpecError
from tokenworks.ledger.comparison import Compared, Comparison, Equal, Ratio, charged
from tokenworks.ledger.curves import Crossover, Curve, crossings
from tokenworks.ledger.reasons import reasons
from tokenworks.ledger.study import TOP, Question, Study, study
from tokenworks.ledger.workers import Say, cores, each
from tokenworks.planning.plan import prepare
from tokenworks.planning.setting import EngineChoice
from tokenworks.specs.calibration import DEFAULT, CalibrationLike, calibration_name
from tokenworks.specs.compose import parts
from tokenworks.specs.given import Assume, Given, given
from tokenworks.specs.load import WorkloadLike
from tokenworks.specs.result import Inputs, inputs
from tokenworks.specs.slo import SloLike

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
        given(assume), {name: given(numbers) for name, numbers in (assume_of or {}).items()}, budget,
    )  # fmt: skip
    asked.check()
    count = cores() if workers is None else workers
    systems = _ranked(asked, equal, count, progress)
    curves = {one.system: _curve(one) for one in systems if one.effective_tok_s_per_unit is not None}
    found = list(crossings(curves)) if len(shares) == 1 else []
    for axis in crossover:
        found += _crossed(asked, equal, axis, systems, count, progress)
    ratios = tuple(_ratios(systems))
    return Comparison(
        models=shares, equal=equal, systems=systems, ratios=ratios, why=reasons(systems, ratios, equal),
        crossovers=tuple(found), asked=asked.inputs(), notes=tuple(_notes(systems, equal)),
        elapsed_s=time.perf_counter() - began,
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
    """

    shares: Mapping[str, float]
    on: tuple[str, ...]
    arguments: Mapping[str, Any]
    assume: tuple[Given, ...]
    assume_of: Mapping[str, tuple[Given, ...]]
    budget: str | None

    def check(self) -> None:
        """Refuse bad input before the first plan, which may take minutes."""
        if len(set(self.on)) < 2:
            raise SpecError("a comparison needs two different machines", where="--on", hint="give --on twice or more")
        if len(set(self.on)) < len(self.on):
            twice = next(name for name in self.on if self.on.count(name) > 1)
            raise SpecError("is given twice", where=f"--on {twice}", hint="leave one out")
        for name in self.assume_of:
            if name not in self.on:
                hint = f"one of {', '.join(self.on)}, as --on has it"
                raise SpecError("is not compared", where=f"--assume {name}=", hint=hint)
        for question in self.questions():
            refused = study_inputs(question)
            if refused is not None:
                raise refused

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
                words += [f"--{option}", f"{value:g}" if isinstance(value, float) else str(value)]
        if self.arguments["engine"] != "auto":
            words += ["--engine", str(self.arguments["engine"])]
        if self.arguments["calibration"] != DEFAULT:
            words += ["--calibration", calibration_name(self.arguments["calibration"])]
        for item in numbers:
            path = item.path if item.area != "machine" else f"machine.{item.path}"
            words += ["--set", f"{path}={item.value}"]
        if self.budget:
            words += ["--budget", self.budget]
        return shlex.join([*words, "--top", str(TOP)])

    def inputs(self) -> Inputs:
        """The inputs of the comparison as plain data."""
        costing = prepare(
            next(iter(self.shares)), self.on[0], **self.questions()[0].arguments
        )[0]  # fmt: skip
        return inputs(
            workload=costing.setting.workload, slo=str(costing.slo), engine=str(self.arguments["engine"]),
            calibration=calibration_name(self.arguments["calibration"]),
            given=(*self.assume, *(item for items in self.assume_of.values() for item in items)),
        )  # fmt: skip


def study_inputs(question: Question) -> SpecError | None:
    """The error for bad input of a plan; None where the plan can start, or where the model does not fit."""
    from tokenworks.errors import DoesNotFit

    try:
        prepare(question.model, question.system, **question.arguments)
    except DoesNotFit:
        return None
    except SpecError as error:
        return error
    return None


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
            raise SpecError(f"{weight:g} must be above 0", where=f"share of {model}")
    return {model: weight / sum(weights.values()) for model, weight in weights.items()}


def _ranked(asked: _Asked, equal: Equal, workers: int, say: Say | None, *more: Given) -> tuple[Compared, ...]:
    """The machines with their studies, best first."""
    questions = asked.questions(*more)
    names = [f"{one.system}, {one.model}" if len(asked.shares) > 1 else str(one.system) for one in questions]
    weights = [float(_devices(str(one.system))) for one in questions]
    studies = each(study, questions, names=names, workers=workers, weights=weights, say=say)
    each_has = len(asked.shares)
    rows = [
        _compared(name, studies[i * each_has : (i + 1) * each_has], asked.shares, equal)
        for i, name in enumerate(asked.on)
    ]
    return tuple(sorted(rows, key=lambda row: -(row.effective_tok_s_per_unit or 0.0)))


def _devices(on: str) -> int:
    whole = parts(on)
    return whole.devices


def _compared(name: str, studies: Sequence[Study], shares: Mapping[str, float], equal: Equal) -> Compared:
    """One machine: its value for the mix is 1 / sum(share / value of the model), in effective tokens."""
    title = parts(name).system.title
    errors = [one.error for one in studies if one.error]
    if errors:
        return Compared(name, title, None, None, None, errors[0], tuple(studies))
    devices = charged(studies[0])
    amount = AMOUNTS[equal](studies, shares, devices)
    if amount is None:
        return Compared(name, title, devices, None, None, NO_AMOUNT[equal], tuple(studies))
    return Compared(name, title, devices, amount, mixed(studies, shares) / amount, "", tuple(studies))


def mixed(studies: Sequence[Study], shares: Mapping[str, float]) -> float:
    """Effective tokens per second of a machine that divides its time so that each model has its share of them."""
    return 1 / sum(
        share / one.best.effective_tok_s for one, share in zip(studies, shares.values(), strict=True) if one.best
    )


def _power(studies: Sequence[Study], shares: Mapping[str, float], devices: int) -> float | None:
    """Power of all devices under load, with the time that each model takes [kW]."""
    watts = [one.best.watts_per_device for one in studies if one.best]
    if any(one is None for one in watts):
        return None
    times = [share / one.best.effective_tok_s for one, share in zip(studies, shares.values(), strict=True) if one.best]
    return devices * sum(w * t for w, t in zip(watts, times, strict=True) if w is not None) / sum(times) / 1e3


AMOUNTS: dict[Equal, Callable[[Sequence[Study], Mapping[str, float], int], float | None]] = {
    "devices": lambda _studies, _shares, devices: float(devices),
    "power": _power,
}
"""What machines have equal amounts of -> the amount of a machine; None: not known."""

NO_AMOUNT: dict[Equal, str] = {
    "devices": "",
    "power": "the power of its device is not published",
}
"""Why a machine has no amount."""


def _curve(one: Compared) -> Curve:
    plan = one.answers[0].plan
    assert plan is not None
    assert one.devices is not None
    assert one.amount is not None
    return Curve.of(plan.pareto, one.devices / one.amount)


def _ratios(systems: Sequence[Compared]) -> Iterator[Ratio]:
    """The winner against each other machine with a value, with the interval of the ratio."""
    winner, *others = (one for one in systems if one.effective_tok_s_per_unit is not None)
    for other in others:
        assert winner is not None
        yield ratio_of(winner, other)


def ratio_of(one: Compared, other: Compared) -> Ratio:
    """Effective tokens of one machine / those of another at equal amounts, with the 80 % interval."""
    value = (one.effective_tok_s_per_unit or math.nan) / (other.effective_tok_s_per_unit or math.nan)
    return Ratio(one.system, other.system, value, value, value)


def _crossed(
    asked: _Asked, equal: Equal, axis: Axis, systems: Sequence[Compared], workers: int, say: Say | None
) -> Iterator[Crossover]:
    """Where the winner changes as the context or the reuse grows, from comparisons at a few values."""
    setting = prepare(next(iter(asked.shares)), asked.on[0], **asked.questions()[0].arguments)[0].setting
    workload = setting.workload
    if axis == "context":
        base, path = workload.isl, "workload.isl"
        values = [round(base * factor) for factor in CONTEXTS]
    else:
        base, path = workload.hit_share, "workload.hit_share"
        values = list(REUSES)
    winners: dict[float, str | None] = {base: _winner(systems)}
    for value in values:
        if value not in winners:
            told = None if say is None else (lambda words, at=value: say(f"{axis} {at:g}: {words}"))
            number = Given(path=path, value=f"{value:g}", why=f"--crossover {axis}")
            winners[value] = _winner(_ranked(asked, equal, workers, told, number))
    ordered = sorted(winners.items())
    for (low, below), (high, above) in itertools.pairwise(ordered):
        if below != above:
            yield Crossover(axis, low, high, below, above)


def _winner(systems: Sequence[Compared]) -> str | None:
    return systems[0].system if systems[0].effective_tok_s_per_unit is not None else None


def _notes(systems: Sequence[Compared], equal: Equal) -> Iterator[str]:
    """What a reader must know beside the numbers."""
    open_ = [one.system for one in systems for answer in one.answers if answer.plan and not _settled(answer)]
    if open_:
        yield f"Not settled: {', '.join(dict.fromkeys(open_))}. The budget ended before every deployment was simulated that could be better."
    if equal == "power":
        yield "Power is that of the devices under load, without hosts and network."
    notes = (note for one in systems for answer in one.answers if answer.plan for note in answer.plan.notes)
    yield from dict.fromkeys(notes)


def _settled(answer: Study) -> bool:
    return bool(answer.plan and answer.plan.decision and answer.plan.decision.settled)
