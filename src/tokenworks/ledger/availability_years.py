"""Years of a machine, jumping from event to event: failures, repairs, spares, and the states of the instances.

Times of events and the states between them are exact. No request is played: `availability_capacity` gives each state
its capacity, and the result is composed of states, their times and their capacities.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tokenworks.ledger.availability_failures import PartFailure
from tokenworks.ledger.availability_stand import Stand
from tokenworks.simulation.fault_plan import start_s
from tokenworks.simulation.layout import DevicePlace
from tokenworks.simulation.variants import Condition
from tokenworks.specs.calibration import number
from tokenworks.specs.parts import MachinePart, PartKind
from tokenworks.specs.reliability import Recovery

State = tuple[tuple[int, Condition | None], ...]
"""Instances that are not whole: number and condition; None: the instance gives no tokens."""


@dataclass(frozen=True, slots=True)
class FailureEffect:
    """What a failure does to one instance for a time.

    Parameters
    ----------
    start_s, end_s : the time [s]
    instance : number of the instance
    kind : kind of the part that failed
    rank : rank that does not work; None: none
    part : part whose bandwidth is missing; None: none. Without rank and part, the whole instance gives no tokens
    """

    start_s: float
    end_s: float
    instance: int
    kind: PartKind
    rank: int | None = None
    part: MachinePart | None = None


@dataclass(frozen=True)
class PlayedYears:
    """What happened in the years of one seed.

    Parameters
    ----------
    seconds : length of the time [s]
    states : time in each state other than the whole deployment, by the kinds of parts that cause it [s]
    broken_s : time in which at least one part of the machine, without its software, was down [s]
    device_s : time of devices that could not be used, summed over devices [s]
    failures : failures by kind of part [count]
    """

    seconds: float
    states: dict[tuple[State, frozenset[PartKind]], float]
    broken_s: float
    device_s: float
    failures: Counter[PartKind]


def play_years(stand: Stand | None, failures: Sequence[PartFailure], recovery: Recovery, seconds: float) -> PlayedYears:
    """Follow a deployment through the failures of some years.

    Parameters
    ----------
    stand : the deployment on its machine; None: only the machine is followed
    failures : all failures, in the order of their times
    recovery : times after a failure
    seconds : length of the time [s]
    """
    detect = number(recovery.detect)
    windows: list[tuple[float, float]] = []
    of_device: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for failure in failures:
        if failure.part.kind == "software":
            continue
        window = (failure.at_s, min(failure.at_s + detect + failure.down_s, seconds))
        windows.append(window)
        for device in failure.part.devices:
            of_device[device].append(window)
    states: dict[tuple[State, frozenset[PartKind]], float] = {}
    if stand is not None:
        states = _states(stand, _Followed(stand, recovery, seconds).effects(failures), seconds)
    return PlayedYears(
        seconds, states, _union(windows), sum(_union(own) for own in of_device.values()),
        Counter(failure.part.kind for failure in failures),
    )  # fmt: skip


def _union(windows: Iterable[tuple[float, float]]) -> float:
    """Time that at least one of some windows covers [s]."""
    total, reached = 0.0, 0.0
    for start, end in sorted(windows):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@dataclass
class _Followed:
    """Devices, spares and repairs of a deployment over time.

    Parameters
    ----------
    stand : the deployment on its machine
    recovery : times after a failure
    seconds : end of the time [s]
    """

    stand: Stand
    recovery: Recovery
    seconds: float
    works_for: dict[int, DevicePlace] = field(init=False)
    spares: deque[int] = field(init=False)
    back: dict[int, float] = field(init=False, default_factory=dict)
    waiting: deque[tuple[DevicePlace, float, PartKind]] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        places = enumerate(self.stand.layout.places)
        self.works_for = {device: place for device, place in places if place is not None}
        self.spares = deque(self.stand.spares)
        self.kept = {*self.works_for, *self.spares}
        self.detect, self.shrink = number(self.recovery.detect), number(self.recovery.shrink)
        self.start = [start_s(self.recovery, instance.load_s) for instance in self.stand.instances]

    def effects(self, failures: Sequence[PartFailure]) -> Iterator[FailureEffect]:
        """The effects of all failures on the instances."""
        repairs: list[tuple[float, int]] = []
        for failure in failures:
            while repairs and repairs[0][0] <= failure.at_s:
                yield from self._repaired(*heapq.heappop(repairs))
            if failure.part.level is not None:
                yield from self._slowed(failure)
            elif failure.part.kind == "software":
                yield from self._restarted(failure)
            else:
                yield from self._stopped(failure, repairs)
        while repairs and repairs[0][0] < self.seconds:
            yield from self._repaired(*heapq.heappop(repairs))
        for place, at, kind in self.waiting:
            yield from self._away(place, at, self.seconds, kind)

    def _slowed(self, failure: PartFailure) -> Iterator[FailureEffect]:
        """A part that carries bandwidth is down: instances restart, and run with less bandwidth until it is back."""
        part, at = failure.part, failure.at_s
        end = at + self.detect + failure.down_s
        for number_of, instance in enumerate(self.stand.instances):
            if not instance.slowed_by(part):
                continue
            start = self.start[number_of]
            if part.share >= 1:
                yield FailureEffect(at, end + start, number_of, part.kind)
                continue
            if failure.crash < number(self.recovery.crash):
                yield FailureEffect(at, at + self.detect + start, number_of, part.kind)
            yield FailureEffect(at, end, number_of, part.kind, part=part)

    def _restarted(self, failure: PartFailure) -> Iterator[FailureEffect]:
        """The software of a host starts again, on the same devices."""
        places = {self.works_for[device] for device in failure.part.devices if device in self.works_for}
        for place in sorted(places):
            back = failure.at_s + self.detect + failure.down_s
            yield from self._away(place, failure.at_s, back, failure.part.kind)

    def _stopped(self, failure: PartFailure, repairs: list[tuple[float, int]]) -> Iterator[FailureEffect]:
        """A part stops its devices until its reset, or until it is replaced. Spares take over, if there are any."""
        at, end = failure.at_s, failure.at_s + self.detect + failure.down_s
        places = []
        for device in failure.part.devices:
            if self.back.get(device, 0.0) >= end:
                continue
            self.back[device] = end
            heapq.heappush(repairs, (end, device))
            if device in self.spares:
                self.spares.remove(device)
            if device in self.works_for:
                places.append(self.works_for.pop(device))
        for place in places:
            if self.spares:
                self.works_for[self.spares.popleft()] = place
                yield from self._away(place, at, at + self.detect, failure.part.kind)
            else:
                self.waiting.append((place, at, failure.part.kind))

    def _repaired(self, at: float, device: int) -> Iterator[FailureEffect]:
        """A device is back. It takes the place that has waited longest, or becomes a spare."""
        if self.back.get(device) != at:
            return
        del self.back[device]
        if device not in self.kept:  # no role uses it, and it is no spare
            return
        if not self.waiting:
            self.spares.append(device)
            return
        place, since, kind = self.waiting.popleft()
        self.works_for[device] = place
        yield from self._away(place, since, at, kind)

    def _away(self, place: DevicePlace, at: float, back: float, kind: PartKind) -> Iterator[FailureEffect]:
        """A device of an instance is missing for a time.

        Without elastic expert parallelism, the instance stands until the device is back and the engine has started.
        With it, the instance pauses, goes on without the rank while the device comes back and starts, and pauses again.
        """
        number_of, start = place.instance, self.start[place.instance]
        if not self.stand.instances[number_of].elastic:
            yield FailureEffect(at, back + start, number_of, kind)
            return
        smaller = at + self.shrink
        whole = smaller + (back - at - self.detect) + start
        yield FailureEffect(at, smaller, number_of, kind)
        yield FailureEffect(at, whole, number_of, kind, rank=place.rank)
        yield FailureEffect(whole, whole + self.shrink, number_of, kind)


def _states(
    stand: Stand, effects: Iterable[FailureEffect], seconds: float
) -> dict[tuple[State, frozenset[PartKind]], float]:
    """Time in each state of the deployment, by the kinds of parts that cause it [s]."""
    every = [effect for effect in effects if effect.start_s < min(effect.end_s, seconds)]
    changes = sorted(
        [(effect.start_s, 1, at) for at, effect in enumerate(every)]
        + [(min(effect.end_s, seconds), 0, at) for at, effect in enumerate(every)]
    )
    active: defaultdict[int, set[int]] = defaultdict(set)  # instance -> numbers of its effects
    conditions: dict[int, Condition | None] = {}
    total: defaultdict[tuple[State, frozenset[PartKind]], float] = defaultdict(float)
    before = 0.0
    for at_s, begins, at in changes:
        if at_s > before and conditions:
            kinds = frozenset(every[one].kind for own in active.values() for one in own)
            total[tuple(sorted(conditions.items(), key=lambda pair: pair[0])), kinds] += at_s - before
        before = at_s
        instance = every[at].instance
        own = active[instance]
        (own.add if begins else own.discard)(at)
        if own:
            conditions[instance] = _condition(stand, instance, [every[one] for one in own])
        else:
            conditions.pop(instance, None)
    return dict(total)


def _condition(stand: Stand, instance: int, effects: Sequence[FailureEffect]) -> Condition | None:
    """The condition of an instance under some effects; None: it gives no tokens."""
    if any(effect.rank is None and effect.part is None for effect in effects):
        return None
    ranks = [effect.rank for effect in effects if effect.rank is not None]
    return stand.instances[instance].condition(ranks, [effect.part for effect in effects if effect.part is not None])
