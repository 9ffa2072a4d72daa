"""Faults of a run with all their numbers: from a schedule, or drawn from failure rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenworks.costs.split import Split
from tokenworks.costs.weights import weight_bytes
from tokenworks.errors import SpecError
from tokenworks.simulation.steps import Site
from tokenworks.specs.calibration import number
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.faults import MOST_FAULTS, NETWORK, Fault, FaultSchedule, TimeName, parts_that_fail, time_text
from tokenworks.specs.machine import Machine
from tokenworks.specs.parts import KINDS, MachinePart, parts_of
from tokenworks.specs.reliability import Recovery, Reliability

HOUR = 3600.0
CRASHES = 0.5
"""From this share of crashes on, a fault of the network without `crash` ends the processes [-]."""


@dataclass(frozen=True, slots=True)
class RecoveryTimes:
    """Times of the recovery of a deployment.

    Parameters
    ----------
    detect : from a fault until the router and the manager of the instances know [s]
    shrink : from a fault until an instance with elastic EP goes on; and pause of the instance when ranks join [s]
    start : from the start of an instance to its first step, by role [s]
    """

    detect: float
    shrink: float
    start: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PartFault:
    """A fault with all its numbers.

    Parameters
    ----------
    fault : the fault as the schedule has it
    part : the part; None: the software of an instance
    lasts : time until the part works again; 0 for software [s]
    crashes : whether a fault of the network ends the processes of the instances
    """

    fault: Fault
    part: MachinePart | None
    lasts: float
    crashes: bool = False


def start_s(recovery: Recovery, load_s: float) -> float:
    """Time from the start of the processes of an engine until it serves [s].

        t = process + max(weights, load) + graphs

    Parameters
    ----------
    recovery : times of the failure rates; `weights` is the least time to read the weights
    load_s : time in which drives deliver the weights; 0: unknown [s]
    """
    return number(recovery.process) + max(number(recovery.weights), load_s) + number(recovery.graphs)


def _load_s(role: Role, site: Site) -> float:
    """Time in which an instance reads its weights: each of its hosts from its own drives; 0: unknown [s]."""
    rate = site.machine.host.ssd_bandwidth
    if not rate:
        return 0.0
    device = float(np.max(weight_bytes(site.model, Split.of(role), engine=site.engine, family=site.machine.family)))
    return device * min(site.machine.host.devices, role.parallel.devices) / rate


def times_of(
    deployment: Deployment, site: Site, reliability: Reliability, schedule: FaultSchedule | None
) -> RecoveryTimes:
    """Times of the recovery: those of a schedule, else those of the failure rates.

    Parameters
    ----------
    deployment : roles
    site : model, machine and engine
    reliability : failure rates with their times
    schedule : the schedule; None: there is none
    """
    recovery = reliability.must_serve()
    detect, shrink, start = (_given(schedule, name) for name in ("detect", "shrink", "start"))
    return RecoveryTimes(
        float(recovery.detect.value or 0.0) if detect is None else detect,
        float(recovery.shrink.value or 0.0) if shrink is None else shrink,
        tuple(start_s(recovery, _load_s(role, site)) if start is None else start for role in deployment.roles),
    )


def _given(schedule: FaultSchedule | None, name: TimeName) -> float | None:
    """A time that a schedule gives; None: it gives none [s]."""
    quantity = schedule.times.get(name) if schedule else None
    return None if quantity is None else quantity.value


def planned(
    schedule: FaultSchedule, machine: Machine, instances: int, reliability: Reliability
) -> tuple[PartFault, ...]:
    """The faults of a schedule with all their numbers, in the order of time.

    Parameters
    ----------
    schedule : the faults
    machine : the machine with the parts
    instances : instances of the deployment [count]
    reliability : failure rates, for the numbers that the schedule does not give

    Raises
    ------
    SpecError : there is no such part, a part fails again while it is down, or the failure rates do not know its kind
    """
    crash = float(reliability.must_serve().crash.value or 0.0) >= CRASHES
    faults: list[PartFault] = []
    last: dict[str, PartFault] = {}
    for fault, part in zip(schedule.sorted_faults(), parts_that_fail(schedule, machine, instances), strict=True):
        one = PartFault(fault, part, _lasts(fault, part, schedule, reliability), crash if fault.crash is None
                        else fault.crash)  # fmt: skip
        name = f"{fault.kind} {fault.number}"
        before = last.get(name)
        if before is not None and fault.at < before.fault.at + before.lasts:
            raise SpecError(
                f"it is still down: it failed at {time_text(before.fault.at)} for {time_text(before.lasts)}",
                where=f"faults: {name} at {time_text(fault.at)}", hint="give a later time, or a shorter `for` before",
            )  # fmt: skip
        last[name] = one
        faults.append(one)
    return tuple(faults)


def _lasts(fault: Fault, part: MachinePart | None, schedule: FaultSchedule, reliability: Reliability) -> float:
    """Time until a part works again [s]."""
    if part is None or part.kind == "software":
        return 0.0
    if fault.lasts is not None:
        return fault.lasts
    given = _given(schedule, "repair" if fault.permanent else "reset")
    if given is not None:
        return given
    rate = reliability.parts.get(part.kind)
    if rate is None:
        raise SpecError(f"{reliability.name} has no rates of the kind {part.kind}",
                        where=f"faults: {fault.part} at {time_text(fault.at)}", hint="give `for`")  # fmt: skip
    if fault.permanent:
        return float(rate.repair.value or reliability.repair.value or 0.0)
    return float(rate.reset.value or 0.0)


# ── random faults ─────────────────────────────────────────────────────────────────────────────────────────────────


def expected_faults(machine: Machine, reliability: Reliability, span_s: float, hazard: float = 1.0) -> float:
    """Faults that a machine has in a time on average [count].

    Parameters
    ----------
    machine : the machine
    reliability : failure rates of its parts
    span_s : the time [s]
    hazard : factor of all rates [-]
    """
    parts = parts_of(machine)
    rates = [_rate(part, reliability) for part in parts]
    return hazard * sum(rates) * span_s / HOUR


def drawn(
    machine: Machine, reliability: Reliability, span_s: float, *, seed: int, hazard: float = 1.0, day: int = 0
) -> FaultSchedule | None:
    """A random schedule of faults from failure rates; None: nothing fails.

    The faults of each part are a Poisson process. A part that is down does not fail. Some hosts are bad: with their
    devices, memory, NICs and software they have `bad_share` of all failures of hosts. Times are rounded to 1 ms, so
    that the schedule can be written to a file and played again.

    Parameters
    ----------
    machine : the machine
    reliability : failure rates of its parts
    span_s : faults happen before this time [s]
    seed : seed of the random numbers
    hazard : factor of all rates [-]
    day : number of the part of a long time; each part has its own faults, and all have the same bad hosts [count]

    Raises
    ------
    SpecError : more faults than a schedule may have
    """
    crash = float(reliability.must_serve().crash.value or 0.0)
    parts = parts_of(machine)
    factor = _host_factors(machine, reliability, np.random.default_rng([seed, len(KINDS)]))
    faults: list[Fault] = []
    for stream, kind in enumerate(KINDS):
        rate, own = reliability.parts.get(kind), [part for part in parts if part.kind == kind]
        if rate is None or not own:
            continue
        random = np.random.default_rng([seed, stream, day] if day else [seed, stream])
        weights = np.array([_weight(part, machine, factor) for part in own])
        mean = hazard * float(rate.failures.value or 0.0) * float(weights.sum()) * span_s / HOUR
        if mean > MOST_FAULTS:
            raise SpecError(f"{mean:,.0f} faults of {kind} on average", where="--hazard",
                            hint=f"take a lower hazard: a run has {MOST_FAULTS:,} faults at most")  # fmt: skip
        count = int(random.poisson(mean))
        times = np.sort(random.uniform(0.0, span_s, count))
        chosen = random.choice(len(own), count, p=weights / weights.sum()) if count else np.zeros(0, int)
        lost, broken = random.random(count) < float(rate.permanent.value or 0.0), random.random(count) < crash
        until: dict[int, float] = {}
        for at, which, permanent, crashes in zip(times, chosen, lost, broken, strict=True):
            fault = _fault(float(at), own[int(which)], bool(permanent), bool(crashes), reliability)
            if fault.at >= until.get(int(which), 0.0):
                until[int(which)] = fault.at + (fault.lasts or 0.0)
                faults.append(fault)
    if len(faults) > MOST_FAULTS:
        raise SpecError(f"{len(faults):,} faults", where="--hazard",
                        hint=f"take a lower hazard: a run has {MOST_FAULTS:,} faults at most")  # fmt: skip
    return FaultSchedule(faults=tuple(sorted(faults, key=lambda fault: fault.at))) if faults else None


def _fault(at: float, part: MachinePart, permanent: bool, crashes: bool, reliability: Reliability) -> Fault:
    rate = reliability.parts[part.kind]
    fields: dict[str, object] = {"at": time_text(at), "part": part.name}
    if part.kind != "software":
        lasts = (rate.repair.value or reliability.repair.value) if permanent else rate.reset.value
        fields |= {"for": time_text(max(float(lasts or 0.0), 0.001))}
        if permanent:
            fields["permanent"] = True
    if part.kind in NETWORK:
        fields["crash"] = crashes
    return Fault.model_validate(fields)


def _rate(part: MachinePart, reliability: Reliability) -> float:
    """Failures of one part [1/h]."""
    rate = reliability.parts.get(part.kind)
    return 0.0 if rate is None else float(rate.failures.value or 0.0)


def _host_factors(machine: Machine, reliability: Reliability, random: np.random.Generator) -> Sequence[float]:
    """Factor of the failure rates of each host: bad hosts are drawn by their share [-]."""
    hosts = -(-machine.devices // machine.host.devices)
    bad, share = reliability.bad_hosts.value, reliability.bad_share.value
    draws = random.random(hosts)
    if not bad or share is None:
        return [1.0] * hosts
    return [share / bad if draw < bad else (1 - share) / (1 - bad) for draw in draws]


def _weight(part: MachinePart, machine: Machine, factor: Sequence[float]) -> float:
    """Factor of the failure rate of a part: that of its host, if it belongs to one host [-]."""
    if part.level is not None and part.kind != "nic":
        return 1.0
    hosts = {device // machine.host.devices for device in (part.devices or part.reach)}
    return factor[hosts.pop()] if len(hosts) == 1 else 1.0
