"""`tokenworks.plan(..., simulate=False)`: what it answers, and every way to ask it wrongly."""

import dataclasses
import functools
import math
from pathlib import Path

import pytest

import tokenworks
from tests.planning.settings import DENSE, R1, SESSIONS, SMALL_MOE, costing
from tokenworks.errors import DoesNotFit, SpecError, UnknownName
from tokenworks.planning.result import Plan
from tokenworks.planning.search import search
from tokenworks.specs.engine import OF_MEASURED_ROWS
from tokenworks.specs.load import catalog_names, load_workload
from tokenworks.specs.machine import HostNode
from tokenworks.specs.workload import Workload

SLO = "ttft=2s,tpot=50ms"
estimates = functools.partial(tokenworks.plan, simulate=False)


@pytest.fixture(scope="module")
def r1() -> Plan:
    return estimates(R1, "scalex40", isl=4000, osl=1000, slo=SLO)


def test_the_answer_is_ranked_and_consistent(r1: Plan) -> None:
    rows = r1.deployments
    assert [row.rank for row in rows] == list(range(1, 6))
    effective = [row.effective_tok_s_per_device for row in rows]
    assert effective == sorted(effective, reverse=True)
    assert len({(str(row.deployment)) for row in rows}) == 5
    for row in rows:
        assert row.meets_slo
        assert row.ttft_slo_s <= 2
        assert row.tpot_slo_s <= 0.05
        assert row.tpot_s <= row.tpot_slo_s
        assert row.output_tok_s_per_user == pytest.approx(1 / row.tpot_s)
        assert row.output_tok_s_per_device == pytest.approx(row.requests_s * 1000 / (row.devices + row.idle_devices))
        assert row.total_tok_s_per_device == pytest.approx(5 * row.output_tok_s_per_device)
        low, high = row.interval["tpot_s"]
        assert low < row.tpot_s < high
        assert row.bound_by in ("compute", "hbm", "kv-capacity", "scale-up", "scale-out", "host")


def test_it_says_what_it_looked_at_and_what_it_rests_on(r1: Plan) -> None:
    assert r1.considered > r1.legal > r1.estimated > 0
    assert sum(r1.pruned.values()) == pytest.approx(r1.legal - r1.estimated, abs=r1.estimated)
    assert {"tp_divides_heads", "weights_fit"} <= r1.broken.keys()
    assert {"device.peak.bf16", "device.scale_up.bandwidth"} <= {item.path for item in r1.assumed}
    assert "device.peak.bf16" in r1.best.assumed
    assert r1.best.grade == "kernel-calibrated"


def test_plain_data_has_the_keys_that_are_promised(r1: Plan) -> None:
    plain = r1.plain()
    assert {"inputs", "considered", "legal", "wall", "deployments", "pareto"} <= plain.keys()
    assert plain["wall"]["elapsed_s"] > 0
    keys = {
        "rank", "deployment", "output_tok_s_per_device", "effective_tok_s_per_device", "ttft_s", "tpot_s", "bound_by",
        "interval", "assumed", "grade",
    }  # fmt: skip
    assert all(keys <= row.keys() for row in plain["deployments"])


def test_experts_are_copied_until_they_divide(r1: Plan) -> None:
    roles = [role for row in r1.deployments for role in row.deployment.roles]
    assert all((256 + role.redundant_experts) % role.parallel.ep == 0 for role in roles)
    assert any(role.redundant_experts for role in roles)


def test_every_workload_of_the_catalog_is_planned() -> None:
    assert catalog_names("workload") == ["agent", "chat", "code", "reason", "summarise"]
    for name in ("chat", "code", "reason", "summarise"):
        found = estimates(SMALL_MOE, "hgx-h200", workload=name, top=1)
        assert str(found.slo) == load_workload(name).slo
        assert found.best.rank == 1


def test_the_agent_workload_is_the_measured_one() -> None:
    """46,218 requests: 118,296 tokens in, 440 out, 96 % of the input reused; cold turns are in the variation."""
    agent = load_workload("agent")
    assert (agent.isl, agent.osl, agent.think_time) == (118296, 440, 10)
    assert agent.hit_share == pytest.approx(0.9623)
    assert agent.uncached == pytest.approx(4457, rel=0.001)
    assert agent.uncached_cv == pytest.approx(5.63)


