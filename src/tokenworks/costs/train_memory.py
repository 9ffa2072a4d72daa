"""Memory of a training run on one device: weights, gradients, optimiser states, activations, logits, buffers.

All sizes are per device [byte]. All functions accept arrays of plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Bools, FloatArray, ceil_div
from tokenworks.costs.kernels import ExpertLayer, Kernels, kernels
from tokenworks.costs.pipeline import SCHEDULES
from tokenworks.costs.train_comms import BUCKET
from tokenworks.costs.train_layers import CHUNK, FFN, expert_load, expert_rows, gemm_rows, is_up_projection, trains
from tokenworks.costs.train_plan import BYTES, TrainPlans, TrainRates, exchanges_often, exchanges_runs
from tokenworks.costs.train_weights import StageWeights, adapter_weights, stage_layers, stage_weights
from tokenworks.specs.model import Model, draft_parameters, parameters

STATES = {"adam": 2.0, "sgd": 1.0, "muon": 1.0, "adafactor": 0.0, "adam-8bit": 2.0}
"""Optimiser -> states of each weight [count]."""
LOGIT = 8.0
"""Memory of a logit: 16 bits from the head, 32 bits in the loss, and its gradient in 16 bits [byte]."""
LOG_SUM = 4.0
"""Memory of the log-sum of attention of one query and head, which its backward pass reads [byte]."""


@dataclass(frozen=True, slots=True)
class TrainMemory:
    """Memory of the fullest device, by part [byte].

    Parameters
    ----------
    stage : pipeline stage of the device, from 0
    weights, gradients, optimiser : weights, added-up gradients, and states with the copy of the weights
    activations : kept activations of all micro-batches in flight
    logits : logits and their gradient, on the last stage
    buffers : communication buffers
    reserve : context of the driver, and memory lost between tensors
    capacity : memory of the device
    """

    stage: FloatArray
    weights: FloatArray
    gradients: FloatArray
    optimiser: FloatArray
    activations: FloatArray
    logits: FloatArray
    buffers: FloatArray
    reserve: FloatArray
    capacity: float

    @property
    def total(self) -> FloatArray:
        """All parts together [byte]."""
        return (
            self.weights + self.gradients + self.optimiser + self.activations
            + self.logits + self.buffers + self.reserve
        )  # fmt: skip

    @property
    def fits(self) -> bool | Bools:
        """True if all parts fit into the device."""
        fitting: bool | Bools = self.total <= self.capacity
        return fitting


PARTS = ("stage", "weights", "gradients", "optimiser", "activations", "logits", "buffers", "reserve")


def train_memory(model: Model, rates: TrainRates, plans: TrainPlans) -> TrainMemory:
    """Memory of the fullest device of a run. The first, the second and the last stage are compared.

    Parameters
    ----------
    model : the model
    rates : memory of the device, and what driver and fragments take
    plans : widths, batches, precision, optimiser and recompute
    """
    pp = plans.pp * 1
    stages = [stage_memory(model, rates, plans, at) for at in (pp * 0, np.minimum(pp * 0 + 1, pp - 1), pp - 1)]
    totals = np.stack(np.broadcast_arrays(*(one.total for one in stages)))
    fullest = np.argmax(totals, axis=0)

    def taken(name: str) -> FloatArray:
        values = np.stack(np.broadcast_arrays(*(getattr(one, name) for one in stages), totals[0])[:-1])
        chosen: FloatArray = np.take_along_axis(values, fullest[None], axis=0)[0]
        return chosen

    return TrainMemory(**{name: taken(name) for name in PARTS}, capacity=rates.hbm_bytes)


def stage_memory(model: Model, rates: TrainRates, plans: TrainPlans, stage: FloatArray) -> TrainMemory:
    """Memory of one device of a pipeline stage.

    Parameters
    ----------
    model : the model
    rates : memory of the device, and what driver and fragments take
    plans : widths, batches, precision, optimiser and recompute
    stage : position of the stage, from 0 [count]

    References
    ----------
    [1] Rajbhandari et al., ZeRO, arXiv:1910.02054, section 5 (what each stage divides).
    [2] Korthikanti et al., arXiv:2205.05198, sections 4 and 5 (activations).
    """
    schedule = SCHEDULES[plans.policy.schedule.name]
    held = stage_weights(model, plans, stage)
    if schedule.paired:  # a device also holds the stage at the other end of the pipeline
        other = stage_weights(model, plans, plans.pp - 1 - stage)
        both = 1.0 * (plans.pp > 1)
        held = StageWeights(held.dense + both * other.dense, held.experts + both * other.experts)
    weights, gradients, optimiser = _states(model, held, plans, stage)
    flying = schedule.flying(plans.pp, plans.chunks, plans.micro_batches, stage)
    last = (stage == plans.pp - 1) | (schedule.paired & (stage == 0))
    activations = flying * _stage_activations(model, rates, plans, stage)
    tokens = plans.rank_tokens
    logits = last * tokens * model.vocab / plans.tp * LOGIT
    embedded = (stage == 0) * flying * tokens * model.hidden / plans.sliced * plans.recipe.element
    buffers = _buffers(model, plans)
    dpo = plans.policy.method.name == "dpo" and plans.policy.method.reference == "loaded"
    weights = weights + dpo * held.total * plans.recipe.element / _over(plans, plans.zero >= 3)[0]
    parts = weights + gradients + optimiser + activations + embedded + logits + buffers
    return TrainMemory(
        stage=stage, weights=weights, gradients=gradients, optimiser=optimiser,
        activations=activations + embedded, logits=logits, buffers=buffers,
        reserve=rates.context + rates.fragments * parts, capacity=rates.hbm_bytes,
    )  # fmt: skip


def _over(plans: TrainPlans, divided: bool | Bools) -> tuple[FloatArray, FloatArray]:
    """Ranks that divide dense weights and expert weights, where `divided` is true [count, count]."""
    copies = plans.tp * plans.cp * plans.dp / (plans.ep * plans.expert_tp)
    shard = np.where(divided, plans.shard, 1)
    return shard, np.minimum(shard, copies)


def _states(
    model: Model, held: StageWeights, plans: TrainPlans, stage: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weights, gradients and optimiser states of one stage, as ZeRO divides them [byte, byte, byte]."""
    policy, recipe = plans.policy, plans.recipe
    element = recipe.copies + (recipe.element if policy.precision.gather != "fp8" or not recipe.copies else 0.0)
    optimiser = policy.optimiser
    state = STATES[optimiser.name] * (1.0 if optimiser.name == "adam-8bit" else BYTES[optimiser.states])
    master = BYTES[optimiser.master] if optimiser.master and recipe.element == 2 else 0.0
    per_weight = (state + master) * (1 - optimiser.offload)
    gradient = BYTES[policy.precision.gradients]
    # The head has no quantised copies; with few layers a stage this matters little, so all weights count alike.
    if not trains("", plans):
        adapters = adapter_weights(model, plans, stage)
        dense, experts = _over(plans, plans.zero >= 3)
        frozen = recipe.element * (held.dense / dense + held.experts / experts)
        share = _over(plans, plans.zero >= 1)[0]
        return frozen + adapters * recipe.element, adapters * gradient, adapters * per_weight / share

    def divided(size: float, at: bool | Bools) -> FloatArray:
        dense, experts = _over(plans, at)
        return size * (held.dense / dense + held.experts / experts)

    # ZeRO 3 holds the whole weights of two layers beside its shards: the one that runs, and the next one.
    whole = 2 * held.total / np.maximum(stage_layers(model.layers, plans.pp, stage), 2)
    working = np.where(plans.zero >= 3, whole * recipe.element, 0.0)
    return (
        divided(element, plans.zero >= 3) + working,
        _gradients(held.total * gradient, divided(gradient, exchanges_often(plans) | exchanges_runs(plans)), plans),
        divided(per_weight, plans.zero >= 1),
    )


