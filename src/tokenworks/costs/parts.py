"""The parts of an engine step on the most loaded device of an instance. `step` adds them up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray, ceil_div
from tokenworks.costs import attention, collectives, moe, roofline
from tokenworks.costs.breakdown import HBM, LATENCY, OUT, UP, Kernel, Parts, PartTime, plus, times, total
from tokenworks.costs.kernels import ExpertLayer, Gemm, Kernels, kernels, one
from tokenworks.costs.products import ACTIVATION, NARROW, causal_part, grouped_product, product, roof
from tokenworks.costs.rates import Rates
from tokenworks.costs.split import Split
from tokenworks.specs.model import Model, Scan

# Small kernels per half layer (attention or FFN). A layer has five: two norms, rope, cache write, activation function.
HALF_KERNELS = 2.5
# Traffic of these kernels, in widths of the residual stream. A norm with its residual has 4 (two in, two out), the
# other kernels have 2.
HALF_PASSES = 6
# Tensor at which an elementwise kernel is half as far below the bandwidth of GEMMs as for small tensors [byte].
# Assumed: norms, activations and quantisation of 1 to 8 MB reach 0.2 to 0.7 of it, those of a prefill chunk (100 MB and
# more) nearly all.
SMALL_TENSOR = 8e6
# Kernels of hyper-connections around a half layer: norm, Sinkhorn, mix to one stream, mix back (DeepSeek-V4 report,
# section 2.2).
MIX_KERNELS = 4
# These kernels read all streams twice and write them once. They read or write the mixed stream one more time.
MIX_STREAM_PASSES, MIX_PASSES = 3, 1
# Start time of an expert layer whose kernels unpack the weights (W4A16) / start time of other expert layers: 57 to 112
# us against 28 to 58 us on H100 and H200 (aiconfigurator-core 0.12.0, systems/data, moe tables).
UNPACKED = 2.0
TINY = 1e-9
ENDS = ("head", "draft")  # parts that the last pipeline stage runs beside its layers
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
    """The batch of one rank for one microbatch, as sums over its sequences.

    Parameters
    ----------
    sequences : decoding sequences [count]
    context : sum of their contexts [token]
    queries : query tokens of each decoding sequence, 1 + drafts [token]
    prefill, prefill_context, prefix : as in `step.Batch`, but for this rank
    routed : tokens of all dp ranks together, which go to the experts [token]
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
        """Decode tokens, with drafts [token]."""
        return self.sequences * self.queries

    @property
    def tokens(self) -> FloatArray:
        """Decode and prefill tokens [token]."""
        return self.decoded + self.prefill

    @property
    def rows(self) -> FloatArray:
        """Tokens that need logits: all decode tokens, and one of a prefill chunk [token]."""
        return self.decoded + np.minimum(self.prefill, 1.0)


def main_parts(model: Model, rates: Rates, split: Split, batch: RankBatch) -> Parts:
    """Cost of embedding, all layers, head and pipeline transfers, without draft layers and host.

    Parameters
    ----------
    model : the model
    rates : achieved rates of the machine
    split : parallel widths of the instance
    batch : batch of one rank

    Returns
    -------
    Name of a part -> its cost.
    """
    parts = _layers(kernels(model.blocks, model.kv_heads), model, rates, split, batch)
    parts["embedding"] = _embedding(model, rates, batch.tokens)
    parts["head"] = _head(model, rates, split, batch.rows)
    looked_up = _reduce(rates, batch.tokens * model.hidden * ACTIVATION, split.tp)
    logits = _gather(rates, batch.rows * model.vocab * ACTIVATION, split.tp)
    parts["all-reduce"] = plus(parts["all-reduce"], looked_up, logits)
    parts["pipeline"] = _pipeline(model, rates, split, batch.tokens)
    return parts


def stage_wait(layers: int, split: Split, parts: Parts, flying: FloatArray) -> PartTime:
    """Time that a microbatch waits for the slowest pipeline stage, in one round of all microbatches.

        t = max(0, k max(ceil(L / pp) l, floor(L / pp) l + ends) - all parts),    l = (all - ends - hops) / L

    A round of k microbatches takes k times the slowest stage. The last stage runs head and drafts (`ends`) beside its
    floor(L / pp) layers. With fewer microbatches than stages, the next stage is free, so a microbatch takes the sum of
    all parts and does not wait.

    Parameters
    ----------
    layers : L, layers of the model [count]
    split : parallel widths of the instance
    parts : cost of one microbatch, by part
    flying : k, microbatches in the pipeline, at most pp [count]

    Returns
    -------
    Cost of the wait: time without FLOP and bytes.

    References
    ----------
    [1] Huang et al., GPipe, arXiv:1811.06965, section 2.3 (bubbles of a pipeline).
    """
    ends = sum((parts[name].seconds for name in ENDS if name in parts), 0.0)
    through = total(parts)
    layer = (through - ends - parts["pipeline"].seconds) / layers
    slowest = np.maximum(ceil_div(layers, split.pp) * layer, np.floor(layers / split.pp) * layer + ends)
    idle = np.maximum(flying * slowest - through, 0.0) * (split.pp > 1)
    return Kernel(idle, 0.0, 0.0, {LATENCY: idle})