def test_a_given_rate_is_carried_by_few_devices() -> None:
    found = estimates(DENSE, "2xhgx-h200", isl=1000, osl=200, rate=4, slo="ttft=2s,tpot=50ms")
    best = found.best
    assert best.meets_slo
    assert best.requests_s == pytest.approx(4, rel=0.03)
    assert best.load is not None
    assert best.load <= 1
    assert best.devices < 16
    assert best.idle_devices == 0
    assert best.interval["output_tok_s_per_device"][1] <= best.output_tok_s_per_device


def test_users_in_flight_obey_littles_law() -> None:
    found = estimates(DENSE, "2xhgx-h200", isl=1000, osl=200, concurrency=48, slo="ttft=2s,tpot=50ms")
    for row in found.deployments:
        assert row.requests_s * (row.ttft_s + 200 * row.tpot_s) == pytest.approx(48, rel=0.15)


def test_one_user_is_served_by_one_instance() -> None:
    found = estimates(DENSE, "hgx-h200", isl=1000, osl=200, concurrency=1, slo="")
    assert all(role.replicas == 1 for row in found.deployments for role in row.deployment.roles)


def test_a_cache_that_is_too_small_is_said_to_bind() -> None:
    """Sessions that think for an hour: no device memory holds them, so the hit share falls and KV capacity binds."""
    long_pause = SESSIONS.model_copy(update={"think_time": 3600.0})
    found = estimates(SMALL_MOE, "hgx-h100", workload=long_pause, slo="")
    assert found.best.hit_share < 0.5
    assert found.best.bound_by == "kv-capacity"
    short = estimates(SMALL_MOE, "hgx-h100", workload=SESSIONS, slo="")
    assert short.best.hit_share > found.best.hit_share
    assert short.best.output_tok_s_per_device > found.best.output_tok_s_per_device


def test_a_missed_slo_names_the_nearest_point_and_what_binds_it() -> None:
    found = estimates(SMALL_MOE, "hgx-h100", isl=4000, osl=1000, slo="ttft=1ms,tpot=1us")
    assert not found.meets_slo
    assert found.best.effective_tok_s_per_device == 0
    message = str(found.missed())
    assert "the nearest" in message
    assert "TTFT p99" in message
    assert found.best.bound_by in message


def test_the_list_shows_alternatives() -> None:
    """Of deployments in two roles one for each size of a prefill instance, the best of them among all."""
    found = estimates(R1, "scalex40", workload="agent")
    apart = [row.deployment for row in found.deployments if len(row.deployment.roles) == 2]
    sizes = [(one.engine, one.roles[0].parallel.devices) for one in apart]
    assert len(sizes) == len(set(sizes)) > 1


def test_a_tail_is_above_the_mean_where_requests_come_as_they_like() -> None:
    open_, closed = (
        estimates("Qwen/Qwen3-30B-A3B-FP8", "hgx-h100", workload="chat", concurrency=users, top=40).deployments
        for users in (None, 200)
    )
    apart = [row for row in open_ if len(row.deployment.roles) == 2]
    assert all(row.tpot_slo_s > row.tpot_s * 1.005 for row in apart)
    assert all(row.deployment.roles[1].max_sequences > row.batch for row in apart)
    assert all(row.tpot_slo_s == row.tpot_s for row in closed if len(row.deployment.roles) == 2)


def test_a_rate_beyond_all_capacity_is_missed() -> None:
    found = estimates(DENSE, "hgx-h100", isl=4000, osl=1000, rate=1e6, slo="")
    assert not found.meets_slo
    assert "requests/s" in str(found.missed())


