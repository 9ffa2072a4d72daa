"""What a machine achieves: its datasheet times the utilisations of a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenworks.costs.collectives import Fabric
from tokenworks.specs.calibration import Calibration, Power, number
from tokenworks.specs.machine import Assumption, Link, Machine


@dataclass(frozen=True, slots=True)
class Rates:
    """Achievable rates of one device and its links.

    gemm : at many rows, for each dtype that the device computes in [FLOP/s]; grouped : share of it that experts reach
    unhidden : share of weight reading that shows beside the multiplication [-]
    hbm : of weights and activations [byte/s]; attention_hbm : of the KV cache [byte/s]
    prefill_flop, decode_flop : attention [FLOP/s]
    kernel : latency of one kernel inside a step; attention_start, experts_start : of those two, which are several [s]
    inner, outer : collectives in a domain and between domains; inner_moe, outer_moe : dispatch and combine
    domain : devices of a scale-up domain; skew : log-deviation of expert popularity; acceptance : of a draft token
    power : what a device draws of its TDP
    spread : the 80 % interval of a predicted time is [t / spread, t x spread]
    """

    gemm: Mapping[str, float]
    grouped: float
    unhidden: float
    hbm: float
    prefill_flop: float
    decode_flop: float
    attention_hbm: float
    kernel: float
    attention_start: float
    experts_start: float
    inner: Fabric
    outer: Fabric | None
    inner_moe: Fabric
    outer_moe: Fabric | None
    domain: int
    skew: float
    acceptance: float
    power: Power
    grade: str
    spread: float
    assumed: tuple[Assumption, ...]


def rates(machine: Machine, calibration: Calibration) -> Rates:
    """Datasheet x utilisation, for the family of the machine's device.

    Attention multiplies in 16 bits, whatever the weights: its rate is the device's bf16 (or fp32) peak x utilisation.
    """
    family = calibration.family(machine.family)
    gemm = {dtype: peak * family.util(dtype) for dtype, peak in machine.peak.items()}
    wide = machine.peak["bf16"] if "bf16" in machine.peak else machine.peak["fp32"]

    def fabric(link: Link, share: float, start: float) -> Fabric:
        return Fabric(
            bandwidth=link.bandwidth * share,
            pair=link.pair * share,
            alpha=link.latency + link.overhead,
            start=start,
            direct=link.semantics == "load-store",
            in_switch=link.in_switch_reduce,
        )

    def outward(share: float, start: float) -> Fabric | None:
        return fabric(machine.scale_out, share, start) if machine.scale_out else None

    start, dispatch_start = number(family.collective_start), number(family.dispatch_start)
    return Rates(
        gemm=gemm,
        grouped=number(family.grouped),
        unhidden=number(calibration.unhidden),
        hbm=machine.hbm_bandwidth * number(family.hbm),
        prefill_flop=wide * number(family.attention_prefill),
        decode_flop=wide * number(family.attention_decode),
        attention_hbm=machine.hbm_bandwidth * number(family.attention_hbm),
        kernel=number(family.kernel),
        attention_start=number(family.attention_start),
        experts_start=number(family.experts_start),
        inner=fabric(machine.scale_up, number(family.scale_up), start),
        outer=outward(number(family.scale_out), start),
        inner_moe=fabric(machine.scale_up, number(family.dispatch_up), dispatch_start),
        outer_moe=outward(number(family.dispatch_out), dispatch_start),
        domain=machine.domain,
        skew=number(calibration.skew),
        acceptance=number(calibration.acceptance),
        power=calibration.power,
        grade=calibration.grade_of(machine.family),
        spread=number(family.spread),
        assumed=(*machine.assumed, *calibration.assumed(machine.family, machine.peak)),
    )
