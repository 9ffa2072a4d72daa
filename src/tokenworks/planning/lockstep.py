"""Data-parallel ranks wait for each other: prefill tokens of the busiest rank / prefill tokens of the average rank."""

from __future__ import annotations

import functools
from statistics import NormalDist

import numpy as np

from tokenworks.arrays import FloatArray, Floats, Ints

PROMPTS = np.geomspace(1e-4, 64.0, 24)
"""Prompts that arrive at a rank during a step, in the rows of the table [count]."""

BUDGETS = 2.0 ** np.arange(-2, 7)
"""Token budget of a rank / mean uncached tokens of a prompt, in the columns of the table [-]."""

CELL, CELLS = 1 / 32, 1 << 13
"""Cells of the distribution of tokens: their width in mean prompts [-], and their number [count]."""

NODES = 40
"""Points of an integral over the tokens of a rank [count]."""


def lockstep(prompts: FloatArray, tokens: FloatArray, *, ranks: FloatArray, budget: FloatArray, cv: float) -> Floats:
    """Prefill tokens of the busiest rank / prefill tokens of the average rank: ranks step together [-].

    Prompts arrive at each rank as Poisson, with lognormal lengths, so the tokens N that arrive during a step are
    compound Poisson. A rank takes at most its budget b in a step, and leaves other tokens for later steps. So N tokens
    become full chunks and one smaller chunk. A rank has more than x tokens in a share S of the steps:

        S(x) = sum over j >= 0 of P(N > x + j b),    E[max of R ranks] = integral over 0 .. b of 1 - (1 - S(x))^R

    The function interpolates in a table over prompts and budget, because N has no closed form.

    Parameters
    ----------
    prompts : prompts that arrive at the instance during a step [count]
    tokens : mean uncached tokens of a prompt [token]
    ranks : R, dp ranks that step together [count]
    budget : b, most prefill tokens of a rank in a step [token]
    cv : coefficient of variation of the uncached tokens of a prompt [-]

    References
    ----------
    [1] vLLM, docs/serving/data_parallel_deployment: with experts, all ranks run their forward passes together.
    """
    shape = np.broadcast_shapes(*map(np.shape, (prompts, tokens, ranks, budget)))
    widths, row = np.unique(ranks, return_inverse=True)
    if widths[-1] <= 1:
        return np.ones(shape)
    room = budget / tokens
    # Below the smallest budget of the table, all chunks are full. Then only the share of busy steps counts.
    arriving = prompts / ranks * np.maximum(BUDGETS[0] / room, 1.0)
    y, y_rest = _place(arriving, PROMPTS)
    x, x_rest = _place(room, BUDGETS)
    table = np.stack([_busiest(int(width), cv) for width in widths]).reshape(-1)
    corner = (row.reshape(np.shape(ranks)) * len(PROMPTS) + y) * len(BUDGETS) + x
    low = table[corner] * (1 - x_rest) + table[corner + 1] * x_rest
    high = table[corner + len(BUDGETS)] * (1 - x_rest) + table[corner + len(BUDGETS) + 1] * x_rest
    factor: Floats = np.exp(low * (1 - y_rest) + high * y_rest)
    return np.broadcast_to(factor, shape)


def _place(values: FloatArray, nodes: Floats) -> tuple[Ints, Floats]:
    """Index of the node before each value, and the share of the way to the next node. Nodes are geometric."""
    first, last = np.log(nodes[0]), np.log(nodes[-1])
    place = (np.log(np.clip(values, nodes[0], nodes[-1])) - first) * ((len(nodes) - 1) / (last - first))
    index = np.minimum(place.astype(np.int64), len(nodes) - 2)
    return index, place - index


@functools.lru_cache(maxsize=1 << 12)
def _busiest(ranks: int, cv: float) -> Floats:
    """Logarithm of the factor for one number of ranks: float[prompts, budgets]."""
    columns = []
    for share, width in _shares(cv):
        most = ((1 - (1 - share) ** ranks) * width).sum(axis=1)
        columns.append(np.log(np.maximum(most / (share * width).sum(axis=1), 1.0)))
    return np.stack(columns, axis=1)


@functools.lru_cache(maxsize=16)
def _shares(cv: float) -> tuple[tuple[Floats, Ints], ...]:
    """S(x) for each budget, averaged over groups of cells: float[prompts, groups], and the cells of each group."""
    beyond = _arriving(cv)
    shares = []
    for budget in BUDGETS:
        cells = round(float(budget) / CELL)
        folded = np.minimum(beyond.reshape(len(PROMPTS), -1, cells).sum(axis=1), 1.0)
        starts = np.unique(np.geomspace(1, cells, NODES).round().astype(np.int64)) - 1
        width = np.diff(np.append(starts, cells))
        shares.append((np.add.reduceat(folded, starts, axis=1) / width, width))
    return tuple(shares)


def _arriving(cv: float) -> Floats:
    """P(N > x) at the start x of each cell: float[prompts, cells].

    The transform of a compound Poisson sum is exp(prompts (transform of one length - 1)).
    """
    edges = (np.arange(CELLS) + 0.5) * CELL
    if cv > 0:
        variance = np.log1p(cv**2)
        normal = NormalDist(-variance / 2, float(np.sqrt(variance)))
        below = np.array([normal.cdf(edge) for edge in np.log(edges)])
    else:
        below = (edges > 1.0).astype(float)
    length = np.diff(below, prepend=0.0)
    length[-1] += 1 - below[-1]
    transform = np.exp(PROMPTS[:, None] * (np.fft.rfft(length)[None, :] - 1))
    density = np.fft.irfft(transform, CELLS, axis=1)
    beyond: Floats = np.clip(density[:, ::-1].cumsum(axis=1)[:, ::-1] - density, 0.0, 1.0)
    return beyond