def draft_part(model: Model, rates: Rates, split: Split, batch: RankBatch) -> PartTime:
    """Cost of one pass of the draft layers and the head.

    Parameters
    ----------
    model : the model, with draft layers
    rates : achieved rates of the machine
    split : parallel widths of the instance
    batch : batch of one rank

    Returns
    -------
    Cost of the pass.
    """
    parts = _layers(kernels(model.draft, model.kv_heads), model, rates, split, batch)
    parts["head"] = _head(model, rates, split, batch.decoded)
    return plus(*parts.values())


def _layers(stack: Kernels, model: Model, rates: Rates, split: Split, batch: RankBatch) -> Parts:
    """Cost of all layers of a stack, by part."""
    parts: Parts = {}
    for gemm, layers in stack.gemms:
        rows = batch.tokens + batch.prefix if gemm.again else batch.tokens
        cost = times(gemm_part(gemm, rates, split, rows), layers)
        name = PART_OF[gemm.part]
        parts[name] = plus(parts[name], cost) if name in parts else cost
    parts |= attention_parts(stack, rates, split, batch)
    parts["norms"] = _norms(stack, model, rates, batch.tokens)
    reduces: FloatArray = stack.reduces + stack.moe_reduces
    if stack.experts:
        parts |= expert_parts(stack, rates, split, batch)
    size = batch.tokens * model.hidden * ACTIVATION
    # With several dp ranks, combine carries the sum over experts. Then an all-gather gives each tp rank all tokens.
    combined = (split.dp > 1) * sum(count for _, count in stack.experts)
    reduced = times(_reduce(rates, size, split.tp), reduces - combined)
    parts["all-reduce"] = plus(reduced, times(_gather(rates, size, split.tp), combined))
    return parts


def _dtype(gemm: Gemm, rates: Rates) -> tuple[str, int]:
    """The dtype in which the device multiplies, and 1 if the input must be quantised first, else 0."""
    dtype, _ = roofline.compute_dtype(gemm.form, rates.gemm)
    return dtype, 1 * (dtype in NARROW)


def gemm_part(gemm: Gemm, rates: Rates, split: Split, tokens: FloatArray) -> PartTime:
    """Cost of a GEMM, with the quantisation of its input if it multiplies in 8 bits or fewer.

    Parameters
    ----------
    gemm : shape and format of the GEMM
    rates : achieved rates of the machine
    split : parallel widths of the instance
    tokens : rows of the GEMM [token]

    Returns
    -------
    Cost on one device, see `roofline.kernel_time`.
    """
    outputs, inputs = gemm.shape(split.tp)
    dtype, quantised = _dtype(gemm, rates)
    return product(rates, dtype, tokens, (outputs, inputs), weight=gemm.form.bytes, quantised=quantised)


def attention_parts(stack: Kernels, rates: Rates, split: Split, batch: RankBatch) -> Parts:
    """Cost of attention in all layers. Decode and prefill have separate kernels.

    Parameters
    ----------
    stack : kernels of all layers
    rates : achieved rates of the machine
    split : parallel widths of the instance
    batch : batch of one rank

    Returns
    -------
    Parts `attention` and `linear attention`, each only if the model has such layers.
    """
    scans = []
    for scan, layers in stack.scans:
        scans.append(times(plus(_decoding(scan, rates, split, batch), _prefilling(scan, rates, split, batch)), layers))
    parts: Parts = {"attention": plus(*scans)} if scans else {}
    recurrent = []
    for state, layers in stack.states:
        touched = batch.sequences + np.minimum(batch.prefill, 1.0)
        flop, traffic = attention.state_work(state, touched, batch.tokens, tp=split.tp)
        part = roof(flop, traffic, flop / rates.prefill_flop, traffic / rates.attention_hbm, rates.attention_start)
        recurrent.append(times(part, layers))
    return parts | ({"linear attention": plus(*recurrent)} if recurrent else {})


def _decoding(scan: Scan, rates: Rates, split: Split, batch: RankBatch) -> PartTime:
    """Decode attention of one layer. A sequence costs as much as `rates.sequence` additional entries would.

    The latency grows with the mean context, because a kernel goes through its part of a context step by step.
    """
    flop, traffic = attention.decode_work(
        scan, batch.sequences, batch.context, queries=batch.queries, tp=split.tp, kv_bytes=split.kv_bytes
    )
    edges = batch.sequences * rates.sequence * attention.entry_bytes(scan, split.tp, split.kv_bytes)
    walked = attention.decode_entries(scan, batch.sequences, batch.context) / np.maximum(batch.sequences, TINY)
    latency = (rates.attention_start + rates.context_walk * walked) * (batch.sequences > 0)
    return roof(
        flop, traffic, flop / _decode_rate(scan, rates, split), (traffic + edges) / rates.attention_hbm, latency
    )


