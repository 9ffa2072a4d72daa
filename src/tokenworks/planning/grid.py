"""Estimates of aggregated instances: each split at each batch and token budget of the ladders, or at a target load."""

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
from tokenworks.planning.space import Ladders
from tokenworks.simulation.steps import own_share

TINY = 1e-30
FINER = 8
"""Number of batches that are tried between two rungs of the ladder [count]."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Estimates of points (axis 0) at batches (axis 1) and token budgets (axis 2), which may be of length 1.

    Parameters
    ----------
    points : splits of the instances
    chunk : token budget of a step of an instance [token]
    most : decoding sequences that the KV cache of an instance holds [count]
    legal : whether token budget and KV cache hold the batch
    at : the instance at its batch
    serving : its steady state
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
    """Steady state of points at given batches and budgets, from one decode step and one prefill step each.

    Parameters
    ----------
    costing : the cost model in its setting
    points : n splits
    batch : decoding sequences of an instance; axes (n or 1, batches or 1, budgets or 1) [count]
    chunk : token budget of a step of an instance; the same axes [token]
    """
    demand, wide = costing.demand, points.columns(2)
    budget = np.maximum(chunk - batch * (1 + wide.draft), 1.0) if costing.mixed else chunk + 0.0 * batch
    legal, kv_tokens, most = room(costing, wide, batch, chunk)

    gained = costing.gained(wide)
    # A step with prefill takes one request of each lane, or all tokens that arrive during the step if these are more.
    coming = batch * demand.request.uncached * gained / demand.request.osl
    tokens = np.minimum(budget, np.maximum(wide.lanes * demand.request.uncached, coming))
    decoding = batch if costing.mixed else 0.0
    if batch.shape[1] > 1:
        alone, beside = costing.several(wide, [(batch, 0.0), (decoding, tokens)], axis=2)
        crowded_s = crowded_ladder(costing, batch, alone.seconds)
    else:
        crowded = crowd(batch, costing.crowding)
        alone, beside, full = costing.several(wide, [(batch, 0.0), (decoding, tokens), (crowded, 0.0)], axis=1)
        crowded_s = np.maximum(full.seconds - alone.seconds, 0.0)
    decode_s = alone.seconds
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
    """Part of a decode step in which ranks wait for the rank with the longest contexts [s].

    `decode_s` includes this wait. Another rank may have the most prefill, so the waits for both ranks do not add up.
    """
    uneven = costing.busiest_context(wide, batch)
    waited: Floats = alone.attention * alone.seconds / alone.parts * (1 - 1 / uneven)
    return waited


def crowded_ladder(costing: Costing, batch: Floats, decode_s: Floats) -> Floats:
    """Additional time of a decode step at the batch of the TPOT percentile, on the rungs of a ladder (axis 1) [s].

    It follows from the slope to the next rung; the last rung uses the slope of the rung before.

    Parameters
    ----------
    costing : the cost model in its setting
    batch : decoding sequences of an instance [count]
    decode_s : time of a decode step at the batch [s]
    """
    slope = np.diff(decode_s, axis=1) / np.maximum(np.diff(batch, axis=1), 1.0)
    more = np.concatenate([slope, slope[:, -1:]], axis=1) * (crowd(batch, costing.crowding) - batch)
    added: Floats = np.maximum(more, 0.0)
    return added


def decode_times(costing: Costing, points: Points, ladders: Ladders) -> Floats:
    """Time of a decode step of each point at each batch of its ladder: float[points, batches] [s]."""
    return costing.seconds(points.columns(1), ladders.batches(points.lanes), 0.0)


def slots(costing: Costing, points: Points, batch: FloatArray) -> Floats | Ints:
    """Running sequences of an instance: sequence slots for the decoding batch, and one prefill per lane [count]."""
    return costing.places(batch) + points.lanes


def batch_of(costing: Costing, points: Points, running: FloatArray) -> Floats:
    """The largest mean batch that fits a number of running sequences; below 1: none fits [count]."""
    batch: Floats = np.where(running > points.lanes, costing.filled(running - points.lanes), 0.0)
    return batch


def room(costing: Costing, points: Points, batch: FloatArray, chunk: FloatArray) -> tuple[Bools, Floats, Floats]:
    """Whether an instance can hold a batch.

    Parameters
    ----------
    costing : the cost model in its setting
    points : splits of the instances
    batch : decoding sequences of an instance [count]
    chunk : token budget of a step of an instance [token]

    Returns
    -------
    legal : whether the token budget and the KV cache hold the batch
    kv_tokens : tokens that the KV cache holds [token]
    most : decoding sequences that the KV cache holds [count]
    """
    running = slots(costing, points, batch)
    kv_tokens = costing.kv_tokens(points, running, chunk)
    most = most_sequences(costing, points, kv_tokens)
    legal = (running - points.lanes <= most) & (running * (1 + points.draft) <= chunk)
    return legal, kv_tokens, most


HALVINGS = 2
"""Steps of `hold` between a batch that fits and one that does not [count]."""


def hold(costing: Costing, points: Points, batch: Floats, chunk: FloatArray) -> Floats:
    """The largest batch up to `batch` that the token budget and the KV cache hold [count].

    A larger batch needs more memory outside the cache, so the cache holds less. What the cache holds beside a batch
    that fits is thus a bound for every batch, and what it holds beside a batch that is too large fits. Each step tries
    the batch half way between both. The result fits if a batch of 1 does.

    Parameters
    ----------
    costing : the cost model in its setting
    points : splits of the instances
    batch : wanted decoding sequences of an instance [count]
    chunk : token budget of a step of an instance [token]
    """

    def beside(at: Floats) -> Floats:
        """The batch that the cache holds if the memory for another batch is taken [count]."""
        _, _, most = room(costing, points, at, chunk)
        held: Floats = np.clip(batch_of(costing, points, np.minimum(most, MOST_SEQUENCES) + points.lanes), 1.0, None)
        return held

    budget = np.floor(chunk / (1 + points.draft))
    high = np.clip(np.minimum(batch, batch_of(costing, points, budget)), 1.0, None)
    low = np.ones_like(high)
    high = np.minimum(high, beside(low))
    for step in range(1 + HALVINGS):
        between = (low + high) / 2 if step else high
        held = beside(between)
        fits = held >= between
        low = np.where(fits, between, np.maximum(low, np.minimum(held, between)))
        high = np.where(fits, np.minimum(high, held), between)
    return low


MOST_SEQUENCES = 1e12
"""Stands for a number of sequences without bound [count]."""


def most_sequences(costing: Costing, points: Points, kv_tokens: Floats) -> Floats:
    """Decoding sequences that a KV cache holds beside one prefill per lane; 0 if a rank holds none [count]."""
    free = kv_tokens - points.lanes * costing.demand.request.isl
    most = np.floor(free / costing.demand.request.context)
    return np.where(most >= points.dp, most, 0.0)


Target = Callable[[Serving, FloatArray], FloatArray]
"""A function of steady state and batch: load / allowed load [-]. It rises with the batch, and may be 1 at most."""


def aim(costing: Costing, grid: Grid, target: Target) -> Floats:
    """The largest batch of each point and budget that keeps the target: float[n, 1, budgets] [count].

    The function finds the last rung of the ladder that keeps the target. Between it and the next rung, step times are
    linear. If no batch keeps the target, the result is the smallest batch; if all do, it is the largest batch that
    fits. If a rung of the ladder is legal, then the result is legal too.

    Parameters
    ----------
    costing : the cost model in its setting
    grid : estimates on the ladder
    target : load / allowed load
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
