"""Runs with faults: every request ends, nothing changes without faults, and a drawn schedule can be played again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.test_cluster import R1, role
from tokenworks.engine.types import Status
from tokenworks.errors import SpecError
from tokenworks.simulation.faults import FailureInput
from tokenworks.simulation.felt import phases, series_edges
from tokenworks.simulation.run import Simulation, Traffic, simulate
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.faults import load_faults
from tokenworks.specs.slo import Slo
from tokenworks.specs.trace import Trace

pytestmark = pytest.mark.usefixtures("kernel")

BOX = role(sequences=40 * 16, chunk=40 * 1024, dp=40, ep=40, redundant_experts=24)
FRONT = role("prefill", sequences=64, chunk=16384, dp=8, ep=8)
BACK = role("decode", sequences=16 * 32, chunk=16 * 64, dp=16, ep=16)
CARD = {"at": "60 s", "part": "device 7", "for": "30 s"}
QUICK = {"detect": "5 s", "shrink": "4 s", "start": "20 s"}
PARTS = ("device 3", "device 12", "host 1", "switch 2", "software 0", "instance 0")
SLO = Slo.of("ttft=5s,tpot=200ms")


def trace(count: int = 400, seconds: float = 200.0, seed: int = 0) -> Trace:
    random = np.random.default_rng(seed)
    return Trace.of(
        np.sort(random.uniform(0, seconds, count)), random.integers(50, 3000, count), random.integers(1, 60, count),
        name="random",
    )  # fmt: skip


def deployed(*roles: Role, **more: Any) -> Deployment:
    return Deployment(model=R1, system="scalex40", roles=roles or (BOX,), **more)


def run(deployment: Deployment, faults: Any = None, **more: Any) -> Simulation:
    asked = None if faults is None else FailureInput(load_faults(faults))
    return simulate(deployment, Traffic(more.pop("trace", trace())), slo=SLO, failures=asked, **more)


def data(simulation: Simulation) -> dict[str, Any]:
    plain = dict(simulation.plain())
    plain.pop("wall")
    return plain


def faults_of(simulation: Simulation) -> dict[str, Any]:
    faults: dict[str, Any] = dict(simulation.plain())["faults"]
    return faults


def test_a_run_without_faults_has_the_data_of_before() -> None:
    bare = data(run(deployed()))
    assert "faults" not in bare
    resilient = deployed(elastic_ep=True, on_loss="migrate", retries=2)
    same = data(run(resilient))
    same["inputs"], bare["inputs"] = {}, {}
    assert same == bare


def test_faults_after_the_end_change_nothing_and_are_named() -> None:
    late = run(deployed(), [{"at": "1 h", "part": "device 1"}])
    assert late.healthy is not None
    assert np.array_equal(late.outcome.end_s, late.healthy.outcome.end_s)
    assert "1 of 1 faults come after the end of the run" in late.notes[-1]
    assert faults_of(late)["lost_effective_share"] == 0


def test_a_lost_card_without_and_with_elastic_ep() -> None:
    whole = faults_of(run(deployed(), {"faults": [CARD], "times": QUICK}))
    part = faults_of(run(deployed(elastic_ep=True), {"faults": [CARD], "times": QUICK}))
    assert (whole["faults"][0]["ranks"], part["faults"][0]["ranks"]) == (40, 1)
    assert (whole["faults"][0]["down_s"], part["faults"][0]["down_s"]) == (50, 8)
    assert whole["faults"][0]["during"]["failed"] > part["faults"][0]["during"]["failed"]
    assert whole["lost_effective_share"] > part["lost_effective_share"] > 0
    assert whole["lost_requests"] > part["lost_requests"]
    assert whole["faults"][0]["lost_requests"] == whole["lost_requests"]
    assert whole["down_s"] == 50


@pytest.mark.parametrize("on_loss", ["fail", "restart", "migrate"])
def test_what_happens_to_requests(on_loss: Any) -> None:
    elastic = run(deployed(elastic_ep=True, on_loss=on_loss), {"faults": [CARD], "times": QUICK}, trace=trace(1500))
    faults, failed = faults_of(elastic), elastic.outcome.count(Status.FAILED)
    assert faults["lost_requests"] > 0
    assert (failed, faults["retries"]) == (
        (faults["lost_requests"], 0) if on_loss == "fail" else (0, faults["lost_requests"])
    )
    assert (faults["lost_output_tokens"] > 0) == (on_loss != "migrate")


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_every_request_ends_and_the_run_can_be_repeated(data_: st.DataObject) -> None:
    disaggregated, elastic = data_.draw(st.booleans()), data_.draw(st.booleans())
    roles = (FRONT, BACK) if disaggregated else (BOX,)
    on_loss = data_.draw(st.sampled_from(["fail", "restart", "migrate"]))
    deployment = deployed(*roles, elastic_ep=elastic, on_loss=on_loss, spares=8 if disaggregated else 0)
    faults = [
        {"at": f"{40 * number + data_.draw(st.integers(0, 30))} s",
         "part": data_.draw(st.sampled_from(PARTS))}
        for number in range(data_.draw(st.integers(1, 4)))
    ]  # fmt: skip
    schedule = {"faults": faults, "times": QUICK | {"reset": "9 s"}}
    one, again = (run(deployment, schedule, trace=trace(150)) for _ in range(2))
    assert set(one.outcome.status) <= {Status.COMPLETED, Status.FAILED, Status.REJECTED}
    assert data(one) == data(again)
    series = faults_of(one)["series"]
    assert sum(series["arrived"]) == 150
    assert sum(series["failed"]) == one.outcome.count(Status.FAILED) + one.outcome.count(Status.REJECTED)


def test_a_drawn_schedule_is_played_again_from_what_was_printed() -> None:
    random = FailureInput.read(None, 3, 3e5, None)
    assert random is not None
    drawn = simulate(deployed(elastic_ep=True), Traffic(trace()), slo=SLO, failures=random)
    first = faults_of(drawn)
    assert first["schedule"]["faults"]
    assert (first["seed"], first["hazard"]) == (3, 3e5)
    again = simulate(deployed(elastic_ep=True), Traffic(trace()), slo=SLO,
                     failures=FailureInput(load_faults(first["schedule"])))  # fmt: skip
    second = faults_of(again)
    for key in first.keys() - {"seed", "hazard", "expected"}:
        assert first[key] == second[key], key


def test_faults_and_known_experts_in_one_run() -> None:
    deployment = deployed(elastic_ep=True, on_loss="migrate")
    schedule = {"faults": [CARD, {"at": "150 s", "part": "switch 1", "crash": False, "for": "9 s"}], "times": QUICK}
    one, again = (run(deployment, schedule, experts={"alpha": 0.8, "half_life": "1 min"}) for _ in range(2))
    assert set(one.outcome.status) == {Status.COMPLETED}
    assert data(one) == data(again)
    levels = len(one.tracks[0].levels)
    assert levels > 1
    assert len(one.cluster.pools[0].variants) == 3 * levels - 1, "whole, 39 ranks, three switches of four"
    times = [cost.by_tokens[40] for cost in (one.cluster.pools[0].cost, *one.cluster.pools[0].variants)]
    assert np.all(np.array(times[2 * levels :]) >= np.array(times[:levels])), "less bandwidth is never faster"
    assert faults_of(one)["faults"][0]["ranks"] == 1


def test_rare_faults_are_said_to_be_rare() -> None:
    asked = FailureInput.read(None, 1, None, None)
    calm = simulate(deployed(), Traffic(trace(50)), slo=SLO, failures=asked)
    assert faults_of(calm)["faults"] == []
    assert "--hazard FACTOR" in calm.notes[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([CARD], 1, None, None), "a schedule and random faults together"),
        (([CARD], None, 2.0, None), "a schedule has no failure rates"),
        ((None, None, 2.0, None), "--hazard: there are no faults"),
        ((None, None, None, "published"), "--reliability: there are no faults"),
        ((None, 1, -1.0, None), "-1 is no factor of failure rates"),
        ((None, -1, None, None), "-1 is no seed"),
        ((None, 1, None, "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        FailureInput.read(*arguments)


def test_windows_around_a_fault_and_over_time() -> None:
    assert phases(400.0, 700.0, 2000.0) == ((100.0, 400.0), (400.0, 700.0), (700.0, 1000.0))
    assert phases(50.0, 1e6, 2000.0) == ((0.0, 50.0), (50.0, 2000.0), (2000.0, 2000.0))
    assert phases(5000.0, 6000.0, 2000.0)[1] == (2000.0, 2000.0)
    assert series_edges(3600.0, 3700.0)[:2] == [0.0, 60.0]
    assert len(series_edges(3600.0, 3700.0)) == 63
    assert series_edges(100.0, 100.0)[1] == 5.0
    assert series_edges(86400.0, 86400.0)[1] == 1800.0
