"""Highest load that a deployment holds within its SLO, by bisection on simulations over a fixed grid of loads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
from typing_extensions import TypedDict

from tokenworks.errors import SloMissed
from tokenworks.simulation.bound import places, rate_bound
from tokenworks.simulation.length import life_of, live_sessions, requests_for, requests_for_users, requests_needed
from tokenworks.simulation.measured import Seen
from tokenworks.simulation.run import Simulation, Traffic, blocked, mean_played, simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.calibration import CalibrationLike, calibration_name
from tokenworks.specs.deployment import Deployment, RouterName
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.given import Assume
from tokenworks.specs.interval import Distance
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs
from tokenworks.specs.shown import Record, Shown, flat
from tokenworks.specs.slo import Slo
from tokenworks.specs.workload import LEAST_RATE, MOST_IN_FLIGHT, MOST_RATE, Workload
from tokenworks.traffic.generate import BLOCK, session_turns

Kind = Literal["rate", "users"]

TOLERANCE = 0.02
"""Step of the grid of loads: the loads are (1 + `TOLERANCE`)^k for whole numbers k. Users are rounded [-]."""

OCTAVE = 35
"""Grid steps that double the load: 1.02^35 = 2.0 [count]."""

HALVINGS, DOUBLINGS = 16, 20
"""How often the first load is halved or doubled, at most [count]."""

BEYOND = 2.0
"""Rates up to this multiple of the roofline bound are tried, since the bound is for the mean request [-]."""

PILOT_REQUESTS, PILOT_RATE = 200, 1e-3
"""Requests and request rate of the first run, in which requests meet no other requests [count], [1/s]."""

ATTEMPTS = 3
"""Runs at one load, each with more requests, until the run is settled [count]."""

WITHIN = "capacity is the most within an SLO"
UNITS: dict[Kind, str] = {"rate": "requests/s", "users": "users"}


@dataclass(frozen=True, slots=True)
class Try:
    """One simulation of the search, with its load and its results.

    Parameters
    ----------
    load : request rate [1/s], or number of users [count]
    held : whether all bounds of the SLO hold and the queue stays finite
    missed : bounds that do not hold: `ttft`, `tpot`, `queue` (the queue grew, fewer requests completed than were sent,
        or a class was not served), or `kv` (more than 1 % of the requests are larger than the KV cache of a rank); with
        classes of requests `batch.ttft` and so on
    ttft_ms, tpot_ms : TTFT and TPOT at the percentile of the SLO [ms]; None without a bound. With classes: the value of
        the class that is nearest to its bound, or furthest beyond it
    requests : simulated requests [count]
    sent_throughput, request_throughput : requests that were sent, and requests that completed, per second of the
        measured window [1/s]
    confidence : half of the 95 % interval / value [-], of the output `throughput` and of each bound (`Simulation`)
    unsettled : why the run is too short for its results; empty if it is long enough (`length.unsettled`)
    output_tok_s_per_device, effective_tok_s_per_device : output tokens, and output tokens of requests that meet the SLO
        [token/s per device]
    """

    load: float
    held: bool
    missed: tuple[str, ...]
    ttft_ms: float | None
    tpot_ms: float | None
    requests: int
    sent_throughput: float
    request_throughput: float
    output_tok_s_per_device: float
    effective_tok_s_per_device: float
    confidence: dict[str, float]
    unsettled: str

    @classmethod
    def of(cls, load: float, run: Simulation) -> Try:
        """The results of a simulation. If the user stopped the simulation, the search also stops."""
        if run.partial:
            raise KeyboardInterrupt
        bounds, devices = run.bounds, run.deployment.devices
        missed = [name for name, bound in bounds.items() if not bound.met]
        if not run.meets_slo and (not missed or not run.stable or not run.served):
            missed.insert(0, "queue")
        if not run.holds_requests:
            missed = [name for name in ("kv", *missed) if name != "queue" or not (run.stable and run.served)]
        return cls(
            load=load,
            held=run.meets_slo,
            missed=tuple(missed),
            ttft_ms=_worst_ms(bounds, "ttft"),
            tpot_ms=_worst_ms(bounds, "tpot"),
            requests=len(run.traffic.trace),
            sent_throughput=run.flow.sent / run.span.seconds,
            request_throughput=run.metrics.request_throughput,
            output_tok_s_per_device=run.metrics.output_throughput / devices,
            effective_tok_s_per_device=run.metrics.effective_throughput / devices,
            confidence=run.confidence,
            unsettled=run.unsettled,
        )


def _worst_ms(bounds: dict[str, Seen], name: str) -> float | None:
    """Simulated value of `ttft` or `tpot`, for the class nearest to its bound [ms]; None without such a bound."""
    seen = [bound for key, bound in bounds.items() if key.rpartition(".")[2] == name]
    return 1e3 * max(seen, key=lambda bound: bound.seen_s / max(bound.bound_s, 1e-12)).seen_s if seen else None


class CapacityInputs(Inputs):
    """Inputs of the search; trace : path of the recorded trace, None for a workload."""

    deployment: Annotated[Plain, FormOf(Deployment)]
    devices: int
    seed: int
    trace: str | None


class CapacityInterval(TypedDict):
    """The 80 % interval of a capacity, in the unit of the load, and of its throughput [token/s per device]."""

    capacity: tuple[float, float]
    output_tok_s_per_device: tuple[float, float]
    effective_tok_s_per_device: tuple[float, float]


class CapacityBody(TypedDict):
    """The plain form of `capacity`; load : kind of the load, counted in `unit`."""

    inputs: CapacityInputs
    load: Kind
    unit: str
    capacity: float
    fails_at: float
    bound_by: list[str]
    settled: bool
    interval: CapacityInterval
    distance: Distance
    confidence: dict[str, float]
    output_tok_s_per_device: float
    effective_tok_s_per_device: float
    curve: list[Annotated[Plain, FormOf(Try)]]


@dataclass(frozen=True, slots=True, repr=False)
class Capacity(Shown):
    """Result of the search.

    Parameters
    ----------
    kind : kind of the load: `rate` or `users`
    best, failed : the highest load that holds, and the lowest load that fails
    tries : all simulations, in order of their load
    run : the simulation of the highest load that holds
    """

    kind: Kind
    best: Try
    failed: Try
    tries: tuple[Try, ...]
    run: Simulation

    @property
    def headline(self) -> str:
        """The answer in one line."""
        return f"{self.run.deployment} holds {self.best.load:.4g} {UNITS[self.kind]} within {self.run.slo}"

    @property
    def unsettled(self) -> str:
        """Why the runs on both sides of the capacity are too short; empty if both are long enough."""
        return self.best.unsettled or self.failed.unsettled

    @property
    def interval(self) -> CapacityInterval:
        """The interval that contains 80 % of the measured capacities, from the errors of the calibration.

        An error of the calibration changes step times, so it changes the load at which the SLO is missed. The
        interval does not contain the error of a short simulation (`Try.confidence`).
        """
        drafts = max(role.draft_tokens for role in self.run.deployment.roles)
        factor = self.run.site.rates.throughput_spread(drafts)
        best = self.best
        return {
            "capacity": (best.load / factor, best.load * factor),
            "output_tok_s_per_device": (best.output_tok_s_per_device / factor, best.output_tok_s_per_device * factor),
            "effective_tok_s_per_device": (
                best.effective_tok_s_per_device / factor,
                best.effective_tok_s_per_device * factor,
            ),
        }

    def to_records(self) -> list[Record]:
        """The loads that were tried, one a record."""
        return [flat(asdict(one), missed=", ".join(one.missed)) for one in self.tries]

    def plain(self) -> Plain:
        """The complete result as plain data."""
        body: CapacityBody = {
            "inputs": self._inputs(),
            "load": self.kind,
            "unit": UNITS[self.kind],
            "capacity": self.best.load,
            "fails_at": self.failed.load,
            "bound_by": list(self.failed.missed),
            "settled": not self.unsettled,
            "interval": self.interval,
            "distance": self.run.site.rates.distance,
            "confidence": self.best.confidence,
            "output_tok_s_per_device": self.best.output_tok_s_per_device,
            "effective_tok_s_per_device": self.best.effective_tok_s_per_device,
            "curve": [asdict(one) for one in self.tries],
        }
        return envelope("capacity", body)

    def _inputs(self) -> CapacityInputs:
        """Inputs that all simulations share. So the workload is without its own rate and concurrency."""
        run, deployment, workload = self.run, self.run.deployment, self.run.traffic.workload
        common = inputs(
            model=deployment.model, machine=deployment.system, slo=str(run.slo), engine=deployment.engine,
            workload=workload and workload.model_copy(update={"rate": None, "concurrency": None}),
            calibration=calibration_name(run.calibration), given=run.site.given,
        )  # fmt: skip
        return {
            **common,
            "deployment": deployment.model_dump(mode="json"),
            "devices": deployment.devices,
            "seed": run.cluster.router.seed,
            "trace": run.traffic.file,
        }


def capacity_of(
    deployment: Deployment | Deployed, source: Source, slo: Slo, kind: Kind = "rate", *,
    router: RouterName | None = None, seed: int = 0, assume: Assume = None, calibration: CalibrationLike | None = None,
    say: Callable[[str], None] | None = None,
) -> Capacity:  # fmt: skip
    """Find the highest load of a source of requests that a deployment holds within its SLO.

    The number of requests of a workload follows from the load and from the life of a request (`RunLengths`), unless the
    source has a number. The search starts at half of the roofline bound.

    Parameters
    ----------
    deployment : the deployment that is simulated
    source : the recorded trace or the workload
    slo : bounds for requests without a class SLO; may be empty if a class has its own SLO
    kind : kind of the load: `rate` [requests/s] or `users` [count]
    router, seed, assume, calibration : parameters of `simulation.run.simulate`
    say : receives a message before each simulation; None for no messages

    Raises
    ------
    SpecError : the SLO has no bound
    SloMissed : no load holds
    """
    source.must_be_bound(slo, WITHIN)

    def simulated(traffic: Traffic) -> Simulation:
        return simulate(
            deployment, traffic, slo=slo, router=router, seed=seed, assume=assume, calibration=calibration, drain=False
        )

    def play(load: float, requests: int | None) -> Simulation:
        if say:
            say(f"trying {load:.4g} {UNITS[kind]}" + (f" with {requests:,} requests" if requests else ""))
        sized = replace(source, requests=requests or source.requests, ongoing=lengths.ongoing(load))
        return simulated(sized.traffic(rate=load) if kind == "rate" else sized.traffic(concurrency=load))

    pilot = simulated(replace(source, requests=PILOT_REQUESTS).traffic(rate=PILOT_RATE))
    bound = _bound(pilot, source)
    lengths = RunLengths(play, kind, source.workload if source.requests is None else None)
    lengths.lives[0.0] = life_of(pilot, waiting=False)
    hopeless = not all(one.met for one in pilot.bounds.values())
    if kind == "rate":
        return capacity(lengths, kind, start=bound / 2, most=BEYOND * bound, lowest_first=hopeless)
    think_s = source.workload.think_time if source.workload else 0.0
    patience_s = max((one.ttft.value for one in pilot.promises.slos if one.ttft), default=0.0)
    start = bound / 2 * (life_of(pilot) + think_s)
    most = 4 * (places(pilot.cluster) + bound * (think_s + patience_s))
    return capacity(lengths, kind, start=start, most=most, lowest_first=hopeless)


def _bound(pilot: Simulation, source: Source) -> float:
    """Roofline bound on the rate of a source of requests, for its mean request over many requests [1/s].

    Requests that do not fit are refused and take no time, so the bound counts the others.
    """
    trace = blocked(source.traffic(rate=1.0).trace, max(BLOCK, pilot.site.engine.kv_block))
    shared = pilot.cluster.pools[0].limits.prefix_caching
    request = mean_played(trace, pilot.site.model.max_context, prefix_caching=shared)
    fitting = 1.0 - float(pilot.cluster.never_fits(trace.input_tokens, trace.output_tokens).mean())
    return rate_bound(pilot.cluster, request) / max(fitting, 1.0 / len(trace))


@dataclass
class RunLengths:
    """Runs that are as long as they need to be: the number of requests follows from the load and the life of a request.

    The life of a request at a load is interpolated between the loads that were simulated before and do not overload
    the deployment. The life grows faster than the load, so the straight line between two loads lies above it. If a run
    is not settled, it is repeated with more requests. No number depends on the SLO.

    Parameters
    ----------
    play : runs a simulation at a load with a number of requests; None = the number of the source
    kind : kind of the load: `rate` or `users`
    workload : the workload; None: the number of requests is given
    lives : life of a request [s] by load
    """

    play: Callable[[float, int | None], Simulation]
    kind: Kind
    workload: Workload | None
    lives: dict[float, float] = field(default_factory=dict)

    def __call__(self, load: float) -> Simulation:
        """Simulate a load."""
        if self.workload is None:
            return self.play(load, None)
        requests = self._requests(self.workload, load)
        for _ in range(ATTEMPTS):
            run = self.play(load, requests)
            self.learn(load, run)
            needed = requests_needed(run)
            if needed <= requests:
                break
            requests = needed
        return run

    def learn(self, load: float, run: Simulation) -> None:
        """Keep the life of a request at a load. In an overload, the life has no fixed value."""
        if run.served and run.stable:
            self.lives[load] = life_of(run)

    def ongoing(self, load: float) -> int:
        """Sessions that are live when a run begins, as in a plan (`live_sessions`) [count]; 0 without sessions."""
        workload = self.workload
        if workload is None or self.kind == "users" or session_turns(workload)[0] == 1:
            return 0
        return live_sessions(workload, load, self._life(load))

    def _requests(self, workload: Workload, load: float) -> int:
        if self.kind == "users":
            return requests_for_users(workload, load)
        return requests_for(workload, load, self._life(load))

    def _life(self, load: float) -> float:
        loads = sorted(self.lives)
        return float(np.interp(load, loads, [self.lives[one] for one in loads]))


def capacity(
    play: Callable[[float], Simulation], kind: Kind, *, start: float = 1.0, most: float = math.inf,
    lowest_first: bool = False,
) -> Capacity:  # fmt: skip
    """Find the highest load within the SLO, on a fixed grid of loads with steps of 2 %.

    From the first load, the load is doubled or halved until one load holds and one load fails. Then the middle of both
    is simulated, and replaces one of them, until they are neighbours. The search assumes: if a load holds, every lower
    load holds.

    A looser SLO never gives a lower result, if `start`, `most` and the requests at each load do not depend on the SLO.
    Both searches take the same steps until a load holds with one SLO alone, which must be the looser one. From then on
    the search with the looser SLO stays at or above this load, and the other one stays below.

    Parameters
    ----------
    play : runs a simulation at a load: a rate [requests/s], or users [count, whole numbers]
    kind : kind of the load: `rate` or `users`
    start : first load that is simulated, rounded to the grid, in the unit of the load
    most : no load above this one is simulated, in the unit of the load
    lowest_first : whether the lowest load is tried first; if the lowest load fails, one run gives the answer

    Raises
    ------
    SloMissed : no load holds (the message names the bounds missed at the lowest load), or every load holds
    """
    tries: dict[int, Try] = {}
    best: list[Simulation] = []  # only the run of the highest load that holds

    def holds(k: int) -> bool:
        run = play(_load(k, kind))
        tries[k] = Try.of(_load(k, kind), run)
        if tries[k].held and k >= max(key for key, one in tries.items() if one.held):
            best[:] = [run]
        return tries[k].held

    first = _step(start, kind)
    lowest = first - HALVINGS * OCTAVE if kind == "rate" else 1
    low, high = (None, lowest) if lowest_first and not holds(lowest) else _bracket(holds, first, kind, most)
    if low is None:
        raise SloMissed(_missed(tries[min(tries)], kind))
    if high is None:
        raise SloMissed(_endless(tries[low], kind))
    while high - low > 1 and _load(low, kind) < _load(high, kind):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return Capacity(kind, tries[low], tries[high], tuple(tries[k] for k in sorted(tries)), best[0])


DENSE = 50
"""Users up to this number are all on the grid: above, a step of 2 % is more than one user [count]."""


def _load(k: int, kind: Kind) -> float:
    """Load number k of the grid."""
    if kind == "rate":
        return (1 + TOLERANCE) ** k
    return float(k if k <= DENSE else round(DENSE * (1 + TOLERANCE) ** (k - DENSE)))


def _step(load: float, kind: Kind) -> int:
    """Number of the load of the grid that is nearest to a load."""
    if kind == "users" and load <= DENSE:
        return max(round(load), 1)
    base, before = (1.0, 0) if kind == "rate" else (float(DENSE), DENSE)
    return before + round(math.log(max(load, LEAST_RATE) / base) / math.log1p(TOLERANCE))


def _bracket(holds: Callable[[int], bool], start: int, kind: Kind, most: float) -> tuple[int | None, int | None]:
    """A load that holds, and a load twice as high that fails, as grid numbers; None for a load that does not exist."""
    top = _step(min(most, MOST_RATE if kind == "rate" else MOST_IN_FLIGHT), kind)
    start = min(start, top)
    if holds(start):
        low = start
        for _ in range(DOUBLINGS):
            high = min(max(_step(2 * _load(low, kind), kind), low + 1), top)
            if high == low:
                break
            if not holds(high):
                return low, high
            low = high
        return low, None
    high = start
    for _ in range(HALVINGS):
        low = min(_step(_load(high, kind) / 2, kind), high - 1)
        if kind == "users" and low < 1:
            break
        if holds(low):
            return low, high
        high = low
    return None, high


def _missed(lowest: Try, kind: Kind) -> str:
    seen = [f"TTFT is {lowest.ttft_ms:,.0f} ms"] if lowest.ttft_ms is not None else []
    seen += [f"TPOT is {lowest.tpot_ms:,.4g} ms"] if lowest.tpot_ms is not None else []
    return (
        f"no load stays within the SLO: at {lowest.load:.4g} {UNITS[kind]} {' and '.join(seen) or 'nothing is served'} "
        f"at the SLO's percentile; missed: {', '.join(lowest.missed)}"
    )


def _endless(highest: Try, kind: Kind) -> str:
    """Message for a search that finds no load that fails."""
    held = f"even {highest.load:.4g} {UNITS[kind]} stay within the SLO"
    if kind == "users":
        return f"{held}: beyond the sequences that run at once, users only wait; give the SLO a bound of ttft"
    return f"{held}, and no higher load is simulated: it is beyond the roofline bound"
