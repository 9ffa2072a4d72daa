"""The result of `plan`: ranked deployments with their predictions, what limits them, and intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from typing_extensions import TypedDict

from tokenworks.errors import SloMissed, SpecError
from tokenworks.legal.points import Setting
from tokenworks.planning.costing import OfferedLoad
from tokenworks.specs.calibration import CalibrationLike, calibration_name
from tokenworks.specs.context import model_notes
from tokenworks.specs.deployment import LAUNCHED_ENGINES, Deployment, EngineName
from tokenworks.specs.deployment_file import Deployed, Entry, document
from tokenworks.specs.engine import load_engine
from tokenworks.specs.machine import Assumption
from tokenworks.specs.result import Assumed, FormOf, Inputs, Plain, assumed_plain, envelope, inputs, rounded
from tokenworks.specs.scheduling import Scheduling
from tokenworks.specs.shown import Record, Shown, flat
from tokenworks.specs.slo import Slo
from tokenworks.specs.software import Software

Binding = Literal["compute", "hbm", "kv-capacity", "scale-up", "scale-out", "host"]
Interval = tuple[float, float]

EXPECTED = (
    "output_tok_s_per_device", "effective_tok_s_per_device", "ttft_s", "tpot_s", "ttft_slo_s", "tpot_slo_s",
    "requests_s", "bound_by", "interval", "grade",
)  # fmt: skip
"""Predictions that a file of deployments contains for each deployment."""


@dataclass(frozen=True, slots=True)
class Estimated:
    """The estimate of a deployment by the closed form. The fields have the names and units of `Ranked`.

    Parameters
    ----------
    rank : position among all estimates, 1 is the best
    """

    rank: int
    output_tok_s_per_device: float
    effective_tok_s_per_device: float
    requests_s: float
    ttft_s: float
    tpot_s: float
    ttft_slo_s: float
    tpot_slo_s: float
    slo_pressure: float
    batch: float


@dataclass(frozen=True, slots=True)
class Ranked:
    """One deployment with its predictions: simulated, or estimated in a plan without simulation.

    Parameters
    ----------
    rank : position in the plan, 1 is the best
    deployment : roles and settings
    devices : devices in use [count]
    idle_devices : devices that are left over where no further replica fits [count]
    output_tok_s_per_device : output tokens of all requests, per device in use or idle [token/s]
    effective_tok_s_per_device : output tokens of requests that meet the SLO, per device in use or idle [token/s]
    total_tok_s_per_device : input and output tokens, per device in use or idle [token/s]
    output_tok_s_per_user : 1 / tpot_s [token/s]
    requests_s : requests that the whole deployment serves [1/s]
    offered_s : requests that are sent; more than it serves if some are refused, since they are too long [1/s]
    ttft_s, tpot_s : mean TTFT and TPOT [s]
    ttft_slo_s, tpot_slo_s : TTFT and TPOT at the percentiles of the SLO, or at the 99th without a bound [s]
    slo_pressure : the largest of value / bound; above 1 the SLO is missed [-]
    load : given rate or concurrency / estimated capacity of the deployment [-]; None without a load
    bound_by, bound_role : what limits the deployment, and in which role
    interval : ranges that should contain 80 % of measurements, from the spread of the calibration
    hit_share : input tokens that the prefix cache serves / all input tokens [-]
    batch : sequences that decode in one instance, on average [count]
    assumed : paths of the assumed numbers that the prediction depends on
    grade : what the prediction is based on
    software : software stacks whose measured points the step times rest on
    estimated : the estimate of the closed form
    """

    rank: int
    deployment: Deployment
    devices: int
    idle_devices: int
    output_tok_s_per_device: float
    effective_tok_s_per_device: float
    total_tok_s_per_device: float
    output_tok_s_per_user: float
    requests_s: float
    offered_s: float
    ttft_s: float
    tpot_s: float
    ttft_slo_s: float
    tpot_slo_s: float
    slo_pressure: float
    load: float | None
    bound_by: Binding
    bound_role: str
    interval: Mapping[str, Interval]
    hit_share: float
    batch: float
    assumed: tuple[str, ...]
    grade: str
    software: tuple[Software, ...]
    estimated: Estimated

    @property
    def charged(self) -> int:
        """Devices that throughput is divided by: those in use, and those left over [count]."""
        return self.devices + self.idle_devices

    @property
    def meets_slo(self) -> bool:
        """Whether the deployment keeps every bound, and carries the load."""
        return self.slo_pressure <= 1


@dataclass(frozen=True, slots=True)
class Decided:
    """How much was simulated to decide a plan.

    Parameters
    ----------
    simulations, requests : simulations, and requests of all simulations [count]
    settled : False if the budget ended before every deployment that could be better was simulated
    reproducible : False if the budget was a time, because the result then depends on the speed of the machine
    remarks : sentences on the requests of the best deployment, such as a share that is refused
    """

    simulations: int
    requests: int
    settled: bool
    reproducible: bool = True
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A point of the Pareto front: no other deployment is faster for a user and has more throughput per device."""

    deployment: Deployment
    output_tok_s_per_user: float
    output_tok_s_per_device: float
    ttft_slo_s: float


