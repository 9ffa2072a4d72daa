"""What `compare` is asked: models with shares, machines, requests. Read and checked before the first plan."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenworks.errors import DoesNotFit, NoPrediction, SpecError, UnknownName
from tokenworks.ledger.compare_machines import AskedMachines, written
from tokenworks.ledger.study import TOP, Question
from tokenworks.planning.bench import Budget
from tokenworks.planning.plan import prepare
from tokenworks.planning.setting import workload_of
from tokenworks.planning.tiered import AUTO, check_tiers
from tokenworks.specs.calibration import DEFAULT, calibration_name
from tokenworks.specs.given import Given
from tokenworks.specs.price import Prices
from tokenworks.specs.price_file import api_price
from tokenworks.specs.result import Inputs, inputs
from tokenworks.specs.slo import Slo
from tokenworks.specs.workload import Workload


@dataclass(frozen=True, kw_only=True)
class AskedServing(AskedMachines):
    """A comparison of machines that serve.

    Parameters
    ----------
    shares : model -> share of the effective tokens [-]
    arguments : arguments of `prepare` that all plans share
    budget, tiers : as `plan` takes them
    """

    shares: Mapping[str, float]
    arguments: Mapping[str, Any]
    budget: str | None
    tiers: str

    def check(self) -> None:
        """Refuse bad input before the first plan, which may take minutes."""
        self.must_be_machines()
        for name, item in ((name, item) for name, items in self.assume_of.items() for item in items):
            if item.area == "workload":
                hint = "all machines do the same work: give this number without a machine, or with --set"
                raise SpecError("belongs to the workload", where=f"--assume {name}=...: {item.path}", hint=hint)
        Budget.of(self.budget)
        self.reliability.must_serve()
        if self.paying.api:
            _must_be_listed(self.paying.prices, self.paying.api)
        refused = []
        for question in self.questions():
            with contextlib.suppress(DoesNotFit, NoPrediction):
                costings = prepare(question.model, question.system, **question.arguments)
                try:
                    check_tiers(self.tiers, costings)
                except SpecError as error:  # another machine may have an engine with these tiers
                    refused.append(error)
        if len(refused) == len(self.on) * len(self.shares):
            raise refused[0]

    def questions(self, *more: Given) -> list[Question]:
        """One plan for each machine and model, machine by machine."""
        return [self._question(model, name, more) for name in self.on for model in self.shares]

    def _question(self, model: str, name: str, more: Sequence[Given]) -> Question:
        numbers = (*self.numbers(name), *more)
        return Question(
            model=model, system=name, arguments={**self.arguments, "assume": numbers or None}, budget=self.budget,
            command=self._command(model, name, numbers), tiers=self.tiers, reliability=self.reliability,
            weigh_tiers=True,
        )  # fmt: skip

    def _command(self, model: str, name: str, numbers: Sequence[Given]) -> str:
        words = ["tokenworks", "plan", model, "--on", name]
        for option in ("workload", "isl", "osl", "slo"):
            if (value := self.arguments[option]) is not None:
                words += [f"--{option}", written(value) if isinstance(value, float) else str(value)]
        if self.arguments["engine"] != "auto":
            words += ["--engine", str(self.arguments["engine"])]
        if self.tiers != AUTO:
            words += ["--tiers", self.tiers]
        words += command_numbers(self.arguments["calibration"], numbers)
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
            engine=str(self.arguments["engine"]), calibration=calibration_name(self.arguments["calibration"]),
            given=self.given,
        )  # fmt: skip


def command_numbers(calibration: Any, numbers: Sequence[Given]) -> list[str]:
    """The calibration and the numbers of the user, as words of a command."""
    words = [] if calibration == DEFAULT else ["--calibration", calibration_name(calibration)]
    for item in numbers:
        path = item.path if item.area != "machine" else f"machine.{item.path}"
        words += ["--set", f"{path}={item.value}"]
    return words


def shares_of(models: str | Sequence[str] | Mapping[str, float]) -> dict[str, float]:
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


def _must_be_listed(prices: Prices, model: str) -> None:
    """Refuse an API price that the list does not have."""
    try:
        api_price(prices, model)
    except UnknownName as error:
        raise SpecError(error.message, where="--api", hint=error.hint) from None
