"""`tokenworks.availability`: how much of the time a machine and a deployment on it work, and what takes the rest."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs import reliability as law
from tokenworks.errors import SpecError
from tokenworks.ledger.availability_capacity import DegradedCapacity, Say
from tokenworks.ledger.availability_failures import draw_failures
from tokenworks.ledger.availability_form import ClosedForm, MachineForm, closed_form
from tokenworks.ledger.availability_result import (
    Availability,
    AvailabilityFigure,
    CauseRow,
    DeploymentFigures,
    Promise,
    StateRow,
)
from tokenworks.ledger.availability_sensitivity import (
    EXTRA,
    Interaction,
    Swing,
    can_interact,
    interactions,
    tornado,
    uncertain,
)
from tokenworks.ledger.availability_stand import Stand, must_be_for, stand_of
from tokenworks.ledger.availability_years import PlayedYears, State, play_years
from tokenworks.simulation.source import Source
from tokenworks.simulation.variants import Condition
from tokenworks.specs.calibration import calibration_name
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.given import Assume, given
from tokenworks.specs.machine import named
from tokenworks.specs.parts import PartKind, assumed_parts, part_counts, parts_of
from tokenworks.specs.reliability import PUBLISHED, Reliability, ReliabilityLike, load_reliability
from tokenworks.specs.result import Inputs, inputs
from tokenworks.specs.slo import Slo

SEEDS = 100
MOST_SEEDS, MOST_YEARS = 100_000, 10_000
PROMISE = 99.99
LONGEST = 10.0
"""Repair times up to this multiple are tried for the promise: in longer ones, failures come together too often [-]."""

SHOWN_STATES = 8
"""States in a result, those with the most lost capacity [count]."""


def availability_of(
    system: str,
    *,
    deployed: Deployed | None = None,
    source: Source | None = None,
    slo: Slo | None = None,
    years: float = 1.0,
    seeds: int = SEEDS,
    reliability: ReliabilityLike = PUBLISHED,
    promise: float = PROMISE,
    assume: Assume = None,
    seed: int = 0,
    say: Say | None = None,
) -> Availability:
    """The availability of a machine and of a deployment on it.

    Parameters
    ----------
    system : machine, as `machine` takes it
    deployed : a deployment on this machine; None: only the machine
    source : requests of the deployment
    slo : bounds that the capacity keeps
    years : length of each random history [year]
    seeds : random histories [count]
    reliability : failure rates and times, as `load_reliability` takes them
    promise : promised availability [%]
    assume : numbers that replace numbers of the catalog
    seed : seed of the first history, and of requests and samples
    say : told what is computed

    Raises
    ------
    SpecError : a bad number, a deployment for another machine, a file without rates of parts
    DoesNotFit : the deployment does not fit the machine
    """
    _must_be_numbers(years, seeds, promise)
    rates = load_reliability(reliability)
    recovery = rates.must_serve()
    capacity: DegradedCapacity | None = None
    if deployed is None:
        stand, on = None, machine(system, assume=assume, needs=())
    else:
        must_be_for(deployed.deployment, system)
        assert source is not None
        if assume is not None:
            deployed = dataclasses.replace(deployed, given=given(assume))
        capacity = DegradedCapacity(deployed, source, slo or Slo(), seed, say)
        site = capacity.full.run.site
        stand, on = stand_of(deployed.deployment, site), site.machine
    parts = parts_of(on) if stand is None else stand.parts
    histories, partial = [], False
    try:
        for number_of in range(seeds):
            if say:
                say(f"history {number_of + 1} of {seeds}")
            failures = draw_failures(on, parts, rates, years=years, seed=seed + number_of)
            histories.append(play_years(stand, failures, recovery, years * law.YEAR_S))
    except KeyboardInterrupt:
        if not histories:
            raise
        partial = True
    form = MachineForm(on, parts, rates)
    deployment = None
    if stand is not None and capacity is not None and deployed is not None:
        deployment = _Composed(stand, rates, capacity, histories, promise).figures(str(deployed.deployment))
    lost, serves = _closed(deployment, form)
    ranges = uncertain(
        rates, list(part_counts(parts)), elastic=stand is not None and any(one.elastic for one in stand.instances),
        serves=stand is not None,
    )  # fmt: skip
    swings, pairs, notes = _sensitivity(lost, ranges, seed)
    counts = part_counts(parts)
    return Availability(
        system=system, machine=on, years=years, seeds=len(histories), partial=partial, counts=counts,
        whole=_figure([one.broken_s / one.seconds for one in histories], float(form.whole()), promise),
        devices=_figure(
            [one.device_s / one.seconds / on.devices for one in histories], form.devices(), promise
        ),
        deployment=deployment.shown if deployment else None,
        causes=_causes(deployment, form, counts, histories),
        promise=_promise(promise, form, deployment, serves), swings=tuple(swings), pairs=tuple(pairs),
        rates=rates, asked=_asked(system, deployed, capacity, assume),
        assumed=tuple(named(on.given, (*assumed_parts(on), *rates.assumed_for(on, counts)))),
        notes=tuple(notes),
    )  # fmt: skip


def _asked(system: str, deployed: Deployed | None, capacity: DegradedCapacity | None, assume: Assume) -> Inputs:
    """The inputs of the result."""
    if deployed is None or capacity is None:
        return inputs(machine=system, given=given(assume))
    run = capacity.full.run
    workload = run.traffic.workload
    return inputs(
        model=deployed.deployment.model, machine=system, slo=str(run.slo), engine=deployed.deployment.engine,
        workload=workload and workload.model_copy(update={"rate": None, "concurrency": None}),
        calibration=calibration_name(run.calibration), given=run.site.given,
    )  # fmt: skip


def _must_be_numbers(years: float, seeds: int, promise: float) -> None:
    if not 0 < years <= MOST_YEARS:
        raise SpecError(f"{years:g} years", where="--years", hint=f"write more than 0, and at most {MOST_YEARS:,}")
    if not 1 <= seeds <= MOST_SEEDS:
        raise SpecError(f"{seeds} seeds", where="--seeds", hint=f"write 1 to {MOST_SEEDS:,}")
    if not 0 < promise < 100:
        raise SpecError(f"{promise:g} %", where="--promise", hint="write a share of time in %, such as 99.99")


def _figure(lost: Sequence[float], closed: float, promise: float) -> AvailabilityFigure:
    """An availability from the lost share of each history, beside its closed form."""
    low, high = (float(np.quantile(lost, share)) for share in (0.1, 0.9))
    mean = math.fsum(lost) / len(lost)
    kept = sum(100 * (1 - one) >= promise for one in lost) / len(lost)
    error = float(np.std(lost, ddof=1) / math.sqrt(len(lost))) if len(lost) > 1 else math.nan
    return AvailabilityFigure(
        1 - mean, law.downtime_s(1 - mean), (law.downtime_s(1 - low), law.downtime_s(1 - high)),
        law.YEAR_S * error, law.downtime_s(closed), kept,
    )  # fmt: skip


@dataclass(frozen=True)
class _Closed:
    """A composed deployment: what is shown, and its closed forms."""

    shown: DeploymentFigures
    lost: ClosedForm
    outage: ClosedForm
    causes: Mapping[PartKind, float]


@dataclass(frozen=True)
class _Composed:
    """States of a deployment, their times, and their capacities."""

    stand: Stand
    rates: Reliability
    capacity: DegradedCapacity
    histories: Sequence[PlayedYears]
    promise: float

    def figures(self, label: str) -> _Closed:
        """Availability and lost capacity of the deployment."""
        self._simulate()
        lost: list[float] = []
        dead: list[float] = []
        causes: defaultdict[PartKind, float] = defaultdict(float)
        states: defaultdict[State, float] = defaultdict(float)
        for history in self.histories:
            gone, none = 0.0, 0.0
            for (state, kinds), seconds in history.states.items():
                missing = 1 - self._capacity(state)
                gone += missing * seconds
                none += seconds if missing >= 1 else 0.0
                states[state] += seconds
                for kind in kinds:
                    causes[kind] += missing * seconds / len(kinds)
            lost.append(gone / history.seconds)
            dead.append(none / history.seconds)
        of_capacity, of_service = (
            closed_form(self.stand, self.rates, load_s=self.stand.load_s, share=self.capacity.share, outage=outage)
            for outage in (False, True)
        )
        total = sum(history.seconds for history in self.histories)
        serves = _figure(dead, 1 - float(of_service.unavailability()), self.promise)
        capacity = _figure(lost, 1 - float(of_capacity.unavailability()), self.promise)
        tokens = self.capacity.effective_tok_s
        shown = DeploymentFigures(
            label=label, elastic=any(one.elastic for one in self.stand.instances), spares=len(self.stand.spares),
            serves=serves, capacity=capacity, effective_tok_s=tokens,
            lost_tokens=tokens * capacity.downtime_s, states=self._rows(states, total),
            simulated=self.capacity.simulated,
        )  # fmt: skip
        return _Closed(
            shown, of_capacity, of_service, {kind: law.YEAR_S * lost_s / total for kind, lost_s in causes.items()}
        )

    def _simulate(self) -> None:
        """Compute the capacities of the conditions that occur, those with the most time first."""
        times: defaultdict[tuple[int, Condition], float] = defaultdict(float)
        for history in self.histories:
            for (state, _), seconds in history.states.items():
                for at, condition in state:
                    if condition is not None:
                        times[self.stand.instances[at].role, condition.rounded()] += seconds
        ranked = [key for key, _ in sorted(times.items(), key=lambda item: (-item[1], repr(item[0])))]
        for role, condition in ranked:
            self.capacity.share(role, condition)

    def _capacity(self, state: State) -> float:
        shares = {
            at: 0.0 if condition is None else self.capacity.share(self.stand.instances[at].role, condition)
            for at, condition in state
        }
        return self.stand.capacity(shares)

    def _rows(self, states: Mapping[State, float], total: float) -> tuple[StateRow, ...]:
        """The states that lose the most capacity; states of equal instances count as one."""
        grouped: defaultdict[tuple[str, float], float] = defaultdict(float)
        for state, seconds in states.items():
            grouped[self._words(state), self._capacity(state)] += seconds
        rows = [StateRow(words, share, seconds / total) for (words, share), seconds in grouped.items()]
        return tuple(sorted(rows, key=lambda row: (-(1 - row.capacity) * row.time, row.state))[:SHOWN_STATES])

    def _words(self, state: State) -> str:
        """A state in words, such as "decode: 39 of 40 ranks"."""
        roles = self.capacity.deployed.deployment.roles
        counts: Counter[str] = Counter()
        for at, condition in state:
            instance = self.stand.instances[at]
            words = "no tokens"
            if condition is not None:
                named_parts = []
                if condition.live is not None:
                    named_parts.append(f"{condition.live} of {instance.ranks} ranks")
                if condition.up_share < 1:
                    named_parts.append(f"{condition.up_share:.0%} of scale-up")
                if condition.out_share < 1:
                    named_parts.append(f"{condition.out_share:.0%} of scale-out")
                words = " and ".join(named_parts)
            counts[f"{roles[instance.role].name}: {words}"] += 1
        return ", ".join(f"{count} x {words}" if count > 1 else words for words, count in sorted(counts.items()))


def _closed(
    deployment: _Closed | None, form: MachineForm
) -> tuple[Callable[..., FloatArray], Callable[..., FloatArray]]:
    """Lost share of the time, and share without service, as functions of factors on the numbers."""
    if deployment is None:
        return (lambda scales: 1 - form.whole(scales)), (lambda scales: 1 - form.whole(scales))
    return deployment.lost.unavailability, deployment.outage.unavailability


def _sensitivity(
    lost: Callable[..., FloatArray], ranges: dict[str, float], seed: int
) -> tuple[list[Swing], list[Interaction], list[str]]:
    """Tornado and interactions of the lost share of the time."""
    swings = tornado(lost, ranges)
    if len(ranges) < 2:
        return swings, [], []
    if not can_interact():
        return swings, [], [f"interactions of these numbers need SALib: pip install '{EXTRA}'"]
    shares, pairs = interactions(lost, ranges, seed)
    swings = [dataclasses.replace(swing, first=shares[swing.name][0], total=shares[swing.name][1]) for swing in swings]
    return swings, pairs, []


def _causes(
    deployment: _Closed | None, form: MachineForm, counts: Mapping[PartKind, int], histories: Sequence[PlayedYears]
) -> tuple[CauseRow, ...]:
    """What each kind of part takes: of the deployment's capacity, or without a deployment of the whole machine."""
    years = sum(history.seconds for history in histories) / law.YEAR_S
    failures = sum((history.failures for history in histories), Counter[PartKind]())
    closed: Mapping[PartKind, float]
    if deployment is not None:
        closed = {kind: law.YEAR_S * float(lost) for kind, lost in deployment.lost.lost_by_kind().items()}
        simulated: Mapping[PartKind, float] = deployment.causes
    else:
        times = form.mean_times()
        closed = {
            kind: law.YEAR_S * counts[kind] * float(rate) * float(mean_s)
            for kind, (rate, mean_s) in times.items()
            if kind in counts
        }
        simulated = {}
    rows = [
        CauseRow(
            kind, count, failures[kind] / years, simulated.get(kind, 0.0) if deployment else None,
            closed.get(kind, 0.0),
        )
        for kind, count in counts.items()
    ]  # fmt: skip
    return tuple(sorted(rows, key=lambda row: -row.closed_s))


