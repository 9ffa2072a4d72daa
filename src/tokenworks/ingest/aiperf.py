"""`profile_export_aiperf.json` of AIPerf: one benchmark, of the phase that was profiled."""

from __future__ import annotations

import msgspec

from tokenworks.errors import SpecError
from tokenworks.ingest.benchmark import (
    Arrivals,
    Benchmark,
    Deviation,
    Lengths,
    Number,
    above_zero,
    decode,
    none_failed,
    time_of,
)
from tokenworks.ingest.rows import InFlight

FORM = "profile_export_aiperf.json of AIPerf"
ARRIVALS: dict[str, Arrivals] = {"concurrency": "at once", "poisson": "poisson", "constant": "constant"}
"""Load types of a phase that are simulated; gamma, user-centric and scheduled arrivals are not."""


class AiperfMetric(msgspec.Struct):
    """A metric over requests; of counts and rates there is the average alone."""

    unit: str
    avg: Number
    p50: Number | None = None
    std: Deviation | None = None


class Phase(msgspec.Struct):
    """One part of the load; what is left out of the results is warm-up."""

    type: str
    rate: Number = 0.0
    concurrency: InFlight | None = None
    exclude_from_results: bool = False


class AiperfConfig(msgspec.Struct):
    """What was asked for."""

    phases: list[Phase]


class Export(msgspec.Struct):
    """What is read of an export (AIPerf 0.13, schema 1.4); inter_token_latency is the mean gap of each request."""

    request_count: AiperfMetric
    benchmark_duration: AiperfMetric
    input_sequence_length: AiperfMetric
    output_sequence_length: AiperfMetric
    input_config: AiperfConfig
    time_to_first_token: AiperfMetric | None = None
    inter_token_latency: AiperfMetric | None = None
    error_request_count: AiperfMetric | None = None
    was_cancelled: bool = False


def read(data: bytes, where: str, name: str) -> tuple[Benchmark, ...]:
    """A file is one benchmark."""
    found = decode(data, Export, FORM, where)
    count = round(found.request_count.avg)
    none_failed(round(found.error_request_count.avg) if found.error_request_count else 0, count, where)
    if found.was_cancelled:
        raise SpecError("the run was cancelled", where=where, hint="measure again, to the end")
    phases = [phase for phase in found.input_config.phases if not phase.exclude_from_results]
    if len(phases) != 1:
        hint = "a point is one load: give the export of each phase"
        raise SpecError(f"{len(phases)} profiled phases", where=f"{where}: input_config.phases", hint=hint)
    (phase,) = phases
    if phase.type not in ARRIVALS:
        hint = f"simulated are {', '.join(ARRIVALS)}"
        raise SpecError(f"{phase.type!r}", where=f"{where}: input_config.phases: type", hint=hint)
    arrivals = ARRIVALS[phase.type]
    isl, osl = (_lengths(found, kind, where) for kind in ("input_sequence_length", "output_sequence_length"))
    seconds = _checked(found.benchmark_duration, "sec", "benchmark_duration", where)
    ttft, tpot = found.time_to_first_token, found.inter_token_latency
    return (
        Benchmark(
            # Exports of all runs have one file name, so what was run stands beside it.
            name=f"{name} {phase.type} {phase.rate or phase.concurrency or 0:g} {isl.mean:.0f}/{osl.mean:.0f}",
            arrivals=arrivals,
            rate=0.0 if arrivals == "at once" else above_zero(phase.rate, "input_config.phases: rate", where),
            concurrency=phase.concurrency,
            requests=count,
            isl=isl,
            osl=osl,
            ttft=time_of(ttft.p50, ttft.avg, "time_to_first_token", where) if ttft else None,
            tpot=time_of(tpot.p50, tpot.avg, "inter_token_latency", where) if tpot else None,
            tokens_per_s=count * (isl.mean + osl.mean) / seconds,
        ),
    )


def _lengths(found: Export, kind: str, where: str) -> Lengths:
    metric: AiperfMetric = getattr(found, kind)
    mean = _checked(metric, "tokens", kind, where)
    return Lengths(mean, None if metric.std is None else metric.std / mean)


def _checked(metric: AiperfMetric, unit: str, path: str, where: str) -> float:
    if metric.unit != unit:
        raise SpecError(f"unit {metric.unit!r}", where=f"{where}: {path}", hint=f"want {unit!r}")
    return above_zero(metric.avg, path, where)
