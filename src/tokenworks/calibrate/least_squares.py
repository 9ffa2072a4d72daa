"""Robust regularised least squares: Gauss-Newton with Huber weights and a prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Floats

SHARES = (1.0, 0.5, 0.25, 0.1)
"""Step lengths, as shares of a Gauss-Newton step; the first one that reduces the cost is used [-]."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Huber loss of a log error: quadratic up to `robust`, linear beyond.

    Parameters
    ----------
    noise : log error of the measurements themselves [-]
    robust : log error beyond which a point must not dominate the fit [-]
    """

    noise: float
    robust: float

    def weight(self, errors: Floats) -> Floats:
        """Weight of each error in a sum of squares with the same slope.

        Parameters
        ----------
        errors : log errors [-]
        """
        return np.minimum(1.0, self.robust / np.maximum(np.abs(errors), 1e-12)) / self.noise**2

    def sum(self, errors: Floats) -> float:
        """Loss over all errors.

        Parameters
        ----------
        errors : log errors [-]
        """
        size = np.abs(errors)
        squares = np.where(size < self.robust, size**2, 2 * self.robust * size - self.robust**2)
        return float(squares.sum()) / self.noise**2


def least_squares(
    errors: Callable[[Floats], Floats], slopes: Callable[[Floats, Floats], Floats], freedom: Floats, loss: Loss, *,
    turns: int, enough: float, limits: tuple[Floats, Floats] | None = None,
) -> Floats:  # fmt: skip
    """Theta at the minimum of

        sum_i rho(e_i(theta)) + sum_j (theta_j / freedom_j)^2

    Each iteration solves a weighted sum of squares with the same slope. If a step does not reduce the cost, a shorter
    step is used. A theta at a limit that the step would cross stays there, and the step is solved for the others.

    Parameters
    ----------
    errors : gives all errors e for a theta; all finite
    slopes : gives de / dtheta for a theta and its errors; one row per error, one column per theta
    freedom : standard deviation of each theta around 0 [-]
    loss : rho
    turns : largest number of iterations [count]
    enough : relative gain of the cost below which the iterations stop [-]
    limits : lowest and highest value of each theta; None: no limits [-, -]
    """
    theta, prior = np.zeros(len(freedom)), np.diag(1 / freedom**2)
    low, high = limits or (np.full(len(freedom), -np.inf), np.full(len(freedom), np.inf))

    def cost(errors_there: Floats, there: Floats) -> float:
        return loss.sum(errors_there) + float(there @ prior @ there)

    at = errors(theta)
    least = cost(at, theta)
    for _ in range(turns):
        slope, weight = slopes(theta, at), loss.weight(at)
        bend = slope.T @ (weight[:, None] * slope) + prior
        move = _move(bend, slope.T @ (weight * at) + prior @ theta, low - theta, high - theta)
        for share in SHARES:
            there = np.clip(theta + share * move, low, high)
            errors_there = errors(there)
            gained = least - cost(errors_there, there)
            if gained > 0:
                break
        else:
            break
        theta, at, least = there, errors_there, least - gained
        if gained < enough * least:
            break
    return theta


def _move(bend: Floats, slope: Floats, low: Floats, high: Floats) -> Floats:
    """Step to the minimum of a quadratic form, inside its limits. A theta that would cross a limit stops there."""
    move = np.zeros(len(slope))
    free = np.ones(len(slope), dtype=bool)
    for _ in range(len(slope)):
        rest = slope[free] + bend[np.ix_(free, ~free)] @ move[~free]
        move[free] = -np.linalg.solve(bend[np.ix_(free, free)], rest)
        crossed = free & ((move < low) | (move > high))
        if not crossed.any():
            break
        move[crossed] = np.clip(move[crossed], low[crossed], high[crossed])
        free &= ~crossed
        if not free.any():
            break
    return move
