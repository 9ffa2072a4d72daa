"""What a training run needs where no plan fits: the smallest single changes, as a message."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from tokenworks.costs.train_plan import TrainRates
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.legal.rules import Broken, broken_rules
from tokenworks.legal.training import RECOMPUTES, TRAIN_SHAPE, TrainPoints, TrainProposal, TrainSetting
from tokenworks.planning.train_search import memory_of
from tokenworks.planning.train_space import FREE, Fixed, TrainSpace
from tokenworks.specs.compose import times

if TYPE_CHECKING:
    from tokenworks.planning.train_asked import AskedTraining
    from tokenworks.planning.train_search import TrainSearch

MOST_TIMES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Multiples of the machine that are tried if one machine does not hold the run [count]."""


def nearest_to_legal(setting: TrainSetting, fixed: Fixed) -> tuple[TrainPoints, list[Broken]]:
    """The plan that breaks the fewest rules of shape, as arrays of length 1, and these rules in words.

    Parameters
    ----------
    setting : model, machine, batch and sequence
    fixed : what the user fixes
    """
    points = TrainSpace.of(setting, fixed).points()
    kept = np.stack([check(TrainProposal(points, setting)).kept for check in TRAIN_SHAPE.values()])
    at = int(np.argmax(kept.sum(axis=0)))
    point = points[at : at + 1]
    return point, list(broken_rules(TrainProposal(point, setting), TRAIN_SHAPE))


def smallest(setting: TrainSetting, rates: TrainRates, fixed: Fixed) -> tuple[TrainPoints, float] | None:
    """The legal plan that needs the least memory, as arrays of length 1, and its memory; None: no plan is legal [byte].

    Parameters
    ----------
    setting : model, machine, batch and sequence
    rates : memory of the device
    fixed : what the user fixes
    """
    points = TrainSpace.of(setting, fixed).points()
    kept = np.all([check(TrainProposal(points, setting)).kept for check in TRAIN_SHAPE.values()], axis=0)
    points = points[kept]
    if not len(points):
        return None
    need = memory_of(setting, rates, points)
    at = int(np.argmin(need))
    return points[at : at + 1], float(need[at])


def no_plan(ask: AskedTraining, rates: TrainRates, result: TrainSearch) -> SpecError | DoesNotFit:
    """The error for a run without a plan: the rules that it breaks, or how much memory is missing and what would do.

    Parameters
    ----------
    ask : what the user asked for
    rates : rates of the machine
    result : the search, which has no plan
    """
    setting, fixed = ask.setting, ask.fixed
    if not result.legal:
        point, broken = nearest_to_legal(setting, fixed)
        words = "; ".join(f"{item.rule}: {item.message}" for item in broken)
        where = f"{setting.model.name} on {setting.machine.name}, {_label(point)}"
        return SpecError(words, where=where)
    least = smallest(setting, rates, fixed)
    assert least is not None
    point, need = least
    capacity = setting.machine.hbm_bytes
    ways = list(_ways(ask, rates))
    would = f"; {' or '.join(ways)} would do" if ways else f"; {MOST_TIMES[-1]} x {setting.machine.name} would not do"
    return DoesNotFit(
        f"{setting.model.name} does not fit {setting.machine.name} for training: its smallest plan {_label(point)} "
        f"needs {need / 1e9:,.1f} GB of a device with {capacity / 1e9:,.1f} GB{would}"
    )


def _ways(ask: AskedTraining, rates: TrainRates) -> Iterator[str]:
    """Single changes that make a plan fit, the cheapest one first."""
    setting, fixed = ask.setting, ask.fixed
    base = setting.base
    full = RECOMPUTES.index("full")
    for key, values in (("recompute", (full,)), ("zero", (2, 3)), ("mbs", (1,))):
        name = FREE[key]
        for value in values:
            if name in fixed.values and fixed.values[name] != (value,):
                changed = Fixed({**fixed.values, name: (value,)})
                if _fits(setting, rates, changed):
                    yield f"{key}={RECOMPUTES[value] if key == 'recompute' else value}"
                    break
    widths = {FREE[key] for key in ("tp", "pp", "dp", "cp", "ep", "etp")}
    if widths & fixed.values.keys():
        free = Fixed({name: value for name, value in fixed.values.items() if name not in widths})
        least = smallest(setting, rates, free)
        if least and least[1] <= setting.machine.hbm_bytes:
            yield f"other widths, such as {_label(least[0])},"
    for text, change in (
        (
            "master=none,states=bf16",
            {"optimiser": base.optimiser.model_copy(update={"master": None, "states": "bf16"})},
        ),
        ("offload=1", {"optimiser": base.optimiser.model_copy(update={"offload": 1.0})}),
    ):
        if _fits(dataclasses.replace(setting, base=base.model_copy(update=change)), rates, fixed):
            yield f'--deploy "{text}"'
            break
    free = Fixed({name: value for name, value in fixed.values.items() if name != "dp"})
    for count in MOST_TIMES:
        machine = setting.machine
        many = dataclasses.replace(machine, devices=count * machine.devices)
        if machine.network is None and count > 1:
            return
        larger = dataclasses.replace(setting, machine=many)
        if _fits(larger, rates, free):
            yield f"{count * machine.devices} of these devices (--on {times(machine.name, count)})"
            return


def _fits(setting: TrainSetting, rates: TrainRates, fixed: Fixed) -> bool:
    least = smallest(setting, rates, fixed)
    return least is not None and least[1] <= setting.machine.hbm_bytes


def _label(point: TrainPoints) -> str:
    """The widths of one plan, legal or not."""
    widths = {"tp": point.tp, "cp": point.cp, "pp": point.pp, "dp": point.dp, "ep": point.ep, "etp": point.expert_tp}
    shown = [f"{name}{int(width[0])}" for name, width in widths.items() if width[0] > 1] or ["dp1"]
    return f"[{' '.join(shown)}]"
