"""Simulate a deployment under a trace, request by request: from specs to an engine run to a typed result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tokenworks.arrays import Bools
from tokenworks.costs.rates import rates
from tokenworks.costs.requests import MeanRequest, mean_of_requests
from tokenworks.engine.metrics import Metrics
from tokenworks.engine.simulator import Simulator, warm_up
from tokenworks.engine.types import Cluster, Counts, Outcome, Requests, Router
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.simulation import measured
from tokenworks.simulation.cluster import cluster
from tokenworks.simulation.steps import Site
from tokenworks.specs.calibration import DEFAULT, load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.context import FLAG, context_note, way_out, with_max_model_len
from tokenworks.specs.deployment import Deployment, RouterName
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model
from tokenworks.specs.result import Plain
from tokenworks.specs.slo import RequestClass, Slo
from tokenworks.specs.trace import Trace
from tokenworks.specs.workload import Workload
from tokenworks.traffic.distance import reuses
from tokenworks.traffic.transform import reblock

Watch = Callable[[float, float], None]

EVENT_DELAY = 0.02
"""Cache events reach the router so much later [s]; assumed: the end of a step, and a message."""

PARTS = 64
"""The time in which requests are sent is played in so many parts, between which a run can be watched and stopped."""

WINDOWS = 300

BLOCK = 64
"""Block hashes are cut to this many tokens, the engine's block where that is larger: finer ones cost memory, and serve
half a block more of a prefix."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent to a deployment.

    trace : its block hashes, if any, are cut to the KV blocks of the deployment's engine
    endless : the trace is a sample of a stream that goes on, so its steady part is measured; else it is all there is
    concurrency : requests that the client keeps in flight at most, 0 = no limit
    classes : what the classes of the trace are promised, in its order; () = all the same
    workload : what the requests were made of, at the load that they were made for; None of a recorded trace
    file : path of the recorded trace as it was given; None where there is none
    """

    trace: Trace
    endless: bool = False
    concurrency: int = 0
    classes: tuple[RequestClass, ...] = ()
    workload: Workload | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if not self.classes:
            object.__setattr__(self, "classes", tuple(map(RequestClass, self.trace.classes)))
        names = tuple(one.name for one in self.classes)
        if names != self.trace.classes:
            raise SpecError(f"classes {', '.join(names)}", where=self.trace.name,
                            hint=f"it has {', '.join(self.trace.classes) or 'none'}")  # fmt: skip


@dataclass(frozen=True)
class Simulation:
    """What came of it. `outcome` has every request, `simulation.per_request` their columns.

    calibration : its name, or the path of its file
    partial : it was stopped; kernel_s : wall time in the engine [s]
    """

    deployment: Deployment
    traffic: Traffic
    site: Site
    cluster: Cluster
    slo: Slo
    calibration: str
    outcome: Outcome
    window: measured.Window
    partial: bool = False
    notes: tuple[str, ...] = ()
    kernel_s: float = field(default=0.0, compare=False)

    @property
    def span(self) -> measured.Span:
        """What is measured."""
        return self.window.span

    @cached_property
    def promises(self) -> measured.Promises:
        """What each request is promised."""
        slos = tuple(one.slo or self.slo for one in self.traffic.classes) or (self.slo,)
        return measured.Promises(slos, self.traffic.trace.class_of)

    @cached_property
    def metrics(self) -> Metrics:
        """Of the requests that completed in it."""
        return measured.measure(self.outcome, self.promises, self.span, self.window.counts.itl_counts)

    @cached_property
    def by_class(self) -> tuple[Metrics, ...]:
        """The same of each class; none where there are none."""
        counts = self.window.counts.itl_counts
        return tuple(
            measured.measure(self.outcome, self.promises, self.span, counts[k], self.of_class(k))
            for k in range(len(self.traffic.classes))
        )

    def of_class(self, k: int) -> Bools:
        """The requests of a class."""
        chosen: Bools = self.traffic.trace.class_of == k
        return chosen

    @cached_property
    def bounds(self) -> dict[str, measured.Seen]:
        """The SLO's bounds, `ttft` and `tpot`, and what was seen; where there are classes `batch.ttft` and so on."""
        if not self.traffic.classes:
            return measured.bounds(self.outcome, self.slo, self.span)
        return {
            f"{one.name}.{name}": seen
            for k, one in enumerate(self.traffic.classes)
            for name, seen in measured.bounds(self.outcome, self.promises.slos[k], self.span, self.of_class(k)).items()
        }

    @cached_property
    def backlog(self) -> measured.Backlog:
        """The queue while requests were sent."""
        return measured.Backlog.of(self.outcome)

    @property
    def stable(self) -> bool:
        """Whether the queue stayed; of an endless stream that it did not, mean waits mean nothing."""
        return self.backlog.stable

    @property
    def meets_slo(self) -> bool:
        """Whether all bounds held, at their percentiles, on a queue that stayed, and no class was left unserved."""
        sent = [bool(self.of_class(k).any()) for k in range(len(self.traffic.classes))]
        served = all(found.completed or not some for found, some in zip(self.by_class, sent, strict=True))
        kept = all(bound.met for bound in self.bounds.values())
        return self.stable and self.metrics.completed > 0 and served and kept

    def plain(self) -> Plain:
        """The whole result as plain data; the same input gives the same, but for `wall`."""
        from tokenworks.simulation.summary import plain

        return plain(self)


