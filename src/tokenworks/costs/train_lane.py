"""One micro-batch of a training run: its passes through all layers, and through the busiest pipeline stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray, ceil_div
from tokenworks.costs.kernels import Kernels, kernels
from tokenworks.costs.pipeline import SCHEDULES, StagePass
from tokenworks.costs.train_comms import (
    Exchange,
    context_exchange,
    end_exchange,
    expert_exchange,
    stage_exchange,
    tensor_exchange,
)
from tokenworks.costs.train_layers import PartPasses, Passes, end_passes, layer_passes
from tokenworks.costs.train_memory import kept_bytes
from tokenworks.costs.train_plan import LEVELS, TrainPlans, TrainRates
from tokenworks.costs.train_weights import stage_layers
from tokenworks.errors import SpecError
from tokenworks.specs.model import Model

AGAIN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "core_attn": (("attention", "linear attention"), ("cp",)),
    "layernorm": (("norms",), ()),
    "activation": (("activation",), ()),
    "moe_act": (("expert activation",), ()),
    "mla_up_proj": (("up-projection",), ()),
    "mlp": (("dense ffn",), ()),
    "shared_experts": (("shared expert",), ()),
    "moe": (("experts", "permutation", "expert activation", "shared expert", "router"), ("ep",)),
}
"""Module of selective recompute -> parts, and kinds of communication, whose forward pass runs again."""

DUAL_PIPE_EXPOSED = 20 / (132 - 20)
"""What hidden dispatch and combine of DualPipe add to the compute beside them / their own time: 20 of the 132
multiprocessors of an H800 only communicate (DeepSeek-V3, arXiv:2412.19437, section 3.2.2), so the compute takes
132 / 112 of its time. Schedules of other frameworks have the fitted share `ep_exposed` [-]."""

Exchanged = dict[tuple[str, str], FloatArray]


@dataclass(frozen=True, slots=True)
class Talk:
    """One kind of communication of a micro-batch, all layers, as the overlap policy leaves it.

    Parameters
    ----------
    exchange : what is sent
    forward, backward : time that adds to each pass [s]
    hidden : time that runs beside compute [s]
    """

    exchange: Exchange
    forward: FloatArray
    backward: FloatArray
    hidden: FloatArray


@dataclass(frozen=True, slots=True)
class MicroBatchCost:
    """One micro-batch through the whole model.

    Parameters
    ----------
    layers : passes of all layers, by part
    first, last : parts that the first stage, and the last stage, run beside layers
    again : forward time that recompute runs once more, all layers, without communication [s]
    again_flop : FLOP of recompute [FLOP]
    offload : time that copies of activations to the host and back add, all layers [s]
    reference : forward passes of a reference model / forward passes of the trained model: 1 for DPO, else 0 [-]
    talks : tp, cp and ep communication of all layers
    ends : tensor-parallel communication of embedding, and of head and loss [s]
    stage : sends between stages
    """

    layers: PartPasses
    first: PartPasses
    last: PartPasses
    again: FloatArray
    again_flop: FloatArray
    offload: FloatArray
    reference: float
    talks: tuple[Talk, ...]
    ends: FloatArray
    stage: Exchange

    def forward(self) -> FloatArray:
        """Forward pass of all layers, with what communication adds [s]."""
        compute = sum((passes.forward.seconds for passes in self.layers.values()), 0.0)
        return (compute + sum((talk.forward for talk in self.talks), 0.0)) * (1 + self.reference)

    def backward(self) -> FloatArray:
        """Gradients of activations of all layers, with recompute and with what communication adds [s]."""
        compute = sum((passes.backward.seconds for passes in self.layers.values()), 0.0)
        return compute + self.again + self.offload + sum((talk.backward for talk in self.talks), 0.0)

    def weights(self) -> FloatArray:
        """Gradients of the weights of all layers [s]."""
        return sum((passes.weights.seconds for passes in self.layers.values()), 0.0)

    def end(self, parts: PartPasses) -> StagePass:
        """Pass of what the first or the last stage runs beside layers."""
        forward = sum((passes.forward.seconds for passes in parts.values()), 0.0) * (1 + self.reference)
        backward = sum((passes.backward.seconds for passes in parts.values()), 0.0)
        weights = sum((passes.weights.seconds for passes in parts.values()), 0.0)
        return StagePass(forward + self.ends / 2 * (1 + self.reference), backward + self.ends / 2, weights)

    def mean(self, plans: TrainPlans) -> StagePass:
        """Mean pass of a stage: all layers and both ends / pp."""
        first, last = self.end(self.first), self.end(self.last)
        return StagePass(
            (self.forward() + first.forward + last.forward) / plans.pp,
            (self.backward() + first.backward + last.backward) / plans.pp,
            (self.weights() + first.weights + last.weights) / plans.pp,
        )

    def flop(self) -> FloatArray:
        """FLOP of one device of each stage together, with recompute and reference model [FLOP]."""
        total = self.again_flop
        for parts in (self.layers, self.first, self.last):
            for passes in parts.values():
                total = total + passes.forward.flop * (1 + self.reference) + passes.backward.flop + passes.weights.flop
        return total

    def roofs(self, name: str) -> FloatArray:
        """Time on one roof of one device of each stage together [s].

        Parameters
        ----------
        name : "compute" or "hbm"
        """
        total: FloatArray = 0.0
        for parts in (self.layers, self.first, self.last):
            for passes in parts.values():
                for one, runs in ((passes.forward, 1 + self.reference), (passes.backward, 1), (passes.weights, 1)):
                    total = total + one.roofs.get(name, 0.0) * runs
        return total


@dataclass(frozen=True, slots=True)
class Busiest:
    """The busiest stage of a pipeline.

    Parameters
    ----------
    at : its position, from 0 [count]
    share : its layers / layers of the model [-]
    first, last : 1 if it is the first, or the last stage, else 0 [-]
    passed : pass of one micro-batch
    waits : time that the device waits for the host in one micro-batch [s]
    """

    at: FloatArray
    share: FloatArray
    first: FloatArray
    last: FloatArray
    passed: StagePass
    waits: FloatArray


HostWait = Callable[[FloatArray, FloatArray], FloatArray]
"""From the share of the layers on a stage and the time of its pass to the time that the device waits for the host."""


def busiest(lane: MicroBatchCost, model: Model, plans: TrainPlans, wait: HostWait) -> Busiest:
    """The stage whose pass of a micro-batch takes longest: the first, the second or the last one. Its time includes the
    time in which the device waits for the host.

    A schedule with paired stages (DualPipe) runs half of the micro-batches through the stage at the other end, so the
    first and the last stage share their load.

    Parameters
    ----------
    lane : one micro-batch through the model
    model : the model
    plans : pipeline stages, layout and schedule
    wait : time that a stage waits for the host [s]
    """
    pp = plans.pp * 1
    ends = lane.end(lane.first), lane.end(lane.last)
    layers = _layout(lane, ends, model, plans)
    passes = lane.forward(), lane.backward(), lane.weights()
    stages = []
    for at, placed in zip((pp * 0, np.minimum(pp * 0 + 1, pp - 1), pp - 1), layers, strict=True):
        first: FloatArray = 1.0 * (at == 0)
        last: FloatArray = 1.0 * (at == pp - 1)
        held = placed
        if SCHEDULES[plans.policy.schedule.name].paired:
            outer = np.maximum(first, last)
            first, last = np.where(pp > 1, outer / 2, first), np.where(pp > 1, outer / 2, last)
            held = np.where(outer > 0, (layers[0] + layers[2]) / 2, placed)
        share = held / model.layers
        named = ("forward", "backward", "weights")
        times = [
            share * through + first * getattr(ends[0], name) + last * getattr(ends[1], name)
            for through, name in zip(passes, named, strict=True)
        ]
        waits = wait(share, sum(times))
        stages.append((at, share, first, last, *times, waits, sum(times) + waits))
    slowest = np.argmax(np.stack(np.broadcast_arrays(*(stage[-1] for stage in stages))), axis=0)

    def taken(position: int) -> FloatArray:
        values = np.stack(np.broadcast_arrays(*(stage[position] for stage in stages), slowest)[:-1])
        chosen: FloatArray = np.take_along_axis(values, slowest[None], axis=0)[0]
        return chosen

    return Busiest(taken(0), taken(1), taken(2), taken(3), StagePass(taken(4), taken(5), taken(6)), taken(7))


def _layout(
    lane: MicroBatchCost, ends: tuple[StagePass, StagePass], model: Model, plans: TrainPlans
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Layers of the first stage, of a stage between, and of the last stage [count].

    A balanced layout takes whole layers from a stage whose ends take time, down to the mean load of the stages. The
    stages between have the other layers.
    """
    pp, layers = plans.pp * 1, model.layers
    even = [stage_layers(layers, pp, at) for at in (pp * 0, np.minimum(pp * 0 + 1, pp - 1), pp - 1)]
    balanced = np.asarray((plans.policy.schedule.layout == "balanced") | (layers % pp != 0)) & (pp > 2)
    if not np.any(balanced):
        return even[0], even[1], even[2]
    layer = (lane.forward() + lane.backward() + lane.weights()) / layers
    target = layers / pp + (ends[0].seconds + ends[1].seconds) / layer / pp
    outer = [np.clip(np.round(target - end.seconds / layer), 0, np.ceil(layers / pp)) for end in ends]
    inner = np.ceil((layers - outer[0] - outer[1]) / np.maximum(pp - 2, 1))
    return (
        np.where(balanced, outer[0], even[0]),
        np.where(balanced, inner, even[1]),
        np.where(balanced, outer[1], even[2]),
    )


