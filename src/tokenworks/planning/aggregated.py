"""Aggregated deployments: equal instances that prefill and decode, at their best batch or under a given load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from tokenworks.arrays import Bools, FloatArray, Floats, Ints
from tokenworks.legal.points import Points
from tokenworks.legal.splits import LEAST_CHUNK, Candidates
from tokenworks.planning.cells import CELL, Cells, SearchCounts, Shortlist, slo_pressure
from tokenworks.planning.costing import Costing, OfferedLoad
from tokenworks.planning.grid import Grid, Target, aim, estimate, hold, room
from tokenworks.planning.queueing import Serving
from tokenworks.planning.space import Ladders
from tokenworks.simulation.steps import own_share

BLOCK = 256
"""Splits that are estimated together: enough to be fast, few enough for the cache of the processor [count]."""

MOST_REPLICAS = 1 << 20
"""Larger than the number of replicas on any machine. Under a load, `entry` counts in these steps [count]."""

WITHIN = 0.95
"""Time of a prefill token at a chunk of any size / the smaller one of both ends of the range of sizes, at least [-]."""

STEADY = 0.995
"""Largest load of the prefill queue at which an instance keeps up with its batch [-]."""


def search(
    costing: Costing, candidates: Candidates, ladders: Ladders, decode_s: Floats, shortlist: Shortlist
) -> SearchCounts:
    """Offer the shortlist every aggregated deployment that no upper bound rules out.

    Parameters
    ----------
    costing : the cost model in its setting
    candidates : legal splits
    ladders : batches and token budgets to try for each split
    decode_s : time of a decode step at each batch of the ladder, as `grid.decode_times` [s]
    shortlist : takes in the deployments
    """
    legal, speed, output, soonest = bounded(costing, candidates, ladders, decode_s)
    in_time = soonest <= (costing.slo.ttft.value if costing.slo.ttft else np.inf)
    reach = np.where(_fast_enough(costing, speed), output, 0.0).max(axis=1) * in_time
    pruned, offered = 0, shortlist.offered
    for rows in _blocks(np.lexsort((np.arange(len(reach)), -reach))):
        alive = rows[~shortlist.hopeless(speed[rows], output[rows]).all(axis=1)]
        alive = alive[in_time[alive]] if shortlist.met else alive
        pruned += int(legal[rows].sum() - legal[alive].sum())
        if len(alive):
            for cells in (_under_load if costing.load else _at_best)(costing, candidates, alive, ladders):
                shortlist.offer(cells)
    return SearchCounts(int(legal.sum()), shortlist.offered - offered, {"decode or prefill alone is beaten": pruned})


Bounds: TypeAlias = tuple[Bools, Floats, Floats, Floats]
"""Which points are legal at each batch and token budget, and their `upper_bounds`."""


def bounded(costing: Costing, candidates: Candidates, ladders: Ladders, decode_s: Floats) -> Bounds:
    """Legality and bounds of all points; parameters as in `upper_bounds`."""
    legal, _, _ = room(costing, candidates.points.columns(2), *_ladder(candidates.points, ladders))
    return legal, *upper_bounds(costing, candidates, ladders, decode_s)


def _ladder(points: Points, ladders: Ladders) -> tuple[Floats, Floats | Ints]:
    """Batches and token budgets of each point, on axes 1 and 2."""
    chunk = points.lanes[:, None] * ladders.chunks[None, :]
    return ladders.batches(points.lanes)[:, :, None], chunk[:, None, :]


def climb(costing: Costing, points: Points, ladders: Ladders) -> Grid:
    """Estimate each point at the batches of its ladder.

    The ladder ends one rung above the largest batch that any point can hold.
    """
    batch, chunk = _ladder(points, ladders)
    legal, _, _ = room(costing, points.columns(2), batch, chunk)
    rungs = int(legal.any(axis=(0, 2)).sum()) + 1
    return estimate(costing, points, batch[:, :rungs], chunk)


def _blocks(order: Ints) -> Iterator[Ints]:
    for start in range(0, len(order), BLOCK):
        yield order[start : start + BLOCK]


def _fast_enough(costing: Costing, speed: Floats) -> Bools:
    bound = costing.slo.tpot
    return speed * bound.value >= 1 if bound else speed > 0


def upper_bounds(
    costing: Costing, candidates: Candidates, ladders: Ladders, decode_s: Floats
) -> tuple[Floats, Floats, Floats]:
    """Upper bounds of speed and throughput, and a lower bound of TTFT, for each point.

    On average a step takes at least the time of its prefill tokens alone, in chunks of the fastest size. If the engine
    prefills in steps of its own, the time of the decode step is added. If the engine mixes both, a step takes at least
    the time of its decode, and what prefill tokens add to it (`_added`).

    Parameters
    ----------
    costing : the cost model in its setting
    candidates : legal splits
    ladders : batches and token budgets
    decode_s : time of a decode step at each batch of the ladder [s]

    Returns
    -------
    speed : output tokens per second of a user [token/s]; float[points, batches]. Entry i bounds all batches from rung i
        to rung i + 1, and is computed at rung i
    output : output tokens per second and charged device [token/s]; float[points, batches]. Entry i bounds the same
        batches, and is the larger value of both rungs
    soonest : TTFT at the percentile of the SLO that no load can go below [s]; float[points]
    """
    points, demand = candidates.points, costing.demand
    batch, wide = ladders.batches(points.lanes), points.columns(1)
    gained = costing.gained(wide)
    chunk = points.lanes[:, None] * ladders.chunks[None, :]
    prefill = costing.times(wide, 0.0, chunk)
    token_s = (prefill.seconds / chunk).min(axis=1, keepdims=True)
    prefill_s = batch * demand.request.uncached * gained / demand.request.osl * token_s
    if costing.mixed:
        step = np.maximum(decode_s + _added(costing, wide, batch, decode_s), prefill_s)
    else:
        step = decode_s + prefill_s
    speed, total = gained / step, batch * gained / step
    higher = np.maximum(total, np.concatenate([total[:, 1:], total[:, -1:]], axis=1))
    machine = costing.setting.machine
    charged = points.devices if costing.load else machine.devices / candidates.replicas
    # Additional tokens load no weights: experts have a smaller share of the time of these tokens than of a whole step.
    own = np.min(own_share(prefill.experts, prefill.parts), axis=1)
    lone = points.pp * (1 + own * (points.dp - 1 if costing.prefills_alone else 0))
    soonest = demand.request.uncached * demand.tail * lone * token_s[:, 0]
    return speed, higher / charged[:, None], soonest


def _added(costing: Costing, wide: Points, batch: Floats, decode_s: Floats) -> Floats:
    """Least time that the prefill tokens of a mean step add to it, beside the decoding sequences [s].

    The tokens come in chunks between the tokens that arrive in a step, and one prompt of each lane if that is more. The
    time of a token is least at one end of this range: it rises while memory binds the step, and falls where fixed times
    and larger GEMMs count. `WITHIN` allows for less between both ends.
    """
    request = costing.demand.request
    coming = batch * request.uncached * costing.gained(wide) / request.osl
    ends = coming, np.maximum(wide.lanes * request.uncached, coming)
    steps = costing.several(wide, [(batch, tokens) for tokens in ends], axis=1)
    token_s = [(step.seconds - decode_s) / tokens for step, tokens in zip(steps, ends, strict=True)]
    added: Floats = WITHIN * np.maximum(np.minimum(*token_s), 0.0) * coming
    return added


def _at_best(costing: Costing, candidates: Candidates, rows: Ints, ladders: Ladders) -> Iterator[Cells]:
    """Cells of the whole ladder, and of the largest batch that meets the SLO for each token budget.

    All replicas that fit the machine are used.
    """
    points, replicas = candidates.points[rows], candidates.replicas[rows]
    grid = climb(costing, points, ladders)
    yield _cells(costing, candidates, rows, grid, replicas=replicas.reshape(-1, 1, 1))
    aimed = estimate(costing, points, aim(costing, grid, _slo(costing)), grid.chunk)
    yield _cells(costing, candidates, rows, aimed, replicas=replicas.reshape(-1, 1, 1))


def at_batch(costing: Costing, candidates: Candidates, batch: Floats, chunk: FloatArray) -> Cells:
    """Cells of all candidates at given batches and token budgets, with all replicas that fit the machine.

    Parameters
    ----------
    costing : the cost model in its setting
    candidates : legal splits
    batch : decoding sequences of an instance; axes as in `grid.estimate` [count]
    chunk : token budget of a step of an instance [token]
    """
    replicas = candidates.replicas.reshape(-1, 1, 1)
    rows = np.arange(len(candidates.points))
    return _cells(costing, candidates, rows, estimate(costing, candidates.points, batch, chunk), replicas=replicas)


def _under_load(costing: Costing, candidates: Candidates, rows: Ints, ladders: Ladders) -> Iterator[Cells]:
    """Cells of a given load on the fewest replicas that meet the SLO, on one replica more, and on all that fit."""
    points, most = candidates.points[rows], candidates.replicas[rows].reshape(-1, 1, 1)
    load = costing.load
    assert load is not None
    if load.kind == "concurrency":  # no more instances than users: an instance needs a user
        most = np.minimum(most, max(1, int(load.value)))
    grid = climb(costing, points, ladders)
    best = estimate(costing, points, aim(costing, grid, _slo(costing)), grid.chunk)
    held = np.where(best.legal, load.held(best.serving, best.batch), np.nan)
    fewest = np.clip(np.nan_to_num(np.ceil(load.value / held), nan=np.inf), 1, most)
    for replicas in (fewest, np.minimum(fewest + 1, most), np.broadcast_to(most, fewest.shape)):
        share = load.value / replicas
        batch = aim(costing, grid, _carrying(load, share))
        near = estimate(costing, points, batch, grid.chunk)
        # One iteration of B = load / held(B) x B. It is exact if the time of a step does not depend on the batch.
        batch = np.maximum(np.ceil(batch * share / load.held(near.serving, batch)), 1.0)
        batch = hold(costing, points.columns(2), batch, grid.chunk)
        there = estimate(costing, points, batch, grid.chunk)
        yield _cells(costing, candidates, rows, there, replicas=replicas, capacity=held * replicas)


def _carrying(load: OfferedLoad, share: FloatArray) -> Target:
    def target(serving: Serving, batch: FloatArray) -> FloatArray:
        return load.held(serving, batch) / share

    return target


def _slo(costing: Costing) -> Target:
    def target(serving: Serving, _batch: FloatArray) -> FloatArray:
        return slo_pressure(costing.slo, serving.ttft_tail, serving.tpot_tail, serving.busy / STEADY)

    return target


def _cells(
    costing: Costing,
    candidates: Candidates,
    rows: Ints,
    grid: Grid,
    *,
    replicas: FloatArray,
    capacity: FloatArray = 0.0,
) -> Cells:
    """The legal and steady points of a grid as cells."""
    serving, load, shape = grid.serving, costing.load, grid.legal.shape
    kept = grid.legal & (serving.busy < STEADY)
    which = np.nonzero(kept)[0]

    def of(values: FloatArray) -> Floats:
        kept_values: Floats = np.broadcast_to(values, shape)[kept]
        return kept_values

    cells = np.zeros(len(which), CELL)
    points = candidates.points[rows]
    cells["family"], cells["index"], cells["prefill"] = candidates.family[rows][which], rows[which], -1
    cells["batch"], cells["chunk"], cells["replicas"] = of(grid.batch), of(grid.chunk), of(replicas)
    small = cells["chunk"] <= points.lanes[which] * LEAST_CHUNK
    cells["entry"] = 2 * (cells["index"] * MOST_REPLICAS + (cells["replicas"] if load else 0)) + small
    cells["devices"] = points.devices[which] * cells["replicas"]
    cells["charged"] = cells["devices"] if load else costing.setting.machine.devices
    rate: FloatArray = of(serving.rate) * cells["replicas"]
    ttft = of(serving.ttft)
    behind: FloatArray = 0.0
    late: FloatArray = 0.0
    cells["capacity"] = rate
    if load:
        held = of(load.held(serving, grid.batch)) * cells["replicas"]
        behind, late = load.shortfall(held, rate)
        rate = load.served(rate, ttft + late + costing.demand.request.osl * of(serving.tpot))
        cells["capacity"] = of(capacity)
    cells["rate"], cells["tpot"], cells["tpot_tail"] = rate, of(serving.tpot), of(serving.tpot_tail)
    cells["ttft"], cells["ttft_tail"] = ttft + late, of(serving.ttft_tail) + late
    cells["hit"], cells["busy"] = of(serving.hit_share), of(serving.busy)
    larger = cells["batch"] + np.maximum(1, 0.02 * cells["batch"])
    cells["full"] = costing.places(larger) > of(grid.most)
    finish(costing, cells, behind)
    return cells


def finish(costing: Costing, cells: Cells, behind: FloatArray) -> None:
    """Fill in the columns that follow from the other columns: slo_pressure, output and effective.

    Parameters
    ----------
    costing : the cost model in its setting
    cells : table to complete
    behind : offered load / capacity where the deployment cannot carry the load, else 0 [-]
    """
    cells["slo_pressure"] = slo_pressure(costing.slo, cells["ttft_tail"], cells["tpot_tail"], behind)
    cells["output"] = cells["rate"] * costing.demand.request.osl / cells["charged"]
    cells["effective"] = np.where(cells["slo_pressure"] <= 1, cells["output"], 0.0)
