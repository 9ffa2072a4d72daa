"""Failures of the parts of a machine over years, drawn by chance: when each part fails, and for how long it is down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.costs import reliability as law
from tokenworks.specs.calibration import number
from tokenworks.specs.machine import Machine
from tokenworks.specs.parts import KINDS, MachinePart, PartKind
from tokenworks.specs.reliability import Reliability

HOUR = 3600.0

FIRST_STRIP = 1e-8
"""Height of the first strip of failure rates; each further one is as high as all strips below it [1/h]."""


@dataclass(frozen=True, slots=True)
class PartFailure:
    """One failure of a part.

    Parameters
    ----------
    at_s : time of the failure [s]
    part : the part
    permanent : whether the part must be replaced
    down_s : time of the reset, or until the part is replaced, after the failure is noticed [s]
    crash : a random number from 0 to 1: below the share `Recovery.crash` the engine must start again [-]
    """

    at_s: float
    part: MachinePart
    permanent: bool
    down_s: float
    crash: float


@dataclass(frozen=True, slots=True)
class PartTimes:
    """Failure rate and repair of the parts of one kind, in SI numbers.

    Parameters
    ----------
    rate : failures of one part [1/s]
    permanent : share of the failures after which the part is replaced [-]
    reset_s, repair_s : time of a reset; mean time until a replaced part is back [s]
    """

    rate: float
    permanent: float
    reset_s: float
    repair_s: float


def part_times(rates: Reliability) -> dict[PartKind, PartTimes]:
    """Failure rates and repair times of a file, by kind of part.

    Parameters
    ----------
    rates : a file with the numbers of serving
    """
    return {
        kind: PartTimes(
            number(part.failures) / HOUR, number(part.permanent), number(part.reset),
            number(rates.repair) if part.repair.value is None else part.repair.value,
        )
        for kind, part in rates.parts.items()
    }  # fmt: skip


def draw_failures(
    machine: Machine, parts: Sequence[MachinePart], rates: Reliability, *, years: float, seed: int
) -> list[PartFailure]:
    """All failures of all parts, in the order of their times.

    Failures of a part are a Poisson process. Repair times are exponential, resets take a fixed time. Each host is a bad
    one with the probability `bad_hosts`; the parts of bad hosts fail more often, those of the others less often.

    Failures with equal seeds are nested: with higher rates, all failures happen again at the same times, and further
    ones between them. So a comparison of two rates does not depend on luck. Points of a Poisson process fill a plane of
    time and failure rate, strip by strip; a part fails at the points below its rate.

    Parameters
    ----------
    machine : the machine
    parts : its parts
    rates : failure rates and repair times
    years : length of the time [year]
    seed : random seed
    """
    factors = _host_factors(machine, rates, seed)
    times, failures = part_times(rates), []
    for order, kind in enumerate(KINDS):
        chosen = [part for part in parts if part.kind == kind]
        if not chosen or kind not in times:
            continue
        one = times[kind]
        of_part = np.array([one.rate * HOUR * factors.get(_host(machine, part), 1.0) for part in chosen])
        at, height, which, marks = _points(of_part, years * law.YEAR_S / HOUR, (seed, order))
        for i in np.flatnonzero(height < of_part[which]):
            permanent = bool(marks[i, 0] < one.permanent)
            down = one.repair_s * -float(np.log1p(-marks[i, 1])) if permanent else one.reset_s
            failures.append(
                PartFailure(float(at[i]) * HOUR, chosen[which[i]], permanent, down, float(marks[i, 2]))
            )  # fmt: skip
    return sorted(failures, key=lambda failure: failure.at_s)


def _points(of_part: Floats, hours: float, seed: tuple[int, int]) -> tuple[Floats, Floats, np.ndarray, Floats]:
    """Points of the plane of time and failure rate, up to the highest rate: time [h], height [1/h], part, marks."""
    lows, columns = 0.0, []
    high, strip = FIRST_STRIP, 0
    while lows < of_part.max():
        random = np.random.default_rng([*seed, strip])
        counts = random.poisson((high - lows) * hours, len(of_part))
        total = int(counts.sum())
        height = lows + (high - lows) * random.random(total)
        columns.append(
            (
                random.random(total) * hours,
                height,
                np.repeat(np.arange(len(of_part)), counts),
                random.random((total, 3)),
            )
        )
        lows, high, strip = high, 2 * high, strip + 1
    if not columns:
        return np.zeros(0), np.zeros(0), np.zeros(0, int), np.zeros((0, 3))
    at, height, which, marks = (np.concatenate(column) for column in zip(*columns, strict=True))
    return at, height, which, marks


def _host(machine: Machine, part: MachinePart) -> int:
    """Number of the host that a part belongs to; -1: it belongs to no host."""
    hosts = {device // machine.host.devices for device in (*part.devices, *part.reach)}
    return hosts.pop() if len(hosts) == 1 else -1


def _host_factors(machine: Machine, rates: Reliability, seed: int) -> Mapping[int, float]:
    """Factor on the failure rates of the parts of each host."""
    share, failures = rates.bad_hosts.value, rates.bad_share.value
    if share is None or failures is None:
        return {}
    good, bad = law.bad_node_factors(share, failures)
    hosts = -(-machine.devices // machine.host.devices)
    luck = np.random.default_rng([seed, len(KINDS)]).random(hosts)
    return {host: bad if luck[host] < share else good for host in range(hosts)}
