"""Simulate a deployment with a trace, request by request: specs become an engine run, and the run a typed result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from tokenworks.arrays import Bools
from tokenworks.costs.rates import rates, with_engine
from tokenworks.costs.requests import MeanRequest, mean_of_requests
from tokenworks.costs.split import KV_BYTES
from tokenworks.engine.metrics import Metrics
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.tiers import Tiers
from tokenworks.engine.types import Cluster, Requests, Router
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.simulation import measured
from tokenworks.simulation.cluster import cluster
from tokenworks.simulation.expert_group import expert_notes
from tokenworks.simulation.experts import Balancing, Track
from tokenworks.simulation.faults import FailureInput, FaultPlan, FaultRun
from tokenworks.simulation.hopeless import Hopeless
from tokenworks.simulation.length import unsettled
from tokenworks.simulation.play import Watch, lost, play, requests_of
from tokenworks.simulation.steps import Site
from tokenworks.simulation.tier_worth import TierWorth, tier_worth
from tokenworks.specs.calibration import CalibrationLike, load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.context import FLAG, model_notes, way_out, with_max_model_len
from tokenworks.specs.converted import converted_for
from tokenworks.specs.deployment import Deployment, RouterName
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.engine import load_engine
from tokenworks.specs.experts import ExpertCounts, ExpertLoad, ExpertsLike, load_experts
from tokenworks.specs.given import Assume, given
from tokenworks.specs.hf import load_model
from tokenworks.specs.model import kv_bytes_per_token
from tokenworks.specs.result import Plain
from tokenworks.specs.scheduling import what_if
from tokenworks.specs.shown import Record, Shown, flat
from tokenworks.specs.slo import PERCENTILE, RequestClass, Slo
from tokenworks.specs.trace import Trace
from tokenworks.specs.workload import Workload
from tokenworks.traffic.distance import reuses
from tokenworks.traffic.generate import BLOCK
from tokenworks.traffic.transform import reblock

EVENT_DELAY = 0.02
"""Delay after which the router learns of a cache change [s]; assumed: the end of a step, and a message."""

WINDOWS = 300

NO_PREFIXES = "No two requests share a prefix: the KV tiers have nothing to do."


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests that are sent to a deployment.

    Parameters
    ----------
    trace : the requests; block hashes, if any, are converted to the block size of the simulation
    endless : True: the trace is a sample of a stream that goes on, and its steady part is measured. False: the trace is
        complete, and all of it is measured
    concurrency : requests that the client keeps in flight at most, 0 = no limit [count]
    classes : priority and SLO of each class of the trace, in the order of the trace; () = equal for all classes
    workload : the workload that the requests were generated from, with its load; None for a recorded trace
    file : path of the recorded trace as the user gave it; None for a workload
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
                            hint=f"the trace has {', '.join(self.trace.classes) or 'no classes'}")  # fmt: skip


@dataclass(frozen=True, repr=False)
class Simulation(Shown):
    """Result of a simulation.

    Parameters
    ----------
    deployment, traffic, site, cluster, slo : what was simulated
    calibration : calibration of the step times, as `load_calibration` takes it
    outcome : times and state of every request; `simulation.per_request` gives them as columns
    window : the measured window, with the counts of the engine
    partial : whether the user stopped the run
    remarks : sentences on the input for the reader of the result
    kernel_s : time that the engine took [s]
    without : the same run without KV tiers below HBM; None without tiers, or if nobody asked
    experts : popularity of the experts; None: the calibrated skew
    tracks : what happened to the experts of each role; empty without `experts`
    faults : faults of the run; None: nobody asked for faults
    healthy : the same run without faults; None without faults
    """

    deployment: Deployment
    traffic: Traffic
    site: Site
    cluster: Cluster
    slo: Slo
    calibration: CalibrationLike
    outcome: Outcome
    window: measured.Window
    partial: bool = False
    remarks: tuple[str, ...] = ()
    kernel_s: float = field(default=0.0, compare=False)
    without: Simulation | None = None
    experts: ExpertLoad | ExpertCounts | None = None
    tracks: tuple[Track, ...] = ()
    faults: FaultRun | None = None
    healthy: Simulation | None = None

    @property
    def headline(self) -> str:
        """The outcome in one line."""
        metrics = self.metrics
        stable = "" if self.stable else ", unstable: the queue grows"
        return (
            f"{self.deployment.model} on {self.deployment.system}, {self.deployment}: {metrics.completed:,} requests, "
            f"{metrics.request_throughput:.4g} requests/s, mean TTFT {metrics.mean_ttft_ms:,.4g} ms, "
            f"TPOT {metrics.mean_tpot_ms:,.4g} ms{stable}"
        )

    def to_records(self) -> list[Record]:
        """The whole simulation in one record; `simulation.per_request` has the requests."""
        return [flat(self.plain(), concurrency=self.traffic.concurrency, label=str(self.deployment))]

    @cached_property
    def unsettled(self) -> str:
        """Why the run is too short for its results; empty if it is long enough (`length.unsettled`)."""
        return unsettled(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the reader of the result."""
        return (*self.remarks, self.unsettled) if self.unsettled else self.remarks

    @property
    def block_bytes(self) -> float:
        """Size of one copy of a KV block [byte]."""
        token = kv_bytes_per_token(self.site.model, KV_BYTES[self.deployment.roles[0].kv_dtype])
        return token * self.cluster.pools[0].limits.block_tokens

    @cached_property
    def worth(self) -> TierWorth | None:
        """Whether the KV tiers below HBM pay; None without a run to compare with."""
        return tier_worth(self, self.without) if self.without else None

    @property
    def span(self) -> measured.Span:
        """The measured window of time."""
        return self.window.span

    @cached_property
    def promises(self) -> measured.Promises:
        """SLO of each request: the SLO of its class, else the SLO of the run."""
        return promises_of(self.traffic, self.slo)

    @cached_property
    def metrics(self) -> Metrics:
        """Metrics of the requests that completed in the measured window."""
        return measured.measure(self.outcome, self.promises, self.span, self.window.counts.itl_counts)

    @cached_property
    def by_class(self) -> tuple[Metrics, ...]:
        """Metrics of each class; empty without classes."""
        counts = self.window.counts.itl_counts
        return tuple(
            measured.measure(self.outcome, self.promises, self.span, counts[k], self.of_class(k))
            for k in range(len(self.traffic.classes))
        )

    def of_class(self, k: int) -> Bools:
        """Mask of the requests of class number `k`."""
        chosen: Bools = self.traffic.trace.class_of == k
        return chosen

    @cached_property
    def observed(self) -> dict[str, measured.Observed]:
        """The values of each bound of the SLO: `ttft`, `tpot`; with classes `batch.ttft` and so on."""
        endless, classes = self.traffic.endless, self.traffic.classes
        if not classes:
            return measured.observed(self.outcome, self.slo, self.span, endless=endless)
        slos, span = self.promises.slos, self.span
        return {
            f"{one.name}.{name}": values
            for k, one in enumerate(classes)
            for name, values in measured.observed(
                self.outcome, slos[k], span, self.of_class(k), endless=endless
            ).items()
        }

    @cached_property
    def bounds(self) -> dict[str, measured.Seen]:
        """Bounds of the SLO with their simulated values, by the names of `observed`."""
        return {name: values.seen for name, values in self.observed.items()}

    @cached_property
    def confidence(self) -> dict[str, float]:
        """Half of the 95 % interval / value [-], of the output `throughput` and of each bound in `bounds`.

        A value without a confidence is left out. A complete trace has none: the trace is not a sample.
        """
        if not self.traffic.endless:
            return {}
        whole = {"throughput": measured.throughput_confidence(self.outcome, self.span)}
        whole |= {name: values.confidence(self.span) for name, values in self.observed.items()}
        return {name: value for name, value in whole.items() if value is not None}

    @cached_property
    def flow(self) -> measured.Flow:
        """Requests that were sent, due and completed in the measured window."""
        trace, workload = self.traffic.trace, self.traffic.workload
        closed = self.traffic.concurrency or (workload and workload.concurrency)
        if not self.traffic.endless or closed or (trace.parent < 0).all():
            return measured.Flow.of(self.outcome, self.span)
        first, last = (trace.arrival_s[math.ceil(share * len(trace)) - 1] for share in (measured.WARM, measured.DONE))
        refused = self.cluster.never_fits(trace.input_tokens, trace.output_tokens)
        gone = float(lost(trace.parent, refused).mean())
        rate = (measured.DONE - measured.WARM) * len(trace) * (1 - gone) / max(float(last - first), 1e-12)
        turns = len(trace) / int((trace.parent < 0).sum())
        return measured.Flow.of(self.outcome, self.span, due_rate=rate, turns=turns)

    @cached_property
    def too_large(self) -> float:
        """Share of the requests that the model reads, but that the KV cache of a rank cannot hold [-]."""
        trace = self.traffic.trace
        total = trace.input_tokens.astype(np.int64) + trace.output_tokens
        never = self.cluster.never_fits(trace.input_tokens, trace.output_tokens)
        return float((never & (total <= self.site.model.max_context)).mean())

    @property
    def served(self) -> bool:
        """Whether the deployment completes as many requests as are due. A complete trace is served in any case."""
        return self.flow.served or not self.traffic.endless

    @property
    def holds_requests(self) -> bool:
        """Whether the KV cache of a rank holds 99 % of the requests that the model reads."""
        return self.too_large <= 1 - PERCENTILE / 100

    @cached_property
    def backlog(self) -> measured.Backlog:
        """The queue during the sending time."""
        return measured.Backlog.of(self.outcome)

    @property
    def stable(self) -> bool:
        """Whether the queue stays finite. If the queue of an endless stream grows, a mean wait has no meaning."""
        return self.backlog.stable

    @property
    def meets_slo(self) -> bool:
        """Whether all bounds hold at their percentiles, the queue stays finite, and all requests are served."""
        kept = all(bound.met for bound in self.bounds.values())
        if not (kept and self.served and self.stable and self.holds_requests):
            return False
        sent = [bool(self.of_class(k).any()) for k in range(len(self.traffic.classes))]
        served = all(totals.completed or not any_sent for totals, any_sent in zip(self.by_class, sent, strict=True))
        return self.flow.completed > 0 and served

    def plain(self) -> Plain:
        """The complete result as plain data. Equal inputs give equal results, except for `wall`."""
        from tokenworks.simulation.summary import plain

        return plain(self)


