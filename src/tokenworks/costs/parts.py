"""The parts of a step on the most loaded device of an instance; `step` adds them up, with overlap and the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray, ceil_div
from tokenworks.costs import attention, collectives, moe, roofline
from tokenworks.costs.breakdown import COMPUTE, HBM, LATENCY, OUT, UP, Kernel, Parts, PartTime, plus, times, total
from tokenworks.costs.kernels import ExpertLayer, Gemm, Kernels, kernels, one
from tokenworks.costs.rates import Rates
from tokenworks.costs.split import Split
from tokenworks.specs.model import Model, Scan

ACTIVATION = 2.0  # bf16 [byte/element]
# Small kernels of half a layer (attention or FFN): of two norms, rope, cache write and activation, the half.
HALF_KERNELS = 2.5
# What they read and write, in widths of the residual stream: a norm with its residual 4 (two in, two out), the rest 2.
HALF_PASSES = 6
# Hyper-connections around a half: norm, Sinkhorn, mix to one, mix back (DeepSeek-V4 report, section 2.2).
MIX_KERNELS = 4
# They read all streams twice and write them once, and touch the one that the half works on once more.
MIX_STREAM_PASSES, MIX_PASSES = 3, 1
# A layer of experts whose weights are unpacked in the kernel (W4A16) starts that much later: 57 to 112 us against 28 to
# 58 on H100 and H200 (aiconfigurator-core 0.12.0, systems/data, moe tables).
UNPACKED = 2.0
TINY = 1e-9
NARROW = ("fp4", "fp8", "int8")  # activations must be quantised before such a GEMM
ENDS = ("head", "draft")  # what the last stage of a pipeline does beside its layers
PART_OF = {
    "attention": "attention gemm",
    "latent": "attention gemm",
    "dense": "dense ffn",
    "shared": "shared expert",
    "router": "router",
    "draft": "draft projection",
}


@dataclass(frozen=True, slots=True)
class RankBatch:
    """What one rank of a microbatch works on: sums over its sequences.

    sequences, context : decoding, and the sum of their contexts; queries : query tokens of each
    prefill, prefill_context, prefix : as in `step.Batch`; routed : tokens of all dp ranks, for the experts
    """

    sequences: FloatArray
    context: FloatArray
    queries: FloatArray
    prefill: FloatArray
    prefill_context: FloatArray
    prefix: FloatArray
    routed: FloatArray

    @property
    def decoded(self) -> FloatArray:
        """Tokens that decode."""
        return self.sequences * self.queries

    @property
    def tokens(self) -> FloatArray:
        """All tokens."""
        return self.decoded + self.prefill

    @property
    def rows(self) -> FloatArray:
        """Tokens whose logits are needed."""
        return self.decoded + np.minimum(self.prefill, 1.0)


def main_parts(model: Model, rates: Rates, split: Split, batch: RankBatch) -> Parts:
    """Embedding, all layers, head, and the way from stage to stage, without drafts and host."""
    parts = _layers(kernels(model.blocks, model.kv_heads), model, rates, split, batch)
    parts["embedding"] = _embedding(model, rates, batch.tokens)
    parts["head"] = _head(model, rates, split, batch.rows)
    looked_up = _reduce(rates, batch.tokens * model.hidden * ACTIVATION, split.tp)
    logits = _gather(rates, batch.rows * model.vocab * ACTIVATION, split.tp)
    parts["all-reduce"] = plus(parts["all-reduce"], looked_up, logits)
    parts["pipeline"] = _pipeline(model, rates, split, batch.tokens)
    return parts


def stage_wait(layers: int, split: Split, parts: Parts, flying: FloatArray) -> PartTime:
    """What microbatches wait for each other: each round takes as many times the slowest stage as there are of them.

        t = max(0, k max(ceil(L / pp) l, floor(L / pp) l + ends) - all parts),    l = (all - ends - hops) / L

    The last stage has the head and the drafts (`ends`) beside its layers, and none of those left over by L / pp. With
    fewer microbatches than stages each finds the next stage free, and is through after the sum of all parts.

    Parameters
    ----------
    layers : L; flying : k, microbatches between the stages, at most pp
    """
    ends = sum((parts[name].seconds for name in ENDS if name in parts), 0.0)
    through = total(parts)
    layer = (through - ends - parts["pipeline"].seconds) / layers
    slowest = np.maximum(ceil_div(layers, split.pp) * layer, np.floor(layers / split.pp) * layer + ends)
    idle = np.maximum(flying * slowest - through, 0.0) * (split.pp > 1)
    return Kernel(idle, 0.0, 0.0, {LATENCY: idle})


def draft_part(model: Model, rates: Rates, split: Split, batch: RankBatch) -> PartTime:
    """One pass of the draft layers and the head over `batch`."""
    parts = _layers(kernels(model.draft, model.kv_heads), model, rates, split, batch)
    parts["head"] = _head(model, rates, split, batch.decoded)
    return plus(*parts.values())


def _layers(stack: Kernels, model: Model, rates: Rates, split: Split, batch: RankBatch) -> Parts:
    """All layers of a stack."""
    parts: Parts = {}
    for gemm, layers in stack.gemms:
        rows = batch.tokens + batch.prefix if gemm.again else batch.tokens
        made = times(gemm_part(gemm, rates, split, rows), layers)
        name = PART_OF[gemm.part]
        parts[name] = plus(parts[name], made) if name in parts else made
    parts |= attention_parts(stack, rates, split, batch)
    parts["norms"] = _norms(stack, model, rates, batch.tokens)
    reduces: FloatArray = stack.reduces + stack.moe_reduces
    if stack.experts:
        parts |= _experts(stack, rates, split, batch)
    size = batch.tokens * model.hidden * ACTIVATION
    # Between dp ranks the sum over experts travels in combine, and tp ranks gather what each of them got back.
    combined = (split.dp > 1) * sum(count for _, count in stack.experts)
    reduced = times(_reduce(rates, size, split.tp), reduces - combined)
    parts["all-reduce"] = plus(reduced, times(_gather(rates, size, split.tp), combined))
    return parts


def _dtype(gemm: Gemm, rates: Rates) -> tuple[str, int]:
    """In what a format is multiplied, and whether its input is quantised first (1 or 0)."""
    dtype, _ = roofline.compute_dtype(gemm.form, rates.gemm)
    return dtype, 1 * (dtype in NARROW)


def gemm_part(gemm: Gemm, rates: Rates, split: Split, tokens: FloatArray) -> PartTime:
    """A GEMM, and the quantisation of its input where it multiplies in 8 bits or fewer."""
    outputs, inputs = gemm.shape(split.tp)
    dtype, quantised = _dtype(gemm, rates)
    traffic = roofline.gemm_bytes(tokens, outputs, inputs, weight=gemm.form.bytes, activation=ACTIVATION)
    traffic = traffic + quantised * tokens * inputs * ACTIVATION
    flop = roofline.gemm_flop(tokens, outputs, inputs)
    walk = roofline.walk_time(inputs, rates.walk, wide=1 - quantised)
    return _roof(
        flop, traffic, flop / rates.gemm[dtype], traffic / rates.hbm, (1 + quantised) * rates.kernel, walk=walk
    )


def attention_parts(stack: Kernels, rates: Rates, split: Split, batch: RankBatch) -> Parts:
    """Decode and prefill attention are kernels of their own; each runs where there is something to do."""
    made = []
    for scan, layers in stack.scans:
        made.append(times(plus(_decoding(scan, rates, split, batch), _prefilling(scan, rates, split, batch)), layers))
    parts: Parts = {"attention": plus(*made)} if made else {}
    recurrent = []
    for state, layers in stack.states:
        touched = batch.sequences + np.minimum(batch.prefill, 1.0)
        flop, traffic = attention.state_work(state, touched, batch.tokens, tp=split.tp)
        part = _roof(flop, traffic, flop / rates.prefill_flop, traffic / rates.attention_hbm, rates.attention_start)
        recurrent.append(times(part, layers))
    return parts | ({"linear attention": plus(*recurrent)} if recurrent else {})


def _decoding(scan: Scan, rates: Rates, split: Split, batch: RankBatch) -> PartTime:
    """Each sequence takes as long as `sequence` more entries would, and one split of a context is walked alone."""
    flop, traffic = attention.decode_work(
        scan, batch.sequences, batch.context, queries=batch.queries, tp=split.tp, kv_bytes=split.kv_bytes
    )
    edges = batch.sequences * rates.sequence * attention.entry_bytes(scan, split.tp, split.kv_bytes)
    walked = attention.decode_entries(scan, batch.sequences, batch.context) / np.maximum(batch.sequences, TINY)
    latency = (rates.attention_start + rates.context_walk * walked) * (batch.sequences > 0)
    return _roof(flop, traffic, flop / rates.decode_flop, (traffic + edges) / rates.attention_hbm, latency)


def _prefilling(scan: Scan, rates: Rates, split: Split, batch: RankBatch) -> PartTime:
    """Each query takes as long as `query` more entries would; one kernel serves both where sequences decode, too."""
    flop, traffic = attention.prefill_work(
        scan, batch.prefill, batch.prefill_context, tp=split.tp, kv_bytes=split.kv_bytes
    )
    edges = batch.prefill * rates.query * attention.entry_flop(scan, split.tp)
    latency = rates.attention_start * ((batch.prefill > 0) & (batch.sequences <= 0))
    return _roof(flop, traffic, (flop + edges) / rates.prefill_flop, traffic / rates.attention_hbm, latency)


def _norms(stack: Kernels, model: Model, rates: Rates, tokens: FloatArray) -> PartTime:
    halves = stack.reduces + stack.moe_reduces
    passes = halves * HALF_PASSES + stack.mixed * MIX_STREAM_PASSES + stack.mixes * MIX_PASSES
    traffic = passes * tokens * model.hidden * ACTIVATION
    latency = (halves * HALF_KERNELS + stack.mixes * MIX_KERNELS) * rates.kernel
    moving = traffic / rates.elementwise
    return Kernel(moving + latency, 0.0, traffic, {HBM: moving, LATENCY: latency})


def _experts(stack: Kernels, rates: Rates, split: Split, batch: RankBatch) -> Parts:
    """Routed experts of the hottest rank; dispatch and combine where tokens live on different dp ranks."""
    work: list[PartTime] = []
    out: list[PartTime] = []
    back: list[PartTime] = []
    for layer, layers in stack.experts:
        experts = layer.experts
        local = moe.local_experts(experts.count, split.redundant, split.ep)
        choices = batch.routed * experts.topk / split.ep
        hot = moe.hottest_load(choices, experts=experts.count, redundant=split.redundant, ep=split.ep, skew=rates.skew)
        touched = moe.hottest_touched(
            batch.routed, experts=experts.count, topk=experts.topk, local=local, ep=split.ep, skew=rates.skew
        )
        grouped = [grouped_part(gemm, rates, split, choices * hot, touched) for gemm in layer.gemms]
        start = rates.experts_start * (UNPACKED if _unpacked(layer, rates) else 1.0) + touched * rates.expert
        latency = Kernel(start, 0.0, 0.0, {LATENCY: start})
        work.append(times(plus(*grouped, latency), layers))
        between = (split.dp > 1) * layers
        inside, outside = _copies(layer, rates, split, batch)
        for made, element in ((out, layer.send), (back, ACTIVATION)):
            size = experts.hidden * element * hot  # the hottest rank's links are the fullest
            made.append(times(exchange_part(inside * size, outside * size, rates, split), between))
    return {"experts": plus(*work), "dispatch": plus(*out), "combine": plus(*back)}


def _unpacked(layer: ExpertLayer, rates: Rates) -> bool:
    return any(roofline.compute_dtype(gemm.form, rates.gemm)[1] for gemm in layer.gemms)


def grouped_part(gemm: Gemm, rates: Rates, split: Split, choices: FloatArray, touched: FloatArray) -> PartTime:
    """One grouped GEMM: `choices` rows over `touched` experts of the hottest rank, without its latency."""
    outputs, inputs = gemm.shape(split.expert_tp)
    dtype, quantised = _dtype(gemm, rates)
    traffic = touched * outputs * inputs * gemm.form.bytes
    traffic = traffic + choices * (outputs + inputs * (1 + quantised)) * ACTIVATION
    flop = roofline.gemm_flop(choices, outputs, inputs)
    return _roof(flop, traffic, flop / rates.grouped[dtype], traffic / rates.experts_hbm, 0.0)


def _copies(layer: ExpertLayer, rates: Rates, split: Split, batch: RankBatch) -> tuple[FloatArray, FloatArray]:
    """Token copies that a device sends in its domain and out of it: decode directly, prefill forwarded [count, count].

    Engines use the low-latency kernels for decode and the high-throughput ones for prefill. Each tp rank sends its
    share of its dp rank's tokens.
    """
    where = {"ep": split.ep, "expert_tp": split.expert_tp, "domain": rates.domain}
    near, far = moe.direct_copies(layer.experts.topk, **where)
    forwarded_near, forwarded_far = moe.forwarded_copies(layer.experts.topk, **where)
    decoded, prefill = batch.decoded / split.tp, batch.prefill / split.tp
    return decoded * near + prefill * forwarded_near, decoded * far + prefill * forwarded_far


def exchange_part(inside: FloatArray, outside: FloatArray, rates: Rates, split: Split) -> PartTime:
    """Dispatch, or combine, of what a device sends in its domain and out of it [byte]."""
    devices = split.ep * split.expert_tp
    seconds = collectives.exchange(
        inside, outside, devices, domain=rates.domain, inner=rates.inner_moe, outer=rates.outer_moe
    )
    return _talk(seconds, inside + outside, devices, rates.domain)


def _embedding(model: Model, rates: Rates, tokens: FloatArray) -> PartTime:
    traffic = 2 * tokens * model.hidden * ACTIVATION
    return _roof(0.0, traffic, 0.0, traffic / rates.hbm, rates.kernel)


def _head(model: Model, rates: Rates, split: Split, rows: FloatArray) -> PartTime:
    """A tied head is the embedding, multiplied once more."""
    return gemm_part(one(model.head or model.embedding), rates, split, rows)


def _pipeline(model: Model, rates: Rates, split: Split, tokens: FloatArray) -> PartTime:
    """A microbatch goes from stage to stage; each tp rank sends its share."""
    size = tokens * model.hidden * ACTIVATION / split.tp
    stage, hops = split.tp * split.dp, split.pp - 1
    seconds = collectives.p2p(
        size, stage * (split.pp > 1), span=stage * split.pp, domain=rates.domain, inner=rates.inner, outer=rates.outer
    )
    return times(_talk(seconds, size, stage * split.pp, rates.domain), hops)


def _reduce(rates: Rates, size: FloatArray, tp: FloatArray) -> PartTime:
    seconds = collectives.all_reduce(size, tp, domain=rates.domain, inner=rates.inner, outer=rates.outer)
    return _talk(seconds, size * (tp > 1), tp, rates.domain)


def _gather(rates: Rates, size: FloatArray, tp: FloatArray) -> PartTime:
    seconds = collectives.all_gather(size, tp, domain=rates.domain, inner=rates.inner, outer=rates.outer)
    return _talk(seconds, size * (tp > 1), tp, rates.domain)


def _roof(
    flop: FloatArray, traffic: FloatArray, compute: FloatArray, read: FloatArray, latency: FloatArray, *,
    walk: FloatArray = 0.0,
) -> PartTime:  # fmt: skip
    seconds = roofline.kernel_time(compute, read, latency, walk)
    return Kernel(seconds, flop, traffic, {COMPUTE: compute, HBM: read, LATENCY: latency + walk})


def _talk(seconds: FloatArray, size: FloatArray, devices: FloatArray, domain: int) -> PartTime:
    """A collective: under the network's roof where its group leaves the domain."""
    leaves = 1 * (devices > domain)
    return Kernel(seconds, 0.0, size, {UP: seconds * (1 - leaves), OUT: seconds * leaves})
