"""One iteration of an engine on one instance: every part's time from a few sums over the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tokenworks.costs import attention, collectives, moe, roofline
from tokenworks.costs.arrays import FloatArray, ceil_div
from tokenworks.costs.breakdown import COMPUTE, HBM, HOST, LATENCY, OUT, UP, Breakdown, PartTime
from tokenworks.costs.kernels import ExpertLayer, Gemm, Kernels, kernels, one
from tokenworks.costs.rates import Rates
from tokenworks.costs.split import Split
from tokenworks.errors import SpecError
from tokenworks.specs.calibration import number
from tokenworks.specs.engine import Engine
from tokenworks.specs.model import Matrix, Model

ACTIVATION = 2.0  # bf16 [byte/element]
# Small kernels of half a layer (attention or FFN): norm with residual; rope or quantisation; cache write or activation.
HALF_KERNELS = 3
# What they read and write, in widths of the residual stream: the norm 4 (two in, two out), the others about 2.
HALF_PASSES = 6
MOE_KERNELS = 3  # top-k, sort of tokens by expert, weighted sum

Parts = dict[str, PartTime]


@dataclass(frozen=True, slots=True)
class Load:
    """The batch of one iteration, per instance, over all dp ranks; numbers or arrays.

    decode : sequences that decode; context : sum of their contexts [token]
    prefill : prefill tokens; prefill_context : sum over them of the context that each one sees [token^2]
    """

    decode: FloatArray = 0.0
    context: FloatArray = 0.0
    prefill: FloatArray = 0.0
    prefill_context: FloatArray = 0.0

    def scaled(self, share: float) -> Load:
        """A part of the batch."""
        return Load(self.decode * share, self.context * share, self.prefill * share, self.prefill_context * share)


def step(
    model: Model,
    rates: Rates,
    split: Split,
    load: Load,
    *,
    engine: Engine,
    overlap: str = "none",
) -> Breakdown:
    """Time of one pass of the instance's batch [s], and where it goes.

    Every dp rank takes an equal share, but not less than one sequence. With pp > 1 the batch runs as pp microbatches;
    `seconds` is one microbatch through all stages, so that the whole batch completes a step every `seconds`. Parts are
    sums over all layers on the most loaded device.

    Parameters
    ----------
    split, load : numbers or arrays that broadcast together
    overlap : a name in `OVERLAPS`
    """
    if model.layers and np.any(np.asarray(split.draft_tokens) > 0) and not model.draft:
        raise SpecError(f"{model.name} has no draft layers", hint="plan it without draft tokens")
    return OVERLAPS[overlap](
        lambda part: _parts(model, rates, split, load.scaled(part)), _host(model, split, load, engine)
    )


# ── overlap ───────────────────────────────────────────────────────────────────────────────────────────────────────

Run = Callable[[float], Parts]
Hosted = tuple[FloatArray, bool]
COMMUNICATION = ("all-reduce", "dispatch", "combine")


def no_overlap(run: Run, host: Hosted) -> Breakdown:
    """One part after the other: t = sum of the parts, and the host where it shows."""
    parts = run(1.0)
    return _finish(parts, _total(parts), host)


def two_batch(run: Run, host: Hosted) -> Breakdown:
    """Two half batches; one communicates while the other computes: t = 2 max(compute, communication) of a half.

    Each half reads all weights and pays every latency, so it does not pay for small batches.

    References
    ----------
    [1] DeepSeek-V3, arXiv:2412.19437, section 3.4; SGLang's two-batch overlap.
    """
    parts = {
        name: PartTime(2 * p.seconds, 2 * p.flop, 2 * p.bytes, {roof: 2 * t for roof, t in p.roofs.items()})
        for name, p in run(0.5).items()
    }
    talking = _total({name: part for name, part in parts.items() if name in COMMUNICATION})
    return _finish(parts, np.maximum(talking, _total(parts) - talking), host)


OVERLAPS: dict[str, Callable[[Run, Hosted], Breakdown]] = {"none": no_overlap, "two-batch": two_batch}


def _total(parts: Mapping[str, PartTime]) -> FloatArray:
    return sum((part.seconds for part in parts.values()), 0.0)


def _finish(parts: Parts, device: FloatArray, host: Hosted) -> Breakdown:
    """Add the host: all of its time, or what is longer than the device's where it prepares the next step meanwhile."""
    busy, hidden = host
    shown = np.maximum(busy - device, 0.0) if hidden else busy
    parts["host"] = PartTime(shown, 0.0, 0.0, {HOST: shown})
    return Breakdown(parts, device + shown)


