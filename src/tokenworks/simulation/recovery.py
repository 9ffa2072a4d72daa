"""What failed parts do to the instances of a deployment: when they stop, lose ranks, start again, and become slower.

`Recovering` plays a list of faults without any request, and writes down events for the engine. It plays them to the
end, or along a clock: then faults and repairs may come while it runs. Its rules:

1. A part stops its devices, or takes a share of the bandwidth of a level from some devices (`specs.parts`). Devices
   that lose the whole bandwidth of a level which their instance needs stop, too.
2. An instance that loses a device stops at once: its ranks wait for each other in each step. After `detect` the router
   leaves the instance out, and its requests are handled as `on_loss` says.
3. The instance starts again as soon as all its devices work. A failed device is replaced by a spare at once, if there
   is one. The start takes `start`: processes, weights, graphs.
4. With elastic EP the instance goes on with the ranks that are left, `shrink` after the fault, if these can hold all
   experts (`variants.least_ranks`). When the devices of a lost rank work again, its processes load weights for `start`,
   and the instance stands for `shrink` while the rank joins. With too few ranks, the instance stops as in rule 2. When
   it starts again, it takes the ranks that work, if these are enough.
5. A fault of the network with `crash` ends the processes of the instances that lose bandwidth, as in rule 2. All of
   their devices work, so they start at once.
6. A device that works again, and whose place a spare has taken, becomes a spare.
7. A drained part gives its devices back on purpose: `detect` and the time until an elastic instance notices are 0.
"""

from __future__ import annotations

import copy
import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tokenworks.simulation.fault_effects import CostChange, EngineEvent, FaultEffect, InstanceState
from tokenworks.simulation.fault_plan import PartFault, RecoveryTimes
from tokenworks.simulation.layout import DeviceLayout
from tokenworks.simulation.steps import Site
from tokenworks.simulation.variants import HEALTHY, Condition, least_ranks
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.parts import LevelName, MachinePart, lost_share

LEVELS: tuple[LevelName, ...] = ("scale_up", "scale_out")
ALL = 1 - 1e-9
"""From this share on, a device has lost the whole bandwidth of a level [-]."""


@dataclass(slots=True)
class _Instance:
    """State of an instance: its devices by rank, ranks that the router leaves out, and ranks that failed unnoticed."""

    number: int
    role: Role
    least: int
    devices: list[list[int]]
    out: set[int] = field(default_factory=set)
    hit: set[int] = field(default_factory=set)
    stopped_s: float | None = None
    dead: bool = False
    start_s: float | None = None
    joins: dict[int, float] = field(default_factory=dict)
    condition: Condition = HEALTHY
    open: set[int] = field(default_factory=set)

    @property
    def ranks(self) -> int:
        return len(self.devices)

    @property
    def elastic(self) -> bool:
        return self.least < self.ranks

    def all_devices(self) -> list[int]:
        return [device for rank in self.devices for device in rank]


