"""Experts during a run: their popularity drifts, EPLB moves them every N steps, and the step times follow.

Nothing here knows requests. `Balancing` plans a run: step costs for some levels of balance, and a driver. The driver
advances the simulator in pieces, and tells it when an instance pauses and when its step times change. All instances of
a role act together, by the mean number of their steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tokenworks.arrays import Floats, Ints
from tokenworks.costs.moe import Balance
from tokenworks.costs.placement import Moves, balance, balanced, hottest, move_time, moves, plain
from tokenworks.engine.simulator import Simulator
from tokenworks.engine.types import Cluster, Pool
from tokenworks.errors import SpecError
from tokenworks.simulation.expert_group import Group, group_of
from tokenworks.simulation.popularity import Popularity, routed
from tokenworks.simulation.steps import Site
from tokenworks.simulation.variants import HEALTHY, variant_cost
from tokenworks.specs.deployment import Deployment, Eplb, Role
from tokenworks.specs.experts import ExpertCounts, ExpertLoad

LEVELS = 16
"""Most levels of balance with step costs of their own; a run uses the nearest level [count]."""
SAMPLED = 12
"""Layers by which a level is priced: layers differ by chance only [count]."""
DISTINCT = 1.02
"""Smallest ratio of the limits of two levels [-]."""
GUESSES = 128
"""States of the popularity that the levels are made from: two half-lives of an order that drifts [count]."""
CLOSE = 0.01
"""EPLB acts when this share of its steps or less is missing: the driver counts steps between events, not each [-]."""
QUICK = 0.005
"""Time of a step before the first steps are counted: shorter than most [s]."""
STAY = Moves(0, 0, 0, 0)
"""A rebalance that moves nothing."""
HOST_S = 1.0
"""CPU time of a rebalance: counts to the host, placement, and the messages for all layers (SGLang issue 7879: about
1 s; SGLang pull request 8345: seconds); assumed for both engines [s]."""


@dataclass(frozen=True, slots=True)
class Level:
    """A balance with step costs of its own.

    Parameters
    ----------
    limit : load of the hottest rank / mean load for very many tokens, mean over the layers [-]
    balance : hottest rank and touched experts by batch
    """

    limit: float
    balance: Balance


@dataclass(slots=True)
class Track:
    """What happened to the experts of a role in a run.

    Parameters
    ----------
    group : the role
    levels : levels of balance, by rising limit
    at_s, limit, worst, still : values from a time on: balance as the mean over the layers and of the worst layer, and
        the mean balance that the plain placement would have [s, -]
    level : number of the level that the step times use
    moved : copies moved by each rebalance
    pause_s : time in which instances stood still, the sum over the instances [s]
    """

    group: Group
    levels: tuple[Level, ...]
    at_s: list[float] = field(default_factory=list)
    limit: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    still: list[float] = field(default_factory=list)
    level: list[int] = field(default_factory=list)
    moved: list[Moves] = field(default_factory=list)
    pause_s: float = 0.0

    def mean(self, values: Sequence[float], until_s: float) -> float:
        """Mean over time of one of the lists.

        Parameters
        ----------
        values : the list
        until_s : end of the time [s]
        """
        widths = np.diff(np.minimum([*self.at_s, until_s], until_s))
        return float(np.average(values, weights=widths)) if widths.sum() > 0 else float(values[0])

    def touched(self, tokens: float, until_s: float) -> float:
        """Touched experts of the rank that touches most, mean over time [count].

        Parameters
        ----------
        tokens : routed tokens of a step, all ranks [token]
        until_s : end of the time [s]
        """
        values = [float(one.balance.hottest_touched(tokens)) for one in self.levels]
        return self.mean([values[number] for number in self.level], until_s)


class Balancing:
    """A run with known popularity of experts: the cluster with its step costs, and drivers for runs on it.

    Parameters
    ----------
    load : popularity of the experts
    deployment : roles, and the serving engine
    site : model, machine and rates
    built : cluster of the deployment with the calibrated skew
    span_s : time in which requests are sent [s]

    Raises
    ------
    SpecError : the model has no routed experts, the counts do not match the model, or no role has expert parallelism
    """

    def __init__(
        self, load: ExpertLoad | ExpertCounts, deployment: Deployment, site: Site, built: Cluster, span_s: float
    ) -> None:
        experts, self.layers = routed(site.model)
        self.popularity = Popularity(load, experts, self.layers, span_s)
        self.load, self.experts, self.rates = load, experts.count, site.rates
        self.groups: list[Group] = []
        self.levels: list[tuple[Level, ...]] = []
        pools, first = list(built.pools), 0
        for number, role in enumerate(deployment.roles):
            group = group_of(role, number, first, site, deployment.engine)
            first += role.replicas
            if group is None:
                continue
            levels = self._levels(group)
            self.groups.append(group)
            self.levels.append(levels)
            pools[number] = _priced(pools[number], role, site, levels)
        if not self.groups:
            raise SpecError(f"{deployment}: each rank has all experts (ep is 1), so popularity changes nothing",
                            where="experts", hint="set ep, or leave the popularity of experts out")  # fmt: skip
        self.cluster = replace(built, pools=tuple(pools))

    @property
    def balances(self) -> dict[int, list[Balance]]:
        """Balances that have step costs of their own, of each pool with known experts."""
        return {group.pool: [one.balance for one in levels]
                for group, levels in zip(self.groups, self.levels, strict=True)}  # fmt: skip

    def driver(self) -> ExpertDriver:
        """A driver for one run."""
        return ExpertDriver(self)

    def start(self, group: Group) -> Ints:
        """The placement that the engine starts with.

        Parameters
        ----------
        group : the ranks
        """
        return plain(self.layers, self.experts, group.redundant, group.ep)

    def packed(self, group: Group, counts: Floats) -> Ints:
        """The placement that EPLB makes.

        Parameters
        ----------
        group : the ranks
        counts : counted tokens of each expert, by layer
        """
        groups = self.load.groups if isinstance(self.load, ExpertLoad) else 1
        return balanced(counts, group.redundant, group.ep, groups=groups, hosts=group.hosts)

    def _levels(self, group: Group) -> tuple[Level, ...]:
        """Levels between the best and the worst balance of states and placements that a run can have."""
        last = int(min(self.popularity.last, GUESSES))
        pairs = [(number, self.start(group)) for number in range(0, last + 1, max(1, last // 16))]
        if group.eplb:
            for age in sorted({0, 1, 2, 4, 8, 16, 32, 64, last}):
                later = range(age, last + 1, max(1, (last - age) // 2))
                pairs += [(number, self.packed(group, self.popularity.state(number - age))) for number in later]
            for number in range(1, last + 1, max(1, last // 2)):  # counts of a window that is half over
                half = (self.popularity.state(number - 1) + self.popularity.state(number)) / 2
                pairs.append((number, self.packed(group, half)))
        limits = np.array([self._limit(group, number, placement)[0] for number, placement in pairs])
        wanted = np.geomspace(limits.min(), limits.max(), LEVELS)
        chosen = sorted({int(np.argmin(np.abs(np.log(limits / one)))) for one in wanted}, key=lambda i: limits[i])
        rows = np.unique(np.linspace(0, self.layers - 1, SAMPLED).round().astype(int))
        levels: list[Level] = []
        for index in chosen:
            number, placement = pairs[index]
            if not levels or limits[index] > levels[-1].limit * DISTINCT:
                tables = balance(self.popularity.state(number)[rows], placement[rows], group.ep)
                levels.append(Level(float(limits[index]), _shifted(tables, float(limits[index]), group.ep)))
        return tuple(levels)

    def _limit(self, group: Group, number: int, placement: Ints) -> tuple[float, float]:
        """Balance for very many tokens: the mean over the layers, and the worst layer."""
        by_layer = hottest(self.popularity.state(number), placement, group.ep)
        return float(by_layer.mean()), float(by_layer.max())

    def seen(self, group: Group, number: int, placement: Ints) -> tuple[float, float, float]:
        """Balance now: mean over the layers, worst layer, and the mean with the plain placement [-].

        Parameters
        ----------
        group : the ranks
        number : state of the popularity
        placement : where the copies lie
        """
        return (*self._limit(group, number, placement), self._limit(group, number, self.start(group))[0])


def _shifted(tables: Balance, limit: float, ep: int) -> Balance:
    """The balance of some layers, moved to the mean of all layers."""
    more = limit - tables.limit
    return replace(tables, hot=tuple(min(max(one + more, 1.0), float(ep)) for one in tables.hot), limit=limit)


def _priced(pool: Pool, role: Role, site: Site, levels: tuple[Level, ...]) -> Pool:
    """The pool with the step costs of all levels; the first level is the normal cost."""
    costs = [variant_cost(role, site, pool.limits, replace(HEALTHY, balance=one.balance)) for one in levels]
    return replace(pool, cost=costs[0], variants=tuple(costs[1:]))


@dataclass(slots=True)
class _Ranks:
    """State of the ranks of a role.

    Parameters
    ----------
    group, track : the ranks, and what happened to them
    placement : where copies lie
    done, since_s : steps and time at the last rebalance [count, s]
    seen, busy_s : steps of an instance, and their time, when steps were counted last [count, s]
    step_s : time of one of the last steps [s]
    check_s : time at which steps are counted next [s]
    coming : time at which moved copies arrive, and the placement then; None: none are on their way
    packed : states whose counts gave the last placement, and this placement: equal counts are not packed again
    """

    group: Group
    track: Track
    placement: Ints
    done: float = 0.0
    since_s: float = 0.0
    seen: float = 0.0
    busy_s: float = 0.0
    step_s: float = QUICK
    check_s: float = math.inf
    coming: tuple[float, Ints] | None = None
    packed: tuple[range, Ints] | None = None


class ExpertDriver:
    """Advances one run, and acts when the popularity has changed, when steps are due for EPLB, and when copies arrive.

    Parameters
    ----------
    balancing : the plan of the run
    """

    def __init__(self, balancing: Balancing) -> None:
        self.balancing = balancing
        self.number = 0
        self.ranks = [_Ranks(group, Track(group, levels), balancing.start(group))
                      for group, levels in zip(balancing.groups, balancing.levels, strict=True)]  # fmt: skip
        for one in self.ranks:
            one.check_s = 0.0 if one.group.eplb else math.inf
        self.changes: list[tuple[float, int, int]] = []
        self.condition: dict[int, int] = {}

    @property
    def tracks(self) -> list[Track]:
        """What happened to the experts of each role."""
        return [one.track for one in self.ranks]

    def degrade(self, changes: Sequence[tuple[float, int, int]]) -> None:
        """Take over the changes of step times by failures: each condition of a pool has a step cost for each level.

        Parameters
        ----------
        changes : time [s], number of the instance in the engine, and number of its condition from then on
        """
        self.changes = sorted(changes, key=lambda change: change[0])

    def advance(self, simulator: Simulator, until: float, sent: int | None = None) -> None:
        """Advance the simulator, as `Simulator.advance` does, and act on the way.

        Parameters
        ----------
        simulator : the run
        until : last time to play [s]
        sent : stop earlier, right after this number of requests has reached a rank; None = do not
        """
        if not self.ranks[0].track.at_s:
            self._tell(simulator, 0.0)
        while True:
            due = min(self._due(), until)
            simulator.advance(due, sent=sent)
            if due >= until or (sent is not None and simulator.sent >= sent):
                return
            self._act(simulator, due)

    def _due(self) -> float:
        """Time of the next act [s]."""
        times = [self.balancing.popularity.start_s(self.number + 1)]
        times += [at_s for at_s, _, _ in self.changes[:1]]
        for one in self.ranks:
            times += [one.check_s, one.coming[0] if one.coming else math.inf]
        return min(times)

    def _act(self, simulator: Simulator, now: float) -> None:
        self.number = self.balancing.popularity.number(now)
        changed = self.number != self.balancing.popularity.number(now - 1e-9 * max(now, 1.0))
        for one in self.ranks:
            if one.coming and one.coming[0] <= now:
                one.placement, one.coming, changed = one.coming[1], None, True
            if one.check_s <= now:
                changed |= self._count(simulator, one, now)
        if changed:
            self._tell(simulator, now)
        while self.changes and self.changes[0][0] <= now:
            _, instance, condition = self.changes.pop(0)
            self.condition[instance] = condition
            track = next((one.track for one in self.ranks if instance in one.group.instances), None)
            level = track.level[-1] if track else 0
            simulator.at(now, "cost", instance, value=self._variant(instance, track, level))

    def _variant(self, instance: int, track: Track | None, level: int) -> int:
        """Number of the step cost of an instance: its condition, and in the condition its level of balance."""
        return self.condition.get(instance, 0) * (len(track.levels) if track else 1) + level

    def _count(self, simulator: Simulator, one: _Ranks, now: float) -> bool:
        """Count the steps of a role; rebalance if enough have run. Returns whether the placement has changed."""
        eplb, group = one.group.eplb, one.group
        assert eplb is not None
        counts = simulator.counts().pools[group.pool]
        steps, busy = counts.steps / len(group.instances), counts.busy_s / len(group.instances)
        missing = eplb.every_steps - (steps - one.done)
        if steps > one.seen:  # of the last steps, without idle time and pauses
            one.step_s = (busy - one.busy_s) / (steps - one.seen)
        one.seen, one.busy_s = steps, busy
        changed = False
        if missing <= CLOSE * eplb.every_steps:
            changed = self._rebalance(simulator, one, eplb, now)
            one.done, one.since_s, missing = steps, now, float(eplb.every_steps)
        ahead = max(missing / 2, CLOSE * eplb.every_steps)  # half of the way, since steps may become quicker
        one.check_s = now + max(ahead * one.step_s, 1e-6)
        return changed

    def _rebalance(self, simulator: Simulator, one: _Ranks, eplb: Eplb, now: float) -> bool:
        """Make a new placement from the counts of the window, and move the copies."""
        group, plan, track = one.group, self.balancing, one.track
        share = (eplb.window_steps or eplb.every_steps) / eplb.every_steps
        window = plan.popularity.window(now - share * (now - one.since_s), now)
        counts = plan.popularity.mean(window)
        by_layer = hottest(counts, one.placement, group.ep)
        if float((1 / by_layer).mean()) > eplb.min_utilization or one.coming:
            return False
        if one.packed is None or one.packed[0] != window:
            one.packed = window, plan.packed(group, counts)
        new = one.packed[1]
        moved = STAY if new is one.placement else moves(one.placement, new, group.ep, group.domain)
        seconds = move_time(moved, group.size, plan.layers, inner=plan.rates.inner, outer=plan.rates.outer)
        track.moved.append(moved)
        if eplb.in_background:
            one.coming = (now + HOST_S + seconds, new)
            return False
        for instance in group.instances:
            simulator.at(now, "pause", instance, value=HOST_S + seconds)
        track.pause_s += (HOST_S + seconds) * len(group.instances)
        one.placement = new
        return True

    def _tell(self, simulator: Simulator, now: float) -> None:
        """Write down the balance of each role, and change its step times if its level is another one."""
        for one in self.ranks:
            track, group = one.track, one.group
            limit, worst, still = self.balancing.seen(group, self.number, one.placement)
            levels = np.array([level.limit for level in track.levels])
            level = int(np.argmin(np.abs(np.log(levels / limit))))
            if level != (track.level[-1] if track.level else 0):
                for instance in group.instances:
                    simulator.at(now, "cost", instance, value=self._variant(instance, track, level))
            for values, value in ((track.at_s, now), (track.limit, limit), (track.worst, worst), (track.still, still)):
                values.append(value)
            track.level.append(level)


def link_bytes(track: Track) -> tuple[float, float]:
    """Weights that EPLB moved inside domains, and between domains, in all instances [byte, byte].

    Parameters
    ----------
    track : what happened to the experts of a role
    """
    group = track.group
    each = len(group.instances) * group.size * group.slices
    return each * sum(one.inside for one in track.moved), each * sum(one.outside for one in track.moved)
