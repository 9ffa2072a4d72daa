"""A run that ends as soon as it misses its SLO gives the verdict of the whole run, whatever comes later."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.arrays import Ints
from tokenworks.engine.simulator import Simulator
from tokenworks.simulation.hopeless import Hopeless
from tokenworks.simulation.measured import Promises, Seen
from tokenworks.simulation.play import requests_of
from tokenworks.simulation.run import Simulation, Traffic, simulate
from tokenworks.specs.deployment import Deployment, Parallel, Role
from tokenworks.specs.slo import Bound, RequestClass, Slo
from tokenworks.specs.workload import Workload
from tokenworks.traffic import from_workload

DEPLOYMENT = Deployment(
    model="meta-llama/Llama-3.3-70B-Instruct", system="hgx-h100",
    roles=(Role(name="aggregated", parallel=Parallel(tp=4), replicas=2),),
)  # fmt: skip
CHAT = Workload(name="chat", isl=1000, osl=200, isl_cv=0.9, osl_cv=0.8)
SLOS = ("ttft=2s,tpot=50ms", "ttft=300ms", "tpot=30ms", "ttft.p50=100ms,tpot.p90=40ms")


class Counted(Simulator):
    """A simulator of which a test says how many requests were late, and how many ended before the window."""

    def __init__(self, gone: int, counts: Ints) -> None:
        self.answer = gone, counts

    def late(self, *_: object) -> tuple[int, Ints]:
        return self.answer


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(0, 400), st.integers(0, 400), st.floats(1, 100), st.integers(0, 50))
def test_no_later_request_saves_a_run_that_is_hopeless(
    late: int, early: int, more: int, percentile: float, gone: int
) -> None:
    """With any number of later requests, all in time, the value at the percentile is beyond the bound."""
    slo = Slo(ttft=Bound(1.0, percentile))
    promises = Promises((slo,), np.zeros(gone + late + early + more, np.int8))
    if Hopeless(promises)(Counted(gone, np.array([[late, 0]])), 0.0, gone + late + early + more):
        for count in {0, more // 2, more}:
            values = np.concatenate([np.full(late, 1.01), np.full(early + count, 0.5)])
            assert not Seen.of(Bound(1.0, percentile), values).met


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(0, 400))
def test_nothing_is_hopeless_while_no_request_is_late(early: int, more: int) -> None:
    promises = Promises((Slo.parse("ttft=1s,tpot=50ms"),), np.zeros(early + more, np.int8))
    assert not Hopeless(promises)(Counted(0, np.zeros((1, 2), np.int64)), 0.0, early + more)


@pytest.mark.usefixtures("kernel")
def test_the_late_requests_are_those_of_the_outcome() -> None:
    run = played(30.0, SLOS[0], until_missed=False)
    outcome, start = run.outcome, run.span.start_s
    simulator = Simulator(run.cluster)
    simulator.submit(requests_of(run.traffic.trace))
    simulator.advance(run.span.end_s)
    gone, counts = simulator.late(start, np.array([0.2]), np.array([math.inf]))
    done = run.span.served(outcome)
    assert gone == int((outcome.end_s < start).sum())
    assert counts.tolist() == [[int((done & (outcome.first_token_s - outcome.arrival_s > 0.2)).sum()), 0]]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("slo", SLOS)
def test_the_verdict_is_that_of_the_whole_run(slo: str) -> None:
    ended_early = 0
    for rate in (2.0, 8.0, 16.0, 30.0, 60.0):
        whole, short = played(rate, slo, until_missed=False), played(rate, slo, until_missed=True)
        assert short.meets_slo == whole.meets_slo
        if whole.meets_slo:
            assert short.metrics == whole.metrics
            assert (short.span, short.window.counts.pools) == (whole.span, whole.window.counts.pools)
        ended_early += short.outcome.now_s < whole.outcome.now_s
    assert ended_early


@pytest.mark.usefixtures("kernel")
def test_each_class_has_its_own_bounds() -> None:
    """A class with a tight bound ends the run; a class without one does not."""
    for slo, ends in (("ttft=1ms", True), ("", False)):
        classes = (RequestClass("chat", 0, Slo.parse("ttft=60s")), RequestClass("batch", 0, Slo.parse(slo)))
        traffic = _traffic(8.0)
        trace = dataclasses.replace(
            traffic.trace, classes=("chat", "batch"), class_of=(np.arange(len(traffic.trace)) % 4 == 0).astype(np.int8)
        )
        traffic = Traffic(trace, endless=True, classes=classes)
        whole, short = (
            simulate(DEPLOYMENT, traffic, slo=Slo(), drain=False, until_missed=until) for until in (False, True)
        )
        assert (short.outcome.now_s < whole.outcome.now_s) == ends
        assert short.meets_slo == whole.meets_slo == (not ends)


def played(rate: float, slo: str, *, until_missed: bool) -> Simulation:
    return simulate(DEPLOYMENT, _traffic(rate), slo=Slo.parse(slo), drain=False, until_missed=until_missed)


def _traffic(rate: float) -> Traffic:
    return Traffic(from_workload(CHAT.model_copy(update={"rate": rate}), 1500), endless=True)
