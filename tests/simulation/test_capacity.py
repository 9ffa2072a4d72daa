"""Capacity: bisection finds any edge; real deployments have an edge; a deployment that holds no load is an error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.errors import SloMissed
from tokenworks.simulation.capacity import TOLERANCE, Kind, capacity
from tokenworks.simulation.measured import Seen
from tokenworks.simulation.run import Simulation, Traffic, simulate
from tokenworks.specs.deployment import Deployment, Parallel, Role
from tokenworks.specs.slo import Slo
from tokenworks.specs.workload import Workload
from tokenworks.traffic import from_workload

CHAT = Workload(name="chat", isl=1000, osl=200, isl_cv=0.9, osl_cv=0.8)
DEPLOYMENT = Deployment(
    model="meta-llama/Llama-3.3-70B-Instruct", system="hgx-h100",
    roles=(Role(name="aggregated", parallel=Parallel(tp=4), replicas=2),),
)  # fmt: skip


def holds_below(edge: float, load: float) -> Simulation:
    """A stand-in for a simulation, with a TPOT that exceeds its bound above the load `edge`."""
    seen = Seen(99.0, edge, load, load <= edge)
    metrics = SimpleNamespace(completed=1, request_throughput=load, output_throughput=1.0, effective_throughput=1.0)
    run = SimpleNamespace(
        bounds={"tpot": seen},
        deployment=DEPLOYMENT,
        stable=True,
        served=True,
        metrics=metrics,
        meets_slo=seen.met,
        partial=False,
        confidence={},
        flow=SimpleNamespace(sent=1),
        span=SimpleNamespace(seconds=1.0),
        traffic=SimpleNamespace(endless=False, trace=[1]),
    )
    return cast(Simulation, run)


@given(edge=st.floats(1e-3, 1e6), off=st.floats(1e-3, 1e3))
def test_it_finds_the_edge_of_a_rate(edge: float, off: float) -> None:
    result = capacity(lambda load: holds_below(edge, load), "rate", start=edge * off)
    assert result.best.load <= edge < result.failed.load <= result.best.load * (1 + TOLERANCE) * (1 + 1e-9)
    assert [one.load for one in result.tries] == sorted(one.load for one in result.tries)


@given(edge=st.integers(1, 100_000), start=st.integers(1, 1000))
def test_it_finds_the_edge_of_users(edge: int, start: int) -> None:
    result = capacity(lambda load: holds_below(edge, load), "users", start=start)
    assert result.best.load <= edge < result.failed.load
    assert all(one.load == int(one.load) for one in result.tries)
    step = result.failed.load - result.best.load
    assert step == 1 or step <= result.best.load * TOLERANCE + 1


@pytest.mark.parametrize("kind", ["rate", "users"])
def test_nothing_holds(kind: Kind) -> None:
    with pytest.raises(SloMissed, match=r"no load stays within the SLO.*missed: tpot"):
        capacity(lambda load: holds_below(0.0, load), kind, start=4)


def test_everything_holds() -> None:
    with pytest.raises(SloMissed, match="even .* requests/s stay within the SLO, and no higher load is simulated"):
        capacity(lambda load: holds_below(float("inf"), load), "rate")


def test_the_capacity_of_a_deployment() -> None:
    result = capacity(lambda rate: simulate_at(rate, Slo.parse("ttft=2s,tpot=50ms")), "rate", start=4)
    assert 8 < result.best.load < 24
    assert result.failed.missed
    plain = result.plain()
    assert plain["capacity"] == pytest.approx(result.best.load, rel=1e-8)
    assert plain["unit"] == "requests/s"
    assert len(plain["curve"]) == len(result.tries)
    assert result.run.metrics.request_throughput == result.best.request_throughput
    looser = capacity(lambda rate: simulate_at(rate, Slo.parse("ttft=10s,tpot=100ms")), "rate", start=4)
    assert looser.best.load > result.best.load


def simulate_at(rate: float, slo: Slo) -> Simulation:
    traffic = Traffic(from_workload(CHAT.model_copy(update={"rate": rate}), 1500), endless=True)
    return simulate(DEPLOYMENT, traffic, slo=slo)
