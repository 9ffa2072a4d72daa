"""Experts: expectations against simulation, and where the traffic of a token goes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenworks.costs.moe import (
    crossing_share,
    direct_copies,
    distinct_ranks,
    forwarded_copies,
    hottest_load,
    hottest_touched,
    local_experts,
    normal_max,
    normal_tail,
    touched_experts,
)


def test_normal_order_statistics() -> None:
    """Against n x phi Phi^(n-1), integrated; Harter 1961, table 1: n = 8 1.42360, n = 100 2.50759."""
    x = np.linspace(-9, 9, 40001)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    below = np.cumsum(density) * (x[1] - x[0])
    for n in (1, 2, 8, 64, 1024, 16384):
        exact = np.sum(x * n * density * np.minimum(below, 1) ** (n - 1)) * (x[1] - x[0])
        assert normal_max(n) == pytest.approx(exact, abs=0.01)
    assert normal_max(8) == pytest.approx(1.4236)
    assert normal_max(100) == pytest.approx(2.50759, rel=0.005)  # between two nodes


def test_normal_tail() -> None:
    """P(z > 1.2816) = 0.1, P(z > 2.3263) = 0.01 (tables)."""
    assert normal_tail(0.1) == pytest.approx(1.2816, abs=5e-4)
    assert normal_tail(0.01) == pytest.approx(2.3263, abs=5e-4)


def routed(tokens: int, topk: int, weights: NDArray[np.float64], *, rounds: int, seed: int) -> NDArray[np.int64]:
    """How many tokens each expert gets, by round: topk draws without repetition (Gumbel top-k)."""
    random, experts = np.random.default_rng(seed), len(weights)
    keys = np.log(weights) + random.gumbel(size=(rounds, tokens, experts))
    chosen = np.argpartition(-keys, topk - 1, axis=-1)[..., :topk]
    counts = np.zeros((rounds, experts), dtype=np.int64)
    for index in range(rounds):
        counts[index] = np.bincount(chosen[index].ravel(), minlength=experts)
    return counts


@pytest.mark.parametrize(("tokens", "ep"), [(1, 8), (4, 8), (32, 8), (32, 32), (128, 64)])
def test_touched_experts_against_simulation(tokens: int, ep: int) -> None:
    experts, topk = 256, 8
    counts = routed(tokens, topk, np.ones(experts), rounds=200, seed=1)
    touched = (counts > 0).reshape(200, ep, -1).sum(axis=2)
    local = experts // ep
    mean = touched_experts(tokens, experts=experts, topk=topk, local=local, skew=0.0)
    assert mean == pytest.approx(touched.mean(), rel=0.05)
    hottest = hottest_touched(tokens, experts=experts, topk=topk, local=local, ep=ep, skew=0.0)
    assert hottest == pytest.approx(touched.max(axis=1).mean(), rel=0.12)


@pytest.mark.parametrize("tokens", [4, 32, 128])
def test_popular_experts_leave_others_untouched(tokens: int) -> None:
    """Popularity with log-deviation 1, drawn anew each round; within 5 % of the simulated count."""
    experts, topk, rounds = 256, 8, 60
    random = np.random.default_rng(3)
    seen = [
        (routed(tokens, topk, np.exp(random.normal(size=experts)), rounds=1, seed=index)[0] > 0).sum()
        for index in range(rounds)
    ]
    where = {"experts": experts, "topk": topk, "local": experts}
    touched = touched_experts(tokens, **where, skew=1.0)
    assert touched == pytest.approx(np.mean(seen), rel=0.05)
    assert touched < touched_experts(tokens, **where, skew=0.0)


@pytest.mark.parametrize("skew", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("tokens", "ep"), [(8, 8), (256, 8), (256, 32), (512, 256)])
def test_hottest_load_against_simulation(tokens: int, ep: int, skew: float) -> None:
    """Popularity drawn anew each round, placed at random; within 15 % of the simulated maximum."""
    experts, topk, rounds = 256, 8, 60
    random = np.random.default_rng(2)
    seen = []
    for index in range(rounds):
        weights = np.exp(skew * random.normal(size=experts))
        counts = routed(tokens, topk, weights, rounds=1, seed=index)[0]
        seen.append(counts.reshape(ep, -1).sum(axis=1).max() / (tokens * topk / ep))
    hottest = hottest_load(tokens * topk / ep, experts=experts, redundant=0, ep=ep, skew=skew)
    assert hottest == pytest.approx(np.mean(seen), rel=0.15 if skew < 1 else 0.25)


def balanced(weights: NDArray[np.float64], redundant: int, ep: int) -> float:
    """Copy the heaviest expert again and again, then place replicas greedily on the lightest rank with room (EPLB)."""
    copies = np.ones(len(weights), dtype=int)
    for _ in range(redundant):
        copies[np.argmax(weights / copies)] += 1
    replicas = np.sort(np.repeat(weights / copies, copies))[::-1]
    room = np.full(ep, len(replicas) // ep)
    load = np.zeros(ep)
    for replica in replicas:
        rank = np.argmin(np.where(room > 0, load, np.inf))
        load[rank] += replica
        room[rank] -= 1
    return float(load.max() / load.mean())


@pytest.mark.parametrize(("redundant", "ep"), [(32, 32), (24, 40), (64, 64), (64, 320)])
def test_redundant_experts_balance_as_eplb_does(redundant: int, ep: int) -> None:
    """With many tokens only the placement is left: within 12 % of the greedy algorithm."""
    random = np.random.default_rng(3)
    seen = np.mean([balanced(np.exp(0.5 * random.normal(size=256)), redundant, ep) for _ in range(20)])
    hottest = hottest_load(1e9, experts=256, redundant=redundant, ep=ep, skew=0.5)
    assert hottest == pytest.approx(seen, rel=0.12)
    assert hottest < hottest_load(1e9, experts=256, redundant=0, ep=ep, skew=0.5)


@given(
    choices=st.floats(0, 1e6),
    redundant=st.sampled_from([0, 8, 64]),
    ep=st.sampled_from([1, 2, 8, 40, 256]),
    skew=st.floats(0, 2),
)
def test_the_hottest_rank_is_at_least_the_mean_and_at_most_all(
    choices: float, redundant: int, ep: int, skew: float
) -> None:
    load = hottest_load(choices, experts=256, redundant=redundant, ep=ep, skew=skew)
    assert 1 - 1e-9 <= load <= ep


def test_experts_that_do_not_divide_leave_a_fuller_rank() -> None:
    """256 over 40: 7 on some; with 24 copies 7 on all."""
    assert local_experts(256, 0, 40) == 7
    assert local_experts(256, 24, 40) == 7


def test_one_box_keeps_expert_traffic_inside() -> None:
    """EP40 in one domain of 40: nothing crosses. Over five domains of 8: 32 of 40 choices, 80 %."""
    assert crossing_share(40, 40) == 0
    assert crossing_share(40, 8) == pytest.approx(0.8, abs=1e-15)
    for copies in (direct_copies, forwarded_copies):
        assert copies(8, ep=40, expert_tp=1, domain=40)[1] == 0
    near, far = direct_copies(8, ep=40, expert_tp=1, domain=8)
    assert far == pytest.approx(8 * 0.8)
    assert near == pytest.approx(8 * 7 / 40)  # one of 40 is the device itself


def test_low_latency_dispatch_of_four_hosts() -> None:
    """DeepEP low-latency, 256 tokens of 7,168 FP8 on 4 H100 hosts, 50 GB/s a port: 6 of 8 copies cross; 264 us.

    Measured: aiconfigurator-core 0.12.0, wideep_deepep_ll, 4 nodes; one host alone starts in 16 us.
    """
    _, far = direct_copies(8, ep=32, expert_tp=1, domain=8)
    assert far == 6
    assert 256 * far * 7168 / (0.9 * 50e9) + 20e-6 == pytest.approx(264e-6, rel=0.1)


def test_forwarded_dispatch_of_four_hosts() -> None:
    """DeepEP normal kernels, 32,768 tokens, 4 hosts: 3 others, each wanted by 90 %: 2.7 copies; 13.9 ms measured."""
    near, far = forwarded_copies(8, ep=32, expert_tp=1, domain=8)
    assert far == pytest.approx(3 * (1 - 0.75**8))
    assert near == pytest.approx(distinct_ranks(8, 32) * 31 / 32)
    assert 32768 * far * 7168 / (0.9 * 50e9) == pytest.approx(13.9e-3, rel=0.1)


def test_without_expert_parallelism_dispatch_is_an_all_gather() -> None:
    for copies in (direct_copies, forwarded_copies):
        assert copies(8, ep=1, expert_tp=8, domain=8) == (7, 0)


@given(topk=st.integers(1, 8), ep=st.sampled_from([1, 2, 8, 64]), expert_tp=st.sampled_from([1, 2, 8]))
def test_forwarding_never_crosses_more_often(topk: int, ep: int, expert_tp: int) -> None:
    direct = direct_copies(topk, ep=ep, expert_tp=expert_tp, domain=8)
    forwarded = forwarded_copies(topk, ep=ep, expert_tp=expert_tp, domain=8)
    assert forwarded[1] <= direct[1] + 1e-9
    assert min(*direct, *forwarded) >= 0
