"""The exact Pareto front of speed (output tokens per second of a user) and throughput (per device)."""

from __future__ import annotations

import numpy as np

from tokenworks.arrays import Bools, Floats, Ints


def front(speed: Floats, throughput: Floats) -> Ints:
    """Indices of the points that no other point beats in both numbers, fastest first; the first one of equal points.

    The function sorts by speed, fastest first, and keeps each point that raises the throughput: O(n log n).

    Parameters
    ----------
    speed : output tokens per second of a user [token/s]
    throughput : output tokens per second and device [token/s]

    References
    ----------
    [1] Kung, Luccio, Preparata, On finding the maxima of a set of vectors, JACM 22(4), 1975.
    """
    order = np.lexsort((np.arange(len(speed)), -throughput, -speed))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], throughput[order]]))
    return order[throughput[order] > best[:-1]]


def beaten(speed: Floats, throughput: Floats, front_speed: Floats, front_throughput: Floats) -> Bools:
    """For each point: whether a point of the front is at least as fast and has more throughput.

    Parameters
    ----------
    speed, throughput : the points, as in `front`
    front_speed, front_throughput : points in the order of `front`: speeds fall, throughputs rise
    """
    faster = np.searchsorted(-front_speed, -speed, side="right")
    reach = np.concatenate([[-np.inf], front_throughput])
    worse: Bools = reach[faster] > throughput
    return worse
