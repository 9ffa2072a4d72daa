"""Does a model fit a machine: the fewest devices of one copy, and the KV cache left by each width of instance."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from tokenworks.costs.memory import Memory
from tokenworks.errors import DoesNotFit
from tokenworks.plan import space
from tokenworks.plan.points import KV_DTYPES, OVERLAPS, Array, Points, Setting
from tokenworks.plan.rules import MEMORY, SHAPE, Case, judge, with_memory
from tokenworks.specs.deployment import Role
from tokenworks.specs.machine import Machine

MOST_TIMES = 16
"""How many times the machine is tried where one does not hold the model."""

CHUNK = 8192
"""Token budget of a rank that activations are counted for [token]: the engines' default."""


@dataclass(frozen=True, slots=True)
class Width:
    """The best split of one width of instance [byte per device].

    kv_tokens : of the whole machine, over all replicas, with the role's KV dtype
    """

    role: Role
    weights: float
    activations: float
    buffers: float
    reserve: float
    usable: float
    kv: float
    kv_bytes_per_token: float
    kv_tokens: float

    @property
    def devices(self) -> int:
        """Devices of one instance."""
        return self.role.parallel.devices


@dataclass(frozen=True, slots=True)
class Fit:
    """Every width that fits, fewest devices first, without and with a pipeline; at least one."""

    model: str
    machine: Machine
    kv_dtype: str
    widths: tuple[Width, ...]

    @property
    def smallest(self) -> Width:
        """The fewest devices that hold one copy."""
        return self.widths[0]

    @property
    def best(self) -> Width:
        """The split that leaves most KV tokens on the whole machine."""
        return max(self.widths, key=lambda width: width.kv_tokens)

    @property
    def flat(self) -> Width | None:
        """The same without a pipeline; None where only a pipeline fits."""
        return max((w for w in self.widths if w.role.parallel.pp == 1), key=lambda w: w.kv_tokens, default=None)


def fit(setting: Setting, kv_dtype: str) -> Fit:
    """Find the best split of each width.

    A split counts if it keeps all rules of shape and memory, with one running sequence a rank, no speculation, and as
    few redundant experts as its widths allow.

    Raises
    ------
    DoesNotFit : no split of the whole machine holds the model; says by how much, and how many machines would
    """
    points, room = _candidates(setting, kv_dtype)
    legal, _ = judge(Case(points, setting, room), MEMORY)
    if not legal.any():
        raise does_not_fit(setting, kv_dtype)
    total = np.where(legal, room.kv_tokens * space.replicas(points.devices, setting), -1.0)
    widths = []
    for devices in np.unique(points.devices[legal]):
        for staged in (False, True):  # a pipeline holds most, but few would run one: show what holds most without, too
            rows = np.flatnonzero(legal & (points.devices == devices) & ((points.pp > 1) == staged))
            if len(rows):
                widths.append(_width(points, room, int(rows[np.argmax(total[rows])]), setting))
    return Fit(setting.model.name, setting.machine, kv_dtype, tuple(widths))


def does_not_fit(setting: Setting, kv_dtype: str) -> DoesNotFit:
    """The error that says what does not fit, by how much, and how many of the same machine would hold it."""
    machine = setting.machine
    _, room = _candidates(setting, kv_dtype)
    missing = -np.asarray(room.kv)
    row = int(np.argmin(missing))
    need = float(np.broadcast_to(room.usable, missing.shape)[row] + missing[row])
    return DoesNotFit(
        f"{setting.model.name} does not fit {machine.name}: its leanest split needs {need / 1e9:,.1f} GB of each of "
        f"{machine.devices} devices, {missing[row] / 1e9:,.1f} GB more than the engine may take; "
        + _nearest(setting, kv_dtype)
    )


def _nearest(setting: Setting, kv_dtype: str) -> str:
    """How many times the machine holds the model."""
    machine = setting.machine
    for times in range(2, MOST_TIMES + 1):
        larger = dataclasses.replace(setting, machine=dataclasses.replace(machine, devices=times * machine.devices))
        points, room = _candidates(larger, kv_dtype)
        legal, _ = judge(Case(points, larger, room), MEMORY)
        if legal.any():
            return f"{int(points.devices[legal].min())} of these devices would hold it ({times} x {machine.name})"
    return f"{MOST_TIMES} x {machine.name} would not hold it either"


def _candidates(setting: Setting, kv_dtype: str) -> tuple[Points, Memory]:
    """Splits of legal shape at one sequence and one chunk a rank, without drafts or overlap, and their memory."""
    points = space.splits(setting)
    plain = (points.draft == 0) & (points.overlap == OVERLAPS.index("none")) & (points.kv == KV_DTYPES.index(kv_dtype))
    points = points[plain]
    points = dataclasses.replace(points, max_sequences=points.dp, chunk_tokens=points.dp * CHUNK)
    legal, _ = judge(Case(points, setting), SHAPE)
    points = points[legal]
    found = with_memory(points, setting).room
    return points, found


def _width(points: Points, room: Memory, row: int, setting: Setting) -> Width:
    def of(values: Array | float) -> float:
        return float(np.broadcast_to(values, len(points))[row])

    replicas = int(space.replicas(points.devices, setting)[row])
    return Width(
        role=points.role("aggregated", row, setting, replicas=replicas),
        weights=of(room.weights),
        activations=of(room.activations),
        buffers=of(room.buffers),
        reserve=of(room.reserve),
        usable=of(room.usable),
        kv=of(room.kv),
        kv_bytes_per_token=of(room.kv_bytes_per_token),
        kv_tokens=of(room.kv_tokens) * replicas,
    )
