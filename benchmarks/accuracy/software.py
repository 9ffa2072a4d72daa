"""Predictions without the factors of software stacks, and with factors that have not seen the split of the point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tokenworks.calibrate.case import case
from tokenworks.calibrate.score import Pair
from tokenworks.calibrate.software import left_out, residual_of
from tokenworks.specs.calibration import Calibration


def without_factors(pairs: Sequence[Pair], calibration: Calibration) -> list[Pair]:
    """The pairs with predictions by all other constants.

    All times of a closed loop have the factor of its decode steps: approximate where prefill has another TP width.

    Parameters
    ----------
    pairs : points with their predictions by the calibration
    calibration : the calibration
    """
    moved = []
    for point, prediction in pairs:
        factor = case(point, calibration).site.rates.software_of(point.drafts)
        slower = float(factor.at(point.workers[-1].tp)) if factor else 1.0
        moved.append(_times((point, prediction), 1 / slower))
    return moved


def by_other_splits(plain: Sequence[Pair], calibration: Calibration) -> list[Pair]:
    """The pairs, each with the factor that the other splits of its software stack give; no factor without others.

    Parameters
    ----------
    plain : points with their predictions without factors
    calibration : the calibration
    """
    told = [residual_of(point, prediction, calibration) for point, prediction in plain]
    known = [one for (point, _), one in zip(plain, told, strict=True) if one and point.steady]
    turns = iter(left_out([one for one in told if one], known))
    return [
        _times(pair, math.exp(np.nan_to_num(next(turns))) if one else 1.0)
        for pair, one in zip(plain, told, strict=True)
    ]


def _times(pair: Pair, factor: float) -> Pair:
    point, one = pair
    return point, replace(one, tpot=one.tpot and one.tpot * factor, rate=one.rate and one.rate / factor)
