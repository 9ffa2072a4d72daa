"""How far each number of a file of failure rates moves the downtime: a tornado, and interactions by Sobol's method."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray, Floats
from tokenworks.costs import reliability as law
from tokenworks.specs.parts import PartKind
from tokenworks.specs.reliability import Reliability

Unavailable = Callable[[dict[str, FloatArray]], FloatArray]
"""Share of the time that is lost, from factors on the numbers of a file [-]."""

EXTRA = "tokenworks[availability]"
"""The extra of the package that computes interactions."""

SAMPLES = 512
"""Base samples of Sobol's method; D inputs take 2 D + 2 times as many evaluations [count]."""


RESAMPLES = 20
"""Resamples from which the errors of Sobol's method are computed [count]."""


@dataclass(frozen=True, slots=True)
class Swing:
    """The downtime if one number is lower or higher than in the file.

    Parameters
    ----------
    name : the number: `failures.KIND`, `repair`, `reset`, or a time of the recovery
    factor : factor by which the number is divided and multiplied [-]
    low_s, high_s : downtime of a year with the lower and the higher number [s]
    first, total : share of the variance of the downtime that comes from this number alone, and with its interactions;
        None: not computed [-]
    """

    name: str
    factor: float
    low_s: float
    high_s: float
    first: float | None = None
    total: float | None = None


@dataclass(frozen=True, slots=True)
class Interaction:
    """Two numbers whose effects on the downtime multiply.

    Parameters
    ----------
    first, second : the numbers
    share : share of the variance of the downtime that comes from both together [-]
    """

    first: str
    second: str
    share: float


def uncertain(rates: Reliability, kinds: Sequence[PartKind], *, elastic: bool, serves: bool) -> dict[str, float]:
    """The numbers that are varied, with the factors of their ranges.

    Parameters
    ----------
    rates : failure rates, with ranges
    kinds : kinds of parts of the machine
    elastic : whether an instance can shrink
    serves : whether there is a deployment; without one, nothing starts
    """
    recovery = rates.must_serve()
    left_out = {"shrink"} if not elastic else set()
    if not serves:
        left_out |= {"process", "weights", "graphs", "shrink"}
        kinds = [kind for kind in kinds if kind != "software"]
    ranges = {f"failures.{kind}": rates.parts[kind].range for kind in kinds if kind in rates.parts}
    ranges |= {name: factor for name, factor in recovery.ranges.items() if name not in left_out}
    return {name: factor for name, factor in ranges.items() if factor > 1}


def tornado(unavailable: Unavailable, ranges: dict[str, float]) -> list[Swing]:
    """The downtime of a year with each number at both ends of its range, the widest swing first.

    Parameters
    ----------
    unavailable : share of the time that is lost
    ranges : factor of the range of each number
    """
    swings = [
        Swing(
            name, factor, *(law.YEAR_S * float(unavailable({name: scale})) for scale in (1 / factor, factor))
        )
        for name, factor in ranges.items()
    ]  # fmt: skip
    return sorted(swings, key=lambda swing: (-abs(swing.high_s - swing.low_s), swing.name))


def can_interact() -> bool:
    """Whether the library of Sobol's method is installed."""
    return importlib.util.find_spec("SALib") is not None


def interactions(
    unavailable: Unavailable, ranges: dict[str, float], seed: int = 0
) -> tuple[dict[str, tuple[float, float]], list[Interaction]]:
    """Shares of the variance of the logarithm of the downtime: of each number, and of pairs of numbers.

    Each factor is spread evenly on a logarithmic scale between both ends of its range.

    Parameters
    ----------
    unavailable : share of the time that is lost; takes arrays
    ranges : factor of the range of each number
    seed : random seed

    Returns
    -------
    shares : for each number, its share alone, and its share with all interactions [-]
    pairs : the strongest pairs

    References
    ----------
    [1] Saltelli et al., Variance based sensitivity analysis of model output, Computer Physics Communications 181, 2010.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that SALib imports
        from SALib.analyze import sobol
        from SALib.sample import sobol as sample

    names = list(ranges)
    bounds = [[-math.log(factor), math.log(factor)] for factor in ranges.values()]
    problem = {"num_vars": len(names), "names": names, "bounds": bounds}
    points: Floats = np.exp(sample.sample(problem, SAMPLES, calc_second_order=True, seed=seed))
    lost = np.asarray(unavailable({name: points[:, at] for at, name in enumerate(names)}))
    if not (lost > 0).all() or np.ptp(lost) == 0:
        return dict.fromkeys(names, (0.0, 0.0)), []
    analysed = sobol.analyze(problem, np.log(lost), calc_second_order=True, num_resamples=RESAMPLES, seed=seed)
    shares = {name: (float(analysed["S1"][at]), float(analysed["ST"][at])) for at, name in enumerate(names)}
    pairs = [
        Interaction(names[i], names[j], float(analysed["S2"][i, j]))
        for i in range(len(names))
        for j in range(i + 1, len(names))
        if analysed["S2"][i, j] > analysed["S2_conf"][i, j]
    ]
    return shares, sorted(pairs, key=lambda pair: -pair.share)[:3]