def lane_of(model: Model, rates: TrainRates, plans: TrainPlans) -> MicroBatchCost:
    """One micro-batch through the whole model.

    Parameters
    ----------
    model : the model
    rates : rates of the machine
    plans : widths, batches and policies
    """
    stack = kernels(model.blocks, model.kv_heads)
    layers = layer_passes(stack, model, rates, plans)
    ends = end_passes(model, rates, plans)
    last = {name: ends[name] for name in ("head", "loss")}
    exchanges = [tensor_exchange(stack, model, rates, plans), context_exchange(stack, rates, plans)]
    exchanges.append(expert_exchange(stack, rates, plans))
    talks = tuple(_left(exchange, layers, rates, plans) for exchange in exchanges)
    if plans.policy.draft_layers:
        # A draft layer runs the head and the loss once more (DeepSeek-V3, arXiv:2412.19437, section 2.2).
        drafts = layer_passes(kernels(model.draft, model.kv_heads), model, rates, plans)
        last |= {f"draft {name}": passes for name, passes in (drafts | last).items()}
    again, again_flop = _recompute(layers, talks, model, plans)
    method = plans.policy.method
    return MicroBatchCost(
        layers=layers, first={"embedding": ends["embedding"]}, last=last, again=again, again_flop=again_flop,
        offload=_offload(stack, layers, model, rates, plans),
        reference=1.0 if method.name == "dpo" and method.reference == "loaded" else 0.0, talks=talks,
        ends=end_exchange(model, rates, plans), stage=stage_exchange(model, rates, plans),
    )  # fmt: skip


