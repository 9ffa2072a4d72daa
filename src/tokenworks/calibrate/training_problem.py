"""The numbers of training that a fit may change, and the errors of measured runs as a function of these numbers.

Each number has a prior, a freedom, and limits of what is physically possible. `training_freedom` chooses the freedoms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tokenworks.arrays import Bools, Floats
from tokenworks.calibrate.fit import STEP
from tokenworks.calibrate.training_case import TrainingCase
from tokenworks.calibrate.training_points import TrainingPoint
from tokenworks.calibrate.training_predict import measured_rate, predict_training, run_steps
from tokenworks.costs.train_plan import training_factors
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.training import Training

Kind = Literal["kernels", "papers", "assumed"]
"""Where the prior of a number comes from, best known first: tables of kernels, figures of papers, an estimate."""


@dataclass(frozen=True, slots=True)
class FreeNumber:
    """What a fit may do with a number of the section `training`.

    Parameters
    ----------
    kind : where its prior comes from
    low, high : smallest and largest value that is physically possible [-, or s for times of the host]
    """

    kind: Kind
    low: float
    high: float


NUMBERS: Mapping[str, FreeNumber] = {
    "gemm": FreeNumber("kernels", 0.6, 1.0),
    "grouped": FreeNumber("papers", 0.5, 1.0),
    "fused_experts": FreeNumber("papers", 1.0, 1.6),
    "attention": FreeNumber("kernels", 0.8, 1.28),
    "attention_backward": FreeNumber("papers", 0.6, 1.0),
    "attention_fp8": FreeNumber("papers", 1.0, 1.9),
    "linear_attention": FreeNumber("papers", 0.1, 1.0),
    "elementwise": FreeNumber("papers", 0.5, 1.0),
    "dp_exposed": FreeNumber("assumed", 0.0, 1.0),
    "tp_exposed": FreeNumber("assumed", 0.0, 1.0),
    "ep_exposed": FreeNumber("assumed", 0.0, 1.0),
    "pp_exposed": FreeNumber("assumed", 0.0, 1.0),
    "host_op": FreeNumber("assumed", 5e-6, 100e-6),
    "host_expert": FreeNumber("assumed", 50e-6, 1e-3),
}
"""Number that a fit may change -> its kind and limits.

- `gemm`: training runs GEMMs no faster than the kernel tables, and the power limit takes at most 0.4 of the clock.
- `grouped`: experts are no faster than dense GEMMs, and at least half of the rows of their tiles are used.
- `attention`: FlashAttention-3 reaches 740 TFLOP/s on H100 at best (arXiv:2407.08608, figure 5). That is 1.28 times the
  prefill rate of H100 in the kernel tables.
- `attention_backward`: the backward pass is no faster than the forward pass. `attention_fp8`: FP8 has at most twice the
  16-bit rate.
