"""Regularised least squares that wrong rows do not lead: Gauss and Newton with Huber's weights and a prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Floats

SHARES = (1.0, 0.5, 0.25, 0.1)
"""Shares of a move that are tried until one gains [-]."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a log error costs: its square over the noise's, and linear beyond `robust` (Huber).

    noise : log error that points have by themselves; robust : the one beyond which a point must not lead
    """

    noise: float
    robust: float

    def weight(self, errors: Floats) -> Floats:
        """Of each error in a sum of squares that has the same slope."""
        return np.minimum(1.0, self.robust / np.maximum(np.abs(errors), 1e-12)) / self.noise**2

    def sum(self, errors: Floats) -> float:
        """Over all errors."""
        size = np.abs(errors)
        squares = np.where(size < self.robust, size**2, 2 * self.robust * size - self.robust**2)
        return float(squares.sum()) / self.noise**2


def least_squares(
    errors: Callable[[Floats], Floats], slopes: Callable[[Floats, Floats], Floats], freedom: Floats, loss: Loss, *,
    turns: int, enough: float,
) -> Floats:  # fmt: skip
    """Theta at the minimum of

        sum_i rho(e_i(theta)) + sum_j (theta_j / freedom_j)^2

    Each turn solves for the squares that have the same slope (reweighting), and halves a move that gains nothing.

    Parameters
    ----------
    errors : e of theta, all finite
    slopes : de / dtheta of theta and of e there, a row for each error and a column for each theta
    freedom : how far each theta may lie from 0, as a deviation
    turns : at most so many; enough : share of the cost below which another turn gains too little [-]
    """
    theta, prior = np.zeros(len(freedom)), np.diag(1 / freedom**2)

    def cost(found: Floats, there: Floats) -> float:
        return loss.sum(found) + float(there @ prior @ there)

    at = errors(theta)
    least = cost(at, theta)
    for _ in range(turns):
        slope, weight = slopes(theta, at), loss.weight(at)
        bend = slope.T @ (weight[:, None] * slope) + prior
        move = -np.linalg.solve(bend, slope.T @ (weight * at) + prior @ theta)
        for share in SHARES:
            there = theta + share * move
            found = errors(there)
            gained = least - cost(found, there)
            if gained > 0:
                break
        else:
            break
        theta, at, least = there, found, least - gained
        if gained < enough * least:
            break
    return theta
