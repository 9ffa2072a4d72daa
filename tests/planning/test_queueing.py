"""Queues against their closed forms, Little's law, and the fixed points of the prefix cache."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.costs.requests import accepted_tokens
from tokenworks.costs.transfer import exposed_transfer
from tokenworks.errors import SpecError
from tokenworks.planning.queueing import (
    BUSIEST,
    Demand,
    Instance,
    Prefill,
    aggregated,
    busiest_context,
    crowd,
    mean_batch,
    prefill_limit,
    prefilling,
    waiting,
)
from tokenworks.specs.slo import Slo
from tokenworks.specs.workload import Workload

SLO = Slo.parse("ttft=2s,tpot=50ms")


def demand(**changes: float) -> Demand:
    return Demand.of(Workload.model_validate({"name": "x", "isl": 1000, "osl": 100} | changes), SLO)


def instance(**changes: float) -> Instance:
    given_: dict[str, float] = {
        "batch": 32, "ranks": 1, "lone": 1, "gained": 1, "decode_s": 0.02, "crowded_s": 0.0, "token_s": 1e-5,
        "budget": 8192, "kv_tokens": 1e6, "uneven": 1.0, "mixed": True,
    }  # fmt: skip
    return Instance(**(given_ | changes))  # type: ignore[arg-type]


rho = st.floats(0.01, 0.99)


@given(rho)
def test_one_server_is_pollaczek_and_khinchine(busy: float) -> None:
    """M/D/1 waits rho S / (2 (1 - rho)), M/M/1 twice that."""
    constant, _ = waiting(busy, 2.0, 0.0, 0.99)
    exponential, _ = waiting(busy, 2.0, 1.0, 0.99)
    assert constant == pytest.approx(busy * 2.0 / (2 * (1 - busy)))
    assert exponential == pytest.approx(2 * constant)


@given(st.integers(1, 80), st.floats(0.3, 0.99))
def test_several_servers_wait_as_erlang_says(servers: int, busy: float) -> None:
    """M/M/c by the recursion of Erlang C: within 15 %, or within 5 % of the service time."""
    blocked, load = 1.0, servers * busy
    for k in range(1, servers + 1):
        blocked = load * blocked / (k + load * blocked)
    exact = blocked / (1 - busy + busy * blocked) / (servers * (1 - busy))
    mean, _ = waiting(busy, 1.0, 1.0, 0.99, servers)
    assert mean == pytest.approx(exact, rel=0.15, abs=0.05)


@given(rho, st.floats(0.5, 0.999))
def test_the_quantile_of_m_m_1_is_exact(busy: float, share: float) -> None:
    """P(W > t) = rho exp(-(1 - rho) t / S)."""
    _, found = waiting(busy, 1.0, 1.0, share)
    assert found == pytest.approx(max(0.0, math.log(busy / (1 - share)) / (1 - busy)), abs=1e-12)


@given(st.integers(1, 512), st.floats(1e-6, 1e-4), st.floats(1e-3, 0.1), st.integers(1, 3))
def test_littles_law_holds_for_those_that_decode(batch: int, token_s: float, decode_s: float, gained: int) -> None:
    asked = demand()
    found = aggregated(asked, instance(batch=batch, token_s=token_s, decode_s=decode_s, gained=gained))
    assert found.rate * asked.request.osl * found.tpot == pytest.approx(batch)
    assert found.tpot >= decode_s / gained
    assert found.tpot_tail >= found.tpot * (1 - 1e-12)


def test_tpot_is_that_of_the_design() -> None:
    """TPOT = t_decode + batch / osl x t_prefill(isl): 20 ms + 32/100 x 10 ms = 23.2 ms (by hand)."""
    assert aggregated(demand(), instance()).tpot == pytest.approx(0.0232)


def test_what_a_request_takes_to_arrive_is_part_of_ttft_once_for_each_role() -> None:
    """As `simulate` has it; it delays nobody else."""
    role = Prefill(instances=1, lanes=1, token_s=2e-5, pass_s=0.1, lone_s=0.1, kv_tokens=1e6)
    asked = demand()
    later = replace(asked, request_s=0.03)
    one, other = aggregated(asked, instance()), aggregated(later, instance())
    assert (other.ttft - one.ttft, other.ttft_tail - one.ttft_tail) == pytest.approx((0.03, 0.03))
    assert other.tpot == one.tpot
    one, other = prefilling(asked, role, 1.0, 0.02), prefilling(later, role, 1.0, 0.02)
    assert (other.ttft - one.ttft, other.ttft_tail - one.ttft_tail) == pytest.approx((0.06, 0.06))


def test_a_mixed_step_cannot_take_more_than_its_budget() -> None:
    """32 sequences of 100 tokens bring 320 tokens a step: a budget of 320 is just too small."""
    assert aggregated(demand(), instance(budget=320.0)).busy == pytest.approx(1)
    assert aggregated(demand(), instance(budget=400.0)).busy < 1
    assert aggregated(demand(), instance(budget=300.0)).busy > 1


def test_prefill_by_itself_is_busy_its_share_of_time() -> None:
    found = aggregated(demand(), instance(mixed=False))
    assert found.busy == pytest.approx(32 / 100 * 0.01 / 0.0232)


WARM = {"isl": 20000, "osl": 500, "hit_share": 0.9, "reused_context": 18000, "think_time": 30}


def test_a_large_cache_serves_all_that_it_should() -> None:
    found = aggregated(demand(**WARM), instance(kv_tokens=1e9))
    assert found.hit_share == pytest.approx(0.9)


@given(st.floats(1e5, 3e7), st.integers(1, 64), st.booleans())
def test_a_small_cache_serves_in_proportion(kv_tokens: float, batch: int, mixed: bool) -> None:
    """The fixed point: what is left of the cache over what the thinking sessions would need, times the hit share."""
    asked = demand(**WARM)
    at = instance(kv_tokens=kv_tokens, batch=batch, mixed=mixed)
    found = aggregated(asked, at)
    room = max(kv_tokens - batch * asked.request.context, 0.0)
    needed = found.rate * asked.think * asked.warm
    assert found.hit_share == pytest.approx(0.9 * min(1.0, room / needed), rel=1e-9)


def test_a_smaller_cache_is_never_faster() -> None:
    sizes = np.linspace(1e5, 3e7, 50)
    found = aggregated(demand(**WARM), instance(kv_tokens=sizes))  # type: ignore[arg-type]
    assert (np.diff(found.tpot) <= 1e-15).all()
    assert (np.diff(found.hit_share) >= 0).all()


@given(st.floats(1e5, 1e8), st.floats(1e-3, 0.2), st.integers(1, 8))
def test_the_limit_of_prefill_is_where_it_is_busiest(kv_tokens: float, tpot: float, instances: int) -> None:
    asked = demand(**WARM)
    role = Prefill(instances=instances, lanes=1, token_s=2e-5, pass_s=0.1, lone_s=0.1, kv_tokens=kv_tokens)
    most = prefill_limit(asked, role, np.array(tpot))
    found = prefilling(asked, role, most, np.array(tpot))
    assert found.busy == pytest.approx(BUSIEST)
    double = Prefill(instances=2 * instances, lanes=1, token_s=2e-5, pass_s=0.1, lone_s=0.1, kv_tokens=kv_tokens)
    assert prefill_limit(asked, double, np.array(tpot)) == pytest.approx(2 * most)


def test_accepted_tokens_are_a_geometric_sum() -> None:
    assert accepted_tokens(np.array([0, 1, 3]), 0.8, 0.8) == pytest.approx(np.array([1, 1.8, 2.952]))
    assert accepted_tokens(np.array([0, 1, 3]), 0.8, 0.5) == pytest.approx(np.array([1, 1.8, 2.4]))
    assert accepted_tokens(2, 1.0, 1.0) == 3


def test_a_tail_is_lognormal_and_none_without_variation() -> None:
    assert demand().tail == pytest.approx(1)
    # cv = 1: sigma^2 = ln 2; at p99 exp(2.3263 x 0.8326 - 0.3466) = 4.906 (by hand)
    assert demand(isl_cv=1.0).tail == pytest.approx(4.906, rel=1e-3)


def test_a_running_sequence_is_a_long_one() -> None:
    """osl = 100, cv = 1: the mean output in the context of a running sequence is 100 (1 + 1) / 2."""
    assert demand(osl_cv=1.0).request.context == pytest.approx(1100)
    assert demand().request.context == pytest.approx(1050)


@pytest.mark.parametrize(("transfer", "prefill", "late"), [(1.0, 10.0, 0.1), (1.0, 0.0, 1.0), (2.0, 1.0, 1.1)])
def test_a_transfer_hides_behind_prefill_but_for_its_last_layer(transfer: float, prefill: float, late: float) -> None:
    assert exposed_transfer(transfer, prefill, 10) == pytest.approx(late)


@given(st.floats(1, 5000), st.floats(0, 3))
def test_a_crowd_and_its_mean_are_inverse(batch: float, above: float) -> None:
    many = crowd(batch, above)
    assert many >= batch
    assert mean_batch(many, above) == pytest.approx(batch, rel=1e-6)
    assert crowd(1.0, above) == 1


def test_a_crowd_is_a_quantile_of_poisson() -> None:
    """Those beside one request are Poisson; the normal quantile is within two of it."""
    drawn = 1 + np.random.default_rng(2).poisson(99, 400_000)
    assert crowd(100.0, 2.326) == pytest.approx(np.percentile(drawn, 99), abs=2)


@pytest.mark.parametrize(("ranks", "sequences", "cv"), [(2, 20, 0.8), (8, 20, 0.85), (40, 10, 0.5), (1, 5, 0.9)])
def test_the_busiest_rank_has_the_longest_contexts(ranks: int, sequences: int, cv: float) -> None:
    """Against drawn contexts: gamma of the same variation, as many on each rank."""
    shape = 1 / cv**2
    sums = np.random.default_rng(3).gamma(shape, 1 / shape, (20_000, ranks, sequences)).mean(axis=2)
    found = busiest_context(np.array(float(sequences)), np.array(ranks), cv)
    assert found == pytest.approx(sums.max(axis=1).mean(), rel=0.05)


def test_contexts_vary_as_lengths_do() -> None:
    """Equal lengths: what a sequence has grown by is uniform, 100 / sqrt(12) about 1050."""
    assert demand().request.context_cv == pytest.approx(100 / math.sqrt(12) / 1050)
    assert demand(isl_cv=1.0).request.context_cv == pytest.approx(math.hypot(1000, 100 / math.sqrt(12)) / 1050)


def test_a_crowd_is_in_the_tail_and_not_in_the_mean() -> None:
    calm, full = (aggregated(demand(), instance(crowded_s=more)) for more in (0.0, 0.005))
    assert full.tpot == calm.tpot
    assert full.tpot_tail == pytest.approx(calm.tpot_tail + 0.005)


def test_prompts_on_one_rank_at_a_time_lengthen_steps() -> None:
    even, uneven = (aggregated(demand(), instance(uneven=factor)) for factor in (1.0, 3.0))
    assert uneven.tpot > even.tpot
    assert uneven.rate < even.rate


def test_long_inputs_are_seen_by_more_of_their_tokens() -> None:
    """A trace of drawn inputs, a share of each cached: the mean over prefill tokens of what each attends to."""
    rng = np.random.default_rng(5)
    spread = np.sqrt(np.log1p(1.31**2))
    inputs = 12035 * np.exp(spread * rng.normal(size=400_000) - spread**2 / 2)
    computed = inputs * (1 - 0.3736)
    seen = (computed * (inputs - computed / 2)).sum() / computed.sum()
    workload = Workload(name="x", isl=12035, osl=340, isl_cv=1.31, hit_share=0.3736, reused_context=4497)
    assert Demand.of(workload, Slo()).request.seen == pytest.approx(seen, rel=0.03)


def test_what_is_computed_varies_no_more_than_inputs_allow() -> None:
    with pytest.raises(SpecError, match=r"uncached_cv 9: with this isl_cv it is at most 5"):
        Workload(name="x", isl=1000, osl=10, isl_cv=0.5, hit_share=0.96, reused_context=900, uncached_cv=9)
