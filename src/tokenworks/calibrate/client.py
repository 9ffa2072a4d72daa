"""The requests that the client of a measured point sends: their number, arrival times and lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokenworks.arrays import Floats
from tokenworks.calibrate.measured import Point, Worker
from tokenworks.engine.types import Requests
from tokenworks.specs.engine import Engine

UNIFORM = (0.8, 1.0)
"""InferenceX draws lengths uniformly between these shares of the nominal length [-]."""

WAVES = 10
"""InferenceX sends this many prompts per request in flight [count]."""

MOST_REQUESTS = 20_000
LEAST_WAVES = 4
"""Requests of a point at most, and per request in flight at least; chosen to limit the time of a simulation [count]."""

SECONDS = 600.0
"""Sending time if a point does not state the number of requests; the minimum of MLPerf inference [s]."""

OFFLINE_WAVES = 4
"""Requests per sequence slot of an instance in an offline run, if a point does not state their number [count]."""

DATASET_CV = 1.0
"""Coefficient of variation of lengths in a data set such as ShareGPT; assumed [-]."""

SEED = 7


def requests_of(point: Point, engine: Engine, workers: Sequence[Worker], copies: int) -> Requests:
    """The requests of a point: as many as the benchmark sends, within limits for a steady state and for speed.

    Parameters
    ----------
    point : the measured point
    engine : the serving engine, with its number of sequence slots
    workers : the instances of the simulation
    copies : instances of the point that one simulated instance stands for [count]
    """
    draw = np.random.default_rng(SEED)
    flying = max(1, round(point.concurrency))
    if point.load == "closed":
        waves = min(WAVES, max(LEAST_WAVES, MOST_REQUESTS // flying))
        count = max(2, point.requests or waves * flying)
        count = min(count, max(MOST_REQUESTS, LEAST_WAVES * flying))
    elif point.load == "offline":
        places = engine.max_sequences * sum(worker.dp * worker.count for worker in workers[-1:])
        count = max(2, point.requests // copies) if point.requests else OFFLINE_WAVES * places
        count = min(count, MOST_REQUESTS)
    else:
        count = min(point.requests or max(2, round(SECONDS * point.rate)), MOST_REQUESTS)
    arrival = np.zeros(count)
    if point.sent_s:
        arrival = np.array(point.sent_s[:MOST_REQUESTS])
        count = len(arrival)
    elif point.load == "poisson":
        arrival = np.cumsum(draw.exponential(1 / point.rate, count))
    elif point.load == "constant":
        arrival = np.arange(count) / point.rate
    known = point.variation or (None, None)
    inputs, outputs = (
        _lengths(point, mean, each, count, draw) for mean, each in zip((point.isl, point.osl), known, strict=True)
    )
    return Requests.of(arrival, inputs, outputs)


def _lengths(
    point: Point, mean: float, variation: float | None, count: int, draw: np.random.Generator
) -> NDArray[np.int32]:
    """Lengths of requests [token].

    With a known variation they are lognormal. Without one: uniform if the mean is below the nominal length; with the
    variation of a data set if the mean is not a whole number; else all equal.
    """
    if variation is not None:
        drawn = _lognormal(mean, variation, count, draw)
    elif point.nominal_isl > 1.02 * point.isl:
        nominal = mean / (sum(UNIFORM) / 2)
        drawn = draw.uniform(UNIFORM[0] * nominal, UNIFORM[1] * nominal, count)
    elif point.isl != round(point.isl) and mean > 1:
        drawn = _lognormal(mean, DATASET_CV, count, draw)
    else:
        drawn = np.full(count, mean)
    return np.maximum(1, np.round(drawn)).astype(np.int32)


def _lognormal(mean: float, variation: float, count: int, draw: np.random.Generator) -> Floats:
    """Lognormal lengths; their mean is exactly `mean` [token]."""
    spread = math.sqrt(math.log1p(variation**2))
    drawn = draw.lognormal(math.log(mean) - spread**2 / 2, spread, count)
    return np.asarray(drawn * (mean / drawn.mean()))
