"""Predict measured training runs: step time and throughput of the deployment of each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenworks.calibrate.case_machine import Skipped
from tokenworks.calibrate.training_case import Choose, TrainingCase, training_case
from tokenworks.calibrate.training_points import TrainingPoint
from tokenworks.costs.train import TrainStep, train_step
from tokenworks.costs.train_plan import train_rates
from tokenworks.errors import TokenworksError
from tokenworks.specs.calibration import Calibration


@dataclass(frozen=True, slots=True)
class TrainingPrediction:
    """The prediction of a training run; all None with a reason in `why` if there is none.

    Parameters
    ----------
    step : cost of an optimiser step
    measured : measured throughput; derived from the step time or from the FLOP rate if only these are stated
        [token/s per device]
    spread : 80 % of measured values lie in [v / spread, v x spread] around a predicted value v [-]
    case : what the prediction ran on
    why : why there is no prediction: a kind of reason, a colon, and the reason
    """

    step: TrainStep | None = None
    measured: float | None = None
    spread: float = 1.0
    case: TrainingCase | None = None
    why: str = ""

    @property
    def tok_s_per_device(self) -> float | None:
        """Predicted throughput [token/s per device]."""
        return None if self.step is None else float(self.step.tok_s_per_device)

    @property
    def step_s(self) -> float | None:
        """Predicted time of an optimiser step [s]."""
        return None if self.step is None else float(self.step.step_s)


def measured_rate(point: TrainingPoint, step: TrainStep) -> float | None:
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
        return measured.tflops * tokens / float(step.model_flop)
    if measured.mfu is not None:
        return measured.mfu / float(step.mfu) * float(step.tok_s_per_device)
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
    predictions: list[TrainingPrediction] = []
    for count, point in enumerate(points, 1):
        predictions.append(_predict(point, calibration, choose))
        if say and count % 50 == 0:
            say(f"predicted {count:,} of {len(points):,} runs")
    return predictions


def _predict(point: TrainingPoint, calibration: Calibration, choose: Choose | None) -> TrainingPrediction:
    try:
        case = training_case(point, choose)
        rates = train_rates(case.machine, calibration)
        step = train_step(case.model, rates, case.training)
    except Skipped as skipped:
        return TrainingPrediction(why=str(skipped))
    except TokenworksError as error:
        return TrainingPrediction(why=f"no prediction: {point.id}: {error}")
    return TrainingPrediction(step, measured_rate(point, step), rates.spread, case)