def promises_of(traffic: Traffic, slo: Slo) -> measured.Promises:
    """SLO of each request: the SLO of its class, else `slo`."""
    slos = tuple(one.slo or slo for one in traffic.classes) or (slo,)
    return measured.Promises(slos, traffic.trace.class_of)


def simulate(
    deployment: Deployment | Deployed,
    traffic: Traffic,
    *,
    slo: Slo = Slo(),  # noqa: B008 - frozen, binds nothing
    router: RouterName | None = None,
    max_queue: int = 0,
    seed: int = 0,
    assume: Assume = None,
    calibration: CalibrationLike | None = None,
    watch: Watch | None = None,
    drain: bool = True,
    until_missed: bool = False,
    like: tuple[Site, Cluster] | None = None,
    site: Site | None = None,
    block_tokens: int = BLOCK,
    compare_tiers: bool = False,
    experts: ExpertsLike | None = None,
    failures: FailureInput | None = None,
) -> Simulation:
    """Send the requests of a trace through a deployment, one by one.

    Parameters
    ----------
    deployment : the deployment that is simulated, alone or with the numbers that it was planned with
    traffic : the requests
    slo : bounds for requests without a class SLO
    router : how requests are assigned to instances and ranks. None: the router of the deployment; if it names none,
        prefix_aware if requests share prefixes, else least_loaded
    max_queue : a request is refused if this many requests wait at its rank, 0 = no limit [count]
    seed : seed of a router that chooses randomly
    assume : numbers that replace numbers of the catalog, as `specs.given.given` takes them. None: the numbers that the
        deployment was planned with
    calibration : as `load_calibration` takes it. None: the calibration that the deployment was planned with
    watch : called with the simulated time, and with the arrival time of the last request that has no parent [s]
    drain : False: an endless stream ends with its measured window, and later requests are not played. The metrics of
        the window are the same, except that sessions end early in an overload (`PATIENCE`)
    until_missed : an endless stream ends as soon as it certainly misses its SLO, whatever comes. Its window then ends
        there, and its values say no more than that the SLO is missed. A stream that meets its SLO is played as without
    like : `site` and `cluster` of an earlier simulation of this deployment on such requests, to be used again
    site : site of another deployment of the same model, machine, engine and requests, to be used again
    block_tokens : size of a block of the prefix cache, at least that of the engine [token]. Larger blocks are quicker
        to simulate; a request loses hits of half a block on average
    compare_tiers : play the requests once more without the KV tiers below HBM, to say whether the tiers pay
    experts : popularity of the routed experts over time, as `specs.experts.load_experts` takes it. None: the calibrated
        skew, which does not change
    failures : faults of the run. The requests are then played once more without faults, to compare

    Raises
    ------
    SpecError : a role breaks a rule, or no request fits into the context of the model
    DoesNotFit : the deployment does not fit the machine, or no request fits into its KV cache
    """
    deployed = Deployed(deployment) if isinstance(deployment, Deployment) else deployment
    deployment = deployed.deployment
    calibration = deployed.calibration if calibration is None else calibration
    shared = deployment.prefix_caching and traffic.trace.hash_block_tokens > 0
    site = like[0] if like else site or site_of(deployed, traffic.trace, calibration, assume, shared=shared)
    trace = blocked(traffic.trace, max(block_tokens, site.engine.kv_block))
    traffic, name = replace(traffic, trace=trace), router or deployment.router
    aware = shared or deployment.scheduling.name == "cold_pool"
    routes = Router(name or ("prefix_aware" if aware else "least_loaded"), event_delay_s=EVENT_DELAY, seed=seed)
    last_s = float(trace.arrival_s[-1])
    window_s = _window(last_s)
    if like:
        cold = like[1].router
        routes = replace(routes, cold_ranks=cold.cold_ranks, cold_tokens=cold.cold_tokens)
        built = replace(like[1], router=routes, concurrency=traffic.concurrency, window_s=window_s)
    else:
        built = cluster(
            deployment, site, router=routes, block_tokens=trace.hash_block_tokens or site.engine.kv_block,
            prefix_caching=shared, concurrency=traffic.concurrency, window_s=window_s, max_queue=max_queue,
        )  # fmt: skip
    load = None if experts is None else load_experts(experts)
    plan = Balancing(load, deployment, site, built, last_s) if load else None
    built = plan.cluster if plan else built
    requests = requests_of(trace, traffic.classes)
    odd = what_if(deployment.scheduling, site.engine.scheduler)
    idle = NO_PREFIXES if deployment.tiers and not shared else ""
    placed = expert_notes(deployment) if plan else ()
    remarks = tuple(filter(None, (*model_notes(site.model), odd, *_refused(built, requests, site), idle, *placed)))
    balances = plan.balances if plan else None
    failing = FaultPlan.of(failures, deployment, site, built, span_s=last_s, balances=balances) if failures else None

    hopeless = Hopeless(promises_of(traffic, slo)) if until_missed and traffic.endless else None

    def played(on: Cluster, faults: FaultPlan | None) -> Simulation:
        driver = plan.driver() if plan else None
        finished = play(
            on, requests, watch, endless=traffic.endless, drain=drain, driver=driver, faults=faults, hopeless=hopeless
        )
        window = measured.Window.of(finished.outcome, finished.marks, finished.end)
        more = faults.notes(finished.outcome.now_s) if faults else ()
        return Simulation(
            deployment, traffic, site, on, slo, calibration, finished.outcome, window, finished.partial,
            (*remarks, *more), finished.kernel_s, experts=load, tracks=tuple(driver.tracks) if driver else (),
            faults=finished.faults,
        )  # fmt: skip

    run = played(failing.cluster if failing else built, failing)
    if failing and not run.partial:
        healthy = played(built, None)
        run = replace(run, healthy=healthy, partial=healthy.partial)
    if not (compare_tiers and built.tiers.stores) or run.partial:
        return run
    bare = played(replace(run.cluster, tiers=Tiers()), failing)
    return replace(run, partial=True) if bare.partial else replace(run, without=bare)


