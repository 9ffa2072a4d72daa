"""Questions whose answers take long: plans, training plans, availability. Equal questions are answered once."""

from __future__ import annotations

import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenworks.errors import DoesNotFit, NoPrediction, SpecError
from tokenworks.ledger.availability import availability_of
from tokenworks.ledger.availability_result import Availability
from tokenworks.ledger.study import Question, Study, study
from tokenworks.ledger.workers import Say, each
from tokenworks.planning.train import train
from tokenworks.planning.train_result import TrainRun
from tokenworks.simulation.source import Source
from tokenworks.specs import load
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.compose import parts
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.given import Given
from tokenworks.specs.provenance import file_form
from tokenworks.specs.reliability import Reliability

LISTED = 1
"""Deployments that a plan lists: claims read the best one [count]."""


class ClaimAsk(ABC):
    """A question. It is a frozen dataclass of numbers, words and tuples, so that equal questions are equal."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The question in a few words, for progress."""

    @property
    @abstractmethod
    def command(self) -> str:
        """The command that prints the answer."""

    @property
    def weight(self) -> float:
        """About how long the answer takes; the longest one starts first [-]."""
        return 1.0

    @abstractmethod
    def answer(self, say: Say | None) -> Any:
        """The answer."""


Answers = Mapping[ClaimAsk, Any]
"""Question -> answer. A plan has a `Study`, a training plan a `TrainAnswer`, availability an `Availability`."""


def unsettled(asks: Iterable[PlanAsk], answers: Answers) -> tuple[str, ...]:
    """A note on plans whose budget ended before they were settled; empty: all were settled."""
    open_ = [
        ask.name
        for ask in asks
        if (plan := answers[ask].plan) is not None and plan.decision is not None and not plan.decision.settled
    ]
    if not open_:
        return ()
    return (f"Not settled, since the budget ended before every candidate was simulated: {', '.join(open_)}.",)


def options(numbers: Iterable[Given]) -> list[str]:
    """Numbers as words of a command."""
    words = []
    for item in numbers:
        path = item.path if item.area != "machine" else f"machine.{item.path}"
        words += ["--set", f"{path}={item.value}"]
    return words


@dataclass(frozen=True)
class PlanAsk(ClaimAsk):
    """A plan; the answer is a `Study`. The fields are the arguments of `plan`.

    Parameters
    ----------
    model, system, workload, slo, engine, tiers, calibration, budget : as `plan` takes them
    assume : numbers of this machine and of these requests
    devices : devices of the machine; None: all [count]
    simulate : False: the estimate of the closed form, which is quick
    fronts : whether the points of the Pareto front are simulated, too
    """

    model: str
    system: str
    workload: str
    slo: str | None = None
    assume: tuple[Given, ...] = ()
    devices: int | None = None
    engine: str = "auto"
    tiers: str = "none"
    calibration: str = DEFAULT
    budget: str | None = None
    simulate: bool = True
    fronts: bool = False

    @property
    def name(self) -> str:
        """Model and machine."""
        return f"{self.model.rsplit('/', 1)[-1]} on {self.system}"

    @property
    def command(self) -> str:
        """The plan, as a command."""
        words = ["tokenworks", "plan", self.model, "--on", self.system, "--workload", self.workload]
        for option, value, usual in (
            ("slo", self.slo, None), ("devices", self.devices, None), ("engine", self.engine, "auto"),
            ("calibration", self.calibration, DEFAULT), ("budget", self.budget, None), ("tiers", self.tiers, "auto"),
        ):  # fmt: skip
            if value != usual:
                words += [f"--{option}", str(value)]
        words += options(self.assume)
        return shlex.join([*words, "--top", str(LISTED), *([] if self.simulate else ["--no-simulate"])])

    @property
    def weight(self) -> float:
        """Devices: larger machines have more deployments."""
        devices = float(self.devices or parts(self.system, assume=self.assume).devices)
        return devices if self.simulate else devices / 100

    def answer(self, say: Say | None) -> Study:
        """The study of the plan; a machine that cannot do the work has the reason in `error`."""
        arguments = {
            "workload": self.workload, "isl": None, "osl": None, "rate": None, "concurrency": None, "slo": self.slo,
            "engine": self.engine, "devices": self.devices, "assume": self.assume or None,
            "calibration": self.calibration,
        }  # fmt: skip
        asked = Question(
            self.model, self.system, arguments, self.budget, self.command, tiers=self.tiers,
            simulate=self.simulate, fronts=self.fronts, top=LISTED,
        )  # fmt: skip
        return study(asked, say)


@dataclass(frozen=True)
class TrainAnswer:
    """A training run, or why there is none.

    Parameters
    ----------
    run : the run; None: no plan fits
    error : the reason, in words; empty with a run
    """

    run: TrainRun | None
    error: str = ""


