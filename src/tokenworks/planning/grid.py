"""Aggregated instances on the ladders: every split with every batch and token budget, and batches aimed at a target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Bools, FloatArray, Floats, Ints
from tokenworks.legal.points import Points
from tokenworks.planning.costing import Costing, StepTimes
from tokenworks.planning.lockstep import lockstep
from tokenworks.planning.queueing import Instance, Serving, aggregated, crowd
from tokenworks.simulation.steps import own_share

TINY = 1e-30
FINER = 8
"""Batches that are tried between two of the ladder."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Estimates of points (axis 0) at batches (axis 1) and token budgets (axis 2), which may be of length 1.

    legal : within the budget, and the KV cache holds the batch; most : sequences that it holds
    chunk : token budget of a step per instance
    """

    points: Points
    chunk: FloatArray
    most: Floats
    legal: Bools
    at: Instance
    serving: Serving

    @property
    def batch(self) -> Floats:
        """Decoding sequences per instance, on all axes."""
        batch: Floats = np.broadcast_to(self.at.batch, self.legal.shape)
        return batch


def estimate(costing: Costing, points: Points, batch: Floats, chunk: FloatArray) -> Grid:
    """Steady state of points at given batches and budgets, from one decode and one prefill step of each.

    Parameters
    ----------
    points : n of them; batch, chunk : axes (n or 1, batches or 1, budgets or 1)
    """
    demand, wide = costing.demand, points.columns(2)
    budget = np.maximum(chunk - batch * (1 + wide.draft), 1.0) if costing.mixed else chunk + 0.0 * batch
    legal, kv_tokens, most = room(costing, wide, batch, chunk)

    alone = costing.times(wide, batch, 0.0)
    decode_s = alone.seconds
    crowded_s = _crowded(costing, wide, batch, decode_s)
    gained = costing.gained(wide)
    # A step that prefills takes one request of each lane, or as many tokens as come in meanwhile if that is more.
    coming = batch * demand.request.uncached * gained / demand.request.osl
    tokens = np.minimum(budget, np.maximum(wide.lanes * demand.request.uncached, coming))
    decoding = batch if costing.mixed else 0.0
    beside = costing.times(wide, decoding, tokens)
    before = alone if costing.mixed else StepTimes(*(np.zeros(()) for _ in range(4)))
    added = np.maximum(beside.seconds - before.seconds, 0.0)
    token_s = added / tokens
    own = own_share(beside.experts - before.experts, beside.parts - before.parts)
    ranks = wide.dp if costing.prefills_alone else np.ones_like(wide.dp)
    request = demand.request
    busiest = lockstep(
        coming / request.uncached, request.uncached, ranks=ranks, budget=budget / wide.dp, cv=request.uncached_cv
    )
    excess = own * (busiest - 1) * token_s * coming
    hot = _hot(costing, wide, batch, alone) if costing.mixed else 0.0
    at = Instance(
        batch=batch,
        ranks=wide.dp,
        lone=wide.pp * (1 + own * (ranks - 1)),
        gained=gained,
        decode_s=decode_s,
        crowded_s=crowded_s,
        token_s=token_s,
        uneven=1 + (np.hypot(hot, excess) - hot) / np.maximum(token_s * coming, TINY),
        budget=budget,
        kv_tokens=kv_tokens,
        mixed=costing.mixed,
    )
    serving = aggregated(demand, at)
    return Grid(points, chunk, most, legal, at, serving)


def _hot(costing: Costing, wide: Points, batch: Floats, alone: StepTimes) -> Floats:
    """Time of a decode step that the ranks wait for the one with the most context [s].

    It is in `decode_s`. Another rank may have the most prefill, so the two waits do not add up.
    """
    uneven = costing.busiest_context(wide, batch)
    waited: Floats = alone.attention * alone.seconds / alone.parts * (1 - 1 / uneven)
    return waited


def _crowded(costing: Costing, wide: Points, batch: Floats, decode_s: Floats) -> Floats:
    """What a step lasts longer with a crowd [s]: on a ladder by the slope to the next rung, else by the cost model.

    The last rung takes the slope before it.
    """
    many = crowd(batch, costing.crowding)
    if batch.shape[1] == 1:
        more: Floats = costing.seconds(wide, many, 0.0) - decode_s
    else:
        slope = np.diff(decode_s, axis=1) / np.maximum(np.diff(batch, axis=1), 1.0)
        more = np.concatenate([slope, slope[:, -1:]], axis=1) * (many - batch)
    return np.maximum(more, 0.0)


def slots(costing: Costing, points: Points, batch: FloatArray) -> Floats | Ints:
    """Running sequences of an instance with a decoding batch: places for it, and one that prefills in each lane."""
    return costing.places(batch) + points.lanes


def batch_of(costing: Costing, points: Points, running: FloatArray) -> Floats:
    """The largest mean batch for which so many running sequences are enough; below 1 if none is."""
    batch: Floats = np.where(running > points.lanes, costing.filled(running - points.lanes), 0.0)
    return batch


def room(costing: Costing, points: Points, batch: FloatArray, chunk: FloatArray) -> tuple[Bools, Floats, Floats]:
    """Whether budget and KV cache hold a batch, the tokens that the cache holds, and the sequences."""
    running = slots(costing, points, batch)
    kv_tokens = costing.kv_tokens(points, running, chunk)
    most = most_sequences(costing, points, kv_tokens)
    legal = (running - points.lanes <= most) & (running * (1 + points.draft) <= chunk)
    return legal, kv_tokens, most


def hold(costing: Costing, points: Points, batch: Floats, chunk: FloatArray) -> Floats:
    """The batch, or less: what budget and KV cache hold.

    What the cache holds falls with the batch that it is asked beside. So from too large a batch follows one that is
    held, from that one again too large a one, each nearer: an odd number of times.
    """
    held = batch
    for _ in range(3):
        _, _, most = room(costing, points, held, chunk)
        within = np.minimum(most + points.lanes, np.floor(chunk / (1 + points.draft)))
        held = np.clip(np.minimum(batch, batch_of(costing, points, within)), 1.0, None)
    return held


def most_sequences(costing: Costing, points: Points, kv_tokens: Floats) -> Floats:
    """Decoding sequences that a KV cache holds beside one request a lane that prefills; none if not one fits a rank."""
    free = kv_tokens - points.lanes * costing.demand.request.isl
    most = np.floor(free / costing.demand.request.context)
    return np.where(most >= points.dp, most, 0.0)


Target = Callable[[Serving, FloatArray], FloatArray]
"""A load of a serving at a batch that must not exceed 1; it rises with the batch."""


def aim(costing: Costing, grid: Grid, target: Target) -> Floats:
    """The largest batch of each point and budget at which the target is not exceeded: float[n, 1, budgets].

    Between the last batch of the ladder that keeps it and the next one, step times are taken as linear. The smallest
    batch where even that exceeds it; the largest that budget and cache hold where nothing does: where a rung of the
    ladder is legal, so is what is aimed at.
    """
    shape = np.broadcast_shapes(grid.legal.shape, np.shape(grid.serving.tpot))
    kept = np.broadcast_to(grid.legal & (target(grid.serving, grid.batch) <= 1), shape)
    last = np.maximum(np.cumprod(kept, axis=1).sum(axis=1, keepdims=True) - 1, 0)
    after = np.minimum(last + 1, shape[1] - 1)

    def pick(values: FloatArray, index: Ints) -> Floats:
        picked: Floats = np.take_along_axis(np.broadcast_to(values, shape), index, axis=1)
        return picked

    share = np.arange(FINER + 1).reshape(1, -1, 1) / FINER

    def between(values: FloatArray) -> Floats:
        low, high = pick(values, last), pick(values, after)
        return low + share * (high - low)

    at = dataclasses.replace(
        grid.at,
        batch=between(grid.at.batch),
        decode_s=between(grid.at.decode_s),
        crowded_s=between(grid.at.crowded_s),
        token_s=between(grid.at.token_s),
        uneven=between(grid.at.uneven),
        lone=between(grid.at.lone),
        budget=between(grid.at.budget),
        kv_tokens=between(grid.at.kv_tokens),
    )
    finer = aggregated(costing.demand, at)
    best = np.maximum(np.cumprod(target(finer, at.batch) <= 1, axis=1).sum(axis=1, keepdims=True) - 1, 0)
    batch = np.floor(np.take_along_axis(np.broadcast_to(at.batch, np.shape(finer.busy)), best, axis=1) + 1e-9)
    return hold(costing, grid.points.columns(2), np.maximum(batch, 1.0), grid.chunk)
