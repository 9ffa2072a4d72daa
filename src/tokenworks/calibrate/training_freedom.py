"""Choose the freedoms of a fit on training runs by cross-validation inside the fitted runs.

Each kind of number has one freedom (`training_problem.Kind`). The combinations of a grid are tried in which priors from
tables of kernels are not freer than priors from papers, and those not freer than assumed ones. For each one the fit is
repeated without each GPU type, and without each publication: a version of a framework, or a paper. The combination
with the smallest mean error of left-out runs wins. No other runs are looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.calibrate.training_fit import Repeats, fit_training
from tokenworks.calibrate.training_points import TrainingPoint
from tokenworks.calibrate.training_problem import Kind, TrainingProblem

GRID = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Freedoms that are tried for each kind of number [-]."""

MIDDLE = 0.2
"""Freedom of all numbers in the fit whose slopes are used [-]."""

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class TriedFreedom:
    """Errors of left-out runs with one choice of freedoms.

    Parameters
    ----------
    widths : kind of number -> freedom [-]
    systems, publications : mean absolute error of runs of left-out GPU types, and of left-out publications [-]
    excess : score - smallest score of all choices [-]
    deviation : standard error of `excess`; the runs of one model count as one sample [-]
    """

    widths: Mapping[Kind, float]
    systems: float
    publications: float
    excess: float
    deviation: float

    @property
    def score(self) -> float:
        """Mean of both errors [-]."""
        return (self.systems + self.publications) / 2


def publication(point: TrainingPoint) -> str:
    """What a run was published with: a version of its framework without its patch number, or a paper.

    Parameters
    ----------
    point : the run
    """
    return " ".join([point.framework, *point.version.split(" ")[:1]])[: len(point.framework) + 6]


def try_freedoms(problem: TrainingProblem, grid: Sequence[float] = GRID) -> list[TriedFreedom]:
    """Errors of left-out runs for all freedoms of a grid, smallest error first.

    The errors of a repeated fit are linear in the numbers, with the slopes of one whole fit.

    Parameters
    ----------
    problem : the fitted runs; its freedoms are not used
    grid : freedoms of each kind of number [-]
    """
    problem = replace(problem, widths=dict.fromkeys(KINDS, MIDDLE))
    theta, slope = fit_training(problem)
    fitted = problem.errors(theta)
    groups = [[point.device for point in problem.points], [publication(point) for point in problem.points]]
    models = np.array([case.model.name for case in problem.cases])
    combinations = [
        dict(zip(KINDS, widths, strict=True))
        for widths in itertools.combinations_with_replacement(sorted(grid), len(KINDS))
    ]
    sizes = []
    for widths in combinations:
        repeats = Repeats(replace(problem, widths=widths), theta, fitted, slope, fitted)
        sizes.append(np.stack([_left_out(repeats, np.array(names)) for names in groups]))
    best = min(sizes, key=lambda size: float(size.mean()))
    tried = []
    for widths, size in zip(combinations, sizes, strict=True):
        more = (size - best).mean(axis=0)
        sums = np.array([more[models == model].sum() for model in np.unique(models)])
        # Runs of a model are alike: the sums over models are the independent samples.
        deviation = float(np.sqrt(len(sums) / max(len(sums) - 1, 1) * np.sum((sums - sums.mean()) ** 2)) / len(more))
        systems, publications = map(float, size.mean(axis=1))
        tried.append(TriedFreedom(widths, systems, publications, float(more.mean()), deviation))
    return sorted(tried, key=lambda one: one.excess)


def choose_freedom(tried: Sequence[TriedFreedom]) -> TriedFreedom:
    """The smallest freedoms that are not worse than the best ones by more than a standard error.

    Parameters
    ----------
    tried : choices with their errors, from `try_freedoms`
    """
    good = [one for one in tried if one.excess <= one.deviation]
    return min(good, key=lambda one: (float(np.prod(list(one.widths.values()))), one.excess))


def _left_out(repeats: Repeats, names: np.ndarray[tuple[int], np.dtype[np.str_]]) -> Floats:
    """Absolute error of each run by the fit without its group."""
    errors: Floats = np.zeros(len(names))
    for name in np.unique(names):
        mine = names == name
        move = repeats.without(~mine) - repeats.theta
        errors[mine] = np.abs(np.expm1(repeats.fitted[mine] + repeats.slope[mine] @ move))
    return errors
