"""Frontiers of measured machines: the highest throughput of a device at each speed per user, measured and predicted."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Annotated, Any, NamedTuple

import numpy as np
from typing_extensions import TypedDict

from tokenworks.arrays import Floats
from tokenworks.calibrate.measured import Counted, Point
from tokenworks.calibrate.score import Errors, Pair, Reads, errors, source
from tokenworks.pareto import front
from tokenworks.specs.result import FormOf, Plain

SPEEDS = (15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0)
"""Speeds at which frontiers are compared: output tokens per second of one user, 1 / TPOT [token/s]."""

CLEAR = 1.2
"""Two machines differ clearly if their measured throughputs differ by more than this factor [-]."""

STEADY = ("closed", "poisson", "constant")
"""Loads with a steady state. A burst has no throughput at a given speed."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """The highest throughput of a device at each speed per user, from points of one machine.

    Between two neighbouring Pareto points, the logarithm of throughput is linear in the logarithm of speed. Below the
    speed of the point with the highest throughput, the frontier is flat. It ends at the slowest and at the fastest
    point: it is never extended.

    Parameters
    ----------
    speeds : output tokens per second of one user, of each Pareto point, rising [token/s]
    rates : throughput of each Pareto point, falling [token/s per device]
    slowest : speed of the slowest point [token/s]
    """

    speeds: Floats
    rates: Floats
    slowest: float

    @classmethod
    def of(cls, speeds: Sequence[float], rates: Sequence[float]) -> Frontier:
        """The frontier of measured or predicted points.

        Parameters
        ----------
        speeds : output tokens per second of one user, of each point, above zero [token/s]
        rates : throughput of each point, above zero [token/s per device]
        """
        speed, rate = np.array(speeds), np.array(rates)
        rising = front(speed, rate)[::-1]
        return cls(speed[rising], rate[rising], min(speeds))

    def at(self, speed: float) -> float | None:
        """Throughput at a speed per user [token/s per device]; None outside the range of the points.

        Parameters
        ----------
        speed : output tokens per second of one user [token/s]
        """
        if not self.slowest <= speed <= self.speeds[-1]:
            return None
        return float(np.exp(np.interp(math.log(speed), np.log(self.speeds), np.log(self.rates))))


class Comparable(NamedTuple):
    """What two machines must have in common to be compared.

    Parameters
    ----------
    model : name of the model
    isl, osl : input length as the benchmark names it, and mean output length [token]
    mtp : `mtp` with draft tokens, else `none`
    counted : tokens that the throughput counts
    load : load and origin of the points, see `score.source`
    """

    model: str
    isl: int
    osl: int
    mtp: str
    counted: Counted
    load: str


class AtSpeed(NamedTuple):
    """Throughput of one machine at one speed per user.

    Parameters
    ----------
    workload : model, lengths, MTP, and the tokens that are counted
    device : name of the device
    speed : output tokens per second of one user [token/s]
    measured, predicted : throughput of the measured and of the predicted frontier [token/s per device]
    spread : half of the 80 % interval as a factor [-]
    """

    workload: Comparable
    device: str
    speed: float
    measured: float
    predicted: float
    spread: float

    @property
    def reads(self) -> Reads:
        """Predicted value, measured value and spread."""
        return self.predicted, self.measured, self.spread

    @property
    def error(self) -> float:
        """log(predicted / measured) [-]."""
        return math.log(self.predicted / self.measured)


def workload_of(point: Point) -> Comparable:
    """The workload of a point. Weights may differ: their dtype is the choice of a machine.

    Parameters
    ----------
    point : a measured point
    """
    lengths = round(point.nominal_isl), round(point.osl)
    return Comparable(point.model, *lengths, point.mtp, point.measured.counted, source(point))


def usable(pair: Pair) -> bool:
    """Whether a point belongs to a frontier: a steady load, and TPOT and throughput both measured and predicted.

    Parameters
    ----------
    pair : the point with its prediction
    """
    point, prediction = pair
    known = point.measured.tpot and point.measured.rate and prediction.tpot and prediction.rate
    return bool(known and point.load in STEADY and point.mode in ("agg", "disagg"))


def cells(pairs: Iterable[Pair]) -> tuple[list[AtSpeed], int]:
    """Measured and predicted frontier of each machine and workload, at each of `SPEEDS`.

    Both frontiers have the same points. A frontier has all engines, splits and concurrencies of its machine.

    Parameters
    ----------
    pairs : points with their predictions

    Returns
    -------
    The cells that both frontiers reach, and the number of cells that only the measured frontier reaches.
    """
    machines: dict[tuple[Comparable, str], list[Pair]] = defaultdict(list)
    for pair in filter(usable, pairs):
        machines[workload_of(pair[0]), pair[0].device].append(pair)
    reached, unreached = [], 0
    for (workload, device), members in sorted(machines.items(), key=lambda item: item[0]):
        spread = max(prediction.spread_of("frontier") for _, prediction in members)
        measured = Frontier.of(*_read([(p.measured.tpot, p.measured.rate) for p, _ in members]))
        predicted = Frontier.of(*_read([(prediction.tpot, prediction.rate) for _, prediction in members]))
        for speed in SPEEDS:
            seen, ours = measured.at(speed), predicted.at(speed)
            if seen is not None and ours is not None:
                reached.append(AtSpeed(workload, device, speed, seen, ours, spread))
            unreached += seen is not None and ours is None
    return reached, unreached


def _read(results: list[tuple[float | None, float | None]]) -> tuple[list[float], list[float]]:
    """Speed per user and throughput of points with a TPOT and a throughput."""
    known = [(tpot, rate) for tpot, rate in results if tpot and rate]
    return [1 / tpot for tpot, _ in known], [rate for _, rate in known]


# ── scores ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RatioErrors:
    """Errors of the ratio of two machines at equal speed per user.

    Parameters
    ----------
    n : number of ratios
    median_ape, p90_ape : median and 90th percentile of |predicted ratio / measured ratio - 1| [-]
    bias : median of predicted ratio / measured ratio - 1 [-]
    in_order : share of ratios that name the machine with the higher measured throughput [-]
    clear : number of ratios of machines that differ clearly, by more than `CLEAR`
    clear_in_order : `in_order` of these ratios; None without such ratios [-]
    """

    n: int
    median_ape: float
    p90_ape: float
    bias: float
    in_order: float
    clear: int
    clear_in_order: float | None


ErrorsPlain = Annotated[Plain, FormOf(Errors)]
RatioPlain = Annotated[Plain, FormOf(RatioErrors)]


class RatiosPlain(TypedDict):
    """Ratios of two machines: of all pairs, and by pair of devices; clear_ratio : see `CLEAR`."""

    all: RatioPlain | None
    clear_ratio: float
    by_pair: dict[str, RatioPlain]


class FrontierPlain(TypedDict):
    """The plain form of the frontier.

    tok_s_user : the compared speeds; unreached : cells that only measurements reach; by : errors of each device, model,
    engine (frontiers of this engine alone), MTP and speed.
    """

    tok_s_user: list[float]
    machines: int
    unreached: int
    tok_s_per_device: ErrorsPlain | None
    by: dict[str, dict[str, ErrorsPlain]]
    ratio: RatiosPlain


BY: dict[str, Callable[[AtSpeed], Any]] = {
    "system": lambda cell: cell.device,
    "model": lambda cell: cell.workload.model,
    "mtp": lambda cell: cell.workload.mtp,
    "load": lambda cell: cell.workload.load,
    "tok_s_user": lambda cell: cell.speed,
}


def frontier(pairs: Sequence[Pair]) -> FrontierPlain:
    """Errors of throughput at equal speed per user, and of the ratio of two machines, as plain data.

    Parameters
    ----------
    pairs : points with their predictions
    """
    compared, unreached = cells(pairs)
    by = {name: _scored(compared, of) for name, of in BY.items()}
    engines = sorted({point.engine for point, _ in pairs})
    alone = {engine: cells(pair for pair in pairs if pair[0].engine == engine)[0] for engine in engines}
    by["engine"] = {engine: _errors(members) for engine, members in alone.items() if members}
    ratios = _ratios(compared)
    return {
        "tok_s_user": list(SPEEDS),
        "machines": len({(cell.workload, cell.device) for cell in compared}),
        "unreached": unreached,
        "tok_s_per_device": _errors(compared) if compared else None,
        "by": by,
        "ratio": {
            "all": _ratio_errors([pair for members in ratios.values() for pair in members]) if ratios else None,
            "clear_ratio": CLEAR,
            "by_pair": {name: _ratio_errors(members) for name, members in sorted(ratios.items())},
        },
    }


def _scored(compared: Sequence[AtSpeed], of: Callable[[AtSpeed], Any]) -> dict[str, ErrorsPlain]:
    parts: dict[Any, list[AtSpeed]] = defaultdict(list)
    for cell in compared:
        parts[of(cell)].append(cell)
    return {name if isinstance(name, str) else f"{name:g}": _errors(members) for name, members in sorted(parts.items())}


def _errors(members: Sequence[AtSpeed]) -> Plain:
    summary = errors([cell.reads for cell in members])
    assert summary is not None
    return asdict(summary)


def _ratios(compared: Sequence[AtSpeed]) -> dict[str, list[tuple[float, float]]]:
    """Predicted and measured ratio of each two devices with equal workload and speed, by pair of devices."""
    alike: dict[tuple[Comparable, float], list[AtSpeed]] = defaultdict(list)
    for cell in compared:
        alike[cell.workload, cell.speed].append(cell)
    ratios: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for members in alike.values():
        for a, b in combinations(sorted(members, key=lambda cell: cell.device), 2):
            ratios[f"{a.device} / {b.device}"].append((a.predicted / b.predicted, a.measured / b.measured))
    return dict(ratios)


def _ratio_errors(ratios: Sequence[tuple[float, float]]) -> Plain:
    predicted, measured = np.array(ratios).T
    relative = predicted / measured
    off = np.abs(relative - 1)
    right = np.sign(np.log(predicted)) == np.sign(np.log(measured))
    clear = np.abs(np.log(measured)) > math.log(CLEAR)
    return asdict(
        RatioErrors(
            n=len(ratios),
            median_ape=float(np.median(off)),
            p90_ape=float(np.quantile(off, 0.9)),
            bias=float(np.median(relative) - 1),
            in_order=float(right.mean()),
            clear=int(clear.sum()),
            clear_in_order=float(right[clear].mean()) if clear.any() else None,
        )
    )
