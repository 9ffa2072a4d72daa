"""`tokenworks.train`: the best plan to train a model on a machine, its time, memory and energy, and what limits it."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np

from tokenworks import units
from tokenworks.costs.train import train_step
from tokenworks.costs.train_plan import TrainRates, train_rates
from tokenworks.errors import SpecError
from tokenworks.legal.training import PRECISIONS, TrainPoints, TrainSetting
from tokenworks.planning.train_advice import no_plan
from tokenworks.planning.train_asked import AskedTraining, asked_training
from tokenworks.planning.train_goodput import AfterFailure, goodput, machines_left, machines_used
from tokenworks.planning.train_result import TrainFrontPoint, TrainRow, TrainRun
from tokenworks.planning.train_search import Say, TrainSearch, search_training
from tokenworks.planning.train_space import Fixed
from tokenworks.specs.calibration import DEFAULT, Calibration, CalibrationLike, load_calibration
from tokenworks.specs.compose import On
from tokenworks.specs.given import Assume, given
from tokenworks.specs.hf import ModelLike
from tokenworks.specs.interval import vendor_of
from tokenworks.specs.machine import Machine, named
from tokenworks.specs.model import Model
from tokenworks.specs.reliability import PUBLISHED, Reliability, ReliabilityLike, load_reliability
from tokenworks.specs.training import MethodName, PrecisionName, Training
from tokenworks.specs.training_text import TrainingLike

STORAGE = "--storage"


def train(
    model: ModelLike,
    on: On,
    *,
    tokens: str | float = "1T",
    batch: str | int | None = None,
    seq: int | None = None,
    deploy: TrainingLike | None = None,
    method: MethodName | None = None,
    precision: PrecisionName | None = None,
    devices: int | None = None,
    after_failure: AfterFailure = "elastic",
    storage: str | None = None,
    reliability: ReliabilityLike = PUBLISHED,
    assume: Assume = None,
    calibration: CalibrationLike = DEFAULT,
    top: int = 5,
    progress: Say | None = None,
) -> TrainRun:
    """Search the best plan to train a model on a machine.

    Parameters
    ----------
    model : as `load_model` takes it: catalog id, path or content of a config.json, or a model
    on : as `load_machine` takes it: "scalex40", "128xhgx-h100", "my-box.yaml", what such a file holds, or a machine
    tokens : tokens of the whole run, such as "1T" or "14.8T"
    batch : tokens of an optimiser step, such as "16M" (k and M are 2^10 and 2^20), or sequences x length, such as
        "2048x8192"; None: the batch of `deploy`
    seq : length of a sequence; None: that of `batch` or of `deploy`, else 8,192 [token]
    deploy : what is fixed of the plan: text such as "tp=8,pp=16,recompute=full"; the search decides the rest. A YAML
        file, a dict or a `Training` is a finished plan. None: the search decides everything
    method : pretrain, continued, sft, lora or dpo; None: that of `deploy`, else pretrain
    precision : bf16, fp16, fp8, fp8-block, mxfp8, nvfp4 ...; None: that of `deploy`, else bf16
    devices : devices of the machine that are used; None: all [count]
    after_failure : what the run does when a part is lost: "elastic" goes on with the devices that are left, "spare"
        has a spare for each part, "wait" waits for the repair
    storage : bandwidth at which all hosts together write a checkpoint, such as "20 GB/s"; None: that of `reliability`
    reliability : failure rates: name of the catalog, YAML file, dict or `Reliability`
    assume : numbers to use instead, a YAML file or a dict, of machine and calibration
    calibration : name of the catalog, YAML file, dict or `Calibration`
    top : plans to list [count]
    progress : told in words what happens next

    Raises
    ------
    SpecError : anything wrong with what was given, or no plan keeps all rules
    DoesNotFit : no plan fits the memory of the devices; the message names the smallest changes that do
    """
    started = time.perf_counter()
    if top < 1:
        raise SpecError(f"{top} plans", where="--top", hint="write 1 or more")
    ask = asked_training(
        model, on, tokens=tokens, batch=batch, seq=seq, deploy=deploy, method=method, precision=precision,
        devices=devices, assume=assume,
    )  # fmt: skip
    return trained(
        ask, after_failure=after_failure, storage=storage, reliability=load_reliability(reliability), assume=assume,
        calibration=calibration, top=top, progress=progress, started=started,
    )  # fmt: skip


def trained(
    ask: AskedTraining, *, after_failure: AfterFailure, storage: str | None, reliability: Reliability, assume: Assume,
    calibration: CalibrationLike, top: int, progress: Say | None, started: float,
) -> TrainRun:  # fmt: skip
    """The run of what `asked_training` has read; the other parameters are those of `train`.

    Parameters
    ----------
    started : `time.perf_counter()` at the start [s]
    """
    written = storage_rate(storage)
    setting, used = ask.setting, load_calibration(calibration, assume=given(assume))
    result, rates = _fastest(setting, used, ask.fixed, top, progress)
    if not len(result.points):
        raise no_plan(ask, rates, result)
    places = families(result.points, top)
    rows = tuple(
        row_of(rank, result, place, rates, machine=setting.machine, tokens=ask.tokens)
        for rank, place in enumerate(places, start=1)
    )
    best = rows[0]
    kept = goodput(
        setting.model, setting.machine, best.training, reliability, after=after_failure, storage=written,
        rest=_rest(ask, used, best),
    )  # fmt: skip
    unknown = reliability.assumed(vendor_of(setting.machine.family))
    failing = [item for item in unknown if written is None or not item.path.endswith("storage")]
    return TrainRun(
        setting=setting, tokens=ask.tokens, rows=tuple(row.with_goodput(kept.share) for row in rows), goodput=kept,
        front=front_of(result), considered=result.considered, legal=result.legal, timed=len(result.points),
        pruned=result.pruned, broken=result.broken, calibration=calibration, grade=rates.rates.grade,
        given=ask.given, assumed=tuple(named(ask.given, (*rates.assumed, *failing))),
        elapsed_s=time.perf_counter() - started,
    )  # fmt: skip


def storage_rate(storage: str | None) -> float | None:
    """Bandwidth at which all hosts together write a checkpoint; None: that of the failure rates [byte/s].

    Parameters
    ----------
    storage : the bandwidth as text, such as "20 GB/s"

    Raises
    ------
    SpecError : not a bandwidth, or zero
    """
    written = None if storage is None else units.parse(storage, "byte/s", where=STORAGE)
    if written == 0:
        raise SpecError("0 byte/s", where=STORAGE, hint='write a bandwidth, such as "20 GB/s"')
    return written


def _fastest(
    setting: TrainSetting, calibration: Calibration, fixed: Fixed, top: int, progress: Say | None
) -> tuple[TrainSearch, TrainRates]:
    """The search with the fastest plan, over all devices or over a part of each domain; and the rates that it used."""
    found: tuple[TrainSearch, TrainRates] | None = None
    for machine in machines_used(setting.machine):
        rates = train_rates(machine, calibration)
        result = search_training(dataclasses.replace(setting, machine=machine), rates, fixed, keep=top, say=progress)
        if found is None or _first(result) < _first(found[0]):
            found = result, rates
    assert found is not None
    return found


def _first(result: TrainSearch) -> float:
    """Time of the fastest plan; infinite without a plan [s]."""
    return float(result.seconds[0]) if len(result.points) else math.inf


def families(points: TrainPoints, top: int) -> list[int]:
    """Places of the fastest plan of each choice of widths, fastest first.

    Parameters
    ----------
    points : plans, fastest first
    top : most places [count]
    """
    widths = np.stack([points.tp, points.pp, points.dp, points.cp, points.ep, points.expert_tp])
    _, first = np.unique(widths, axis=1, return_index=True)
    return sorted(map(int, first))[:top]


def row_of(
    rank: int, result: TrainSearch, place: int, rates: TrainRates, *, machine: Machine, tokens: float
) -> TrainRow:
    """One plan with its predictions.

    Parameters
    ----------
    rank : position in the list
    result : the search
    place : place of the plan in the search
    rates : rates of the machine
    machine : all devices, idle ones, too
    tokens : tokens of the whole run [token]
    """
    training = result.points.training(place, result.setting.base)
    step = train_step(result.setting.model, rates, training)
    return TrainRow.of(rank, training, step, machine, tokens)


def front_of(result: TrainSearch) -> tuple[TrainFrontPoint, ...]:
    """The Pareto front of step time and memory, fastest first.

    Parameters
    ----------
    result : the search
    """
    return tuple(
        TrainFrontPoint(
            training=result.points.training(place, result.setting.base),
            step_s=float(result.seconds[place]),
            memory_bytes=float(result.need[place]),
        )
        for place in map(int, result.front)
    )


def _rest(ask: AskedTraining, calibration: Calibration, best: TrainRow) -> tuple[int, float] | None:
    """Devices, and speed / speed of the best plan, of the fastest run on what a lost device leaves; None: no plan fits.

    The run keeps its batch, so that it learns the same. The search decides all widths again.
    """
    precision = {"precision": (PRECISIONS.index(best.training.precision.recipe),)}
    fastest: tuple[float, int] | None = None
    for machine in (used for left in machines_left(ask.setting.machine) for used in machines_used(left)):
        setting = dataclasses.replace(ask.setting, machine=machine)
        left = search_training(setting, train_rates(machine, calibration), Fixed(precision), front=False)
        if len(left.points):
            one = (float(left.seconds[0]), int(left.points.devices[0]))
            fastest = min(fastest, one) if fastest else one
    return None if fastest is None else (fastest[1], min(best.step_s / fastest[0], 1.0))


def choose(
    model: Model, machine: Machine, batch: int, sequence: int, *, rates: TrainRates | None = None,
    base: Training | None = None,
) -> Training | None:  # fmt: skip
    """The fastest plan for a batch, for runs whose plan is not known.

    Parameters
    ----------
    model, machine : the model, and all devices that train it
    batch : sequences of an optimiser step [count]
    sequence : length of a sequence [token]
    rates : rates of the machine; None: those of the default calibration
    base : settings that the search does not change, such as precision and method; None: the defaults

    Returns
    -------
    The plan; None: no plan fits.
    """
    settled = (base or Training()).model_copy(
        update={"global_batch": batch, "seq_len": sequence, "micro_batch": 1, "parallel": Training().parallel}
    )
    setting = TrainSetting(model, machine, settled)
    reached = train_rates(machine, load_calibration(DEFAULT)) if rates is None else rates
    result = search_training(setting, reached, front=False)
    return result.points.training(0, settled) if len(result.points) else None
