"""Capacity: bisection finds any edge; real deployments have an edge; a deployment that holds no load is an error."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.errors import SloMissed
from tokenworks.simulation.bound import rate_bound
from tokenworks.simulation.capacity import TOLERANCE, Kind, RunLengths, capacity, capacity_of
from tokenworks.simulation.measured import Seen
from tokenworks.simulation.run import Simulation, Traffic, simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.deployment import Deployment, Parallel, Role
from tokenworks.specs.slo import Bound, Slo
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
        unsettled="",
        flow=SimpleNamespace(sent=1),
        holds_requests=True,
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
    with pytest.raises(SloMissed, match=r"even .* requests/s stay within the SLO, and no higher load is simulated"):
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


RUNS: dict[float, Simulation] = {}


def played(rate: float, slo: Slo) -> Simulation:
    """A simulation with common random numbers: the SLO only changes what is judged."""
    if rate not in RUNS:
        RUNS[rate] = simulate(DEPLOYMENT, Source(CHAT, 1500).traffic(rate=rate), slo=slo)
    return replace(RUNS[rate], slo=slo)


def best_within(slo: Slo) -> float:
    """Capacity, 0 if no load holds."""
    try:
        return capacity(lambda rate: played(rate, slo), "rate", start=8.0, most=64.0).best.load
    except SloMissed as error:
        return math.inf if "even" in str(error) else 0.0


@settings(max_examples=20, deadline=None)
@given(
    ttft_s=st.floats(0.05, 20), tpot_s=st.floats(0.01, 0.2), percentile=st.sampled_from([50.0, 90.0, 99.0]),
    looser=st.tuples(st.floats(1, 1.5), st.floats(1, 1.5)),
)  # fmt: skip
def test_a_looser_slo_never_gives_less(
    ttft_s: float, tpot_s: float, percentile: float, looser: tuple[float, float]
) -> None:
    tight = Slo(Bound(ttft_s, percentile), Bound(tpot_s, percentile))
    loose = Slo(Bound(ttft_s * looser[0], percentile), Bound(tpot_s * looser[1], percentile))
    assert best_within(loose) >= best_within(tight)


def test_a_looser_slo_with_runs_of_their_own_length() -> None:
    """The length of a run follows from the runs before, so the whole search is repeated."""
    loads = [
        capacity_of(DEPLOYMENT, Source(CHAT), Slo.parse(f"ttft=2s,tpot={tpot}ms")).best.load for tpot in (40, 41, 44)
    ]
    assert loads == sorted(loads)


@pytest.mark.parametrize("kind", ["rate", "users"])
def test_no_load_beyond_the_bound_is_simulated(kind: Kind) -> None:
    """Without a bound that fails, the queue ends the search of a rate; users beyond all sequences only wait."""
    slo = Slo.parse("tpot=100s")
    if kind == "users":
        with pytest.raises(SloMissed, match=r"even .* users stay within the SLO.*give the SLO a bound of ttft"):
            capacity_of(DEPLOYMENT, Source(CHAT), slo, kind)
        return
    result = capacity_of(DEPLOYMENT, Source(CHAT), slo, kind)
    assert result.failed.missed == ("queue",)
    assert result.best.request_throughput == pytest.approx(result.best.load, rel=0.1)
    bound = rate_bound(result.run.cluster, result.run.site.request)
    assert result.best.load < bound
    assert max(one.load for one in result.tries) <= 2.1 * bound


def test_a_deployment_that_holds_nothing_is_tried_once() -> None:
    said: list[str] = []
    with pytest.raises(SloMissed, match=r"no load stays within the SLO.*missed: tpot"):
        capacity_of(DEPLOYMENT, Source(CHAT, 500), Slo.parse("tpot=1ms"), say=said.append)
    assert len(said) == 1


@given(rate=st.floats(0.01, 100), low=st.floats(0.1, 10), high=st.floats(10, 100))
def test_runs_begin_with_the_sessions_that_are_live(rate: float, low: float, high: float) -> None:
    """Little's law over the life of a request between those at two loads, and the think time."""
    agents = CHAT.model_copy(update={"hit_share": 0.9, "think_time": 20.0})

    def lengths(kind: Kind, workload: Workload | None) -> RunLengths:
        return RunLengths(lambda load, requests: holds_below(1, load), kind, workload, {0.0: low, 100.0: high})

    live = lengths("rate", agents).ongoing(rate)
    assert live == round(rate * (low + (high - low) * rate / 100 + 20))
    others = (lengths("users", agents), lengths("rate", CHAT), lengths("rate", None))
    assert not any(one.ongoing(rate) for one in others)
