"""The splits of a model that fit a machine under the settings of an engine, with their memory. `fit` shows the best."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray
from tokenworks.costs.memory import Memory, engine_tokens
from tokenworks.costs.split import Split
from tokenworks.costs.weights import weight_bytes
from tokenworks.legal import splits
from tokenworks.legal.points import KV_DTYPES, OVERLAPS, Points, Setting
from tokenworks.legal.rules import MEMORY, SHAPE, Proposal, judge, with_memory
from tokenworks.specs.calibration import number
from tokenworks.specs.deployment import Role


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Settings of the engine that decide how much memory a rank needs.

    Parameters
    ----------
    chunk : token budget of a step of one rank [token]
    sequences : running sequences of one rank [count]
    length : longest request that the engine accepts [token]
    graph_sequences : largest batch with a captured graph [count]
    """

    chunk: int
    sequences: int
    length: int
    graph_sequences: int


@dataclass(frozen=True, slots=True)
class Width:
    """The best split of one width of instance.

    Parameters
    ----------
    role : the split, with its replicas
    weights, activations, buffers, reserve : parts of the memory of one device [byte]
    graphs : captured graphs of one device; part of `reserve` where the engine counts them [byte]
    usable : memory of one device that the engine may use [byte]
    kv : memory of one device for the KV cache [byte]
    kv_bytes_per_token : KV cache of one token on one device [byte]
    rank_tokens : KV cache of one rank, as the engine prints it at its start [token]
    concurrency : requests of the longest length that one rank holds at the same time [-]
    kv_tokens : KV cache of the whole machine, all ranks of all replicas [token]
    """

    role: Role
    weights: float
    activations: float
    buffers: float
    reserve: float
    graphs: float
    usable: float
    kv: float
    kv_bytes_per_token: float
    rank_tokens: float
    concurrency: float
    kv_tokens: float

    @property
    def devices(self) -> int:
        """Devices of one instance."""
        return self.role.parallel.devices


def load_of(setting: Setting, *, chunk: int | None = None, sequences: int | None = None) -> EngineLimits:
    """The settings that an engine chooses for a device where the user gives none.

    Parameters
    ----------
    setting : model, machine and engine
    chunk : token budget of a step of one rank that the user gave [token]
    sequences : running sequences of one rank that the user gave [count]
    """
    engine = setting.engine
    own = engine.defaults_on(setting.machine.family, setting.machine.hbm_bytes)
    if own is None:
        graphs = int(number(engine.graph_tokens))
        return EngineLimits(
            chunk or engine.chunk_tokens, sequences or engine.max_sequences, setting.model.max_context, graphs
        )
    return EngineLimits(chunk or own.chunk_tokens, sequences or own.max_sequences, setting.model.max_context,
                own.graph_sequences)  # fmt: skip


def held_by(points: Points, setting: Setting, load: EngineLimits) -> list[Width]:
    """The best split of each number of devices that fits, without and with a pipeline.

    Parameters
    ----------
    points : the splits
    setting : model, machine, engine and workload; the cache of each rank must hold one request of the workload
    load : settings of the engine
    """
    points, room, rank_tokens = shaped(points, setting, load)
    legal, _ = judge(Proposal(points, setting, room), MEMORY)
    total = np.where(legal, room.kv_tokens * splits.replicas(points.devices, setting), -1.0)
    widths = []
    for devices in np.unique(points.devices[legal]):
        for staged in (False, True):  # a pipeline leaves most KV cache, but few users run one: list both
            rows = np.flatnonzero(legal & (points.devices == devices) & ((points.pp > 1) == staged))
            if len(rows):
                row = int(rows[np.argmax(total[rows])])
                widths.append(_width(Proposal(points, setting, room), rank_tokens, row, load))
    return widths


