"""Achieved rates of a machine: datasheet rates x utilisations of a calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs.collectives import LinkRates
from tokenworks.costs.moe import Balance
from tokenworks.specs.calibration import Calibration, Power, number
from tokenworks.specs.deployment import Role
from tokenworks.specs.engine import Engine
from tokenworks.specs.interval import Distance, combined_spread
from tokenworks.specs.machine import Assumption, Link, Machine
from tokenworks.specs.model import Model
from tokenworks.specs.software import Software


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates that one device and its links achieve.

    Parameters
    ----------
    gemm : dtype -> rate of GEMMs with many rows [FLOP/s]
    grouped : dtype -> rate of the grouped GEMMs of experts with many rows [FLOP/s]
    hbm : bandwidth of GEMMs, for weights and activations [byte/s]
    experts_hbm : bandwidth of the grouped GEMMs of experts [byte/s]
    packed_experts : rates of grouped GEMMs with 4-bit integer weights / rates with 16-bit weights [-]
    prefill_flop, decode_flop : rate of prefill attention, and of decode attention [FLOP/s]
    latent_flop : dtype of the latents -> rate of decode attention on latents (MLA) [FLOP/s]
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
    skew, rank_skew : log-deviation of expert popularity, within a step and between ranks [-]
    acceptance, later_acceptance : probability that the first draft token is accepted, and that a later one is, if the
        token before was [-]
    power : shares of TDP that a device draws
    grade : datasheet, kernel-calibrated or end-to-end-calibrated
    spread : 80 % of measured times lie in [t / spread, t x spread] around a predicted time t [-]
    ttft_spread : the same factor for TTFT [-]
    drafted, speed_drafted : factors of the error that draft tokens alone add, to times and to throughput at a given
        speed per user [-]
    distance : how near the measured points of the calibration are to the device
    request : time that client, HTTP and tokeniser add to TTFT; None: the number of the engine [s]
    speed_spread : the factor for throughput at a given speed per user, without draft tokens [-]
    other_spreads : factors of errors that are independent of the device, such as an engine that was not measured [-]
    assumed : assumed numbers of the machine and of the calibration
    balance : known balance of the expert-parallel ranks; None: `skew` and `rank_skew` say it
    measured_software : software stacks with measured points on the device, or on others of its vendor, of all engines
        and models
    software : those of them with the engine and the model, see `with_engine`
    """

    gemm: Mapping[str, float]
    grouped: Mapping[str, float]
    hbm: float
    experts_hbm: float
    packed_experts: float
    prefill_flop: float
    decode_flop: float
    latent_flop: Mapping[str, float]
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
    rank_skew: float
    acceptance: float
    later_acceptance: float
    power: Power
    grade: str
    spread: float
    ttft_spread: float
    drafted: float
    speed_drafted: float
    distance: Distance
    request: float | None
    speed_spread: float
    assumed: tuple[Assumption, ...]
    other_spreads: tuple[float, ...] = ()
    balance: Balance | None = None
    measured_software: tuple[Software, ...] = ()
    software: tuple[Software, ...] = ()

    def software_of(self, draft_tokens: float) -> Software | None:
        """The software stack whose measured points a step time rests on; None: there are none.

        Parameters
        ----------
        draft_tokens : draft tokens per step; 0 = no speculation [token]
        """
        return next((one for one in self.software if one.drafts == (draft_tokens > 0)), None)

    def software_for(self, roles: Iterable[Role]) -> tuple[Software, ...]:
        """The software stacks whose measured points the step times of roles rest on, each once, at their TP widths.

        Parameters
        ----------
        roles : the roles
        """
        widths: dict[bool, set[int]] = {}
        for role in roles:
            widths.setdefault(role.draft_tokens > 0, set()).add(role.parallel.tp)
        found = ((self.software_of(drafts), tps) for drafts, tps in sorted(widths.items()))
        return tuple(one.used(tps) for one, tps in found if one)

    def software_time(self, draft_tokens: FloatArray, tp: FloatArray) -> FloatArray:
        """Time of a step with this software / its time by all other constants; 1 without measured points [-].

        Parameters
        ----------
        draft_tokens : draft tokens per step; 0 = no speculation [token]
        tp : TP width [-]
        """
        plain, drafted = (one.at(tp) if (one := self.software_of(drafts)) else 1.0 for drafts in (0, 1))
        return np.where(np.asarray(draft_tokens) > 0, drafted, plain)

    def spread_of(self, draft_tokens: float) -> float:
        """The factor of the 80 % interval for TPOT and step times.

        Parameters
        ----------
        draft_tokens : draft tokens per step; 0 = no speculation [token]

        Returns
        -------
        Factor: the interval of t is [t / factor, t x factor] [-].
        """
        return self._widened(self.spread, self.drafted if draft_tokens else 1.0)

    def request_of(self, engine: Engine) -> float:
        """Time that client, HTTP and tokeniser add to TTFT, once per role: calibrated, or the number of the engine [s].

        Parameters
        ----------
        engine : the serving engine
        """
        return number(engine.request) if self.request is None else self.request

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
        wide = self._widened(self.speed_spread, self.speed_drafted if draft_tokens else 1.0)
        return max(wide, self.spread_of(draft_tokens))

    def _widened(self, spread: float, drafted: float) -> float:
        """The factor with the error of draft tokens, and with all other independent errors."""
        return combined_spread(spread, drafted, *self.other_spreads)


