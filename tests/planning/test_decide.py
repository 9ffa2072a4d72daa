"""A plan shows what simulations show: each row holds its own rate, and no other deployment would have been better."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tokenworks
from tests.planning.settings import DENSE, SESSIONS, SMALL_MOE, costing, role
from tokenworks.planning.bench import CUT, SESSION_MOST, SESSION_MOST_AGAIN, Bench
from tokenworks.planning.decide import _listed, decide
from tokenworks.planning.judge import shown
from tokenworks.planning.ranking import candidates
from tokenworks.planning.result import Plan
from tokenworks.planning.search import search
from tokenworks.planning.tuning import _resized
from tokenworks.specs.load import load_workload
from tokenworks.specs.workload import Workload

SLO = "ttft=2s,tpot=50ms"
WORKLOAD = Workload(name="test", isl=1000, osl=100, isl_cv=1.0, osl_cv=0.5)

pytestmark = pytest.mark.usefixtures("kernel")


@pytest.fixture(scope="module")
def planned() -> Plan:
    return tokenworks.plan(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO, engine="vllm", top=4)


def test_rows_are_simulated_and_ranked_by_it(planned: Plan) -> None:
    rows = planned.deployments
    assert planned.decision is not None
    assert planned.decision.settled
    assert planned.decision.simulations > len(rows)
    assert [row.rank for row in rows] == [1, 2, 3, 4]
    effective = [row.effective_tok_s_per_device for row in rows]
    assert effective == sorted(effective, reverse=True)
    for row in rows:
        assert row.meets_slo
        assert row.ttft_slo_s <= 2
        assert row.tpot_slo_s <= 0.05
        assert row.effective_tok_s_per_device <= row.output_tok_s_per_device * 1.000001
        assert row.ttft_slo_s != row.estimated.ttft_slo_s  # simulated; the rate may be the estimated one
        assert 0.3 < row.requests_s / row.estimated.requests_s < 3


def test_the_figures_of_a_row_are_those_of_the_rate_that_is_sent(planned: Plan) -> None:
    for row in planned.deployments:
        assert row.requests_s == pytest.approx(row.offered_s, rel=1e-9)  # nothing is refused
        devices = row.devices + row.idle_devices
        assert row.output_tok_s_per_device * devices == pytest.approx(row.offered_s * WORKLOAD.osl, rel=1e-9)
        assert row.total_tok_s_per_device * devices == pytest.approx(
            row.offered_s * (WORKLOAD.isl + WORKLOAD.osl), rel=1e-9
        )


def test_a_longer_run_below_the_rate_serves_what_the_plan_says(planned: Plan) -> None:
    best = planned.best
    run = tokenworks.simulate(planned, workload=WORKLOAD, slo=SLO, rate=0.98 * best.offered_s, requests=60_000, seed=7)
    assert run.meets_slo
    served = run.metrics.effective_throughput / (best.devices + best.idle_devices)
    assert served == pytest.approx(0.98 * best.effective_tok_s_per_device, rel=0.02)


def test_equal_roles_with_other_engines_count_once() -> None:
    rows = [
        _row(100, 1, "vllm"),
        _row(100, 1, "trtllm"),
        _row(90, 2, "vllm"),
        _row(90, 2, "trtllm"),
        _row(80, 3, "vllm"),
    ]
    assert _listed(rows, 3) == 80
    assert _listed(rows, 4) == 0


def _row(effective: float, tp: int, engine: str) -> tuple[Any, Any]:
    """What `_listed` reads of a deployment with simulated values."""
    deployment = SimpleNamespace(roles=(role(tp=tp),), engine=engine)
    return SimpleNamespace(effective_tok_s_per_device=effective, meets_slo=True, deployment=deployment), None


def test_sizes_are_tuned_together_and_equal_engines_alike() -> None:
    """The closed form gives this split a token budget of 65,536; it holds most with few tokens and many sequences."""
    cases = [costing(DENSE, "hgx-h20", workload=load_workload("chat"), slo=SLO, engine=engine)
             for engine in ("trtllm", "vllm")]  # fmt: skip
    found = [one for case in cases for one in candidates([search(case, 20, margin=0.2)])
             if str(one.deployment) == "1x[tp2 pp4]"]  # fmt: skip
    pair = [next(one for one in found if one.deployment.engine == engine) for engine in ("trtllm", "vllm")]
    assert pair[0].deployment.roles == pair[1].deployment.roles
    rows, _ = decide(Bench(), pair, 2)
    assert rows[0].deployment.roles == rows[1].deployment.roles
    assert {row.deployment.engine for row in rows} == {"trtllm", "vllm"}
    assert rows[0].deployment.roles[0].chunk_tokens < 8192
    assert rows[0].effective_tok_s_per_device > 196.9  # the best of 500 deployments that were drawn


def test_a_plan_says_for_which_engines_emit_writes_nothing() -> None:
    asked: dict[str, Any] = {"workload": WORKLOAD, "slo": SLO, "simulate": False, "top": 3}
    written = tokenworks.plan(DENSE, "hgx-h100", engine="vllm", **asked)
    other = tokenworks.plan(DENSE, "hgx-h100", engine="trtllm", **asked)
    assert not [note for note in written.notes if "emit" in note]
    words = "of TensorRT-LLM (PyTorch backend): plan with --engine vllm or --engine sglang."
    assert other.notes == (f"`emit` writes no launch commands for deployment 1, {words}",)
    rows = (other.deployments[0], written.deployments[0])
    assert "backend): --pick 2 or plan with" in dataclasses.replace(other, deployments=rows).notes[0]
    assert not other.remarks


def test_the_same_question_gives_the_same_answer(planned: Plan) -> None:
    again = tokenworks.plan(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO, engine="vllm", top=4)
    assert {**again.plain(), "wall": {}} == {**planned.plain(), "wall": {}}


def test_the_answer_does_not_depend_on_the_number_of_processes(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 3):
        for module in ("bench", "decide", "searches"):
            monkeypatch.setattr(f"tokenworks.planning.{module}.PROCESSES", number)
        again = tokenworks.plan(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO, engine="vllm", top=4)
        assert {**again.plain(), "wall": {}} == {**planned.plain(), "wall": {}}


def test_a_run_that_nobody_asks_for_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenworks.planning.bench.PROCESSES", 2)
    case = costing(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO)
    one = next(candidates([search(case, 10, margin=0.2)]))
    rate, bench, alone = one.estimated.requests_s / 2, Bench(), Bench()
    bench.expect(one, rate)
    assert bench.simulations == 0
    ahead, run = bench.at(one, rate=rate), alone.at(one, rate=rate)
    bench.expect(one, 2 * rate)
    bench.forget()
    assert ahead.metrics == run.metrics
    assert (bench.simulations, bench.requests) == (alone.simulations, alone.requests) == (1, bench.requests)


def test_work_on_several_deployments_fails_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of one deployment reaches the caller, and the results keep the order of the deployments."""
    monkeypatch.setattr("tokenworks.planning.bench.PROCESSES", 2)
    case = costing(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO)
    few = list(candidates([search(case, 10, margin=0.2)]))[:3]
    assert Bench().each([*few, few[0]], lambda number: number) == [0, 1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        Bench().each(few, lambda number: 1 // (number - 1))


def test_runs_of_very_many_sessions_are_cut_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their blocks took more than 16 GB: 489 requests/s of `agent` were 285,057 requests of 462 blocks each."""
    case = costing(DENSE, "hgx-h100", workload=SESSIONS, slo="ttft.p90=30s,tpot=100ms")
    one = next(candidates([search(case, 10, margin=0.2)]))
    bench = Bench()
    short = bench._run(one, 0.05, None, again=False, whole=True)
    assert short.requests < SESSION_MOST
    life_s = one.estimated.ttft_s + SESSIONS.osl * one.estimated.tpot_s + SESSIONS.think_time
    assert short.ongoing == round(0.05 * life_s)
    assert not bench.cut
    long = bench._run(one, 489.0, None, again=False, whole=True)
    assert (long.requests, long.ongoing) == (SESSION_MOST, 0)
    assert bench._run(one, 489.0, None, again=True, whole=True).requests == SESSION_MOST_AGAIN
    assert bench.cut == {one.deployment}
    for name in ("SESSION_MOST", "SESSION_MOST_AGAIN"):
        monkeypatch.setattr(f"tokenworks.planning.bench.{name}", 400)
    plan = tokenworks.plan(DENSE, "hgx-h100:1", workload=SESSIONS, slo=SLO, engine="vllm", top=1, tiers="none")
    assert plan.decision is not None
    assert not plan.decision.settled
    assert CUT in plan.notes


def test_a_run_that_ends_before_its_sessions_shows_its_window() -> None:
    case = costing(DENSE, "hgx-h100", workload=SESSIONS, slo="ttft.p90=30s,tpot=1s")
    one = next(candidates([search(case, 10, margin=0.2)]))
    for rate, requests, whole in ((0.5, 1000, True), (20.0, 300, False)):
        run = tokenworks.simulate(one.deployment, workload=SESSIONS, slo=case.slo, rate=rate, requests=requests)
        assert run.meets_slo
        row = shown(one, run)
        assert row.offered_s == rate
        assert (row.requests_s == pytest.approx(rate)) == whole
        assert whole or row.requests_s == pytest.approx(run.metrics.request_throughput)


def test_the_best_does_not_depend_on_how_many_are_listed(planned: Plan) -> None:
    """A short list must not end the search early: the winner may stand far down in the order of the estimates."""
    one = tokenworks.plan(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO, engine="vllm", top=1)
    assert len(one.deployments) == 1
    assert one.best.deployment == planned.best.deployment
    assert one.best.effective_tok_s_per_device == planned.best.effective_tok_s_per_device


def test_another_seed_at_98_percent_of_the_rate_shows_what_was_promised(planned: Plan) -> None:
    """The best row, simulated again with other requests: effective tokens within 5 %, and every bound held."""
    for row in planned.deployments[:2]:
        run = tokenworks.simulate(
            planned, pick=row.rank, workload=WORKLOAD, slo=SLO, rate=0.98 * row.requests_s, requests=6000, seed=7
        )
        effective = run.metrics.effective_throughput / (row.devices + row.idle_devices)
        assert effective == pytest.approx(0.98 * row.effective_tok_s_per_device, rel=0.05)
        assert all(bound.seen_s < 1.05 * bound.bound_s for bound in run.bounds.values())


def test_nothing_that_the_plan_left_out_is_better() -> None:
    """Brute force on a small machine: 40 entries drawn from the whole space, the near ones at their own best rates.

    An entry is near if it holds 70 % of the rate of the winner.
    """
    case = costing(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO)
    everything = list(candidates([search(case, keep=200)]))
    drawn = np.random.default_rng(3).choice(len(everything), size=min(40, len(everything)), replace=False)
    (chosen,), _ = decide(Bench(), candidates([search(case, 10, margin=0.2)]), 1)
    rate, bench = 0.7 * chosen.offered_s, Bench()
    near = [one for one in (everything[i] for i in drawn) if bench.at(one, rate=rate).meets_slo]
    assert near
    best = max(decide(Bench(), [one], 1)[0][0].effective_tok_s_per_device for one in near)
    assert chosen.effective_tok_s_per_device >= 0.98 * best


@pytest.mark.parametrize("load", [{"rate": 20.0}, {"concurrency": 64}])
def test_under_a_load_each_deployment_carries_it(load: dict[str, Any]) -> None:
    plan = tokenworks.plan(DENSE, "2xhgx-h100", workload=WORKLOAD, slo=SLO, engine="vllm", top=3, **load)
    for row in plan.deployments:
        assert row.meets_slo
        assert row.idle_devices == 0
        if "rate" in load:
            assert row.requests_s == pytest.approx(20, rel=0.05)
        else:
            in_flight = row.requests_s * (row.ttft_s + 100 * row.tpot_s)
            assert in_flight == pytest.approx(64, rel=0.1)  # Little's law


def test_what_no_machine_serves_is_said_by_how_much() -> None:
    plan = tokenworks.plan(DENSE, "hgx-h100:2", isl=1000, osl=100, rate=1e3, slo=SLO, engine="vllm", top=2)
    assert not plan.meets_slo
    words = str(plan.missed())
    assert "no deployment meets ttft=2s,tpot=50ms at 1000 requests/s" in words
    assert plan.best.slo_pressure > 2


def test_without_bounds_the_queue_alone_must_stay() -> None:
    plan = tokenworks.plan(SMALL_MOE, "hgx-h100:4", isl=1000, osl=100, slo="", engine="vllm", top=2)
    assert plan.best.output_tok_s_per_device == pytest.approx(plan.best.effective_tok_s_per_device)


def test_a_budget_ends_the_search_and_says_so() -> None:
    plan = tokenworks.plan(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO, top=4, budget="1 request")
    assert plan.decision is not None
    assert not plan.decision.settled
    assert plan.decision.reproducible
    assert len(plan.deployments) >= 1


def test_a_budget_of_time_is_not_reproducible() -> None:
    plan = tokenworks.plan(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO, engine="vllm", top=4, budget="1 ms")
    assert plan.decision is not None
    assert not plan.decision.settled
    assert not plan.decision.reproducible
    assert len(plan.deployments) >= 1


@pytest.mark.parametrize("budget", ["0", "10", "0s", "0 requests", "-1s", "3 cats", "s", "", "1e999s"])
def test_a_budget_needs_a_unit_and_a_size(budget: str) -> None:
    with pytest.raises(tokenworks.SpecError, match="--budget"):
        tokenworks.plan(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO, budget=budget)


def test_every_engine_of_the_device_is_compared(planned: Plan) -> None:
    plan = tokenworks.plan(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO, top=3)
    assert plan.engines == ("sglang", "trtllm", "vllm")
    best = plan.best.effective_tok_s_per_device
    for engine in plan.engines:
        alone = planned
        if engine != "vllm":
            alone = tokenworks.plan(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO, engine=engine, top=1)
        assert alone.best.effective_tok_s_per_device <= best * 1.02
        if engine == plan.best.deployment.engine:
            assert alone.best.effective_tok_s_per_device == pytest.approx(best, rel=0.02)
    assert {row.deployment.engine for row in plan.deployments} <= set(plan.engines)


@pytest.mark.parametrize(("engine", "on"), [("trtllm", "scalex40"), ("atom", "hgx-h100"), ("trtllm", "hgx-mi300x")])
def test_an_engine_that_does_not_run_on_the_device_is_refused(engine: Any, on: str) -> None:
    with pytest.raises(tokenworks.SpecError, match=r"does not run on .* take .*sglang or"):
        tokenworks.plan(DENSE, on, workload=WORKLOAD, engine=engine)


def test_the_front_is_simulated_and_falls(planned: Plan) -> None:
    speed = [point.output_tok_s_per_user for point in planned.pareto]
    output = [point.output_tok_s_per_device for point in planned.pareto]
    assert speed == sorted(speed, reverse=True)
    assert output == sorted(output)
    assert len(planned.pareto) >= 3


def test_a_candidate_below_the_floor_takes_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenworks.planning.decide.DEPTH", 1)
    case = costing(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO)
    one = next(candidates([search(case, 10, margin=0.2)]))
    weak = dataclasses.replace(_resized(one, 1, "max_sequences", 0.25), family=("vllm", 99))
    first, both = Bench(), Bench()
    decide(first, [one], 1)
    decide(both, [one, weak], 1)
    assert both.simulations <= first.simulations + 8


def test_requests_beyond_the_cache_of_a_rank_miss_the_slo() -> None:
    """A deployment must not look good because it refuses the long requests."""
    small = {
        "model": DENSE, "system": "hgx-h100", "engine": "vllm",
        "roles": [
            {"name": "prefill", "parallel": {"tp": 1}, "replicas": 6},
            {"name": "decode", "parallel": {"tp": 2}},
        ],
    }  # fmt: skip
    run = tokenworks.simulate(
        small, workload=WORKLOAD, slo=SLO, rate=10, requests=4000, assume={"engine.memory.outside_torch": "8.8 GB"}
    )
    assert all(bound.met for bound in run.bounds.values())
    assert run.stable
    assert 0.05 < run.too_large < 0.5
    assert not run.holds_requests
    assert not run.meets_slo


def test_a_plan_holds_the_long_requests() -> None:
    plan = tokenworks.plan(DENSE, "hgx-h100", workload=WORKLOAD, slo=SLO, engine="vllm", top=4)
    for row in plan.deployments:
        run = tokenworks.simulate(plan, pick=row.rank, workload=WORKLOAD, slo=SLO, rate=1, requests=3000)
        assert run.holds_requests


def test_a_machine_that_holds_only_short_requests_says_so() -> None:
    long = WORKLOAD.model_copy(update={"isl": 9000.0, "isl_cv": 1.3})
    with pytest.raises(tokenworks.DoesNotFit, match=r"1 % of the requests have more than [0-9,]+ tokens, and a rank"):
        tokenworks.plan(DENSE, "hgx-h100:1", workload=long, slo=SLO, engine="vllm",
                        assume={"engine.memory.outside_torch": "6 GB"})  # fmt: skip
