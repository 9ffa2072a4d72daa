"""Predict measured training runs: step time and throughput of the deployment of each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tokenworks.calibrate.case_machine import Skipped
from tokenworks.calibrate.training_case import Choose, TrainingCase, training_case
from tokenworks.calibrate.training_points import TrainingPoint
from tokenworks.costs.train import check, train_steps
from tokenworks.costs.train_plan import TrainPlans, TrainRates, train_rates
from tokenworks.errors import TokenworksError
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.training import Training, TrainingParallel

WIDTHS = tuple(one.name for one in fields(TrainPlans) if one.name != "policy")


@dataclass(frozen=True, slots=True)
class RunStep:
    """What a prediction says about one step of a run.

    Parameters
    ----------
    step_s : time of an optimiser step [s]
    tok_s_per_device : throughput [token/s per device]
    model_flop : FLOP that the model needs for the tokens of the step, all devices [FLOP]
    mfu : model FLOP rate / 16-bit peak [-]
    fits : whether memory is large enough
    spread : factor of the 80 % interval [-]
    """

    step_s: float
    tok_s_per_device: float
    model_flop: float
    mfu: float
    fits: bool
    spread: float


@dataclass(frozen=True, slots=True)
class TrainingPrediction:
    """The prediction of a training run; all None with a reason in `why` if there is none.

    Parameters
    ----------
    step : one step of the run
    measured : measured throughput; derived from the step time or from the FLOP rate if only these are stated
        [token/s per device]
    case : what the prediction ran on
    why : why there is no prediction: a kind of reason, a colon, and the reason
    """

    step: RunStep | None = None
    measured: float | None = None
    case: TrainingCase | None = None
    why: str = ""

    @property
    def tok_s_per_device(self) -> float | None:
        """Predicted throughput [token/s per device]."""
        return None if self.step is None else self.step.tok_s_per_device

    @property
    def step_s(self) -> float | None:
        """Predicted time of an optimiser step [s]."""
        return None if self.step is None else self.step.step_s

    @property
    def spread(self) -> float:
        """80 % of measured values lie in [v / spread, v x spread] around a predicted value v [-]."""
        return 1.0 if self.step is None else self.step.spread


def measured_rate(point: TrainingPoint, step: RunStep) -> float | None:
    """Measured throughput of a run [token/s per device].

    The first of these that the file states: tokens per second; the time of a step; the model FLOP rate; MFU. The last
    two are divided by the FLOP that the model needs for a token, as our own count has it.

    Parameters
    ----------
    point : the run
    step : its prediction, for the FLOP of a step and the peak of the device
    """
    measured, tokens = point.measured, point.batch * point.sequence
    if measured.tok_s_per_device is not None:
        return measured.tok_s_per_device
    if measured.step_s is not None:
        return tokens / (point.devices * measured.step_s)
    if measured.tflops is not None:
        return measured.tflops * tokens / step.model_flop
    if measured.mfu is not None:
        return measured.mfu / step.mfu * step.tok_s_per_device
    return None


def predict_training(
    points: Sequence[TrainingPoint], calibration: Calibration, *, choose: Choose | None = None,
    say: Callable[[str], None] | None = None,
) -> list[TrainingPrediction]:  # fmt: skip
    """Predict training runs, in their order.

    Parameters
    ----------
    points : the runs
    calibration : calibration of the prediction
    choose : chooses the deployment of runs whose parallelism is not stated; None: such runs are skipped
    say : receives progress messages; None for no messages
    """
    cases: list[TrainingCase | None] = []
    reasons: list[str] = []
    for point in points:
        try:
            case = training_case(point, choose)
            check(case.model, case.training)
        except Skipped as skipped:
            cases, reasons = [*cases, None], [*reasons, str(skipped)]
        except TokenworksError as error:
            cases, reasons = [*cases, None], [*reasons, f"no prediction: {point.id}: {error}"]
        else:
            cases, reasons = [*cases, case], [*reasons, ""]
    if say:
        say(f"predicting {len(points):,} training runs")
    steps = iter(run_steps([case for case in cases if case is not None], calibration))
    predictions = []
    for point, known, why in zip(points, cases, reasons, strict=True):
        step = None if known is None else next(steps)
        if isinstance(step, str):
            predictions.append(TrainingPrediction(why=f"no prediction: {point.id}: {step}"))
        elif step is None:
            predictions.append(TrainingPrediction(why=why))
        else:
            predictions.append(TrainingPrediction(step, measured_rate(point, step), known))
    return predictions


def run_steps(cases: Sequence[TrainingCase], calibration: Calibration) -> list[RunStep | str]:
    """Steps of runs, in their order. Runs with equal model, machine and policies are computed together.

    Parameters
    ----------
    cases : what the runs are predicted on, each checked
    calibration : calibration of the prediction

    Returns
    -------
    The step of each run, or the message of the error.
    """
    groups: dict[tuple[str, str, Training], list[int]] = {}
    for at, case in enumerate(cases):
        groups.setdefault((case.model.name, case.machine.name, _policy(case.training)), []).append(at)
    rates: dict[str, TrainRates] = {}
    steps: list[RunStep | str] = [""] * len(cases)
    for (_, machine, policy), members in groups.items():
        try:
            if machine not in rates:
                rates[machine] = train_rates(cases[members[0]].machine, calibration)
            plans = [TrainPlans.of(cases[at].training) for at in members]
            arrays: dict[str, Any] = {
                name: np.array([getattr(plan, name) for plan in plans], dtype=float) for name in WIDTHS
            }
            both = train_steps(cases[members[0]].model, rates[machine], TrainPlans(**arrays, policy=policy))
        except TokenworksError as error:
            for at in members:
                steps[at] = str(error)
            continue
        columns = [
            np.broadcast_to(column, len(members))
            for column in (both.step_s, both.tok_s_per_device, both.model_flop, both.mfu, both.memory.fits)
        ]
        for position, at in enumerate(members):
            step_s, rate, flop, mfu, fits = (column[position] for column in columns)
            steps[at] = RunStep(float(step_s), float(rate), float(flop), float(mfu), bool(fits), both.spread)
    return steps


def _policy(training: Training) -> Training:
    """The settings that all plans of one computation share: no widths and no batches."""
    shared = TrainingParallel(sequence=training.parallel.sequence)
    schedule = training.schedule.model_copy(update={"virtual_stages": 1})
    return training.model_copy(update={"parallel": shared, "micro_batch": 1, "global_batch": 1, "schedule": schedule})
