"""The Pareto front of speed (output tokens per second and user) against throughput (per device), exact."""

from __future__ import annotations

import numpy as np

from tokenworks.arrays import Bools, Floats, Ints


def front(speed: Floats, throughput: Floats) -> Ints:
    """Indices of the points that no other point beats in both, fastest first; of equal points the first one.

    Sort by speed, fastest first, and keep what raises the throughput: O(n log n).

    References
    ----------
    [1] Kung, Luccio, Preparata, On finding the maxima of a set of vectors, JACM 22(4), 1975.
    """
    order = np.lexsort((np.arange(len(speed)), -throughput, -speed))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], throughput[order]]))
    return order[throughput[order] > best[:-1]]


def beaten(speed: Floats, throughput: Floats, front_speed: Floats, front_throughput: Floats) -> Bools:
    """Whether some point of a front is at least as fast and has more throughput, for each point.

    Parameters
    ----------
    front_speed, front_throughput : as `front` gives them: speeds falling, throughputs rising
    """
    faster = np.searchsorted(-front_speed, -speed, side="right")
    reach = np.concatenate([[-np.inf], front_throughput])
    worse: Bools = reach[faster] > throughput
    return worse