def _decode_rate(scan: Scan, rates: Rates, split: Split) -> FloatArray:
    """Rate of decode attention. Latents of a fixed format (`scan.bytes`) are unpacked first [FLOP/s]."""
    narrow = (scan.bytes is None) & (np.asarray(split.kv_bytes) <= 1)
    latent = np.where(narrow, rates.latent_flop["fp8"], rates.latent_flop["bf16"])
    return np.where(scan.latent, latent, rates.decode_flop)


def _prefilling(scan: Scan, rates: Rates, split: Split, batch: RankBatch) -> PartTime:
    """Prefill attention of one layer.

    In a step with decoding sequences, one kernel runs both, so the latency counts only in `_decoding`.
    """
    latency = rates.attention_start * ((batch.prefill > 0) & (batch.sequences <= 0))
    return causal_part(
        scan, rates, batch.prefill, batch.prefill_context, tp=split.tp, kv_bytes=split.kv_bytes, latency=latency,
        flop_rate=rates.prefill_flop,
    )  # fmt: skip


def _norms(stack: Kernels, model: Model, rates: Rates, tokens: FloatArray) -> PartTime:
    """The small kernels between GEMMs and attention: norms, rope, cache write, activation function, stream mixing.

    A tensor of s bytes takes s (1 - w) / B + s w / b, with w = S / (s + S) and S = `SMALL_TENSOR`: a small tensor moves
    at b (`rates.elementwise`), a large one at the bandwidth B of GEMMs. b is fitted on whole steps, so for small
    tensors it also holds what a step does for each sequence and no other part counts.
    """
    halves = stack.reduces + stack.moe_reduces
    passes = halves * HALF_PASSES + stack.mixed * MIX_STREAM_PASSES + stack.mixes * MIX_PASSES
    traffic = passes * tokens * model.hidden * ACTIVATION
    latency = (halves * HALF_KERNELS + stack.mixes * MIX_KERNELS) * rates.kernel
    small = SMALL_TENSOR / (tokens * model.hidden * ACTIVATION + SMALL_TENSOR)
    moving = traffic * ((1 - small) / rates.hbm + small / rates.elementwise)
    return Kernel(moving + latency, 0.0, traffic, {HBM: moving, LATENCY: latency})


def expert_parts(stack: Kernels, rates: Rates, split: Split, batch: RankBatch) -> Parts:
    """Cost of the routed experts on the hottest rank, and of dispatch and combine if there are several dp ranks.

    Parameters
    ----------
    stack : kernels of all layers
    rates : achieved rates of the machine
    split : parallel widths of the instance
    batch : batch of one rank

    Returns
    -------
    Parts `experts`, `dispatch` and `combine`.
    """
    work: list[PartTime] = []
    out: list[PartTime] = []
    back: list[PartTime] = []
    for layer, layers in stack.experts:
        experts = layer.experts
        local = moe.local_experts(experts.count, split.redundant, split.ep)
        choices = batch.routed * experts.topk / split.ep
        if rates.balance is not None:
            hot, touched = rates.balance.hottest_load(batch.routed), rates.balance.hottest_touched(batch.routed)
        else:
            hot = moe.hottest_load(
                choices, experts=experts.count, redundant=split.redundant, ep=split.ep, skew=rates.rank_skew
            )
            touched = moe.hottest_touched(
                batch.routed, experts=experts.count, topk=experts.topk, local=local, ep=split.ep, skew=rates.skew
            )
        grouped = [grouped_part(gemm, rates, split, choices * hot, touched) for gemm in layer.gemms]
        start = rates.experts_start * (UNPACKED if _unpacked(layer, rates) else 1.0) + touched * rates.expert
        latency = Kernel(start, 0.0, 0.0, {LATENCY: start})
        work.append(times(plus(*grouped, latency), layers))
        between = (split.dp > 1) * layers
        inside, outside = _copies(layer, rates, split, batch)
        for direction, element in ((out, layer.send), (back, ACTIVATION)):
            size = experts.hidden * element * hot  # the links of the hottest rank carry most
            direction.append(times(exchange_part(inside * size, outside * size, rates, split), between))
    return {"experts": plus(*work), "dispatch": plus(*out), "combine": plus(*back)}


def _unpacked(layer: ExpertLayer, rates: Rates) -> bool:
    """True if the kernels must unpack the expert weights before they multiply."""
    return any(roofline.compute_dtype(gemm.form, rates.gemm)[1] for gemm in layer.gemms)