def fewest(setting: Setting, kv_dtype: str, load: EngineLimits, below: int) -> list[Width]:
    """The best splits of the smallest number of devices that holds the model; an empty list if none does.

    The search starts at weights / usable memory: fewer devices cannot hold the weights. It ends before `below`.

    Parameters
    ----------
    setting : model, machine, engine and workload
    kv_dtype : storage of the KV cache
    load : settings of the engine
    below : number of devices at which the search ends [count]
    """
    machine = setting.machine
    usable = machine.hbm_bytes * setting.memory_fraction
    first = max(int(weight_bytes(setting.model, Split()) / usable), 1)
    for devices in range(first, min(below, splits.WIDEST + 1)):
        if devices <= machine.domain or devices % machine.domain == 0:
            held = held_by(_every(setting, kv_dtype, devices), setting, load)
            if held:
                return held
    return []


def planned(setting: Setting, kv_dtype: str) -> Points:
    """The splits that `plan` tries, without draft tokens and without overlap.

    Parameters
    ----------
    setting : model, machine, engine and workload
    kv_dtype : storage of the KV cache
    """
    points = splits.splits(setting)
    plain = (points.draft == 0) & (points.overlap == OVERLAPS.index("none")) & (points.kv == KV_DTYPES.index(kv_dtype))
    return points[plain]


def _every(setting: Setting, kv_dtype: str, devices: int) -> Points:
    """Every split of a number of devices, with the redundant experts that the split needs."""
    experts = setting.experts
    rows = [
        (tp, pp, devices // pp // tp, ep, devices // pp // ep if experts else 1, -experts.count % ep if experts else 0)
        for pp in splits.divisors(devices)
        for tp in splits.divisors(devices // pp)
        for ep in (splits.divisors(devices // pp) if experts else (1,))
    ]
    tp, pp, dp, ep, expert_tp, redundant = np.array(rows, dtype=np.int64).T
    zeros = np.zeros_like(tp)
    return Points(tp, pp, dp, ep, expert_tp, redundant, zeros + KV_DTYPES.index(kv_dtype), zeros, zeros, dp, dp)


def loaded(points: Points, setting: Setting, load: EngineLimits) -> Points:
    """Points with the settings of the engine. Dispatch buffers have room for the tokens that the engine reserves.

    Parameters
    ----------
    points : the splits
    setting : model, machine, engine and workload
    load : settings of the engine
    """
    spread = (points.dp > 1) & (points.ep > 1)
    reserved = int(number(setting.engine.dispatch_tokens)) * points.tp * points.pp
    most = np.where(spread, np.minimum(load.sequences, reserved), load.sequences)
    each = np.maximum(np.minimum(most, load.chunk // (1 + points.draft)), 1)
    return dataclasses.replace(points, max_sequences=points.dp * each, chunk_tokens=points.dp * load.chunk)


def shaped(points: Points, setting: Setting, load: EngineLimits) -> tuple[Points, Memory, FloatArray]:
    """Points of legal shape, their memory with the KV tokens that the engine prints, and these tokens of one rank.

    Parameters
    ----------
    points : the splits
    setting : model, machine, engine and workload
    load : settings of the engine
    """
    points = loaded(points, setting, load)
    legal, _ = judge(Proposal(points, setting), SHAPE)
    points = points[legal]
    room = with_memory(points, setting).room
    rank_tokens = engine_tokens(
        setting.model, points.split(), setting.engine, free=room.kv, length=float(load.length),
        chunk_tokens=points.chunk_tokens,
    )  # fmt: skip
    return points, dataclasses.replace(room, kv_tokens=points.dp * rank_tokens), rank_tokens


def _width(proposal: Proposal, rank_tokens: FloatArray, row: int, load: EngineLimits) -> Width:
    points, room, setting = proposal.points, proposal.room, proposal.setting

    def of(values: FloatArray) -> float:
        return float(np.broadcast_to(values, len(points))[row])

    replicas = int(splits.replicas(points.devices, setting)[row])
    return Width(
        role=points.role("aggregated", row, setting, replicas=replicas),
        weights=of(room.weights),
        activations=of(room.activations),
        buffers=of(room.buffers),
        reserve=of(room.reserve),
        graphs=of(room.graphs),
        usable=of(room.usable),
        kv=of(room.kv),
        kv_bytes_per_token=of(room.kv_bytes_per_token),
        rank_tokens=of(rank_tokens),
        concurrency=of(rank_tokens) / load.length,
        kv_tokens=of(room.kv_tokens) * replicas,
    )
