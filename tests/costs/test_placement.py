"""Popularity and placement of experts: laws of EPLB, balance against simulation, and one published measurement."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.costs.test_moe import routed
from tokenworks.arrays import Floats
from tokenworks.costs.collectives import LinkRates
from tokenworks.costs.moe import Balance, hottest_load, limited_domains
from tokenworks.costs.placement import (
    TOKENS,
    Moves,
    balance,
    balanced,
    copy_counts,
    expected_max,
    hottest,
    move_time,
    moves,
    packed,
    plain,
    rank_loads,
    replicated,
    slot_loads,
)
from tokenworks.costs.popularity import aged, by_order, visits, zipf
from tokenworks.errors import SpecError


def drawn(alpha: float, *, layers: int = 8, experts: int = 64, topk: int = 4, seed: int = 0) -> Floats:
    """Probabilities of a visit, with an order of its own in each layer."""
    scores = np.random.default_rng(seed).standard_normal((layers, experts))
    return by_order(visits(zipf(experts, alpha), topk), scores)


# ── popularity ────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 300), st.floats(0, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_visits_are_probabilities_that_sum_to_topk(experts: int, alpha: float, data: st.DataObject) -> None:
    topk = data.draw(st.integers(1, experts))
    chosen = visits(zipf(experts, alpha), topk)
    assert chosen.sum() == pytest.approx(topk, rel=1e-9)
    assert (chosen <= 1 + 1e-9).all()
    assert (np.diff(chosen) <= 1e-12).all()  # the order is the order of the weights


def test_visits_against_draws_without_repetition() -> None:
    """Gumbel top-k draws: mean count of each expert, within 4 % where it is popular."""
    weights, tokens = zipf(64, 1.0).astype(np.float64), 20_000
    counts = routed(tokens, 8, weights, rounds=1, seed=5)[0] / tokens
    assert visits(weights, 8)[:20] == pytest.approx(counts[:20], rel=0.04)


def test_equal_popularity() -> None:
    assert visits(zipf(256, 0.0), 8) == pytest.approx(np.full(256, 8 / 256))


def test_the_correlation_of_scores_halves_in_a_half_life() -> None:
    random = np.random.default_rng(0)
    scores = random.standard_normal(20_000)
    for age, kept in ((0.0, 1.0), (3600.0, 0.5), (7200.0, 0.25)):
        later = aged(scores, age, 3600.0, random.standard_normal(20_000))
        assert np.corrcoef(scores, later)[0, 1] == pytest.approx(kept, abs=0.03)
        assert later.std() == pytest.approx(1.0, abs=0.03)


# ── EPLB ──────────────────────────────────────────────────────────────────────────────────────────────────────────

WIDTHS = st.sampled_from([(8, 0), (8, 8), (16, 16), (32, 32), (40, 16), (40, 56), (20, 16)])
LOADS = st.floats(0, 1.2)


@given(WIDTHS, LOADS, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_laws_of_eplb(width: tuple[int, int], alpha: float, seed: int) -> None:
    ep, redundant = width
    chosen = drawn(alpha, seed=seed)
    start, made = plain(8, 64, redundant, ep), balanced(chosen, redundant, ep)
    before, after = hottest(chosen, start, ep), hottest(chosen, made, ep)
    assert (after <= before).all()  # never worse than the plain placement, on the counts that it was given
    assert (after >= 1 - 1e-9).all()
    assert (before <= ep + 1e-9).all()
    assert (copy_counts(made, 64) >= 1).all()  # no expert is lost
    assert copy_counts(made, 64).sum(axis=1) == pytest.approx(64 + redundant)
    assert rank_loads(chosen, made, ep).mean() == pytest.approx(1.0)
    if alpha == 0 and not redundant:
        assert after == pytest.approx(1.0)


def test_the_packing_alone_is_seldom_worse_than_the_plain_placement() -> None:
    """The exception of `balanced`: the engine's packing had a hotter rank in 4 of 3,200 drawn layers, so it is rare."""
    worse = 0
    for seed in range(50):
        chosen = drawn(0.01 + seed % 12 / 10, seed=seed)
        worse += int((hottest(chosen, packed(chosen, 8), 8) > hottest(chosen, plain(8, 64, 0, 8), 8)).sum())
    assert worse <= 4


def test_the_exception_by_hand() -> None:
    """Loads 3 3 2 2 2 0 on two ranks: longest first gives 7 and 5, and 3 3 0 | 2 2 2 would give 6 and 6."""
    loads = np.array([[3.0, 3.0, 0.0, 2.0, 2.0, 2.0]])
    assert hottest(loads, packed(loads, 2), 2)[0] == pytest.approx(7 / 6)
    assert hottest(loads, balanced(loads, 0, 2), 2)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("alpha", [0.4, 0.8, 1.2])
