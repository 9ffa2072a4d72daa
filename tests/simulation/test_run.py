"""Simulations through the API: names and laws of the result, refusals, overload, interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tokenworks.engine.types import Status
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.simulation.capacity import Try
from tokenworks.simulation.measured import Backlog
from tokenworks.simulation.play import requests_of
from tokenworks.simulation.run import Simulation, Traffic, simulate
from tokenworks.specs.deployment import Deployment, Parallel, Role
from tokenworks.specs.slo import RequestClass, Slo
from tokenworks.specs.trace import Trace
from tokenworks.specs.workload import Workload
from tokenworks.traffic import from_workload, reblock

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
SLO = Slo.parse("ttft=2s,tpot=50ms")
DEPLOYMENT = Deployment(
    model=LLAMA, system="hgx-h100", roles=(Role(name="aggregated", parallel=Parallel(tp=4), replicas=2),)
)
CHAT = Workload(name="chat", isl=1000, osl=200, isl_cv=0.9, osl_cv=0.8)


def loaded(requests: int = 800, **load: float) -> Traffic:
    return Traffic(from_workload(CHAT.model_copy(update=load), requests), endless=True)


def sent(arrival_s: Any, input_tokens: Any, output_tokens: Any, **more: Any) -> Traffic:
    return Traffic(Trace.of(arrival_s, input_tokens, output_tokens, **more))


@pytest.fixture(scope="module")
def calm() -> Simulation:
    return simulate(DEPLOYMENT, loaded(rate=8), slo=SLO)


def test_it_speaks_as_vllm_bench_serve_does(calm: Simulation) -> None:
    plain = calm.plain()
    named = {f"{s}_{m}_ms" for s in ("mean", "median", "std", "p99") for m in ("ttft", "tpot", "itl", "e2el")}
    named |= {"completed", "duration", "request_throughput", "request_goodput", "output_throughput",
              "total_token_throughput", "total_input_tokens", "total_output_tokens"}  # fmt: skip
    assert named < set(plain)
    assert all(plain[name] is not None for name in named)
    assert plain["stable"] is True
    assert plain["slo"]["met"] is True
    assert plain["grade"] == "end-to-end-calibrated"
    assert {"path", "value", "why"} == set(plain["assumed"][0])


def test_all_but_wall_is_the_same_again(calm: Simulation) -> None:
    again = simulate(DEPLOYMENT, loaded(rate=8), slo=SLO)
    one, two = calm.plain(), again.plain()
    assert one.pop("wall").keys() == two.pop("wall").keys() == {"kernel_s", "requests_per_s", "steps"}
    assert json.dumps(one) == json.dumps(two)


def test_nothing_is_lost(calm: Simulation) -> None:
    plain = calm.plain()
    ended = plain["completed_in_all"] + plain["rejected"] + plain["unsent"] + plain["queued"] + plain["running"]
    assert ended == plain["inputs"]["requests"] == 800
    outcome = calm.outcome
    assert (outcome.arrival_s <= outcome.scheduled_s).all()
    assert (outcome.scheduled_s < outcome.first_token_s).all()
    assert (outcome.first_token_s <= outcome.end_s).all()


def test_little_in_a_closed_loop() -> None:
    """C = throughput x time in the system, over the steady part (Little, Operations Research 9(3), 1961)."""
    run = simulate(DEPLOYMENT, loaded(1500, concurrency=48), slo=SLO)
    totals = run.metrics
    assert totals.request_throughput * totals.mean_e2el_ms / 1e3 == pytest.approx(48, rel=0.05)
    assert max(run.plain()["series"]["running"]) <= 48


def test_an_impossible_rate_shows_the_backlog_and_no_mean_wait() -> None:
    run = simulate(DEPLOYMENT, loaded(4000, rate=80), slo=SLO)
    plain = run.plain()
    assert plain["stable"] is False
    assert plain["slo"]["met"] is False
    assert plain["mean_ttft_ms"] is plain["p99_ttft_ms"] is plain["mean_e2el_ms"] is None
    assert plain["mean_tpot_ms"] > 0
    assert np.diff(plain["backlog"]["waiting"]).min() > 100
    assert plain["request_throughput"] < 40, "of what it was sent it served less"


def test_a_burst_that_is_all_there_is_has_its_means() -> None:
    plain = simulate(DEPLOYMENT, sent(np.zeros(300), np.full(300, 1000), np.full(300, 100)), slo=SLO).plain()
    assert plain["stable"] is True
    assert plain["completed"] == 300
    assert plain["mean_ttft_ms"] > 1000


def test_one_request_has_the_time_of_its_steps() -> None:
    """Without a queue, TTFT is 30 ms of client and server plus one prefill step, and TPOT is the mean of 99 steps."""
    run = simulate(DEPLOYMENT, sent([0.0], [1000], [100]))
    cost = run.cluster.pools[0].cost
    prefill = cost.by_tokens[1000] + cost.prefill_context_s * 1000 * 1001 / 2
    assert run.cluster.request_s == 0.03
    assert run.metrics.mean_ttft_ms == pytest.approx(1e3 * (0.03 + prefill))
    assert run.metrics.mean_e2el_ms == pytest.approx(run.metrics.mean_ttft_ms + 99 * run.metrics.mean_tpot_ms)
    middle = cost.by_tokens[1] + cost.decode_sequence_s + cost.decode_context_s * (1000 + 50.5)
    assert run.metrics.mean_tpot_ms == pytest.approx(1e3 * middle, rel=1e-3)


def test_gaps_and_roles_are_of_the_steady_part_as_all_else() -> None:
    """Many requests at the start cause long gaps between tokens. The gaps end before the steady part begins."""
    crowd = from_workload(CHAT.model_copy(update={"rate": 2}), 1000, seed=1)
    early = crowd.arrival_s < 0.15 * crowd.arrival_s[-1]
    outputs = np.where(early, 400, crowd.output_tokens)
    trace = Trace.of(crowd.arrival_s / np.where(early, 8, 1), crowd.input_tokens, outputs)
    steady, whole = (simulate(DEPLOYMENT, Traffic(trace, endless=endless)) for endless in (True, False))
    assert whole.metrics.p99_itl_ms > 1.1 * steady.metrics.p99_itl_ms
    counts, seconds = steady.window.counts, steady.span.seconds
    sent = (steady.outcome.arrival_s > steady.span.start_s) & (steady.outcome.arrival_s <= steady.span.end_s)
    assert counts.sent == sent.sum() == 700
    (pool,), (role,) = counts.pools, steady.plain()["roles"]
    assert pool.output_tokens / seconds == pytest.approx(steady.metrics.output_throughput, rel=0.05)
    assert role["steps"] == pool.steps < steady.outcome.steps
    assert role["busy_share"] == pytest.approx(pool.busy_s / 2 / seconds)
    assert counts.itl_counts.sum() == pytest.approx(pool.output_tokens - 700, rel=0.01)  # first tokens have none
    assert whole.window.counts.pools == whole.outcome.pools


CLASSES = (
    RequestClass("chat", 0, Slo.parse("ttft=1s,tpot=50ms")),
    RequestClass("batch", 1, Slo.parse("ttft=60s")),
)


def classed(rate: float, classes: tuple[RequestClass, ...] = CLASSES) -> Simulation:
    shares = [{"name": "chat", "share": 0.6}, {"name": "batch", "share": 0.4}]
    mixed = Workload.model_validate({**CHAT.model_dump(), "rate": rate, "classes": shares})
    return simulate(DEPLOYMENT, Traffic(from_workload(mixed, 1500), endless=True, classes=classes), slo=SLO)


def test_each_class_has_its_own_metrics_slo_and_place_in_the_queue() -> None:
    run = classed(55.0)
    plain = run.plain()
    chat, batch = plain["classes"]
    named = {f"{s}_{m}_ms" for s in ("mean", "median", "std", "p99") for m in ("ttft", "tpot", "itl", "e2el")}
    assert named | {"request_goodput", "effective_throughput", "completed"} < set(chat)
    assert [(one["class"], one["priority"]) for one in (chat, batch)] == [("chat", 0), ("batch", 1)]
    assert chat["slo"]["text"] == "ttft=1s,tpot=50ms"
    for name in ("completed", "request_goodput", "output_throughput", "effective_throughput", "total_output_tokens"):
        assert chat[name] + batch[name] == pytest.approx(plain[name])
    ttft = run.outcome.first_token_s - run.outcome.arrival_s
    waited = [np.median(ttft[run.of_class(k)]) for k in (0, 1)]
    assert 5 * waited[0] < waited[1], "those who are served first do not wait for the others"
    alike = classed(55.0, (replace(CLASSES[0], priority=1), CLASSES[1]))
    equal = [np.median((alike.outcome.first_token_s - alike.outcome.arrival_s)[alike.of_class(k)]) for k in (0, 1)]
    assert equal[0] == pytest.approx(equal[1], rel=0.5)
    json.dumps(plain)


def test_gaps_of_classes_add_up_and_are_their_own() -> None:
    run = classed(10.0)
    counts = run.window.counts.itl_counts
    assert counts[:2].sum() == counts.sum() > 0
    assert (counts[:2].sum(axis=1) > 1000).all()
    assert run.by_class[0].mean_itl_ms != run.by_class[1].mean_itl_ms
    assert run.by_class[0].mean_itl_ms == pytest.approx(run.by_class[0].mean_tpot_ms, rel=0.05)


def test_all_classes_keep_their_promise_or_it_is_missed() -> None:
    assert classed(10.0).meets_slo
    strict = classed(10.0, (CLASSES[0], RequestClass("batch", 1, Slo.parse("tpot=1ms"))))
    assert not strict.meets_slo
    assert {name: seen.met for name, seen in strict.bounds.items()} == {
        "chat.ttft": True, "chat.tpot": True, "batch.tpot": False
    }  # fmt: skip
    general = classed(10.0, (RequestClass("chat"), RequestClass("batch")))
    assert set(general.bounds) == {"chat.ttft", "chat.tpot", "batch.ttft", "batch.tpot"}
    seen = Try.of(10.0, strict)
    assert seen.missed == ("batch.tpot",)
    assert seen.tpot_ms == pytest.approx(1e3 * strict.bounds["batch.tpot"].seen_s)


def test_classes_are_those_of_the_trace() -> None:
    with pytest.raises(SpecError, match="classes chat, batch; the trace has no classes"):
        Traffic(Trace.of([0.0], [1], [1]), classes=CLASSES)


def test_prefixes_are_found_where_the_router_sends_them() -> None:
    agent = Workload(name="agent", isl=6400, osl=50, hit_share=0.9, reused_context=6000, think_time=5, rate=2)
    trace = reblock(from_workload(agent, 600), 64)
    aware = simulate(DEPLOYMENT, Traffic(trace, endless=True)).plain()
    blind = simulate(DEPLOYMENT, Traffic(trace, endless=True), router="round_robin").plain()
    assert aware["inputs"]["router"] == "prefix_aware"
    assert aware["inputs"]["block_tokens"] == 64
    (tier,) = aware["tiers"]
    assert tier["hit_share"] == pytest.approx(0.9, abs=0.04)
    assert tier["hit_tokens"] == aware["roles"][0]["hit_tokens"]
    token_bytes = 2 * 80 * 8 * 128 * 2  # K and V, layers, KV heads, width, bf16
    assert tier["read_bytes"] == pytest.approx(tier["hit_tokens"] * token_bytes, rel=1e-8)
    assert blind["tiers"][0]["hit_share"] < tier["hit_share"]


def test_prefill_and_decode_apart() -> None:
    apart = Deployment(
        model="deepseek-ai/DeepSeek-R1", system="scalex40",
        roles=(
            Role(name="decode", parallel=Parallel(dp=24, ep=24, tp=1), redundant_experts=8, max_sequences=24 * 32,
                 chunk_tokens=24 * 32),
            Role(name="prefill", parallel=Parallel(tp=8, ep=8), replicas=2, max_sequences=64),
        ),
    )  # fmt: skip
    run = simulate(apart, loaded(rate=4), slo=SLO)
    prefill, decode = run.plain()["roles"]
    assert (prefill["role"], prefill["mean_batch"], prefill["prefill_tokens"] > 0) == ("prefill", 0, True)
    assert (decode["role"], decode["prefill_tokens"]) == ("decode", 0)
    assert run.outcome.count(Status.COMPLETED) == 800


def test_more_rate_more_devices_fewer_tokens_a_device() -> None:
    small = simulate(DEPLOYMENT.model_copy(update={"roles": (DEPLOYMENT.roles[0].model_copy(update={"replicas": 1}),)}),
                     loaded(rate=4), slo=SLO)  # fmt: skip
    large = simulate(DEPLOYMENT, loaded(rate=4), slo=SLO)
    assert small.metrics.mean_tpot_ms > large.metrics.mean_tpot_ms
    assert small.plain()["output_tok_s_per_device"] > large.plain()["output_tok_s_per_device"]


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────


def test_requests_beyond_the_model_are_refused_and_counted() -> None:
    run = simulate(DEPLOYMENT, sent([0, 1, 2], [200_000, 100, 100], [10, 10, 10], parent=[-1, 0, -1]))
    plain = run.plain()
    assert (plain["rejected"], plain["unsent"], plain["completed"]) == (1, 1, 1)
    assert plain["notes"] == [f"1 of 3 requests refused: beyond the 131,072 tokens that {LLAMA} reads"]


def test_no_request_within_the_model() -> None:
    with pytest.raises(SpecError, match="all 2 requests are beyond the 131,072 tokens"):
        simulate(DEPLOYMENT, sent([0, 1], [200_000, 140_000], [10, 10]))


def test_no_request_within_the_cache() -> None:
    one = Deployment(model="Qwen/Qwen3-8B", system="pcie-a10", roles=(Role(name="aggregated", parallel=Parallel()),))
    with pytest.raises(DoesNotFit, match=r"no request fits the .* tokens of KV cache of a rank"):
        simulate(one, sent([0.0], [40_000], [10]))


def test_an_interrupted_run_has_its_result_so_far() -> None:
    def watch(now: float, last: float) -> None:
        if now > last / 2:
            raise KeyboardInterrupt

    run = simulate(DEPLOYMENT, loaded(rate=8), slo=SLO, watch=watch)
    plain = run.plain()
    assert plain["partial"] is True
    assert 0 < plain["completed_in_all"] < 800
    assert plain["unsent"] > 0
    json.dumps(plain)
    with pytest.raises(KeyboardInterrupt):  # a search over simulations must not go on with it
        Try.of(8.0, run)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"arrival_s": [], "input_tokens": [], "output_tokens": []}, "no request"),
        ({"input_tokens": [5, 0]}, "lengths must be"),
        ({"output_tokens": [-3, 5]}, "lengths must be"),
        ({"arrival_s": [0.0, np.nan]}, "finite"),
        ({"think_s": [0.0, -1.0]}, "not negative"),
    ],
)
def test_a_broken_trace_never_reaches_it(wrong: dict[str, Any], words: str) -> None:
    columns: dict[str, Any] = {"arrival_s": [0.0, 1.0], "input_tokens": [1, 1], "output_tokens": [1, 1]}
    with pytest.raises(SpecError, match=words):
        sent(**{**columns, **wrong})


# ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_waits_for_another_has_a_think_time() -> None:
    trace = Trace.of([0.0, 3.0, 4.0], [10, 10, 10], [1, 1, 1], parent=[-1, -1, 0], think_s=[0, 0, 2.5])
    assert requests_of(trace).arrival_s.tolist() == [0.0, 3.0, 2.5]
    assert requests_of(trace).after.tolist() == [-1, -1, 0]


@pytest.mark.parametrize(
    ("waiting", "sent_so_far", "stable"),
    [
        ((10, 20, 30, 40), (100, 200, 300, 400), True),  # 20 of 200: below 3 sqrt(200)
        ((100, 200, 300, 400), (1000, 2000, 3000, 4000), False),
        ((100, 200, 100, 400), (1000, 2000, 3000, 4000), True),  # it went down in between
        ((0, 0, 0, 0), (1000, 2000, 3000, 4000), True),
    ],
)
def test_a_queue_that_takes_a_share_of_what_comes_is_unstable(
    waiting: tuple[int, ...], sent_so_far: tuple[int, ...], *, stable: bool
) -> None:
    assert Backlog((1.0, 2.0, 3.0, 4.0), waiting, sent_so_far).stable is stable


def shared_prefixes() -> Traffic:
    """Twenty requests with one prefix of 640 tokens. Each request arrives after the end of the request before."""
    count = 20
    return sent(
        10.0 * np.arange(count), [700] * count, [5] * count, run_start=np.zeros(count, int),
        run_length=np.full(count, 10), run_offsets=np.arange(count + 1), hash_block_tokens=64,
    )  # fmt: skip


def test_a_deployment_says_its_router_and_whether_it_caches_prefixes() -> None:
    traffic = shared_prefixes()
    default = simulate(DEPLOYMENT, traffic)
    assert default.cluster.router.name == "prefix_aware"
    assert default.outcome.cached_tokens.tolist() == [0, *[640] * 19]
    off = simulate(DEPLOYMENT.model_copy(update={"prefix_caching": False}), traffic)
    assert off.cluster.router.name == "least_loaded"
    assert not off.outcome.cached_tokens.any()
    turns = DEPLOYMENT.model_copy(update={"router": "round_robin"})
    assert simulate(turns, traffic).cluster.router.name == "round_robin"
    assert simulate(turns, traffic, router="power_of_two").cluster.router.name == "power_of_two"


def test_step_times_are_made_linear_around_what_is_computed() -> None:
    """19 of 20 prompts compute 60 of 700 tokens, mean context 670; the first computes all, mean context 350."""
    request = simulate(DEPLOYMENT, shared_prefixes()).site.request
    assert request.uncached == pytest.approx((700 + 19 * 60) / 20)
    assert request.seen == pytest.approx((700 * 350 + 19 * 60 * 670) / (700 + 19 * 60))
    assert request.context == pytest.approx(702.5)
    alone = simulate(DEPLOYMENT.model_copy(update={"prefix_caching": False}), shared_prefixes()).site.request
    assert (alone.uncached, alone.seen) == (700, 350)


def test_roles_stand_in_the_order_in_which_a_request_meets_them() -> None:
    roles = tuple(Role(name=name, parallel=Parallel(tp=4)) for name in ("decode", "prefill"))
    apart = DEPLOYMENT.model_copy(update={"roles": roles})
    apart = Deployment.model_validate(apart.model_dump())
    assert [role.name for role in apart.roles] == ["prefill", "decode"]
    plain = simulate(apart, loaded(200, rate=2)).plain()
    assert [role["role"] for role in plain["roles"]] == ["prefill", "decode"]
    assert str(apart) == "1xprefill[tp4] + 1xdecode[tp4]"
    prefill, decode = plain["roles"]
    assert 0 < prefill["link_busy_share"] == decode["link_busy_share"] < 1  # each transfer takes a link of both


def test_followers_of_a_refused_request_are_unsent_and_the_run_ends() -> None:
    """One sequence slot, one request may wait: most of ten sessions that start together are refused completely."""
    roles = (Role(name="aggregated", parallel=Parallel(tp=8), max_sequences=1),)
    narrow = Deployment(model=LLAMA, system="hgx-h100", roles=roles)
    count = 10
    parent = np.r_[np.full(count, -1), np.arange(count)]
    traffic = sent([0.0] * (2 * count), [100] * (2 * count), [20] * (2 * count), parent=parent)
    plain = simulate(narrow, traffic, max_queue=1).plain()
    assert plain["rejected"] > 0
    assert plain["unsent"] > 0
    assert plain["queued"] + plain["running"] == 0
    assert plain["completed_in_all"] + plain["rejected"] + plain["unsent"] == 2 * count