def _host(model: Model, split: Split, load: Load, engine: Engine) -> Hosted:
    """CPU time of a step [s]: a base, the sequences of a rank, and launches where the step is no captured graph."""
    sequences = load.decode / split.dp
    tokens = (load.decode * (1 + split.draft_tokens) + load.prefill) / (split.dp * split.pp)
    eager = tokens > number(engine.graph_tokens)
    busy = number(engine.host_step) + sequences * number(engine.host_sequence)
    return busy + eager * model.layers * number(engine.host_layer), engine.host == "hidden"


# ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one rank of a microbatch works on; `routed` are the tokens of all ranks, for the experts."""

    sequences: FloatArray
    context: FloatArray
    queries: FloatArray
    prefill: FloatArray
    prefill_context: FloatArray
    tokens: FloatArray
    routed: FloatArray


def _batch(load: Load, split: Split, queries: FloatArray, passes: FloatArray) -> _Batch:
    """The share of a rank: 1 / (dp pp), but whole sequences. Prefill is spread over `passes`."""
    ranks = split.dp * split.pp
    alone = 1 / np.maximum(load.decode, 1.0)
    share = np.maximum(1 / ranks, alone)
    prefill = load.prefill / (ranks * passes)
    sequences = load.decode * share
    routed = load.decode * np.maximum(1 / split.pp, alone) * queries + load.prefill / (split.pp * passes)
    return _Batch(
        sequences,
        load.context * share,
        queries,
        prefill,
        load.prefill_context / (ranks * passes),
        sequences * queries + prefill,
        routed,
    )


def _parts(model: Model, rates: Rates, split: Split, load: Load) -> Parts:
    main = kernels(model.blocks, model.kv_heads)
    batch = _batch(load, split, 1 + split.draft_tokens, 1)
    stretch = ceil_div(main.layers, split.pp) * split.pp / main.layers  # all stages take as long as the fullest
    parts = {name: _times(part, stretch) for name, part in _stack(main, model, rates, split, batch).items()}
    rows = batch.sequences * batch.queries + np.minimum(batch.prefill, 1.0)
    parts["embedding"] = _embedding(model, rates, batch.tokens)
    parts["head"] = _head(model, rates, split, rows)
    gathered = rows * model.vocab * ACTIVATION
    parts["all-reduce"] = _plus(
        parts["all-reduce"],
        _talk(_reduce(rates, batch.tokens * model.hidden * ACTIVATION, split.tp), 0.0, split.tp, rates.domain),
        _talk(
            collectives.all_gather(gathered, split.tp, domain=rates.domain, inner=rates.inner, outer=rates.outer),
            gathered, split.tp, rates.domain,
        ),
    )  # fmt: skip
    parts["pipeline"] = _pipeline(model, rates, split, batch.tokens)
    if model.draft and np.any(np.asarray(split.draft_tokens) > 0):
        parts["draft"] = _draft(model, rates, split, load)
    return parts


def _stack(stack: Kernels, model: Model, rates: Rates, split: Split, batch: _Batch) -> Parts:
    """All layers of a stack, without embedding and head."""
    names = {"attention": "attention gemm", "latent": "attention gemm", "dense": "dense ffn", "shared": "shared expert",
             "router": "router", "draft": "draft projection"}  # fmt: skip
    parts: Parts = {}
    for gemm, layers in stack.gemms:
        name = names[gemm.part]
        made = _times(_gemm(gemm, rates, split, batch.tokens), layers)
        parts[name] = _plus(parts[name], made) if name in parts else made
    parts["attention"] = _attention(stack, rates, split, batch)
    if stack.states:
        parts["linear attention"] = _linear_attention(stack, rates, split, batch)
    parts["norms"] = _norms(stack, model, rates, batch.tokens)
    reduces: FloatArray = stack.reduces
    if stack.experts:
        parts |= _experts(stack, rates, split, batch)
        # Between dp ranks the sum over experts travels in combine; the tp ranks then gather what each of them combined.
        between = split.dp > 1
        layers = sum(count for _, count in stack.experts)
        reduces = reduces + stack.moe_reduces - between * layers
    size = batch.tokens * model.hidden * ACTIVATION
    parts["all-reduce"] = _talk(reduces * _reduce(rates, size, split.tp), reduces * size, split.tp, rates.domain)
    return parts