def test_more_copies_help_on_average(alpha: float) -> None:
    """No theorem: one layer can get hotter with more copies. The mean over 40 layers does not."""
    chosen = drawn(alpha, layers=40, experts=256, topk=8)
    means = [hottest(chosen, balanced(chosen, redundant, 16), 16).mean() for redundant in (0, 16, 32, 64, 128)]
    assert all(later <= earlier * (1 + 1e-3) for earlier, later in itertools.pairwise(means))


def test_copies_go_to_the_most_loaded_copy() -> None:
    counts = np.array([[8.0, 4.0, 3.0, 1.0]])
    assert copy_counts(replicated(counts, 7), 4).tolist() == [[3, 2, 1, 1]]  # 8, then 4 = 4, then 3 > 8/3
    assert slot_loads(counts, replicated(counts, 7)).max() == pytest.approx(3.0)


def test_groups_stay_on_a_host_where_hosts_divide_them() -> None:
    chosen = drawn(0.8, experts=64)
    made = balanced(chosen, 32, 16, groups=8, hosts=4)
    by_host = made.reshape(8, 4, -1)
    for layer in by_host:
        groups = [set((slots // 8).tolist()) for slots in layer]
        assert all(len(own) == 2 for own in groups)
        assert set.union(*groups) == set(range(8))
    free = balanced(chosen, 32, 16, groups=8, hosts=5)  # 5 does not divide 8: one pool of all ranks
    assert (free == balanced(chosen, 32, 16)).all()
    assert hottest(chosen, free, 16).mean() <= hottest(chosen, made, 16).mean()


def test_slots_that_do_not_divide() -> None:
    with pytest.raises(SpecError, match="add 24 redundant experts"):
        plain(1, 256, 0, 40)


# ── moves ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_moves_by_hand() -> None:
    """Four ranks in two domains. Rank 0 gets expert 1 from its neighbour, and rank 3 gets expert 0 from afar."""
    old, new = np.array([[0, 1, 2, 3]]), np.array([[1, 1, 2, 0]])
    assert moves(old, new, 4, 2) == Moves(1, 1, 1, 1)
    assert moves(old, new, 4, 4) == Moves(2, 0, 1, 0)
    assert moves(old, old, 4, 2) == Moves(0, 0, 0, 0)


@given(LOADS, st.integers(0, 99), st.sampled_from([4, 8, 16]))
@settings(max_examples=20, deadline=None)
def test_every_missing_copy_is_moved_once(alpha: float, seed: int, domain: int) -> None:
    chosen = drawn(alpha, seed=seed)
    old, new = plain(8, 64, 16, 16), balanced(chosen, 16, 16)
    moved = moves(old, new, 16, domain)
    missing = sum(
        len(set(after) - set(before))
        for before, after in zip(old.reshape(-1, 5).tolist(), new.reshape(-1, 5).tolist(), strict=True)
    )
    assert moved.inside + moved.outside == missing
    assert moved.most_inside + moved.most_outside >= missing / 16 - 1e-9
    if domain == 16:
        assert moved.outside == 0


def test_time_of_moves() -> None:
    link = LinkRates(bandwidth=100e9, pair=100e9, alpha=1e-6, start=9e-6, ring=0.0, direct=True, in_switch=False)
    slow = LinkRates(bandwidth=10e9, pair=10e9, alpha=1e-6, start=9e-6, ring=0.0, direct=False, in_switch=False)
    assert move_time(Moves(5, 2, 5, 2), 50e6, 58, inner=link, outer=slow) == pytest.approx(58e-5 + 10e-3)
    assert move_time(Moves(5, 0, 5, 0), 50e6, 58, inner=link, outer=None) == pytest.approx(58e-5 + 2.5e-3)
    assert move_time(Moves(0, 0, 0, 0), 50e6, 58, inner=link, outer=slow) == 0


# ── balance by batch ──────────────────────────────────────────────────────────────────────────────────────────────


def test_expected_maximum() -> None:
    """Against draws; and 8 equal ones 1.4236 (Harter 1961, table 1)."""
    assert expected_max(np.zeros(8), np.ones(8)) == pytest.approx(1.4236, abs=3e-3)
    mean, deviation = np.array([0.0, 1.0, 1.5, -2.0]), np.array([1.0, 0.5, 0.1, 3.0])
    draws = np.random.default_rng(0).normal(mean, deviation, (200_000, 4)).max(axis=1)
    assert expected_max(mean, deviation) == pytest.approx(draws.mean(), abs=5e-3)
    assert expected_max(np.array([2.0, 1.0]), np.zeros(2)) == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize(("alpha", "tokens"), [(0.0, 64), (0.8, 64), (0.8, 512)])
def test_balance_against_simulation(alpha: float, tokens: int) -> None:
    """Tokens that choose 8 of 128 experts: load and touched experts of the hottest of 16 ranks."""
    weights = zipf(128, alpha)[np.random.default_rng(4).permutation(128)].astype(np.float64)
    chosen, placement = visits(weights, 8)[None], plain(1, 128, 0, 16)
    counts = routed(tokens, 8, weights, rounds=150, seed=2).reshape(150, 16, -1)
    tables = balance(chosen, placement, 16)
    load = counts.sum(axis=2).max(axis=1).mean() / (tokens * 8 / 16)
    assert tables.hottest_load(tokens) == pytest.approx(load, rel=0.04)
    touched = (counts > 0).sum(axis=2).max(axis=1).mean()
    assert tables.hottest_touched(tokens) == pytest.approx(touched, rel=0.06)


def test_equal_popularity_is_the_formula_without_skew() -> None:
    tables = balance(drawn(0.0, layers=1, experts=256, topk=8), plain(1, 256, 0, 32), 32)
    for tokens in (256.0, 4096.0, 2.0**18):
        known = hottest_load(tokens * 8 / 32, experts=256, redundant=0, ep=32, skew=0.0)
        assert tables.hottest_load(tokens) == pytest.approx(known, rel=0.06)
    assert tables.limit == pytest.approx(1.0)


@given(WIDTHS, LOADS, st.integers(0, 20))
@settings(max_examples=15, deadline=None)
def test_balance_is_within_bounds(width: tuple[int, int], alpha: float, seed: int) -> None:
    ep, redundant = width
    tables = balance(drawn(alpha, layers=2, seed=seed), balanced(drawn(alpha, layers=2), redundant, ep), ep)
    assert all(1 <= hot <= ep for hot in tables.hot)
    assert all(0 < touched <= (64 + redundant) / ep for touched in tables.touched)
    assert (np.diff(tables.touched) >= -1e-9).all()
    assert (np.diff(tables.hot) <= 1e-3).all()  # more tokens, less chance
    assert tables.hot[-1] >= tables.limit - 1e-3


def test_balance_between_its_batches() -> None:
    tables = Balance((1.0, 4.0), (5.0, 3.0), (1.0, 2.0), 1.0)
    assert tables.hottest_load(np.array([0.5, 1.0, 2.0, 4.0, 9.0])) == pytest.approx([5, 5, 4, 3, 3])
    assert tables.hottest_touched(np.array([0.5, 2.0])) == pytest.approx([0.5, 1.5])


def test_measured_imbalance_of_deepseek_r1() -> None:
    """NVIDIA, Scaling expert parallelism in TensorRT-LLM, part 1, table 1 (R1, EP32, 4,096 tokens).

    Tokens of an expert: standard deviation 164.1 of a mean of 128. This gives alpha 0.68. Nothing else is taken from
    the table. Measured load of the hottest rank / mean - 1: 1.564; with EPLB and 9 slots a rank 0.109. The rest with
    EPLB is chance. Real tokens are not independent of each other, so it is larger than predicted.
    """
    alpha = 0.68
    chosen = drawn(alpha, layers=58, experts=256, topk=8, seed=1)
    at = TOKENS.index(4096.0)
    share = visits(zipf(256, alpha), 8) * 256 / 8
    assert np.sqrt(share.var() + 1 / 128) == pytest.approx(164.1 / 128, rel=0.02)
    assert balance(chosen, plain(58, 256, 0, 32), 32).hot[at] - 1 == pytest.approx(1.564, rel=0.1)
    assert rank_loads(chosen, plain(58, 256, 0, 32), 32).std(axis=1).mean() == pytest.approx(491.6 / 1024, rel=0.15)
    assert 0.04 < balance(chosen, balanced(chosen, 32, 32), 32).hot[at] - 1 < 0.109


def test_node_limited_routing() -> None:
    """DeepSeek-V3 on 8 hosts: 4 of 8 groups, so at most 4 hosts, and 8 of 8 groups are the free choice."""
    free = 8 * (1 - (7 / 8) ** 8)
    assert limited_domains(8, 8, groups=8, chosen=8) == pytest.approx(free)
    assert limited_domains(8, 8, groups=8, chosen=4) == pytest.approx(4 * (1 - (3 / 4) ** 8))
    assert limited_domains(8, 1, groups=8, chosen=4) == pytest.approx(1.0)
    assert 1 < limited_domains(8, 2, groups=8, chosen=4) < 2
