"""Reader for a result JSON of InferenceX (formerly InferenceMAX): one load, and the deployment that was measured.

Layout: SemiAnalysisAI/InferenceX, utils/process_result.py. Times are in seconds and have no suffix. In a disaggregated
result `output_tput_per_gpu` is per decode GPU and `input_tput_per_gpu` per prefill GPU; `tput_per_gpu` is per GPU.
"""

from __future__ import annotations

import math

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.benchmark import Benchmark, Lengths, Number, Time, above_zero, decode
from tokenworks.ingest.rows import InFlight, Tokens

FORM = "result of InferenceX"
SHARES = (0.8, 1.0)
"""Lengths are uniform between these shares of the nominal length (random_range_ratio 0.8 of InferenceX) [-]."""
WAVES = 10
"""Prompts for each request in flight (InferenceX sends 10 x concurrency prompts) [count]."""
UNEVEN = 0.01
"""Largest relative difference between the throughput and the sum of its input and output part, from rounding [-]."""
NOTE = "assumed: lengths are uniform in 0.8 to 1.0 of isl and osl, and 10 prompts per request in flight (InferenceX)"

Flag = bool | str
"""A switch: true, or the text "true"."""


class InferencexResult(msgspec.Struct):
    """The fields of a result that are read. Single-node results have `tp`, multi-node results `prefill_tp`."""

    hw: str
    model: str
    framework: str
    precision: str
    conc: InFlight
    isl: Tokens
    osl: Tokens
    tput_per_gpu: Number
    output_tput_per_gpu: Number | None = None
    input_tput_per_gpu: Number | None = None
    spec_decoding: str = "none"
    disagg: Flag = False
    tp: InFlight | None = None
    pp: InFlight = 1
    pcp_size: InFlight = 1
    ep: InFlight = 1
    dp_attention: Flag | None = False
    num_prefill_gpu: InFlight | None = None
    num_decode_gpu: InFlight | None = None
    prefill_tp: InFlight | None = None
    prefill_pp: InFlight = 1
    prefill_pcp_size: InFlight = 1
    prefill_ep: InFlight = 1
    prefill_dp_attention: Flag | None = False
    prefill_num_workers: InFlight = 1
    decode_tp: InFlight | None = None
    decode_pp: InFlight = 1
    decode_pcp_size: InFlight = 1
    decode_ep: InFlight = 1
    decode_dp_attention: Flag | None = False
    decode_num_workers: InFlight = 1
    median_ttft: Number | None = None
    mean_ttft: Number | None = None
    median_tpot: Number | None = None
    mean_tpot: Number | None = None
    joules_per_output_token: Number | None = None
    power_valid: Flag | int | None = None


def read(data: bytes, where: str, name: str) -> tuple[Benchmark, ...]:
    """Read a result: one benchmark in a closed loop. The result also describes its deployment (`Benchmark.point`)."""
    result = decode(data, InferencexResult, FORM, where)
    rate = above_zero(result.tput_per_gpu, "tput_per_gpu", where)
    point, devices = _point(result, where)
    share = sum(SHARES) / 2
    variation = (SHARES[1] - SHARES[0]) / math.sqrt(12) / share
    ttft = _time(result.median_ttft, result.mean_ttft, "median_ttft", where)
    tpot = _time(result.median_tpot, result.mean_tpot, "median_tpot", where)
    energy = _energy(result, where)
    label = f"{name} {result.hw} {result.framework} {result.conc}"
    return (
        Benchmark(
            name=label,
            arrivals="at once",
            rate=0.0,
            concurrency=result.conc,
            requests=WAVES * result.conc,
            isl=Lengths(share * result.isl, variation, nominal=result.isl),
            osl=Lengths(share * result.osl, variation, nominal=result.osl),
            ttft=ttft,
            tpot=tpot,
            tokens_per_s=rate * devices,
            joules_per_output_token=energy,
            notes=(NOTE, *_uneven(result, devices)),
            point=point
            | {
                "point_id": label, "model": result.model, "weights": result.precision, "device": result.hw,
                "engine": result.framework, "spec_decode": result.spec_decoding, "load": "closed",
                "n_devices": str(devices), "concurrency": str(result.conc), "n_requests": str(WAVES * result.conc),
                "isl": str(result.isl), "osl": str(result.osl), "isl_mean": str(share * result.isl),
                "osl_mean": str(share * result.osl), "total_tok_s_per_gpu": str(rate),
            }
            | _times("ttft_ms", ttft) | _times("tpot_ms", tpot)
            | ({"joules_per_output_token": str(energy)} if energy else {}),
        ),
    )  # fmt: skip


