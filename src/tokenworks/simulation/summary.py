"""A simulation as plain data, with the names of `vllm bench serve`: the output of `simulate`, with the time series."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import cast

import numpy as np

from tokenworks.engine.metrics import Metrics
from tokenworks.engine.outcome import SERIES, PoolCounts
from tokenworks.engine.types import Status
from tokenworks.simulation.energy import mean_step, used
from tokenworks.simulation.experts_plain import experts_assumed, experts_plain
from tokenworks.simulation.faults_plain import faults_plain
from tokenworks.simulation.run import Simulation
from tokenworks.simulation.shape import (
    ClassPlain,
    CountsPlain,
    MetricsPlain,
    PowerPlain,
    RatesPlain,
    RolePlain,
    SeriesPlain,
    SimulateBody,
    SimulateInputs,
    TierPlain,
    TierWorthPlain,
)
from tokenworks.simulation.tier_worth import shortest_hit
from tokenworks.simulation.tiers import tiers_of
from tokenworks.specs.calibration import calibration_name
from tokenworks.specs.machine import Assumption
from tokenworks.specs.result import Plain, assumed_plain, envelope, inputs

FULL = 0.95
"""The KV cache, or the sequence slots, count as full from this share in use [-]."""


def plain(run: Simulation) -> Plain:
    """The complete result as plain data. Equal inputs give equal results, except for `wall`."""
    wall = {
        "kernel_s": run.kernel_s,
        "requests_per_s": len(run.outcome.status) / max(run.kernel_s, 1e-9),
        "steps": run.outcome.steps,
    }
    return envelope("simulate", _body(run), wall)


def _body(run: Simulation) -> SimulateBody:
    software = run.site.rates.software_for(run.deployment.roles)
    whole = {
        "inputs": _inputs(run),
        "grade": run.site.rates.grade,
        "software": [one.model_dump() for one in software],
        "spread": run.site.rates.spread,
        "partial": run.partial,
        "stable": run.stable,
        "backlog": {"at_s": list(run.backlog.at_s), "waiting": list(run.backlog.waiting)},
        **_requests(run),
        **_named(run, run.metrics),
        **_per_device(run),
        **_energy(run),
        "slo": {"text": str(run.slo), "met": run.meets_slo, **{k: asdict(v) for k, v in run.bounds.items()}},
        "preemptions": sum(pool.preemptions for pool in run.window.counts.pools),
        "classes": [_class(run, k) for k in range(len(run.traffic.classes))],
        "roles": [_role(run, i) for i in range(len(run.outcome.pools))],
        "tiers": tiers(run),
        "tier_worth": _worth(run),
        "series": series(run),
        "assumed": assumed_plain(_assumed(run)),
        "notes": list(run.notes),
    }
    body = cast(SimulateBody, whole)
    if run.tracks:
        body["experts"] = experts_plain(run)
    if run.faults:
        body["faults"] = faults_plain(run, run.faults)
    return body


def _inputs(run: Simulation) -> SimulateInputs:
    trace, deployment = run.traffic.trace, run.deployment
    common = inputs(
        model=deployment.model, machine=deployment.system, workload=run.traffic.workload, slo=str(run.slo),
        engine=deployment.engine, calibration=calibration_name(run.calibration),
        given=run.site.given,
    )  # fmt: skip
    return {
        **common,
        "deployment": run.deployment.model_dump(mode="json"),
        "devices": run.deployment.devices,
        "trace": trace.name,
        "source": trace.source,
        "requests": len(trace),
        "endless": run.traffic.endless,
        "concurrency": run.traffic.concurrency,
        "router": run.cluster.router.name,
        "seed": run.cluster.router.seed,
        "max_queue": run.cluster.pools[0].limits.max_queue,
        "block_tokens": run.cluster.pools[0].limits.block_tokens,
    }


def _requests(run: Simulation) -> CountsPlain:
    """State of all requests at the end, and the measured window."""
    count = run.outcome.count
    return {
        "measured_from_s": run.span.start_s,
        "measured_to_s": run.span.end_s,
        "completed_in_all": count(Status.COMPLETED),
        "unsent": count(Status.PENDING),
        "queued": count(Status.QUEUED),
        "running": count(Status.RUNNING),
        "rejected": count(Status.REJECTED),
        "failed": count(Status.FAILED),
    }


def _per_device(run: Simulation) -> RatesPlain:
    devices = run.deployment.devices
    return {
        "output_tok_s_per_device": run.metrics.output_throughput / devices,
        "total_tok_s_per_device": run.metrics.total_token_throughput / devices,
        "effective_tok_s_per_device": run.metrics.effective_throughput / devices,
    }


def _named(run: Simulation, totals: Metrics) -> MetricsPlain:
    """Metrics with the names of `vllm bench serve`; None without a request to take a mean of.

    In an unstable endless stream, TTFT and E2EL grow with the length of the simulation. So they have no mean: None.
    """
    endless = run.traffic.endless and not run.stable
    missing = ("ttft", "tpot", "itl", "e2el") if not totals.completed else ("ttft", "e2el") if endless else ()
    hidden = tuple(f"_{name}_ms" for name in missing)
    shown = {key: None if key.endswith(hidden) else value for key, value in asdict(totals).items()}
    return cast(MetricsPlain, shown)


def _class(run: Simulation, k: int) -> ClassPlain:
    """Class number `k` of the requests, with its metrics and its SLO."""
    one = run.traffic.classes[k]
    named = ((*name.rpartition("."), seen) for name, seen in run.bounds.items())
    own = {name: asdict(seen) for owner, _, name, seen in named if owner == one.name}
    met = run.by_class[k].completed > 0 and all(seen["met"] for seen in own.values())
    return {
        "class": one.name,
        "priority": one.priority,
        "requests": int(run.of_class(k).sum()),
        "slo": {"text": str(run.promises.slos[k]), "met": met, **own},
        **_named(run, run.by_class[k]),
    }


def _role(run: Simulation, number: int) -> RolePlain:
    pool, role, counts = run.cluster.pools[number], run.deployment.roles[number], run.window.counts.pools[number]
    steps = max(counts.steps, 1)
    return {
        "role": role.name,
        "instances": pool.instances,
        "ranks": pool.ranks,
        "devices": role.devices,
        "steps": counts.steps,
        "step_ms": 1e3 * counts.busy_s / steps,
        "mean_batch": counts.mean_batch,
        "prefill_tokens_per_step": counts.prefill_tokens / steps,
        "busy_share": counts.busy_s / (pool.instances * run.span.seconds),
        "link_busy_share": counts.link_busy_s / (pool.instances * run.span.seconds),
        "bound_by": roof_of(run, number),
        "prefill_tokens": counts.prefill_tokens,
        "output_tokens": counts.output_tokens,
        "query_tokens": counts.query_tokens,
        "hit_tokens": counts.hit_tokens,
        "hit_share": counts.hit_tokens / max(counts.query_tokens, 1),
        "preemptions": counts.preemptions,
        "evictions": counts.evictions,
    }


def _end(run: Simulation) -> float:
    """Time at which the last request ended, or at which the run was stopped [s]."""
    return max(run.outcome.now_s if run.partial else float(np.nanmax(run.outcome.end_s, initial=0.0)), 1e-12)


def roof_of(run: Simulation, number: int) -> str:
    """The roof of the mean step of a role: compute, hbm, latency, scale-up, scale-out or host."""
    return str(mean_step(run.deployment.roles[number], run.window.counts.pools[number], run.site).bound())


def _energy(run: Simulation) -> PowerPlain:
    """Power and energy of all devices over the whole run; None if the TDP of the device is not published."""
    watts = used(run.deployment.roles, run.outcome.pools, run.site, _end(run)).watts(run.site)
    tokens = sum(pool.output_tokens for pool in run.outcome.pools)
    if watts is None or not tokens:
        return {"watts_per_device": watts, "joules_per_output_token": None}
    joules = watts * run.deployment.devices * _end(run)
    return {"watts_per_device": watts, "joules_per_output_token": joules / tokens}


def _assumed(run: Simulation) -> Iterator[Assumption]:
    """Assumed numbers behind the step times, and behind the power if the result contains one."""
    yield from run.site.rates.assumed
    if run.cluster.tiers.stores:
        yield from tiers_of(run.deployment, run.site, run.cluster.pools[0]).assumed
    if run.faults:
        yield from run.faults.plan.assumed
    yield from experts_assumed(run)
    shares = run.site.rates.power
    if run.site.machine.tdp_assumed:
        yield run.site.machine.tdp_assumed
    if run.site.machine.tdp is not None and any(q.assumed for q in (shares.idle, shares.compute, shares.hbm)):
        written = f"idle {shares.idle.written}, compute {shares.compute.written}, hbm {shares.hbm.written} of TDP"
        yield Assumption("calibration.power", written, "priors; each says why in its file")


def tiers(run: Simulation) -> list[TierPlain]:
    """The KV cache in HBM and the tiers below: what each of them held, served and moved in the measured window.

    Bytes are those of one copy of the KV cache. In HBM, prefix hits and loads read, and steps write.
    """
    counts, block, size = run.window.counts, run.block_bytes, run.cluster.pools[0].limits.block_tokens

    def total(name: str) -> int:
        return int(sum(getattr(pool, name) for pool in counts.pools))

    def held(name: str) -> int:
        return int(sum(getattr(pool, name) * p.limits.block_tokens
                       for pool, p in zip(run.outcome.pools, run.cluster.pools, strict=True)))  # fmt: skip

    below = sum(tier.hit_blocks for tier in counts.tiers) * size
    queries, capacity = max(total("query_tokens"), 1), held("kv_total")
    hits, steps = total("hit_tokens") - below, total("prefill_tokens") + total("output_tokens")
    hbm: TierPlain = {
        "name": "hbm",
        "capacity_bytes": capacity * block / size,
        "used_share": held("kv_used") / max(capacity, 1),
        "hit_tokens": hits,
        "hit_share": hits / queries,
        "read_bytes": hits * block / size,
        "written_bytes": steps * block / size,
        "evictions": total("evictions"),
        "failed_loads": 0,
        "late_tokens": 0,
        "pays_from_tokens": None,
        "pays_from_share": None,
    }
    inputs = run.outcome.input_tokens
    lower: list[TierPlain] = [
        {
            "name": store.name,
            "capacity_bytes": tier.total * block,
            "used_share": tier.used / max(tier.total, 1),
            "hit_tokens": tier.hit_blocks * size,
            "hit_share": tier.hit_blocks * size / queries,
            "read_bytes": tier.read_blocks * block,
            "written_bytes": tier.written_blocks * block,
            "evictions": tier.evictions,
            "failed_loads": tier.failed,
            "late_tokens": tier.late_blocks * size,
            "pays_from_tokens": shortest,
            "pays_from_share": None if shortest is None else min(1.0, shortest / float(inputs.mean())),
        }
        for store, tier in zip(run.cluster.tiers.stores, counts.tiers, strict=True)
        for shortest in [shortest_hit(run.cluster.tiers, store, run.cluster.pools[0], int(inputs.max(initial=1)))]
    ]
    return [hbm, *lower]


def _worth(run: Simulation) -> TierWorthPlain | None:
    """Whether the tiers below HBM pay."""
    if run.worth is None or run.without is None:
        return None
    pools = run.without.window.counts.pools
    return {
        "pays": run.worth.pays,
        "without": _named(run.without, run.without.metrics),
        "without_effective_tok_s_per_device": run.without.metrics.effective_throughput / run.deployment.devices,
        "hit_share": run.worth.hit_share,
        "without_hit_share": sum(pool.hit_tokens for pool in pools) / max(sum(pool.query_tokens for pool in pools), 1),
        "belady_share": run.worth.belady_share,
        "endless_share": run.worth.endless_share,
        "enough_bytes": run.worth.enough_bytes,
    }


def series(run: Simulation) -> SeriesPlain:
    """Time series: levels at the end of each window, rates inside it, and what limited it.

    `bound` of a window is one of these words: `idle`; `arrivals` (no request waits for more than the running step);
    `kv-capacity` or `max-sequences` (requests wait for this resource); else the roof of the mean step of the busiest
    role.
    """
    outcome, width = run.outcome, run.outcome.window_s
    table = outcome.series[: math.ceil(_end(run) / width)]
    rows = dict(zip(SERIES, table.T, strict=True))
    places = sum(pool.instances * pool.ranks * pool.limits.max_sequences for pool in run.cluster.pools[-1:])
    queue = rows["waiting"] > sum(pool.instances * pool.ranks for pool in run.cluster.pools)
    used = rows["kv_used"] / max(sum(pool.kv_total for pool in outcome.pools), 1)
    work = rows["running"] + rows["output_tokens"] + rows["prefill_tokens"]
    conditions = [
        (work == 0) & (rows["waiting"] == 0),
        ~queue,
        used >= FULL,
        rows["running"] >= FULL * places,
    ]
    bound = np.select(
        conditions,
        ["idle", "arrivals", "kv-capacity", "max-sequences"],
        roof_of(run, busiest(run.window.counts.pools)),
    )
    return {
        "window_s": width,
        "running": rows["running"].tolist(),
        "waiting": rows["waiting"].tolist(),
        "kv_used": used.tolist(),
        "output_tok_s": (rows["output_tokens"] / width).tolist(),
        "prefill_tok_s": (rows["prefill_tokens"] / width).tolist(),
        "bound": bound.tolist(),
    }


def busiest(pools: tuple[PoolCounts, ...]) -> int:
    """Index of the role that computes longest."""
    return int(np.argmax([pool.busy_s for pool in pools]))