@dataclass
class Recovering:
    """Plays faults, and collects what the engine must do.

    Parameters
    ----------
    deployment : roles, spares, and whether EP is elastic
    site : model and machine
    layout : devices of each rank
    times : times of the recovery
    """

    deployment: Deployment
    site: Site
    layout: DeviceLayout
    times: RecoveryTimes
    events: list[EngineEvent] = field(default_factory=list)
    costs: list[CostChange] = field(default_factory=list)
    effects: list[FaultEffect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count, self.now = 0, 0.0
        self._down: Counter[int] = Counter()
        self._failed: list[MachinePart] = []
        self._cut: set[tuple[int, int]] = set()
        self._spares = list(self.layout.idle[: self.deployment.spares])
        self._instances = []
        for number, (role_number, ranks, _) in enumerate(self.layout.instances):
            role = self.deployment.roles[role_number]
            least = least_ranks(role, self.site.model) if self.deployment.elastic_ep and role.can_shrink else ranks
            own: list[list[int]] = [[] for _ in range(ranks)]
            for device in self.layout.devices_of[number]:
                place = self.layout.places[device]
                assert place is not None
                own[place.rank].append(device)
            self._instances.append(_Instance(number, role, least, own))

    def play(self, faults: Sequence[PartFault]) -> None:
        """Play all faults to the end of their effects.

        Parameters
        ----------
        faults : the faults, in the order of time
        """
        for fault in faults:
            self.add(fault)
        self.advance(math.inf)

    def add(self, fault: PartFault) -> int:
        """Take a fault that is still to come. Returns its number.

        Parameters
        ----------
        fault : the fault; it must not lie before `now`
        """
        self.effects.append(FaultEffect(fault))
        self._at(fault.fault.at, partial(self._begin, len(self.effects) - 1))
        return len(self.effects) - 1

    def advance(self, until_s: float) -> None:
        """Play everything up to a time, included.

        Parameters
        ----------
        until_s : the time [s]
        """
        while self._heap and self._heap[0][0] <= until_s:
            self.now, _, act = heapq.heappop(self._heap)
            act()
        if until_s < math.inf:
            self.now = max(self.now, until_s)

    @property
    def next_s(self) -> float:
        """Time of the next change; infinity if nothing is under way [s]."""
        return self._heap[0][0] if self._heap else math.inf

    def repair(self, index: int) -> None:
        """Let the part of a fault work again now. A fault that has not happened yet never happens.

        Parameters
        ----------
        index : number of the fault
        """
        effect = self.effects[index]
        if effect.begun:
            self._end(index)
        elif not effect.ended:
            effect.ended, effect.whole_s = True, self.now

    def is_down(self, device: int) -> bool:
        """Whether a device has failed, and does not work again yet.

        Parameters
        ----------
        device : its number in the machine
        """
        return self._down[device] > 0

    def open_faults(self) -> frozenset[int]:
        """Numbers of the faults from which an instance has not recovered yet."""
        return frozenset(index for one in self._instances for index in one.open)

    def fork(self) -> Recovering:
        """A copy in the same state, which can be played on without a change of this one."""
        shared = {id(one): one for one in (self.deployment, self.site, self.layout, *self.deployment.roles)}
        return copy.deepcopy(self, shared)

    def states(self) -> tuple[InstanceState, ...]:
        """State of each instance now."""
        states = []
        for one in self._instances:
            live = [] if one.dead else [rank for rank in range(one.ranks) if rank not in one.out]
            serving = [] if one.stopped_s is not None else [device for rank in live for device in one.devices[rank]]
            states.append(InstanceState(
                one.number, one.role.name, one.ranks, len(live), one.stopped_s is not None,
                one.dead and one.start_s is not None, one.condition, tuple(one.all_devices()), tuple(serving),
            ))  # fmt: skip
        return tuple(states)

    # ── the clock ────────────────────────────────────────────────────────────────────────────────────────────────

    def _at(self, time_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (time_s, self._count, act))
        self._count += 1

    def _say(self, kind: str, index: int, value: float = 0.0) -> None:
        self.events.append(EngineEvent(self.now, kind, index, value))

    # ── faults and repairs ───────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, index: int) -> None:
        """A part fails."""
        effect = self.effects[index]
        if effect.ended:
            return
        effect.begun = True
        fault, part = effect.fault.fault, effect.fault.part
        wait = 0.0 if fault.drained else self.times.detect
        if part is None or part.kind == "software":  # processes end, and all devices work
            for one in self._instances:
                devices = set(one.all_devices()) if part is None else set(part.devices)
                hit = {rank for rank in range(one.ranks) if devices.intersection(one.devices[rank])} - one.out
                own = one.number == fault.number if part is None else bool(devices.intersection(one.all_devices()))
                if own and (hit or one.dead):
                    effect.devices += len(devices.intersection(one.all_devices()))
                    self._fail(one, hit, index, wait)
            effect.ended = True
            if not effect.instances:
                effect.whole_s = self.now
            return
        self._at(self.now + effect.fault.lasts, partial(self._end, index))
        self._down.update(part.devices)
        self._spares = [device for device in self._spares if not self._down[device]]
        effect.devices = len(part.devices)
        if part.level is not None:
            self._failed.append(part)
            self._cut_off()
        for one in self._instances:
            if {*part.devices, *part.reach}.intersection(one.all_devices()):
                self._reach(one, part, index, wait)
        if not effect.instances:
            effect.whole_s = self.now + effect.fault.lasts

    def _reach(self, one: _Instance, part: MachinePart, index: int, wait: float) -> None:
        """A failed part stops devices of an instance, or takes bandwidth from them."""
        effect = self.effects[index]
        slower = self._condition(one)
        weaker = part.level is not None and slower != one.condition
        if weaker:
            effect.lost = max(effect.lost, 1 - min(slower.up_share, slower.out_share))
        hit = {rank for rank in range(one.ranks) if not self._works(one, rank)} - one.out
        if weaker and effect.fault.crashes:
            hit = set(range(one.ranks)) - one.out
        if hit:
            self._fail(one, hit, index, wait)
        elif weaker or set(part.devices).intersection(one.all_devices()):
            effect.instances.add(one.number)
            one.open.add(index)
            one.start_s = None
            self._repair(one)

    def _end(self, index: int) -> None:
        """A part works again."""
        effect = self.effects[index]
        part = effect.fault.part
        if part is None or effect.ended:  # repaired early
            return
        effect.ended = True
        if not effect.instances:
            effect.whole_s = self.now
        self._down.subtract(part.devices)
        if part.level is not None:
            self._failed.remove(part)
            self._cut_off()
        used = {device for one in self._instances for device in one.all_devices()}
        kept = set(self.layout.idle[: self.deployment.spares]) | {
            device for device, place in enumerate(self.layout.places) if place is not None
        }
        for device in part.devices:
            if device in kept and device not in used and not self._down[device] and device not in self._spares:
                self._spares.append(device)
        for one in self._instances:
            self._repair(one)

    def _cut_off(self) -> None:
        """Devices that have lost the whole bandwidth of a level which their instance needs."""
        self._cut = set()
        for one in self._instances:
            devices = one.all_devices()
            for level in LEVELS:
                if self._needs(devices, level):
                    self._cut |= {
                        (one.number, device) for device in devices if lost_share(self._failed, level, [device]) >= ALL
                    }

    def _needs(self, devices: list[int], level: LevelName) -> bool:
        """Whether devices of one instance talk over a level."""
        domains = len({device // self.layout.domain for device in devices})
        return domains > 1 if level == "scale_out" else len(devices) > domains

    def _works(self, one: _Instance, rank: int) -> bool:
        """Whether all devices of a rank work."""
        return not any(self._down[device] or (one.number, device) in self._cut for device in one.devices[rank])

    # ── instances ────────────────────────────────────────────────────────────────────────────────────────────────

    def _fail(self, one: _Instance, hit: set[int], index: int, wait: float) -> None:
        """Ranks of an instance fail; nobody has noticed."""
        effect = self.effects[index]
        effect.instances.add(one.number)
        one.open.add(index)
        if one.dead:  # its processes were starting
            one.start_s = None
            self._repair(one)
            return
        pending, one.hit = bool(one.hit), one.hit | hit
        left = one.ranks - len(one.out | one.hit)
        if one.elastic and left >= one.least:
            wait = 0.0 if wait == 0.0 else self.times.shrink
        if wait > 0.0:
            self._stop(one)
        if not pending or wait == 0.0:
            self._at(self.now + wait, partial(self._notice, one))

    def _notice(self, one: _Instance) -> None:
        """The failed ranks are noticed: their requests leave, and the instance goes on or is started again."""
        if not one.hit:
            return
        left = one.ranks - len(one.out | one.hit)
        goes_on = one.elastic and left >= one.least
        lost = one.hit if goes_on else set(range(one.ranks)) - one.out
        one.hit = set()
        for index in one.open:
            if self.effects[index].noticed_s in (None, self.now):
                self.effects[index].noticed_s = self.now
                self.effects[index].ranks += len(lost)
        if goes_on:
            one.out |= lost
            self._settle(one)
            self._lose(one, lost)
            if one.stopped_s is None:
                self._pause(one)
            else:
                self._go(one)
        else:
            self._stop(one)
            self._lose(one, lost)
            one.out, one.dead, one.start_s = set(range(one.ranks)), True, None
            one.joins.clear()
        self._repair(one)

    def _lose(self, one: _Instance, ranks: set[int]) -> None:
        for rank in sorted(ranks):
            self._say("lose", self.layout.engine_rank(one.number, rank))

    def _repair(self, one: _Instance) -> None:
        """Replace failed devices by spares, and start what can start."""
        if not one.dead and not one.out:
            if not one.hit:
                self._settle(one)
                self._close(one)
            return
        for rank in sorted(one.out):
            self._take_spares(one, rank)
        working = {rank for rank in one.out if self._works(one, rank)}
        start = self.times.start[self.layout.instances[one.number][0]]
        if one.dead:
            if len(working) >= one.least and one.start_s is None:
                one.start_s = self.now + start
                self._at(one.start_s, partial(self._start, one, one.start_s))
            return
        for rank in list(one.joins):
            if rank not in working:
                del one.joins[rank]
        for rank in sorted(working - set(one.joins)):
            one.joins[rank] = self.now + start
            self._at(one.joins[rank], partial(self._join, one))
        if not one.hit:
            self._settle(one)

    def _take_spares(self, one: _Instance, rank: int) -> None:
        """Replace the failed devices of a rank by spares, in the same domain if the rank has several devices."""
        own = one.devices[rank]
        for at, device in enumerate(own):
            if not self._down[device]:
                continue
            near = [spare for spare in self._spares if spare // self.layout.domain == device // self.layout.domain]
            crosses = len({other // self.layout.domain for other in one.all_devices()}) > 1 and len(own) == 1
            choice = next(iter(near), next(iter(self._spares), None) if crosses else None)
            if choice is None:
                self._move(one)
                return
            self._spares.remove(choice)
            own[at] = choice

    def _move(self, one: _Instance) -> None:
        """Move a dead instance to another domain, if the spares there are enough for all of it."""
        count = len(one.all_devices())
        if not one.dead or count > self.layout.domain:
            return
        for domain in sorted({spare // self.layout.domain for spare in self._spares}):
            free = [spare for spare in self._spares if spare // self.layout.domain == domain]
            if len(free) < count:
                continue
            left = [device for device in one.all_devices() if not self._down[device]]
            taken = iter(free[:count])
            one.devices = [[next(taken) for _ in rank] for rank in one.devices]
            self._spares = sorted({*self._spares, *left} - set(free[:count]))
            return

    def _start(self, one: _Instance, at_s: float) -> None:
        """A dead instance has started, unless a fault came in between."""
        if not one.dead or one.start_s != at_s:
            return
        working = {rank for rank in range(one.ranks) if self._works(one, rank)}
        one.dead, one.start_s = False, None
        one.out = set(range(one.ranks)) - working
        self._settle(one)
        self._go(one)
        for rank in sorted(working):
            self._say("back", self.layout.engine_rank(one.number, rank))
        self._repair(one)

    def _join(self, one: _Instance) -> None:
        """Ranks have loaded their weights. They join now, or when the instance runs again."""
        ready = sorted(rank for rank, at_s in one.joins.items() if at_s <= self.now)
        if not ready or one.dead:
            return
        if one.stopped_s is not None:
            self._at(self.now + max(self.times.shrink, 1.0), partial(self._join, one))
            return
        self._pause(one)
        for rank in ready:
            del one.joins[rank]
            one.out.discard(rank)
        self._settle(one)
        for rank in ready:
            self._say("back", self.layout.engine_rank(one.number, rank))
        self._close(one)

    # ── states ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _condition(self, one: _Instance) -> Condition:
        """The present condition of an instance: live ranks, and bandwidth of the device that has least."""
        devices = [device for rank in range(one.ranks) if rank not in one.out for device in one.devices[rank]]
        devices = devices or one.all_devices()
        share = {
            level: 1 - lost_share(self._failed, level, devices) if self._needs(devices, level) else 1.0
            for level in LEVELS
        }
        up, out = (share[level] if share[level] > 1 - ALL else 1.0 for level in LEVELS)
        live = one.ranks - len(one.out)
        return Condition(live if 0 < live < one.ranks else None, up, out)

    def _settle(self, one: _Instance) -> None:
        """Tell the engine the step times of an instance, if they have changed."""
        condition = self._condition(one).rounded()
        if condition != one.condition:
            one.condition = condition
            self.costs.append(CostChange(self.now, one.number, condition))

    def _stop(self, one: _Instance) -> None:
        if one.stopped_s is None:
            self._say("stop", one.number)
            one.stopped_s = self.now

    def _go(self, one: _Instance) -> None:
        assert one.stopped_s is not None
        self._say("start", one.number)
        for index in one.open:
            self.effects[index].down_s += self.now - max(one.stopped_s, self.effects[index].fault.fault.at)
        one.stopped_s = None

    def _pause(self, one: _Instance) -> None:
        self._say("pause", one.number, self.times.shrink)
        for index in one.open:
            self.effects[index].down_s += self.times.shrink

    def _close(self, one: _Instance) -> None:
        """Close the faults of an instance that is whole again."""
        if one.out or one.hit or one.dead or one.condition != HEALTHY:
            return
        for index in one.open:
            self.effects[index].whole_s = self.now
        one.open.clear()
