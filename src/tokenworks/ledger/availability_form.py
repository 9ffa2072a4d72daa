"""Closed form of availability: what one failure of each kind of part costs, and how often it comes.

It counts one failure at a time: a second failure during the first one counts as if it came alone. The Monte Carlo in
`availability_years` has no such limit.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs import reliability as law
from tokenworks.ledger.availability_failures import part_times
from tokenworks.ledger.availability_stand import Stand
from tokenworks.simulation.variants import Condition
from tokenworks.specs.calibration import number
from tokenworks.specs.machine import Machine
from tokenworks.specs.parts import MachinePart, PartKind
from tokenworks.specs.reliability import Recovery, Reliability

ShareOf = Callable[[int, Condition], float]
"""Capacity of the instances of a role in a condition / their full capacity: number of the role, condition -> share."""

TIMES = ("detect", "reset", "repair", "start", "shrink")
"""Times that the cost of a failure is a sum of."""

Scales = Mapping[str, FloatArray]
"""Factors on the numbers of a file: `failures.KIND`, `repair`, `reset`, and names of `Recovery` [-]."""


@dataclass(frozen=True, slots=True)
class FailureCost:
    """What one failure of a part costs, as factors of times.

    Parameters
    ----------
    transient : cost of a failure that ends with a reset, without a spare
    lost : cost of a failure after which the part is replaced, without a spare
    spared : cost of a failure after which spares take over
    devices : devices that spares must replace [count]
    """

    transient: tuple[float, ...]
    lost: tuple[float, ...]
    spared: tuple[float, ...]
    devices: int


@dataclass(frozen=True)
class ClosedForm:
    """Time that a deployment loses by each kind of part.

    Parameters
    ----------
    rates : failure rates and times
    costs : cost of one failure, and the number of parts with this cost, by kind
    spares : spare devices [count]
    load_s : time in which drives deliver the weights [s]
    """

    rates: Reliability
    costs: Mapping[PartKind, Mapping[FailureCost, int]]
    spares: int
    load_s: float

    def lost_by_kind(self, scales: Scales | None = None) -> dict[PartKind, FloatArray]:
        """Expected time lost per second, by kind of part, for one failure at a time [-].

        Parameters
        ----------
        scales : factors on the numbers, each one a number or an array of equal length
        """
        scaled = scales or {}
        recovery, kinds = self.rates.must_serve(), part_times(self.rates)
        load = {
            name: number(getattr(recovery, name)) * scaled.get(name, 1.0) for name in ("process", "weights", "graphs")
        }
        shared = {
            "detect": number(recovery.detect) * scaled.get("detect", 1.0),
            "shrink": number(recovery.shrink) * scaled.get("shrink", 1.0),
            "start": load["process"] + np.maximum(load["weights"], self.load_s) + load["graphs"],
        }
        gone = self._gone(scaled)
        lost: dict[PartKind, FloatArray] = {}
        for kind, costs in self.costs.items():
            if kind not in kinds:
                continue
            one = kinds[kind]
            times = shared | {
                "reset": one.reset_s * scaled.get("reset", 1.0), "repair": one.repair_s * scaled.get("repair", 1.0),
            }  # fmt: skip
            rate = one.rate * scaled.get(f"failures.{kind}", 1.0)
            total: FloatArray = 0.0
            for cost, count in costs.items():
                missing = 1 - _poisson(gone, self.spares - cost.devices) if cost.devices else 1.0
                alone = (1 - one.permanent) * _sum(cost.transient, times) + one.permanent * _sum(cost.lost, times)
                total = total + count * (missing * alone + (1 - missing) * _sum(cost.spared, times))
            lost[kind] = rate * total
        return lost

    def unavailability(self, scales: Scales | None = None) -> FloatArray:
        """Share of the time that is lost [-].

        Times without service begin at random. If they may overlap, the share is that of a queue with many servers:
        1 - e^(-sum of rate x time) (`costs.reliability.broken_share`).

        Parameters
        ----------
        scales : factors on the numbers
        """
        total: FloatArray = 0.0
        for share in self.lost_by_kind(scales).values():
            total = total + share
        return -np.expm1(-total)

    def _gone(self, scales: Scales) -> FloatArray:
        """Mean number of devices that wait for their reset or replacement [count]."""
        kinds = part_times(self.rates)
        total: FloatArray = 0.0
        for kind, costs in self.costs.items():
            if kind not in kinds or not self.spares:
                continue
            one = kinds[kind]
            devices = sum(cost.devices * count for cost, count in costs.items())
            rate = one.rate * scales.get(f"failures.{kind}", 1.0)
            repair, reset = one.repair_s * scales.get("repair", 1.0), one.reset_s * scales.get("reset", 1.0)
            total = total + devices * rate * (one.permanent * repair + (1 - one.permanent) * reset)
        return total


def _sum(factors: tuple[float, ...], times: Mapping[str, FloatArray]) -> FloatArray:
    total: FloatArray = 0.0
    for factor, name in zip(factors, TIMES, strict=True):
        total = total + factor * times[name]
    return total


def _poisson(mean: FloatArray, most: int) -> FloatArray:
    """Probability that a Poisson number is at most `most` [-]: the number of busy servers of an M/G/infinity queue."""
    if most < 0:
        return 0.0 * mean
    term: FloatArray = np.exp(-np.asarray(mean))
    total = term
    for k in range(1, most + 1):
        term = term * mean / k
        total = total + term
    return total


def closed_form(stand: Stand, rates: Reliability, *, load_s: float, share: ShareOf, outage: bool = False) -> ClosedForm:
    """The closed form of a deployment.

    Parameters
    ----------
    stand : the deployment on its machine
    rates : failure rates and times
    load_s : time in which drives deliver the weights [s]
    share : capacity of a condition / full capacity
    outage : True: only time in which the deployment serves nobody counts. False: lost capacity counts
    """
    recovery = rates.must_serve()
    costs: defaultdict[PartKind, Counter[FailureCost]] = defaultdict(Counter)
    for part in stand.parts:
        costs[part.kind][_cost(stand, part, recovery, share, outage=outage)] += 1
    return ClosedForm(rates, costs, len(stand.spares), load_s)


def _cost(stand: Stand, part: MachinePart, recovery: Recovery, share: ShareOf, *, outage: bool) -> FailureCost:
    """The cost of one failure of a part: each effect of `availability_years`, times the capacity that it takes."""

    def lost(conditions: Mapping[int, Condition | None]) -> float:
        shares = {
            at: 0.0 if condition is None else share(stand.instances[at].role, condition)
            for at, condition in conditions.items()
        }
        capacity = stand.capacity(shares)
        return float(capacity == 0) if outage else 1 - capacity

    if part.level is not None:
        slowed = [at for at, instance in enumerate(stand.instances) if instance.slowed_by(part)]
        dead = lost(dict.fromkeys(slowed))
        if part.share >= 1:
            whole = (dead, dead, 0.0, dead, 0.0), (dead, 0.0, dead, dead, 0.0)
            return FailureCost(whole[0], whole[1], whole[1], 0)
        crash = number(recovery.crash)
        slow = lost({at: stand.instances[at].condition((), (part,)) for at in slowed})
        # after a crash, the reset (a minute) ends before the engine serves again, and a repair (hours) does not
        reset = (crash * dead + (1 - crash) * slow, (1 - crash) * slow, 0.0, crash * dead, 0.0)
        repair = (crash * dead + (1 - crash) * slow, 0.0, slow, crash * (dead - slow), 0.0)
        return FailureCost(reset, repair, repair, 0)
    hit = stand.layout.lost_ranks(part.devices)
    dead = lost(dict.fromkeys(hit))
    drawn = sum(stand.layout.places[device] is not None or device in stand.spares for device in part.devices)
    if not hit or not all(stand.instances[at].elastic for at in hit):
        return FailureCost(
            (dead, dead, 0.0, dead, 0.0), (dead, 0.0, dead, dead, 0.0), (dead, 0.0, 0.0, dead, 0.0), drawn
        )
    less = lost({at: stand.instances[at].condition(ranks, ()) for at, ranks in hit.items()})
    return FailureCost(
        (0.0, less, 0.0, less, 2 * dead), (0.0, 0.0, less, less, 2 * dead), (0.0, 0.0, 0.0, less, 2 * dead), drawn,
    )  # fmt: skip


@dataclass(frozen=True)
class MachineForm:
    """Closed form of a machine without its software: no deployment, no restarts.

    Parameters
    ----------
    machine : the machine
    parts : its parts
    rates : failure rates and times
    """

    machine: Machine
    parts: tuple[MachinePart, ...]
    rates: Reliability

    def mean_times(self, scales: Scales | None = None) -> dict[PartKind, tuple[FloatArray, FloatArray]]:
        """Failure rate of one part [1/s], and mean time until it works again [s], by kind.

        Parameters
        ----------
        scales : factors on the numbers
        """
        scaled = scales or {}
        detect = number(self.rates.must_serve().detect) * scaled.get("detect", 1.0)
        return {
            kind: (
                one.rate * scaled.get(f"failures.{kind}", 1.0),
                detect
                + (1 - one.permanent) * one.reset_s * scaled.get("reset", 1.0)
                + one.permanent * one.repair_s * scaled.get("repair", 1.0),
            )
            for kind, one in part_times(self.rates).items()
            if kind != "software"
        }

    def whole(self, scales: Scales | None = None) -> FloatArray:
        """Share of the time in which every part works: the product of all A = MTBF / (MTBF + MTTR) [-].

        Parameters
        ----------
        scales : factors on the numbers
        """
        counts = Counter(part.kind for part in self.parts)
        total: FloatArray = 0.0
        for kind, (rate, mean_s) in self.mean_times(scales).items():
            total = total + counts[kind] * np.log1p(rate * mean_s)
        return np.exp(-total)

    def devices(self) -> float:
        """Mean share of the devices that can be used: all parts that stop them work [-]."""
        times = self.mean_times()
        by_device: list[float] = [1.0] * self.machine.devices
        for part in self.parts:
            if part.kind in times:
                rate, mean_s = times[part.kind]
                available = law.availability(1 / float(rate) if rate else math.inf, float(mean_s))
                for device in part.devices:
                    by_device[device] *= available
        return math.fsum(by_device) / len(by_device)

    def failures_rate(self) -> float:
        """Failures of all parts without software [1/s]."""
        counts = Counter(part.kind for part in self.parts)
        return math.fsum(counts[kind] * float(rate) for kind, (rate, _) in self.mean_times().items())