def grouped_part(gemm: Gemm, rates: Rates, split: Split, choices: FloatArray, touched: FloatArray) -> PartTime:
    """Cost of one grouped GEMM over the experts of the hottest rank, without latency.

    Parameters
    ----------
    gemm : GEMM of one expert
    rates : achieved rates of the machine
    split : parallel widths of the instance
    choices : token choices that the rank receives: rows of the GEMM [count]
    touched : experts that get at least one token, whose weights are read [count]

    Returns
    -------
    Cost on one device, see `roofline.kernel_time`.
    """
    outputs, inputs = gemm.shape(split.expert_tp)
    dtype, quantised = _dtype(gemm, rates)
    slower = rates.packed_experts if gemm.form.bytes < 1 and dtype not in NARROW and gemm.form.compute == dtype else 1.0
    achieved = rates.grouped[dtype] * slower, rates.experts_hbm * slower
    return grouped_product(
        achieved, choices, touched, (outputs, inputs), weight=gemm.form.bytes, quantised=quantised
    )  # fmt: skip


def _copies(layer: ExpertLayer, rates: Rates, split: Split, batch: RankBatch) -> tuple[FloatArray, FloatArray]:
    """Token copies that a device sends inside its domain, and to other domains [count, count].

    Engines use low-latency kernels for decode (direct copies) and high-throughput kernels for prefill (forwarded
    copies). The tp ranks divide the tokens of their dp rank among them.
    """
    where = {"ep": split.ep, "expert_tp": split.expert_tp, "domain": rates.domain}
    near, far = moe.direct_copies(layer.experts.topk, **where)
    forwarded_near, forwarded_far = moe.forwarded_copies(layer.experts.topk, **where)
    decoded, prefill = batch.decoded / split.tp, batch.prefill / split.tp
    return decoded * near + prefill * forwarded_near, decoded * far + prefill * forwarded_far


def exchange_part(inside: FloatArray, outside: FloatArray, rates: Rates, split: Split) -> PartTime:
    """Cost of one dispatch or one combine.

    Parameters
    ----------
    inside : bytes that a device sends inside its domain [byte]
    outside : bytes that a device sends to other domains [byte]
    rates : achieved rates of the machine
    split : parallel widths of the instance

    Returns
    -------
    Cost of the all-to-all, see `collectives.exchange`.
    """
    devices = split.ep * split.expert_tp
    seconds = collectives.exchange(
        inside, outside, devices, domain=rates.domain, inner=rates.inner_moe, outer=rates.outer_moe
    )
    return _talk(seconds, inside + outside, devices, rates.domain)


def _embedding(model: Model, rates: Rates, tokens: FloatArray) -> PartTime:
    """Reads one row of the embedding per token, and writes it."""
    traffic = 2 * tokens * model.hidden * ACTIVATION
    return roof(0.0, traffic, 0.0, traffic / rates.hbm, rates.kernel)


def _head(model: Model, rates: Rates, split: Split, rows: FloatArray) -> PartTime:
    """GEMM of the head. A tied head is the embedding matrix."""
    return gemm_part(one(model.head or model.embedding), rates, split, rows)


def _pipeline(model: Model, rates: Rates, split: Split, tokens: FloatArray) -> PartTime:
    """Transfers of a microbatch from stage to stage. Each tp rank sends its share of the activations."""
    size = tokens * model.hidden * ACTIVATION / split.tp
    stage, hops = split.tp * split.dp, split.pp - 1
    seconds = collectives.p2p(
        size, stage * (split.pp > 1), span=stage * split.pp, domain=rates.domain, inner=rates.inner, outer=rates.outer
    )
    return times(_talk(seconds, size, stage * split.pp, rates.domain), hops)


def _reduce(rates: Rates, size: FloatArray, tp: FloatArray) -> PartTime:
    """All-reduce over the tp ranks."""
    seconds = collectives.all_reduce(size, tp, domain=rates.domain, inner=rates.inner, outer=rates.outer)
    return _talk(seconds, size * (tp > 1), tp, rates.domain)


def _gather(rates: Rates, size: FloatArray, tp: FloatArray) -> PartTime:
    """All-gather over the tp ranks."""
    seconds = collectives.all_gather(size, tp, domain=rates.domain, inner=rates.inner, outer=rates.outer)
    return _talk(seconds, size * (tp > 1), tp, rates.domain)


def _talk(seconds: FloatArray, size: FloatArray, devices: FloatArray, domain: int) -> PartTime:
    """A collective. Its roof is scale-out if the group is larger than a domain, else scale-up."""
    leaves = 1 * (devices > domain)
    return Kernel(seconds, 0.0, size, {UP: seconds * (1 - leaves), OUT: seconds * leaves})
