"""The verbs as Python functions: arguments are names, paths, dicts or typed objects; a wrong one is a `SpecError`.

The functions of the rooms below take the same arguments; here they are checked, and deployments, requests and measured
points are read from whatever names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tokenworks import ingest
from tokenworks.arguments import checked
from tokenworks.calibrate import validate as validation
from tokenworks.calibrate.measured import PointTable
from tokenworks.calibrate.own_results import measured_table
from tokenworks.planning import estimate as estimating
from tokenworks.planning import fit as fitting
from tokenworks.planning import plan as planning
from tokenworks.planning.asked import DeploymentLike, deployed_of
from tokenworks.simulation import capacity as capacities
from tokenworks.simulation import run as running
from tokenworks.simulation.capacity import Capacity
from tokenworks.simulation.run import Simulation, Watch
from tokenworks.simulation.source import Source
from tokenworks.specs import compose, hf
from tokenworks.specs.calibration import DEFAULT, CalibrationLike, load_calibration
from tokenworks.specs.deployment import RouterName
from tokenworks.specs.given import Assume
from tokenworks.specs.load import WorkloadLike
from tokenworks.specs.slo import RequestClass, SloLike
from tokenworks.specs.trace import Trace

TraceLike = str | Path | Trace
"""What names a trace: a file of any format that `load_trace` reads, or a trace."""

Classes = Mapping[str, str] | Sequence[RequestClass]
"""Classes of requests: {"batch": "priority=1,ttft=60s"}, or the classes themselves."""

plan = checked(planning.plan)
fit = checked(fitting.fit)
estimate = checked(estimating.estimate)
load_model = checked(hf.load_model)
load_machine = checked(compose.machine)
load_trace = checked(ingest.load_trace)


@checked
def simulate(
    deployment: DeploymentLike,
    *,
    trace: TraceLike | None = None,
    workload: WorkloadLike | None = None,
    requests: int | None = None,
    limit: int | None = None,
    rate: float | None = None,
    scale: float | None = None,
    concurrency: int | None = None,
    slo: SloLike | None = None,
    classes: Classes = (),
    router: RouterName | None = None,
    max_queue: int = 0,
    pick: int = 1,
    seed: int = 0,
    assume: Assume = None,
    calibration: CalibrationLike | None = None,
    watch: Watch | None = None,
) -> Simulation:
    """Play a trace or a workload through a deployment, request by request.

    Parameters
    ----------
    deployment : file of deployments, what it holds as a dict, a `Deployment`, or a plan
    trace : file of requests, or a trace
    workload : catalog name, YAML file, dict or `Workload`, to make requests of; give this or a trace
    requests : requests to make of a workload; by default 5,000, or 20 for each user [count]
    limit : first requests of a trace to play; all where None [count]
    rate : requests to send [1/s]
    scale : of a trace, times its own rate [-]
    concurrency : users of a workload, or requests of a trace in flight at most [count]
    slo : "ttft=2s,tpot=50ms", {"ttft": "2s"} or an `Slo`; None is the workload's own
    classes : priority and own SLO of classes of requests
    router : how a request finds its instance and rank; None is what the deployment says, else prefix_aware where
        requests share prefixes, else least_loaded
    max_queue : requests waiting at a rank beyond which it refuses more, 0 = no limit [count]
    pick : which deployment of a file or of a plan, 1 is the best
    seed : of made requests, and of a router that draws
    assume : numbers to use instead, a YAML file or a dict; None is what the deployment was planned with
    calibration : name of the catalog, YAML file, dict or `Calibration`; None is what the deployment was planned with
    watch : called with the simulated time and with the time at which the last request is sent [s]

    Raises
    ------
    SpecError : anything wrong with what was given
    DoesNotFit : the deployment does not fit the machine, or no request fits its cache
    """
    source = _source(trace, workload, classes, requests=requests, limit=limit, seed=seed, assume=assume)
    return running.simulate(
        deployed_of(deployment, pick), source.traffic(rate=rate, scale=scale, concurrency=concurrency),
        slo=source.slo(slo), router=router, max_queue=max_queue, seed=seed, assume=assume, calibration=calibration,
        watch=watch,
    )  # fmt: skip


@checked
def capacity(
    deployment: DeploymentLike,
    *,
    trace: TraceLike | None = None,
    workload: WorkloadLike | None = None,
    requests: int | None = None,
    limit: int | None = None,
    slo: SloLike | None = None,
    classes: Classes = (),
    users: bool = False,
    router: RouterName | None = None,
    pick: int = 1,
    seed: int = 0,
    assume: Assume = None,
    calibration: CalibrationLike | None = None,
    progress: Callable[[str], None] | None = None,
) -> Capacity:
    """Find the highest rate, or most users, that a deployment holds within an SLO.

    Parameters
    ----------
    users : count users, who send a request when they have read the answer before, instead of requests a second
    progress : told in words which load is tried

    The other parameters are those of `simulate`.

    Raises
    ------
    SpecError : anything wrong with what was given, or nothing is bound
    SloMissed : no load holds
    """
    source = _source(trace, workload, classes, requests=requests, limit=limit, seed=seed, assume=assume)
    return capacities.capacity_of(
        deployed_of(deployment, pick), source, source.slo(slo), "users" if users else "rate", router=router, seed=seed,
        assume=assume, calibration=calibration, say=progress,
    )  # fmt: skip


@checked
def validate(
    data: str | Path | Sequence[str | Path] | PointTable,
    *,
    deployment: DeploymentLike | None = None,
    limit: int | None = None,
    assume: Assume = None,
    calibration: CalibrationLike = DEFAULT,
    progress: Callable[[str], None] | None = None,
) -> validation.Validation:
    """Hold predictions against measured points: each point is simulated in its own load.

    Parameters
    ----------
    data : CSV files of measured points, JSON results of vllm bench serve, AIPerf or GuideLLM, or points that were read
    deployment : what the JSON results were measured on
    limit : first points to predict; all where None [count]
    assume : values of `calibration.` to use instead, a YAML file or a dict
    calibration : name of the catalog, YAML file, dict or `Calibration`
    progress : told in words how many points are done

    Raises
    ------
    SpecError : anything wrong with what was given
    """
    table = data
    if not isinstance(table, PointTable):
        paths = [Path(data)] if isinstance(data, (str, Path)) else [Path(one) for one in data]  # type: ignore[union-attr]
        table = measured_table(paths, deployed_of(deployment).deployment if deployment is not None else None, limit)
    return validation.validate(table, load_calibration(calibration, assume=assume), say=progress)


def _source(
    trace: TraceLike | None, workload: WorkloadLike | None, classes: Classes, *, requests: int | None,
    limit: int | None, seed: int, assume: Assume,
) -> Source:  # fmt: skip
    """The requests, whatever names them."""
    file = None if trace is None or isinstance(trace, Trace) else str(trace)
    recorded = trace if isinstance(trace, Trace) or trace is None else ingest.load_trace(trace)
    if isinstance(classes, Mapping):
        classes = [RequestClass.parse(f"{name}:{bounds}", where="classes") for name, bounds in classes.items()]
    return Source.read(
        recorded, workload, requests=requests, limit=limit, classes=tuple(classes), seed=seed, file=file, assume=assume
    )