def _gradients(whole: FloatArray, kept: FloatArray, plans: TrainPlans) -> FloatArray:
    """Gradients of a device that keeps a part of them, and whole ones of two chunks where `exchanges_runs` is true."""
    chunks = np.where(exchanges_runs(plans), 2 / plans.chunks, 0.0)
    return np.minimum(kept + chunks * whole, whole)


def _buffers(model: Model, plans: TrainPlans) -> FloatArray:
    """Communication buffers: two buckets of gradients, two activations for each of tp and pp, dispatch and combine."""
    ranks = plans.dp * plans.cp
    size = plans.rank_tokens * model.hidden * plans.recipe.element
    buckets = 2 * BUCKET * BYTES[plans.policy.precision.reduce] * (ranks > 1) * (plans.zero > 0)
    tensor = 2 * size * (plans.tp > 1)
    stages = 2 * size / plans.sliced * (plans.pp > 1)
    routed = [block.experts for block in model.blocks if block.experts]
    copies = max((experts.topk for experts in routed), default=0)
    return buckets + tensor + stages + 2 * (plans.ep > 1) * copies * size / plans.tp


def _stage_activations(model: Model, rates: TrainRates, plans: TrainPlans, stage: FloatArray) -> FloatArray:
    """Activations that one micro-batch keeps on a stage, with recompute [byte]."""
    stack = kernels(model.blocks, model.kv_heads)
    layers = stage_layers(model.layers, plans.pp, stage)
    layer = kept_bytes(stack, model, rates, plans) / model.layers
    drafts: FloatArray = 0.0
    if plans.policy.draft_layers and model.draft:
        drafts = kept_bytes(kernels(model.draft, model.kv_heads), model, rates, plans) * (stage == plans.pp - 1)
    recompute = plans.policy.recompute
    # The activations of an offloaded layer are in the host, but for the two layers that are on their way.
    kept: FloatArray = layers - np.maximum(np.minimum(recompute.offload_layers, layers) - 2, 0)
    if recompute.name != "full":
        return kept * layer + drafts
    again = layers if recompute.layers is None else np.minimum(recompute.layers, layers)
    again = again * (recompute.last_stage | (stage < plans.pp - 1) | (plans.pp <= 1))
    border = plans.rank_tokens * model.hidden * plans.recipe.element / plans.sliced
    # One layer at a time is whole again in the backward pass. It counts once, not for each micro-batch in flight.
    flying = SCHEDULES[plans.policy.schedule.name].flying(plans.pp, plans.chunks, plans.micro_batches, stage)
    whole = layer * (again > 0) / np.maximum(flying, 1)
    kept_layers: FloatArray = again * border + (kept - np.minimum(again, kept)) * layer + whole + drafts
    return kept_layers


