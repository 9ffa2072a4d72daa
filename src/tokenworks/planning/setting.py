"""Names, files and dicts become a workload, and a setting of model, machine and engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, Literal

from tokenworks.errors import SpecError
from tokenworks.legal.points import Setting
from tokenworks.specs.compose import On, machine
from tokenworks.specs.context import with_max_model_len
from tokenworks.specs.converted import converted_for
from tokenworks.specs.deployment import EngineName
from tokenworks.specs.edits import workload_with
from tokenworks.specs.engine import Engine, engine_names, load_engine
from tokenworks.specs.given import Assume, Given
from tokenworks.specs.hf import ModelLike, load_model
from tokenworks.specs.load import WorkloadLike, load_workload, validate
from tokenworks.specs.machine import Machine
from tokenworks.specs.workload import Workload

EngineChoice = EngineName | Literal["auto"]
"""An engine, or "auto" for all engines that run on the device."""

FRACTION = "--memory-fraction"


def setting_of(
    model: ModelLike, on: On, engine: EngineName, workload: Workload, numbers: tuple[Given, ...], *,
    max_model_len: int | None = None, devices: int | None = None, needs: Collection[str] | None = None,
) -> Setting:  # fmt: skip
    """Read model, machine and engine, with the numbers that the user set.

    Parameters
    ----------
    model : as `load_model` takes it
    on, devices, needs : as `specs.compose.machine` takes them
    engine : name of the serving engine
    workload : the requests; it has the numbers of the area `workload` already
    numbers : numbers of all areas that the user set
    max_model_len : longest input + output of a request, see `specs.context`; None: the limit of the model [token]
    """
    whole = machine(on, assume=numbers, devices=devices, needs=needs)
    others = [item for item in numbers if item.area != "machine"]
    used = load_engine(engine, assume=numbers, family=whole.family)
    must_run_on(used, whole)
    limited = with_max_model_len(converted_for(load_model(model), whole), max_model_len)
    return Setting(limited, whole, used, workload, (*whole.given, *others))


def settings_of(
    model: ModelLike, on: On, engine: EngineChoice, workload: Workload, numbers: tuple[Given, ...], *,
    max_model_len: int | None = None, devices: int | None = None,
) -> tuple[Setting, ...]:  # fmt: skip
    """A setting for each engine: for the one that is asked for, or with "auto" for all that run on the device."""
    if engine != "auto":
        one = setting_of(model, on, engine, workload, numbers, max_model_len=max_model_len, devices=devices)
        return (one,)
    first = setting_of(model, on, "vllm", workload, numbers, max_model_len=max_model_len, devices=devices)
    family = first.machine.family
    every = (load_engine(name, assume=numbers, family=family) for name in engine_names())
    return tuple(dataclasses.replace(first, engine=one) for one in every if one.runs_on(family))


def with_memory_fraction(numbers: tuple[Given, ...], fraction: float | None) -> tuple[Given, ...]:
    """The numbers of the user, with the share of device memory of `--memory-fraction`.

    Parameters
    ----------
    numbers : numbers that the user set
    fraction : share of device memory that the engine takes; None: nothing changes [-]

    Raises
    ------
    SpecError : the share is not above 0, or above 1
    """
    if fraction is None:
        return numbers
    if not 0 < fraction <= 1:
        hint = "write a share above 0 and at most 1, such as 0.9"
        raise SpecError(f"{fraction:g} is not a share of the device memory", where=FRACTION, hint=hint)
    return (*numbers, Given(path="engine.memory_fraction", value=repr(float(fraction)), why=FRACTION))


def with_role_fraction(setting: Setting, fraction: float) -> Setting:
    """The setting of a deployment that names its own share of device memory.

    Parameters
    ----------
    setting : setting with the share of the engine
    fraction : `memory_fraction` of the role [-]
    """
    if fraction == setting.memory_fraction:
        return setting
    numbers = with_memory_fraction((), fraction)
    return dataclasses.replace(setting, engine=load_engine(setting.engine, assume=numbers))


def must_run_on(engine: Engine, machine: Machine) -> None:
    """Refuse an engine that does not run on the devices of a machine."""
    if not engine.runs_on(machine.family):
        others = [name for name in engine_names() if load_engine(name).runs_on(machine.family)]
        raise SpecError(
            f"{engine.title} does not run on {machine.device}, a device of the family {machine.family}",
            where="engine", hint=f"take {' or '.join(others)}",
        )  # fmt: skip


def workload_of(
    workload: WorkloadLike | None,
    *,
    isl: float | None = None,
    osl: float | None = None,
    rate: float | None = None,
    concurrency: float | None = None,
    assume: Assume = None,
) -> Workload:
    """A workload from its name, or from mean lengths. A given rate or concurrency replaces the load of the workload.

    Parameters
    ----------
    workload : a catalog name, a YAML file, a dict, or a `Workload`; None: a workload of `isl` and `osl`
    isl, osl : mean input and output length of a request [token]
    rate : requests per second [1/s]
    concurrency : requests in flight [count]
    assume : values by path such as `workload.isl_cv`; paths of other areas have no effect here
    """
    lengths = {name: value for name, value in (("isl", isl), ("osl", osl)) if value is not None}
    load = {name: value for name, value in (("rate", rate), ("concurrency", concurrency)) if value is not None}
    if workload is not None:
        if lengths:
            raise SpecError("give a workload, or isl and osl, not both", where="--workload", hint="leave one out")
        read = load_workload(workload)
        kept = read.model_dump(exclude={"rate", "concurrency"} if load else set())
        asked = validate(Workload, kept | load, read.name)
    elif missing := [name for name in ("isl", "osl") if name not in lengths]:
        raise SpecError(
            f"no workload, and no {', '.join(missing)}", where="--workload", hint="name one, or give --isl and --osl"
        )
    else:
        name = f"isl {lengths['isl']:g}, osl {lengths['osl']:g}"
        data: dict[str, Any] = {"name": name, **lengths, **load}
        asked = validate(Workload, data, "command line")
    return workload_with(asked, assume)
