"""Highest load that a deployment holds within its SLO, by bisection on simulations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from typing_extensions import TypedDict

from tokenworks.errors import SloMissed
from tokenworks.simulation.measured import Seen
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.calibration import CalibrationLike, calibration_name
from tokenworks.specs.deployment import Deployment, RouterName
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.given import Assume
from tokenworks.specs.result import FormOf, Inputs, Plain, envelope, inputs
from tokenworks.specs.shown import Record, Shown, flat
from tokenworks.specs.slo import Slo

Kind = Literal["rate", "users"]

TOLERANCE = 0.02
"""The bisection ends when the lowest load that fails is this much above the highest that holds [-]."""

HALVINGS, DOUBLINGS = 16, 40
WITHIN = "capacity is the most within an SLO"
UNITS: dict[Kind, str] = {"rate": "requests/s", "users": "users"}


@dataclass(frozen=True, slots=True)
class Try:
    """One simulation of the search, with its load and its results.

    Parameters
    ----------
    load : request rate [1/s], or number of users [count]
    held : whether all bounds of the SLO hold and the queue stays finite
    missed : bounds that do not hold: `ttft`, `tpot`, or `queue` (the queue grew, or a class was not served); with
        classes of requests `batch.ttft` and so on
    ttft_ms, tpot_ms : TTFT and TPOT at the percentile of the SLO [ms]; None without a bound. With classes: the value of
        the class that is nearest to its bound, or furthest beyond it
    request_throughput : completed requests per second [1/s]
    output_tok_s_per_device, effective_tok_s_per_device : output tokens, and output tokens of requests that meet the SLO
        [token/s per device]
    """

    load: float
    held: bool
    missed: tuple[str, ...]
    ttft_ms: float | None
    tpot_ms: float | None
    request_throughput: float
    output_tok_s_per_device: float
    effective_tok_s_per_device: float

    @classmethod
    def of(cls, load: float, run: Simulation) -> Try:
        """The results of a simulation. If the user stopped the simulation, the search also stops."""
        if run.partial:
            raise KeyboardInterrupt
        bounds, devices = run.bounds, run.deployment.devices
        missed = [name for name, bound in bounds.items() if not bound.met]
        if not run.meets_slo and (not missed or not run.stable or not run.served):
            missed.insert(0, "queue")
        return cls(
            load=load,
            held=run.meets_slo,
            missed=tuple(missed),
            ttft_ms=_worst_ms(bounds, "ttft"),
            tpot_ms=_worst_ms(bounds, "tpot"),
            request_throughput=run.metrics.request_throughput,
            output_tok_s_per_device=run.metrics.output_throughput / devices,
            effective_tok_s_per_device=run.metrics.effective_throughput / devices,
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


class CapacityBody(TypedDict):
    """The plain form of `capacity`; load : kind of the load, counted in `unit`."""

    inputs: CapacityInputs
    load: Kind
    unit: str
    capacity: float
    fails_at: float
    bound_by: list[str]
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

    def play(load: float) -> Simulation:
        if say:
            say(f"trying {load:.4g} {UNITS[kind]}")
        traffic = source.traffic(rate=load) if kind == "rate" else source.traffic(concurrency=load)
        return simulate(deployment, traffic, slo=slo, router=router, seed=seed, assume=assume, calibration=calibration)

    return capacity(play, kind, start=source.rate or 1.0)


def capacity(play: Callable[[float], Simulation], kind: Kind, *, start: float = 1.0) -> Capacity:
    """Find the highest load within the SLO.

    The load is doubled, or halved, until one load holds and one load fails. Then the geometric middle of both is
    simulated, and replaces one of them, until they are near each other. The search assumes: if a load holds, every
    lower load holds.

    Parameters
    ----------
    play : runs a simulation at a load: a rate [requests/s], or users [count, whole numbers]
    kind : kind of the load: `rate` or `users`
    start : first load that is simulated, in the unit of the load

    Raises
    ------
    SloMissed : no load holds (the message names the bounds missed at the lowest load), or every load holds
    """
    tries: dict[float, Try] = {}
    held: list[Simulation] = []  # only the last run that holds: a later run that holds has a higher load

    def holds(load: float) -> bool:
        run = play(load)
        tries[load] = Try.of(load, run)
        if tries[load].held:
            held[:] = [run]
        return tries[load].held

    low, high = _bracket(holds, float(start), kind)
    if low is None:
        raise SloMissed(_missed(min(tries.values(), key=lambda one: one.load), kind))
    if high is None:
        raise SloMissed(
            f"even {tries[low].load:g} {UNITS[kind]} stay within the SLO, and no higher load can be simulated"
        )
    while high / low > 1 + TOLERANCE and (kind == "rate" or high - low > 1):
        middle = math.sqrt(low * high)
        if kind == "users":
            middle = min(max(float(round(middle)), low + 1), high - 1)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return Capacity(kind, tries[low], tries[high], tuple(tries[load] for load in sorted(tries)), held[0])


def _bracket(holds: Callable[[float], bool], start: float, kind: Kind) -> tuple[float | None, float | None]:
    """A load that holds, and a load twice as high that fails; None in place of a load that does not exist."""
    if holds(start):
        for k in range(1, DOUBLINGS):
            if not holds(start * 2**k):
                return start * 2 ** (k - 1), start * 2**k
        return start * 2 ** (DOUBLINGS - 1), None
    high = start
    for k in range(1, HALVINGS):
        load = start / 2**k if kind == "rate" else float(math.floor(start / 2**k))
        if load < 1 and kind == "users":
            break
        if holds(load):
            return load, high
        high = load
    return None, high


def _missed(lowest: Try, kind: Kind) -> str:
    seen = [f"TTFT is {lowest.ttft_ms:,.0f} ms"] if lowest.ttft_ms is not None else []
    seen += [f"TPOT is {lowest.tpot_ms:,.4g} ms"] if lowest.tpot_ms is not None else []
    return (
        f"no load stays within the SLO: at {lowest.load:g} {UNITS[kind]} {' and '.join(seen) or 'nothing is served'} "
        f"at the SLO's percentile; missed: {', '.join(lowest.missed)}"
    )
