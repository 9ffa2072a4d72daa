"""What a machine achieves: its datasheet times the utilisations of a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenworks.costs.collectives import Fabric
from tokenworks.specs.calibration import Calibration, curve_of, number
from tokenworks.specs.machine import Assumption, Link, Machine


@dataclass(frozen=True, slots=True)
class Curve:
    """Achieved rate at many rows [FLOP/s], and the rows at which half of it is reached."""

    rate: float
    half: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Achievable rates of one device and its links.

    gemm : for each dtype that the device computes in; hbm : of weights and activations [byte/s]
    prefill_flop, decode_flop : attention [FLOP/s]; attention_hbm : of the KV cache [byte/s]
    kernel : latency of one kernel inside a step [s]
    inner, outer : collectives in a domain and between domains; inner_moe, outer_moe : dispatch and combine
    domain : devices of a scale-up domain; skew : log-deviation of expert popularity; acceptance : of a draft token
    spread : the 80 % interval of a predicted time is [t / spread, t x spread]
    """

    gemm: Mapping[str, Curve]
    hbm: float
    prefill_flop: float
    decode_flop: float
    attention_hbm: float
    kernel: float
    inner: Fabric
    outer: Fabric | None
    inner_moe: Fabric
    outer_moe: Fabric | None
    domain: int
    skew: float
    acceptance: float
    grade: str
    spread: float
    assumed: tuple[Assumption, ...]

    @property
    def peak(self) -> Mapping[str, float]:
        """The dtypes that the device computes in, as `roofline.compute_dtype` wants them [FLOP/s]."""
        return {dtype: curve.rate for dtype, curve in self.gemm.items()}


def rates(machine: Machine, calibration: Calibration) -> Rates:
    """Datasheet x utilisation, for the family of the machine's device.

    Attention multiplies in 16 bits, whatever the weights: its rate is the device's bf16 (or fp32) peak x utilisation.
    """
    family = calibration.family(machine.family)
    gemm = {
        dtype: Curve(peak * number(curve_of(family, dtype).peak), number(curve_of(family, dtype).half))
        for dtype, peak in machine.peak.items()
    }
    wide = machine.peak["bf16"] if "bf16" in machine.peak else machine.peak["fp32"]

    def fabric(link: Link, share: float) -> Fabric:
        return Fabric(
            bandwidth=link.bandwidth * share,
            pair=link.pair * share,
            alpha=link.latency + link.overhead,
            start=number(family.collective_start),
            direct=link.semantics == "load-store",
            in_switch=link.in_switch_reduce,
        )

    def outward(share: float) -> Fabric | None:
        return fabric(machine.scale_out, share) if machine.scale_out else None

    return Rates(
        gemm=gemm,
        hbm=machine.hbm_bandwidth * number(family.hbm),
        prefill_flop=wide * number(family.attention_prefill),
        decode_flop=wide * number(family.attention_decode),
        attention_hbm=machine.hbm_bandwidth * number(family.attention_hbm),
        kernel=number(family.kernel),
        inner=fabric(machine.scale_up, number(family.scale_up)),
        outer=outward(number(family.scale_out)),
        inner_moe=fabric(machine.scale_up, number(family.dispatch_up)),
        outer_moe=outward(number(family.dispatch_out)),
        domain=machine.domain,
        skew=number(calibration.skew),
        acceptance=number(calibration.acceptance),
        grade=calibration.grade,
        spread=number(family.spread),
        assumed=(*machine.assumed, *calibration.assumed(machine.family)),
    )