def site_of(deployed: Deployed, trace: Trace, calibration: CalibrationLike, assume: Assume, *, shared: bool) -> Site:
    """Model, machine, engine and rates of a deployment, and the mean request of a trace.

    Parameters
    ----------
    shared : whether requests share prefixes
    """
    deployment, on = deployed.deployment, deployed.machine
    numbers = deployed.given if assume is None else given(assume)
    if on is None or assume is not None:
        on = machine(deployment.system, assume=numbers)
    engine = load_engine(deployment.engine, assume=numbers, family=on.family)
    served = converted_for(load_model(deployed.model or deployment.model), on)
    model = with_max_model_len(served, deployment.max_model_len)
    request = mean_played(trace, model.max_context, prefix_caching=shared)
    reached = with_engine(rates(on, load_calibration(calibration, assume=numbers)), engine, model)
    return Site(model, on, engine, reached, request, numbers)


def mean_played(trace: Trace, max_context: int, *, prefix_caching: bool) -> MeanRequest:
    """The mean request of a trace, over the requests that fit into the context of the model (over all if none fits).

    If requests share prefixes, the mean request has the hits of an infinite prefix cache.

    Parameters
    ----------
    trace : the requests
    max_context : longest input + output of the model [token]
    prefix_caching : whether requests share prefixes
    """
    read = trace.input_tokens.astype(np.int64) + trace.output_tokens <= max_context
    kept = read if read.any() else np.ones_like(read)
    cached = np.zeros(len(trace))
    if prefix_caching:  # the last token of a prompt is always computed
        cached = np.minimum(reuses(trace).leading * float(trace.hash_block_tokens), trace.input_tokens - 1.0)
    return mean_of_requests(trace.input_tokens[kept], trace.output_tokens[kept], cached[kept])


