"""Popularity of the experts during a run: states, each of which holds for some time."""

from __future__ import annotations

import bisect
import math

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.costs.popularity import aged, by_order, visits, zipf
from tokenworks.errors import SpecError
from tokenworks.specs.experts import ExpertCounts, ExpertLoad
from tokenworks.specs.model import Experts, Model

PER_HALF_LIFE = 64
"""States of a drifting order in one half-life: between two of them, 1 % of the correlation is lost [count]."""
MOST_STATES = 256
"""Most states of a drifting order while requests are sent; a shorter half-life has fewer states in one [count]."""
LEAST_STEP = 1.0
"""Shortest time that a state holds [s]."""
KEPT = 512
"""States that stay in memory; EPLB counts no more than these [count]."""


def routed(model: Model) -> tuple[Experts, int]:
    """The routed experts of a model, and the number of its layers that have them.

    Parameters
    ----------
    model : the model

    Raises
    ------
    SpecError : the model has no routed experts, or layers with different ones
    """
    kinds = {block.experts for block in model.blocks if block.experts}
    if not kinds:
        raise SpecError(f"{model.name} has no routed experts", where="experts",
                        hint="leave the popularity of experts out for a dense model")  # fmt: skip
    if len({(kind.count, kind.topk) for kind in kinds}) > 1:
        raise SpecError(f"{model.name} has layers with different numbers of experts", where="experts",
                        hint="such a model is simulated with the calibrated skew only")  # fmt: skip
    return next(iter(kinds)), sum(block.count for block in model.blocks if block.experts)


class Popularity:
    """Probabilities that a token visits each expert, by layer and expert, as states with the times at which they start.

    Parameters
    ----------
    load : law or counts
    experts : routed experts of a layer
    layers : layers with routed experts [count]
    span_s : time in which requests are sent [s]

    Raises
    ------
    SpecError : the counts are of another number of layers or experts
    """

    def __init__(self, load: ExpertLoad | ExpertCounts, experts: Experts, layers: int, span_s: float) -> None:
        self.load = load
        self._states: list[Floats] = []
        self._first = 0  # number of the first state in memory
        if isinstance(load, ExpertCounts):
            _must_match(load, experts, layers)
            shares = load.counts / load.counts.sum(axis=2, keepdims=True)
            chosen = np.minimum(shares * experts.topk, 1.0)  # counts of a router: no expert is visited twice
            self._states = list(chosen * (experts.topk / chosen.sum(axis=2, keepdims=True)))
            self._starts = [0.0, *load.time_s[1:].tolist()]
            self.step_s = math.inf
            return
        self._random = np.random.default_rng((load.seed, 20))
        self._scores: Floats = self._random.standard_normal((layers, experts.count))
        self._values = visits(zipf(experts.count, load.alpha), experts.topk)
        half_life = load.half_life if load.alpha > 0 else None  # equally popular experts have no order
        shortest = max(span_s / MOST_STATES, LEAST_STEP)
        self.step_s = math.inf if half_life is None else max(half_life / PER_HALF_LIFE, shortest)
        self._states.append(by_order(self._values, self._scores))

    def number(self, time_s: float) -> int:
        """Number of the state at a time.

        Parameters
        ----------
        time_s : time on the clock of the simulation [s]
        """
        if isinstance(self.load, ExpertCounts):
            return max(bisect.bisect_right(self._starts, time_s) - 1, 0)
        return 0 if self.step_s == math.inf else int(time_s / self.step_s + 1e-9)

    @property
    def last(self) -> float:
        """Number of the last state; inf for an order that drifts."""
        if isinstance(self.load, ExpertCounts):
            return len(self._starts) - 1
        return 0 if self.step_s == math.inf else math.inf

    def start_s(self, number: int) -> float:
        """Time at which a state starts; inf if there is no such state [s].

        Parameters
        ----------
        number : number of the state
        """
        if isinstance(self.load, ExpertCounts):
            return self._starts[number] if number < len(self._starts) else math.inf
        return 0.0 if number == 0 else number * self.step_s

    def state(self, number: int) -> Floats:
        """Probabilities of a state, by layer and expert [-].

        Parameters
        ----------
        number : number of the state, not more than `KEPT` below the highest that was asked for
        """
        while number >= self._first + len(self._states):
            assert isinstance(self.load, ExpertLoad)
            assert self.load.half_life is not None
            draw = self._random.standard_normal(self._scores.shape)
            self._scores = aged(self._scores, self.step_s, self.load.half_life, draw)
            self._states.append(by_order(self._values, self._scores))
            if len(self._states) > 2 * KEPT:
                self._states, self._first = self._states[KEPT:], self._first + KEPT
        return self._states[number - self._first]

    def window(self, first_s: float, last_s: float) -> range:
        """Numbers of the states of a span of time, the last `KEPT` at most.

        Parameters
        ----------
        first_s, last_s : the span [s]
        """
        last = self.number(last_s)
        return range(max(self.number(max(first_s, 0.0)), last + 1 - KEPT), last + 1)

    def mean(self, numbers: range) -> Floats:
        """Mean of states, each counted once [-].

        Parameters
        ----------
        numbers : numbers of the states, see `window`
        """
        total: Floats = sum(self.state(number) for number in numbers)  # type: ignore[assignment]
        return total / len(numbers)


def _must_match(load: ExpertCounts, experts: Experts, layers: int) -> None:
    _, counted_layers, counted = load.counts.shape
    if counted_layers != layers:
        raise SpecError(f"has {counted_layers} layers, the model has {layers} with routed experts", where=load.name,
                        hint="write the counts of each layer with routed experts")  # fmt: skip
    if counted != experts.count:
        raise SpecError(f"has {counted} experts, the model has {experts.count} in a layer", where=load.name,
                        hint=f"number the experts of a layer from 0 to {experts.count - 1}")  # fmt: skip
