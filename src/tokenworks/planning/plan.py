"""`tokenworks.plan`: from names and numbers to a typed plan."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from tokenworks.costs.rates import rates
from tokenworks.errors import SpecError
from tokenworks.legal.points import Setting
from tokenworks.planning.costing import Costing, OfferedLoad
from tokenworks.planning.ranking import front, ranked
from tokenworks.planning.result import Plan
from tokenworks.planning.search import Progress, search
from tokenworks.specs.calibration import DEFAULT, load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.context import with_max_model_len
from tokenworks.specs.deployment import EngineName
from tokenworks.specs.engine import OF_MEASURED_ROWS, load_engine
from tokenworks.specs.hf import load_model
from tokenworks.specs.load import load_workload, validate
from tokenworks.specs.machine import Assumption
from tokenworks.specs.slo import Slo
from tokenworks.specs.workload import Workload


def plan(
    model: str,
    on: str,
    *,
    workload: Workload | str | Path | None = None,
    isl: float | None = None,
    osl: float | None = None,
    rate: float | None = None,
    concurrency: float | None = None,
    slo: str | None = None,
    engine: EngineName = "vllm",
    top: int = 10,
    max_model_len: int | None = None,
    assume: Path | None = None,
    calibration: str = DEFAULT,
    progress: Progress | None = None,
) -> Plan:
    """Rank the deployments of a model on a machine by effective tokens per device.

    Parameters
    ----------
    model : catalog id, path of a config.json, or id in the local Hugging Face cache
    on : machine, such as "scalex40", "5xhgx-h100", "4xscalex40@xdr", "my-box.yaml"
    workload : a catalog name, a YAML file, or a `Workload`; or give `isl` and `osl` [token]
    rate : requests per second; concurrency : requests in flight; neither: as much as the SLO allows
    slo : such as "ttft=2s,tpot=50ms" (99th percentiles), "" for none; the workload's own where None
    max_model_len : longest input + output of a request [token], see `specs.context`; None: the model's own limit
    top : deployments to list; assume : YAML file of numbers to use instead of those of the machine
    calibration : a name of the catalog, or a YAML file such as `calibrate` writes
    progress : told what happens next

    Raises
    ------
    SpecError : anything wrong with what was given
    DoesNotFit : the machine cannot hold the model, or not the cache of one request

    Where no deployment meets the SLO, the plan holds the nearest ones, and `Plan.meets_slo` is false.
    """
    started = time.perf_counter()
    if top < 1:
        raise SpecError(f"{top} deployments", where="--top", hint="write 1 or more")
    costing = prepare(
        model, on, workload=workload, isl=isl, osl=osl, rate=rate, concurrency=concurrency, slo=slo, engine=engine,
        max_model_len=max_model_len, assume=assume, calibration=calibration,
    )  # fmt: skip
    found = search(costing, top, progress=progress)
    return Plan(
        setting=costing.setting,
        slo=costing.slo,
        load=costing.load,
        considered=found.considered,
        legal=found.counts.legal,
        estimated=found.counts.estimated,
        pruned=found.counts.pruned,
        broken=found.splits.broken,
        deployments=ranked(costing, found, top),
        pareto=front(costing, found),
        assumed=assumptions(costing),
        calibration=costing.calibration,
        elapsed_s=time.perf_counter() - started,
    )


def prepare(
    model: str,
    on: str,
    *,
    workload: Workload | str | Path | None,
    isl: float | None,
    osl: float | None,
    rate: float | None,
    concurrency: float | None,
    slo: str | None,
    engine: EngineName,
    max_model_len: int | None = None,
    assume: Path | None,
    calibration: str,
) -> Costing:
    """Everything that `plan` was given, read and checked."""
    asked = workload_of(workload, isl=isl, osl=osl, rate=rate, concurrency=concurrency)
    bounds = Slo.parse(asked.slo if slo is None else slo)
    if asked.osl == 1:  # the only token is the first: there is no time between tokens
        bounds = dataclasses.replace(bounds, tpot=None)
    limited = with_max_model_len(load_model(model), max_model_len)
    setting = Setting(limited, machine(on, assume=assume), load_engine(engine), asked)
    load = None
    if asked.rate is not None:
        load = OfferedLoad("rate", asked.rate)
    elif asked.concurrency is not None:
        load = OfferedLoad("concurrency", asked.concurrency)
    return Costing(setting, rates(setting.machine, load_calibration(calibration)), bounds, load, calibration)


def workload_of(
    workload: Workload | str | Path | None,
    *,
    isl: float | None = None,
    osl: float | None = None,
    rate: float | None = None,
    concurrency: float | None = None,
) -> Workload:
    """The workload that was named, or the lengths that were given; a load given beside it replaces its own.

    Parameters
    ----------
    workload : a catalog name, a YAML file, or a `Workload`; or give `isl` and `osl` [token]
    rate : requests per second [1/s]; concurrency : requests in flight [count]
    """
    given = {name: value for name, value in (("isl", isl), ("osl", osl)) if value is not None}
    load = {name: value for name, value in (("rate", rate), ("concurrency", concurrency)) if value is not None}
    if workload is not None:
        if given:
            raise SpecError("give a workload, or isl and osl, not both", where="--workload", hint="leave one out")
        named = workload if isinstance(workload, Workload) else load_workload(workload)
        kept = named.model_dump(exclude={"rate", "concurrency"} if load else set())
        return validate(Workload, kept | load, named.name)
    if missing := [name for name in ("isl", "osl") if name not in given]:
        raise SpecError(
            f"no workload, and no {', '.join(missing)}", where="--workload", hint="name one, or give --isl and --osl"
        )
    name = f"isl {given['isl']:g}, osl {given['osl']:g}"
    data: dict[str, Any] = {"name": name, **given, **load}
    return validate(Workload, data, "command line")


def assumptions(costing: Costing) -> tuple[Assumption, ...]:
    """Every assumed number that the prediction used: machine, calibration, engine, workload."""
    setting = costing.setting
    engine = (
        Assumption(f"engine.{name}", quantity.written, quantity.source)
        for name, quantity in setting.engine
        if getattr(quantity, "assumed", False) and name not in OF_MEASURED_ROWS
    )
    workload = (Assumption("workload", setting.workload.name, words) for words in setting.workload.assumed)
    return (*costing.rates.assumed, *engine, *workload)
