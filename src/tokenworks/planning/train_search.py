"""The search for training plans: legal plans, those that fit, their step times, and the Pareto front of time and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tokenworks import pareto
from tokenworks.arrays import Bools, Floats, Ints
from tokenworks.costs.train import train_steps
from tokenworks.costs.train_memory import train_memory
from tokenworks.costs.train_plan import TrainPlans, TrainRates
from tokenworks.legal.rules import judge
from tokenworks.legal.training import TRAIN_MEMORY, TRAIN_SHAPE, TrainPoints, TrainProposal, TrainSetting
from tokenworks.planning.train_space import Fixed, train_points

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TrainSearch:
    """The result of a search for training plans.

    Parameters
    ----------
    setting : model, machine, batch and sequence
    points : plans that fit, fastest first
    seconds : time of an optimiser step of each plan [s]
    need : memory of the fullest device of each plan [byte]
    front : places of the plans that no other plan beats in time and memory, fastest first
    considered, legal : plans before any rule; plans that keep all rules of shape [count]
    timed : plans whose time was computed; the others could not be on the front [count]
    broken : rule -> plans for which it is the first broken rule [count]
    """

    setting: TrainSetting
    points: TrainPoints
    seconds: Floats
    need: Floats
    front: Ints
    considered: int
    legal: int
    timed: int
    broken: Mapping[str, int]


def search_training(
    setting: TrainSetting, rates: TrainRates, fixed: Fixed | None = None, say: Say | None = None
) -> TrainSearch:
    """Search all training plans of a setting.

    Parameters
    ----------
    setting : model, machine, batch and sequence
    rates : rates of the machine
    fixed : what the user fixes; None: the search decides everything
    say : told in words what happens next

    Returns
    -------
    The plans that fit; there may be none.
    """
    tell = say or (lambda _: None)
    everything = train_points(setting, fixed or Fixed())
    tell(f"{len(everything):,} training plans")
    legal, broken = judge(TrainProposal(everything, setting), TRAIN_SHAPE)
    points = everything[legal]
    tell(f"{len(points):,} legal training plans")
    need = memory_of(setting, rates, points)
    fits, no_room = judge(TrainProposal(points, setting, need), TRAIN_MEMORY)
    kept = points[fits]
    tell(f"{len(kept):,} training plans fit")
    seconds = seconds_of(setting, rates, kept)
    order = np.argsort(seconds, kind="stable")
    kept, seconds, need = kept[order], seconds[order], need[fits][order]
    front = pareto.front(-seconds, -need) if len(kept) else np.zeros(0, dtype=np.int64)
    return TrainSearch(
        setting, kept, seconds, need, front, len(everything), len(points), len(kept), {**broken, **no_room}
    )


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
    words = np.stack([points.schedule, points.recompute, points.precision])
    for word in np.unique(words, axis=1).T:
        chosen: Bools = np.all(words == word[:, None], axis=0)
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
