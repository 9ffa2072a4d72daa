"""Predictions without the factors of software stacks, and with factors that have not seen the split of the point."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from tokenworks.calibrate.case import case
from tokenworks.calibrate.score import Pair
from tokenworks.calibrate.software import LEAST, Residual, log_time, residual_of, steady
from tokenworks.specs.calibration import Calibration
from tokenworks.specs.software import SoftwareKey


def without_factors(pairs: Sequence[Pair], calibration: Calibration) -> list[Pair]:
    """The pairs with predictions by all other constants. All times of a closed loop have the factor of its steps.

    Parameters
    ----------
    pairs : points with their predictions by the calibration
    calibration : the calibration
    """
    moved = []
    for point, prediction in pairs:
        factor = case(point, calibration).site.rates.software_of(point.drafts)
        moved.append(_times((point, prediction), 1 / factor.time if factor else 1.0))
    return moved


def by_other_splits(plain: Sequence[Pair], calibration: Calibration) -> list[Pair]:
    """The pairs, each with the factor that the other splits of its software stack give; no factor without others.

    Parameters
    ----------
    plain : points with their predictions without factors
    calibration : the calibration
    """
    told = [residual_of(point, prediction, calibration) for point, prediction in plain]
    stacks: dict[SoftwareKey, list[Residual]] = defaultdict(list)
    for (point, _), one in zip(plain, told, strict=True):
        if one and steady(point):
            stacks[one.key].append(one)
    moved = []
    for pair, one in zip(plain, told, strict=True):
        members = stacks[one.key] if one else []
        others = [other for other in members if one and other.split != one.split]
        moved.append(_times(pair, math.exp(log_time(others)) if len(members) >= LEAST else 1.0))
    return moved


def _times(pair: Pair, factor: float) -> Pair:
    point, one = pair
    return point, replace(one, tpot=one.tpot and one.tpot * factor, rate=one.rate and one.rate / factor)
