"""Lower bounds of step time and memory of training plans, from what plans with the same widths inside a stage share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Bools, Floats, Ints
from tokenworks.costs.kernels import kernels
from tokenworks.costs.pipeline import SCHEDULES as SCHEDULE_LAWS
from tokenworks.costs.pipeline import StagePass
from tokenworks.costs.train_lane import lane_of
from tokenworks.costs.train_memory import STATES, kept_bytes
from tokenworks.costs.train_plan import BYTES, RECIPES, TrainPlans, TrainRates, exchanges_often, exchanges_runs
from tokenworks.costs.train_weights import stage_weights
from tokenworks.legal.training import PRECISIONS, SCHEDULES, TrainPoints, TrainSetting
from tokenworks.specs.training import PrecisionName, Training

SHAPE = ("tp", "cp", "micro_batch", "ep", "expert_tp", "recompute", "precision")
"""Fields that decide the pass of a micro-batch through the whole model, and its weights on one device."""


@dataclass(frozen=True, slots=True)
class TrainBounds:
    """Lower bounds of training plans.

    Parameters
    ----------
    seconds : a step of the plan takes at least this time [s]
    need : its fullest device needs at least this memory [byte]
    """

    seconds: Floats
    need: Floats


@dataclass(frozen=True, slots=True)
class _Shapes:
    """What one device without a pipeline does and holds, one element for each plan.

    Parameters
    ----------
    forward, backward, weights : passes of a micro-batch [s]
    dense, experts : dense weights, and weights of experts [count]
    kept : activations of a micro-batch [byte]
    """

    forward: Floats
    backward: Floats
    weights: Floats
    dense: Floats
    experts: Floats
    kept: Floats

    def at(self, places: Ints) -> _Shapes:
        """The shapes of several plans."""
        return _Shapes(*(getattr(self, field.name)[places] for field in dataclasses.fields(self)))


def bounds_of(setting: TrainSetting, rates: TrainRates, points: TrainPoints) -> TrainBounds:
    """Lower bounds of legal plans.

    The pass of a micro-batch through the whole model does not depend on pp, dp, ZeRO and schedule. The busiest stage
    takes at least the mean of all stages, so a step takes at least

        t >= m (F + B + W) / pp + bubble(F / pp, B / pp, W / pp)

    without exchanges of gradients and between stages, optimiser and host. In memory, the fullest stage holds at least
    the mean of weights and states, and the activations of the micro-batches that the second stage holds.

    Parameters
    ----------
    setting : model and the settings that all plans share
    rates : rates of the machine
    points : plans that keep all rules of widths and settings
    """
    paired = (points.schedule == SCHEDULES.index("dualpipe")).astype(np.int64)
    code = np.zeros(len(points), dtype=np.int64)
    for column in (*(getattr(points, name) for name in SHAPE), paired):
        values, place = np.unique(column, return_inverse=True)
        code = code * len(values) + place.reshape(-1)
    _, first, shape = np.unique(code, return_index=True, return_inverse=True)
    shapes = _shapes(setting, rates, points[first]).at(shape.reshape(-1))
    return TrainBounds(_seconds(setting, points, shapes), _need(setting, rates, points, shapes))


def _shapes(setting: TrainSetting, rates: TrainRates, points: TrainPoints) -> _Shapes:
    """One device without a pipeline, for one plan of each shape."""
    count = len(points)
    passes = np.zeros((3, count))
    dense, experts, kept = np.zeros(count), np.zeros(count), np.zeros(count)
    for chosen, plans in _without_pipeline(setting, points):
        mean = lane_of(setting.model, rates, plans).mean(plans)
        for row, part in enumerate((mean.forward, mean.backward, mean.weights)):
            passes[row, chosen] = part
        held = stage_weights(setting.model, plans, plans.pp * 0)
        dense[chosen], experts[chosen] = held.dense, held.experts
        if plans.policy.recompute.offload_layers:
            continue  # what stays on the device depends on the stage
        if plans.policy.recompute.name == "full":
            layers = setting.model.layers if plans.policy.recompute.layers is None else 0
            kept[chosen] = layers * plans.rank_tokens * setting.model.hidden * plans.recipe.element / plans.sliced
        else:
            stack = kernels(setting.model.blocks, setting.model.kv_heads)
            kept[chosen] = kept_bytes(stack, setting.model, rates, plans)
    return _Shapes(passes[0], passes[1], passes[2], dense, experts, kept)


def _without_pipeline(setting: TrainSetting, points: TrainPoints) -> list[tuple[Bools, TrainPlans]]:
    """The plans without a pipeline, with as few data-parallel ranks as their experts allow, by policy."""
    paired = points.schedule == SCHEDULES.index("dualpipe")
    group = np.stack([paired, points.recompute, points.precision])
    parts = []
    for word in np.unique(group, axis=1).T:
        chosen: Bools = np.all(group == word[:, None], axis=0)
        p = points[chosen]
        inside = p.tp * p.cp
        dp = np.lcm(inside, p.ep * p.expert_tp) // inside
        one = np.ones(len(p), dtype=np.int64)
        plans = TrainPlans(
            tp=p.tp, pp=one, dp=dp, cp=p.cp, ep=p.ep, expert_tp=p.expert_tp, zero=one, shard=dp * p.cp,
            micro_batch=p.micro_batch, global_batch=p.micro_batch * dp, chunks=one, policy=p.policy(0, setting.base),
        )  # fmt: skip
        parts.append((chosen, plans))
    return parts


def _seconds(setting: TrainSetting, points: TrainPoints, shapes: _Shapes) -> Floats:
    """Lower bound of the time of a step [s]."""
    micro = setting.base.global_batch // (points.micro_batch * points.dp)
    forward, backward, weights = (
        part / points.pp for part in (shapes.forward, shapes.backward, shapes.weights)
    )  # the mean stage
    seconds: Floats = micro * (forward + backward + weights)
    for schedule in np.unique(points.schedule):
        chosen = points.schedule == schedule
        one = StagePass(forward[chosen], backward[chosen], weights[chosen])
        bubble = SCHEDULE_LAWS[SCHEDULES[int(schedule)]].bubble(points.pp[chosen], points.virtual[chosen], one)
        seconds[chosen] += bubble
    return seconds


def _need(setting: TrainSetting, rates: TrainRates, points: TrainPoints, shapes: _Shapes) -> Floats:
    """Lower bound of the memory of the fullest device [byte]."""
    base = setting.base
    copies = points.tp * points.cp * points.dp / (points.ep * points.expert_tp)
    whole = points.dp * points.cp
    shard = whole if base.parallel.shard is None else np.full(len(points), base.parallel.shard)
    need, ranks = np.zeros(len(points)), _ranks(points, setting)
    if base.method.name != "lora":
        optimiser = base.optimiser
        state = STATES[optimiser.name] * (1.0 if optimiser.name == "adam-8bit" else BYTES[optimiser.states])
        master = 0.0 if optimiser.master is None else BYTES[optimiser.master]
        element = np.array([_element(name, base) for name in PRECISIONS])[points.precision]
        halved = np.array([RECIPES[name].element == 2 for name in PRECISIONS])[points.precision]
        for size, divides in (
            (element, points.zero >= 3),
            (BYTES[base.precision.gradients], exchanges_often(ranks) | exchanges_runs(ranks)),
            ((state + master * halved) * (1 - optimiser.offload), points.zero >= 1),
        ):
            over = np.where(divides, shard, 1)
            need += size * (shapes.dense / over + shapes.experts / np.minimum(over, copies)) / points.pp
        need *= np.where((points.schedule == SCHEDULES.index("dualpipe")) & (points.pp > 1), 2, 1)
    micro: Ints = base.global_batch // (points.micro_batch * points.dp)
    flying = np.where(points.pp > 1, np.minimum(points.pp - 1, micro), 1)
    need += flying * shapes.kept / points.pp
    return rates.context + (1 + rates.fragments) * need


def _element(precision: PrecisionName, base: Training) -> float:
    """Size of a weight with its quantised copies [byte]."""
    recipe = RECIPES[precision]
    return recipe.copies + (recipe.element if base.precision.gather != "fp8" or not recipe.copies else 0.0)


def _ranks(points: TrainPoints, setting: TrainSetting) -> TrainPlans:
    """The plans with the numbers that `exchanges_often` and `exchanges_runs` read."""
    one = np.ones(len(points), dtype=np.int64)
    return TrainPlans(
        tp=points.tp, pp=points.pp, dp=points.dp, cp=points.cp, ep=points.ep, expert_tp=points.expert_tp,
        zero=points.zero, shard=one, micro_batch=points.micro_batch, global_batch=one, chunks=points.virtual,
        policy=setting.base,
    )  # fmt: skip
