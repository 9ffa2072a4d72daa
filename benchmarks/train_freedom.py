"""Choose the freedoms of the fit on training runs by cross-validation.

Run it as `python -m benchmarks.train_freedom DATA.csv ...`.

The command prints the errors of left-out GPU types and publications for each choice, and the choice of the
one-standard-error rule. `tokenworks.calibrate.training_problem.FREEDOM` holds this choice. Give only runs that the fit
uses. It takes about a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenworks.calibrate.training_freedom import KINDS, TriedFreedom, choose_freedom, try_freedoms
from tokenworks.calibrate.training_points import read_training
from tokenworks.calibrate.training_problem import FREEDOM, TrainingProblem
from tokenworks.specs.calibration import Calibration, load_calibration

SHOWN = 10
"""Best choices that are printed [count]."""


def priors() -> Calibration:
    """The calibration that the fit of the catalog starts from: serving as fitted, and the priors of training."""
    serving, datasheet = load_calibration("serving"), load_calibration("datasheet")
    return serving.model_copy(update={"training": datasheet.training})


def main(paths: list[str]) -> None:
    """Print the choice.

    Parameters
    ----------
    paths : CSV files of training runs
    """
    problem = TrainingProblem.of(read_training([Path(path) for path in paths]).points, priors())
    tried = try_freedoms(problem)
    print(f"{len(problem.points)} runs, {len(tried)} choices; mean errors of left-out runs")
    print(*KINDS, "GPU types", "publications", "worse by", "standard error", sep="  ")
    for one in tried[:SHOWN]:
        print(_line(one))
    chosen = choose_freedom(tried)
    print(f"chosen: {_line(chosen)}; training_problem.FREEDOM: {dict(FREEDOM)}")


def _line(one: TriedFreedom) -> str:
    widths = "  ".join(f"{one.widths[kind]:g}" for kind in KINDS)
    errors = f"{100 * one.systems:.2f} %  {100 * one.publications:.2f} %"
    return f"{widths}  {errors}  {100 * one.excess:.2f} %  {100 * one.deviation:.2f} %"


if __name__ == "__main__":
    main(sys.argv[1:])
