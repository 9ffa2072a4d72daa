"""One optimiser step of a training run: its time by part, its FLOP, and the memory of the fullest device.

Compute is in `train_layers`, communication in `train_comms`, the pipeline in `pipeline`, memory in `train_memory`. This
module puts them together. All functions take one plan or arrays of plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray, ceil_div
from tokenworks.costs import attention
from tokenworks.costs.breakdown import COMPUTE, HBM
from tokenworks.costs.kernels import Kernels, kernels
from tokenworks.costs.moe import normal_max
from tokenworks.costs.pipeline import SCHEDULES
from tokenworks.costs.train_comms import Sharding, shard_exchange
from tokenworks.costs.train_lane import Busiest, Exchanged, MicroBatchCost, busiest, by_level, lane_of, recomputed_share
from tokenworks.costs.train_layers import CHUNK, token_context, trains
from tokenworks.costs.train_memory import STATES, TrainMemory, train_memory
from tokenworks.costs.train_plan import BYTES, TrainPlans, TrainRates, exchanges_often, exchanges_runs
from tokenworks.costs.train_weights import StageWeights, adapter_weights, stage_weights
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import number
from tokenworks.specs.machine import Assumption
from tokenworks.specs.model import Matrix, Model
from tokenworks.specs.training import Training

HALF_OPERATORS = 13
"""Operators of PyTorch in the forward pass of a half layer. The backward pass has twice as many [count]."""
EXPERT_OPERATORS = 30
"""Operators that routed experts add to a half layer: router, top-k, permutation, dispatch, combine; without those of
each expert [count]."""
UNFUSED_OPERATORS = 4
"""Operators that unfused attention adds to a layer: mask, softmax, dropout, two batched products [count]."""


@dataclass(frozen=True, slots=True)
class TrainStep:
    """The cost of one optimiser step. The fields are numbers for one plan, and arrays for many plans.

    Parameters
    ----------
    step_s : time of the step [s]
    compute_s : compute of the busiest stage: name of a part -> time [s]
    exposed_s : communication that no compute hides: (kind, level) -> time; kinds tp, cp, ep, pp and dp [s]
    hidden_s : communication that runs beside compute: (kind, level) -> time [s]
    bubble_s : time that the busiest stage waits for other stages [s]
    optimiser_s : time of the optimiser [s]
    host_s : time in which the device waits for the host [s]
    model_flop : FLOP that the model needs for the tokens of the step, without recompute, all devices [FLOP]
    flop : FLOP that all devices do, with recompute [FLOP]
    mfu : model_flop / (step_s x devices x 16-bit peak) [-]
    tok_s_per_device : tokens / (step_s x devices) [token/s]
    memory : memory of the fullest device
    power : mean power of one device; None: the device has no published TDP [W]
    joules : energy of all devices; None: the device has no published TDP [J]
    spread : 80 % of measured times lie in [step_s / spread, step_s x spread] [-]
    assumed : assumed numbers behind the step
    """

    step_s: FloatArray
    compute_s: Mapping[str, FloatArray]
    exposed_s: Mapping[tuple[str, str], FloatArray]
    hidden_s: Mapping[tuple[str, str], FloatArray]
    bubble_s: FloatArray
    optimiser_s: FloatArray
    host_s: FloatArray
    model_flop: FloatArray
    flop: FloatArray
    mfu: FloatArray
    tok_s_per_device: FloatArray
    memory: TrainMemory
    power: FloatArray | None
    joules: FloatArray | None
    spread: float
    assumed: tuple[Assumption, ...] = ()

    @property
    def bubble_share(self) -> FloatArray:
        """Idle time of the pipeline / time of the step [-]."""
        return self.bubble_s / self.step_s


def train_step(model: Model, rates: TrainRates, training: Training) -> TrainStep:
    """Cost of one optimiser step of one training deployment.

    Parameters
    ----------
    model : the model
    rates : rates of the machine, from `train_plan.train_rates`
    training : split, batch, precision and all other settings

    Raises
    ------
    SpecError : the device cannot multiply in the precision, or the deployment does not fit the model
    """
    check(model, training)
    return train_steps(model, rates, TrainPlans.of(training))


def train_steps(model: Model, rates: TrainRates, plans: TrainPlans) -> TrainStep:
    """Cost of one optimiser step of many plans that share their policies.

        t = m t_stage + bubble + exposed dp + optimiser + host
        t_stage = F + B + W + recompute + exposed tp, cp, ep, pp

    m are the micro-batches of a rank. t_stage is the time of one micro-batch on the busiest stage.

    Parameters
    ----------
    model : the model
    rates : rates of the machine
    plans : one plan, or arrays of plans

    Raises
    ------
    SpecError : the device cannot multiply in the precision, or the deployment does not fit the model
    """
    lane = lane_of(model, rates, plans)
    m = plans.micro_batches
    busy = busiest(lane, model, plans, lambda share, device: _host(model, lane, (share, device), rates, plans))
    schedule = SCHEDULES[plans.policy.schedule.name]
    exposed, hidden = _exchanges(lane, busy, rates, plans)
    hop = (lane.stage.forward + lane.stage.backward) / plans.chunks
    bubble = schedule.bubble(plans.pp, plans.chunks, lane.mean(plans)) + (plans.pp - 1) * hop
    host = m * busy.waits + rates.host_step
    data, beside = _data_parallel(model, rates, plans, busy)
    exposed, hidden = {**exposed, **data}, {**hidden, **beside}
    optimiser = _optimiser(model, rates, plans, busy.at)
    compute = _compute(lane, busy, plans)
    if rates.device_spread:
        compute["slowest device"] = _slowest(rates, plans, sum(compute.values(), 0.0) + bubble + optimiser)
    step = sum(compute.values(), 0.0) + sum(exposed.values(), 0.0) + bubble + optimiser + host
    needed = model_flop(model, plans)
    watts = None if rates.tdp is None else _watts(rates, rates.tdp, lane, plans, step)
    return TrainStep(
        step_s=step, compute_s=compute, exposed_s=exposed, hidden_s=hidden, bubble_s=bubble, optimiser_s=optimiser,
        host_s=host, model_flop=needed, flop=m * plans.dp * plans.cp * plans.tp * lane.flop(),
        mfu=needed / (step * plans.devices * rates.peak),
        tok_s_per_device=plans.global_batch * plans.policy.seq_len / (step * plans.devices),
        memory=train_memory(model, rates, plans), power=watts,
        joules=None if watts is None else watts * step * plans.devices, spread=rates.spread, assumed=rates.assumed,
    )  # fmt: skip


def check(model: Model, training: Training) -> None:
    """Check that a training deployment goes with a model.

    Parameters
    ----------
    model : the model
    training : the deployment

    Raises
    ------
    SpecError : more stages than layers, a tp that does not divide the heads, experts that the model does not have or
        that ep does not divide, draft layers that the model does not have
    """
    p, chunks = training.parallel, training.schedule.virtual_stages
    experts = max((block.experts.count for block in model.blocks if block.experts), default=0)

    def refuse(message: str, path: str, hint: str) -> None:
        raise SpecError(f"{message}; {model.name}", where=path, hint=hint)

    most = model.layers + 2  # embedding and head may be chunks of their own
    if p.pp > model.layers or p.pp * chunks > most:
        refuse(
            f"pp={p.pp} x {chunks} virtual stages are more than {model.layers} layers, embedding and head",
            "parallel.pp",
            f"write pp x virtual stages of at most {most}",
        )
    if model.heads % p.tp:
        refuse(f"tp={p.tp} does not divide {model.heads} query heads", "parallel.tp", "write a divisor of the heads")
    if p.ep > 1 and not experts:
        refuse(f"ep={p.ep}, but the model has no routed experts", "parallel.ep", "write ep=1")
    if experts and experts % p.ep:
        refuse(f"ep={p.ep} does not divide {experts} experts", "parallel.ep", "write a divisor of the experts")
    if training.draft_layers and not model.draft:
        refuse("the model has no draft layers", "draft_layers", "write draft_layers=false")


def _slowest(rates: TrainRates, plans: TrainPlans, busy: FloatArray) -> FloatArray:
    """Time that all devices wait for the slowest one [s]: t (exp(s z(n)) - 1).

    Devices of one type differ in speed at the power limit. All ranks of a run wait for each other in each step, so the
    slowest of n devices decides. z is the expected maximum of n normal variables.

    References
    ----------
    [1] Sinha et al., Not All GPUs Are Created Equal, SC 2022, arXiv:2208.11035.
    """
    slow: FloatArray = busy * np.expm1(rates.device_spread * normal_max(plans.devices))
    return slow


def _host(
    model: Model, lane: MicroBatchCost, stage: tuple[FloatArray, FloatArray], rates: TrainRates, plans: TrainPlans
) -> FloatArray:
    """Time in which the device of a stage waits for the host to launch the kernels of one micro-batch [s].

    The host runs ahead, so only launches that take longer than the device add time. Dropless experts stop it: their
    numbers of rows must be known first. So the launches of the experts of a layer are compared with their own kernels.
    Experts with a capacity have fixed shapes and do not stop it.
    """
    graphs = plans.policy.graphs
    share, device = stage  # layers of the stage / layers of the model, and its pass of a micro-batch
    if graphs == "full":
        return 0.0
    waits: FloatArray = 0.0
    apart: FloatArray = 0.0
    if "experts" in lane.layers and plans.policy.experts.capacity is None:
        blocks = [(block.count, block.experts.count) for block in model.blocks if block.experts]
        again = "moe" in plans.policy.recompute.modules or plans.policy.recompute.name == "full"
        launched = sum(count * ceil_div(experts, plans.ep) for count, experts in blocks) * rates.host_expert
        launched = launched * (1 + again / 3)
        own = sum(lane.layers[name].seconds for name in ("experts", "expert activation") if name in lane.layers)
        waits = np.maximum(launched - own, 0.0)
        apart = own
    if graphs == "none":
        rest = device - share * apart
        waits = waits + np.maximum(_operators(model, plans) * rates.host_op - rest / np.maximum(share, 1e-9), 0.0)
    return share * waits


def _operators(model: Model, plans: TrainPlans) -> FloatArray:
    """Operators of PyTorch that all layers run for one micro-batch, without the GEMMs of experts [count]."""
    stack = kernels(model.blocks, model.kv_heads)
    halves = stack.reduces + stack.moe_reduces
    operators = HALF_OPERATORS * halves + EXPERT_OPERATORS * sum(layers for _, layers in stack.experts)
    operators += UNFUSED_OPERATORS * stack.layers * (plans.policy.attention_kernel == "unfused")
    collectives = (1 + plans.policy.parallel.sequence) * halves * (plans.tp > 1)
    return (3.0 + recomputed_share(model, plans)) * (operators + collectives)


def _compute(lane: MicroBatchCost, busy: Busiest, plans: TrainPlans) -> dict[str, FloatArray]:
    """Compute of the busiest stage in one step, by part [s]."""
    m = plans.micro_batches
    parts: dict[str, FloatArray] = {}
    for share, passes_of in ((busy.share, lane.layers), (busy.first, lane.first), (busy.last, lane.last)):
        for name, passes in passes_of.items():
            seconds = m * share * passes.seconds
            if np.any(np.asarray(seconds) > 0):
                parts[name] = seconds
    if lane.reference:
        forward = sum((passes.forward.seconds for passes in lane.layers.values()), 0.0)
        ends = sum((busy.last * passes.forward.seconds for passes in lane.last.values()), 0.0)
        parts["reference"] = m * lane.reference * (busy.share * forward + ends)
    if np.any(np.asarray(lane.again) > 0):
        parts["recompute"] = m * busy.share * lane.again
    if np.any(np.asarray(lane.offload) > 0):
        parts["offload"] = m * busy.share * lane.offload
    return parts


def _exchanges(
    lane: MicroBatchCost, busy: Busiest, rates: TrainRates, plans: TrainPlans
) -> tuple[Exchanged, Exchanged]:
    """Communication of the busiest stage in one step, without data parallelism: exposed, and hidden [s, s]."""
    m = plans.micro_batches
    exposed: Exchanged = {}
    hidden: Exchanged = {}
    for talk in lane.talks:
        seconds = m * busy.share * (talk.forward * (1 + lane.reference) + talk.backward)
        if talk.exchange.kind == "tp":
            seconds = seconds + m * (busy.first + busy.last) * lane.ends
        exposed |= by_level(talk.exchange.kind, talk.exchange.span, seconds, rates)
        hidden |= by_level(talk.exchange.kind, talk.exchange.span, m * busy.share * talk.hidden, rates)
    sends = m * (lane.stage.forward + lane.stage.backward)
    beside = plans.policy.overlap.pp and plans.policy.schedule.name != "1f1b"
    kept = sends * (rates.pp_exposed if beside else 1.0)
    exposed |= by_level("pp", lane.stage.span, kept, rates)
    hidden |= by_level("pp", lane.stage.span, sends - kept, rates)
    return exposed, hidden


def _trained(model: Model, plans: TrainPlans, stage: FloatArray) -> StageWeights:
    """Weights of a stage that get gradients [count]."""
    if trains("", plans):
        return stage_weights(model, plans, stage)
    return StageWeights(adapter_weights(model, plans, stage), 0.0)


def _data_parallel(model: Model, rates: TrainRates, plans: TrainPlans, busy: Busiest) -> tuple[Exchanged, Exchanged]:
    """Exchange of gradients and weights between data-parallel ranks in one step: exposed, and hidden [s, s].

    ZeRO 0 and 1 exchange gradients once, beside the last backward pass, and gather weights once, beside the first
    forward pass. Where `exchanges_often` is true, gradients are exchanged in each micro-batch; where `exchanges_runs`
    is true, after each run of pp micro-batches, beside the backward passes of the next run. ZeRO 3 also gathers weights
    in both passes of each micro-batch. The last bucket of gradients and the first one of weights have nothing to hide
    behind.
    """
    held = _trained(model, plans, busy.at)
    copies = plans.tp * plans.cp * plans.dp / (plans.ep * plans.expert_tp)
    groups = [shard_exchange(held.dense, (plans.dp * plans.cp, plans.tp), rates, plans)]
    if np.any(np.asarray(held.experts) > 0):
        groups.append(shard_exchange(held.experts, (copies, plans.ep * plans.expert_tp), rates, plans))
    m = plans.micro_batches
    run = np.where(exchanges_runs(plans), np.minimum(plans.pp, m), 1)  # micro-batches beside an exchange
    scattered = np.where(exchanges_often(plans), m, np.where(exchanges_runs(plans), np.ceil(m / run), 1))
    gathered = np.where(plans.zero >= 3, 2 * m, 1)
    forward, backward = busy.passed.forward, busy.passed.backward + busy.passed.weights
    every = sum((group.gathers + group.scatters for group in groups), 0.0)
    exposed: Exchanged = {}
    hidden: Exchanged = {}
    for group in groups:
        share = (group.gathers + group.scatters) / np.maximum(every, 1e-30)
        whole = gathered * group.gathers + scattered * group.scatters
        # With ZeRO 3, the gathers of the backward pass share it with the exchange of gradients.
        beside = np.where(plans.zero >= 3, group.gathers + group.scatters, group.scatters)
        left = gathered_once(group, forward * share, rates, plans) * np.where(plans.zero >= 3, m, 1)
        left = left + scattered * _left(beside, run * backward * share, group.buckets, rates, plans)
        exposed = _added(exposed, by_level("dp", group.span, left, rates))
        hidden = _added(hidden, by_level("dp", group.span, whole - left, rates))
    return exposed, hidden


def gathered_once(group: Sharding, beside: FloatArray, rates: TrainRates, plans: TrainPlans) -> FloatArray:
    """What one gather of the weights adds to a forward pass [s].

    Parameters
    ----------
    group : data-parallel ranks
    beside : compute that can hide it [s]
    rates : rates of the machine
    plans : plans with their overlap
    """
    return _left(group.gathers, beside, group.buckets, rates, plans)


def _left(
    seconds: FloatArray, beside: FloatArray, buckets: FloatArray, rates: TrainRates, plans: TrainPlans
) -> FloatArray:
    """What an exchange in buckets adds to the compute beside it [s]."""
    if not plans.policy.overlap.dp:
        return seconds
    least = np.maximum(seconds * rates.dp_exposed, seconds / buckets)
    return np.maximum(least, seconds - beside)


def _added(one: Exchanged, other: Exchanged) -> Exchanged:
    return {key: one.get(key, 0.0) + other.get(key, 0.0) for key in {**one, **other}}


def _optimiser(model: Model, rates: TrainRates, plans: TrainPlans, stage: FloatArray) -> FloatArray:
    """Time of the optimiser: it moves bytes.

    Each device reads the whole gradient for its norm and clears it. For its share of the weights it reads the gradient,
    reads and writes states and copy, and writes the 16-bit weight. Offloaded states stay in the host: gradients and
    weights cross its link.
    """
    policy, held = plans.policy, _trained(model, plans, stage)
    optimiser, kept = policy.optimiser, BYTES[policy.precision.gradients]
    copies = plans.tp * plans.cp * plans.dp / (plans.ep * plans.expert_tp)
    divided = np.where(plans.zero > 0, plans.shard, 1)
    own = held.dense / divided + held.experts / np.minimum(divided, copies)
    state = STATES[optimiser.name] * (1.0 if optimiser.name == "adam-8bit" else BYTES[optimiser.states])
    master = BYTES[optimiser.master] if optimiser.master and plans.recipe.element == 2 else 0.0
    here = 1 - optimiser.offload
    whole = np.where(exchanges_often(plans) | exchanges_runs(plans), own, held.total)
    traffic = 2 * kept * whole + own * (here * (kept + 2 * (state + master)) + plans.recipe.element)
    seconds = traffic / (rates.rates.hbm * rates.elementwise)
    if optimiser.offload:
        if rates.host_link is None:
            raise SpecError(
                "the link between device and host is not published, which offload needs",
                where="optimiser.offload",
                hint="give it with --set machine.host.link=VALUE, or write offload=0",
            )
        seconds = seconds + optimiser.offload * own * (kept + plans.recipe.element) / rates.host_link
    return seconds


def _watts(rates: TrainRates, tdp: float, lane: MicroBatchCost, plans: TrainPlans, step: FloatArray) -> FloatArray:
    """Mean power of a device over a step, with the idle and memory shares of serving [W].

    P = TDP min(1, i + c U_c + m U_m),  see `power.power`
    """
    busy = plans.micro_batches / plans.pp / step
    compute, hbm = (np.minimum(busy * lane.roofs(name), 1.0) for name in (COMPUTE, HBM))
    shares = rates.rates.power
    drawn = number(shares.idle) + rates.compute_power * compute + number(shares.hbm) * hbm
    return tdp * np.minimum(1.0, drawn)


def model_flop(model: Model, plans: TrainPlans) -> FloatArray:
    """FLOP that the model needs for the tokens of a step, without recompute, all devices together.

        3 (2 N + a) per token: two FLOP for each of the N weights that multiply it, and a of causal attention

    The backward pass needs twice the forward pass. Frozen weights (LoRA) need no gradient, so they count 2 instead of
    3. A reference model (DPO) adds one forward pass. The embedding does not multiply.

    Parameters
    ----------
    model : the model
    plans : batches and method

    Returns
    -------
    Work [FLOP].

    References
    ----------
    [1] Kaplan et al., arXiv:2001.08361, section 2.1. [2] Narayanan et al., arXiv:2104.04473, section 5.1, with the
        causal half of attention.
    """
    policy = plans.policy
    weights = _multiplied(kernels(model.blocks, model.kv_heads)) + _outer(model.head or model.embedding)
    mixing = _mixing(kernels(model.blocks, model.kv_heads), plans)
    if policy.draft_layers:
        weights += _multiplied(kernels(model.draft, model.kv_heads)) + _outer(model.head or model.embedding)
        mixing = mixing + _mixing(kernels(model.draft, model.kv_heads), plans)
    reference = 1.0 if policy.method.name == "dpo" and policy.method.reference == "loaded" else 0.0
    passes = (3.0 if trains("", plans) else 2.0) + reference
    tokens = plans.global_batch * policy.seq_len
    return tokens * (passes * 2 * weights + (3.0 + reference) * mixing)


def _outer(matrix: Matrix) -> float:
    """Weights of the head [count]."""
    return float(matrix.inputs * matrix.outputs)


def _multiplied(stack: Kernels) -> float:
    """Weights of all layers that multiply a token [count]."""
    total = 0.0
    for gemm, layers in stack.gemms:
        outputs, inputs = gemm.shape(1)
        total += layers * float(outputs * inputs)
    for layer, layers in stack.experts:
        for gemm in layer.gemms:
            outputs, inputs = gemm.shape(1)
            total += layers * layer.experts.topk * float(outputs * inputs)
    return total


def _mixing(stack: Kernels, plans: TrainPlans) -> FloatArray:
    """FLOP of attention and linear attention of one token, forward pass, all layers [FLOP]."""
    total: FloatArray = 0.0
    tokens, context = plans.rank_tokens, token_context(plans)
    for scan, layers in stack.scans:
        total = total + layers * attention.prefill_work(scan, tokens, context, tp=1, kv_bytes=2.0)[0] / tokens
    for state, layers in stack.states:
        total = total + layers * attention.state_work(state, tokens / CHUNK, tokens, tp=1)[0] / tokens
    return total
