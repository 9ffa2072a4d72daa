"""Faults of a run: what the engine must do and when, and what the requests then felt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from tokenworks.costs.moe import Balance
from tokenworks.engine.faults import FaultCounts
from tokenworks.engine.outcome import Counts
from tokenworks.engine.simulator import Simulator
from tokenworks.engine.types import Cluster
from tokenworks.errors import SpecError
from tokenworks.simulation.fault_effects import CostChange, EngineEvent, FaultEffect
from tokenworks.simulation.fault_plan import RecoveryTimes, drawn, expected_faults, planned, times_of
from tokenworks.simulation.layout import device_layout
from tokenworks.simulation.recovery import Recovering
from tokenworks.simulation.steps import Site
from tokenworks.simulation.variants import variants
from tokenworks.specs.deployment import RETRIES, Deployment
from tokenworks.specs.faults import NETWORK, FaultSchedule, FaultsLike, load_faults, time_text
from tokenworks.specs.machine import Assumption
from tokenworks.specs.parts import part_counts, parts_of
from tokenworks.specs.reliability import PUBLISHED, Reliability, ReliabilityLike, load_reliability

if TYPE_CHECKING:
    from tokenworks.simulation.experts import ExpertDriver

MOST_HAZARD = 1e9
MOST_COSTS = 256
"""Step costs of one role: conditions x levels of balance [count]."""


@dataclass(frozen=True, slots=True)
class FailureInput:
    """Faults as a user asks for them: a schedule, or random ones.

    Parameters
    ----------
    schedule : the faults; None: random faults
    seed : seed of random faults
    hazard : factor of all failure rates of random faults [-]
    reliability : failure rates and times of the recovery
    """

    schedule: FaultSchedule | None
    seed: int = 0
    hazard: float = 1.0
    reliability: Reliability = field(default_factory=load_reliability)

    @classmethod
    def read(
        cls, faults: FaultsLike | None, failures: int | None, hazard: float | None, reliability: ReliabilityLike | None,
        *, option: str = "--failures",
    ) -> FailureInput | None:  # fmt: skip
        """The input of a command; None: no faults are asked for.

        Parameters
        ----------
        faults : schedule of faults
        failures : seed of random faults
        hazard : factor of all failure rates
        reliability : failure rates
        option : option of the seed, for messages

        Raises
        ------
        SpecError : a schedule and random faults together, or a number that fits neither of them
        """
        if faults is not None and failures is not None:
            raise SpecError("a schedule and random faults together", where=f"--faults, {option}",
                            hint="give one of them")  # fmt: skip
        if faults is None and failures is None:
            for given, name in ((hazard, "--hazard"), (reliability, "--reliability")):
                if given is not None:
                    raise SpecError("there are no faults", where=name, hint=f"give {option} SEED or --faults FILE")
            return None
        if hazard is not None and faults is not None:
            raise SpecError("a schedule has no failure rates", where="--hazard", hint="leave it out")
        if hazard is not None and not (math.isfinite(hazard) and 0 <= hazard <= MOST_HAZARD):
            raise SpecError(f"{hazard:g} is no factor of failure rates", where="--hazard",
                            hint=f"write 0 to {MOST_HAZARD:g}")  # fmt: skip
        if failures is not None and failures < 0:
            raise SpecError(f"{failures} is no seed", where=option, hint="write 0 or more")
        rates = load_reliability(PUBLISHED if reliability is None else reliability)
        rates.must_serve()
        schedule = None if faults is None else load_faults(faults)
        return cls(schedule, failures or 0, 1.0 if hazard is None else hazard, rates)


@dataclass(slots=True)
class FaultWatch:
    """Stops a run at chosen times and keeps the counters there.

    Parameters
    ----------
    times_s : the times, sorted [s]
    counts : counters at the times that have passed
    """

    times_s: tuple[float, ...]
    counts: list[Counts] = field(default_factory=list)

    def advance(self, inner: Callable[..., None], simulator: Simulator, until: float, sent: int | None = None) -> None:
        """Advance a run as `inner` does, and keep the counters at the chosen times on the way.

        Parameters
        ----------
        inner : advances the run; takes `until` and `sent`
        simulator : the run
        until : last time to play [s]
        sent : stop earlier, right after this number of requests has reached a rank; None = do not
        """
        while len(self.counts) < len(self.times_s) and self.times_s[len(self.counts)] <= until:
            inner(self.times_s[len(self.counts)], sent=sent)
            if sent is not None and simulator.sent >= sent:
                return
            self.counts.append(simulator.counts())
        inner(until, sent=sent)


@dataclass(frozen=True)
class FaultPlan:
    """Faults of a run before it is played.

    Parameters
    ----------
    asked : the input
    schedule : the schedule, given or drawn; None: nothing fails
    times : times of the recovery
    expected : faults that the failure rates give on average; None for a given schedule [count]
    effects : what each fault does
    events : events for the engine without changes of cost, in the order of time
    costs : changes of the step times: time [s], instance, and number of the condition
    cluster : the cluster with the step costs of all conditions
    assumed : assumed numbers of the failure rates
    """

    asked: FailureInput
    schedule: FaultSchedule | None
    times: RecoveryTimes
    expected: float | None
    effects: tuple[FaultEffect, ...]
    events: tuple[EngineEvent, ...]
    costs: tuple[tuple[float, int, int], ...]
    cluster: Cluster
    assumed: tuple[Assumption, ...]

    @classmethod
    def of(
        cls, asked: FailureInput, deployment: Deployment, site: Site, built: Cluster, *, span_s: float,
        balances: Mapping[int, Sequence[Balance]] | None = None,
    ) -> FaultPlan:  # fmt: skip
        """Plan the faults of a run.

        Parameters
        ----------
        asked : the input
        deployment : roles, spares, and what happens to requests
        site : model, machine and rates
        built : the cluster without faults
        span_s : time in which requests are sent [s]
        balances : levels of the balance of experts by pool; None: the calibrated skew

        Raises
        ------
        SpecError : the schedule names parts that the machine does not have, or the deployment keeps too many spares
        """
        layout, rates, machine = device_layout(deployment, site.machine), asked.reliability, site.machine
        schedule, expected = asked.schedule, None
        if schedule is None:
            schedule = drawn(machine, rates, span_s, seed=asked.seed, hazard=asked.hazard)
            expected = expected_faults(machine, rates, span_s, asked.hazard)
        times = times_of(deployment, site, rates, schedule)
        recovering = Recovering(deployment, site, layout, times)
        if schedule is not None:
            recovering.play(planned(schedule, machine, len(layout.instances), rates))
        pools, costs = _with_variants(
            deployment, site, built, recovering.costs, instances=layout.instances, balances=balances or {}
        )
        retries = RETRIES if deployment.retries is None else deployment.retries
        cluster = replace(pools, on_loss=deployment.on_loss, retries=retries)
        events = tuple(sorted(recovering.events, key=lambda event: event.at_s))
        known = set(part_counts(parts_of(machine)))
        assumed = tuple(rates.assumed_for(machine, known))
        if asked.schedule is not None:
            used = _used(asked.schedule, elastic=deployment.elastic_ep)
            assumed = tuple(one for one in assumed if one.path in used)
        return cls(asked, schedule, times, expected, tuple(recovering.effects), events, costs, cluster, assumed)

    def submit(self, simulator: Simulator, driver: ExpertDriver | None) -> FaultWatch:
        """Tell a simulator all events of the plan.

        Parameters
        ----------
        simulator : the run, at time 0
        driver : the driver of the experts, which changes step times itself; None: there is none

        Returns
        -------
        The watch that keeps the counters around each loss of requests.
        """
        if driver is None:
            for at_s, instance, number in self.costs:  # before other events of the same time
                simulator.at(at_s, "cost", instance, value=number)
        else:
            driver.degrade(self.costs)
        for event in self.events:
            simulator.at(event.at_s, event.kind, event.index, value=event.value)
        times = {effect.noticed_s for effect in self.effects if effect.noticed_s is not None}
        around = {np.nextafter(at_s, -math.inf) for at_s in times} | times
        return FaultWatch(tuple(sorted(float(at_s) for at_s in around)))

    def notes(self, end_s: float) -> tuple[str, ...]:
        """Sentences for the reader of the result.

        Parameters
        ----------
        end_s : end of the run [s]
        """
        if self.schedule is None:
            return (f"No part fails: on average {self.expected:.3g} faults happen in this time. --hazard FACTOR "
                    "multiplies all failure rates.",)  # fmt: skip
        late = [fault for fault in self.schedule.sorted_faults() if fault.at >= end_s]
        if not late:
            return ()
        first = f"{late[0].part} at {time_text(late[0].at)}"
        return (f"{len(late)} of {len(self.schedule.faults)} faults come after the end of the run at "
                f"{time_text(round(end_s, 3))} and change nothing (the first: {first}).",)  # fmt: skip


def _used(schedule: FaultSchedule, *, elastic: bool) -> set[str]:
    """Paths of the numbers of the failure rates that a given schedule needs, because it does not give them itself."""
    names = {"detect", "shrink"} if elastic else {"detect"}
    used = {f"recovery.{name}" for name in names - set(schedule.times)}
    if "start" not in schedule.times:
        used |= {f"recovery.{name}" for name in ("process", "weights", "graphs")}
    for fault in schedule.faults:
        if fault.kind in NETWORK and fault.crash is None:
            used.add("recovery.crash")
        name = "repair" if fault.permanent else "reset"
        if fault.lasts is None and name not in schedule.times:
            used |= {f"parts.{fault.kind}.{name}", name}
    return {f"reliability.{path}" for path in used}


def _with_variants(
    deployment: Deployment, site: Site, built: Cluster, changes: Sequence[CostChange], *,
    instances: Sequence[tuple[int, int, int]], balances: Mapping[int, Sequence[Balance]],
) -> tuple[Cluster, tuple[tuple[float, int, int], ...]]:  # fmt: skip
    """The cluster with a step cost for each condition, and the changes with the numbers of the conditions.

    With levels of balance, a condition has a step cost for each level: cost number = condition x levels + level.
    """
    pools, numbers = list(built.pools), []
    for number, role in enumerate(deployment.roles):
        own = [change.condition for change in changes if instances[change.instance][0] == number]
        pool, levels = pools[number], balances.get(number, ())
        if len(levels) * len({one.rounded() for one in own}) > MOST_COSTS:
            raise SpecError(f"{len(levels)} levels of balance in {len(set(own))} states of an instance", where="faults",
                            hint=f"a run has {MOST_COSTS} step costs at most: give fewer faults at once")  # fmt: skip
        priced = [variants(role, _balanced(site, level), pool.limits, own) for level in levels or (None,)]
        costs = [cost for each in zip(*(one.costs for one in priced), strict=True) for cost in each]
        pools[number] = replace(pool, variants=(*pool.variants, *costs))
        numbers.append(priced[0])
    numbered = tuple(
        (change.at_s, change.instance, numbers[instances[change.instance][0]].number(change.condition))
        for change in changes
    )
    return replace(built, pools=tuple(pools)), numbered


def _balanced(site: Site, balance: Balance | None) -> Site:
    """The site with a known balance of experts; None: the calibrated skew."""
    return site if balance is None else replace(site, rates=replace(site.rates, balance=balance))


@dataclass(frozen=True)
class FaultRun:
    """Faults of a run that was played.

    Parameters
    ----------
    plan : the faults before the run
    counts : counters of the engine at the times of `FaultWatch`
    end : counters at the end
    """

    plan: FaultPlan
    counts: tuple[tuple[float, Counts], ...]
    end: Counts

    def lost_by(self, index: int) -> FaultCounts:
        """What the requests lost when a fault was noticed. Of faults that are noticed together, the first has it all.

        Parameters
        ----------
        index : number of the fault
        """
        at_s = self.plan.effects[index].noticed_s
        earlier = {effect.noticed_s for effect in self.plan.effects[:index]}
        counts = dict(self.counts)
        if at_s is None or at_s in earlier or at_s not in counts:
            return FaultCounts()
        return total_faults(counts[at_s]).since(total_faults(counts[float(np.nextafter(at_s, -math.inf))]))


def total_faults(counts: Counts) -> FaultCounts:
    """Counters of failures, summed over the pools.

    Parameters
    ----------
    counts : counters of a run
    """
    names = vars(FaultCounts())
    return FaultCounts(**{name: sum(getattr(one, name) for one in counts.faults) for name in names})
