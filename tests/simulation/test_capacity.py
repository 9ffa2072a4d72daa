"""Capacity: bisection finds the edge, whatever it is; real deployments have one; what holds nothing says why."""

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
    """What capacity reads of a simulation whose TPOT leaves its bound at `edge`."""
    seen = Seen(99.0, edge, load, load <= edge)
    metrics = SimpleNamespace(completed=1, request_throughput=load, output_throughput=1.0, effective_throughput=1.0)
    run = SimpleNamespace(
        bounds={"tpot": seen}, deployment=DEPLOYMENT, stable=True, metrics=metrics, meets_slo=seen.met, partial=False
    )
    return cast(Simulation, run)


@given(edge=st.floats(1e-3, 1e6), off=st.floats(1e-3, 1e3))
def test_it_finds_the_edge_of_a_rate(edge: float, off: float) -> None:
    found = capacity(lambda load: holds_below(edge, load), "rate", start=edge * off)
    assert found.best.load <= edge < found.failed.load <= found.best.load * (1 + TOLERANCE)
    assert [one.load for one in found.tries] == sorted(one.load for one in found.tries)


@given(edge=st.integers(1, 100_000), start=st.integers(1, 1000))
def test_it_finds_the_edge_of_users(edge: int, start: int) -> None:
    found = capacity(lambda load: holds_below(edge, load), "users", start=start)
    assert found.best.load <= edge < found.failed.load
    assert all(one.load == int(one.load) for one in found.tries)
    assert found.failed.load - found.best.load == 1 or found.failed.load <= found.best.load * (1 + TOLERANCE)


@pytest.mark.parametrize("kind", ["rate", "users"])
def test_nothing_holds(kind: Kind) -> None:
    with pytest.raises(SloMissed, match=r"no load stays within the SLO.*missed: tpot"):
        capacity(lambda load: holds_below(0.0, load), kind, start=4)


def test_everything_holds() -> None:
    with pytest.raises(SloMissed, match="no higher load can be simulated"):
        capacity(lambda load: holds_below(float("inf"), load), "rate")


def test_the_capacity_of_a_deployment() -> None:
    found = capacity(lambda rate: simulate_at(rate, Slo.parse("ttft=2s,tpot=50ms")), "rate", start=4)
    assert 8 < found.best.load < 24
    assert found.failed.missed
    plain = found.plain()
    assert plain["capacity"] == pytest.approx(found.best.load, rel=1e-8)
    assert plain["unit"] == "requests/s"
    assert len(plain["curve"]) == len(found.tries)
    assert found.run.metrics.request_throughput == found.best.request_throughput
    looser = capacity(lambda rate: simulate_at(rate, Slo.parse("ttft=10s,tpot=100ms")), "rate", start=4)
    assert looser.best.load > found.best.load


def simulate_at(rate: float, slo: Slo) -> Simulation:
    traffic = Traffic(from_workload(CHAT.model_copy(update={"rate": rate}), 1500), endless=True)
    return simulate(DEPLOYMENT, traffic, slo=slo)
