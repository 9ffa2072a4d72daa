"""`tokenworks.plan`: from names and numbers to a typed plan."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tokenworks.costs.rates import rates, with_engine
from tokenworks.errors import SpecError
from tokenworks.planning.bench import CUT, Bench, Budget
from tokenworks.planning.costing import Costing, OfferedLoad
from tokenworks.planning.decide import DEPTH, ERROR, decide
from tokenworks.planning.fronts import estimated_front, simulated_front
from tokenworks.planning.ranking import candidates, estimated, front
from tokenworks.planning.result import Decided, Plan
from tokenworks.planning.search import Progress
from tokenworks.planning.searches import searched
from tokenworks.planning.setting import EngineChoice, settings_of, workload_of
from tokenworks.planning.tiered import AUTO, check_tiers
from tokenworks.specs.calibration import DEFAULT, CalibrationLike, load_calibration
from tokenworks.specs.compose import On
from tokenworks.specs.engine import OF_MEASURED_ROWS
from tokenworks.specs.given import Assume, given
from tokenworks.specs.hf import ModelLike
from tokenworks.specs.load import WorkloadLike
from tokenworks.specs.machine import Assumption, named
from tokenworks.specs.slo import Slo, SloLike


def plan(
    model: ModelLike,
    on: On,
    *,
    workload: WorkloadLike | None = None,
    isl: float | None = None,
    osl: float | None = None,
    rate: float | None = None,
    concurrency: float | None = None,
    slo: SloLike | None = None,
    engine: EngineChoice = "auto",
    top: int = 5,
    max_model_len: int | None = None,
    devices: int | None = None,
    assume: Assume = None,
    calibration: CalibrationLike = DEFAULT,
    simulate: bool = True,
    budget: str | None = None,
    tiers: str = AUTO,
    progress: Progress | None = None,
) -> Plan:
    """Rank the deployments of a model on a machine by effective tokens per device.

    The closed form orders all deployments. Those that may be best are simulated, each at its highest rate within the
    SLO, or under the given load; the plan has the simulated values.

    Parameters
    ----------
    model : as `load_model` takes it: catalog id, path or content of a config.json, or a model
    on : as `load_machine` takes it: "scalex40", "5xhgx-h100", "my-box.yaml", what such a file holds, or a machine
    workload : catalog name, YAML file, dict or `Workload`; or give `isl` and `osl`
    isl, osl : mean input and output length of a request [token]
    rate : requests to carry [1/s]
    concurrency : requests in flight to carry [count]; without it and without a rate, as much as the SLO allows
    slo : "ttft=2s,tpot=50ms" (99th percentiles), {"ttft": "2s"} or an `Slo`; "" binds nothing, None is the workload's
    engine : serving engine whose scheduler and overheads are assumed; "auto" compares all engines of the catalog that
        run on the device
    top : deployments to list [count]
    max_model_len : longest input + output of a request, see `specs.context`; None: the limit of the model [token]
    devices : devices of the machine that are used; None: all [count]
    assume : numbers to use instead, a YAML file or a dict: of the machine (`scale_up.hop`), or with the name of their
        area in front (`engine.host_step`, `calibration.skew`, `workload.isl_cv`)
    calibration : name of the catalog, YAML file, dict or `Calibration`
    simulate : False leaves the estimates of the closed form, which may be far from a simulation: for sweeps
    budget : where the search ends, settled or not: "500000 requests", or "10s", whose result depends on the speed of
        the machine; None is a fixed number of requests
    tiers : KV tiers below HBM: "auto" tries the set-ups of the engine where requests share prefixes; "none"; or the
        name of a set-up of the catalog, such as the what-if "pooled"
    progress : told in words what happens next

    Raises
    ------
    SpecError : anything wrong with what was given
    DoesNotFit : the machine cannot hold the model, or not the cache of one request

    Where no deployment meets the SLO, the plan holds the nearest ones, and `Plan.meets_slo` is false.
    """
    must_list(top)
    limit = Budget.of(budget)
    costings = prepare(
        model, on, workload=workload, isl=isl, osl=osl, rate=rate, concurrency=concurrency, slo=slo, engine=engine,
        max_model_len=max_model_len, devices=devices, assume=assume, calibration=calibration,
    )  # fmt: skip
    costings = check_tiers(tiers, costings)
    return planned(costings, top, simulate=simulate, budget=limit, tiers=tiers, progress=progress)


def must_list(top: int) -> None:
    """Refuse a plan that lists nothing."""
    if top < 1:
        raise SpecError(f"{top} deployments", where="--top", hint="write 1 or more")


def planned(
    costings: Sequence[Costing], top: int, *, simulate: bool = True, budget: Budget | None = None,
    tiers: str = AUTO, fronts: bool = True, progress: Progress | None = None, bench: Bench | None = None,
) -> Plan:  # fmt: skip
    """The plan of what `prepare` has read; the other parameters are those of `plan`.

    Parameters
    ----------
    fronts : False: the points of the Pareto front keep their estimates, which saves their simulations
    bench : a new bench that keeps the last simulation of each listed deployment for the caller
    """
    started, bench = time.perf_counter(), bench or Bench()
    keep, margin = (max(top, DEPTH), ERROR) if simulate else (top, 0.0)
    results = searched(costings, keep, margin=margin, progress=progress)
    points, decision = front(results), None
    if simulate:
        rows, settled = decide(bench, candidates(results), top, budget=budget, tiers=tiers, say=progress)
        pareto = simulated_front(bench, points, say=progress) if fronts else estimated_front(points)
        timed = budget is not None and budget.seconds is not None
        remarks = bench.listed[rows[0].deployment].remarks if rows[0].deployment in bench.listed else ()
        if not bench.cut.isdisjoint(row.deployment for row in rows):
            settled, remarks = False, (*remarks, CUT)
        decision = Decided(bench.simulations, bench.requests, settled, reproducible=not timed, remarks=remarks)
    else:
        rows, pareto = estimated(results, top), estimated_front(points)
    listed = {row.deployment.engine for row in rows}
    winner = next(one for one in costings if one.setting.engine.name == rows[0].deployment.engine)
    return Plan(
        setting=winner.setting,
        engines=tuple(one.setting.engine.name for one in costings),  # type: ignore[misc]
        slo=winner.slo,
        load=winner.load,
        considered=sum(one.considered for one in results),
        legal=sum(one.counts.legal for one in results),
        estimated=sum(one.counts.estimated for one in results),
        pruned=_added(one.counts.pruned for one in results),
        broken=_added(one.splits.broken for one in results),
        deployments=rows,
        pareto=pareto,
        assumed=assumptions([one for one in costings if one.setting.engine.name in listed]),
        calibration=winner.calibration,
        elapsed_s=time.perf_counter() - started,
        decision=decision,
    )


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sums by name, in the order in which the names first come."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


def prepare(
    model: ModelLike,
    on: On,
    *,
    workload: WorkloadLike | None,
    isl: float | None,
    osl: float | None,
    rate: float | None,
    concurrency: float | None,
    slo: SloLike | None,
    engine: EngineChoice,
    max_model_len: int | None = None,
    devices: int | None = None,
    assume: Assume,
    calibration: CalibrationLike,
) -> tuple[Costing, ...]:
    """Everything that `plan` takes, read and checked, for each engine; the parameters are those of `plan`."""
    numbers = given(assume)
    asked = workload_of(workload, isl=isl, osl=osl, rate=rate, concurrency=concurrency, assume=numbers)
    bounds = Slo.of(asked.slo if slo is None else slo)
    if asked.osl == 1:  # the only token is the first: there is no time between tokens
        bounds = dataclasses.replace(bounds, tpot=None)
    settings = settings_of(model, on, engine, asked, numbers, max_model_len=max_model_len, devices=devices)
    load = None
    if asked.rate is not None:
        load = OfferedLoad("rate", asked.rate)
    elif asked.concurrency is not None:
        load = OfferedLoad("concurrency", asked.concurrency)
    achieved = rates(settings[0].machine, load_calibration(calibration, assume=numbers))
    return tuple(
        Costing(setting, with_engine(achieved, setting.engine, setting.model), bounds, load, calibration)
        for setting in settings
    )


def assumptions(costings: Sequence[Costing]) -> tuple[Assumption, ...]:
    """Every assumed number that the predictions used: machine, calibration, engines, workload."""
    setting = costings[0].setting
    engines = (
        Assumption(f"engine.{name}", quantity.written, f"{of}{quantity.source}")
        for engine in (one.setting.engine for one in costings)
        for of in ((f"{engine.title}: " if len(costings) > 1 else ""),)
        for name, quantity in engine
        if getattr(quantity, "assumed", False) and name not in OF_MEASURED_ROWS
    )
    workload = (Assumption("workload", setting.workload.name, words) for words in setting.workload.assumed)
    return tuple(named(setting.given, (*costings[0].rates.assumed, *engines, *workload)))