RankedPlain = Annotated[Plain, FormOf(Ranked, meets_slo=bool, label=str)]


class PlanInputs(Inputs):
    """The inputs of a plan.

    system : name of the machine, as a file of deployments writes it
    scheduling : scheduling policy that all deployments of the search are assumed to have
    """

    system: str
    scheduling: str


class PlanBody(TypedDict):
    """The plain form of a plan.

    simulated : whether deployments and Pareto front contain simulated values; else they contain estimates
    simulations, simulated_requests : simulations, and requests of all simulations [count]
    settled : whether every deployment was simulated whose estimate, with its error, could be better than a listed one
    reproducible : whether the same command gives the same result on another machine
    engines : the engines that were compared
    """

    inputs: PlanInputs
    notes: list[str]
    considered: int
    legal: int
    estimated: int
    pruned: dict[str, int]
    broken: dict[str, int]
    meets_slo: bool
    deployments: list[RankedPlain]
    pareto: list[Annotated[Plain, FormOf(FrontPoint)]]
    assumed: list[Assumed]
    simulated: bool
    simulations: int
    simulated_requests: int
    settled: bool
    reproducible: bool
    engines: list[str]


@dataclass(frozen=True, slots=True, repr=False)
class Plan(Shown):
    """The answer of `plan`.

    Parameters
    ----------
    setting, slo, load, calibration : the inputs of the plan; the setting has the engine of the best deployment
    engines : the engines that were compared
    considered : points of the space [count]
    legal : points that keep every rule [count]
    estimated : points that the closed form was computed for [count]
    pruned : points that a bound ruled out, by bound [count]
    broken : splits that break a rule, by the first rule that they break [count]
    deployments : best first; the best deployment of each set of widths, and of each size of the prefill instance. If
        none meets the SLO, the nearest one comes first
    pareto : deployments that no other deployment beats both in user speed and in throughput, fastest first
    assumed : assumed numbers that the predictions depend on
    elapsed_s : time of the whole plan [s]
    decision : what was simulated; None for a plan of estimates
    """

    setting: Setting
    engines: tuple[EngineName, ...]
    slo: Slo
    load: OfferedLoad | None
    considered: int
    legal: int
    estimated: int
    pruned: Mapping[str, int]
    broken: Mapping[str, int]
    deployments: tuple[Ranked, ...]
    pareto: tuple[FrontPoint, ...]
    assumed: tuple[Assumption, ...]
    calibration: CalibrationLike
    elapsed_s: float
    decision: Decided | None = None

    @property
    def headline(self) -> str:
        """The best deployment in one line."""
        best, setting = self.best, self.setting
        kept = "meets" if self.meets_slo else "misses"
        return (
            f"{setting.model.name} on {setting.machine.name} with {setting.engine.title}: {best.deployment}, "
            f"{best.effective_tok_s_per_device:,.1f} effective tokens/s a device, {kept} {self.slo or 'no SLO'}; "
            f"{len(self.deployments)} deployments"
        )

    def to_records(self) -> list[Record]:
        """The ranked deployments, one a record."""
        return [flat(_fields(row), label=str(row.deployment)) for row in self.deployments]

    @property
    def best(self) -> Ranked:
        """The first deployment."""
        return self.deployments[0]

    @property
    def meets_slo(self) -> bool:
        """Whether a deployment meets the SLO and carries the load."""
        return self.best.meets_slo

    def deployed(self, pick: int = 1) -> Deployed:
        """One of the deployments together with model, machine and workload, for a simulation.

        Parameters
        ----------
        pick : position of the deployment in the plan, 1 is the best

        Raises
        ------
        SpecError : the plan has no deployment at this position
        """
        if not 1 <= pick <= len(self.deployments):
            raise SpecError(f"{pick} is out of range", where="pick", hint=f"the plan has 1 to {len(self.deployments)}")
        setting, row = self.setting, self.deployments[pick - 1]
        numbers = tuple(
            item for item in setting.given if item.area != "workload"
        )  # the workload has its numbers already
        workload = setting.workload.model_copy(update={"slo": str(self.slo)})
        plain = row_plain(row)
        expected = {name: plain[name] for name in EXPECTED}
        return Deployed(row.deployment, numbers, self.calibration, workload, setting.model, setting.machine, expected)

    def missed(self) -> SloMissed:
        """The error for a plan in which nothing meets the SLO: the nearest deployment, its distance, and its limit."""
        best = self.best
        what = str(self.slo) or "the load"
        meets = "meets" if self.decision else "is expected to meet"
        asked = f" at {self.load.value:g} {self.load.unit}" if self.load else ""
        return SloMissed(
            f"no deployment {meets} {what}{asked}; the nearest, {best.deployment}, is at "
            f"{best.slo_pressure:.4g} times the bound: {self._shortfall(best)}; it is limited by {best.bound_by}"
        )

    def _shortfall(self, row: Ranked) -> str:
        words = []
        if self.slo.ttft and row.ttft_slo_s > self.slo.ttft.value:
            words.append(f"TTFT p{self.slo.ttft.percentile:g} {row.ttft_slo_s:.3g} s")
        if self.slo.tpot and row.tpot_slo_s > self.slo.tpot.value:
            words.append(f"TPOT p{self.slo.tpot.percentile:g} {row.tpot_slo_s * 1e3:.3g} ms")
        if self.load and row.load is not None and row.load > 1:
            carried = f"{self.load.value / row.load:.3g} of {self.load.value:.4g} {self.load.unit}"
            words.append(f"within all bounds it can carry {carried}")
        return ", ".join(words) or "it cannot keep up"

    def inputs(self) -> PlanInputs:
        """The inputs of the plan, as plain data."""
        return plan_inputs(self.setting, self.slo, self.calibration)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know beside the numbers."""
        return tuple(filter(None, (*self.remarks, self.not_launched)))

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes on the numbers."""
        one = "Requests with one output token have no TPOT: only a TTFT bound can be given."
        notes = (*model_notes(self.setting.model), one if self.setting.workload.osl == 1 else "")
        return tuple(dict.fromkeys(filter(None, (*notes, *(self.decision.remarks if self.decision else ())))))

    @property
    def not_launched(self) -> str:
        """That `emit` cannot write launch commands for the best deployment, and the way out; empty if it can."""
        engines = [row.deployment.engine for row in self.deployments]
        if not engines or engines[0] in LAUNCHED_ENGINES:
            return ""
        names = " or ".join(f"--engine {name}" for name in LAUNCHED_ENGINES)
        picks = [f"--pick {rank}" for rank, engine in enumerate(engines, 1) if engine in LAUNCHED_ENGINES]
        ways = " or ".join([*picks[:1], f"plan with {names}"])
        return f"`emit` writes no launch commands for deployment 1, of {load_engine(engines[0]).title}: {ways}."

    def document(self) -> Plain:
        """The file of deployments that other commands read."""
        rows = ((row, row_plain(row)) for row in self.deployments)
        entries = [
            Entry(rank=row.rank, deployment=row.deployment, expected={name: plain[name] for name in EXPECTED})
            for row, plain in rows
        ]
        plain: Plain = rounded(document(entries, self.inputs()))
        return plain

    def plain(self) -> Plain:
        """The whole answer as plain data; only `wall` differs between two runs."""
        body: PlanBody = {
            "inputs": self.inputs(),
            "notes": list(self.notes),
            "considered": self.considered,
            "legal": self.legal,
            "estimated": self.estimated,
            "pruned": dict(self.pruned),
            "broken": dict(self.broken),
            "meets_slo": self.meets_slo,
            "deployments": [row_plain(row) for row in self.deployments],
            "pareto": [
                {**_fields(point), "deployment": point.deployment.model_dump(mode="json")} for point in self.pareto
            ],
            "assumed": assumed_plain(self.assumed),
            "simulated": self.decision is not None,
            "simulations": self.decision.simulations if self.decision else 0,
            "simulated_requests": self.decision.requests if self.decision else 0,
            "settled": self.decision is not None and self.decision.settled,
            "reproducible": self.decision is None or self.decision.reproducible,
            "engines": list(self.engines),
        }
        return envelope("plan", body, {"elapsed_s": self.elapsed_s})