def _left(exchange: Exchange, layers: PartPasses, rates: TrainRates, plans: TrainPlans) -> Talk:
    """What the overlap policy leaves of one kind of communication.

    Tensor parallelism: in the backward pass, the last collective of a half layer runs beside the gradients of weights,
    also without overlap in slices. Context parallelism: the ring hides behind the attention of the parts that are there
    already, (cp - 1) / cp of it. Experts: dispatch and combine hide behind the compute of another micro-batch.
    """
    overlap = plans.policy.overlap
    forward, backward = exchange.forward, exchange.backward
    kept: tuple[FloatArray, FloatArray] = (forward, backward)
    if exchange.kind == "tp":
        if overlap.tp:
            kept = forward * rates.tp_exposed, backward * rates.tp_exposed
        else:
            weights = sum((passes.weights.seconds for passes in layers.values()), 0.0)
            kept = forward, backward - np.minimum(exchange.late, weights)
    elif exchange.kind == "cp" and overlap.cp and plans.policy.exchange == "ring":
        there = (plans.cp - 1) / plans.cp
        attention = layers.get("attention", Passes(layers["norms"].forward))
        kept = (
            np.maximum(forward - attention.forward.seconds * there, 0.0),
            np.maximum(backward - attention.backward.seconds * there, 0.0),
        )
    elif exchange.kind == "ep" and overlap.ep:
        compute = sum((passes.forward.seconds for passes in layers.values()), 0.0)
        back = sum((passes.backward.seconds + passes.weights.seconds for passes in layers.values()), 0.0)
        share = DUAL_PIPE_EXPOSED if plans.policy.schedule.name == "dualpipe" else rates.ep_exposed
        kept = (
            np.maximum(forward * share, forward - compute),
            np.maximum(backward * share, backward - back),
        )
    return Talk(exchange, *kept, forward + backward - kept[0] - kept[1] + exchange.hidden)


