"""Simulate a deployment under a trace, request by request: from specs to an engine run to a typed result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tokenworks.costs import step
from tokenworks.costs.rates import rates
from tokenworks.costs.split import KV_BYTES, Split
from tokenworks.engine.engine import Engine, warm_up
from tokenworks.engine.metrics import Metrics
from tokenworks.engine.types import SERIES, Cluster, Outcome, PoolCounts, Requests, Router, RouterName, Status
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.plan import measures
from tokenworks.plan.cluster import Around, Site, cluster
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model
from tokenworks.specs.model import kv_bytes_per_token
from tokenworks.specs.slo import Slo
from tokenworks.specs.trace import Trace

Watch = Callable[[float, float], None]

EVENT_DELAY = 0.02
"""Cache events reach the router so much later [s]; assumed: the end of a step, and a message."""

PARTS = 64
"""The time in which requests are sent is played in so many parts, between which a run can be watched and stopped."""

WINDOWS = 300
FULL = 0.95
"""KV cache or places of which this share is taken count as full [-]."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent to a deployment.

    trace : block hashes, if any, are those of KV blocks of `hash_block_tokens`
    endless : the trace is a sample of a stream that goes on, so its steady part is measured; else it is all there is
    concurrency : requests that the client keeps in flight at most, 0 = no limit
    """

    trace: Trace
    endless: bool = False
    concurrency: int = 0


@dataclass(frozen=True)
class Simulation:
    """What came of it. `outcome` has every request; `summary` says it in the words of `vllm bench serve`.

    partial : it was stopped; kernel_s : wall time in the engine [s]
    """

    deployment: Deployment
    traffic: Traffic
    site: Site
    cluster: Cluster
    slo: Slo
    outcome: Outcome
    partial: bool = False
    notes: tuple[str, ...] = ()
    kernel_s: float = field(default=0.0, compare=False)

    @cached_property
    def span(self) -> measures.Span:
        """What is measured."""
        return measures.Span.of(self.outcome, endless=self.traffic.endless)

    @cached_property
    def metrics(self) -> Metrics:
        """Of the requests that completed in it."""
        return measures.measure(self.outcome, self.slo, self.span)

    @cached_property
    def bounds(self) -> dict[str, measures.Seen]:
        """The SLO's bounds, and what was seen."""
        return measures.bounds(self.outcome, self.slo, self.span)

    @cached_property
    def backlog(self) -> measures.Backlog:
        """The queue while requests were sent."""
        return measures.Backlog.of(self.outcome)

    @property
    def stable(self) -> bool:
        """Whether the queue stayed; of an endless stream that it did not, mean waits mean nothing."""
        return self.backlog.stable

    @property
    def meets_slo(self) -> bool:
        """Whether all bounds held, at their percentiles, on a queue that stayed."""
        return self.stable and self.metrics.completed > 0 and all(bound.met for bound in self.bounds.values())

    def summary(self) -> dict[str, Any]:
        """Plain data; the same input gives the same, but for `wall`."""
        return {
            "inputs": _inputs(self),
            "grade": self.site.rates.grade,
            "spread": self.site.rates.spread,
            "partial": self.partial,
            "stable": self.stable,
            "backlog": {"at_s": self.backlog.at_s, "waiting": self.backlog.waiting},
            **_requests(self),
            **_metrics(self),
            "slo": {"text": str(self.slo), "met": self.meets_slo, **{k: asdict(v) for k, v in self.bounds.items()}},
            "preemptions": sum(pool.preemptions for pool in self.outcome.pools),
            "roles": [_role(self, i) for i in range(len(self.outcome.pools))],
            "tiers": [_tier(self)],
            "series": series(self),
            "assumed": [{"path": a.path, "value": a.value, "why": a.why} for a in self.site.rates.assumed],
            "notes": list(self.notes),
            "wall": {
                "kernel_s": self.kernel_s,
                "requests_per_s": len(self.outcome.status) / max(self.kernel_s, 1e-9),
                "steps": self.outcome.steps,
            },
        }


