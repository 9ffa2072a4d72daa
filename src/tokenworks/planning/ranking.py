"""From the few cells that a search keeps to ranked deployments: roles, what binds them, intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenworks.costs import step
from tokenworks.legal.points import OVERLAPS
from tokenworks.planning.cells import Cells, Shortlist
from tokenworks.planning.costing import Costing
from tokenworks.planning.grid import slots
from tokenworks.planning.result import Binding, Estimated, Interval, Ranked
from tokenworks.planning.roles import sequences_of
from tokenworks.planning.search import SearchResult
from tokenworks.specs.deployment import Deployment, Role

FREE = 0.97
"""Pressure below which the SLO would allow a larger batch, so that a full KV cache is what binds [-]."""

AT_LIMIT = 0.98
"""Share of the prefill role's limit from which on it, not the decode role, binds [-]."""

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
    family : number of its family: the plan lists the best deployment of each
    row : the deployment, with estimates
    """

    family: int
    row: Ranked


def candidates(costing: Costing, found: SearchResult) -> Iterator[Candidate]:
    """The cells that the search kept, best first: those expected to meet the SLO, or where none does all of them.

    Each is made when it is asked for: what binds it takes longer than its estimate.
    """
    for rank, cell in enumerate(_hopeful(found.shortlist), 1):
        yield Candidate(int(cell["family"]), _row(costing, found, cell, rank))


def estimated(costing: Costing, found: SearchResult, top: int) -> tuple[Ranked, ...]:
    """The best estimate of each family, best first: a plan without simulation."""
    best = _hopeful(found.shortlist)
    leaders = [int(index) for index in found.shortlist.leaders[:top] if index < len(best)]
    rows = (_row(costing, found, best[index], index + 1) for index in leaders)
    return tuple(dataclasses.replace(row, rank=rank) for rank, row in enumerate(rows, 1))


def _hopeful(shortlist: Shortlist) -> Cells:
    """The cells of a shortlist that meet the SLO, or where none does all of them; cells that meet it come first."""
    met: Cells = shortlist.best[shortlist.best["effective"] > 0]
    return met if shortlist.met else shortlist.best


def front(costing: Costing, found: SearchResult) -> tuple[Ranked, ...]:
    """The deployments of the Pareto front with their estimates, fastest first."""
    return tuple(_row(costing, found, cell, rank) for rank, cell in enumerate(found.shortlist.front, 1))


def deployment(costing: Costing, found: SearchResult, cell: Any) -> Deployment:
    """The deployment that a cell stands for."""
    setting, points = costing.setting, found.splits.points
    index, batch = int(cell["index"]), float(cell["batch"])
    roles: tuple[Role, ...]
    if cell["prefill"] < 0:
        running = int(slots(costing, points[index : index + 1], np.array([batch]))[0])
        changes = {"max_sequences": running, "chunk_tokens": int(cell["chunk"]), "replicas": int(cell["replicas"])}
        roles = (points.role("aggregated", index, setting, **changes),)
    else:
        prefill, chunk = int(cell["prefill"]), int(cell["prefill_chunk"])
        together = sequences_of(costing, np.array([chunk]), points.lanes[prefill : prefill + 1])
        roles = (
            points.role(
                "prefill",
                prefill,
                setting,
                max_sequences=int(together[0]),
                chunk_tokens=chunk,
                replicas=int(cell["prefill_replicas"]),
            ),
            points.role(
                "decode",
                index,
                setting,
                max_sequences=int(costing.places(batch)),
                chunk_tokens=int(cell["chunk"]),
                replicas=int(cell["replicas"]),
            ),
        )
    return Deployment(
        model=setting.model.name,
        system=setting.machine.name,
        engine=setting.engine.name,
        roles=roles,
        max_model_len=None if setting.model.own_context is None else setting.model.max_context,
        devices_per_host=setting.machine.host.devices,
    )


def _row(costing: Costing, found: SearchResult, cell: Any, rank: int) -> Ranked:
    demand, load = costing.demand, costing.load
    bound, role = binding(costing, found, cell)
    output, tpot = float(cell["output"]), float(cell["tpot"])
    carried = float(load.value / cell["capacity"]) if load and cell["capacity"] > 0 else None
    chosen = deployment(costing, found, cell)
    spread = costing.rates.spread_of(max(role.draft_tokens for role in chosen.roles))
    estimates = Estimated(
        rank=rank,
        output_tok_s_per_device=output,
        effective_tok_s_per_device=float(cell["effective"]),
        requests_s=float(cell["rate"]),
        ttft_s=float(cell["ttft"]),
        tpot_s=tpot,
        ttft_slo_s=float(cell["ttft_tail"]),
        tpot_slo_s=float(cell["tpot_tail"]),
        slo_pressure=float(cell["slo_pressure"]),
        batch=float(cell["batch"]),
    )
    return Ranked(
        rank=rank,
        deployment=chosen,
        devices=int(cell["devices"]),
        idle_devices=int(cell["charged"] - cell["devices"]),
        output_tok_s_per_device=output,
        effective_tok_s_per_device=float(cell["effective"]),
        total_tok_s_per_device=output * (demand.request.isl + demand.request.osl) / demand.request.osl,
        output_tok_s_per_user=1 / tpot,
        requests_s=float(cell["rate"]),
        ttft_s=float(cell["ttft"]),
        tpot_s=tpot,
        ttft_slo_s=float(cell["ttft_tail"]),
        tpot_slo_s=float(cell["tpot_tail"]),
        slo_pressure=float(cell["slo_pressure"]),
        load=carried,
        bound_by=bound,
        bound_role=role,
        interval=interval(costing, spread, output, tpot, carried),
        hit_share=float(cell["hit"]),
        batch=float(cell["batch"]),
        assumed=tuple(item.path for item in costing.rates.assumed),
        grade=costing.rates.grade,
        estimated=estimates,
    )


def interval(costing: Costing, spread: float, output: float, tpot: float, carried: float | None) -> dict[str, Interval]:
    """The 80 % interval of TPOT [s] and of output tokens [1/s], by the spread of the calibration.

    A given rate is reached while there is room, and never exceeded.

    Parameters
    ----------
    carried : share of its capacity at which the deployment carries the load [-]; None without a load
    """
    low, high = output / spread, output * spread
    if costing.load and costing.load.kind == "rate" and carried:
        low, high = output * min(1.0, 1 / (carried * spread)), output
    return {"tpot_s": (tpot / spread, tpot * spread), "output_tok_s_per_device": (low, high)}


# ── what binds ────────────────────────────────────────────────────────────────────────────────────────────────────


def binding(costing: Costing, found: SearchResult, cell: Any) -> tuple[Binding, str]:
    """What binds a cell and in which role: the KV cache where it is full and the SLO is not, else where time goes."""
    lost = cell["hit"] < AT_LIMIT * costing.demand.request.hit_share
    if cell["prefill"] < 0:
        if lost or (cell["full"] and cell["slo_pressure"] < FREE):
            return "kv-capacity", "aggregated"
        return _largest(_spent_aggregated(costing, found, cell)), "aggregated"
    if cell["rate"] >= AT_LIMIT * cell["capacity"] or lost or _waits(costing, cell):
        points = found.splits.points[[int(cell["prefill"])]]
        spent = _spent(costing, points, 0.0, float(cell["prefill_chunk"]))
        return ("kv-capacity" if lost else _largest(spent)), "prefill"
    if cell["full"] and cell["slo_pressure"] < FREE:
        return "kv-capacity", "decode"
    return _largest(_spent(costing, found.splits.points[[int(cell["index"])]], float(cell["batch"]), 0.0)), "decode"


def _waits(costing: Costing, cell: Any) -> bool:
    """Whether the first token is what the SLO stops at: more decode would not help, more prefill would."""
    ttft, tpot = costing.slo.ttft, costing.slo.tpot
    pressed = cell["ttft_tail"] / ttft.value if ttft else 0.0
    return bool(pressed >= AT_LIMIT and (tpot is None or pressed > cell["tpot_tail"] / tpot.value))


def _spent_aggregated(costing: Costing, found: SearchResult, cell: Any) -> dict[str, float]:
    """Seconds of the mean step under each roof: a decode step, and what prefill adds to it."""
    demand, points = costing.demand, found.splits.points[[int(cell["index"])]]
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
    found = costing.breakdown(points, batch, OVERLAPS[int(points.overlap[0])])
    taken = {name: float(np.asarray(part.seconds).reshape(-1)[0]) for name, part in found.parts.items()}
    if points.overlap[0]:  # the shorter of talking and computing is hidden behind the other
        talking = sum(taken.get(name, 0.0) for name in step.COMMUNICATION)
        shown = 2 * talking > sum(taken.values())
        taken = {name: seconds for name, seconds in taken.items() if (name in step.COMMUNICATION) == shown}
    spent: dict[str, float] = {}
    for name, seconds in taken.items():
        roof = ROOFS[str(np.asarray(found.parts[name].bound()).reshape(-1)[0])]
        spent[roof] = spent.get(roof, 0.0) + seconds
    return spent


def _largest(spent: dict[str, float]) -> Binding:
    return ROOFS[max(sorted(spent), key=lambda roof: spent[roof])]