def simulate(
    deployment: Deployment,
    traffic: Traffic,
    *,
    slo: Slo = Slo(),  # noqa: B008 - frozen, binds nothing
    router: RouterName | None = None,
    max_queue: int = 0,
    seed: int = 0,
    assume: Path | Mapping[str, str] | None = None,
    calibration: str = DEFAULT,
    watch: Watch | None = None,
) -> Simulation:
    """Play a trace through a deployment.

    Parameters
    ----------
    router : how requests find an instance and rank; None: as the deployment says, else prefix_aware where prefixes are
        shared and least_loaded where not
    max_queue : a request that finds so many waiting at its rank is refused, 0 = none
    seed : of a router that draws
    assume : numbers to use instead, see `specs.compose.machine`; calibration : of the catalog, or a YAML file
    watch : called with the simulated time, and the time at which the last request comes by itself [s]

    Raises
    ------
    SpecError : a role breaks a rule, or no request is within the model's context
    DoesNotFit : the deployment does not fit the machine, or no request fits its cache
    """
    on, engine = machine(deployment.system, assume=assume), load_engine(deployment.engine)
    model = with_max_model_len(load_model(deployment.model), deployment.max_model_len)
    shared = deployment.prefix_caching and traffic.trace.hash_block_tokens > 0
    request = mean_played(traffic.trace, model.max_context, prefix_caching=shared)
    site = Site(model, on, engine, rates(on, load_calibration(calibration)), request)
    trace = blocked(traffic.trace, engine.kv_block)
    traffic, router = replace(traffic, trace=trace), router or deployment.router
    made = cluster(
        deployment,
        site,
        router=Router(router or ("prefix_aware" if shared else "least_loaded"), event_delay_s=EVENT_DELAY, seed=seed),
        block_tokens=trace.hash_block_tokens or engine.kv_block,
        prefix_caching=shared,
        concurrency=traffic.concurrency,
        window_s=_window(float(trace.arrival_s[-1])),
        max_queue=max_queue,
    )
    requests = requests_of(trace, traffic.classes)
    notes = tuple(filter(None, (context_note(model), *_refused(made, requests, site))))
    played = _play(made, requests, watch, endless=traffic.endless)
    window = measured.Window.of(played.outcome, played.marks, played.end)
    return Simulation(
        deployment, traffic, site, made, slo, calibration, played.outcome, window, played.partial, notes,
        played.kernel_s,
    )  # fmt: skip