def kept_bytes(stack: Kernels, model: Model, rates: TrainRates, plans: TrainPlans) -> FloatArray:
    """Activations that one micro-batch keeps for the backward pass, all layers of a stack, without full recompute.

    A half layer keeps the input of its norm and, for the gradients of weights, the output of the norm. Attention keeps
    queries, keys and values, its output, and a log-sum per head. An FFN keeps gate and up, and their product. Experts
    keep their sorted input, too. Linear attention keeps one state per chunk. Modules of selective recompute keep none
    of what they compute again.

    Parameters
    ----------
    stack : kernels of the layers
    model : the model
    rates : rates of the machine, with the skew of training
    plans : widths, batches, precision and recompute

    Returns
    -------
    Size on one device [byte].

    References
    ----------
    [1] Korthikanti et al., arXiv:2205.05198, section 4.1, without the matrix of attention, which FlashAttention never
        stores, and with a gated FFN.
    """
    recompute, recipe = plans.policy.recompute, plans.recipe
    again = set(recompute.modules) if recompute.name == "selective" else set()
    gate = 1.0 if plans.policy.precision.kept == "fp8" else recipe.element
    halves = stack.reduces + stack.moe_reduces
    residual = plans.rank_tokens / plans.sliced * model.hidden
    total = residual * (halves + stack.mixed - stack.mixes) * recipe.element
    frozen = not trains("", plans)
    if "layernorm" not in again and not frozen:
        total = total + residual * halves * recipe.saved
    dropped = {"mlp": {"dense"}, "shared_experts": {"shared"}, "moe": {"shared"}}
    ffn = set(FFN).difference(*(dropped.get(module, set()) for module in again))
    for gemm, layers in stack.gemms:
        outputs, inputs = gemm.shape(plans.tp)
        rows = gemm_rows(gemm, plans)
        up = "mla_up_proj" in again and is_up_projection(gemm, model)
        if gemm.part in ffn:
            kept = rows * (inputs * recipe.saved * ("activation" not in again) if gemm.inner else outputs * gate)
            total = total + layers * kept
        elif gemm.part == "attention" and not up:
            total = total + layers * rows * (inputs * recipe.saved if gemm.inner else outputs * recipe.element)
    for scan, layers in stack.scans:
        total = total + layers * plans.rank_tokens * scan.query_heads / np.minimum(plans.tp, scan.query_heads) * LOG_SUM
    for state, layers in stack.states:
        chunks = ceil_div(plans.rank_tokens, CHUNK)
        total = total + layers * chunks * state.bytes / np.minimum(plans.tp, state.heads) * ("core_attn" not in again)
    if "moe" not in again:
        for layer, layers in stack.experts:
            rows = _mean_rows(layer, model, rates, plans)
            for gemm in layer.gemms:
                outputs, inputs = gemm.shape(plans.expert_tp)
                if gemm.inner:
                    total = total + layers * rows * inputs * recipe.saved * ("moe_act" not in again)
                else:
                    total = total + layers * rows * (outputs * gate + inputs * recipe.saved)
    return total


def _mean_rows(layer: ExpertLayer, model: Model, rates: TrainRates, plans: TrainPlans) -> FloatArray:
    """Rows of the experts of the fullest rank, mean over the layers of a stage [token].

    A device holds rows of all layers of its stage. Each layer has other popular experts, so the excess of the fullest
    rank over the mean is smaller by the root of the number of layers.
    """
    load = expert_load(layer, rates, plans)
    layers = np.maximum(model.layers / plans.pp, 1)
    rows: FloatArray = expert_rows(layer, rates, plans) * (1 + (load - 1) / np.sqrt(layers)) / load
    return rows


def checkpoint_bytes(model: Model, plans: TrainPlans) -> float:
    """Size of a checkpoint of the whole run: 16-bit weights, the copy of the weights, and the optimiser states [byte].

    Parameters
    ----------
    model : the model
    plans : precision and optimiser
    """
    optimiser = plans.policy.optimiser
    state = STATES[optimiser.name] * (1.0 if optimiser.name == "adam-8bit" else BYTES[optimiser.states])
    master = BYTES[optimiser.master] if optimiser.master and plans.recipe.element == 2 else 0.0
    count = parameters(model) + (draft_parameters(model) if plans.policy.draft_layers else 0)
    return count * (plans.recipe.element + state + master)
