"""The search for training plans: legal plans that fit, their step times, and the Pareto front of time and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tokenworks import pareto
from tokenworks.arrays import Bools, Floats, Ints
from tokenworks.costs.train import train_steps
from tokenworks.costs.train_memory import train_memory
from tokenworks.costs.train_plan import TrainPlans, TrainRates
from tokenworks.legal.rules import judge
from tokenworks.legal.training import (
    PRECISIONS,
    RECOMPUTES,
    TRAIN_MEMORY,
    TRAIN_SETTINGS,
    TRAIN_WIDTHS,
    TrainPoints,
    TrainProposal,
    TrainSetting,
)
from tokenworks.planning.train_bounds import TrainBounds, bounds_of
from tokenworks.planning.train_space import Fixed, TrainSpace

Say = Callable[[str], None]


FIRST = 3000
"""Plans that the first round of a search computes; each further round computes twice as many [count]."""

SLACK = 1e-9
"""Lower bounds are compared with this slack, for rounding [-]."""


@dataclass(frozen=True, slots=True)
class TrainSearch:
    """The result of a search for training plans.

    Parameters
    ----------
    setting : model, machine, batch and sequence
    points : plans that fit and whose time was computed, fastest first
    seconds : time of an optimiser step of each plan [s]
    need : memory of the fullest device of each plan [byte]
    front : places of the plans that no other plan beats in time and memory, fastest first
    considered, legal : plans before any rule; plans that keep all rules but those of memory [count]
    pruned : bound -> plans that it excludes [count]
    broken : rule -> plans for which it is the first broken rule [count]
    """

    setting: TrainSetting
    points: TrainPoints
    seconds: Floats
    need: Floats
    front: Ints
    considered: int
    legal: int
    pruned: Mapping[str, int]
    broken: Mapping[str, int]


def search_training(
    setting: TrainSetting,
    rates: TrainRates,
    fixed: Fixed | None = None,
    *,
    keep: int = 1,
    within: float = 0.0,
    front: bool = True,
    say: Say | None = None,
) -> TrainSearch:
    """Search all training plans of a setting for the fastest ones and the exact Pareto front of time and memory.

    Lower bounds of time and memory exclude plans before their time is computed. The fastest plans of `keep` choices of
    widths, and the front, are those of a search without bounds.

    Parameters
    ----------
    setting : model, machine, batch and sequence
    rates : rates of the machine
    fixed : what the user fixes; None: the search decides everything
    keep : choices of widths whose fastest plan must be found [count]
    within : the fastest plan of all choices of widths must be found that are at least this fast [s]
    front : False finds no front, which is quicker
    say : told in words what happens next

    Returns
    -------
    The plans that fit; there may be none.
    """
    tell = say or (lambda _: None)
    space = TrainSpace.of(setting, fixed or Fixed())
    tell(f"{len(space):,} training plans")
    fitting, broken = judge(TrainProposal(space.corners, setting), TRAIN_WIDTHS)
    points = space.points(fitting)
    legal, more = judge(TrainProposal(points, setting), TRAIN_SETTINGS)
    points = points[legal]
    tell(f"{len(points):,} legal training plans")
    broken = {name: count * len(space.choices) for name, count in broken.items()} | more
    rounds = _Rounds(setting, rates, points, keep=keep, within=within, front=front)
    kept, seconds, need = rounds.run(tell)
    order = np.argsort(seconds, kind="stable")
    kept, seconds, need = kept[order], seconds[order], need[order]
    best = pareto.front(-seconds, -need) if len(kept) else np.zeros(0, dtype=np.int64)
    if rounds.too_large:
        broken["state_fits"] = rounds.too_large
    return TrainSearch(setting, kept, seconds, need, best, len(space), len(points), rounds.pruned, broken)


class _Rounds:
    """Computes plans in rounds, in the order of their lower bounds, and drops those that the bounds exclude."""

    def __init__(
        self, setting: TrainSetting, rates: TrainRates, points: TrainPoints, *, keep: int, within: float, front: bool
    ) -> None:
        self.setting, self.rates, self.keep, self.within, self.front = setting, rates, keep, within, front
        self.too_large, self.pruned = 0, {"memory": 0, "time": 0}
        self.left, self.bounds = points, bounds_of(setting, rates, points)
        self.widths = _codes(points)
        self.points, self.codes = points[:0], self.widths[:0]
        self.seconds, self.need = np.zeros(0), np.zeros(0)

    def run(self, tell: Say) -> tuple[TrainPoints, Floats, Floats]:
        """All plans that fit and that no bound excludes, with their times and memory."""
        self._drop(self.bounds.need <= self.setting.machine.hbm_bytes, "memory")
        size = FIRST if self.front else FIRST // 4
        while len(self.left):
            chosen = self._next(size)
            self._compute(chosen)
            self._take(~_mask(chosen, len(self.left)))
            self._drop(self._may_be_kept(), "time")
            tell(f"{len(self.points):,} training plans computed, {len(self.left):,} left")
            size *= 2
        return self.points, self.seconds, self.need

    def _next(self, size: int) -> Ints:
        """Places of the plans of a round: those with the lowest bounds of time, and of memory."""
        count = min(size, len(self.left))
        fast = np.argpartition(self.bounds.seconds, count - 1)[:count]
        if not self.front and not len(self.points):
            small = np.argpartition(self.bounds.need, count - 1)[:count]  # they fit most surely
            return np.union1d(fast, small)
        if not self.front:
            return fast
        small = np.argpartition(self.bounds.need, count - 1)[: max(count // 4, 1)]
        return np.union1d(fast, small)

    def _compute(self, chosen: Ints) -> None:
        points, codes = self.left[chosen], self.widths[chosen]
        need = memory_of(self.setting, self.rates, points)
        fits, broken = judge(TrainProposal(points, self.setting, need), TRAIN_MEMORY)
        self.too_large += sum(broken.values())
        points, codes, need = points[fits], codes[fits], need[fits]
        seconds = seconds_of(self.setting, self.rates, points)
        self.points = _joined(self.points, points)
        self.codes = np.concatenate([self.codes, codes])
        self.seconds = np.concatenate([self.seconds, seconds])
        self.need = np.concatenate([self.need, need])

    def _may_be_kept(self) -> Bools:
        """True for each plan that may be among the fastest ones, or on the front."""
        limit = max(self.within, _best_of(self.codes, self.seconds, self.keep))
        kept: Bools = self.bounds.seconds <= limit * (1 + SLACK)
        if self.front and len(self.points):
            best = pareto.front(-self.seconds, -self.need)
            seconds, need = self.bounds.seconds * (1 - SLACK), self.bounds.need * (1 - SLACK)
            kept |= ~pareto.beaten(-seconds, -need, -self.seconds[best], -self.need[best])
        return kept

    def _drop(self, kept: Bools, bound: str) -> None:
        self.pruned[bound] += int(len(kept) - kept.sum())
        self._take(kept)

    def _take(self, kept: Bools) -> None:
        self.left, self.widths = self.left[kept], self.widths[kept]
        self.bounds = TrainBounds(self.bounds.seconds[kept], self.bounds.need[kept])


def _mask(chosen: Ints, size: int) -> Bools:
    mask: Bools = np.zeros(size, dtype=bool)
    mask[chosen] = True
    return mask


def _joined(one: TrainPoints, other: TrainPoints) -> TrainPoints:
    names = [field.name for field in dataclasses.fields(one)]
    return TrainPoints(*(np.concatenate([getattr(one, name), getattr(other, name)]) for name in names))


def _codes(points: TrainPoints) -> Ints:
    """A number for the choice of widths of each plan."""
    code: Ints = np.zeros(len(points), dtype=np.int64)
    for column in (points.tp, points.pp, points.dp, points.cp, points.ep, points.expert_tp):
        values, place = np.unique(column, return_inverse=True)
        code = code * len(values) + place.reshape(-1)
    return code


def _best_of(codes: Ints, seconds: Floats, keep: int) -> float:
    """Time of the `keep`-th fastest choice of widths; infinite if there are fewer [s]."""
    order = np.argsort(seconds, kind="stable")
    _, first = np.unique(codes[order], return_index=True)
    return float(seconds[order][np.sort(first)[keep - 1]]) if len(first) >= keep else np.inf


def memory_of(setting: TrainSetting, rates: TrainRates, points: TrainPoints) -> Floats:
    """Memory of the fullest device of each plan [byte].

    Parameters
    ----------
    setting : model and the settings that all plans share
    rates : memory of the device
    points : plans that keep all rules of shape
    """
    need = np.zeros(len(points))
    for chosen, plans in groups(setting, points):
        need[chosen] = train_memory(setting.model, rates, plans).total
    return need


def seconds_of(setting: TrainSetting, rates: TrainRates, points: TrainPoints) -> Floats:
    """Time of an optimiser step of each plan [s].

    Parameters
    ----------
    setting : model and the settings that all plans share
    rates : rates of the machine
    points : plans that keep all rules
    """
    seconds = np.zeros(len(points))
    for chosen, plans in groups(setting, points):
        seconds[chosen] = train_steps(setting.model, rates, plans).step_s
    return seconds


def groups(setting: TrainSetting, points: TrainPoints) -> Iterator[tuple[Bools, TrainPlans]]:
    """The plans in groups that share schedule, recompute and precision, as the cost functions take them.

    Parameters
    ----------
    setting : model and the settings that all plans share
    points : the plans
    """
    words = (points.schedule * len(RECOMPUTES) + points.recompute) * len(PRECISIONS) + points.precision
    for word in np.unique(words):
        chosen: Bools = words == word
        p = points[chosen]
        shard = setting.base.parallel.shard
        yield (
            chosen,
            TrainPlans(
                tp=p.tp, pp=p.pp, dp=p.dp, cp=p.cp, ep=p.ep, expert_tp=p.expert_tp, zero=p.zero,
                shard=p.dp * p.cp if shard is None else np.full(len(p), shard), micro_batch=p.micro_batch,
                global_batch=np.full(len(p), setting.base.global_batch), chunks=p.virtual,
                policy=p.policy(0, setting.base),
            ),
        )  # fmt: skip
