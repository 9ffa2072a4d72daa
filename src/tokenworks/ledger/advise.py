"""`tokenworks.advise`: what a deployment will do, what binds it, and the single changes that gain most."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from typing_extensions import TypedDict

from tokenworks.errors import DoesNotFit, SloMissed, SpecError, TokenworksError
from tokenworks.ledger.changes import Change, changes, split_changes
from tokenworks.legal.rules import MEMORY, Broken, explain
from tokenworks.planning.bench import Bench, Say
from tokenworks.planning.costing import Costing
from tokenworks.planning.decide import ERROR
from tokenworks.planning.judge import best_run, shown, step_of
from tokenworks.planning.plan import assumptions, prepare
from tokenworks.planning.ranking import Candidate
from tokenworks.planning.result import PlanInputs, Ranked, RankedPlain, plan_inputs, row_plain
from tokenworks.planning.setting import with_role_fraction
from tokenworks.planning.why import candidate_of
from tokenworks.simulation.run import Simulation
from tokenworks.simulation.spent import device_time
from tokenworks.simulation.summary import series
from tokenworks.specs.calibration import CalibrationLike
from tokenworks.specs.compose import On
from tokenworks.specs.context import model_notes
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.given import Assume
from tokenworks.specs.hf import ModelLike
from tokenworks.specs.load import WorkloadLike
from tokenworks.specs.machine import Assumption
from tokenworks.specs.result import Assumed, FormOf, Plain, assumed_plain, envelope
from tokenworks.specs.shown import Record, Shown, flat
from tokenworks.specs.slo import SloLike

WHERE = "deployment"

FITS = "deployment_fits_machine"
"""Name of the rule on the devices of the whole deployment. `legal.rules` judges single instances."""

SPLITS = 4
"""Other splits of a role that are simulated: those with the best estimates [count]."""

LEAST_GAIN = 0.02
"""A change with a smaller gain is not listed: two neighbouring rates of the search differ by this share [-]."""


class DevicePart(TypedDict):
    """A part of the time of all devices per output token [s/token], and its share [-]."""

    part: str
    device_s_per_token: float
    share: float


class ChangePlain(TypedDict):
    """A change with its prediction. `gain` is the change of effective tokens; None: there were none before [-]."""

    kind: str
    change: str
    set: list[str]
    gain: float | None
    note: str
    prediction: RankedPlain


class AdviseBody(TypedDict):
    """The plain form of the advice.

    tried : changes that are legal
    """

    inputs: PlanInputs
    notes: list[str]
    deployment: Annotated[Plain, FormOf(Deployment)]
    legal: bool
    broken: list[Annotated[Plain, FormOf(Broken)]]
    meets_slo: bool
    prediction: RankedPlain | None
    parts: list[DevicePart]
    limit_shares: dict[str, float]
    changes: list[ChangePlain]
    tried: int
    simulations: int
    simulated_requests: int
    assumed: list[Assumed]


@dataclass(frozen=True, slots=True)
class Improvement:
    """A change that gains, with the prediction of the changed deployment.

    Parameters
    ----------
    change : the change
    row : prediction of the changed deployment
    gain : effective tokens per device / those of the deployment without the change - 1; None: it has none [-]
    """

    change: Change
    row: Ranked
    gain: float | None


@dataclass(frozen=True, slots=True, repr=False)
class Advice(Shown):
    """The answer of `advise`.

    Parameters
    ----------
    costing : the setting
    deployment : the deployment
    broken : rules that the deployment breaks; with one, there is no prediction, and the changes are those that make it
        legal
    prediction : what the deployment does, at its highest rate within the SLO or under the given load
    parts : where the time of all devices goes, per output token, largest first
    limit_shares : share of the time in which each resource limits the deployment, by the words of `simulation.series`:
        "max-sequences" and "kv-capacity" if requests wait for one of these, else a roof, "arrivals" or "idle" [-]
    improvements : changes that gain most, best first
    tried : legal changes [count]
    simulations, requests : simulations, and requests of all simulations [count]
    assumed : assumed numbers that the predictions depend on
    notes : sentences for the reader, such as flags of a launch command that were not understood
    elapsed_s : time of the whole advice [s]
    """

    costing: Costing
    deployment: Deployment
    broken: tuple[Broken, ...] = ()
    prediction: Ranked | None = None
    parts: tuple[DevicePart, ...] = ()
    limit_shares: Mapping[str, float] = field(default_factory=dict)
    improvements: tuple[Improvement, ...] = ()
    tried: int = 0
    simulations: int = 0
    requests: int = 0
    assumed: tuple[Assumption, ...] = ()
    notes: tuple[str, ...] = ()
    elapsed_s: float = 0.0

    @property
    def headline(self) -> str:
        """The advice in one line."""
        setting = self.costing.setting
        name = f"{setting.model.name} on {setting.machine.name}, {self.deployment}"
        if self.prediction is None:
            return f"{name}: breaks {', '.join(item.rule for item in self.broken)}"
        best = f"; best change {self.improvements[0].change.words}" if self.improvements else ""
        return f"{name}: {self.prediction.effective_tok_s_per_device:,.1f} effective tokens/s a device{best}"

    def to_records(self) -> list[Record]:
        """The deployment and its changes, one a record."""
        rows: list[tuple[str, float | None, Ranked | None]] = [("as it is", None, self.prediction)]
        rows += [(one.change.words, one.gain, one.row) for one in self.improvements]
        return [flat(row_plain(row), change=words, gain=gain) for words, gain, row in rows if row is not None]

    @property
    def meets_slo(self) -> bool:
        """Whether the deployment breaks no rule and keeps the SLO."""
        return self.prediction is not None and self.prediction.meets_slo

    def error(self) -> TokenworksError | None:
        """What is wrong with the deployment, as an error with its exit code; None: it meets the SLO."""
        if self.broken:
            rules = ", ".join(dict.fromkeys(item.rule for item in self.broken))
            if all(item.rule in (*MEMORY, FITS) for item in self.broken):
                return DoesNotFit(f"{self.deployment} does not fit: {rules}")
            return SpecError(f"{self.deployment} breaks {rules}", where=WHERE, hint="the output says what is right")
        if self.prediction is not None and not self.prediction.meets_slo:
            slo = str(self.costing.slo) or "the load"
            return SloMissed(f"{self.deployment} misses {slo}: {self.prediction.slo_pressure:.4g} times the bound")
        return None

    def plain(self) -> Plain:
        """The whole advice as plain data; only `wall` differs between two runs."""
        body: AdviseBody = {
            "inputs": plan_inputs(self.costing.setting, self.costing.slo, self.costing.calibration),
            "notes": list(self.notes),
            "deployment": self.deployment.model_dump(mode="json"),
            "legal": not self.broken,
            "broken": [dataclasses.asdict(item) for item in self.broken],
            "meets_slo": self.meets_slo,
            "prediction": row_plain(self.prediction) if self.prediction else None,
            "parts": list(self.parts),
            "limit_shares": dict(self.limit_shares),
            "changes": [
                {"kind": one.change.kind, "change": one.change.words, "set": list(one.change.values),
                 "gain": one.gain, "note": one.change.note, "prediction": row_plain(one.row)}
                for one in self.improvements
            ],
            "tried": self.tried,
            "simulations": self.simulations,
            "simulated_requests": self.requests,
            "assumed": assumed_plain(self.assumed),
        }  # fmt: skip
        return envelope("advise", body, {"elapsed_s": self.elapsed_s})


def advise(
    deployed: Deployed, *, on: On | None = None, model: ModelLike | None = None, workload: WorkloadLike | None = None,
    isl: float | None = None, osl: float | None = None, rate: float | None = None, concurrency: float | None = None,
    slo: SloLike | None = None, devices: int | None = None, assume: Assume = None,
    calibration: CalibrationLike | None = None, top: int = 3, notes: Sequence[str] = (), say: Say | None = None,
) -> Advice:  # fmt: skip
    """Simulate a deployment, and its single changes, and list the changes that gain most.

    Every change is one setting, one split of a role, or one instance more or less. Estimates of the closed form order
    the changes; simulations decide, with the same random numbers for all deployments.

    Parameters
    ----------
    deployed : the deployment, with the inputs of its plan
    on : machine; None: the system of the deployment
    model : None: the model of the deployment
    workload, isl, osl : requests; None: the workload of the plan
    rate, concurrency : load [1/s, count]; without both the highest rate within the SLO
    slo : None: the SLO of the workload
    devices : devices of the machine that are used; None: all [count]
    assume, calibration : None: those that the deployment was planned with
    top : changes to list [count]
    notes : sentences that the advice repeats
    say : told in words what happens next

    Raises
    ------
    SpecError : an argument is wrong, or the deployment has no steady state
    """
    began = time.perf_counter()
    costing, deployment = prepared(
        deployed, on=on, model=model, workload=workload, isl=isl, osl=osl, rate=rate, concurrency=concurrency, slo=slo,
        devices=devices, assume=assume, calibration=calibration,
    )  # fmt: skip
    everything = (*notes, *model_notes(costing.setting.model))
    work = _Work(Bench(), say or (lambda _: None))
    broken = broken_rules(costing, deployment)
    if broken:
        found, tried = _improvements(work, costing, deployment, None, top)
        return Advice(
            costing, deployment, broken, improvements=found, tried=tried, simulations=work.bench.simulations,
            requests=work.bench.requests, assumed=assumptions([costing]), notes=everything,
            elapsed_s=time.perf_counter() - began,
        )  # fmt: skip
    candidate = candidate_of(costing, deployment, WHERE)
    work.say(f"simulating {deployment}")
    run = best_run(work.bench, candidate)
    assert run is not None
    before = shown(candidate, run)
    spent = device_time(run, before.charged, before.output_tok_s_per_device)
    whole = sum(spent.values()) or 1.0
    parts = sorted(
        (DevicePart(part=part, device_s_per_token=value, share=value / whole) for part, value in spent.items()),
        key=lambda part: -part["share"],
    )
    found, tried = _improvements(work, costing, deployment, before, top)
    return Advice(
        costing, deployment, (), before, tuple(parts), _limits(run), found, tried,
        work.bench.simulations, work.bench.requests, assumptions([costing]),
        tuple(dict.fromkeys((*everything, *run.remarks))), time.perf_counter() - began,
    )  # fmt: skip


def prepared(
    deployed: Deployed, *, on: On | None, model: ModelLike | None, workload: WorkloadLike | None, isl: float | None,
    osl: float | None, rate: float | None, concurrency: float | None, slo: SloLike | None, devices: int | None,
    assume: Assume, calibration: CalibrationLike | None,
) -> tuple[Costing, Deployment]:  # fmt: skip
    """The setting of a deployment, and the deployment with the names of this setting; parameters as in `advise`."""
    deployment = deployed.deployment
    numbers = deployed.given if assume is None else assume
    requests = workload if workload is not None or isl is not None or osl is not None else deployed.workload
    if on is None and devices is None and assume is None and deployed.machine is not None:
        on = deployed.machine
    (costing,) = prepare(
        deployed.model or deployment.model if model is None else model, deployment.system if on is None else on,
        workload=requests, isl=isl, osl=osl, rate=rate, concurrency=concurrency, slo=slo, engine=deployment.engine,
        max_model_len=deployment.max_model_len, devices=devices, assume=numbers,
        calibration=deployed.calibration if calibration is None else calibration,
    )  # fmt: skip
    names = {"model": costing.setting.model.name, "system": costing.setting.machine.name}
    return costing, deployment.model_copy(update=names)


def broken_rules(costing: Costing, deployment: Deployment) -> tuple[Broken, ...]:
    """Rules that a deployment breaks on its machine, each with its role where there are two."""
    broken: list[Broken] = []
    for role in deployment.roles:
        for item in explain(role, with_role_fraction(costing.setting, role.memory_fraction)):
            message = item.message if len(deployment.roles) == 1 else f"{role.name}: {item.message}"
            broken.append(dataclasses.replace(item, message=message))
    machine = costing.setting.machine
    if not broken and deployment.devices > machine.devices:
        broken.append(
            Broken(
                FITS, "A deployment needs the devices of all instances: at most those of the machine.",
                f"{deployment} takes {deployment.devices} devices, {machine.name} has {machine.devices}: take fewer "
                "replicas, or a larger machine",
            )
        )  # fmt: skip
    return tuple(broken)


def _limits(run: Simulation) -> dict[str, float]:
    """Share of the time windows of a run that each resource limits, largest first [-]."""
    bound = series(run)["bound"]
    counts = Counter(bound)
    return {name: count / len(bound) for name, count in counts.most_common()}


@dataclass(frozen=True, slots=True)
class _Work:
    bench: Bench
    say: Say


def _improvements(
    work: _Work, costing: Costing, deployment: Deployment, before: Ranked | None, top: int
) -> tuple[tuple[Improvement, ...], int]:
    """The changes that gain most, best first, and the number of legal changes.

    Parameters
    ----------
    before : the deployment without a change; None: it breaks a rule, and every legal change gains
    """
    setting = costing.setting
    work.say("listing single changes")
    every = changes(setting, deployment, rate=costing.load is not None)
    ordered = [*_estimates(costing, every)]
    count = len(every)
    for number in range(len(deployment.roles)):
        splits = split_changes(setting, deployment, number)
        count += len(splits)
        ordered += sorted(_estimates(costing, splits), key=_expected)[:SPLITS]
    best: list[tuple[Change, Ranked]] = []
    for change, candidate in sorted(ordered, key=_expected):
        floor = best[top - 1][1] if len(best) >= top else before
        expected = candidate.estimated.effective_tok_s_per_device * (1 + ERROR)
        if floor is not None and expected < floor.effective_tok_s_per_device:
            continue
        work.say(f"simulating {change.words}")
        row = _simulated(work.bench, candidate, floor)
        if row is not None and (before is None or (_order(row) < _order(before) and _gains(before, row))):
            best = sorted([*best, (change, row)], key=lambda pair: _order(pair[1]))
            best = _of_each_kind(best)
    return tuple(Improvement(change, row, _gain(before, row)) for change, row in best[:top]), count


def _estimates(costing: Costing, every: Sequence[Change]) -> list[tuple[Change, Candidate]]:
    """Changes with their estimates; a change without a steady state is left out."""
    pairs: list[tuple[Change, Candidate]] = []
    for change in every:
        try:
            pairs.append((change, candidate_of(costing, change.deployment, WHERE)))
        except (SpecError, DoesNotFit):
            continue
    return pairs


def _expected(pair: tuple[Change, Candidate]) -> tuple[float, float, float]:
    """Best estimate first."""
    estimate = pair[1].estimated
    return -estimate.effective_tok_s_per_device, estimate.slo_pressure, -estimate.output_tok_s_per_device


def _simulated(bench: Bench, candidate: Candidate, floor: Ranked | None) -> Ranked | None:
    """The simulated values of a changed deployment; None if it is below another one.

    Parameters
    ----------
    floor : the deployment that it must exceed by one step of the rate; None: none
    """
    least = 0.0
    if floor is not None and floor.meets_slo:
        least = floor.offered_s * step_of(candidate) * candidate.charged / floor.charged
    try:
        run = best_run(bench, candidate, least if candidate.costing.load is None else 0.0)
    except (SpecError, DoesNotFit):  # the memory or a rule of the simulation forbids the change
        return None
    return None if run is None else shown(candidate, run)


def _order(row: Ranked) -> tuple[float, float]:
    """Best first: effective tokens, then the distance to the SLO."""
    return (-row.effective_tok_s_per_device if row.meets_slo else 0.0, row.slo_pressure)


def _gain(before: Ranked | None, after: Ranked) -> float | None:
    old = before.effective_tok_s_per_device if before else 0.0
    return after.effective_tok_s_per_device / old - 1 if old > 0 else None


def _gains(before: Ranked, after: Ranked) -> bool:
    """Whether a change gains at least `LEAST_GAIN` of effective tokens, or with equal tokens of distance to the SLO.

    The distance counts under a given load, which both deployments may serve, and where the SLO is missed. At the
    highest rate within the SLO, every deployment is near a bound.
    """
    gain = _gain(before, after)
    if gain is not None and (abs(gain) >= LEAST_GAIN or before.load is None):
        return gain >= LEAST_GAIN
    return after.meets_slo > before.meets_slo or after.slo_pressure < before.slo_pressure * (1 - LEAST_GAIN)


def _of_each_kind(best: Sequence[tuple[Change, Ranked]]) -> list[tuple[Change, Ranked]]:
    """The best change of each kind in each role: three sizes of the same batch are no three pieces of advice."""
    kept: dict[tuple[str, str], tuple[Change, Ranked]] = {}
    for change, row in best:
        kept.setdefault((change.kind, change.words.partition(":")[0]), (change, row))
    return list(kept.values())
