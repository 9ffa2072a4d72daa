"""Play requests through the engine, with progress, an end on Ctrl-C, and counters at the marks of a window."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial as partial_of

import numpy as np

from tokenworks.arrays import Bools, Ints
from tokenworks.engine.outcome import Counts, Outcome
from tokenworks.engine.simulator import Simulator, warm_up
from tokenworks.engine.types import Cluster, Requests
from tokenworks.simulation import measured
from tokenworks.simulation.experts import ExpertDriver
from tokenworks.simulation.faults import FaultPlan, FaultRun
from tokenworks.simulation.hopeless import Hopeless
from tokenworks.specs.slo import RequestClass
from tokenworks.specs.trace import Trace

Watch = Callable[[float, float], None]

PARTS = 64
"""Parts of the sending time. Between two parts a run reports its progress, and can be stopped [count]."""

LOOK = 4
"""After so many parts each, a run that may end early is looked at [count]."""

PATIENCE = 2.0
"""A run that does not drain ends at this multiple of the arrival time of the last session. If turns are then still to
be sent, they are late by more than the whole run, and the deployment is overloaded [-]."""


@dataclass(frozen=True)
class PlayedRun:
    """A finished run of the engine; see `measured.Window.of` for `marks` and `end`, and `faults` for its faults."""

    outcome: Outcome
    marks: tuple[Counts, ...]
    end: Counts
    partial: bool
    kernel_s: float
    faults: FaultRun | None = None


def requests_of(trace: Trace, classes: tuple[RequestClass, ...] = ()) -> Requests:
    """A trace in the form of the engine: a request with a parent has its think time in place of its arrival time.

    Parameters
    ----------
    trace : the requests
    classes : priority and SLO of each class; () without classes
    """
    priority = np.array([one.priority for one in classes], np.int8)
    return Requests.of(
        np.where(trace.parent >= 0, trace.think_s, trace.arrival_s),
        trace.input_tokens,
        trace.output_tokens,
        priority=priority[trace.class_of] if classes else None,
        group=trace.class_of if classes else None,
        after=trace.parent,
        block_ids=trace.hash_ids,
        block_offsets=trace.hash_offsets,
    )


def play(
    built: Cluster, requests: Requests, watch: Watch | None, *, endless: bool, drain: bool = True,
    driver: ExpertDriver | None = None, faults: FaultPlan | None = None, hopeless: Hopeless | None = None,
) -> PlayedRun:  # fmt: skip
    """Run the engine to the end, or until Ctrl-C. Only the requests determine the parts, so a run can be repeated.

    Parameters
    ----------
    built : the cluster
    requests : the requests
    watch : called with the simulated time, and with the time at which the last request is sent [s]
    endless : whether the requests are a sample of a stream that goes on
    drain : False: an endless stream ends with its measured window
    driver : changes step times and pauses instances on the way; None: nothing changes
    faults : faults of the run; None: nothing fails
    hopeless : ends an endless run in its measured window, as soon as the run misses its SLO; None: the run goes on
    """
    warm_up()
    began = time.perf_counter()
    simulator, partial = Simulator(built, _most_names(requests)), False
    simulator.submit(requests)
    last = float(requests.arrival_s[requests.after < 0].max())
    width = max(last / PARTS, 1.0)
    missing = lost(requests.after, built.never_fits(requests.input_tokens, requests.output_tokens))
    expected = len(requests) - int(np.count_nonzero((requests.after >= 0) & missing[requests.after]))
    ahead = [math.ceil(share * expected) for share in (measured.WARM, measured.DONE)] if endless else []
    marks: list[Counts] = []
    part = 0
    advance = partial_of(driver.advance, simulator) if driver else simulator.advance
    kept = faults.submit(simulator, driver) if faults else None
    if kept:
        advance = partial_of(kept.advance, advance, simulator)
    try:
        while True:
            until = simulator.now + width
            while ahead:
                advance(until, sent=ahead[0])
                if simulator.sent < ahead[0]:
                    break
                marks.append(simulator.counts())
                del ahead[0]
            if endless and not drain and (not ahead or (marks and 0 < PATIENCE * last < simulator.now)):
                break
            advance(until)
            part += 1
            due = len(marks) == len(ahead) == 1 and part % LOOK == 0
            if hopeless and due and hopeless(simulator, marks[0].now_s, ahead[0]):
                break
            if watch:
                watch(simulator.now, last)
            if simulator.now < last:
                continue
            if simulator.ended == len(requests):
                break
            width *= 1.25
    except KeyboardInterrupt:
        partial = True
    kernel_s = time.perf_counter() - began
    end = simulator.counts()
    run = FaultRun(faults, tuple(zip(kept.times_s, kept.counts, strict=False)), end) if faults and kept else None
    return PlayedRun(simulator.outcome(), tuple(marks), end, partial, kernel_s, run)


def _most_names(requests: Requests) -> int:
    """Different block ids of requests, at most; generated ids are consecutive numbers."""
    ids = requests.block_ids
    return min(len(ids), int(ids.max()) - int(ids.min()) + 1) if len(ids) else 0


def lost(parent: Ints, refused: Bools) -> Bools:
    """Mask of the requests that are refused, or never sent because a request that they wait for is refused."""
    mask = refused.copy()
    if refused.any():
        for i in np.flatnonzero(parent >= 0):  # a request stands after its parent
            mask[i] |= mask[parent[i]]
    return mask