- `linear_attention`, `elementwise`: small kernels reach at most the bandwidth of GEMMs.
- exposed communication adds no more than its own time."""

FREEDOM: Mapping[Kind, float] = {"kernels": 0.2, "papers": 0.4, "assumed": 0.4}
"""Kind -> freedom of its numbers: the standard deviation of log(fitted / prior) [-]. Chosen by `training_freedom` on
fitted runs alone: `python -m benchmarks.train_freedom DATA.csv` does the choice again."""

DECIDES = 0.95
"""A number is decided by the runs if its standard deviation after the fit is smaller than this share of its freedom.
Others stay at their priors [-]."""


def touches_all(_case: TrainingCase) -> bool:
    """Every run depends on a number that `TOUCHES` does not list."""
    return True


TOUCHES: Mapping[str, Callable[[TrainingCase], bool]] = {
    "grouped": lambda case: any(block.experts for block in case.model.blocks),
    "fused_experts": lambda case: case.training.experts.fused,
    "attention_fp8": lambda case: case.training.precision.attention == "fp8",
    "linear_attention": lambda case: any(block.state for block in case.model.blocks),
    "dp_exposed": lambda case: case.training.overlap.dp,
    "tp_exposed": lambda case: case.training.overlap.tp and case.training.parallel.tp > 1,
    "ep_exposed": lambda case: case.training.overlap.ep and case.training.parallel.ep > 1,
    "pp_exposed": lambda case: case.training.parallel.pp > 1,
    "host_op": lambda case: case.training.graphs != "full",
    "host_expert": lambda case: case.training.graphs != "full" and any(block.experts for block in case.model.blocks),
}
"""Number -> whether it can change the prediction of a case: a slope then costs less time. Others change all cases."""


@dataclass(frozen=True)
class TrainingProblem:
    """Training runs with their cases, as a problem for a fit. Equal cases are computed once.

    Parameters
    ----------
    points : the runs
    cases : what each run is predicted on
    calibration : the calibration whose numbers the factors multiply
    names : numbers that are fitted
    skipped : number of runs without a case
    widths : kind of number -> freedom [-]
    """

    points: tuple[TrainingPoint, ...]
    cases: tuple[TrainingCase, ...]
    calibration: Calibration
    names: tuple[str, ...]
    skipped: int = 0
    widths: Mapping[Kind, float] = field(default_factory=lambda: FREEDOM)

    @classmethod
    def of(cls, points: Sequence[TrainingPoint], calibration: Calibration) -> TrainingProblem:
        """The problem of all runs whose parallelism is stated.

        Parameters
        ----------
        points : the runs
        calibration : the calibration that the fit starts from
        """
        training_factors(calibration)  # an error if it has none
        predictions = predict_training(points, calibration)
        pairs = [(point, one.case) for point, one in zip(points, predictions, strict=True) if one.measured and one.case]
        kept, cases = [point for point, _ in pairs], [case for _, case in pairs]
        names = tuple(name for name in NUMBERS if number(getattr(calibration.training, name)) > 0)
        return cls(tuple(kept), tuple(cases), calibration, names, len(points) - len(kept))

    @property
    def freedom(self) -> Floats:
        """Freedom of each number [-]."""
        return np.array([self.widths[NUMBERS[name].kind] for name in self.names])

    @property
    def limits(self) -> tuple[Floats, Floats]:
        """Lowest and highest logarithm of each factor. A prior outside of the limits is a limit itself [-, -]."""
        priors = [number(getattr(self.calibration.training, name)) for name in self.names]
        known = [NUMBERS[name] for name in self.names]
        low = [min(math.log(max(one.low, 1e-3) / prior), 0.0) for one, prior in zip(known, priors, strict=True)]
        high = [max(math.log(one.high / prior), 0.0) for one, prior in zip(known, priors, strict=True)]
        return np.array(low), np.array(high)

    @property
    def alone(self) -> Bools:
        """Numbers on which the runs of only one of several models depend: its own error could not be told from them."""
        models = [case.model.name for case in self.cases]
        several = len(set(models)) > 1
        touched = [
            {model for model, case in zip(models, self.cases, strict=True) if TOUCHES.get(name, touches_all)(case)}
            for name in self.names
        ]
        return np.array([several and len(group) == 1 for group in touched])

    def errors(self, theta: Floats, only: Sequence[int] | None = None) -> Floats:
        """log(predicted / measured) of the throughput of runs.

        Parameters
        ----------
        theta : logarithm of each factor [-]
        only : positions of the runs; None: all runs
        """
        calibration = turned_training(self.calibration, self.names, theta)
        chosen = range(len(self.points)) if only is None else only
        different = {self._key(at): at for at in chosen}
        steps = dict(zip(different, run_steps([self.cases[at] for at in different.values()], calibration), strict=True))
        logs = []
        for at in chosen:
            step = steps[self._key(at)]
            measured = None if isinstance(step, str) else measured_rate(self.points[at], step)
            logs.append(
                math.nan if not measured or isinstance(step, str) else math.log(step.tok_s_per_device / measured)
            )
        return np.array(logs)

    def _key(self, at: int) -> tuple[str, str, Training]:
        """What the prediction of a run depends on."""
        case = self.cases[at]
        return case.model.name, case.machine.name, case.training

    def slopes(self, theta: Floats, at: Floats) -> Floats:
        """D errors / d theta, one row per run.

        Parameters
        ----------
        theta : logarithm of each factor [-]
        at : errors there [-]
        """
        columns = []
        for position in range(len(theta)):
            moved = theta.copy()
            moved[position] += STEP
            touches = TOUCHES.get(self.names[position], touches_all)
            chosen = [at_run for at_run, case in enumerate(self.cases) if touches(case)]
            column = np.zeros(len(self.points))
            if chosen:
                column[chosen] = np.nan_to_num((self.errors(moved, chosen) - at[chosen]) / STEP)
            columns.append(column)
        return np.stack(columns, axis=1)


def turned_training(calibration: Calibration, names: Sequence[str], theta: Floats) -> Calibration:
    """The calibration with factors on numbers of its section `training`. Numbers of a family turn with those of all.

    Parameters
    ----------
    calibration : the calibration
    names : fields of the section
    theta : logarithm of each factor [-]
    """
    section = calibration.training
    assert section is not None
    update: dict[str, Any] = {}
    for name, log in zip(names, theta, strict=True):
        quantity: Quantity = getattr(section, name)
        update[name] = quantity.model_copy(update={"value": number(quantity) * float(np.exp(log))})
    return calibration.model_copy(update={"training": section.model_copy(update=update)})
