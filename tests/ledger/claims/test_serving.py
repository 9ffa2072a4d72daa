"""Serving: communication in a step, cost against load, utilisation of a day, and couplings."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ledger.claims.studies import SMALL, basis, study
from tokenworks.ledger.claims.asks import Answers
from tokenworks.ledger.claims.finding import Finding
from tokenworks.ledger.claims.runs import Coupling, Couplings, CouplingsAsk, LoadPoint, Loads, LoadsAsk
from tokenworks.ledger.claims.serving import CHECKS, PEAK, SHARES, _over_a_day
from tokenworks.planning.result import FrontPoint

MOE = "Qwen/Qwen3-30B-A3B"
FULL = 10_000.0


def loads(idle: float = 1.0, over: float = 0.01) -> Loads:
    """A deployment of 16 devices whose tokens grow with the load, up to the highest load within the SLO.

    Parameters
    ----------
    idle : power of a card without load / its power at full load [-]
    over : share of effective tokens above the highest load [-]
    """
    points = tuple(
        LoadPoint(share, FULL * min(share, 1.0), FULL * (share if share <= 1 else over),
                  700 * (idle + (1 - idle) * min(share, 1.0)), 0.4 * min(share, 1.0), 0.3 * min(share, 1.0), 0.04, 0.5)
        for share in SHARES
    )  # fmt: skip
    return Loads(points, "2x[tp8]", 16, "ttft=2s,tpot=50ms")


def judged(claim: str, found: Loads, **numbers: str) -> Finding:
    of = basis()
    for path, value in numbers.items():
        of = of.with_(path.replace("__", "."), value)
    answers: dict[Any, Any] = {
        ask: found if isinstance(ask, LoadsAsk) else study(100.0) for ask in CHECKS[claim].asks(of)
    }
    return CHECKS[claim].judge(of, answers)


def test_without_a_price_of_power_the_cost_is_inverse_to_the_load() -> None:
    found = judged("C30", loads(idle=0.3), prices__electricity__cn="0 USD/kWh")
    assert found.verdict == "holds if"
    assert found.computed == pytest.approx(0, abs=1e-9)


def test_power_that_falls_with_the_load_makes_an_idle_machine_cheaper() -> None:
    constant, falling = judged("C30", loads()), judged("C30", loads(idle=0.3))
    assert constant.computed == pytest.approx(0, abs=1e-9)
    assert falling.computed is not None
    assert -10 < falling.computed < 0


def test_dear_power_breaks_the_inverse_law() -> None:
    assert judged("C30", loads(idle=0.1), prices__electricity__cn="20 USD/kWh").verdict == "does not hold"


def test_effective_tokens_differ_from_output_tokens_only_in_an_overload() -> None:
    assert judged("C31", loads(over=0.01)).verdict == "holds"
    assert judged("C31", loads(over=1.0)).verdict == "does not hold"
    assert "without end" in judged("C31", loads(over=0.0)).because[1]


@settings(deadline=None)
@given(st.floats(0, 1))
def test_what_grows_with_the_load_is_its_mean_over_a_day(most: float) -> None:
    points = tuple(dataclasses.replace(point, hbm=most * point.share) for point in loads().points)
    assert _over_a_day(dataclasses.replace(loads(), points=points), "hbm") == pytest.approx(most / PEAK, abs=1e-9)


def test_utilisation_of_a_day() -> None:
    found = judged("C34", loads())
    assert found.computed == pytest.approx(0.4 / PEAK)
    assert found.verdict == "holds if"
    assert judged("C34", Loads(())).verdict == "cannot be known"


def steps(**mix: Any) -> tuple[Finding, dict[str, float]]:
    """The finding on communication, and its shares in decode steps by machine."""
    of = basis(models={MOE: 1.0}, main=MOE, **mix)
    answers: Answers = {ask: ask.answer(None) for ask in CHECKS["C28"].asks(of)}
    found = CHECKS["C28"].judge(of, answers)
    shares = {str(row[0]): float(row[5] or 0) for row in found.tables[0].rows if row[2] == "decode" and row[3] == 64}
    return found, shares


def test_experts_over_several_servers_talk_more_than_inside_one() -> None:
    found, shares = steps()
    assert shares["2xhgx-h200"] > shares["hgx-h200"] > 0
    assert found.low is not None
    assert found.computed is not None
    assert found.computed == found.high
    assert found.low <= shares["hgx-h200"] <= found.computed
    slow = {"hgx-h200": {"device.nic": "5 GB/s"}}
    assert steps(assume=slow)[1]["2xhgx-h200"] > shares["2xhgx-h200"]
    assert steps(assume=slow)[1]["hgx-h200"] == shares["hgx-h200"]


def test_slow_links_make_communication_the_largest_part() -> None:
    slow = {"hgx-h200": {"device.nic": "1 GB/s", "device.scale_up.bandwidth": "1 GB/s"}}
    assert steps(assume=slow)[0].verdict == "holds"


def test_dense_models_have_no_experts_that_talk() -> None:
    of = basis(models={SMALL: 1.0})
    assert not list(CHECKS["C28"].asks(of))
    assert CHECKS["C28"].judge(of, {}).verdict == "cannot be known"


def coupled(best: Couplings, without: Couplings) -> Finding:
    of = basis()
    return CHECKS["C35"].judge(of, dict(zip(CHECKS["C35"].asks(of), (best, without), strict=True)))


def test_couplings_count_against_a_deployment_that_is_planned_without_them() -> None:
    best = Couplings(200.0, "a", (Coupling("MTP", True, 50.0), Coupling("all", True, 40.0)))
    found = coupled(
        best, Couplings(160.0, "b", (Coupling("redundant experts", True, 125.0), Coupling("all", True, 125.0)))
    )
    assert found.computed == pytest.approx(1.6)
    assert found.low == pytest.approx(1.25)
    assert found.verdict == "holds"
    assert coupled(best, Couplings(200.0, "b", ())).verdict == "does not hold"
    assert coupled(Couplings(0.0, "", ()), Couplings(0.0, "", ())).verdict == "cannot be known"


def front(*points: tuple[float, float]) -> Finding:
    of, plain = basis(), study(100.0)
    assert plain.plan is not None
    rows = tuple(FrontPoint(plain.plan.best.deployment, user, device, 1.0) for user, device in points)
    answer = dataclasses.replace(plain, plan=dataclasses.replace(plain.plan, pareto=rows))
    return CHECKS["C32"].judge(of, dict.fromkeys(CHECKS["C32"].asks(of), answer))


def test_speed_costs_tokens() -> None:
    assert front((100, 10), (50, 30), (20, 80)).computed == pytest.approx(8)
    assert front((100, 10), (50, 30), (20, 80)).verdict == "holds"
    assert front((100, 10)).verdict == "cannot be known"


def test_loads_and_couplings_of_a_real_deployment() -> None:
    of = basis()
    plan = of.plan(MOE, "hgx-h200:2", engine="vllm")
    found = LoadsAsk(plan, (0.5, 1.5)).answer(None)
    half, over = found.points
    assert half.effective_tok_s == pytest.approx(half.output_tok_s)
    assert over.effective_tok_s < 0.5 * over.output_tok_s
    assert over.output_tok_s > half.output_tok_s
    quick = CouplingsAsk(dataclasses.replace(plan, simulate=False, budget=None)).answer(None)
    assert quick.tok_s > 0
    assert {one.name for one in quick.changed} <= {"MTP", "two-batch overlap", "redundant experts", "all"}
