"""Faults of the simulated machine while the endpoint runs: from a schedule, drawn from failure rates, or asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from tokenworks.engine.live import LiveSimulator
from tokenworks.engine.types import StepCost
from tokenworks.errors import SpecError
from tokenworks.serving.build import ServedDeployment
from tokenworks.simulation.fault_effects import FaultEffect
from tokenworks.simulation.fault_plan import PartFault, drawn, planned, times_of
from tokenworks.simulation.faults import FailureInput
from tokenworks.simulation.layout import device_layout
from tokenworks.simulation.recovery import Recovering
from tokenworks.simulation.variants import HEALTHY, MOST_VARIANTS, Condition, variant_cost
from tokenworks.specs.faults import MOST_FAULTS, FaultSchedule, FaultsLike, TimeName, time_text
from tokenworks.specs.provenance import Quantity
from tokenworks.specs.reliability import PUBLISHED, Reliability, ReliabilityLike, load_reliability

DAY = 86400.0
"""Random faults are drawn for one day of the logical clock after the other [s]."""


@dataclass(frozen=True, slots=True)
class FaultTerms:
    """Faults as the user asks for them when the endpoint starts.

    Parameters
    ----------
    schedule : faults by their times on the logical clock; None: no schedule
    seed : seed of random faults; None: no random faults
    hazard : factor of all failure rates of random faults [-]
    reliability : failure rates, and times of the recovery
    """

    schedule: FaultSchedule | None = None
    seed: int | None = None
    hazard: float = 1.0
    reliability: Reliability = field(default_factory=load_reliability)

    @classmethod
    def read(
        cls, faults: FaultsLike | None, chaos: int | None, hazard: float | None, reliability: ReliabilityLike | None
    ) -> FaultTerms:
        """The input of the command.

        Parameters
        ----------
        faults : schedule of faults
        chaos : seed of random faults
        hazard : factor of all failure rates
        reliability : failure rates

        Raises
        ------
        SpecError : a schedule and random faults together, or a number that fits neither of them
        """
        rates = load_reliability(PUBLISHED if reliability is None else reliability)
        rates.must_serve()
        none = faults is None and chaos is None
        asked = FailureInput.read(faults, chaos, hazard, None if none else rates, option="--chaos")
        if asked is None:
            return cls(reliability=rates)
        return cls(asked.schedule, chaos, asked.hazard, rates)


class LiveFaults:
    """The parts of the machine that fail and work again, along the logical clock.

    Parameters
    ----------
    served : the deployment
    terms : schedule or random faults, failure rates
    """

    def __init__(self, served: ServedDeployment, terms: FaultTerms) -> None:
        self._deployment, self._site, self.terms = served.deployment, served.site, terms
        self._layout = device_layout(served.deployment, served.site.machine)
        self._limits = [pool.limits for pool in served.cluster.pools]
        self._numbers: list[dict[Condition, int]] = [{HEALTHY: 0} for _ in served.deployment.roles]
        self._times: dict[TimeName, Quantity] = {}
        times = times_of(self._deployment, self._site, terms.reliability, None)
        self.recovering = Recovering(self._deployment, self._site, self._layout, times)
        self._until = 0.0  # random faults are drawn up to here
        self._paused: dict[int, float] = {}
        self.accounted_s = self.serving_s = self.device_s = 0.0  # time that was counted, and its parts
        self.states = self.recovering.states()

    # ---- the clock

    @property
    def next_s(self) -> float:
        """Time of the next change [s]."""
        return self.recovering.next_s

    def advance(self, now: float, simulator: LiveSimulator) -> None:
        """Play faults and recoveries up to a time, and tell the engine.

        Parameters
        ----------
        now : the time [s]
        simulator : the engine, at `now` or before
        """
        recovering = self.recovering
        while recovering.next_s <= now:
            at = recovering.next_s
            self.account(at)
            recovering.advance(at)
            self._tell(simulator)
        recovering.advance(now)

    def _tell(self, simulator: LiveSimulator) -> None:
        """Tell the engine what has happened; the step times before anything else of the same time."""
        recovering = self.recovering
        for change in recovering.costs:
            role = self._layout.instances[change.instance][0]
            number = self._numbers[role][change.condition.rounded()]
            simulator.at(change.at_s, "cost", change.instance, value=number)
        for event in recovering.events:
            simulator.at(event.at_s, event.kind, event.index, value=event.value)
            if event.kind == "pause":
                self._paused[event.index] = event.at_s + event.value
        recovering.costs.clear()
        recovering.events.clear()
        self.states = recovering.states()

    def begin(self, simulator: LiveSimulator) -> None:
        """Take the schedule or the first random faults, before the clock starts.

        Parameters
        ----------
        simulator : the engine, at time 0

        Raises
        ------
        SpecError : the schedule does not fit the machine, or there are too many faults
        """
        schedule = self.terms.schedule
        alter = self.chaos() if schedule is None else self.asked(schedule)
        for role, condition in self.missing(alter):
            self.learn(simulator, role, condition, self.cost(role, condition))
        alter(self.recovering)

    def settle(self, now: float, simulator: LiveSimulator) -> None:
        """Tell the engine what a change does at once.

        Parameters
        ----------
        now : the time [s]
        simulator : the engine, at `now` or before
        """
        self.account(now)
        self._tell(simulator)
        self.advance(now, simulator)

    def account(self, now: float) -> None:
        """Count the time since the last call for the availability.

        Parameters
        ----------
        now : the time [s]
        """
        for end in sorted({min(end, now) for end in self._paused.values()} | {now}):
            passed = end - self.accounted_s
            if passed <= 0:
                continue
            running = [one for one in self.states if one.serving and self._paused.get(one.instance, 0.0) < end]
            roles = {self._layout.instances[one.instance][0] for one in running}
            self.serving_s += passed * (len(roles) == len(self._deployment.roles))
            self.device_s += passed * sum(len(one.serving) for one in running)
            self.accounted_s = end
        self._paused = {instance: end for instance, end in self._paused.items() if end > now}

    # ---- what fails

    def asked(self, schedule: FaultSchedule, *, after: float | None = None) -> Callable[[Recovering], list[int]]:
        """A change that adds the faults of a schedule, and lets its times hold from then on. It returns their numbers.

        Parameters
        ----------
        schedule : the faults
        after : times of the schedule count from here; None: from the moment of the change [s]

        Raises
        ------
        SpecError : the schedule names parts that the machine does not have, or a part fails twice at once
        """
        given = {**self._times, **schedule.times}
        whole = schedule.model_copy(update={"times": given})
        faults = planned(whole, self._site.machine, len(self._layout.instances), self.terms.reliability)
        times, add = times_of(self._deployment, self._site, self.terms.reliability, whole), added(faults, after=after)

        def alter(recovering: Recovering) -> list[int]:
            numbers = add(recovering)
            recovering.times = times
            if recovering is self.recovering:
                self._times = given
            return numbers

        return alter

    def chaos(self) -> Callable[[Recovering], list[int]]:
        """A change that adds the random faults of the next day of the logical clock.

        Raises
        ------
        SpecError : more faults than a schedule may have
        """
        seed = self.terms.seed
        if seed is None:
            return added(())
        first, rates, machine = self._until, self.terms.reliability, self._site.machine
        schedule = drawn(machine, rates, DAY, seed=seed, hazard=self.terms.hazard, day=round(first / DAY))
        self._until = first + DAY
        faults = () if schedule is None else planned(schedule, machine, len(self._layout.instances), rates)
        return added(faults, after=first, skip=True)

    @property
    def drawn_s(self) -> float:
        """Time up to which random faults are drawn; infinity without random faults [s]."""
        return math.inf if self.terms.seed is None else self._until

    def missing(self, alter: Callable[[Recovering], object]) -> list[tuple[int, Condition]]:
        """Role and condition of the step costs that the engine does not have yet, if something is changed now.

        Parameters
        ----------
        alter : the change, such as a new fault; it is made in a copy

        Raises
        ------
        SpecError : the faults need more step costs than the engine takes
        """
        future = self.recovering.fork()
        alter(future)
        future.advance(math.inf)
        wanted = {(self._layout.instances[one.instance][0], one.condition.rounded()): None for one in future.costs}
        new = [(role, condition) for role, condition in wanted if condition not in self._numbers[role]]
        for role, own in enumerate(self._numbers):
            if len(own) + sum(number == role for number, _ in new) > MOST_VARIANTS + 1:
                raise SpecError(f"more than {MOST_VARIANTS} different states of {self._deployment.roles[role].name} "
                                "instances", where="faults", hint="give fewer faults at the same time")  # fmt: skip
        return new

    def cost(self, role: int, condition: Condition) -> StepCost:
        """Step times of a role under a condition. It takes a while, and may run in a thread."""
        return variant_cost(self._deployment.roles[role], self._site, self._limits[role], condition)

    def learn(self, simulator: LiveSimulator, role: int, condition: Condition, cost: StepCost) -> None:
        """Give the engine a step cost."""
        if condition not in self._numbers[role]:
            self._numbers[role][condition] = simulator.add_variant(role, cost)

    # ---- what can be seen

    @property
    def effects(self) -> Sequence[FaultEffect]:
        """All faults so far, and those to come."""
        return self.recovering.effects

    def word(self, index: int) -> str:
        """State of a fault in one word: coming, down, recovering or over."""
        effect = self.effects[index]
        if not effect.begun:
            return "over" if effect.ended else "coming"
        if not effect.ended:
            return "down"
        return "recovering" if index in self.recovering.open_faults() else "over"

    def out_of(self, instances: Iterable[int] | None = None) -> str:
        """Name of the first role of which no instance takes requests; empty: each role has one.

        Parameters
        ----------
        instances : look at these instances of the first role only; None: all
        """
        chosen = None if instances is None else set(instances)
        for number, role in enumerate(self._deployment.roles):
            own = [one for one in self.states if self._layout.instances[one.instance][0] == number]
            if number == 0 and chosen is not None:
                own = [one for one in own if one.instance in chosen]
            if not any(one.live for one in own):
                return str(role.name)
        return ""

    def works(self, device: int) -> bool:
        """Whether a device works.

        Parameters
        ----------
        device : number of the device in the machine
        """
        return not self.recovering.is_down(device)

    def is_whole(self) -> bool:
        """Whether all instances are as the deployment has them."""
        return all(one.word == "running" for one in self.states)


def _later(one: PartFault, seconds: float) -> PartFault:
    """A fault at a later time, counted from another moment."""
    return replace(one, fault=one.fault.model_copy(update={"at": one.fault.at + seconds}))


def added(
    faults: Sequence[PartFault], *, after: float | None = None, skip: bool = False
) -> Callable[[Recovering], list[int]]:
    """A change that adds faults. It returns their numbers.

    Parameters
    ----------
    faults : the faults
    after : their times count from here; None: from the moment of the change [s]
    skip : leave out a fault of a part that is down then, as random faults do; else the change raises an error

    Raises
    ------
    SpecError : a part is still down, or there are too many faults
    """

    def alter(recovering: Recovering) -> list[int]:
        zero = recovering.now if after is None else after
        waiting: dict[tuple[str, int], list[PartFault]] = {}
        for effect in recovering.effects:
            if not effect.ended:
                waiting.setdefault((effect.fault.fault.kind, effect.fault.fault.number), []).append(effect.fault)
        if len(faults) + sum(map(len, waiting.values())) > MOST_FAULTS:
            raise SpecError("too many faults", where="faults", hint=f"{MOST_FAULTS:,} at a time at most")
        chosen = []
        for fault in faults:
            one = _later(fault, zero)
            others = waiting.get((one.fault.kind, one.fault.number), ())
            other = next((old for old in others if _overlap(old, one)), None)
            if other is None:
                chosen.append(one)
            elif not skip:
                end = max(other.fault.at + other.lasts - recovering.now, 0.0)
                raise SpecError(
                    f"it fails at {time_text(other.fault.at)} of the logical clock for {time_text(other.lasts)}",
                    where=f"faults: {one.fault.part}",
                    hint=f"repair it first, or let the new fault come in {time_text(end)}",
                )  # fmt: skip
        return [recovering.add(one) for one in chosen]

    return alter


def _overlap(one: PartFault, other: PartFault) -> bool:
    """Whether two faults of one part are there at the same time."""
    return one.fault.at < other.fault.at + other.lasts and other.fault.at < one.fault.at + one.lasts
