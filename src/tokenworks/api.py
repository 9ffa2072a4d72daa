"""The commands as Python functions. Arguments are names, paths, dicts or typed objects; a wrong one is a `SpecError`.

This module checks the arguments, and reads deployments, requests and measured points from files. The packages below do
the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import tokenworks
from tokenworks import ingest
from tokenworks.arguments import checked
from tokenworks.calibrate import validate as validation
from tokenworks.calibrate.measured import PointTable
from tokenworks.calibrate.own_results import measured_table
from tokenworks.launch import emit as emitting
from tokenworks.launch import importing
from tokenworks.launch import training as launches
from tokenworks.ledger import advise as advising
from tokenworks.ledger import availability as availabilities
from tokenworks.ledger import compare as comparing
from tokenworks.ledger import compare_training as training_runs
from tokenworks.ledger import sweep as sweeps
from tokenworks.ledger.availability_result import Availability
from tokenworks.ledger.claims import claims as claiming
from tokenworks.ledger.sweep_file import SweepLike
from tokenworks.planning import estimate as estimating
from tokenworks.planning import fit as fitting
from tokenworks.planning import plan as planning
from tokenworks.planning import train as training
from tokenworks.planning.asked import DeploymentLike, deployed_of
from tokenworks.simulation import capacity as capacities
from tokenworks.simulation import run as running
from tokenworks.simulation.capacity import Capacity
from tokenworks.simulation.faults import FailureInput
from tokenworks.simulation.play import Watch
from tokenworks.simulation.predictor import Predictor, predictor_of
from tokenworks.simulation.run import Simulation
from tokenworks.simulation.source import Source
from tokenworks.specs import compose, hf
from tokenworks.specs.calibration import DEFAULT, CalibrationLike, load_calibration
from tokenworks.specs.deployment import RouterName
from tokenworks.specs.experts import ExpertsLike
from tokenworks.specs.faults import FaultsLike
from tokenworks.specs.given import Assume
from tokenworks.specs.load import WorkloadLike
from tokenworks.specs.reliability import PUBLISHED, ReliabilityLike
from tokenworks.specs.slo import RequestClass, SloLike
from tokenworks.specs.trace import Trace

TraceLike = str | Path | Trace
"""A trace: a file of any format that `load_trace` reads, or a `Trace`."""

Classes = Mapping[str, str] | Sequence[RequestClass]
"""Classes of requests: a dict such as {"batch": "priority=1,ttft=60s"}, or a list of `RequestClass`."""

plan = checked(planning.plan)
compare = checked(comparing.compare)
compare_training = checked(training_runs.compare_training)
claims = checked(claiming.claims)
fit = checked(fitting.fit)
estimate = checked(estimating.estimate)
train = checked(training.train)
emit = checked(emitting.emit)
import_launch = checked(importing.import_launch)
import_training = checked(launches.import_training)
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
    experts: ExpertsLike | None = None,
    faults: FaultsLike | None = None,
    failures: int | None = None,
    hazard: float | None = None,
    reliability: ReliabilityLike | None = None,
) -> Simulation:
    """Play a trace or a workload through a deployment, request by request.

    Parameters
    ----------
    deployment : YAML file of deployments, a dict with its contents, a `Deployment`, or the result of `plan`
    trace : file of requests, or a `Trace`; give a trace or a workload, or neither for the workload of the plan
    workload : requests are generated from it: name in the catalog, YAML file, dict or `Workload`
    requests : number of requests to generate; None is 5,000, or 20 per user [count]
    limit : use only the first requests of a trace; None is all [count]
    rate : requests per second [1/s]
    scale : play a trace at `scale` times its own rate [-]
    concurrency : closed loop: users of a workload, or the most requests of a trace in flight [count]
    slo : "ttft=2s,tpot=50ms", {"ttft": "2s"} or an `Slo`; None is the SLO of the workload
    classes : priority and SLO of each class of requests
    router : how a request finds its instance and rank; None is the router of the deployment, else prefix_aware if
        requests share prefixes, else least_loaded
    max_queue : a rank rejects a request if this number of requests already waits there; 0 is no limit [count]
    pick : number of the deployment in a file or a plan; 1 is the first one
    seed : random seed of generated requests, and of the router power_of_two
    assume : numbers that replace numbers of the catalog: YAML file or dict; None is the numbers of the plan
    calibration : name in the catalog, YAML file, dict or `Calibration`; None is the calibration of the plan
    watch : function for progress: gets the simulated time and the time at which the last request is sent [s]
    experts : popularity of the routed experts over time: YAML file or dict (alpha, half_life, seed), or CSV file of
        counts; None is the skew of the calibration
    faults : schedule of faults: YAML file, dict, list of faults or `FaultSchedule`
    failures : seed of random faults by failure rates; give a schedule or a seed, or neither
    hazard : factor of all failure rates of random faults; None is 1 [-]
    reliability : failure rates and times of the recovery: name in the catalog, YAML file, dict or `Reliability`; None
        is `published`

    Raises
    ------
    SpecError : an argument is wrong
    DoesNotFit : the deployment does not fit the machine, or no request fits its KV cache
    """
    source = source_of(deployment, trace, workload, classes, requests=requests, limit=limit, seed=seed, assume=assume)
    return running.simulate(
        deployed_of(deployment, pick), source.traffic(rate=rate, scale=scale, concurrency=concurrency),
        slo=source.slo(slo), router=router, max_queue=max_queue, seed=seed, assume=assume, calibration=calibration,
        watch=watch, compare_tiers=True, experts=experts,
        failures=FailureInput.read(faults, failures, hazard, reliability),
    )  # fmt: skip


@checked
def predictor(
    deployment: DeploymentLike,
    *,
    trace: TraceLike | None = None,
    workload: WorkloadLike | None = None,
    role: Literal["aggregated", "prefill", "decode"] | None = None,
    pick: int = 1,
    seed: int = 0,
    assume: Assume = None,
    calibration: CalibrationLike | None = None,
) -> Predictor:
    """The step times of a deployment as one function: `predictor([(extend, past), ...])` is the time of a step [s].

    Parameters
    ----------
    trace, workload : requests that the step times are computed for; None is the workload of the plan, else chat
    role : role whose steps are predicted; None: the first one

    The other parameters have the same meaning as in `simulate`.

    Raises
    ------
    SpecError : an argument is wrong
    DoesNotFit : the deployment does not fit the machine
    """
    if trace is None and workload is None and deployed_of(deployment).workload is None:
        workload = "chat"
    source = source_of(deployment, trace, workload, (), requests=None, limit=None, seed=seed, assume=assume)
    return predictor_of(deployed_of(deployment, pick), source, role=role, assume=assume, calibration=calibration)


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
    """Find the highest rate, or the most users, that a deployment serves within an SLO.

    Parameters
    ----------
    users : find the most users instead of the highest rate; a user sends the next request after reading the last answer
    progress : function for progress: gets a text that names the load

    The other parameters have the same meaning as in `simulate`.

    Raises
    ------
    SpecError : an argument is wrong, or the SLO has no bound
    SloMissed : no load meets the SLO
    """
    source = source_of(deployment, trace, workload, classes, requests=requests, limit=limit, seed=seed, assume=assume)
    return capacities.capacity_of(
        deployed_of(deployment, pick), source, source.slo(slo), "users" if users else "rate", router=router, seed=seed,
        assume=assume, calibration=calibration, say=progress,
    )  # fmt: skip


@checked
def availability(
    system: str,
    *,
    deployment: DeploymentLike | None = None,
    workload: WorkloadLike | None = None,
    slo: SloLike | None = None,
    years: float = 1.0,
    seeds: int = availabilities.SEEDS,
    reliability: ReliabilityLike = PUBLISHED,
    promise: float = availabilities.PROMISE,
    pick: int = 1,
    seed: int = 0,
    assume: Assume = None,
    progress: Callable[[str], None] | None = None,
) -> Availability:
    """Find how much of the time a machine and a deployment on it work, and which parts take the rest.

    Parameters
    ----------
    system : machine, such as "scalex40" or "5xhgx-h100"
    deployment : a deployment on this machine, as `simulate` takes it; None: only the machine
    workload : requests of the deployment: name in the catalog, YAML file, dict or `Workload`; None: the workload of the
        plan
    slo : bounds that the capacity of the deployment keeps; None: the SLO of the workload
    years : length of each random history of failures [year]
    seeds : random histories [count]
    reliability : failure rates and times: name of the catalog, YAML file, dict or `Reliability`
    promise : promised availability [%]
    pick : number of the deployment in a file or a plan; 1 is the first one
    seed : seed of the first history, and of generated requests
    assume : numbers that replace numbers of the catalog: YAML file or dict; None is the numbers of the plan
    progress : function for progress: gets a text that says what is computed

    Raises
    ------
    SpecError : an argument is wrong, or the deployment is for another machine
    DoesNotFit : the deployment does not fit the machine
    SloMissed : no load meets the SLO
    """
    if deployment is None:
        return availabilities.availability_of(
            system, years=years, seeds=seeds, reliability=reliability, promise=promise, seed=seed, assume=assume,
            say=progress,
        )  # fmt: skip
    source = source_of(deployment, None, workload, (), requests=None, limit=None, seed=seed, assume=assume)
    return availabilities.availability_of(
        system, deployed=deployed_of(deployment, pick), source=source, slo=source.slo(slo), years=years, seeds=seeds,
        reliability=reliability, promise=promise, seed=seed, assume=assume, say=progress,
    )  # fmt: skip


@checked
def advise(
    deployment: DeploymentLike | importing.LaunchLike,
    *,
    on: compose.On | None = None,
    model: str | None = None,
    workload: WorkloadLike | None = None,
    isl: float | None = None,
    osl: float | None = None,
    rate: float | None = None,
    concurrency: float | None = None,
    slo: SloLike | None = None,
    pick: int = 1,
    recipe: str | None = None,
    variables: Mapping[str, str] | None = None,
    dialect: str | None = None,
    devices: int | None = None,
    assume: Assume = None,
    calibration: CalibrationLike | None = None,
    top: int = 3,
    progress: Callable[[str], None] | None = None,
) -> advising.Advice:
    """Simulate a deployment, find what binds it, and list the single changes that gain most.

    Parameters
    ----------
    deployment : a deployment as `simulate` takes it; or launch commands as `import_launch` takes them
    on : machine; None: the system of the deployment. Launch commands need one
    model : None: the model of the deployment
    workload : name in the catalog, YAML file, dict or `Workload`; None: the workload of the plan
    isl, osl : mean input and output length of a request, in place of a workload [token]
    rate : load in requests per second [1/s]
    concurrency : load in requests in flight [count]. Without both, each deployment serves its highest rate
    slo : "ttft=2s,tpot=50ms", {"ttft": "2s"} or an `Slo`; None is the SLO of the workload
    pick : number of the deployment in a file or a plan; 1 is the first one
    recipe, variables, dialect : of launch commands, as in `import_launch`
    devices : devices of the machine that are used; None: all [count]
    assume : numbers that replace numbers of the catalog: YAML file or dict; None is the numbers of the plan
    calibration : name in the catalog, YAML file, dict or `Calibration`; None is the calibration of the plan
    top : changes to list [count]
    progress : function for progress: gets a text that says what is simulated

    Raises
    ------
    SpecError : an argument is wrong
    """
    deployed, notes = importing.deployed_or_imported(
        deployment, pick, on=on, model=model, recipe=recipe, variables=variables, dialect=dialect, assume=assume
    )
    return advising.advise(
        deployed, on=on, model=model, workload=workload, isl=isl, osl=osl, rate=rate, concurrency=concurrency, slo=slo,
        devices=devices, assume=assume, calibration=calibration, top=top, notes=notes, say=progress,
    )  # fmt: skip


@checked
def sweep(
    sweep: SweepLike,
    *,
    parquet: str | Path | None = None,
    workers: int | None = None,
    ray: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> sweeps.Sweep:
    """Compute many points of one question: all combinations of the values of a sweep file.

    A script that uses more than one process calls this function below `if __name__ == "__main__":`.

    Parameters
    ----------
    sweep : YAML file of a sweep, or a dict with its content
    parquet : Parquet file for the points. After an interruption, the same call goes on from the finished points. None:
        the points stay in memory
    workers : local processes, or Ray actors; None: one per CPU [count]
    ray : address of a Ray cluster; None: local processes
    progress : function for progress: gets a text with the number of finished points

    Raises
    ------
    SpecError : the sweep or a file is wrong, or all points have bad input
    DoesNotFit : no point has a result, and at least one does not fit its machine
    """
    return sweeps.sweep(
        sweep, read_trace=ingest.load_trace, version=tokenworks.__version__, parquet=parquet, workers=workers, ray=ray,
        progress=progress,
    )  # fmt: skip


@checked
def validate(
    data: str | Path | Sequence[str | Path] | PointTable,
    *,
    deployment: DeploymentLike | None = None,
    limit: int | None = None,
    benchmark: int | None = None,
    load: str | None = None,
    assume: Assume = None,
    calibration: CalibrationLike = DEFAULT,
    progress: Callable[[str], None] | None = None,
) -> validation.Validation:
    """Compare predictions with measured points. Each point is simulated under its own load.

    Parameters
    ----------
    data : CSV files of measured points, results of vllm bench serve, SGLang bench_serving, AIPerf, GuideLLM or
        InferenceX, or a `PointTable`
    deployment : deployment that the results were measured on; results of InferenceX describe their own
    limit : use only the first points; None is all [count]
    benchmark : read only the benchmark with this number, from 1 on, of files with several; None is all
    load : load of results that do not record it: "concurrency=16", "rate=2.5" or "burst"
    assume : numbers that replace numbers of the calibration, such as {"calibration.skew": 0.3}: YAML file or dict
    calibration : name in the catalog, YAML file, dict or `Calibration`
    progress : function for progress: gets a text with the number of finished points

    Raises
    ------
    SpecError : an argument is wrong
    """
    table = data
    if not isinstance(table, PointTable):
        paths = [Path(data)] if isinstance(data, (str, Path)) else [Path(one) for one in data]  # type: ignore[union-attr]
        own = deployed_of(deployment).deployment if deployment is not None else None
        table = measured_table(paths, own, limit, benchmark=benchmark, load=load)
    return validation.validate(table, load_calibration(calibration, assume=assume), say=progress)


def source_of(
    deployment: DeploymentLike, trace: TraceLike | None, workload: WorkloadLike | None, classes: Classes, *,
    requests: int | None, limit: int | None, seed: int, assume: Assume,
) -> Source:  # fmt: skip
    """The source of the requests: a trace, a file or a workload; without all, the workload of the plan."""
    if trace is None and workload is None:
        workload = deployed_of(deployment).workload
    file = None if trace is None or isinstance(trace, Trace) else str(trace)
    recorded = trace if isinstance(trace, Trace) or trace is None else ingest.load_trace(trace, seed=seed)
    if isinstance(classes, Mapping):
        classes = [RequestClass.parse(f"{name}:{bounds}", where="classes") for name, bounds in classes.items()]
    return Source.read(
        recorded, workload, requests=requests, limit=limit, classes=tuple(classes), seed=seed, file=file, assume=assume
    )
