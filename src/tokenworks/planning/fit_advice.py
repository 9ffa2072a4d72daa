"""What would do where a model does not fit: a lower context limit, a larger share of the memory, more devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from tokenworks.costs.memory import request_bytes
from tokenworks.errors import DoesNotFit
from tokenworks.legal.points import Points, Setting
from tokenworks.planning.fit_search import EngineLimits, fewest, held_by, load_of, planned, shaped
from tokenworks.planning.setting import FRACTION, with_role_fraction
from tokenworks.specs import load as catalog
from tokenworks.specs.compose import times
from tokenworks.specs.context import FLAG
from tokenworks.specs.workload import Workload

MOST_TIMES = 16
"""Largest multiple of the machine that is tried if one machine does not hold the model [count]."""

STEP = 100
"""Shares of the memory are tried in steps of 1 / STEP [count]."""


def refused(setting: Setting, kv_dtype: str, load: EngineLimits, points: Points) -> DoesNotFit:
    """The error for splits of which none fits: how much is missing, and each single change that would do.

    Parameters
    ----------
    setting : model, machine, engine and workload
    kv_dtype : storage of the KV cache
    load : settings of the engine
    points : the splits that do not fit
    """
    legal, room, rank_tokens = shaped(points, setting, load)
    model, machine = setting.model, setting.machine
    need = setting.workload.isl + setting.workload.osl
    ways: list[str] = []
    if np.any(np.asarray(room.kv) > 0):
        most = float(np.max(rank_tokens))
        text = (
            f"{model.name} fits {machine.name}, but no split leaves a rank the KV cache of one request of "
            f"{need:,.0f} tokens ({FLAG}): {most:,.0f} at most"
        )
        if (length := longest(setting, load, points)) >= 2:
            ways.append(f"{FLAG} {length:,}")
    else:
        missing = -np.broadcast_to(room.kv, len(legal))
        row = int(np.argmin(missing))
        usable = float(np.broadcast_to(room.usable, len(legal))[row])
        weights = " with INT8 weights" if model.converted else ""
        all_of = f"each of {machine.devices} devices" if machine.devices > 1 else "its device"
        text = (
            f"{model.name}{weights} does not fit {machine.name}: its smallest split needs "
            f"{(usable + missing[row]) / 1e9:,.1f} GB of {all_of}, {missing[row] / 1e9:,.1f} GB more than the engine "
            "may take"
        )
    if (fraction := least_fraction(setting, load, points)) is not None:
        ways.append(f"{FRACTION} {fraction:.2f}")
    one_change = f"; {' or '.join(ways)} would do" if ways else ""
    return DoesNotFit(f"{text}{one_change}; {_more_devices(setting, kv_dtype, load)}")


def longest(setting: Setting, load: EngineLimits, points: Points) -> int:
    """The longest context limit that a split holds; 0 if none holds a request of two tokens [token].

    Parameters
    ----------
    setting : model, machine, engine and workload
    load : settings of the engine
    points : the splits
    """
    points, room, _ = shaped(points, setting, load)
    split, chunk = points.split(), points.chunk_tokens
    if setting.engine.memory.pages == "pools":
        return int(min(float(np.max(room.kv_tokens / points.dp, initial=0.0)), load.length))

    def holds(length: int) -> bool:
        needed = request_bytes(setting.model, split, setting.engine, length=float(length), chunk_tokens=chunk)
        return bool(np.any((np.asarray(room.kv) > 0) & (needed <= room.kv)))

    return _last(holds, 2, load.length)


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number up to `high` for which `holds` is true; 0 if it is not true for `low`."""
    if low > high or not holds(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def least_fraction(setting: Setting, load: EngineLimits, points: Points) -> float | None:
    """The smallest share of device memory with which a split fits, in steps of 0.01; None if no share below 1 does.

    Parameters
    ----------
    setting : model, machine, engine and workload
    load : settings of the engine
    points : the splits
    """
    first = int(setting.memory_fraction * STEP) + 1
    for step in range(first, STEP):
        if held_by(points, with_role_fraction(setting, step / STEP), load):
            return step / STEP
    return None


def _more_devices(setting: Setting, kv_dtype: str, load: EngineLimits) -> str:
    """How many of these devices hold the model, as part of a message."""
    machine = setting.machine
    most = MOST_TIMES * machine.devices
    larger = dataclasses.replace(setting, machine=dataclasses.replace(machine, devices=most))
    held = fewest(larger, kv_dtype, load, most + 1)
    if not held:
        return f"{MOST_TIMES} x {machine.name} would not hold it either"
    need = held[0].devices
    if need <= machine.devices:
        return f"{need} of these devices would hold it"
    multiple = times(machine.name, -(-need // machine.devices))
    if machine.network is None and need > machine.domain:
        network = catalog.catalog_names("network")[0]
        return f"{need} of these devices would hold it, over a network (--on {multiple}@{network})"
    return f"{need} of these devices would hold it (--on {multiple})"


def does_not_fit(setting: Setting, kv_dtype: str) -> DoesNotFit:
    """The error for a model whose weights do not fit a machine with the default settings of its engine.

    Parameters
    ----------
    setting : model, machine, engine and workload
    kv_dtype : storage of the KV cache
    """
    one = Workload(name="fit", isl=1, osl=1)
    setting = dataclasses.replace(setting, workload=one)
    return refused(setting, kv_dtype, load_of(setting), planned(setting, kv_dtype))
