"""Re-ranking by simulation: the order is that of what was seen, at loads that hold."""

from __future__ import annotations

import pytest

import tokenworks
from tokenworks.planning.costing import OfferedLoad
from tokenworks.planning.rerank import Simulated, rerank
from tokenworks.planning.result import Plan
from tokenworks.simulation.run import Simulation, Traffic, simulate
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.slo import Slo
from tokenworks.specs.workload import Workload
from tokenworks.traffic import from_workload

SLO = "ttft=2s,tpot=50ms"
WORKLOAD = Workload(name="test", isl=1000, osl=100)

pytestmark = pytest.mark.usefixtures("kernel")


@pytest.fixture(scope="module")
def found() -> Plan:
    return tokenworks.plan("Qwen/Qwen3-8B", "hgx-h100", workload=WORKLOAD, slo=SLO, top=3)


def play(deployment: Deployment, rate: float) -> Simulation:
    trace = from_workload(WORKLOAD.model_copy(update={"rate": rate}), 2000, seed=1)
    return simulate(deployment, Traffic(trace, endless=True), slo=Slo.parse(SLO))


@pytest.fixture(scope="module")
def ranked(found: Plan) -> tuple[Simulated, ...]:
    return rerank(found.deployments, play, None)


def test_all_are_there_best_first(found: Plan, ranked: tuple[Simulated, ...]) -> None:
    assert sorted(item.estimated.rank for item in ranked) == [row.rank for row in found.deployments]
    assert [item.rank for item in ranked] == [1, 2, 3]
    effective = [item.effective_tok_s_per_device for item in ranked]
    assert effective == sorted(effective, reverse=True)
    assert effective[0] > 0


def test_what_counts_was_held_and_is_not_far_from_the_estimate(ranked: tuple[Simulated, ...]) -> None:
    for item in ranked:
        assert item.seen.held
        assert item.seen.ttft_ms is not None
        assert item.seen.ttft_ms <= 2000
        assert 0.4 < item.seen.load / item.estimated.requests_s < 2.5


def test_a_given_load_is_simulated_once_each(found: Plan) -> None:
    asked: list[float] = []

    def count(deployment: Deployment, rate: float) -> Simulation:
        asked.append(rate)
        return play(deployment, rate)

    rerank(found.deployments[:2], count, OfferedLoad("rate", 5.0))
    assert asked == [5.0, 5.0]
