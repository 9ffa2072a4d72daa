"""Sizes of a domain: what a mix makes of ratios, which verdict the figures give, and the smallest size for an SLO."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ledger.claims.studies import APART, MIX, SMALL, basis, study
from tokenworks.errors import SpecError
from tokenworks.ledger.claims import domains
from tokenworks.ledger.claims.asks import Answers, ClaimAsk, PlanAsk
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.domains import CHECKS
from tokenworks.ledger.claims.finding import Finding
from tokenworks.ledger.claims.sizes import SmallestAsk, SmallestSize, own_size, size_plan, sizes
from tokenworks.ledger.study import Study
from tokenworks.planning.intervals import RatioInterval

LARGE = "Qwen/Qwen3-30B-A3B"


def knee(tok_s: dict[int, float | None], of: Basis | None = None) -> Finding:
    """The finding on sizes with the same tokens per card for all models."""
    of = of or basis()
    answers: Answers = {size_plan(of, model, size): study(tok_s[size]) for model in of.mix.models for size in sizes(of)}
    return CHECKS["C36"].judge(of, answers)


@settings(deadline=None)  # the first case reads the catalog
@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(1, 1000)), min_size=2, max_size=2))
def test_the_ratio_of_a_mix_lies_between_those_of_its_models(cells: list[tuple[float, float]]) -> None:
    of, models = basis(), list(MIX["models"])
    ratios = {model: RatioInterval(r, r, r) for model, (r, _) in zip(models, cells, strict=True)}
    base = {model: tok_s for model, (_, tok_s) in zip(models, cells, strict=True)}
    mixed = domains._mixed(of, ratios, base)
    assert mixed is not None
    values = [r for r, _ in cells]
    assert min(values) * (1 - 1e-9) <= mixed.value <= max(values) * (1 + 1e-9)
    whole = sum(1 / tok_s for _, tok_s in cells) / sum(1 / (r * tok_s) for r, tok_s in cells)
    assert mixed.value == pytest.approx(whole)


def test_a_model_that_is_not_served_leaves_the_mix_without_a_ratio() -> None:
    one = RatioInterval(1, 1, 1)
    assert domains._mixed(basis(), {SMALL: one, LARGE: None}, {SMALL: 1.0, LARGE: 1.0}) is None


def test_one_size_that_beats_all_others_holds() -> None:
    found = knee({8: 100, 16: 100, 40: 100 * APART * 1.01, 72: 100})
    assert found.verdict == "holds"
    assert found.computed == pytest.approx(APART * 1.01)


def test_sizes_that_cannot_be_told_apart_hold_under_a_price() -> None:
    found = knee({8: 50, 16: 80, 40: 100, 72: 100 * APART * 0.99})
    assert found.verdict == "holds if"
    assert "72 cards pay if a card" in found.conditions[1]
    assert "Sizes that make fewer tokens per card than 40 cards: 8, 16." in found.because


def test_a_larger_size_that_is_better_does_not_hold() -> None:
    found = knee({8: 50, 16: 80, 40: 100, 72: 100 * APART * 1.01})
    assert found.verdict == "does not hold"
    assert found.computed == pytest.approx(1 / (APART * 1.01))


def test_a_size_that_serves_nothing_is_a_cell_with_its_reason() -> None:
    found = knee({8: None, 16: 80, 40: 100, 72: 100})
    cells = {(cell.row, cell.column): cell for cell in found.maps[0].cells}
    assert cells["Qwen3-0.6B", "8"].state == "does not fit"
    assert cells["the mix", "8"].value is None
    assert cells["the mix", "72"].value == pytest.approx(1.0)


def test_a_larger_size_runs_the_deployment_of_a_smaller_one() -> None:
    found = knee({8: None, 16: None, 40: 100, 72: None})
    assert found.verdict == "holds"
    assert found.computed == pytest.approx(72 / 40)
    assert knee({8: 100, 16: 1, 40: 1, 72: 1}).computed == pytest.approx(1)


def test_a_supernode_that_does_not_serve_the_mix_leaves_the_claim_open() -> None:
    assert knee({8: None, 16: None, 40: None, 72: 100}).verdict == "cannot be known"


def lag(eight: float | None, sixteen: float | None) -> Finding:
    of = basis()
    tok_s = {8: eight, 16: sixteen, 40: 100.0}
    answers: Answers = {ask: study(tok_s[_domain(ask)]) for ask in CHECKS["C03"].asks(of) if isinstance(ask, PlanAsk)}
    return CHECKS["C03"].judge(of, answers)


def _domain(ask: PlanAsk) -> int:
    return next((int(item.value) for item in ask.assume if item.path == "domain"), 40)


@pytest.mark.parametrize(
    ("eight", "sixteen", "verdict"),
    [
        (99 / APART, 99 / APART, "holds"),
        (99 / APART, 101 / APART, "holds if"),
        (100, 100, "does not hold"),
        (None, None, "holds"),
        (200, 200, "does not hold"),
    ],
)
def test_small_domains_lag_where_they_are_told_apart(eight: float, sixteen: float, verdict: str) -> None:
    assert lag(eight, sixteen).verdict == verdict


def test_servers_over_the_network_may_keep_up_with_one_domain() -> None:
    of = basis()
    tok_s = {(8, 1): 40.0, (8, 5): 98.0, (16, 1): 70.0, (40, 1): 100.0}
    asks = [ask for ask in CHECKS["C03"].asks(of) if isinstance(ask, PlanAsk)]
    counts = {ask: 5 if ask.system.startswith("5x") else 1 for ask in asks}
    found = CHECKS["C03"].judge(of, {ask: study(tok_s[_domain(ask), counts[ask]]) for ask in asks})
    assert found.verdict == "holds if"
    assert found.computed == pytest.approx(0.4)
    assert found.conditions[0].startswith("8 cards alone: it holds for the mix")
    assert (
        found.conditions[1]
        == "5 x 8 cards over the network: it does not hold for the mix, and it holds for no model alone."
    )


def test_plans_of_a_size_differ_only_in_the_size() -> None:
    of = basis()
    assert size_plan(of, SMALL, 40) == of.plan(SMALL, "scalex40", engine="sglang")
    assert "--set machine.devices=8 --set machine.domain=8" in size_plan(of, SMALL, 8).command
    assert "--on 5xscalex40" in size_plan(of, SMALL, 8, domains=5).command
    assert size_plan(of, SMALL, 2).system == "scalex40:2"
    assert own_size(of) == 40
    assert sizes(basis(domains=[8, 16, 24])) == (8, 16, 24, 40)


@dataclasses.dataclass(frozen=True)
class Answered(PlanAsk):
    """A plan with a known answer."""

    tok_s: float | None = None

    def answer(self, say: Any) -> Study:
        return study(self.tok_s)


def asked(*meets: tuple[bool, ...]) -> tuple[SmallestSize, ...]:
    """The smallest of machines with 1, 2, 4 and 8 devices that meets each SLO."""
    plans = tuple(
        tuple(
            Answered(SMALL, f"hgx-h200:{size}", "chat", f"tpot={10 + number}ms", tok_s=1.0 if met else None)
            for size, met in zip((1, 2, 4, 8), row, strict=True)
        )
        for number, row in enumerate(meets)
    )
    return SmallestAsk(SMALL, "chat", plans).answer(None)


def test_the_smallest_machine_of_each_slo() -> None:
    found = asked((False, False, True, True), (False, True, True, True), (True, True, True, True))
    assert [one.size for one in found] == [4, 2, 1]
    assert asked((False,) * 4)[0].size is None
    assert asked((False,) * 4)[0].error == "does not fit"


def test_a_looser_slo_tries_no_machine_above_that_of_a_tighter_one() -> None:
    found = asked((True, True, True, True), (True, False, False, False))
    assert [one.size for one in found] == [1, 1]


def covered(sizes_of: dict[str, int | None], **mix: Any) -> Finding:
    of = basis(workloads=["chat"], speeds=["25 ms", "50 ms"], **mix)
    answers: dict[ClaimAsk, Any] = {}
    for ask in CHECKS["C04"].asks(of):
        assert isinstance(ask, SmallestAsk)
        assert "tpot=25ms" in ask.plans[0][0].command
        assert ask.plans[0][0].budget == "1 request"
        answers[ask] = tuple(SmallestSize(slo, sizes_of[ask.model], 0.9) for slo in ("a", "b"))
    return CHECKS["C04"].judge(of, answers)


def test_needs_count_with_the_weights_of_the_mix() -> None:
    found = covered({SMALL: 8, LARGE: None}, models={SMALL: 3.0, LARGE: 1.0})
    assert found.computed == pytest.approx(0.75)
    assert found.verdict == "holds"
    assert covered({SMALL: 8, LARGE: None}, models={SMALL: 1.0, LARGE: 3.0}).verdict == "does not hold"
    assert covered({SMALL: 40, LARGE: 40}).verdict == "holds if"


def test_a_size_that_is_no_number_of_cards_is_refused() -> None:
    with pytest.raises(SpecError, match="domains"):
        basis(domains=[8, 16, 0])
    with pytest.raises(SpecError, match=r"multiple of host\.devices"):
        size_plan(basis(domains=[8, 16, 42]), SMALL, 42).answer(None)


def test_effects_are_measured_on_two_sizes_of_the_main_model() -> None:
    of = basis()
    gauge = CHECKS["C36"].gauge
    assert gauge is not None
    found = knee({8: 50, 16: 80, 40: 100, 72: 110})
    one, other = gauge.asks(of, found)
    assert (one, other) == tuple(size_plan(of, SMALL, size, simulate=False) for size in (40, 72))
    assert gauge.value(of, {one: study(50), other: study(200)}, found) == pytest.approx(0.25)
    assert gauge.value(of, {one: study(50), other: study(None)}, found) is None