def plan_inputs(setting: Setting, slo: Slo, calibration: CalibrationLike) -> PlanInputs:
    """The inputs of a plan, as plain data."""
    scheduling = Scheduling().name
    return {**inputs_of(setting, slo, calibration), "system": setting.machine.name, "scheduling": scheduling}


def inputs_of(setting: Setting, slo: Slo | None, calibration: CalibrationLike) -> Inputs:
    """The inputs of a result, as plain data.

    Parameters
    ----------
    setting : model, machine, engine and workload
    slo : None if this kind of result has no SLO
    calibration : as `load_calibration` takes it
    """
    return inputs(
        model=setting.model.name, machine=setting.machine.name, workload=setting.workload,
        slo=None if slo is None else str(slo), engine=setting.engine.name,
        calibration=calibration_name(calibration), given=setting.given,
    )  # fmt: skip


def row_plain(row: Ranked) -> Plain:
    """A ranked deployment as plain data."""
    estimates = _fields(row.estimated)
    plain = _fields(row) | {"meets_slo": row.meets_slo, "label": str(row.deployment), "estimated": estimates}
    plain["software"] = [one.model_dump() for one in row.software]
    return {"rank": row.rank, "deployment": row.deployment.model_dump(mode="json")} | {
        key: value for key, value in plain.items() if key not in ("rank", "deployment")
    }


def _fields(item: Any) -> dict[str, Any]:
    return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
