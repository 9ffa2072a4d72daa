"""Why a training plan is not the best: the rules that it breaks, or its place and where a step loses time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from typing_extensions import TypedDict

from tokenworks.costs.train_memory import train_memory
from tokenworks.costs.train_plan import TrainPlans, TrainRates, train_rates
from tokenworks.errors import DoesNotFit, SpecError, TokenworksError
from tokenworks.legal.rules import Broken, broken_rules
from tokenworks.legal.training import TRAIN_MEMORY, TrainPoints, TrainProposal, TrainSetting
from tokenworks.planning.train import families, row_of
from tokenworks.planning.train_advice import nearest_to_legal, smallest
from tokenworks.planning.train_asked import AskedTraining
from tokenworks.planning.train_result import MEMORY, TrainRow, TrainRowPlain
from tokenworks.planning.train_search import Say, search_training
from tokenworks.planning.train_space import Fixed
from tokenworks.specs.calibration import CalibrationLike, calibration_name, load_calibration
from tokenworks.specs.given import Assume, given
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs

WHERE = "--why"


class TrainWhyPart(TypedDict):
    """Time of one part of a step: of the plan, and of the best plan [s]."""

    part: str
    seconds: float
    best_seconds: float


class TrainWhyBody(TypedDict):
    """The plain form of `train --why`."""

    inputs: Inputs
    label: str
    legal: bool
    broken: list[Annotated[Plain, FormOf(Broken)]]
    place: int | None
    prediction: TrainRowPlain | None
    best: TrainRowPlain | None
    parts: list[TrainWhyPart]


@dataclass(frozen=True, slots=True)
class TrainWhy:
    """The answer of `train --why`: broken rules, or what the plan does and how far it is from the best.

    Parameters
    ----------
    setting : model, machine, batch and sequence
    label : the plan in one line
    broken : rules that the plan breaks
    prediction : what the plan does; None: it breaks a rule
    place : place among the plans of the search, one for each choice of widths; 1 is the fastest
    best : the fastest plan
    calibration : as the user gave it
    """

    setting: TrainSetting
    label: str
    broken: tuple[Broken, ...]
    calibration: CalibrationLike
    prediction: TrainRow | None = None
    place: int | None = None
    best: TrainRow | None = None

    @property
    def parts(self) -> list[TrainWhyPart]:
        """Time of each part of a step, of the plan and of the best one; the largest loss first."""
        if self.prediction is None or self.best is None:
            return []
        own, best = _sums(self.prediction), _sums(self.best)
        parts = [TrainWhyPart(part=name, seconds=own.get(name, 0.0), best_seconds=best.get(name, 0.0))
                 for name in dict.fromkeys([*own, *best])]  # fmt: skip
        return sorted(parts, key=lambda part: part["best_seconds"] - part["seconds"])

    def plain(self) -> Plain:
        """The whole answer as plain data."""
        body: TrainWhyBody = {
            "inputs": inputs(
                model=self.setting.model.name, machine=self.setting.machine.name,
                calibration=calibration_name(self.calibration), given=self.setting.machine.given,
            ),
            "label": self.label,
            "legal": not self.broken,
            "broken": [dataclasses.asdict(item) for item in self.broken],
            "place": self.place,
            "prediction": self.prediction.plain() if self.prediction else None,
            "best": self.best.plain() if self.best else None,
            "parts": self.parts,
        }  # fmt: skip
        return envelope("train-why", body)

    def error(self) -> TokenworksError | None:
        """What is wrong with the plan, as an error with its exit code; None for a plan that can run."""
        if not self.broken:
            return None
        rules = ", ".join(item.rule for item in self.broken)
        if all(item.rule in TRAIN_MEMORY for item in self.broken):
            return DoesNotFit(f"{self.label} does not fit: {rules}")
        return SpecError(f"{self.label} breaks {rules}", where=WHERE, hint="the output says what would be right")


def why_training(
    ask: AskedTraining, *, assume: Assume, calibration: CalibrationLike, say: Say | None = None
) -> TrainWhy:
    """Judge a training plan.

    Parameters
    ----------
    ask : what the user asked for; `ask.fixed` is the plan to judge
    assume, calibration : as `planning.train.train` takes them
    say : told in words what happens next
    """
    setting = ask.setting
    rates = train_rates(setting.machine, load_calibration(calibration, assume=given(assume)))
    own = search_training(setting, rates, ask.fixed, front=False, say=say)
    if not own.legal:
        point, broken = nearest_to_legal(setting, ask.fixed)
        return TrainWhy(setting, _label(point), tuple(broken), calibration)
    if not len(own.points):
        return _too_large(ask, rates, calibration)
    row = row_of(1, own, 0, rates, machine=setting.machine, tokens=ask.tokens)
    every = search_training(setting, rates, Fixed(), within=row.step_s, front=False, say=say)
    best = row_of(1, every, 0, rates, machine=setting.machine, tokens=ask.tokens)
    places = families(every.points, len(every.points))
    place = 1 + sum(float(every.seconds[at]) < row.step_s * (1 - 1e-9) for at in places)
    return TrainWhy(setting, str(row.training), (), calibration, row, place, best)


def _too_large(ask: AskedTraining, rates: TrainRates, calibration: CalibrationLike) -> TrainWhy:
    """The answer for a plan that does not fit: memory by part of its smallest form."""
    setting = ask.setting
    least = smallest(setting, rates, ask.fixed)
    assert least is not None
    point, _ = least
    training = point.training(0, setting.base)
    used = train_memory(setting.model, rates, TrainPlans.of(training))
    parts = ", ".join(f"{name} {float(getattr(used, name)) / 1e9:,.1f}" for name in MEMORY)
    proposal = TrainProposal(point, setting, np.array([float(used.total)]), f" ({parts} GB)")
    return TrainWhy(setting, str(training), tuple(broken_rules(proposal, TRAIN_MEMORY)), calibration)


def _sums(row: TrainRow) -> dict[str, float]:
    """Time of a step by part; communication with its kind, over all levels."""
    sums: dict[str, float] = {}
    for part in row.parts:
        name = f"{part.part} communication" if part.kind == "communication" else part.part
        sums[name] = sums.get(name, 0.0) + part.seconds
    return sums


def _label(point: TrainPoints) -> str:
    """The widths of one plan, legal or not."""
    return f"tp={point.tp[0]},cp={point.cp[0]},pp={point.pp[0]},dp={point.dp[0]},ep={point.ep[0]}"
