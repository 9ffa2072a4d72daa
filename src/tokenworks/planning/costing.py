"""Step times of points: the one place where the plan asks the cost model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from tokenworks.arrays import Bools, FloatArray, Floats
from tokenworks.costs import step
from tokenworks.costs.breakdown import Breakdown
from tokenworks.costs.memory import memory
from tokenworks.costs.rates import Rates
from tokenworks.costs.requests import accepted_tokens, batch
from tokenworks.legal.points import OVERLAPS, Points, Setting
from tokenworks.planning.queueing import (
    Demand,
    Serving,
    busiest_context,
    crowd,
    deviations,
    mean_batch,
)
from tokenworks.simulation.steps import experts_of
from tokenworks.specs.calibration import DEFAULT, CalibrationLike, number
from tokenworks.specs.slo import PERCENTILE, Slo


@dataclass(frozen=True, slots=True)
class OfferedLoad:
    """What the deployment is asked to carry: requests a second, or requests in flight."""

    kind: Literal["rate", "concurrency"]
    value: float

    @property
    def unit(self) -> str:
        """What it counts."""
        return "requests/s" if self.kind == "rate" else "requests in flight"

    def held(self, serving: Serving, batch: FloatArray) -> FloatArray:
        """How much of it an instance carries at a batch: its rate [1/s], or its batch and those that wait (Little)."""
        return serving.rate if self.kind == "rate" else batch + serving.rate * serving.ttft

    def served(self, rate: FloatArray, request_s: FloatArray) -> FloatArray:
        """Rate of a deployment that could do `rate`, at `request_s` a request: no more than comes in [1/s]."""
        return np.minimum(rate, self.value if self.kind == "rate" else self.value / request_s)

    def shortfall(self, held: FloatArray, rate: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Of a deployment that carries `held`: load over capacity [-], and what the rest waits for a place [s].

        A rate beyond capacity has no steady state; more users than places wait in the closed loop: (C - held) / rate.
        """
        if self.kind == "rate":
            return np.where(held < SLACK * self.value, self.value / held, 0.0), np.zeros(np.shape(rate))
        return np.zeros(np.shape(rate)), np.maximum(self.value - held, 0.0) / rate


SLACK = 0.97
"""A batch is a whole number: a rate this near to the one asked for counts as reached [-]."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Times of steps; all fields have the same shape.

    Parameters
    ----------
    seconds : time of the step [s]
    parts : time of all parts, before overlap and host hide a share of it [s]
    experts, attention : time of the routed experts, and of the attention over the KV cache, as they are in `parts` [s]
    """

    seconds: Floats
    parts: Floats
    experts: Floats
    attention: Floats


@dataclass(frozen=True)
class Costing:
    """A setting, and what it takes to put a time on its deployments.

    Parameters
    ----------
    load : what is to be carried; None for as much as the SLO allows
    calibration : what the rates rest on, as `load_calibration` takes it
    """

    setting: Setting
    rates: Rates
    slo: Slo
    load: OfferedLoad | None = None
    calibration: CalibrationLike = DEFAULT

    @cached_property
    def demand(self) -> Demand:
        """The workload as the steady state needs it."""
        return Demand.of(self.setting.workload, self.slo, number(self.setting.engine.request))

    @property
    def mixed(self) -> bool:
        """Whether the engine puts prefill and decode into one step."""
        return self.setting.engine.mixing == "mixed"

    def gained(self, points: Points) -> Floats:
        """Tokens that a sequence gains in a step."""
        return np.asarray(accepted_tokens(points.draft, self.rates.acceptance))

    @property
    def open(self) -> bool:
        """Whether requests come as they like, so that their number varies; a closed loop keeps it."""
        return self.load is None or self.load.kind == "rate"

    @property
    def crowding(self) -> float:
        """Deviations above its mean at which the batch is taken for the SLO's percentile of TPOT."""
        return deviations(self.demand.tpot_share) if self.open else 0.0

    def places(self, batch: FloatArray) -> FloatArray:
        """Places for the sequences that decode, so that 99 % of the time nobody waits for one; a whole number."""
        return np.ceil(crowd(batch, self._spare) - 1e-9)

    def filled(self, places: FloatArray) -> FloatArray:
        """The largest mean batch, a whole number, for which so many places are enough; 0 for none."""
        return np.floor(mean_batch(places, self._spare) + 1e-9)

    @property
    def _spare(self) -> float:
        return deviations(PERCENTILE / 100) if self.open else 0.0

    def batch(
        self, points: Points, decode: FloatArray, prefill: FloatArray, chunks: FloatArray | None = None
    ) -> step.Batch:
        """A batch of mean requests: `decode` sequences and `prefill` tokens per instance, on its busiest rank.

        The prefill tokens belong to `chunks` prompts; None: one prompt for each lane.
        """
        request, lanes = self.demand.request, points.lanes if chunks is None else chunks
        uneven = self.busiest_context(points, decode)
        return batch(request, decode=decode, prefill=prefill, lanes=lanes, uneven=uneven)

    def busiest_context(self, points: Points, decode: FloatArray) -> FloatArray:
        """Context of the decoding sequences of the busiest rank / context of the mean rank [-]."""
        return busiest_context(decode / points.lanes, points.dp, self.demand.request.context_cv)

    @property
    def prefills_alone(self) -> bool:
        """Whether a dp rank prefills while other ranks do not, so that these wait for it."""
        return self.setting.engine.dp_prefill == "alone"

    def seconds(self, points: Points, decode: FloatArray, prefill: FloatArray) -> Floats:
        """Time of a step [s] of points with axes (n, ...); `decode` and `prefill` broadcast against them."""
        return self.times(points, decode, prefill).seconds

    def times(
        self, points: Points, decode: FloatArray, prefill: FloatArray, chunks: FloatArray | None = None
    ) -> StepTimes:
        """Time of a step, and of the parts that differ between dp ranks; arguments as in `seconds` and `batch`."""
        decoding, prefilling = np.asarray(decode, dtype=float), np.asarray(prefill, dtype=float)
        shape = np.broadcast_shapes(points.tp.shape, decoding.shape, prefilling.shape)
        times = StepTimes(*(np.zeros(shape) for _ in range(4)))
        for code, overlap in enumerate(OVERLAPS):
            chosen = (points.overlap == code).reshape(len(points), -1)[:, 0]
            if chosen.any():
                rows, cut = points[chosen], None if chunks is None else _rows(np.asarray(chunks), chosen)
                batch_of_rows = self.batch(rows, _rows(decoding, chosen), _rows(prefilling, chosen), cut)
                step_of_rows = self.breakdown(rows, batch_of_rows, overlap)
                times.seconds[chosen] = step_of_rows.seconds
                times.experts[chosen], times.parts[chosen] = experts_of(step_of_rows)
                if "attention" in step_of_rows.parts:
                    times.attention[chosen] = step_of_rows.parts["attention"].seconds
        return times

    def breakdown(self, points: Points, batch: step.Batch, overlap: str) -> Breakdown:
        """The step of points that share an overlap policy, part by part."""
        setting = self.setting
        return step.step(setting.model, self.rates, points.split(), batch, engine=setting.engine, overlap=overlap)

    def kv_tokens(self, points: Points, max_sequences: FloatArray, chunk_tokens: FloatArray) -> Floats:
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
        tokens: Floats = np.where(found.kv > 0, found.kv_tokens, -1.0)
        return tokens


def _rows(values: Floats, chosen: Bools) -> Floats:
    """The chosen rows, where the first axis is that of the points."""
    return values[chosen] if values.shape[:1] == chosen.shape else values
