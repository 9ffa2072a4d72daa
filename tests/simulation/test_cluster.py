"""The engine's form of a deployment: step times and memory equal `costs`, links equal numbers by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.costs import step
from tokenworks.costs.rates import rates
from tokenworks.costs.requests import MeanRequest, mean_of_requests
from tokenworks.costs.split import Split
from tokenworks.engine import simulator
from tokenworks.engine.types import Cluster, Requests, Router
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.simulation.cluster import cluster, room
from tokenworks.simulation.steps import Site, step_cost
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.deployment import Deployment, Parallel, Role, RoleName, RouterName
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model

R1 = "deepseek-ai/DeepSeek-R1"
LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
AROUND = mean_of_requests([4000], [1000])
NEAR = 0.02


def role(name: RoleName = "aggregated", *, sequences: int = 256, chunk: int = 8192, **more: Any) -> Role:
    widths = {key: more.pop(key) for key in ("tp", "pp", "dp", "ep", "expert_tp") if key in more}
    return Role(name=name, parallel=Parallel(**widths), max_sequences=sequences, chunk_tokens=chunk, **more)


def site(model: str, on: str, around: MeanRequest = AROUND, engine_name: str = "vllm") -> Site:
    on_machine = machine(on)
    return Site(load_model(model), on_machine, load_engine(engine_name), rates(on_machine, load_calibration()), around)


def deployed(model: str, on: str, *roles: Role, around: MeanRequest = AROUND, concurrency: int = 0) -> Cluster:
    return cluster(
        Deployment(model=model, system=on, roles=roles), site(model, on, around),
        router=Router("least_loaded"), block_tokens=16, prefix_caching=False, concurrency=concurrency,
    )  # fmt: skip


WIDE = role(sequences=40 * 64, chunk=40 * 8192, dp=40, ep=40, redundant_experts=24)
CASES = {
    "dense": (role(tp=4), LLAMA, "hgx-h100"),
    "pipeline": (role(tp=2, pp=4), LLAMA, "hgx-h100"),
    "wide experts": (WIDE, R1, "scalex40"),
    "drafts, two batches": (WIDE.model_copy(update={"draft_tokens": 1, "overlap": "two-batch"}), R1, "scalex40"),
    "sliding windows": (role(), "openai/gpt-oss-20b", "hgx-h100"),
    "small, bound by the host": (role(), "Qwen/Qwen3-0.6B", "hgx-h100"),
    "linear attention": (role(tp=8, ep=8), "Qwen/Qwen3.5-122B-A10B", "hgx-h100"),
}


class Both:
    """Step times of a role from `costs.step`, and from the engine's form for an evenly distributed load."""

    def __init__(self, case: str) -> None:
        self.role, model, on = CASES[case]
        self.site = site(model, on)
        self.pool = cluster(
            Deployment(model=model, system=on, roles=(self.role,)), self.site,
            router=Router(), block_tokens=16, prefix_caching=False,
        ).pools[0]  # fmt: skip
        self.full = self.pool.ranks * self.pool.limits.max_sequences
        self.most = self.pool.ranks * self.pool.limits.token_budget

    def model(self, decode: Any, prefill: Any) -> Any:
        around = self.site.request
        load = step.Batch(decode, decode * around.context, prefill, prefill * around.seen)
        return step.step(
            self.site.model,
            self.site.rates,
            Split.of(self.role),
            load,
            engine=self.site.engine,
            overlap=self.role.overlap,
        ).seconds

    def engine(self, decode: Any, prefill: Any) -> Any:
        cost, around = self.pool.cost, self.site.request
        hot = np.maximum(decode, self.pool.ranks) * (decode > 0)
        tokens = (decode * (1 + self.role.draft_tokens) + prefill).astype(int)
        slopes = hot * (cost.decode_sequence_s + cost.decode_context_s * around.context)
        return cost.by_tokens[tokens] + slopes + (cost.prefill_context_s * around.seen + cost.prefill_token_s) * prefill

    def error(self, decode: Any, prefill: Any) -> Any:
        return np.abs(self.engine(decode, prefill) / self.model(decode, prefill) - 1)