def mean_played(trace: Trace, max_context: int, *, prefix_caching: bool) -> MeanRequest:
    """The mean request of a trace: of the requests that the model reads, if there are any.

    Where requests share prefixes, a request computes what a prefix cache that forgets nothing would not serve.

    Parameters
    ----------
    max_context : the longest input + output that the model reads [token]
    """
    read = trace.input_tokens.astype(np.int64) + trace.output_tokens <= max_context
    kept = read if read.any() else np.ones_like(read)
    cached = np.zeros(len(trace))
    if prefix_caching:  # the last token of a prompt is always computed
        cached = np.minimum(reuses(trace).leading * float(trace.hash_block_tokens), trace.input_tokens - 1.0)
    return mean_of_requests(trace.input_tokens[kept], trace.output_tokens[kept], cached[kept])


def blocked(trace: Trace, kv_block: int) -> Trace:
    """The trace with block hashes for the KV blocks that are simulated.

    Parameters
    ----------
    kv_block : tokens of a KV block of the engine
    """
    if not trace.hash_block_tokens:
        return trace
    return reblock(trace, math.gcd(trace.hash_block_tokens, max(BLOCK, kv_block)))


def requests_of(trace: Trace, classes: tuple[RequestClass, ...] = ()) -> Requests:
    """A trace as the engine takes it: of a request that waits for another one the think time, else when it comes."""
    priority = np.array([one.priority for one in classes], np.int8)
    return Requests.of(
        np.where(trace.parent >= 0, trace.think_s, trace.arrival_s),
        trace.input_tokens,
        trace.output_tokens,
        priority=priority[trace.class_of] if classes else None,
        group=trace.class_of if classes else None,
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
        raise SpecError(
            f"all {len(requests)} requests are beyond {context} (the shortest: {total.min():,})",
            hint=way_out(site.model, int(total.min())),
        )
    room = min(pool.limits.kv_blocks * pool.limits.block_tokens for pool in made.pools)
    if never.all():
        raise DoesNotFit(f"no request fits the {room:,} tokens of KV cache of a rank (the shortest: {total.min():,})")
    words = []
    if long.any():
        way = way_out(site.model, int(total[long].min()))
        helps = f"; {way}" if FLAG in way else ""
        words.append(f"{int(long.sum()):,} of {len(requests):,} requests refused: beyond {context}{helps}")
    if (never & ~long).any():
        words.append(f"{int((never & ~long).sum()):,} requests refused: beyond the {room:,} KV tokens of a rank")
    return tuple(words)


@dataclass(frozen=True)
class _Played:
    """A run; `marks` and `end` as in `measured.Window`."""

    outcome: Outcome
    marks: tuple[Counts, ...]
    end: Counts
    partial: bool
    kernel_s: float


def _play(made: Cluster, requests: Requests, watch: Watch | None, *, endless: bool) -> _Played:
    """Run to the end, or until interrupted. The parts depend on the requests only, so that a run can be repeated."""
    warm_up()
    began = time.perf_counter()
    simulator, partial = Simulator(made), False
    simulator.submit(requests)
    last = float(requests.arrival_s[requests.after < 0].max())
    width = max(last / PARTS, 1.0)
    expected = len(requests) - _unsent(requests, made.never_fits(requests.input_tokens, requests.output_tokens))
    ahead = [math.ceil(share * expected) for share in (measured.WARM, measured.DONE)] if endless else []
    marks: list[Counts] = []
    try:
        while True:
            until = simulator.now + width
            while ahead:
                simulator.advance(until, sent=ahead[0])
                if simulator.sent < ahead[0]:
                    break
                marks.append(simulator.counts())
                del ahead[0]
            simulator.advance(until)
            if watch:
                watch(simulator.now, last)
            if simulator.now < last:
                continue
            if simulator.ended == len(requests):
                break
            width *= 1.25
    except KeyboardInterrupt:
        partial = True
    kernel_s = time.perf_counter() - began
    return _Played(simulator.outcome(), tuple(marks), simulator.counts(), partial, kernel_s)


def _unsent(requests: Requests, refused: Any) -> int:
    """Requests that are never sent, as one that they wait for is refused."""
    if not refused.any() or (requests.after < 0).all():
        return 0
    lost = refused.copy()
    for i in np.flatnonzero(requests.after >= 0):  # a request comes after the one it waits for
        lost[i] |= lost[requests.after[i]]
    return int(np.count_nonzero(lost & (requests.after >= 0) & lost[requests.after]))
