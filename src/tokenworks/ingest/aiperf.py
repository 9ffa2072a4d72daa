"""Reader for `profile_export_aiperf.json` of AIPerf: one benchmark, the profiled phase.

`aiperf_records` reads the single requests of the same run, `profile_export.jsonl`.
"""

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
    failures,
    time_of,
)
from tokenworks.ingest.rows import InFlight

FORM = "profile_export_aiperf.json of AIPerf"
ARRIVALS: dict[str, Arrivals] = {"concurrency": "at once", "poisson": "poisson", "constant": "constant"}
"""Load type of a phase -> arrivals in the simulation. Gamma, user-centric and scheduled arrivals are not simulated."""


class AiperfMetric(msgspec.Struct):
    """A metric over requests. Counts and rates have only an average."""

    unit: str
    avg: Number
    p50: Number | None = None
    std: Deviation | None = None


class Phase(msgspec.Struct):
    """One phase of the load. A phase that is excluded from the results is a warm-up."""

    type: str
    rate: Number = 0.0
    concurrency: InFlight | None = None
    exclude_from_results: bool = False


class LoadGenerator(msgspec.Struct):
    """The load as AIPerf before 0.13 writes it."""

    concurrency: InFlight | None = None
    request_rate: Number | None = None
    request_rate_mode: str | None = None


class AiperfConfig(msgspec.Struct):
    """The settings of the run: phases, or one load generator (before 0.13)."""

    phases: list[Phase] | None = None
    loadgen: LoadGenerator | None = None


class Export(msgspec.Struct):
    """The fields of an export that are read (AIPerf 0.13, schema 1.4); inter_token_latency: mean gap of a request."""

    request_count: AiperfMetric
    benchmark_duration: AiperfMetric
    input_sequence_length: AiperfMetric
    output_sequence_length: AiperfMetric
    input_config: AiperfConfig | None = None
    time_to_first_token: AiperfMetric | None = None
    inter_token_latency: AiperfMetric | None = None
    error_request_count: AiperfMetric | None = None
    was_cancelled: bool = False


def read(data: bytes, where: str, name: str) -> tuple[Benchmark, ...]:
    """Read an export: one benchmark."""
    export = decode(data, Export, FORM, where)
    count = round(export.request_count.avg)
    failed = round(export.error_request_count.avg) if export.error_request_count else 0
    notes = failures(failed, count, where)
    if export.was_cancelled:
        raise SpecError("the run was cancelled", where=where, hint="measure again, to the end")
    phase, arrivals = _load(export.input_config, where)
    isl, osl = (_lengths(export, kind, where) for kind in ("input_sequence_length", "output_sequence_length"))
    seconds = _checked(export.benchmark_duration, "sec", "benchmark_duration", where)
    ttft, tpot = export.time_to_first_token, export.inter_token_latency
    load = f" {phase.type} {phase.rate or phase.concurrency or 0:g}" if phase else ""
    rated = phase is not None and arrivals in ("poisson", "constant")
    return (
        Benchmark(
            # The exports of all runs have the same file name, so the load is part of the point's name.
            name=f"{name}{load} {isl.mean:.0f}/{osl.mean:.0f}",
            arrivals=arrivals,
            rate=above_zero(phase.rate, "input_config.phases: rate", where) if phase and rated else 0.0,
            concurrency=phase.concurrency if phase else None,
            requests=count,
            isl=isl,
            osl=osl,
            ttft=time_of(ttft.p50, ttft.avg, "time_to_first_token", where) if ttft else None,
            tpot=time_of(tpot.p50, tpot.avg, "inter_token_latency", where) if tpot else None,
            tokens_per_s=count * (isl.mean + osl.mean) / seconds,
            notes=notes,
        ),
    )


def _load(config: AiperfConfig | None, where: str) -> tuple[Phase | None, Arrivals | None]:
    """The profiled phase and its arrivals; None if the export does not record them."""
    if config is None or (config.phases is None and config.loadgen is None):
        return None, None
    if config.phases is None and config.loadgen is not None:
        how = config.loadgen
        kind = (how.request_rate_mode or "poisson") if how.request_rate else "concurrency"
        phases = [Phase(kind, how.request_rate or 0.0, how.concurrency)]
    else:
        phases = [phase for phase in config.phases or () if not phase.exclude_from_results]
    if len(phases) != 1:
        hint = "a measured point has one load: give one export for each phase"
        raise SpecError(f"{len(phases)} profiled phases", where=f"{where}: input_config.phases", hint=hint)
    (phase,) = phases
    if phase.type not in ARRIVALS:
        hint = f"these can be simulated: {', '.join(ARRIVALS)}"
        raise SpecError(f"{phase.type!r} cannot be simulated", where=f"{where}: input_config.phases: type", hint=hint)
    return phase, ARRIVALS[phase.type]


def _lengths(export: Export, kind: str, where: str) -> Lengths:
    metric: AiperfMetric = getattr(export, kind)
    mean = _checked(metric, "tokens", kind, where)
    return Lengths(mean, None if metric.std is None else metric.std / mean)


def _checked(metric: AiperfMetric, unit: str, path: str, where: str) -> float:
    """The average of a metric, which must have this unit and be above zero."""
    if metric.unit != unit:
        raise SpecError(f"unit {metric.unit!r}", where=f"{where}: {path}", hint=f"want {unit!r}")
    return above_zero(metric.avg, path, where)