@dataclass(frozen=True)
class TrainAsk(ClaimAsk):
    """A training plan; the answer is a `TrainAnswer`. The fields are the arguments of `train`.

    Parameters
    ----------
    model, system, tokens, batch, seq, precision, deploy, calibration : as `train` takes them
    assume : numbers of this machine
    rates : the failure rates, as `rates_text` writes them
    """

    model: str
    system: str
    tokens: str
    batch: str
    rates: str
    seq: int | None = None
    precision: str | None = None
    deploy: str | None = None
    assume: tuple[Given, ...] = ()
    calibration: str = DEFAULT

    @property
    def name(self) -> str:
        """Model and machine."""
        return f"training {self.model.rsplit('/', 1)[-1]} on {self.system}"

    @property
    def command(self) -> str:
        """The training plan, as a command."""
        words = ["tokenworks", "train", self.model, "--on", self.system, "--tokens", self.tokens, "--batch", self.batch]
        for option, value in (("seq", self.seq), ("precision", self.precision), ("deploy", self.deploy)):
            if value is not None:
                words += [f"--{option}", str(value)]
        if self.calibration != DEFAULT:
            words += ["--calibration", self.calibration]
        return shlex.join([*words, *options(self.assume)])

    @property
    def weight(self) -> float:
        """Devices of the machine."""
        return float(parts(self.system, assume=self.assume).devices)

    def answer(self, say: Say | None) -> TrainAnswer:
        """The training run; a machine that cannot train the model has the reason."""
        try:
            run = train(
                self.model, self.system, tokens=self.tokens, batch=self.batch, seq=self.seq, deploy=self.deploy,
                precision=self.precision,  # type: ignore[arg-type]
                reliability=rates_of(self.rates), assume=self.assume or None, calibration=self.calibration,
                progress=say,
            )  # fmt: skip
        except (DoesNotFit, NoPrediction) as error:
            return TrainAnswer(None, str(error))
        return TrainAnswer(run)


@dataclass(frozen=True)
class AvailabilityAsk(ClaimAsk):
    """Availability of a machine, or of the best deployment of a plan on it; the answer is an `Availability`.

    Parameters
    ----------
    system : the machine
    rates : the failure rates, as `rates_text` writes them
    assume : numbers of the machine
    plan : the plan whose best deployment is taken; None: only the machine
    elastic : whether its expert parallelism goes on without failed ranks
    spares : devices that replace failed ones [count]
    seeds : random histories [count]
    """

    system: str
    rates: str
    assume: tuple[Given, ...] = ()
    plan: PlanAsk | None = None
    elastic: bool = False
    spares: int = 0
    seeds: int = 100

    @property
    def name(self) -> str:
        """The machine."""
        return f"availability of {self.system}"

    @property
    def command(self) -> str:
        """Availability, as a command; the deployment comes from the command of its plan."""
        words = ["tokenworks", "availability", self.system]
        if self.plan is None:
            return shlex.join([*words, *options(self.assume)])
        changes = [*(["--set", "elastic_ep=true"] if self.elastic else [])]
        changes += ["--set", f"spares={self.spares}"] if self.spares else []
        return f"{self.plan.command} -o yaml > best.yaml && {shlex.join([*words, '--deploy', 'best.yaml', *changes])}"

    @property
    def weight(self) -> float:
        """The plan, and simulations of the states with lost parts."""
        return 1.0 if self.plan is None else 2 * self.plan.weight

    def answer(self, say: Say | None) -> Availability:
        """The availability.

        Raises
        ------
        DoesNotFit, SpecError : the plan has no deployment, or too few devices are left for the spares
        """
        rates = rates_of(self.rates)
        if self.plan is None:
            return availability_of(
                self.system, seeds=self.seeds, reliability=rates, assume=self.assume or None, say=say
            )
        found = self.plan.answer(say)
        if found.plan is None or found.row is None:
            raise SpecError(f"no deployment meets the SLO: {found.error}", where=self.name)
        chosen = found.row.deployment.model_copy(update={"elastic_ep": self.elastic, "spares": self.spares})
        setting = found.plan.setting
        deployed = Deployed(deployment=chosen, workload=setting.workload, given=self.plan.assume)
        return availability_of(
            self.system, deployed=deployed, source=Source.read(None, setting.workload), slo=found.plan.slo,
            seeds=self.seeds, reliability=rates, assume=self.plan.assume or None, say=say,
        )  # fmt: skip


def rates_text(reliability: Reliability) -> str:
    """Failure rates as one text, which can be compared."""
    return json.dumps(file_form(reliability), sort_keys=True)


def rates_of(text: str) -> Reliability:
    """The failure rates of a text of `rates_text`."""
    return load.validate(Reliability, json.loads(text), "failure rates")


def answered(asks: Iterable[ClaimAsk], *, workers: int, say: Say | None) -> dict[ClaimAsk, Any]:
    """Answer each question once, on all processors; the number of processes changes no answer.

    Parameters
    ----------
    asks : the questions; equal ones count once
    workers : processes [count]
    say : told in words what happens
    """
    once = list(dict.fromkeys(asks))
    answers = each(
        _answer, once, names=[f"{place} of {len(once)}, {one.name}" for place, one in enumerate(once, 1)],
        workers=workers, weights=[one.weight for one in once], say=say,
    )  # fmt: skip
    return dict(zip(once, answers, strict=True))


def _answer(ask: ClaimAsk, say: Say | None) -> Any:
    return ask.answer(say)
