"""Step times of points: the one place where the plan asks the cost model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tokenworks.costs.arrays import FloatArray
from tokenworks.costs.memory import memory
from tokenworks.costs.rates import Rates
from tokenworks.costs.step import Load, step
from tokenworks.plan.points import OVERLAPS, Array, Points, Setting
from tokenworks.plan.steady import Demand, accepted_tokens
from tokenworks.specs.slo import Slo


@dataclass(frozen=True)
class Costing:
    """A setting with what it takes to put a time on it."""

    setting: Setting
    rates: Rates
    slo: Slo

    @cached_property
    def demand(self) -> Demand:
        """The workload as the steady state needs it."""
        return Demand.of(self.setting.workload, self.slo)

    @property
    def mixed(self) -> bool:
        """Whether the engine puts prefill and decode into one step."""
        return self.setting.engine.mixing == "mixed"

    def gained(self, points: Points) -> FloatArray:
        """Tokens that a sequence gains in a step."""
        return accepted_tokens(points.draft, self.rates.acceptance)

    def load(self, decode: FloatArray, prefill: FloatArray) -> Load:
        """A batch of mean requests: `decode` sequences and `prefill` tokens per instance."""
        return Load(decode, decode * self.demand.context, prefill, prefill * self.demand.seen)

    def seconds(self, points: Points, decode: FloatArray, prefill: FloatArray) -> Array:
        """Time of a step [s] of points with axes (n, ...); `decode` and `prefill` broadcast against them."""
        decode, prefill = np.asarray(decode, dtype=float), np.asarray(prefill, dtype=float)
        shape = np.broadcast_shapes(points.tp.shape, decode.shape, prefill.shape)
        out = np.empty(shape)
        for code, overlap in enumerate(OVERLAPS):
            chosen = (points.overlap == code).reshape(len(points), -1)[:, 0]
            if chosen.any():
                load = self.load(_rows(decode, chosen), _rows(prefill, chosen))
                out[chosen] = self._step(points[chosen], load, overlap)
        return out

    def _step(self, points: Points, load: Load, overlap: str) -> FloatArray:
        setting = self.setting
        return step(setting.model, self.rates, points.split(), load, engine=setting.engine, overlap=overlap).seconds

    def kv_tokens(self, points: Points, max_sequences: FloatArray, chunk_tokens: FloatArray) -> Array:
        """What an instance can cache [token]; below zero where it does not fit."""
        setting = self.setting
        found = memory(
            setting.model,
            setting.machine,
            points.split(),
            engine=setting.engine,
            max_sequences=max_sequences,
            chunk_tokens=chunk_tokens,
            memory_fraction=setting.memory_fraction,
        )
        tokens: Array = np.where(found.kv > 0, found.kv_tokens, -1.0)
        return tokens


def _rows(values: Array, chosen: Array) -> Array:
    """The chosen rows, where the first axis is that of the points."""
    return values[chosen] if values.shape[:1] == chosen.shape else values