def _recompute(
    layers: PartPasses, talks: tuple[Talk, ...], model: Model, plans: TrainPlans
) -> tuple[FloatArray, FloatArray]:
    """Time and FLOP of the forward work that runs again, all layers [s, FLOP]."""
    recompute = plans.policy.recompute
    if recompute.name == "none":
        return 0.0, 0.0
    share: FloatArray = 1.0
    names: tuple[str, ...] = tuple(layers)
    kinds: tuple[str, ...] = ("tp", "cp", "ep")
    if recompute.name == "full":
        share = recomputed_share(model, plans)
    else:
        names = tuple({name for module in recompute.modules for name in AGAIN[module][0]} & set(layers))
        kinds = tuple(kind for module in recompute.modules for kind in AGAIN[module][1])
    again = sum((layers[name].forward.seconds for name in names), 0.0)
    again = again + sum((talk.forward for talk in talks if talk.exchange.kind in kinds), 0.0)
    return share * again, share * sum((layers[name].forward.flop for name in names), 0.0)


def recomputed_share(model: Model, plans: TrainPlans) -> FloatArray:
    """Layers whose whole forward pass runs again / layers of a stage [-].

    Parameters
    ----------
    model : the model
    plans : pipeline stages and recompute
    """
    recompute = plans.policy.recompute
    if recompute.name != "full":
        return 0.0
    held = ceil_div(model.layers, plans.pp)
    return 1.0 if recompute.layers is None else np.minimum(recompute.layers / held, 1.0)


def _offload(stack: Kernels, layers: PartPasses, model: Model, rates: TrainRates, plans: TrainPlans) -> FloatArray:
    """Time that copies of activations to the host and back add, all layers: what their layers do not hide [s]."""
    count = plans.policy.recompute.offload_layers
    if not count:
        return 0.0
    if rates.host_link is None:
        raise SpecError(
            "the link between device and host is not published, which offload_layers needs",
            where="recompute.offload_layers",
            hint="give it with --set machine.host.link=VALUE, or write offload_layers=0",
        )
    share = np.minimum(count / ceil_div(model.layers, plans.pp), 1.0)
    copied = kept_bytes(stack, model, rates, plans) / rates.host_link
    forward = sum((passes.forward.seconds for passes in layers.values()), 0.0)
    back = sum((passes.backward.seconds + passes.weights.seconds for passes in layers.values()), 0.0)
    return np.maximum(share * copied - forward, 0.0) + np.maximum(share * copied - back, 0.0)


def by_level(kind: str, span: FloatArray, seconds: FloatArray, rates: TrainRates) -> Exchanged:
    """Time of one kind of communication, by the level of the interconnect that carries it.

    Parameters
    ----------
    kind : kind of communication
    span : devices from the first to the last rank of its groups [count]
    seconds : time [s]
    rates : sizes of box and domain
    """
    at = rates.level(span)
    times = {(kind, name): seconds * (at == position) for position, name in enumerate(LEVELS)}
    return {key: value for key, value in times.items() if np.any(np.asarray(value) > 0)}