def _gemm(gemm: Gemm, rates: Rates, split: Split, tokens: FloatArray) -> PartTime:
    outputs, inputs = gemm.shape(split.tp)
    dtype, _ = roofline.compute_dtype(gemm.form, rates.peak)
    curve = rates.gemm[dtype]
    compute = roofline.gemm_compute_time(tokens, outputs, inputs, rate=curve.rate, half=curve.half)
    traffic = roofline.gemm_bytes(tokens, outputs, inputs, weight=gemm.form.bytes, activation=ACTIVATION)
    flop = roofline.gemm_flop(tokens, outputs, inputs)
    return _roof(flop, traffic, compute, traffic / rates.hbm, rates.kernel)


def _attention(stack: Kernels, rates: Rates, split: Split, batch: _Batch) -> PartTime:
    """Decode and prefill attention are two kernels; each runs where there is something to do."""
    parts = []
    for scan, layers in stack.scans:
        flop, traffic = attention.decode_work(
            scan, batch.sequences, batch.context, queries=batch.queries, tp=split.tp, kv_bytes=split.kv_bytes
        )
        latency = rates.kernel * (batch.sequences > 0)
        decode = _roof(flop, traffic, flop / rates.decode_flop, traffic / rates.attention_hbm, latency)
        flop, traffic = attention.prefill_work(
            scan, batch.prefill, batch.prefill_context, tp=split.tp, kv_bytes=split.kv_bytes
        )
        latency = rates.kernel * (batch.prefill > 0)
        prefill = _roof(flop, traffic, flop / rates.prefill_flop, traffic / rates.attention_hbm, latency)
        parts.append(_times(_plus(decode, prefill), layers))
    return _plus(*parts) if parts else PartTime(0.0, 0.0, 0.0, {COMPUTE: 0.0})


def _linear_attention(stack: Kernels, rates: Rates, split: Split, batch: _Batch) -> PartTime:
    parts = []
    for state, layers in stack.states:
        touched = batch.sequences + np.minimum(batch.prefill, 1.0)
        flop, traffic = attention.state_work(state, touched, batch.tokens, tp=split.tp)
        made = _roof(flop, traffic, flop / rates.prefill_flop, traffic / rates.attention_hbm, rates.kernel)
        parts.append(_times(made, layers))
    return _plus(*parts)


def _norms(stack: Kernels, model: Model, rates: Rates, tokens: FloatArray) -> PartTime:
    halves = stack.reduces + stack.moe_reduces
    extra = sum(count for _, count in stack.experts) * MOE_KERNELS
    traffic = tokens * model.hidden * ACTIVATION * HALF_PASSES
    streamed = halves * traffic / rates.hbm
    latency = (halves * HALF_KERNELS + extra) * rates.kernel
    return PartTime(streamed + latency, 0.0, halves * traffic, {HBM: streamed, LATENCY: latency})


def _experts(stack: Kernels, rates: Rates, split: Split, batch: _Batch) -> Parts:
    """Routed experts of the hottest rank; dispatch and combine where tokens live on different dp ranks."""
    work, out, back = [], [], []
    for layer, layers in stack.experts:
        experts = layer.experts
        local = moe.local_experts(experts.count, split.redundant, split.ep)
        choices = batch.routed * experts.topk / split.ep
        hot = moe.hottest_load(choices, experts=experts.count, redundant=split.redundant, ep=split.ep, skew=rates.skew)
        touched = moe.hottest_touched(batch.routed, experts=experts.count, topk=experts.topk, local=local, ep=split.ep)
        grouped = [_grouped(gemm, rates, split, choices * hot, touched) for gemm in layer.gemms]
        work.append(_times(_plus(*grouped), layers))
        between = (split.dp > 1) * layers
        out.append(_times(_exchange(layer, rates, split, batch.tokens, hot * layer.send), between))
        back.append(_times(_exchange(layer, rates, split, batch.tokens, hot * ACTIVATION), between))
    return {"experts": _plus(*work), "dispatch": _plus(*out), "combine": _plus(*back)}