@pytest.mark.parametrize("case", CASES)
def test_step_times_are_those_of_the_cost_model(case: str) -> None:
    both, rng = Both(case), np.random.default_rng(0)
    decode = rng.integers(1, both.full + 1, 300).astype(float)
    width = 1 + both.role.draft_tokens
    prefill = rng.integers(1, both.most - both.full * width + 1, 300).astype(float)
    assert both.error(decode, 0.0 * decode).max() < NEAR
    assert both.error(both.full + 0.0 * prefill, prefill).max() < NEAR
    assert both.error(decode, prefill).max() < 0.08  # linear between no decode and all, which the model is not quite
    chunks = rng.integers(both.most // 8, both.most + 1, 300).astype(float)
    assert both.error(0.0 * chunks, chunks).max() < 0.1


def test_it_is_exact_at_nodes() -> None:
    both = Both("dense")
    decode = np.array([1.0, 7.0, 100.0, both.full])
    assert both.error(decode, 0.0 * decode).max() < 1e-9


@settings(max_examples=12, deadline=None)
@given(case=st.sampled_from(["dense", "wide experts", "pipeline"]), share=st.floats(0.05, 1.0))
def test_a_fixed_batch_runs_at_the_time_of_its_step(case: str, share: float) -> None:
    """Steady state: a batch that only decodes takes `costs.step` of its mean context for each token, within 2 %."""
    one, model, on = CASES[case]
    ranks = one.parallel.dp
    batch = max(1, int(share * one.max_sequences / ranks)) * ranks
    isl, osl = 512, 256
    around = mean_of_requests([isl], [osl])
    built = deployed(model, on, one, around=around)
    outcome = simulator.run(built, Requests.of(np.zeros(batch), np.full(batch, isl), np.full(batch, osl)))
    last = outcome.first_token_s.max()  # from here on all decode
    gained = (outcome.end_s.min() - last) / (osl - 1)
    here = site(model, on, around)
    want = step.step(
        here.model, here.rates, Split.of(one), step.Batch(batch, batch * around.context), engine=here.engine
    ).seconds
    if outcome.first_token_s.min() == last:
        assert gained == pytest.approx(float(want), rel=NEAR)
    else:
        per_token = (outcome.end_s - outcome.first_token_s)[np.argmax(outcome.first_token_s)] / (osl - 1)
        assert per_token == pytest.approx(float(want), rel=NEAR)


def test_one_busy_rank_is_slow() -> None:
    """One prompt on one of 40 ranks computes its projections alone; 40 prompts compute them in parallel."""
    built, here = deployed(R1, "scalex40", WIDE), site(R1, "scalex40")
    tokens = 4000
    alone = simulator.run(built, Requests.of([0.0], [tokens], [1])).end_s[0]

    def evenly(count: int) -> float:
        load = step.Batch(prefill=count, prefill_context=count * tokens / 2)
        return float(step.step(here.model, here.rates, Split.of(WIDE), load, engine=here.engine).seconds)

    assert 4 * evenly(tokens) < alone < evenly(40 * tokens)


def test_chunks_expand_the_latents_before_them() -> None:
    """A prompt of 32,768 tokens in chunks of 2,048 expands 7.5 prefixes of its own length; in one chunk, none."""
    tokens, around = 32768, mean_of_requests([32768], [1])

    def first_token_s(chunk: int, *, expanding: bool) -> float:
        one = role(tp=8, ep=8, sequences=8, chunk=chunk)
        here = site(R1, "scalex40", around)
        if not expanding:  # a model whose prefill is absorbed multiplies more for each entry, and expands none
            blocks = tuple(
                replace(block, scans=tuple(replace(scan, decode_flop=scan.prefill_flop) for scan in block.scans))
                for block in here.model.blocks
            )
            here = replace(here, model=replace(here.model, blocks=blocks))
        built = cluster(
            Deployment(model=R1, system="scalex40", roles=(one,)), here,
            router=Router(), block_tokens=16, prefix_caching=False,
        )  # fmt: skip
        return float(simulator.run(built, Requests.of([0.0], [tokens], [1])).end_s[0])

    more = first_token_s(2048, expanding=True) - first_token_s(2048, expanding=False)
    prefixes = sum(range(0, tokens, 2048))
    rate = site(R1, "scalex40").rates.gemm["bf16"]
    least = prefixes * 61 * 2 * 512 * 128 * 256 / 8 / max(rate, site(R1, "scalex40").rates.gemm.get("fp8", 0.0))
    assert 0.999 * least < more < 2 * least
    assert first_token_s(32768, expanding=True) == pytest.approx(first_token_s(32768, expanding=False), rel=1e-5)


def test_memory_and_limits_are_those_of_a_rank() -> None:
    here = site(R1, "scalex40")
    pool = deployed(R1, "scalex40", WIDE).pools[0]
    tokens = float(np.min(room(WIDE, here).kv_tokens))
    assert pool.limits.kv_blocks == int(tokens / 40 // 16)
    assert (pool.ranks, pool.limits.max_sequences, pool.limits.token_budget) == (40, 64, 8192)
    assert pool.limits.max_model_len == 163840
    assert deployed(LLAMA, "hgx-h100", role(tp=8)).pools[0].limits.policy == "vllm"


@pytest.mark.parametrize("tokens", [100, 1000, 2048])
def test_a_lone_prompt_takes_a_pipeline_as_long_as_a_full_round_of_such(tokens: int) -> None:
    """It lies in one microbatch of four; four of its size make a step that takes as long as one of them (`step`).

    And what a request takes to arrive comes first: 30 ms.
    """
    built, asked = deployed(LLAMA, "hgx-h100", CASES["pipeline"][0]), Requests.of([0.0], [tokens], [2])
    assert (built.pools[0].stages, built.request_s) == (4, 0.03)
    seen = simulator.run(built, asked).first_token_s[0] - 0.03
    load = step.Batch(0.0, 0.0, 4.0 * tokens, 4.0 * tokens * tokens / 2)
    here = site(LLAMA, "hgx-h100")
    alone = step.step(here.model, here.rates, Split.of(CASES["pipeline"][0]), load, engine=here.engine).seconds
    assert seen == pytest.approx(float(alone), rel=0.05)
    assert float(built.pools[0].cost.by_tokens[tokens]) < 0.94 * seen


def test_each_role_takes_a_request_its_time() -> None:
    built = deployed(R1, "scalex40", role("prefill", tp=8, ep=8), role("decode", dp=8, ep=8, chunk=8192))
    assert built.request_s == 0.06


def test_activations_and_running_sequences_take_cache() -> None:
    """A larger chunk needs larger temporaries, and its logits and buffers come off what KV may have."""
    small, large = (deployed(LLAMA, "hgx-h100", role(tp=4, chunk=chunk)).pools[0].limits for chunk in (2048, 32768))
    assert large.kv_blocks < 0.98 * small.kv_blocks


def test_sglang_prefills_first_and_drafts_gain_tokens() -> None:
    drafting = WIDE.model_copy(update={"draft_tokens": 2})
    here = site(R1, "scalex40", engine_name="sglang")
    pool = cluster(
        Deployment(model=R1, system="scalex40", engine="sglang", roles=(drafting,)), here,
        router=Router(), block_tokens=64, prefix_caching=True,
    ).pools[0]  # fmt: skip
    assert pool.limits.policy == "sglang"
    first, later = here.rates.acceptance, here.rates.later_acceptance
    assert pool.limits.tokens_per_step == pytest.approx(1 + first + first * later)  # Leviathan et al., eq. 1


PREFILL = role("prefill", sequences=64, tp=8, ep=8)
DECODE = role("decode", sequences=512, chunk=512, dp=8, ep=8)


def test_kv_travels_over_scale_up_inside_a_domain() -> None:
    """MLA keeps 576 values a layer: 61 x 576 x 2 = 70,272 bytes a token, over the 8 links of an instance."""
    built, here = deployed(R1, "scalex40", DECODE, PREFILL), site(R1, "scalex40")
    assert [pool.role for pool in built.pools] == ["prefill", "decode"]
    assert built.transfer.seconds_per_token == pytest.approx(70272 / (8 * here.rates.inner.bandwidth))
    assert built.transfer.overlap == pytest.approx(
        60 / 61, abs=1e-3
    )  # all layers but the last, as prefill takes longer


def test_kv_travels_over_scale_out_between_domains() -> None:
    here = site(R1, "2xhgx-h200")
    built = deployed(R1, "2xhgx-h200", DECODE, PREFILL)
    assert here.rates.outer
    assert built.transfer.seconds_per_token == pytest.approx(70272 / (8 * here.rates.outer.bandwidth))


def test_what_cannot_be_deployed() -> None:
    with pytest.raises(DoesNotFit, match=r"3x\[tp4\] takes 12 devices, hgx-h100 has 8"):
        deployed(LLAMA, "hgx-h100", role(tp=4, replicas=3))
    with pytest.raises(DoesNotFit, match=r"short by .* GB a device"):
        deployed(R1, "hgx-h100", role(tp=8, ep=8))
    with pytest.raises(SpecError, match="heads"):
        deployed(LLAMA, "scalex40", role(tp=5))
    with pytest.raises(SpecError, match="prefill stores fp8, decode stores bf16"):
        deployed(R1, "scalex40", DECODE, PREFILL.model_copy(update={"kv_dtype": "fp8"}))


def test_around_is_what_sequences_see() -> None:
    """Two requests by hand: 100 in, 10 out and 300 in, 30 out: seen 40 times at 105 and 315 tokens."""
    around = mean_of_requests([100, 300], [10, 30])
    assert around.isl == 200
    assert around.context == pytest.approx((10 * 105 + 30 * 315) / 40)
    assert around.seen == pytest.approx((100 * 50 + 300 * 150) / 400)


def test_a_decode_role_can_prefill_again_what_was_preempted() -> None:
    here, pool = site(R1, "scalex40"), deployed(R1, "scalex40", DECODE, PREFILL).pools[1]
    assert len(step_cost(DECODE, here, pool.limits).by_tokens) > pool.ranks * pool.limits.token_budget
    assert not pool.limits.prefix_caching


def scheduled(scheduling: Any, *roles: Role, engine_name: str = "vllm", router: RouterName = "prefix_aware") -> Cluster:
    deployment = Deployment(model=LLAMA, system="hgx-h100", roles=roles or (role(tp=4, replicas=2),),
                            scheduling=scheduling)  # fmt: skip
    return cluster(
        deployment, site(LLAMA, "hgx-h100", engine_name=engine_name), router=Router(router), block_tokens=16,
        prefix_caching=False,
    )  # fmt: skip


def test_scheduling_reaches_the_engine_and_no_decode_pool() -> None:
    both = scheduled({"name": "shortest_prefill", "ageing_s": 0.5, "long_prefill_tokens": 9},
                     role("prefill", tp=4), role("decode", tp=4))  # fmt: skip
    limits = [(pool.limits.ageing_s, pool.limits.long_prefill_tokens) for pool in both.pools]
    assert limits == [(0.5, 9), (0.0, 0)]
    pool = scheduled({"name": "cold_pool", "cold_tokens": 99})
    assert (pool.router.cold_ranks, pool.router.cold_tokens) == (1, 99)
    assert scheduled("fcfs").router == Router("prefix_aware")


@pytest.mark.parametrize(
    ("scheduling", "more", "words"),
    [
        ("interleaved", {"engine_name": "sglang"}, "scheduling: the scheduler of sglang prefills one unfinished"),
        ("cold_pool", {"router": "least_loaded"}, "scheduling: cold_pool needs the router prefix_aware, not least_lo"),
        (
            {"name": "cold_pool", "cold_ranks": 2}, {},
            "scheduling.cold_ranks: 2 cold ranks of 2 ranks of the aggregated role: none is left.*; write 1 or less",
        ),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_is_refused(scheduling: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        scheduled(scheduling, **more)
