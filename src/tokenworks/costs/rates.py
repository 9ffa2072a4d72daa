"""What a machine achieves: its datasheet times the utilisations of a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenworks.costs.collectives import LinkRates
from tokenworks.specs.calibration import Calibration, Power, number
from tokenworks.specs.machine import Assumption, Link, Machine


@dataclass(frozen=True, slots=True)
class Rates:
    """Achievable rates of one device and its links.

    gemm, grouped : at many rows, of matrices and of experts, for each dtype that the device computes in [FLOP/s]
    hbm, experts_hbm : of weights and activations [byte/s]; attention_hbm : of the KV cache [byte/s]
    prefill_flop, decode_flop : attention [FLOP/s]
    query, sequence : entries that a prefill query, and a decoding sequence, cost beside those they read [count]
    kernel : latency of one kernel inside a step; walk : of a tile along an input of 8 bits [s]
    elementwise : of the small kernels between GEMMs [byte/s]
    blockwise : latencies of a model with FP8 in blocks over those of others, by engine [-]
    attention_start, experts_start : latencies of those two, which are several kernels; expert : of each one touched
    context_walk : latency of decode attention for each token of a context [s]
    inner, outer : collectives in a domain and between domains; inner_moe, outer_moe : dispatch and combine
    domain : devices of a scale-up domain; skew : log-deviation of expert popularity; acceptance : of a draft token
    power : what a device draws of its TDP
    spread : the 80 % interval of a predicted time is [t / spread, t x spread]; ttft_spread : the same of TTFT
    draft_widening : how many times as wide, as a logarithm, it is where tokens are drafted
    """

    gemm: Mapping[str, float]
    grouped: Mapping[str, float]
    hbm: float
    experts_hbm: float
    prefill_flop: float
    decode_flop: float
    attention_hbm: float
    query: float
    sequence: float
    elementwise: float
    kernel: float
    blockwise: Mapping[str, float]
    walk: float
    attention_start: float
    context_walk: float
    experts_start: float
    expert: float
    inner: LinkRates
    outer: LinkRates | None
    inner_moe: LinkRates
    outer_moe: LinkRates | None
    domain: int
    skew: float
    acceptance: float
    power: Power
    grade: str
    spread: float
    ttft_spread: float
    draft_widening: float
    assumed: tuple[Assumption, ...]

    def spread_of(self, draft_tokens: float) -> float:
        """Half of the 80 % interval of TPOT, of a step and of throughput, as a factor [-]."""
        return self.spread**self.draft_widening if draft_tokens else self.spread


def rates(machine: Machine, calibration: Calibration) -> Rates:
    """Datasheet x utilisation, for the family of the machine's device.

    Attention multiplies in 16 bits, whatever the weights: its rate is the device's bf16 (or fp32) peak x utilisation.
    """
    family = calibration.family(machine.family)
    gemm = {dtype: peak * family.util(dtype) for dtype, peak in machine.peak.items()}
    wide = machine.peak["bf16"] if "bf16" in machine.peak else machine.peak["fp32"]

    def achieved(link: Link, share: float, start: float) -> LinkRates:
        return LinkRates(
            bandwidth=link.bandwidth * share,
            pair=link.pair * share,
            alpha=link.latency + link.overhead,
            start=start,
            ring=number(calibration.ring),
            direct=link.semantics == "load-store",
            in_switch=link.in_switch_reduce,
        )

    def outward(share: float, start: float) -> LinkRates | None:
        return achieved(machine.scale_out, share, start) if machine.scale_out else None

    start, dispatch_start = number(family.collective_start), number(family.dispatch_start)
    return Rates(
        gemm=gemm,
        grouped={dtype: peak * family.grouped_util(dtype) for dtype, peak in machine.peak.items()},
        hbm=machine.hbm_bandwidth * number(family.hbm),
        experts_hbm=machine.hbm_bandwidth * number(family.experts_hbm),
        prefill_flop=wide * number(family.attention_prefill),
        decode_flop=wide * number(family.attention_decode),
        attention_hbm=machine.hbm_bandwidth * number(family.attention_hbm),
        query=number(calibration.query),
        sequence=number(calibration.sequence),
        elementwise=machine.hbm_bandwidth * number(family.hbm) * number(calibration.elementwise),
        kernel=number(family.kernel),
        blockwise={engine: number(factor) for engine, factor in family.blockwise.items()},
        walk=number(family.walk),
        attention_start=number(family.attention_start),
        context_walk=number(calibration.context_walk),
        experts_start=number(family.experts_start),
        expert=number(family.expert),
        inner=achieved(machine.scale_up, number(family.scale_up), start),
        outer=outward(number(family.scale_out), start),
        inner_moe=achieved(machine.scale_up, number(family.dispatch_up), dispatch_start),
        outer_moe=outward(number(family.dispatch_out), dispatch_start),
        domain=machine.domain,
        skew=number(calibration.skew),
        acceptance=number(calibration.acceptance),
        power=calibration.power,
        grade=calibration.grade_of(machine.family),
        spread=number(family.spread),
        ttft_spread=number(calibration.ttft_spread),
        draft_widening=number(calibration.draft_widening),
        assumed=(*machine.assumed, *calibration.assumed(machine.family, machine.peak)),
    )
