"""Communication of a training step, by kind: what each kind sends, over which level, and how long it takes alone.

The ranks of a group stand `stride` devices apart. So a scale-up domain of D devices holds D / stride of them, and a
group over several domains has one port for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs import collectives, moe
from tokenworks.costs.kernels import ExpertLayer, Kernels
from tokenworks.costs.products import ACTIVATION
from tokenworks.costs.train_layers import expert_load
from tokenworks.costs.train_plan import BYTES, TrainPlans, TrainRates
from tokenworks.costs.train_products import element_bytes
from tokenworks.specs.model import Model, Scan

BUCKET = 40e6
"""Weights whose gradients are exchanged together: Megatron-LM, distributed_data_parallel_config.py: bucket_size, 40
million elements [count]."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Communication of one kind for one micro-batch, all layers, on the busiest device.

    Parameters
    ----------
    kind : tp, cp, ep or pp
    span : devices from the first to the last rank of the group, 1 if nothing is sent [count]
    forward, backward : time of the forward pass and of the backward pass, without overlap [s]
    hidden : time that the framework always hides: inputs that are gathered again beside a GEMM [s]
    late : part of `backward` that only the gradients of weights do not wait for [s]
    """

    kind: str
    span: FloatArray
    forward: FloatArray
    backward: FloatArray
    hidden: FloatArray = 0.0
    late: FloatArray = 0.0


def gather(size: FloatArray, n: FloatArray, stride: FloatArray, rates: TrainRates) -> FloatArray:
    """Time of an all-gather or a reduce-scatter over ranks that stand `stride` devices apart [s].

    Parameters
    ----------
    size : the whole buffer [byte]
    n : ranks of the group [count]
    stride : distance of two neighbours of the group [count]
    rates : rates of the machine
    """
    r = rates.rates
    return collectives.all_gather(size, n, domain=_near(stride, rates), inner=rates.inner(n * stride), outer=r.outer)


def reduce(size: FloatArray, n: FloatArray, stride: FloatArray, rates: TrainRates) -> FloatArray:
    """Time of an all-reduce, see `gather` [s]."""
    r = rates.rates
    return collectives.all_reduce(size, n, domain=_near(stride, rates), inner=rates.inner(n * stride), outer=r.outer)


def _near(stride: FloatArray, rates: TrainRates) -> FloatArray:
    """Ranks of a group that one domain holds [count]."""
    held: FloatArray = np.maximum(rates.rates.domain // stride, 1)
    return held


def tensor_exchange(stack: Kernels, model: Model, rates: TrainRates, plans: TrainPlans) -> Exchange:
    """Tensor parallelism of all layers.

    With sequence parallelism, a half layer gathers its input and scatters the sum of its output, in both passes, and
    gathers the input once more for the gradients of weights. Recipes with narrow products gather quantised tensors
    (NVIDIA Transformer Engine), and add up sums in 16 bits. Without sequence parallelism, a half layer has one
    all-reduce in each pass. Routed experts get their tokens from dispatch.

    Parameters
    ----------
    stack : kernels of the layers
    model : the model
    rates : rates of the machine
    plans : widths and batches

    References
    ----------
    [1] Korthikanti et al., arXiv:2205.05198, section 4.2.2.
    """
    halves = stack.reduces + stack.moe_reduces - sum(layers for _, layers in stack.experts)
    size = plans.rank_tokens * model.hidden * plans.recipe.element
    if plans.policy.parallel.sequence:
        narrow = element_bytes(plans.recipe.compute, plans) / plans.recipe.element
        inputs, sums = halves * gather(narrow * size, plans.tp, 1, rates), halves * gather(size, plans.tp, 1, rates)
        return Exchange("tp", plans.tp, inputs + sums, inputs + sums, inputs, late=sums)
    whole = halves * reduce(size, plans.tp, 1, rates)
    return Exchange("tp", plans.tp, whole, whole, late=whole)


def end_exchange(model: Model, rates: TrainRates, plans: TrainPlans) -> FloatArray:
    """Tensor parallelism of embedding, or of head and loss, forward and backward: two gathers of the residual [s].

    Parameters
    ----------
    model : the model
    rates : rates of the machine
    plans : widths and batches
    """
    return 2 * gather(plans.rank_tokens * model.hidden * plans.recipe.element, plans.tp, 1, rates)


def context_exchange(stack: Kernels, rates: TrainRates, plans: TrainPlans) -> Exchange:
    """Context parallelism of all layers, by the policy `exchange`.

    ring: keys and values go around the ring; the backward pass sends their gradients, too. all-gather: one gather of
    keys and values, and one reduce-scatter of their gradients. a2a: heads instead of tokens, four exchanges in each
    pass.

    Parameters
    ----------
    stack : kernels of the layers
    rates : rates of the machine
    plans : widths and batches

    References
    ----------
    [1] Liu et al., Ring Attention, arXiv:2310.01889, section 3. [2] Llama 3, arXiv:2407.21783, section 3.3.2.
    [3] Jacobs et al., DeepSpeed Ulysses, arXiv:2309.14509, section 3.
    """
    r, cp = rates.rates, plans.cp
    near, inner, outer = _near(plans.tp, rates), rates.inner(plans.tp * cp), r.outer
    forward: FloatArray = 0.0
    backward: FloatArray = 0.0
    for scan, layers in stack.scans:
        own = plans.rank_tokens * pair_elements(scan, plans.tp) * ACTIVATION
        if plans.policy.exchange == "ring":
            hop = collectives.p2p(own, cp - 1, span=cp, domain=near, inner=inner, outer=outer)
            forward, backward = forward + layers * (cp - 1) * hop, backward + layers * 2 * (cp - 1) * hop
            continue
        if plans.policy.exchange == "all-gather":
            once = collectives.all_gather(own * cp, cp, domain=near, inner=inner, outer=outer)
        else:
            queries = plans.rank_tokens * scan.prefill_flop / 2 / plans.tp * ACTIVATION
            moved, away = (2 * own + queries) * (cp - 1) / cp, moe.crossing_share(cp, near)
            once = collectives.exchange(
                moved * (1 - away), moved * away, cp, domain=near, inner=inner, outer=outer
            )  # fmt: skip
        forward, backward = forward + layers * once, backward + layers * once
    return Exchange("cp", np.where(cp > 1, plans.tp * cp, 1), forward * (cp > 1), backward * (cp > 1))


def pair_elements(scan: Scan, tp: FloatArray) -> FloatArray:
    """Elements of the keys and values of a token on one device. Latents are expanded before they are sent [count].

    Parameters
    ----------
    scan : the pass over keys and values
    tp : tensor-parallel width [count]
    """
    if scan.latent:
        return scan.prefill_flop / 2 / np.minimum(tp, scan.query_heads)
    return scan.elements / np.minimum(tp, scan.heads)


def expert_exchange(stack: Kernels, rates: TrainRates, plans: TrainPlans) -> Exchange:
    """Dispatch and combine of all layers of routed experts. The backward pass runs both the other way.

    Parameters
    ----------
    stack : kernels of the layers
    rates : rates of the machine
    plans : widths, batches and routing
    """
    r, n = rates.rates, plans.ep * plans.expert_tp
    tokens = plans.rank_tokens / plans.tp
    sent, back = BYTES[plans.policy.precision.dispatch], plans.recipe.element
    forward: FloatArray = 0.0
    backward: FloatArray = 0.0
    for layer, layers in stack.experts:
        near, far = _copies(layer, rates, plans)
        load = expert_load(layer, rates, plans)
        for element, also in ((sent, False), (back, False), (back, True), (back, True)):
            size = tokens * layer.experts.hidden * element * load
            seconds = collectives.exchange(
                near * size, far * size, n, domain=r.domain, inner=rates.inner_moe(n), outer=r.outer_moe
            )
            forward = forward + layers * seconds * (not also)
            backward = backward + layers * seconds * also
    return Exchange("ep", n, forward, backward)


def _copies(layer: ExpertLayer, rates: TrainRates, plans: TrainPlans) -> tuple[FloatArray, FloatArray]:
    """Copies of a token that a device sends inside its domain, and to other domains [count, count]."""
    where = {"ep": plans.ep, "expert_tp": plans.expert_tp, "domain": rates.rates.domain}
    if plans.policy.experts.dispatcher == "deepep":
        return moe.forwarded_copies(layer.experts.topk, **where)
    n = plans.ep * plans.expert_tp
    copies, away = layer.experts.topk * plans.expert_tp, moe.crossing_share(n, rates.rates.domain)
    return copies * (1 - away - 1 / n), copies * away


def stage_exchange(model: Model, rates: TrainRates, plans: TrainPlans) -> Exchange:
    """Sends of a micro-batch between neighbouring stages: activations forward, gradients backward, once per chunk.

    Parameters
    ----------
    model : the model
    rates : rates of the machine
    plans : widths and batches
    """
    r, stride = rates.rates, plans.tp * plans.cp * plans.dp
    size = plans.rank_tokens * model.hidden * plans.recipe.element / plans.sliced
    hop = collectives.p2p(
        size, plans.pp - 1, span=stride * plans.pp, domain=r.domain, inner=rates.inner(stride * plans.pp),
        outer=r.outer,
    )  # fmt: skip
    return Exchange("pp", np.where(plans.pp > 1, stride * plans.pp, 1), plans.chunks * hop, plans.chunks * hop)


@dataclass(frozen=True, slots=True)
class Sharding:
    """Data-parallel communication of one device.

    Parameters
    ----------
    span : devices from the first to the last rank [count]
    gathers : time of one all-gather of the weights of the stage [s]
    scatters : time of one exchange of its gradients: reduce-scatter, or all-reduce without ZeRO [s]
    buckets : buckets of the exchange [count]
    """

    span: FloatArray
    gathers: FloatArray
    scatters: FloatArray
    buckets: FloatArray


def shard_exchange(
    weights: FloatArray, ranks: tuple[FloatArray, FloatArray], rates: TrainRates, plans: TrainPlans
) -> Sharding:
    """Data-parallel communication of the weights that a device holds.

    ZeRO 0 has one all-reduce of the gradients. From stage 1 on, gradients are reduced and scattered over `shard` ranks,
    and weights are gathered. Copies of the shards (HSDP) add up their gradients in an all-reduce.

    Parameters
    ----------
    weights : weights of the device that get gradients [count]
    ranks : data-parallel ranks of these weights, and distance of two neighbouring ranks [count, count]
    rates : rates of the machine
    plans : ZeRO stage and dtypes

    References
    ----------
    [1] Rajbhandari et al., ZeRO, arXiv:1910.02054, section 7. [2] Zhao et al., PyTorch FSDP, arXiv:2304.11277,
        section 3.2.2 (hybrid sharding).
    """
    precision = plans.policy.precision
    n, stride = ranks
    shard = np.minimum(plans.shard, n)
    buckets = np.maximum(np.ceil(weights / BUCKET), 1.0)
    gradient = weights / buckets * BYTES[precision.reduce]
    weight = weights / buckets * (BYTES[precision.gather] if plans.recipe.element == 2 else plans.recipe.element)
    whole = reduce(gradient, n, stride, rates)
    parts = gather(gradient, shard, stride, rates) + reduce(gradient / shard, n / shard, stride * shard, rates)
    scatters = buckets * np.where(plans.zero > 0, parts, whole)
    gathers = buckets * (plans.zero > 0) * gather(weight, shard, stride, rates)
    return Sharding(np.where(n > 1, n * stride, 1), gathers, scatters, buckets)