def simulate(
    deployment: Deployment,
    traffic: Traffic,
    *,
    slo: Slo = Slo(),  # noqa: B008 - frozen, binds nothing
    router: RouterName | None = None,
    seed: int = 0,
    assume: Path | None = None,
    watch: Watch | None = None,
) -> Simulation:
    """Play a trace through a deployment.

    Parameters
    ----------
    router : how requests find an instance and rank; None: prefix_aware where prefixes are shared, else least_loaded
    seed : of a router that draws
    assume : numbers to use instead, see `specs.compose.machine`
    watch : called with the simulated time, and the time at which the last request comes by itself [s]

    Raises
    ------
    SpecError : a role breaks a rule, or no request is within the model's context
    DoesNotFit : the deployment does not fit the machine, or no request fits its cache
    """
    trace = traffic.trace
    on, engine = machine(deployment.system, assume=assume), load_engine(deployment.engine)
    shared = trace.hash_block_tokens > 0
    model = load_model(deployment.model)
    site = Site(model, on, engine, rates(on, load_calibration()), _around(trace, model.max_context))
    made = cluster(
        deployment,
        site,
        router=Router(router or ("prefix_aware" if shared else "least_loaded"), event_delay_s=EVENT_DELAY, seed=seed),
        block_tokens=trace.hash_block_tokens or engine.kv_block,
        prefix_caching=shared,
        concurrency=traffic.concurrency,
        window_s=_window(float(trace.arrival_s[-1])),
    )
    requests = requests_of(trace)
    notes = _refused(made, requests, site)
    outcome, partial, kernel_s = _play(made, requests, watch)
    return Simulation(deployment, traffic, site, made, slo, outcome, partial, notes, kernel_s)


def _around(trace: Trace, max_context: int) -> Around:
    """Of the requests that the model reads, if there are any."""
    read = trace.input_tokens.astype(np.int64) + trace.output_tokens <= max_context
    kept = read if read.any() else np.ones_like(read)
    return Around.of(trace.input_tokens[kept], trace.output_tokens[kept])


def requests_of(trace: Trace) -> Requests:
    """A trace as the engine takes it: of a request that waits for another one the think time, else when it comes."""
    return Requests.of(
        np.where(trace.parent >= 0, trace.think_s, trace.arrival_s),
        trace.input_tokens,
        trace.output_tokens,
        after=trace.parent,
        block_ids=trace.hash_ids,
        block_offsets=trace.hash_offsets,
    )


def _window(seconds: float) -> float:
    """Width of the time series: 1, 2 or 5 times a power of ten, at least 1 s, for at most `WINDOWS` of them."""
    least = max(seconds / WINDOWS, 1.0)
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9)))


def _refused(made: Cluster, requests: Requests, site: Site) -> tuple[str, ...]:
    """Words for requests that no rank takes; an error where that is all of them."""
    total = requests.input_tokens.astype(np.int64) + requests.output_tokens
    long, never = total > site.model.max_context, made.never_fits(requests.input_tokens, requests.output_tokens)
    context = f"the {site.model.max_context:,} tokens that {site.model.name} reads"
    if long.all():
        raise SpecError(f"all {len(requests)} requests are beyond {context} (the shortest: {total.min():,})")
    room = min(pool.limits.kv_blocks * pool.limits.block_tokens for pool in made.pools)
    if never.all():
        raise DoesNotFit(f"no request fits the {room:,} tokens of KV cache of a rank (the shortest: {total.min():,})")
    words = []
    if long.any():
        words.append(f"{int(long.sum()):,} of {len(requests):,} requests refused: beyond {context}")
    if (never & ~long).any():
        words.append(f"{int((never & ~long).sum()):,} requests refused: beyond the {room:,} KV tokens of a rank")
    return tuple(words)


def _play(made: Cluster, requests: Requests, watch: Watch | None) -> tuple[Outcome, bool, float]:
    """Run to the end, or until interrupted. The parts depend on the requests only, so that a run can be repeated."""
    warm_up()
    began = time.perf_counter()
    engine, partial = Engine(made), False
    engine.submit(requests)
    last = float(requests.arrival_s[requests.after < 0].max())
    width = max(last / PARTS, 1.0)
    expected = len(requests) - _unsent(requests, made.never_fits(requests.input_tokens, requests.output_tokens))
    try:
        while True:
            engine.advance(engine.now + width)
            if watch:
                watch(engine.now, last)
            if engine.now < last:
                continue
            if np.count_nonzero(engine.outcome().status >= Status.COMPLETED) >= expected:
                break
            width *= 1.25
    except KeyboardInterrupt:
        partial = True
    return engine.outcome(), partial, time.perf_counter() - began


def _unsent(requests: Requests, refused: Any) -> int:
    """Requests that are never sent, as one that they wait for is refused."""
    if not refused.any() or (requests.after < 0).all():
        return 0
    lost = refused.copy()
    for i in np.flatnonzero(requests.after >= 0):  # a request comes after the one it waits for
        lost[i] |= lost[requests.after[i]]
    return int(np.count_nonzero(lost & (requests.after >= 0) & lost[requests.after]))


# ── the summary ───────────────────────────────────────────────────────────────────────────────────────────────────