def _time(median: float | None, mean: float | None, path: str, where: str) -> Time | None:
    """A time from seconds: the median, else the mean; None if the result has neither, or zero."""
    value = mean if median is None else median
    return None if not value else Time(above_zero(value, path, where), mean=median is None)


def _energy(result: InferencexResult, where: str) -> float | None:
    """Energy per output token [J]; None if it was not measured, or if InferenceX marks the power as not valid."""
    energy = result.joules_per_output_token
    if not energy or (result.power_valid is not None and str(result.power_valid).lower() not in ("1", "true")):
        return None
    return above_zero(energy, "joules_per_output_token", where)


def _times(column: str, time: Time | None) -> dict[str, str]:
    """A time as the column of a CSV of measured points [ms]."""
    return {f"{column}_{'mean' if time.mean else 'median'}": str(1e3 * time.seconds)} if time else {}


def _point(result: InferencexResult, where: str) -> tuple[dict[str, str], int]:
    """Mode and parallel widths as columns, and the number of devices [count]."""
    if _on(result.disagg):
        columns, total = {"mode": "disagg"}, 0
        for role, workers in (("prefill", result.prefill_num_workers), ("decode", result.decode_num_workers)):
            one, devices = _widths(result, f"{role}_", where)
            stated = getattr(result, f"num_{role}_gpu")
            if stated is not None and stated != devices * workers:
                words = f"{stated} GPUs, but {workers} workers have {devices} each"
                raise SpecError(words, where=f"{where}: num_{role}_gpu", hint="correct the result file")
            columns |= {f"{role}_{key}": value for key, value in one.items()} | {f"{role}_workers": str(workers)}
            total += devices * workers
        return columns, total
    one, devices = _widths(result, "" if result.tp is not None else "decode_", where)
    workers = 1 if result.tp is not None else result.decode_num_workers
    return {"mode": "agg"} | one, devices * workers


def _widths(result: InferencexResult, prefix: str, where: str) -> tuple[dict[str, str], int]:
    """The widths of one instance. With dp_attention the `tp` GPUs of a stage are attention data parallel ranks."""
    tp = getattr(result, f"{prefix}tp")
    if tp is None:
        hint = "a single-node result has tp, a multi-node result has prefill_tp and decode_tp"
        raise SpecError(f"no {prefix}tp", where=where, hint=hint)
    pp, context, ep = (getattr(result, f"{prefix}{name}") for name in ("pp", "pcp_size", "ep"))
    if context > 1:
        raise SpecError(
            f"{context}: context parallelism of the prefill is not simulated", where=f"{where}: {prefix}pcp_size",
            hint="give a result with pcp_size 1",
        )  # fmt: skip
    ranks = _on(getattr(result, f"{prefix}dp_attention"))
    widths = {"devices": tp * pp, "tp": 1 if ranks else tp, "dp": tp if ranks else 1, "pp": pp, "ep": ep}
    return {key: str(value) for key, value in widths.items()}, tp * pp


def _on(flag: Flag | None) -> bool:
    """True for a switch that is true, or the text "true"."""
    return str(flag).lower() == "true"


def _uneven(result: InferencexResult, devices: int) -> tuple[str, ...]:
    """A note if throughput is not the sum of input and output throughput, each over its own GPUs."""
    put, got = result.input_tput_per_gpu, result.output_tput_per_gpu
    if not put or not got:
        return ()
    before, after = (result.num_prefill_gpu or devices, result.num_decode_gpu or devices)
    total = (put * before + got * after) / devices
    if abs(total / result.tput_per_gpu - 1) <= UNEVEN:
        return ()
    return (f"tput_per_gpu is {result.tput_per_gpu:g}, but input and output add up to {total:g} token/s per GPU",)
