"""One model on one machine: its plan, and what the best deployment does with devices, power and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenworks.engine.tiers import Tiers
from tokenworks.errors import DoesNotFit, NoPrediction, SpecError, TokenworksError
from tokenworks.ledger.uptime import DeploymentUptime, deployment_uptime
from tokenworks.planning.bench import Bench, Budget
from tokenworks.planning.plan import planned, prepare
from tokenworks.planning.result import Plan, Ranked
from tokenworks.planning.search import Progress
from tokenworks.planning.tiered import AUTO, check_tiers
from tokenworks.simulation.energy import used
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.spent import TokenShares, device_time, roofs_of_parts, token_shares
from tokenworks.simulation.summary import tiers as tiers_of
from tokenworks.specs.machine import Machine
from tokenworks.specs.reliability import Reliability

TOP = 3
"""Deployments that each plan lists [count]."""


@dataclass(frozen=True, slots=True)
class Best:
    """What the best deployment of a plan does, from its simulation.

    Parameters
    ----------
    effective_tok_s, output_tok_s : tokens of the whole machine [token/s]
    input_tok_s, cached_tok_s : input tokens that are computed, and those that the prefix cache serves [token/s]
    users : requests in flight, and users who think about the next turn [count]
    watts_per_device : mean power of a device [W]; None if its TDP is not published
    spent : time of all devices per output token, by part [s/token]
    roofs : the roof that binds each part
    shares : busy time by kind of token
    """

    effective_tok_s: float
    output_tok_s: float
    input_tok_s: float
    cached_tok_s: float
    users: float
    watts_per_device: float | None
    spent: Mapping[str, float]
    roofs: Mapping[str, str]
    shares: TokenShares


@dataclass(frozen=True, slots=True)
class TierUse:
    """The KV cache in HBM, or a tier below, of the best deployment.

    Parameters
    ----------
    name : `hbm`, or the name of the tier
    capacity_bytes : KV cache that it holds, of all instances together [byte]
    hit_share : input tokens that it serves / all input tokens [-]
    """

    name: str
    capacity_bytes: float
    hit_share: float


@dataclass(frozen=True, slots=True)
class TierGain:
    """What the KV tiers below HBM give the best deployment.

    Parameters
    ----------
    uses : the KV cache in HBM, then the tiers
    without_effective_tok_s : effective tokens of the same deployment without the tiers, at the same load [token/s]
    without_meets_slo : whether the deployment without the tiers meets the SLO at this load
    """

    uses: tuple[TierUse, ...]
    without_effective_tok_s: float
    without_meets_slo: bool


@dataclass(frozen=True, slots=True)
class Study:
    """The answer of one machine for one model.

    Parameters
    ----------
    model, system : names, as the catalog and `--on` write them
    machine : the machine
    plan : the plan; None if the model cannot run on the machine
    best : the best deployment; None without a plan
    uptime : availability of the best deployment; None without one, or if the parts of its machine cannot be counted
    tiers : KV tiers below HBM of the best deployment; None without such tiers
    error : why the machine has no value, in words; "" for a machine that meets the SLO
    exit_code : exit code that `plan` ends with
    command : command that prints the plan
    """

    model: str
    system: str
    machine: Machine | None
    plan: Plan | None
    best: Best | None
    uptime: DeploymentUptime | None
    tiers: TierGain | None
    error: str
    exit_code: int
    command: str

    @property
    def row(self) -> Ranked | None:
        """The best deployment that meets the SLO; None if none does."""
        return self.plan.best if self.plan and self.plan.meets_slo else None

    @property
    def effective_tok_s(self) -> float | None:
        """Effective tokens per second of the whole machine; None if no deployment meets the SLO [token/s]."""
        return None if self.row is None else self.row.effective_tok_s_per_device * self.row.charged


def charged(study: Study) -> int:
    """Devices that the throughput of a machine is divided by [count]."""
    assert study.plan is not None
    return study.plan.best.charged


@dataclass(frozen=True, slots=True)
class Question:
    """One plan that a comparison needs.

    Parameters
    ----------
    model, system : as `plan` takes them
    arguments : the other arguments of `planning.plan.prepare`
    budget : as `plan` takes it
    command : command that prints the plan
    tiers : KV tiers below HBM, as `plan` takes them
    simulate : False: the plan has the estimates of the closed form, and `Study.best` is None
    fronts : False: the points of the Pareto front keep their estimates
    top : deployments that the plan lists, each one confirmed with other requests [count]
    reliability : failure rates and times; None: `Study.uptime` is None
    weigh_tiers : False: `Study.tiers` is None
    """

    model: Any
    system: Any
    arguments: Mapping[str, Any]
    budget: str | None
    command: str
    tiers: str = AUTO
    simulate: bool = True
    fronts: bool = True
    top: int = TOP
    reliability: Reliability | None = None
    weigh_tiers: bool = False


def without(question: Question, error: TokenworksError, machine: Machine | None = None) -> Study:
    """The study of a machine that has no plan, with the reason."""
    model, name = (one if isinstance(one, str) else one.name for one in (question.model, question.system))
    return Study(model, name, machine, None, None, None, None, str(error), error.exit_code, question.command)


def study(question: Question, progress: Progress | None = None) -> Study:
    """Plan one model on one machine. A machine that cannot do the work has the reason in `error`."""
    try:
        costings = prepare(question.model, question.system, **question.arguments)
    except (DoesNotFit, NoPrediction) as error:
        return without(question, error)
    machine, bench = costings[0].setting.machine, Bench()
    try:
        plan = planned(
            check_tiers(question.tiers, costings), question.top, simulate=question.simulate, tiers=question.tiers,
            budget=Budget.of(question.budget), fronts=question.fronts, progress=progress, bench=bench,
        )  # fmt: skip
    except (DoesNotFit, SpecError) as error:
        return without(question, error, machine)
    model = plan.setting.model.name
    missed = None if plan.meets_slo else plan.missed()
    bare = Study(
        model, machine.name, machine, plan, None, None, None, str(missed) if missed else "",
        missed.exit_code if missed else 0, question.command,
    )  # fmt: skip
    if missed or not question.simulate:
        return bare
    run, rates = bench.listed[plan.best.deployment], question.reliability
    return replace(
        bare, best=best_of(plan, bench), uptime=None if rates is None else deployment_uptime(run, rates),
        tiers=tier_gain(run, plan.best) if question.weigh_tiers else None,
    )  # fmt: skip


def tier_gain(run: Simulation, row: Ranked) -> TierGain | None:
    """What the KV tiers of a deployment give, by the same requests without them; None without tiers below HBM.

    Parameters
    ----------
    run : a simulation of the deployment
    row : the deployment with the values of this simulation
    """
    if not run.cluster.tiers.stores:
        return None
    bare = simulate(
        run.deployment, run.traffic, slo=run.slo, calibration=run.calibration, seed=run.cluster.router.seed,
        drain=False, like=(run.site, replace(run.cluster, tiers=Tiers())),
        block_tokens=run.cluster.pools[0].limits.block_tokens,
    )  # fmt: skip
    uses = tuple(TierUse(one["name"], one["capacity_bytes"], one["hit_share"]) for one in tiers_of(run))
    flow = row.output_tok_s_per_device * row.charged / run.metrics.output_throughput
    return TierGain(uses, bare.metrics.effective_throughput * flow, bare.meets_slo)


def best_of(plan: Plan, bench: Bench) -> Best:
    """What the best deployment of a simulated plan does.

    Parameters
    ----------
    plan : the plan
    bench : the bench that `planned` kept the simulations in
    """
    row = plan.best
    return _best(bench.listed[row.deployment], row)


def _best(run: Simulation, row: Ranked) -> Best:
    charged, metrics, pools = row.charged, run.metrics, run.window.counts.pools
    watts = used(run.deployment.roles, pools, run.site, run.span.seconds).watts(run.site)
    workload = run.traffic.workload
    think_s = workload.think_time if workload else 0.0
    input_tok_s = (row.total_tok_s_per_device - row.output_tok_s_per_device) * charged
    cached = input_tok_s * row.hit_share
    return Best(
        effective_tok_s=row.effective_tok_s_per_device * charged,
        output_tok_s=row.output_tok_s_per_device * charged,
        input_tok_s=input_tok_s - cached,
        cached_tok_s=cached,
        users=row.requests_s * (metrics.mean_e2el_ms / 1e3 + think_s),
        watts_per_device=watts,
        spent=device_time(run, charged, row.output_tok_s_per_device),
        roofs=roofs_of_parts(run),
        shares=token_shares(run),
    )
