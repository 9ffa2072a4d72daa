"""From the few cells that a search keeps to ranked deployments: roles, what binds them, intervals."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenworks import pareto
from tokenworks.costs import step
from tokenworks.legal.points import OVERLAPS
from tokenworks.planning.cells import SLOWEST
from tokenworks.planning.costing import Costing
from tokenworks.planning.result import Binding, Estimated, Interval, Ranked
from tokenworks.planning.roles import sequences_of
from tokenworks.planning.search import SearchResult
from tokenworks.specs.deployment import Deployment, Role

FREE = 0.97
"""Pressure below which the SLO would allow a larger batch, so that a full KV cache is what binds [-]."""

AT_LIMIT = 0.98
"""Share of the prefill role's limit from which on it, not the decode role, binds [-]."""

HEADROOM = 1.5
"""Sequences that an instance may run, over those that it is expected to: the closed form may expect too few [-]."""

ROOFS: dict[str, Binding] = {
    "compute": "compute",
    "hbm": "hbm",
    "scale-up": "scale-up",
    "scale-out": "scale-out",
    "host": "host",
    "latency": "host",  # of kernels: like the host's, a time that no bandwidth shortens
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A deployment with its estimates.

    Parameters
    ----------
    costing : the setting, with the engine
    family : engine and number of its family: the plan lists the best deployment of each
    deployment : roles and settings
    devices, idle_devices : as in `Ranked` [count]
    load : the given load, over the estimated capacity of the deployment [-]; None without a load
    hit_share : input tokens that the prefix cache serves, over all input tokens [-]
    estimated : what the closed form expects
    """

    costing: Costing
    family: tuple[str, int]
    deployment: Deployment
    devices: int
    idle_devices: int
    load: float | None
    hit_share: float
    estimated: Estimated

    @property
    def charged(self) -> int:
        """Devices that throughput is divided by [count]."""
        return self.devices + self.idle_devices


def candidates(results: Sequence[SearchResult]) -> Iterator[Candidate]:
    """The cells that the searches kept, best first: those expected to meet the SLO, or where none does all of them.

    Parameters
    ----------
    results : one search for each engine
    """
    for rank, result, cell in _merged(results):
        yield _candidate(result, cell, rank)


def estimated(results: Sequence[SearchResult], top: int) -> tuple[Ranked, ...]:
    """The best estimate of each family, best first: a plan without simulation."""
    rows: dict[tuple[str, int], Ranked] = {}
    for rank, result, cell in _merged(results):
        if len(rows) == top:
            break
        if _family(result, cell) not in rows:
            rows[_family(result, cell)] = _estimated_row(result, cell, rank)
    return tuple(dataclasses.replace(row, rank=rank) for rank, row in enumerate(rows.values(), 1))


def front(results: Sequence[SearchResult]) -> tuple[Candidate, ...]:
    """The deployments of the Pareto front over all engines with their estimates, fastest first.

    Points that are much slower than the SLO asks for (`SLOWEST`) are left out, if there are others.
    """
    cells = [(result, cell) for result in results for cell in result.shortlist.front]
    bound = results[0].costing.slo.tpot
    cells = [one for one in cells if bound is None or one[1]["tpot"] <= SLOWEST * bound.value] or cells
    speed = np.array([1 / cell["tpot"] for _, cell in cells])
    output = np.array([cell["output"] for _, cell in cells])
    unbeaten = pareto.front(speed, output) if cells else ()
    return tuple(_candidate(*cells[int(index)], rank) for rank, index in enumerate(unbeaten, 1))


def _merged(results: Sequence[SearchResult]) -> Iterator[tuple[int, SearchResult, Any]]:
    """Rank, search and cell of all kept cells, best first; where one meets the SLO, only cells that meet it."""
    met = any(cell["effective"] > 0 for result in results for cell in result.shortlist.best[:1])
    kept = (
        [(result, cell) for cell in result.shortlist.best if cell["effective"] > 0 or not met] for result in results
    )
    for rank, (result, cell) in enumerate(heapq.merge(*kept, key=_place), 1):
        yield rank, result, cell


def _place(entry: tuple[SearchResult, Any]) -> tuple[float, float, float]:
    """What orders cells of different searches, as `cells` orders the cells of one."""
    _, cell = entry
    missed = 0.0 if cell["effective"] > 0 else float(cell["slo_pressure"])
    return -float(cell["effective"]), missed, -float(cell["output"])


def _family(result: SearchResult, cell: Any) -> tuple[str, int]:
    return result.costing.setting.engine.name, int(cell["family"])


def deployment(result: SearchResult, cell: Any) -> Deployment:
    """The deployment that a cell stands for."""
    costing = result.costing
    setting, points = costing.setting, result.splits.points
    index = int(cell["index"])
    roles: tuple[Role, ...]
    if cell["prefill"] < 0:
        lanes = int(points.lanes[index])
        running = _roomy(result, cell, lambda count: lanes + int(costing.places(count)), taken=lanes)
        changes = {**running, "replicas": int(cell["replicas"])}
        roles = (points.role("aggregated", index, setting, **changes),)
    else:
        prefill, chunk = int(cell["prefill"]), int(cell["prefill_chunk"])
        together = sequences_of(costing, np.array([chunk]), points.lanes[prefill : prefill + 1])
        changes = {"max_sequences": int(together[0]), "chunk_tokens": chunk, "replicas": int(cell["prefill_replicas"])}
        running = _roomy(result, cell, lambda count: int(costing.places(count)), taken=0)
        roles = (
            points.role("prefill", prefill, setting, **changes),
            points.role("decode", index, setting, **running, replicas=int(cell["replicas"])),
        )
    return Deployment(
        model=setting.model.name,
        system=setting.machine.name,
        engine=setting.engine.name,
        roles=roles,
        max_model_len=None if setting.model.own_context is None else setting.model.max_context,
        devices_per_host=setting.machine.host.devices,
    )


def _roomy(result: SearchResult, cell: Any, slots_of: Callable[[float], int], *, taken: int) -> dict[str, int]:
    """Running sequences and token budget of the instances that decode: with `HEADROOM` if the KV cache has room for it.

    Parameters
    ----------
    slots_of : running sequences for a mean batch [count]
    taken : running sequences that prefill, and are counted apart [count]
    """
    costing, index, request = result.costing, int(cell["index"]), result.costing.demand.request
    instance = result.splits.points[index : index + 1]
    for factor in (HEADROOM, 1.0):
        count = slots_of(factor * float(cell["batch"]))
        budget = max(int(cell["chunk"]), count * (1 + int(instance.draft[0])))
        kv_tokens = float(costing.kv_tokens(instance, np.array([count]), np.array([budget]))[0])
        if (count - taken) * request.context + taken * request.isl <= kv_tokens:
            break
    return {"max_sequences": count, "chunk_tokens": budget}


def _candidate(result: SearchResult, cell: Any, rank: int) -> Candidate:
    load = result.costing.load
    return Candidate(
        costing=result.costing,
        family=_family(result, cell),
        deployment=deployment(result, cell),
        devices=int(cell["devices"]),
        idle_devices=int(cell["charged"] - cell["devices"]),
        load=float(load.value / cell["capacity"]) if load and cell["capacity"] > 0 else None,
        hit_share=float(cell["hit"]),
        estimated=Estimated(
            rank=rank,
            output_tok_s_per_device=float(cell["output"]),
            effective_tok_s_per_device=float(cell["effective"]),
            requests_s=float(cell["rate"]),
            ttft_s=float(cell["ttft"]),
            tpot_s=float(cell["tpot"]),
            ttft_slo_s=float(cell["ttft_tail"]),
            tpot_slo_s=float(cell["tpot_tail"]),
            slo_pressure=float(cell["slo_pressure"]),
            batch=float(cell["batch"]),
        ),
    )


def _estimated_row(result: SearchResult, cell: Any, rank: int) -> Ranked:
    """A deployment with its estimates in place of simulated values."""
    candidate = _candidate(result, cell, rank)
    request, estimates = result.costing.demand.request, candidate.estimated
    bound, role = binding(result, cell)
    output = estimates.output_tok_s_per_device
    return Ranked(
        **common(candidate, output, estimates.tpot_s),
        effective_tok_s_per_device=estimates.effective_tok_s_per_device,
        total_tok_s_per_device=output * (request.isl + request.osl) / request.osl,
        requests_s=estimates.requests_s,
        offered_s=estimates.requests_s,
        ttft_s=estimates.ttft_s,
        ttft_slo_s=estimates.ttft_slo_s,
        tpot_slo_s=estimates.tpot_slo_s,
        slo_pressure=estimates.slo_pressure,
        bound_by=bound,
        bound_role=role,
        hit_share=candidate.hit_share,
        batch=estimates.batch,
    )


def common(candidate: Candidate, output: float, tpot: float) -> dict[str, Any]:
    """Fields of `Ranked` that a simulated and an estimated deployment fill in the same way.

    Parameters
    ----------
    output : output tokens per charged device [token/s]
    tpot : mean TPOT [s]
    """
    rates = candidate.costing.rates
    return {
        "rank": candidate.estimated.rank,
        "deployment": candidate.deployment,
        "devices": candidate.devices,
        "idle_devices": candidate.idle_devices,
        "output_tok_s_per_device": output,
        "output_tok_s_per_user": 1 / tpot,
        "tpot_s": tpot,
        "load": candidate.load,
        "interval": interval(candidate, output, tpot),
        "assumed": tuple(item.path for item in rates.assumed),
        "grade": rates.grade,
        "software": rates.software_for(candidate.deployment.roles),
        "estimated": candidate.estimated,
    }


def interval(candidate: Candidate, output: float, tpot: float) -> dict[str, Interval]:
    """The 80 % interval of TPOT [s], and of output tokens [1/s] at the speed per user that the deployment has.

    A given rate is reached while there is room, and never exceeded.
    """
    rates, load, share = candidate.costing.rates, candidate.costing.load, candidate.load
    drafts = max(role.draft_tokens for role in candidate.deployment.roles)
    spread, wide = rates.spread_of(drafts), rates.throughput_spread(drafts)
    low, high = output / wide, output * wide
    if load and load.kind == "rate" and share:
        low, high = output * min(1.0, 1 / (share * wide)), output
    return {"tpot_s": (tpot / spread, tpot * spread), "output_tok_s_per_device": (low, high)}


# ── what binds ────────────────────────────────────────────────────────────────────────────────────────────────────


def binding(result: SearchResult, cell: Any) -> tuple[Binding, str]:
    """What binds a cell and in which role: the KV cache where it is full and the SLO is not, else where time goes."""
    costing = result.costing
    lost = cell["hit"] < AT_LIMIT * costing.demand.request.hit_share
    if cell["prefill"] < 0:
        if lost or (cell["full"] and cell["slo_pressure"] < FREE):
            return "kv-capacity", "aggregated"
        return _largest(_spent_aggregated(result, cell)), "aggregated"
    if cell["rate"] >= AT_LIMIT * cell["capacity"] or lost or _waits(costing, cell):
        points = result.splits.points[[int(cell["prefill"])]]
        spent = _spent(costing, points, 0.0, float(cell["prefill_chunk"]))
        return ("kv-capacity" if lost else _largest(spent)), "prefill"
    if cell["full"] and cell["slo_pressure"] < FREE:
        return "kv-capacity", "decode"
    return _largest(_spent(costing, result.splits.points[[int(cell["index"])]], float(cell["batch"]), 0.0)), "decode"


def _waits(costing: Costing, cell: Any) -> bool:
    """Whether the first token is what the SLO stops at: more decode would not help, more prefill would."""
    ttft, tpot = costing.slo.ttft, costing.slo.tpot
    pressed = cell["ttft_tail"] / ttft.value if ttft else 0.0
    return bool(pressed >= AT_LIMIT and (tpot is None or pressed > cell["tpot_tail"] / tpot.value))


def _spent_aggregated(result: SearchResult, cell: Any) -> dict[str, float]:
    """Seconds of the mean step under each roof: a decode step, and what prefill adds to it."""
    costing = result.costing
    demand, points = costing.demand, result.splits.points[[int(cell["index"])]]
    batch, chunk = float(cell["batch"]), float(cell["chunk"])
    gained = float(costing.gained(points)[0])
    coming = batch * demand.request.isl * (1 - float(cell["hit"])) * gained / demand.request.osl
    tokens = max(min(chunk, float(points.lanes[0]) * demand.request.uncached), min(coming, chunk), 1.0)
    decode = _spent(costing, points, batch, 0.0)
    prefill = _spent(costing, points, batch if costing.mixed else 0.0, tokens)
    before = decode if costing.mixed else {}
    return {
        roof: decode.get(roof, 0.0) + coming / tokens * (prefill.get(roof, 0.0) - before.get(roof, 0.0))
        for roof in decode.keys() | prefill.keys()
    }


def _spent(costing: Costing, points: Any, decode: float, prefill: float) -> dict[str, float]:
    """Seconds of a step under each roof, by the roof that binds each of its parts."""
    batch = costing.batch(points, np.array([decode]), np.array([prefill]))
    parts = costing.breakdown(points, batch, OVERLAPS[int(points.overlap[0])]).parts
    taken = {name: float(np.asarray(part.seconds).reshape(-1)[0]) for name, part in parts.items()}
    if points.overlap[0]:  # the shorter of talking and computing is hidden behind the other
        talking = sum(taken.get(name, 0.0) for name in step.COMMUNICATION)
        shown = 2 * talking > sum(taken.values())
        taken = {name: seconds for name, seconds in taken.items() if (name in step.COMMUNICATION) == shown}
    spent: dict[str, float] = {}
    for name, seconds in taken.items():
        roof = ROOFS[str(np.asarray(parts[name].bound()).reshape(-1)[0])]
        spent[roof] = spent.get(roof, 0.0) + seconds
    return spent


def _largest(spent: dict[str, float]) -> Binding:
    return ROOFS[max(sorted(spent), key=lambda roof: spent[roof])]