ASKED = {"model": SMALL_MOE, "on": "hgx-h100", "isl": 100, "osl": 10}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"isl": -4.0}, "isl"),
        ({"isl": 0}, "isl"),
        ({"osl": math.nan}, "osl"),
        ({"isl": math.inf}, "isl"),
        ({"isl": None}, "no workload, and no isl"),
        ({"isl": None, "osl": None}, "no workload"),
        ({"rate": 1.0, "concurrency": 2.0}, "not both"),
        ({"rate": -1.0}, "rate"),
        ({"concurrency": 0.0}, "concurrency"),
        ({"workload": "chat"}, "not both"),
        ({"slo": "ttft=2"}, "--slo"),
        ({"slo": "latency=2s"}, "ttft=2s,tpot=50ms"),
        ({"slo": "ttft=2s,ttft=3s"}, "ttft has two bounds"),
        ({"slo": "ttft=2 GB"}, "--slo"),
        ({"slo": "tpot=0s"}, "above zero"),
        ({"top": 0}, "--top"),
        ({"engine": "nonsense"}, "engine"),
        ({"isl": 10**9}, "shorten"),
    ],
)
def test_bad_input_is_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        estimates(**(ASKED | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"model": "deepseek-ai/DeepSeek-R9"}, "DeepSeek-R1"), ({"on": "scalex4"}, "scalex40")],
)
def test_an_unknown_name_gets_near_ones(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UnknownName, match=words):
        estimates(**(ASKED | changes))  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="agent"):
        estimates(SMALL_MOE, "hgx-h100", workload="agents")


def test_a_model_that_does_not_fit_says_by_how_much_and_what_would() -> None:
    with pytest.raises(DoesNotFit, match=r"GB more than .*2 ?x ?hgx-h100"):
        estimates(R1, "hgx-h100", isl=100, osl=10)


def test_a_request_that_no_cache_holds_does_not_fit() -> None:
    """66 GB of weights on one device of 77 GB leave 3.3 GB: some 25,000 tokens of 131 kB."""
    case = costing(DENSE, "hgx-h100", "", workload=Workload(name="long", isl=30_000, osl=10))
    alone = dataclasses.replace(case.setting.machine, devices=1, domain=1, host=HostNode(1), hbm_bytes=77e9)
    setting = dataclasses.replace(case.setting, machine=alone)
    with pytest.raises(DoesNotFit, match=r"the KV cache of one request: 30,010 tokens, .* at most"):
        search(dataclasses.replace(case, setting=setting), keep=1)


def test_a_workload_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nisl: 500\nosl: 50\nslo: tpot=40ms\n")
    assert estimates(SMALL_MOE, "hgx-h100", workload=str(file), top=1).setting.workload.isl == 500
    file.write_text("name: mine\nisl: 500\nosl: 50\nhit_share: 0.5\n")
    with pytest.raises(SpecError, match="reused_context"):
        estimates(SMALL_MOE, "hgx-h100", workload=str(file))
    file.write_text("name: mine\nisl: 500\nosl: 50\nslo: soon\n")
    with pytest.raises(SpecError, match=r"mine\.yaml"):
        estimates(SMALL_MOE, "hgx-h100", workload=str(file))


def test_a_rate_beside_a_workload_replaces_its_load() -> None:
    busy = Workload(name="busy", isl=500, osl=50, concurrency=10)
    found = estimates(SMALL_MOE, "hgx-h100", workload=busy, rate=2.0, top=1)
    assert found.load is not None
    assert (found.load.kind, found.load.value) == ("rate", 2.0)


@pytest.mark.parametrize(
    ("model", "on"),
    [
        ("openai/gpt-oss-120b", "gb200-nvl72"),
        ("zai-org/GLM-5-FP8", "5xhgx-h20"),
        ("meta-llama/Meta-Llama-3.1-70B", "scalex40"),
        ("Qwen/Qwen3.5-35B-A3B", "hgx-h100"),
        ("google/gemma-4-26B-A4B", "hgx-mi300x"),
        ("deepseek-ai/DeepSeek-V4-Flash", "hgx-h200"),
    ],
)
def test_other_models_and_machines_are_planned(model: str, on: str) -> None:
    found = estimates(model, on, isl=4000, osl=1000, slo=SLO)
    assert found.meets_slo
    assert all(dataclasses.asdict(point)["output_tok_s_per_device"] > 0 for point in found.pareto)


def test_only_numbers_that_a_plan_reads_are_named_as_assumed() -> None:
    """Not the drafts of a measured row that says MTP and no more: a plan tries its own."""
    named = {item.path for item in estimates(SMALL_MOE, "hgx-h100", isl=1000, osl=100, top=1).assumed}
    assert "engine.host_step" in named
    assert not named & {f"engine.{name}" for name in OF_MEASURED_ROWS}