def _promise(
    promise: float, form: MachineForm, deployment: _Closed | None, outage: Callable[..., FloatArray]
) -> Promise:
    """What the promised availability needs: the mean downtime of a failure, and the time of a repair."""
    share = promise / 100
    rates = form.rates
    repair_s = float(rates.repair.value or 0.0)
    lost_s = law.YEAR_S * float(outage({}))
    failures = form.failures_rate() if deployment is None else _stops(deployment.outage)
    factor = needed_factor(outage, 1 - share)
    return Promise(
        promise=promise, budget_s=law.downtime_s(share), failures_per_year=failures * law.YEAR_S,
        mean_s=lost_s / (failures * law.YEAR_S) if failures else 0.0,
        mean_needed_s=law.mttr_for(share, failures) if failures else None,
        repair_s=repair_s, repair_needed_s=None if factor is None else factor * repair_s,
        without_repair_s=law.YEAR_S * float(outage({"repair": 0.0})),
    )  # fmt: skip


def _stops(form: ClosedForm) -> float:
    """Failures that stop the deployment, of all kinds [1/s]."""
    rate = 0.0
    for kind, costs in form.costs.items():
        if kind in form.rates.parts:
            per_part = float(form.rates.parts[kind].failures.value or 0.0) / 3600
            rate += per_part * sum(count for cost, count in costs.items() if any((*cost.transient, *cost.lost)))
    return rate


def needed_factor(outage: Callable[..., FloatArray], allowed: float) -> float | None:
    """Factor on the repair times with which the share without service is `allowed`.

    Bisection: the share grows with the repair time. The factor is `LONGEST` if even this factor is small enough, and
    None if no factor is.
    """
    if float(outage({"repair": 0.0})) > allowed:
        return None
    low, high = 0.0, LONGEST
    if float(outage({"repair": high})) <= allowed:
        return LONGEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(outage({"repair": middle})) <= allowed else (low, middle)
    return low