def drafts_alone(spread: float, widening: float) -> float:
    """Factor of the error that draft tokens add to that of a device with measured points.

    On such devices, the factor with draft tokens is spread ** widening. What drafts add does not depend on the device:
    how many tokens a model accepts, and what an engine does between drafting and verifying.

    Parameters
    ----------
    spread : factor of measured devices without draft tokens [-]
    widening : ln of the factor with draft tokens / ln of the factor without [-]
    """
    return math.exp(math.sqrt(max(widening**2 - 1, 0.0)) * math.log(spread))


PACKED = 1.6
"""Interval factor of a model whose experts are 4-bit integers on a device without measured kernels for them: these are
as fast as kernels with 16-bit weights, or take four times as long (kernel tables of H100 and B200), and are a part of
the step; assumed [-]."""


def with_engine(reached: Rates, engine: Engine, model: Model) -> Rates:
    """The rates with the measured software stacks of an engine and a model.

    Intervals then cover what is not known of the engine on this device, and of its kernels.

    Parameters
    ----------
    reached : rates of the machine
    engine : the engine on the devices of the machine, see `Engine.on`
    model : the model with its weights
    """
    packed = any(
        matrix.part == "experts" and matrix.format.bytes < 1 and matrix.format.compute not in ("fp4", "fp8")
        for block in model.blocks
        for matrix in block.matrices
    )
    others = (engine.maturity, PACKED if packed and reached.packed_experts < 1 else 1.0)
    return replace(
        reached,
        other_spreads=(*reached.other_spreads, *(one for one in others if one > 1)),
        software=tuple(one for one in reached.measured_software if one.runs(engine.name, model)),
    )


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
    near, widening = calibration.nearness(machine), number(calibration.draft_widening)
    times, speeds = calibration.tpot_law(machine.family), calibration.throughput_law(machine.family)
    gemm = {dtype: family.utilised(family.util(dtype), dtype, peak) for dtype, peak in machine.peak.items()}
    wide = "bf16" if "bf16" in machine.peak else "fp32"

    def attends(share: float) -> float:
        return family.utilised(share, wide, machine.peak[wide])

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
        grouped={
            dtype: family.utilised(family.grouped_util(dtype), dtype, peak) for dtype, peak in machine.peak.items()
        },
        hbm=machine.hbm_bandwidth * number(family.hbm),
        experts_hbm=machine.hbm_bandwidth * number(family.experts_hbm),
        packed_experts=number(family.packed_experts),
        prefill_flop=attends(number(family.attention_prefill)),
        decode_flop=attends(number(family.attention_decode)),
        latent_flop={
            "bf16": attends(number(family.latent_decode)),
            "fp8": attends(number(family.latent_decode)) * number(family.latent_fp8),
        },
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
        rank_skew=number(calibration.rank_skew),
        acceptance=number(calibration.acceptance),
        later_acceptance=number(calibration.later_acceptance),
        power=family.power or calibration.power,
        grade=calibration.grade_of(machine),
        spread=times.at(near, least=number(family.spread)),
        ttft_spread=number(calibration.ttft_spread),
        drafted=drafts_alone(times.factor("device"), widening),
        speed_drafted=drafts_alone(speeds.factor("device"), widening),
        distance=near.distance,
        request=None if family.request is None else number(family.request),
        speed_spread=speeds.at(near),
        assumed=(*machine.assumed, *calibration.assumed(machine)),
        measured_software=calibration.software_on(machine),
    )