def _inputs(run: Simulation) -> dict[str, Any]:
    trace = run.traffic.trace
    return {
        "deployment": run.deployment.model_dump(mode="json"),
        "devices": run.deployment.devices,
        "trace": trace.name,
        "source": trace.source,
        "requests": len(trace),
        "endless": run.traffic.endless,
        "concurrency": run.traffic.concurrency,
        "router": run.cluster.router.name,
        "seed": run.cluster.router.seed,
        "block_tokens": run.cluster.pools[0].limits.block_tokens,
    }


def _requests(run: Simulation) -> dict[str, Any]:
    """Where all requests are, and when it was measured."""
    names = {Status.PENDING: "unsent", Status.QUEUED: "queued", Status.RUNNING: "running", Status.REJECTED: "rejected"}
    return {
        "measured_from_s": run.span.start_s,
        "measured_to_s": run.span.end_s,
        "completed_in_all": run.outcome.count(Status.COMPLETED),
        **{name: run.outcome.count(status) for status, name in names.items()},
    }


def _metrics(run: Simulation) -> dict[str, Any]:
    """As `vllm bench serve` names them, and per device; None where there is nothing to take a mean of.

    A wait that grows as long as one simulates has no mean, so an endless stream that is unstable shows none.
    """
    found, devices = asdict(run.metrics), run.deployment.devices
    endless = run.traffic.endless and not run.stable
    missing = ("ttft", "tpot", "itl", "e2el") if not run.metrics.completed else ("ttft", "e2el") if endless else ()
    named = {key: None if key.endswith(tuple(f"_{name}_ms" for name in missing)) else x for key, x in found.items()}
    return {
        **named,
        "output_tok_s_per_device": run.metrics.output_throughput / devices,
        "total_tok_s_per_device": run.metrics.total_token_throughput / devices,
        "effective_tok_s_per_device": run.metrics.effective_throughput / devices,
    }


def _roles(run: Simulation) -> list[Role]:
    """In the order of the pools."""
    named = {role.name: role for role in run.deployment.roles}
    return [named[pool.role] for pool in run.cluster.pools]


def _role(run: Simulation, number: int) -> dict[str, Any]:
    pool, role, counts = run.cluster.pools[number], _roles(run)[number], run.outcome.pools[number]
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
        "busy_share": counts.busy_s / (pool.instances * _end(run)),
        "bound_by": _bound(run, number),
        "prefill_tokens": counts.prefill_tokens,
        "output_tokens": counts.output_tokens,
        "query_tokens": counts.query_tokens,
        "hit_tokens": counts.hit_tokens,
        "hit_share": counts.hit_tokens / max(counts.query_tokens, 1),
        "preemptions": counts.preemptions,
        "evictions": counts.evictions,
    }


def _end(run: Simulation) -> float:
    """When the last request ended [s]; where it was stopped, then."""
    return max(run.outcome.now_s if run.partial else float(np.nanmax(run.outcome.end_s, initial=0.0)), 1e-12)


def _bound(run: Simulation, number: int) -> str:
    """The roof of the mean step of a role: compute, hbm, latency, scale-up, scale-out or host."""
    counts, role, site = run.outcome.pools[number], _roles(run)[number], run.site
    steps = max(counts.steps, 1)
    decode, prefill = counts.mean_batch, counts.prefill_tokens / steps
    load = step.Load(decode, decode * site.around.context, prefill, prefill * site.around.seen)
    made = step.step(site.model, site.rates, Split.of(role), load, engine=site.engine, overlap=role.overlap)
    return str(made.bound())


def _tier(run: Simulation) -> dict[str, Any]:
    """The cache in device memory: what prefix hits took from it, and what steps wrote into it, one copy."""
    kv_bytes = kv_bytes_per_token(run.site.model, KV_BYTES[run.deployment.roles[0].kv_dtype])

    def total(name: str) -> int:
        return int(sum(getattr(pool, name) for pool in run.outcome.pools))

    return {
        "name": "hbm",
        "hit_tokens": total("hit_tokens"),
        "hit_share": total("hit_tokens") / max(total("query_tokens"), 1),
        "read_bytes": total("hit_tokens") * kv_bytes,
        "written_bytes": (total("prefill_tokens") + total("output_tokens")) * kv_bytes,
    }


def series(run: Simulation) -> dict[str, Any]:
    """Columns over windows of time: levels at the end of each, rates in it, and what bound it.

    bound : `idle`; `arrivals`: none waits but for the step that runs; `kv-capacity`, `max-sequences`: what those wait
    for; else the roof of the busiest role's mean step
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
        conditions, ["idle", "arrivals", "kv-capacity", "max-sequences"], _bound(run, _busiest(outcome.pools))
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


def _busiest(pools: tuple[PoolCounts, ...]) -> int:
    return int(np.argmax([pool.busy_s for pool in pools]))