def blocked(trace: Trace, block_tokens: int) -> Trace:
    """The trace with its block hashes converted to the block size of the simulation.

    Parameters
    ----------
    trace : the requests
    block_tokens : size of a block of the prefix cache [token]
    """
    if not trace.hash_block_tokens:
        return trace
    return reblock(trace, math.gcd(trace.hash_block_tokens, block_tokens))


def _window(seconds: float) -> float:
    """Width of a window of the time series, for at most `WINDOWS` windows: 1, 2 or 5 times a power of ten [s]."""
    least = max(seconds / WINDOWS, 1.0)
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9)))


def _refused(built: Cluster, requests: Requests, site: Site) -> tuple[str, ...]:
    """Notes about requests that no rank can serve; an error if no request can be served."""
    total = requests.input_tokens.astype(np.int64) + requests.output_tokens
    long, never = total > site.model.max_context, built.never_fits(requests.input_tokens, requests.output_tokens)
    context = f"the {site.model.max_context:,} tokens that {site.model.name} reads"
    if long.all():
        raise SpecError(
            f"all {len(requests)} requests are beyond {context} (the shortest: {total.min():,})",
            hint=way_out(site.model, int(total.min())),
        )
    room = min(pool.limits.kv_blocks * pool.limits.block_tokens for pool in built.pools)
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
