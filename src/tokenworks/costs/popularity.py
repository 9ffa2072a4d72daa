"""How often tokens visit each routed expert: a power law of the experts' order, and an order that drifts."""

from __future__ import annotations

import math

import numpy as np

from tokenworks.arrays import Floats, Ints

_BISECTIONS = 80
"""Halvings of the interval of the rate in `visits`: the rest of the interval is below the last digit of a float."""


def zipf(experts: int, alpha: float) -> Floats:
    """Popularity of experts by their order: weight of the i-th most popular expert ~ i^-alpha.

    Parameters
    ----------
    experts : E, routed experts of a layer [count]
    alpha : exponent; 0 = all experts are equally popular [-]

    Returns
    -------
    Weights of the experts, the most popular first; their sum is 1 [-].

    References
    ----------
    [1] Zipf, Human Behavior and the Principle of Least Effort, 1949.
    """
    weights = np.arange(1.0, experts + 1) ** -alpha
    shares: Floats = weights / weights.sum()
    return shares


def visits(weights: Floats, topk: int) -> Floats:
    """Probability that a token visits each expert, if the router draws `topk` different experts by weight.

    A token visits an expert at most once, so the most popular expert gets less than its weight. With draws without
    repetition, the probability is nearly

        v_i = 1 - exp(-r w_i),   with r so that sum v_i = k

    Parameters
    ----------
    weights : w, weights of the experts, in the last axis [-]
    topk : k, experts that a token visits [count]

    Returns
    -------
    Probability of each expert; the sum over the experts is k [-].

    References
    ----------
    [1] Rosén, Asymptotic theory for successive sampling with varying probabilities, Ann. Math. Statist. 43, 1972.
    """
    if topk >= weights.shape[-1]:
        return np.ones_like(weights)
    low = np.zeros((*weights.shape[:-1], 1))
    high = low + math.log(1e16) / np.maximum(np.sort(weights)[..., -topk, None], 1e-300)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        enough = -np.expm1(-middle * weights).sum(axis=-1, keepdims=True) >= topk
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    nearly = -np.expm1(-high * weights)
    chosen: Floats = nearly * (topk / nearly.sum(axis=-1, keepdims=True))
    return chosen


def aged(scores: Floats, age: float, half_life: float, draw: Floats) -> Floats:
    """Scores of experts some time later. The order of the scores is the order of popularity.

    The scores are an Ornstein-Uhlenbeck process: normal variables whose correlation halves in each half-life. So the
    order changes all the time, and the popularity of the i-th expert never does:

        x(t + a) = c x(t) + sqrt(1 - c^2) n,   c = 2^(-a / h)

    No published measurement of the drift of expert popularity has a law. This one has one number that people can
    state, and forgets the order completely in the end.

    Parameters
    ----------
    scores : x, scores now [-]
    age : a, time that passes [s]
    half_life : h, time in which the correlation of the scores halves; inf = no drift [s]
    draw : n, independent standard normal variables [-]

    Returns
    -------
    Scores at the end of this time [-].

    References
    ----------
    [1] Uhlenbeck, Ornstein, On the theory of the Brownian motion, Phys. Rev. 36, 1930.
    """
    kept = 2.0 ** (-age / half_life)
    later: Floats = kept * scores + math.sqrt(1.0 - kept**2) * draw
    return later


def by_order(values: Floats, scores: Floats) -> Floats:
    """Values of experts by their order: the expert with the highest score of its layer gets the first value.

    Parameters
    ----------
    values : value of each place in the order, the most popular expert first
    scores : scores of the experts, by layer and expert

    Returns
    -------
    Value of each expert, by layer and expert.
    """
    order: Ints = np.argsort(-scores, axis=-1, kind="stable")
    placed = np.empty_like(scores)
    np.put_along_axis(placed, order, np.broadcast_to(values, scores.shape), axis=-1)
    return placed
