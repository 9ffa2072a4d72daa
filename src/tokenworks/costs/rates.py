"""Achieved rates of a machine: datasheet rates x utilisations of a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenworks.costs.collectives import LinkRates
from tokenworks.specs.calibration import Calibration, Power, number
from tokenworks.specs.interval import Distance, combined_spread
from tokenworks.specs.machine import Assumption, Link, Machine


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates that one device and its links achieve.

    Parameters
    ----------
    gemm : dtype -> rate of GEMMs with many rows [FLOP/s]
    grouped : dtype -> rate of the grouped GEMMs of experts with many rows [FLOP/s]
    hbm : bandwidth of GEMMs, for weights and activations [byte/s]
    experts_hbm : bandwidth of the grouped GEMMs of experts [byte/s]
    prefill_flop, decode_flop : rate of prefill attention, and of decode attention [FLOP/s]
    attention_hbm : bandwidth of attention, for the KV cache [byte/s]
    query : additional cache entries that a prefill query costs, beside those that it reads [count]
    sequence : additional cache entries that a decoding sequence costs, beside those that it reads [count]
    elementwise : bandwidth of the small kernels between GEMMs [byte/s]
    kernel : latency of one kernel inside a step [s]
    blockwise : engine -> kernel latencies of a model with FP8 in blocks / kernel latencies of other models [-]
    walk : time of a GEMM tile per 8-bit element of k: no GEMM is faster than k x walk [s]
    attention_start : latency of attention, which is several kernels [s]
    context_walk : latency of decode attention per token of context [s]
    experts_start : latency of an expert layer, which is several kernels [s]
    expert : additional latency per touched expert [s]
    inner, outer : links for collectives, inside a domain and between domains
    inner_moe, outer_moe : links for dispatch and combine, inside a domain and between domains
    domain : devices of a scale-up domain [count]
    skew : log-deviation of expert popularity [-]
    acceptance : probability that a draft token is accepted [-]
    power : shares of TDP that a device draws
    grade : datasheet, kernel-calibrated or end-to-end-calibrated
    spread : 80 % of measured times lie in [t / spread, t x spread] around a predicted time t [-]
    ttft_spread : the same factor for TTFT [-]
    draft_widening : with draft tokens, the factor is spread ** draft_widening [-]
    distance : how near the measured points of the calibration are to the device
    speed_spread : the factor for throughput at a given speed per user, without draft tokens [-]
    other_spreads : factors of errors that are independent of the device, such as an engine that was not measured [-]
    assumed : assumed numbers of the machine and of the calibration
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
    distance: Distance
    speed_spread: float
    assumed: tuple[Assumption, ...]
    other_spreads: tuple[float, ...] = ()

    def spread_of(self, draft_tokens: float) -> float:
        """The factor of the 80 % interval for TPOT and step times.

        Parameters
        ----------
        draft_tokens : draft tokens per step; 0 = no speculation [token]

        Returns
        -------
        Factor: the interval of t is [t / factor, t x factor] [-].
        """
        return self._widened(self.spread, draft_tokens)

    def throughput_spread(self, draft_tokens: float) -> float:
        """The factor of the 80 % interval for throughput at a given speed per user, and for rates within an SLO.

        A deployment that is 10 % slower than predicted runs smaller batches to keep a given speed. So its throughput
        is lower by more than 10 %, and the factor is larger than the factor of TPOT (`spread_of`).

        Parameters
        ----------
        draft_tokens : draft tokens per step; 0 = no speculation [token]

        Returns
        -------
        Factor: the interval of a throughput x is [x / factor, x * factor] [-].
        """
        return max(self._widened(self.speed_spread, draft_tokens), self.spread_of(draft_tokens))

    def _widened(self, spread: float, draft_tokens: float) -> float:
        """The factor with the error of draft tokens, and with all independent errors."""
        return combined_spread(spread**self.draft_widening if draft_tokens else spread, *self.other_spreads)


def rates(machine: Machine, calibration: Calibration) -> Rates:
    """Achieved rates of a machine: datasheet rate x utilisation of the device's family.

    Attention multiplies in 16 bits for every weight format. Its rate is the bf16 peak (fp32 if the device has no bf16)
    x utilisation.

    Parameters
    ----------
    machine : datasheet rates and links
    calibration : utilisations, latencies and interval factors of device families

    Returns
    -------
    Rates that the cost functions use.

    References
    ----------
    [1] Williams et al., Roofline, CACM 52(4), 2009 (peak rates as roofs).
    """
    family = calibration.family(machine.family)
    near = calibration.nearness(machine)
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
        power=family.power or calibration.power,
        grade=calibration.grade_of(machine),
        spread=calibration.tpot_law(machine.family).at(near, least=number(family.spread)),
        ttft_spread=number(calibration.ttft_spread),
        draft_widening=number(calibration.draft_widening),
        distance=near.distance,
        speed_spread=calibration.throughput_law(machine.family).at(near),
        assumed=(*machine.assumed, *calibration.assumed(machine)),
    )