def _grouped(gemm: Gemm, rates: Rates, split: Split, choices: FloatArray, touched: FloatArray) -> PartTime:
    """One grouped GEMM: `choices` rows over `touched` experts of the hottest rank."""
    outputs, inputs = gemm.shape(split.expert_tp)
    dtype, _ = roofline.compute_dtype(gemm.form, rates.peak)
    curve = rates.gemm[dtype]
    compute = roofline.gemm_compute_time(choices, outputs, inputs, rate=curve.rate, half=curve.half, groups=touched)
    traffic = touched * outputs * inputs * gemm.form.bytes + choices * (outputs + inputs) * ACTIVATION
    flop = roofline.gemm_flop(choices, outputs, inputs)
    return _roof(flop, traffic, compute, traffic / rates.hbm, rates.kernel)


def _exchange(layer: ExpertLayer, rates: Rates, split: Split, tokens: FloatArray, element: FloatArray) -> PartTime:
    """Dispatch, or combine as its mirror: each tp rank sends its share of its dp rank's tokens.

    element : what an activation takes on the fullest link: its size x the load of the hottest rank [byte]
    """
    devices = split.ep * split.expert_tp
    inside, outside = moe.dispatch_bytes(
        tokens / split.tp,
        topk=layer.experts.topk,
        ep=split.ep,
        expert_tp=split.expert_tp,
        domain=rates.domain,
        token_bytes=layer.experts.hidden * element,
    )
    seconds = collectives.exchange(
        inside, outside, devices, domain=rates.domain, inner=rates.inner_moe, outer=rates.outer_moe
    )
    return _talk(seconds, inside + outside, devices, rates.domain)


def _embedding(model: Model, rates: Rates, tokens: FloatArray) -> PartTime:
    traffic = 2 * tokens * model.hidden * ACTIVATION
    return _roof(0.0, traffic, 0.0, traffic / rates.hbm, rates.kernel)


def _head(model: Model, rates: Rates, split: Split, rows: FloatArray) -> PartTime:
    return _gemm(one(model.head or _as_head(model.embedding)), rates, split, rows)


def _as_head(embedding: Matrix) -> Matrix:
    """A tied head is the embedding, multiplied."""
    return embedding


def _pipeline(model: Model, rates: Rates, split: Split, tokens: FloatArray) -> PartTime:
    size = tokens * model.hidden * ACTIVATION / split.tp
    stage = split.tp * split.dp
    hops = split.pp - 1
    seconds = collectives.p2p(
        size, stage * (split.pp > 1), span=stage * split.pp, domain=rates.domain, inner=rates.inner, outer=rates.outer
    )
    return _talk(hops * seconds, hops * size, stage * split.pp, rates.domain)


def _draft(model: Model, rates: Rates, split: Split, load: Load) -> PartTime:
    """`draft_tokens` passes of the draft layers and the head, one token a sequence; prefill passes once, spread."""
    passes = np.maximum(split.draft_tokens, 1)
    batch = _batch(load, split, 1, passes)
    parts = _stack(kernels(model.draft, model.kv_heads), model, rates, split, batch)
    parts["head"] = _head(model, rates, split, batch.sequences)
    return _times(_plus(*parts.values()), split.draft_tokens)


# ── sums ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _reduce(rates: Rates, size: FloatArray, tp: FloatArray) -> FloatArray:
    return collectives.all_reduce(size, tp, domain=rates.domain, inner=rates.inner, outer=rates.outer)


def _roof(
    flop: FloatArray, traffic: FloatArray, compute: FloatArray, read: FloatArray, latency: FloatArray
) -> PartTime:
    seconds = np.maximum(compute, read) + latency
    return PartTime(seconds, flop, traffic, {COMPUTE: compute, HBM: read, LATENCY: latency})


def _talk(seconds: FloatArray, size: FloatArray, devices: FloatArray, domain: int) -> PartTime:
    """A collective: under the network's roof where its group leaves the domain."""
    leaves = devices > domain
    return PartTime(seconds, 0.0, size, {UP: seconds * (1 - 1 * leaves), OUT: seconds * leaves})


def _plus(*parts: PartTime) -> PartTime:
    roofs: dict[str, FloatArray] = {}
    for part in parts:
        for roof, seconds in part.roofs.items():
            roofs[roof] = roofs.get(roof, 0.0) + seconds
    return PartTime(
        sum((p.seconds for p in parts), 0.0),
        sum((p.flop for p in parts), 0.0),
        sum((p.bytes for p in parts), 0.0),
        roofs,
    )


def _times(part: PartTime, factor: FloatArray) -> PartTime:
    return PartTime(
        part.seconds * factor, part.flop * factor, part.bytes * factor, {k: v * factor for k, v in part.roofs.items()}
    )
