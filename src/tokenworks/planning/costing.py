"""Step times of points: the only module in which a plan calls the cost model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from tokenworks.arrays import Bools, FloatArray, Floats
from tokenworks.costs import step
from tokenworks.costs.breakdown import Breakdown
from tokenworks.costs.memory import memory
from tokenworks.costs.rates import Rates
from tokenworks.costs.requests import accepted_tokens, batch, long_request
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
from tokenworks.specs.calibration import DEFAULT, CalibrationLike
from tokenworks.specs.slo import PERCENTILE, Slo


@dataclass(frozen=True, slots=True)
class OfferedLoad:
    """The load that a deployment must carry.

    Parameters
    ----------
    kind : what `value` counts
    value : requests per second [1/s], or requests in flight [count]
    """

    kind: Literal["rate", "concurrency"]
    value: float

    @property
    def unit(self) -> str:
        """The unit of `value`, in words."""
        return "requests/s" if self.kind == "rate" else "requests in flight"

    def held(self, serving: Serving, batch: FloatArray) -> FloatArray:
        """Load that one instance carries at a batch: its rate [1/s], or its requests in flight [count].

        Requests in flight are the batch and the requests that wait for their first token (Little's law).

        Parameters
        ----------
        serving : steady state of the instance
        batch : decoding sequences [count]
        """
        return serving.rate if self.kind == "rate" else batch + serving.rate * serving.ttft

    def served(self, rate: FloatArray, request_s: FloatArray) -> FloatArray:
        """Rate that a deployment serves: never more than the requests that arrive [1/s].

        Parameters
        ----------
        rate : highest rate of the deployment [1/s]
        request_s : time from the arrival of a request to its last token [s]
        """
        return np.minimum(rate, self.value if self.kind == "rate" else self.value / request_s)

    def shortfall(self, held: FloatArray, rate: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Load / capacity of a deployment that cannot carry the load [-], and the time that users wait for a slot [s].

        A rate above the capacity has no steady state. In a closed loop, C users wait (C - held) / rate for one of the
        `held` slots.

        Parameters
        ----------
        held : load that the deployment carries [1/s or count]
        rate : requests that the deployment serves [1/s]
        """
        if self.kind == "rate":
            return np.where(held < SLACK * self.value, self.value / held, 0.0), np.zeros(np.shape(rate))
        return np.zeros(np.shape(rate)), np.maximum(self.value - held, 0.0) / rate


SLACK = 0.97
"""A rate of at least this share of the requested rate counts as reached, because a batch is a whole number [-]."""


PIECE = 16_384
"""Steps that one call of the cost model prices: more of them do not fit into the cache of the processor [count]."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Times of steps. All fields have the same shape.

    Parameters
    ----------
    seconds : time of the step [s]
    parts : sum of the times of all parts, without overlap [s]
    experts : time of the routed experts in `parts` [s]
    attention : time of the attention over the KV cache in `parts` [s]
    """

    seconds: Floats
    parts: Floats
    experts: Floats
    attention: Floats

    @property
    def fields(self) -> tuple[Floats, ...]:
        """All times, in the order of the parameters."""
        return self.seconds, self.parts, self.experts, self.attention


Step: TypeAlias = tuple[FloatArray, FloatArray]
"""Decoding sequences and prefill tokens of a step of an instance [count, token]."""


@dataclass(frozen=True)
class Costing:
    """A setting with everything that the times of its deployments depend on.

    Parameters
    ----------
    setting : model, machine, engine and workload
    rates : rates that the machine reaches
    slo : bounds on TTFT and TPOT
    load : load to carry; None: the highest load that meets the SLO
    calibration : source of the rates, as `load_calibration` takes it
    """

    setting: Setting
    rates: Rates
    slo: Slo
    load: OfferedLoad | None = None
    calibration: CalibrationLike = DEFAULT

    @cached_property
    def demand(self) -> Demand:
        """The workload in the form that the steady-state formulas need."""
        return Demand.of(self.setting.workload, self.slo, self.rates.request_of(self.setting.engine))

    @property
    def mixed(self) -> bool:
        """Whether the engine puts prefill and decode into one step."""
        return self.setting.engine.mixing == "mixed"

    def gained(self, points: Points) -> Floats:
        """Mean number of tokens that a sequence gains in a step: 1, and the accepted draft tokens."""
        return np.asarray(accepted_tokens(points.draft, self.rates.acceptance, self.rates.later_acceptance))

    @property
    def open(self) -> bool:
        """Whether the loop is open: the number of requests in flight varies. A closed loop keeps it constant."""
        return self.load is None or self.load.kind == "rate"

    @property
    def crowding(self) -> float:
        """Standard deviations between the mean batch and the batch at the TPOT percentile of the SLO."""
        return deviations(self.demand.tpot_share) if self.open else 0.0

    def places(self, batch: FloatArray) -> FloatArray:
        """Sequence slots for a mean batch: its 99th percentile, rounded up."""
        return np.ceil(crowd(batch, self._spare) - 1e-9)

    def filled(self, places: FloatArray) -> FloatArray:
        """The largest mean batch that fits a number of sequence slots, rounded down; 0: none fits."""
        return np.floor(mean_batch(places, self._spare) + 1e-9)

    @cached_property
    def longest(self) -> float:
        """Input + output that 99 % of the requests do not exceed, at most what the model reads [token]."""
        return min(long_request(self.setting.workload, PERCENTILE / 100), self.setting.model.max_context)

    @property
    def _spare(self) -> float:
        return deviations(PERCENTILE / 100) if self.open else 0.0

    def batch(
        self, points: Points, decode: FloatArray, prefill: FloatArray, chunks: FloatArray | None = None
    ) -> step.Batch:
        """A batch of mean requests, with the context of the busiest rank.

        Parameters
        ----------
        points : splits of the instances
        decode : decoding sequences of an instance [count]
        prefill : prefill tokens of an instance [token]
        chunks : prompts that the prefill tokens belong to; None: one prompt for each lane [count]
        """
        request, lanes = self.demand.request, points.lanes if chunks is None else chunks
        uneven = self.busiest_context(points, decode)
        return batch(request, decode=decode, prefill=prefill, lanes=lanes, uneven=uneven)

    def busiest_context(self, points: Points, decode: FloatArray) -> FloatArray:
        """Context of the decoding sequences of the busiest rank / context of the average rank [-]."""
        return busiest_context(decode / points.lanes, points.dp, self.demand.request.context_cv)

    @property
    def prefills_alone(self) -> bool:
        """Whether one dp rank prefills while the other ranks wait for it."""
        return self.setting.engine.dp_prefill == "alone"

    def seconds(self, points: Points, decode: FloatArray, prefill: FloatArray) -> Floats:
        """Time of a step [s].

        Parameters
        ----------
        points : splits of the instances, axes (n, ...)
        decode : decoding sequences of an instance; broadcasts against `points` [count]
        prefill : prefill tokens of an instance; broadcasts against `points` [token]
        """
        return self.times(points, decode, prefill).seconds

    def times(
        self, points: Points, decode: FloatArray, prefill: FloatArray, chunks: FloatArray | None = None
    ) -> StepTimes:
        """Time of a step, of its experts and of its attention; arguments as in `seconds` and `batch`."""
        shape = np.broadcast_shapes(points.tp.shape, np.shape(decode), np.shape(prefill))
        rows = max(1, PIECE * len(points) // max(math.prod(shape), 1))
        if rows < len(points):
            pieces = [slice(start, start + rows) for start in range(0, len(points), rows)]
            several = [
                self.times(
                    points[piece],
                    _rows(decode, piece, shape),
                    _rows(prefill, piece, shape),
                    None if chunks is None else _rows(chunks, piece, shape),
                )
                for piece in pieces
            ]
            columns = zip(*(one.fields for one in several), strict=True)
            return StepTimes(*(np.concatenate(column) for column in columns))
        halved = points.overlap == OVERLAPS.index("two-batch")
        batch_of_points = self.batch(points, np.asarray(decode, dtype=float), np.asarray(prefill, dtype=float), chunks)
        whole = self.breakdown(points, batch_of_points, halved)
        experts, parts = experts_of(whole)
        attention = whole.parts["attention"].seconds if "attention" in whole.parts else 0.0
        return StepTimes(*(np.broadcast_to(values, shape) for values in (whole.seconds, parts, experts, attention)))

    def several(self, points: Points, steps: Sequence[Step], axis: int) -> list[StepTimes]:
        """Times of several steps of the same points, from one call of the cost model: many calls take much longer.

        Parameters
        ----------
        points : splits of the instances, axes (n, ...)
        steps : decoding sequences and prefill tokens of each step; both broadcast against `points` [count, token]
        axis : axis along which the steps are joined; on all other axes the steps broadcast against each other
        """
        shapes = [np.broadcast_shapes(points.tp.shape, *(np.shape(values) for values in one)) for one in steps]
        common = np.broadcast_shapes(*((*shape[:axis], 1, *shape[axis + 1 :]) for shape in shapes))
        wide = [(*common[:axis], shape[axis], *common[axis + 1 :]) for shape in shapes]
        decode, prefill = (
            np.concatenate([np.broadcast_to(one[at], shape) for one, shape in zip(steps, wide, strict=True)], axis)
            for at in (0, 1)
        )
        whole, ends = self.times(points, decode, prefill), np.cumsum([shape[axis] for shape in shapes])[:-1]
        return [StepTimes(*values) for values in zip(*(np.split(one, ends, axis) for one in whole.fields), strict=True)]

    def breakdown(self, points: Points, batch: step.Batch, overlap: str | Bools) -> Breakdown:
        """The step of points part by part; `overlap` as in `step.step`."""
        setting = self.setting
        return step.step(setting.model, self.rates, points.split(), batch, engine=setting.engine, overlap=overlap)

    def kv_tokens(self, points: Points, max_sequences: FloatArray, chunk_tokens: FloatArray) -> Floats:
        """Tokens that the KV cache of an instance holds; negative if the instance does not fit [token].

        An instance also does not fit if a rank holds less than the longest of 99 % of the requests.

        Parameters
        ----------
        points : splits of the instances
        max_sequences : running sequences of an instance [count]
        chunk_tokens : token budget of a step of an instance [token]
        """
        setting = self.setting
        room = memory(
            setting.model,
            setting.machine,
            points.split(),
            engine=setting.engine,
            max_sequences=max_sequences,
            chunk_tokens=chunk_tokens,
            memory_fraction=setting.memory_fraction,
        )
        tokens: Floats = np.where((room.kv > 0) & (room.kv_tokens >= points.dp * self.longest), room.kv_tokens, -1.0)
        return tokens


def _rows(values: FloatArray, piece: slice, shape: tuple[int, ...]) -> FloatArray:
    """The rows of a piece of points, of values that broadcast to a shape whose first axis is that of the points."""
    array = np.asarray(values)
    return array[piece] if array.ndim == len(shape) and array.shape[0] == shape[0] else array
