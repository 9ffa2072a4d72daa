"""Fit the numbers of training that serving does not pin down on measured training runs.

`training_problem` has the numbers with their freedoms and limits. A number that the runs do not decide stays at its
prior. The fit is repeated without each system and without each model. These repeats use the slopes of the whole fit,
and their errors are computed exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import numpy as np
from typing_extensions import TypedDict

from tokenworks.arrays import Bools, Floats
from tokenworks.calibrate.fit import LEAST_POINTS
from tokenworks.calibrate.least_squares import Loss, least_squares
from tokenworks.calibrate.leave_out import INTERVAL, LEAST_SPREAD, Left
from tokenworks.calibrate.score import ErrorsOfLogs, errors_of_logs
from tokenworks.calibrate.training_points import TrainingPoint, TrainingTable
from tokenworks.calibrate.training_problem import DECIDES, TrainingProblem, turned_training
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import Calibration, number
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs

LOSS = Loss(noise=0.08, robust=0.15)
"""As in the fit on serving points: two releases of one container differ by 5 to 10 % on the same run."""

TURNS, ENOUGH = 5, 1e-3
"""Iterations at most [count]; relative gain of the cost below which the iterations stop [-]."""

DIGITS = 3
"""Significant digits of a fitted number."""


class OneRun(TypedDict):
    """What one run of one's own as calibration gives: errors of the other runs of a system, before and after.

    group : the system, which the other fits have not seen
    n : runs of the system
    before_mape : mean absolute error without any run of the system [-]
    mape : mean over all choices of the one run, of the error of the other runs [-]
    """

    group: str
    n: int
    before_mape: float
    mape: float


class CalibrateTrainingBody(TypedDict):
    """The plain form of `calibrate` on training runs.

    factors : number -> fitted value / prior value
    values : number -> fitted value in SI units
    undecided : numbers that stay at their priors, because the runs say too little about them
    before, in_sample : errors of tok/s per device with the prior, and after the fit
    left_out_systems, left_out_models : errors of each group by a fit on the other groups
    spread : factor of the 80 % interval, from the errors of left-out systems and of left-out models
    covered : share of the runs inside the interval, each by a fit without its system
    one_run : errors with one run of one's own
    skipped : number of runs without a prediction
    """

    inputs: Inputs
    fitted_on: str
    data_sha256: str
    constants: int
    factors: dict[str, float]
    values: dict[str, float]
    undecided: list[str]
    before: ErrorsOfLogs
    in_sample: ErrorsOfLogs
    left_out_systems: list[Annotated[Plain, FormOf(Left)]]
    left_out_models: list[Annotated[Plain, FormOf(Left)]]
    spread: float
    covered: float
    one_run: list[OneRun]
    skipped: int


@dataclass(frozen=True, slots=True, repr=False)
class TrainingFit:
    """A calibration whose section `training` was fitted on training runs.

    Parameters
    ----------
    calibration : the fitted calibration
    prior : the calibration that the fit started from
    names, theta : fitted numbers, and the logarithm of fitted / prior of each [-]
    undecided : numbers that stay at their priors
    before, fitted : errors with the prior, and after the fit [-]
    systems, models : results without each system and without each model
    covered : share of runs inside the interval, each by a fit without its system [-]
    one_run : results with one run of one's own
    skipped : number of runs without a prediction
    """

    calibration: Calibration
    prior: Calibration
    names: tuple[str, ...]
    theta: Floats
    undecided: tuple[str, ...]
    before: Floats
    fitted: Floats
    systems: tuple[Left, ...]
    models: tuple[Left, ...]
    covered: float
    one_run: tuple[OneRun, ...]
    skipped: int

    @property
    def spread(self) -> float:
        """Factor of the 80 % interval [-]."""
        section = self.calibration.training
        assert section is not None
        return number(section.spread)

    def comments(self) -> list[str]:
        """Comment lines on top of the calibration file: the errors of the fit."""
        before, after = (100 * errors_of_logs(logs)["mape"] for logs in (self.before, self.fitted))
        lines = [
            f"# {self.calibration.title}.",
            f"# {len(self.names)} numbers of training, from calibration {self.prior.name}.",
            f"# Mean error of tok/s per device {before:.1f} % before, {after:.1f} % in sample.",
        ]
        if self.undecided:
            lines.append(f"# Not decided by these runs, so at the prior: {', '.join(self.undecided)}.")
        return lines + [
            f"# Left out {left.group}: {left.n} runs, mean error {100 * left.mape:.1f} %, bias {100 * left.bias:+.0f} %"
            for left in (*self.systems, *self.models)
        ]

    def plain(self) -> Plain:
        """The complete result as plain data."""
        section = self.calibration.training
        body: CalibrateTrainingBody = {
            "inputs": inputs(calibration=self.prior.name),
            "fitted_on": self.calibration.fitted_on,
            "data_sha256": self.calibration.data_sha256,
            "constants": len(self.names),
            "factors": {name: math.exp(log) for name, log in zip(self.names, self.theta, strict=True)},
            "values": {name: number(getattr(section, name)) for name in self.names},
            "undecided": list(self.undecided),
            "before": errors_of_logs(self.before),
            "in_sample": errors_of_logs(self.fitted),
            "left_out_systems": [asdict(one) for one in self.systems],
            "left_out_models": [asdict(one) for one in self.models],
            "spread": self.spread,
            "covered": self.covered,
            "one_run": list(self.one_run),
            "skipped": self.skipped,
        }
        return envelope("calibrate-training", body)


def calibrate_training(
    table: TrainingTable, prior: Calibration, *, name: str = "mine", without: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> TrainingFit:  # fmt: skip
    """Fit the section `training` of a calibration on training runs.

    Parameters
    ----------
    table : the runs
    prior : calibration that the fit starts from
    name : name of the fitted calibration
    without : devices or models whose runs are left out
    say : receives progress messages; None for no messages

    Raises
    ------
    SpecError : too few runs can be predicted
    """
    kept = [one for one in table.points if one.device not in without and one.model not in without]
    problem = TrainingProblem.of(kept, prior)
    if not problem.points:
        raise SpecError("no training run can be predicted", where=", ".join(table.paths),
                        hint="`validate` says why each run is skipped")  # fmt: skip
    before = problem.errors(np.zeros(len(problem.names)))
    if say:
        say(f"fitting {len(problem.names)} numbers on {len(problem.points)} training runs")
    theta, slope = fit_training(problem)
    keeps = decided(slope, problem.errors(theta), problem.freedom) & ~problem.alone
    undecided = tuple(name for name, keep in zip(problem.names, keeps, strict=True) if not keep)
    problem = replace(problem, names=tuple(name for name in problem.names if name not in undecided))
    theta, slope = theta[keeps], slope[:, keeps]
    fitted = problem.errors(theta)
    repeats = Repeats(problem, theta, fitted, slope, before)
    systems, of_system = repeats.left_out([point.device for point in problem.points])
    models, of_model = repeats.left_out([_model(point) for point in problem.points])
    spread = max(conformal(of_system), conformal(of_model))
    systems = [replace(one, spread=spread, covered=_inside(of_system, problem.points, one, spread)) for one in systems]
    models = [replace(one, spread=spread) for one in models]
    one_run = repeats.one_run([point.device for point in problem.points], of_system)
    calibration = _written(problem, theta, fitted, table, spread=spread, name=name, undecided=undecided)
    covered = float(np.mean(np.abs(of_system) <= math.log(spread)))
    return TrainingFit(
        calibration, prior, problem.names, theta, undecided, before, fitted, tuple(systems), tuple(models), covered,
        tuple(one_run), problem.skipped,
    )  # fmt: skip


def fit_training(problem: TrainingProblem) -> tuple[Floats, Floats]:
    """Theta of a fit on all runs of a problem, and the slopes of the errors there.

    Parameters
    ----------
    problem : the runs, and the numbers with their freedoms and limits
    """
    theta = least_squares(
        problem.errors, problem.slopes, problem.freedom, LOSS, turns=TURNS, enough=ENOUGH, limits=problem.limits
    )
    return theta, problem.slopes(theta, problem.errors(theta))


def decided(slope: Floats, errors: Floats, freedom: Floats) -> Bools:
    """Whether the runs decide each number: its standard deviation after the fit is smaller than its freedom.

    The number with the smallest standard deviation always counts as decided.

    Parameters
    ----------
    slope : d errors / d theta, one row per run
    errors : log errors of the runs [-]
    freedom : freedom of each number [-]
    """
    bend = slope.T @ (LOSS.weight(errors)[:, None] * slope) + np.diag(1 / freedom**2)
    left = np.sqrt(np.diag(np.linalg.inv(bend))) / freedom
    return np.asarray(left <= max(DECIDES, float(left.min())))


def _model(point: TrainingPoint) -> str:
    return point.model.partition(" (")[0]


def _inside(logs: Floats, points: Sequence[TrainingPoint], left: Left, spread: float) -> float:
    mine = np.array([point.device == left.group for point in points])
    return float(np.mean(np.abs(logs[mine]) <= math.log(spread)))


def conformal(logs: Floats, share: float = INTERVAL) -> float:
    """Factor that contains a share of the errors of runs that a fit has not seen.

    The split-conformal quantile with its correction for the number of errors n: the k-th smallest absolute error with
    k = ceil((n + 1) share).

    Parameters
    ----------
    logs : log(predicted / measured) of left-out runs [-]
    share : share that the interval should contain [-]

    References
    ----------
    [1] Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005, section 2.
    """
    sizes = np.sort(np.abs(logs[np.isfinite(logs)]))
    if not len(sizes):
        return LEAST_SPREAD
    rank = min(len(sizes), math.ceil((len(sizes) + 1) * share))
    return max(LEAST_SPREAD, float(math.exp(sizes[rank - 1])))


@dataclass(frozen=True)
class Repeats:
    """Fits without some of the runs, with the slopes of the whole fit.

    Parameters
    ----------
    problem : all runs
    theta, fitted, slope : the whole fit: logarithm of each factor, error of each run, and slopes [-]
    before : errors with the prior [-]
    """

    problem: TrainingProblem
    theta: Floats
    fitted: Floats
    slope: Floats
    before: Floats

    def without(self, use: Floats) -> Floats:
        """Theta of a fit on the runs of a mask, from the linear form of the errors around the whole fit.

        Parameters
        ----------
        use : runs of the fit
        """
        if use.sum() == 0:
            return np.zeros(len(self.theta))
        start = self.fitted[use] - self.slope[use] @ self.theta

        def errors(theta: Floats) -> Floats:
            return np.asarray(start + self.slope[use] @ theta)

        def slopes(_theta: Floats, _at: Floats) -> Floats:
            return np.asarray(self.slope[use])

        limits = self.problem.limits
        return least_squares(errors, slopes, self.problem.freedom, LOSS, turns=20, enough=1e-6, limits=limits)

    def left_out(self, groups: Sequence[str]) -> tuple[list[Left], Floats]:
        """Results of leaving out each group, and the error of each run by the fit without its group.

        Parameters
        ----------
        groups : group of each run
        """
        names, logs, rows = np.array(groups), self.fitted.copy(), []
        for group in sorted(set(groups)):
            mine = names == group
            if mine.all():
                continue
            theta = self.without(~mine)
            logs[mine] = self.problem.errors(theta, only=list(np.flatnonzero(mine)))
        for group in sorted(set(groups)):
            mine = names == group
            ratio = np.exp(logs[mine])
            spread, needed = conformal(logs[~mine]), conformal(logs[mine])
            off = np.abs(ratio - 1)
            rows.append(
                Left(
                    group, int(mine.sum()), float(np.median(off)), float(off.mean()), float(np.median(ratio) - 1),
                    float(np.median(np.abs(np.expm1(self.before[mine])))), spread, needed,
                    float(np.mean(np.abs(logs[mine]) <= math.log(spread))),
                )
            )  # fmt: skip
        return rows, logs

    def one_run(self, groups: Sequence[str], unseen: Floats) -> list[OneRun]:
        """Errors of the other runs of a system after a fit on one of them, which starts from the fit without it.

        Parameters
        ----------
        groups : system of each run
        unseen : error of each run by the fit without its system [-]
        """
        names, rows = np.array(groups), []
        for group in sorted(set(groups)):
            mine = np.flatnonzero(names == group)
            if len(mine) < LEAST_POINTS or len(mine) == len(names):
                continue
            slope = self.slope[mine]
            after = []
            for at in range(len(mine)):
                move = _single(float(unseen[mine[at]]), slope[at], self.problem.freedom)
                others = np.delete(unseen[mine] + slope @ move, at)
                after.append(float(np.mean(np.abs(np.expm1(others)))))
            rows.append(
                OneRun(
                    group=group, n=len(mine), before_mape=float(np.mean(np.abs(np.expm1(unseen[mine])))),
                    mape=float(np.mean(after)),
                )
            )  # fmt: skip
        return rows


def _single(error: float, slope: Floats, freedom: Floats) -> Floats:
    """Change of theta that one error asks for: the minimum of (error + slope x)^2 / noise^2 + sum (x / freedom)^2."""
    prior = freedom**2
    return np.asarray(-prior * slope * error / (LOSS.noise**2 + float(slope @ (prior * slope))))


def _written(
    problem: TrainingProblem, theta: Floats, fitted: Floats, table: TrainingTable, *, spread: float, name: str,
    undecided: Sequence[str],
) -> Calibration:  # fmt: skip
    """The calibration with the fitted numbers, each with its source. Numbers at their priors have a note."""
    turned = turned_training(problem.calibration, problem.names, theta)
    section = turned.training
    assert section is not None
    files = ", ".join(path.rpartition("/")[2] for path in table.paths)
    error = float(np.mean(np.abs(np.expm1(fitted))))
    source = f"fit on {len(fitted)} training runs of {files}: mean error of tok/s per device {100 * error:.1f} %"
    update = {
        field: _rounded(getattr(section, field), source, number(getattr(problem.calibration.training, field)))
        for field in problem.names
    }
    for field in undecided:
        kept: Quantity = getattr(section, field)
        update[field] = kept.model_copy(update={"note": f"at its prior: training runs of {files} do not decide it"})
    update["spread"] = Quantity(
        value=round(spread, 2), status="derived", written=f"{spread:.2f}", unit="",
        source=f"systems or models left out of the fit: {len(fitted)} training runs: at least 80 % within it",
    )  # fmt: skip
    title = f"{problem.calibration.title}; training fitted on {files}"
    fitted_on = "; ".join(filter(None, (problem.calibration.fitted_on, f"training: {files}")))
    return turned.model_copy(
        update={"name": name, "title": title, "fitted_on": fitted_on, "training": section.model_copy(update=update)}
    )


def _rounded(quantity: Quantity, source: str, prior: float) -> Quantity:
    value = number(quantity)
    scale, unit = (1.0, "") if quantity.unit != "s" else (1e6, " us")
    written = f"{scale * value:.{DIGITS}g}{unit}"
    exact = float(f"{scale * value:.{DIGITS}g}") / scale
    note = f"prior {scale * prior:.{DIGITS}g}{unit}"
    return quantity.model_copy(
        update={"value": exact, "written": written, "status": "derived", "source": source, "note": note}
    )
