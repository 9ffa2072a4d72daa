"""Compute of one micro-batch of a training run: forward pass, gradients of activations and of weights.

All parts are the kernels of a serving step (`parts`), with three products instead of one for each weight. A part is the
sum over all layers of the model, on one device of the tensor-parallel and expert-parallel groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs import moe, roofline
from tokenworks.costs.breakdown import HBM, LATENCY, Kernel, PartTime, plus, times
from tokenworks.costs.kernels import ExpertLayer, Gemm, Kernels, one
from tokenworks.costs.parts import PART_OF
from tokenworks.costs.products import ACTIVATION, NARROW, causal_part, roof
from tokenworks.costs.train_plan import BYTES, TrainPlans, TrainRates, compute_dtype
from tokenworks.costs.train_products import element_bytes, layer_product, quantised, weight_product
from tokenworks.specs.model import Model, Scan, State

ATTENTION_BACKWARD = 2.5
"""FLOP of the backward pass of attention / FLOP of its forward pass: five products instead of two, as keys and queries
are multiplied again (FlashAttention-2, arXiv:2307.08691, section 4.1) [-]."""
FULL_HEAD = 512.0
"""FLOP of a head of size 128 for each query and entry [FLOP]."""
EXPONENTIALS = 0.26
"""Share of the time of attention with heads of size 128 that does not depend on the size of the heads: exponentials.
FlashAttention-3, arXiv:2407.08608, figure 5: about 500, 650 and 750 TFLOP/s with heads of 64, 128 and 256 [-]."""
SCORE_PASSES, SCORE_PASSES_BACK, SCORE_KERNELS = 6.5, 9.5, 5
"""Traffic of unfused attention, in 16-bit matrices of scores, forward and backward, and kernels of a pass. Forward: the
first product writes, softmax reads and writes, dropout reads, writes and writes its mask of one byte, the second
product reads. Backward: the gradient of the second product writes one and reads one, dropout 2.5, softmax 3, the
gradients of queries and keys read one each [-, -, count]."""
CHUNK = 128
"""Tokens of a chunk of linear attention: its kernels keep one state for each chunk (Mamba-2, arXiv:2405.21060,
section 6: 64 to 256) [token]."""
STATE_PASSES, STATE_PASSES_BACK = (3.0, 7.0), (8.0, 25.0)
"""Traffic of linear attention, forward and backward: passes over the states of all chunks in 32 bits, and over the
channels of all tokens in 16 bits. The kernels of Mamba-2 (state-spaces/mamba, ssd_combined.py) run apart: short
convolution, state of a chunk, sum over chunks, output of a chunk. The backward pass runs the first three again, and has
a kernel for each of the gradients of states, channels, keys, queries, decay and gate, which read states or channels
anew. Gated delta networks have the same kernels [-, -]."""
STATE_BACKWARD = 3.0
"""FLOP of the backward pass of linear attention / FLOP of its forward pass: two products for each one, and the states
once more [-]."""
HALF_PASSES, HALF_PASSES_BACK = 5, 6
"""Traffic of norm and residual of a half layer, in widths of the residual stream: the norm reads and writes, the
residual sum reads two and writes one; the backward pass reads one more [-]."""
HALF_KERNELS = 2.5
"""Small kernels of a half layer in the forward pass, as in a serving step; the backward pass has as many [count]."""
PERMUTE_PASSES = {"alltoall": 6, "deepep": 4}
"""Dispatcher -> traffic of sorting tokens by expert and back, in widths of all chosen copies, in each pass: alltoall
sorts before and after it sends, deepep sorts while it receives [-]."""
UNFUSED_GATE = (16, 24)
"""Traffic of an activation function of experts in eager kernels, forward and backward, in inner widths: bias, two
limits, product, sigmoid, product, sum and product with the weight of the router each read and write one [-, -]."""
UNFUSED_BIAS = (14, 20)
"""Traffic of the output bias of experts in eager kernels, forward and backward, in 16-bit widths of the residual
stream: each expert adds its bias times the weight of the router. Products, sums and the joined tensor are in 32 bits
(NVIDIA/Megatron-LM, core/transformer/moe/experts.py, `_apply_bias`) [-, -]."""
LOSS_BYTES = 12
"""Traffic of the cross-entropy of one logit, forward and backward: it is read in 16 bits, and its exponential and its
gradient are written and read; assumed [byte]."""
EMBEDDING_BACK = 5.0
"""Traffic of the backward pass of the embedding / traffic of its forward pass: gradients add up in 32 bits [-]."""
FFN = ("dense", "shared")
NOTHING = Kernel(0.0, 0.0, 0.0, {LATENCY: 0.0})


@dataclass(frozen=True, slots=True)
class Passes:
    """The cost of a part in the three passes of a training step.

    Parameters
    ----------
    forward : forward pass
    backward : gradients of activations
    weights : gradients of weights
    """

    forward: PartTime
    backward: PartTime = NOTHING
    weights: PartTime = NOTHING

    @property
    def seconds(self) -> FloatArray:
        """Time of all three passes [s]."""
        return self.forward.seconds + self.backward.seconds + self.weights.seconds


PartPasses = dict[str, Passes]


def layer_passes(stack: Kernels, model: Model, rates: TrainRates, plans: TrainPlans) -> PartPasses:
    """Cost of all layers of a stack for one micro-batch, by part.

    Parameters
    ----------
    stack : kernels of the layers
    model : the model
    rates : rates of the machine
    plans : widths, batches and precision

    Returns
    -------
    Name of a part -> its cost.
    """
    costs: dict[str, list[tuple[Passes, int]]] = {}
    for gemm, layers in stack.gemms:
        name = "up-projection" if is_up_projection(gemm, model) else PART_OF[gemm.part]
        costs.setdefault(name, []).append((gemm_passes(gemm, rates, plans), layers))
    for scan, layers in stack.scans:
        costs.setdefault("attention", []).append((scan_passes(scan, rates, plans), layers))
    for state, layers in stack.states:
        passes = state_passes(state, _state_width(state, model), rates, plans)
        costs.setdefault("linear attention", []).append((passes, layers))
    for layer, layers in stack.experts:
        for name, passes in expert_passes(layer, rates, plans):
            costs.setdefault(name, []).append((passes, layers))
    if quantising := _quantisation(stack, rates, plans):
        costs["quantisation"] = [(quantising, 1)]
    costs["norms"] = [(_norms(stack, model, rates, plans), 1)]
    costs["activation"] = [(_activation(stack, rates, plans), 1)]
    if plans.policy.method.name == "lora":
        costs["adapters"] = [(_adapters(stack, rates, plans), 1)]
    return {name: _summed(items) for name, items in costs.items()}


def _summed(items: list[tuple[Passes, int]]) -> Passes:
    """The sum of several costs, each with its number of layers."""
    return Passes(
        plus(*(times(passes.forward, layers) for passes, layers in items)),
        plus(*(times(passes.backward, layers) for passes, layers in items)),
        plus(*(times(passes.weights, layers) for passes, layers in items)),
    )


def is_up_projection(gemm: Gemm, model: Model) -> bool:
    """True if the GEMM expands a latent of attention (MLA), so that its outputs are cheap to compute again."""
    return gemm.part == "attention" and not gemm.inner and bool(gemm.inputs < model.hidden and gemm.out + gemm.kv > 0)


def gemm_rows(gemm: Gemm, plans: TrainPlans) -> FloatArray:
    """Rows of a GEMM on one device. A matrix that every rank holds works on the tokens of its rank only [token]."""
    return plans.rank_tokens if gemm.inner or gemm.out or gemm.kv else plans.rank_tokens / plans.sliced


def trains(part: str, plans: TrainPlans) -> bool:
    """True if the weights of a part of a layer get gradients. With LoRA, only the adapters do.

    Parameters
    ----------
    part : part of a layer, see `specs.model.Part`
    plans : plans with their method
    """
    return part == "adapter" or plans.policy.method.name != "lora"


def gemm_passes(gemm: Gemm, rates: TrainRates, plans: TrainPlans) -> Passes:
    """The three products of a weight: y = x W, dx = dy W, dW = dy x.

    Parameters
    ----------
    gemm : shape of the GEMM; its storage format is not used, because a training run has formats of its own
    rates : rates of the machine
    plans : widths, batches and precision
    """
    dtype = _gemm_dtype(gemm, rates, plans)
    rows = gemm_rows(gemm, plans)
    return _three_products(gemm.shape(plans.tp), rows, dtype, rates, plans, frozen=not trains("", plans))


def _gemm_dtype(gemm: Gemm, rates: TrainRates, plans: TrainPlans) -> str:
    """The dtype in which a GEMM multiplies. Router, head and embedding multiply in 16 bits."""
    dtype = compute_dtype(plans, rates.rates)
    wide = gemm.part in ("router", "head", "embedding")
    return "bf16" if wide and dtype in NARROW else dtype


def _three_products(
    shape: tuple[FloatArray, FloatArray], rows: FloatArray, dtype: str, rates: TrainRates, plans: TrainPlans, *,
    frozen: bool,
) -> Passes:  # fmt: skip
    """The products of a weight of outputs x inputs. A frozen weight has no gradient of its own.

    Inputs of narrow products are quantised before, by kernels of their own: see `_quantisation`.
    """
    outputs, inputs = shape
    weights = NOTHING if frozen else weight_product(shape, rows, dtype, rates.rates, plans)
    return Passes(
        layer_product((outputs, inputs), rows, dtype, rates.rates, plans),
        layer_product((inputs, outputs), rows, dtype, rates.rates, plans),
        weights,
    )


def _quantisation(stack: Kernels, rates: TrainRates, plans: TrainPlans) -> Passes | None:
    """Quantisation of the inputs of all GEMMs, and of the gradients of their outputs; None for 16-bit products.

    The ranks of a tensor-parallel group quantise their own slices before they gather them. Fused experts quantise
    inside of their GEMMs.
    """
    if compute_dtype(plans, rates.rates) not in NARROW:
        return None
    parts: list[tuple[Passes, int]] = []
    for gemm, layers in stack.gemms:
        if _gemm_dtype(gemm, rates, plans) in NARROW:
            outputs, inputs = gemm.shape(plans.tp)
            rows = gemm_rows(gemm, plans)
            sliced = plans.sliced if gemm.inner or gemm.out or gemm.kv else 1
            x, dy = (rows, rows / sliced) if gemm.inner else (rows / sliced, rows)
            parts.append((Passes(quantised(x * inputs, rates, plans), quantised(dy * outputs, rates, plans)), layers))
    for layer, layers in stack.experts if not plans.policy.experts.fused else ():
        rows = expert_rows(layer, rates, plans)
        for gemm in layer.gemms:
            outputs, inputs = gemm.shape(plans.expert_tp)
            both = Passes(quantised(rows * inputs, rates, plans), quantised(rows * outputs, rates, plans))
            parts.append((both, layers))
    return _summed(parts)


def token_context(plans: TrainPlans) -> FloatArray:
    """Sum over the tokens of a micro-batch on one device of the context that each token sees: n (n + 1) / 2 of a
    document of n tokens. Context-parallel ranks share it evenly [token^2].

    Parameters
    ----------
    plans : batches, length of sequences and documents
    """
    policy = plans.policy
    length = min(policy.document or policy.seq_len, policy.seq_len)
    return plans.rank_tokens * (length + 1) / 2


def scan_passes(scan: Scan, rates: TrainRates, plans: TrainPlans) -> Passes:
    """Attention of one layer. The backward pass has 2.5 times the FLOP and traffic, at a rate of its own.

    A small head does fewer FLOP for each exponential of the softmax, so its time is longer: t (1 + s (512 / f - 1)),
    with f FLOP per head, query and entry, and s = `EXPONENTIALS`.

    Parameters
    ----------
    scan : the pass over keys and values
    rates : rates of the machine
    plans : widths, batches and kernel
    """
    r = rates.rates
    tokens, context = plans.rank_tokens, token_context(plans)
    small = 1 + EXPONENTIALS * (FULL_HEAD * scan.query_heads / scan.prefill_flop - 1)
    rate = r.prefill_flop / small * (rates.attention_fp8 if plans.policy.precision.attention == "fp8" else 1.0)
    if plans.policy.attention_kernel == "unfused":
        return _unfused(scan, rates, plans)

    def run(rate: float, times_work: float) -> PartTime:
        return causal_part(
            scan, r, tokens, context, tp=plans.tp, kv_bytes=2.0, latency=r.attention_start, flop_rate=rate,
            times_work=times_work,
        )  # fmt: skip

    return Passes(run(rate, 1.0), run(rate * rates.attention_backward, ATTENTION_BACKWARD))


def _unfused(scan: Scan, rates: TrainRates, plans: TrainPlans) -> Passes:
    """Attention whose scores go through memory. The causal half is not left out, and the backward pass has twice the
    products of the forward pass.
    """
    r = rates.rates
    scores = plans.rank_tokens * plans.policy.seq_len * scan.query_heads / np.minimum(plans.tp, scan.query_heads)
    work = scores * scan.prefill_flop / scan.query_heads

    def run(products: float, passes: float) -> Kernel:
        flop, traffic = products * work, scores * ACTIVATION * passes
        moved = traffic / (r.hbm * rates.elementwise)
        return roof(flop, traffic, flop / r.gemm["bf16"], moved, SCORE_KERNELS * r.kernel)

    return Passes(run(1.0, SCORE_PASSES), run(2.0, SCORE_PASSES_BACK))


def state_passes(state: State, width: float, rates: TrainRates, plans: TrainPlans) -> Passes:
    """Linear attention of one layer, over chunks of tokens. Its kernels move bytes: see `STATE_PASSES`.

    Parameters
    ----------
    state : the recurrent state
    width : channels of the layer: inputs of its output projection [count]
    rates : rates of the machine
    plans : widths and batches
    """
    r, tokens, share = rates.rates, plans.rank_tokens, np.minimum(plans.tp, state.heads)
    flop = tokens * state.flop / share
    states, channels = np.ceil(tokens / CHUNK) * state.bytes / share, tokens * width / share * ACTIVATION
    bandwidth = r.attention_hbm * rates.linear_attention

    def run(factor: float, passes: tuple[float, float]) -> PartTime:
        work, moved = flop * factor, passes[0] * states + passes[1] * channels
        return roof(work, moved, work / r.prefill_flop, moved / bandwidth, r.attention_start)

    return Passes(run(1.0, STATE_PASSES), run(STATE_BACKWARD, STATE_PASSES_BACK))


def _state_width(state: State, model: Model) -> float:
    """Channels of the layers with a state: inputs of their output projection [count]."""
    block = next(block for block in (*model.blocks, *model.draft) if block.state == state)
    return sum(float(matrix.inputs) for matrix in block.matrices if matrix.part == "attention" and matrix.split == "in")


def expert_rows(layer: ExpertLayer, rates: TrainRates, plans: TrainPlans) -> FloatArray:
    """Rows that the experts of the busiest rank get in one layer: its share of the choices, times its load.

    Each of the tp ranks routes its share of the tokens. With a capacity, experts take at most `capacity` times their
    mean, and all ranks work on padded batches of this size.

    Parameters
    ----------
    layer : routed experts of a layer
    rates : rates of the machine, with the skew of training
    plans : widths, batches and routing
    """
    mean = plans.rank_tokens / plans.tp * layer.experts.topk * plans.expert_tp
    capacity = plans.policy.experts.capacity
    return mean * (expert_load(layer, rates, plans) if capacity is None else capacity)


def expert_load(layer: ExpertLayer, rates: TrainRates, plans: TrainPlans) -> FloatArray:
    """Load of the busiest rank / mean load of a layer of experts; at most the capacity [-].

    Parameters
    ----------
    layer, rates, plans : as in `expert_rows`
    """
    routing = plans.policy.experts
    skew = rates.skew if routing.skew is None else routing.skew
    if skew == 0:
        return plans.ep * 0 + 1.0
    choices = plans.rank_tokens / plans.tp * layer.experts.topk * plans.expert_tp
    load = moe.hottest_load(choices, experts=layer.experts.count, redundant=0, ep=plans.ep, skew=skew)
    return load if routing.capacity is None else np.minimum(load, routing.capacity)


def expert_passes(layer: ExpertLayer, rates: TrainRates, plans: TrainPlans) -> Iterator[tuple[str, Passes]]:
    """Routed experts of one layer on the busiest rank: grouped GEMMs, activation function, and sorting of tokens.

    Parameters
    ----------
    layer : routed experts of a layer
    rates : rates of the machine
    plans : widths, batches, precision and routing

    Returns
    -------
    Pairs of a part and its cost.
    """
    r = rates.rates
    rows, local = expert_rows(layer, rates, plans), moe.local_experts(layer.experts.count, 0, plans.ep)
    dtype, fused = compute_dtype(plans, r), plans.policy.experts.fused
    element, result = element_bytes(dtype, plans), plans.recipe.element
    flop_rate = r.grouped[dtype] * (rates.fused_experts if fused else 1.0)
    kept = BYTES[plans.policy.precision.gradients]
    start = r.experts_start + local * r.expert
    forward: list[PartTime] = [Kernel(start, 0.0, 0.0, {LATENCY: start})]
    backward, weights = list(forward), list(forward)
    wide: FloatArray = 0.0
    inner: FloatArray = 0.0
    for gemm in layer.gemms:
        outputs, inputs = gemm.shape(plans.expert_tp)
        flop = roofline.gemm_flop(rows, outputs, inputs)
        matrices, gradients = local * outputs * inputs * element, 2 * local * outputs * inputs * kept
        for products, traffic in (
            (forward, matrices + rows * (inputs * element + outputs * result)),
            (backward, matrices + rows * (outputs * element + inputs * result)),
            (weights, gradients + rows * (outputs + inputs) * element),
        ):
            products.append(roof(flop, traffic, flop / flop_rate, traffic / r.experts_hbm, 0.0))
        wide, inner = (wide, inner + inputs) if gemm.inner else (wide + outputs, inner)
    yield "experts", Passes(plus(*forward), plus(*backward), plus(*weights) if trains("", plans) else NOTHING)
    if not fused:
        yield "expert activation", _expert_gate(rows, wide, inner, rates, plans)
        if plans.policy.experts.activation == "unfused":
            hidden = rows * layer.experts.hidden
            yield "expert bias", Passes(*(_moved(hidden * passes, passes / 2, rates, plans) for passes in UNFUSED_BIAS))
    passes = PERMUTE_PASSES[plans.policy.experts.dispatcher]
    sorted_ = _moved(rows * layer.experts.hidden * passes, 2, rates, plans)
    yield "permutation", Passes(sorted_, sorted_)


def _moved(elements: FloatArray, kernels: float, rates: TrainRates, plans: TrainPlans) -> Kernel:
    """Small kernels that read and write `elements` together."""
    traffic = elements * plans.recipe.element
    moving, latency = traffic / (rates.rates.hbm * rates.elementwise), kernels * rates.rates.kernel
    return Kernel(moving + latency, 0.0, traffic, {HBM: moving, LATENCY: latency})


def _gate(rows: FloatArray, wide: FloatArray, inner: FloatArray, rates: TrainRates, plans: TrainPlans) -> Passes:
    """Activation function: it reads gate and up (`wide`), and writes their product.

    The backward pass reads the gradient of the product, too, and writes the gradients of gate and up.
    """
    return Passes(
        _moved(rows * (wide + inner), 1, rates, plans),
        _moved(rows * (2 * wide + inner), 1, rates, plans),
    )


def _expert_gate(rows: FloatArray, wide: FloatArray, inner: FloatArray, rates: TrainRates, plans: TrainPlans) -> Passes:
    """Activation function of experts, in one kernel or in many."""
    if plans.policy.experts.activation == "fused":
        return _gate(rows, wide, inner, rates, plans)
    return Passes(*(_moved(rows * inner * passes, passes / 2, rates, plans) for passes in UNFUSED_GATE))


def _activation(stack: Kernels, rates: TrainRates, plans: TrainPlans) -> Passes:
    """Activation functions of dense FFN and shared experts, and rope of attention, all layers."""
    parts: list[tuple[Passes, int]] = []
    for gemm, layers in stack.gemms:
        outputs, inputs = gemm.shape(plans.tp)
        rows = gemm_rows(gemm, plans)
        if gemm.part in FFN:
            parts.append((_gate(rows, 0.0, inputs, rates, plans) if gemm.inner
                          else _gate(rows, outputs, 0.0, rates, plans), layers))  # fmt: skip
        elif gemm.part == "attention" and not gemm.inner:
            turned = _moved(2 * rows * outputs, 1, rates, plans)
            parts.append((Passes(turned, turned), layers))
    return _summed(parts) if parts else Passes(NOTHING)


def _norms(stack: Kernels, model: Model, rates: TrainRates, plans: TrainPlans) -> Passes:
    """Norms and residuals of all layers. Sequence parallelism divides them over the tp ranks."""
    halves = stack.reduces + stack.moe_reduces + (stack.mixed - stack.mixes)
    width = plans.rank_tokens / plans.sliced * model.hidden * halves
    kernels = halves * HALF_KERNELS
    return Passes(
        _moved(width * HALF_PASSES, kernels, rates, plans), _moved(width * HALF_PASSES_BACK, kernels, rates, plans)
    )


def _adapters(stack: Kernels, rates: TrainRates, plans: TrainPlans) -> Passes:
    """Adapters of LoRA, all layers: x A and (x A) B beside each chosen weight, in 16 bits (arXiv:2106.09685, eq. 3)."""
    method = plans.policy.method
    parts = []
    for gemm, layers in stack.gemms:
        if gemm.part in method.targets:
            outputs, inputs = gemm.shape(plans.tp)
            rows = gemm_rows(gemm, plans)
            shapes = ((method.rank, inputs), (outputs, method.rank))
            parts += [(_three_products(shape, rows, "bf16", rates, plans, frozen=False), layers) for shape in shapes]
    return _summed(parts) if parts else Passes(NOTHING)


def end_passes(model: Model, rates: TrainRates, plans: TrainPlans) -> PartPasses:
    """Cost of embedding (first stage), and of head and loss (last stage), for one micro-batch.

    Parameters
    ----------
    model : the model
    rates : rates of the machine
    plans : widths, batches and precision

    Returns
    -------
    Parts `embedding`, `head` and `loss`.
    """
    tokens = plans.rank_tokens
    looked = _moved(2 * tokens * model.hidden / plans.sliced, 1, rates, plans)
    logits = tokens * model.vocab / plans.tp * LOSS_BYTES / plans.recipe.element
    loss = _moved(logits / 2, 2, rates, plans)
    return {
        "embedding": Passes(looked, times(looked, EMBEDDING_BACK if trains("", plans) else 0.0)),
        "head": gemm_passes(one(model.head or model.embedding), rates, plans),
        "loss": Passes(loss, loss),
    }
