"""Memory: what a card holds beside the weights, what binds long contexts, and when KV tiers meet the need."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.ledger.claims.studies import SMALL, basis
from tokenworks.ledger.claims.asks import ClaimAsk
from tokenworks.ledger.claims.finding import Finding
from tokenworks.ledger.claims.memory import CHECKS, LONG, THINK_S
from tokenworks.ledger.claims.runs import TierPoint, TierPoints
from tokenworks.ledger.claims.steps import CAPACITY, LeastMemoryAsk, RoomAnswer, RoomAsk
from tokenworks.specs.given import Given

HUGE = "deepseek-ai/DeepSeek-R1"
CONTEXTS = (1_024, 32_768)


def room(system: str = "hgx-h200:1", model: str = SMALL, **numbers: str) -> RoomAnswer:
    assume = tuple(Given(path=f"device.hbm.{path}", value=value) for path, value in numbers.items())
    return RoomAsk(model, system, CONTEXTS, 0.05, assume).answer(None)


def test_all_sequences_of_a_context_fill_the_cache() -> None:
    found = room()
    assert [row.context for row in found.rows] == list(CONTEXTS)
    assert all(row.held * row.context == pytest.approx(found.kv_tokens) for row in found.rows)
    assert found.longest == 40_960
    assert found.concurrency >= found.kv_tokens / found.longest * (1 - 1e-9)


def test_a_slower_memory_allows_fewer_sequences_and_holds_as_many() -> None:
    fast, slow = room(), room(bandwidth="1 TB/s")
    assert all(a.quick > b.quick for a, b in zip(fast.rows, slow.rows, strict=True))
    assert [row.held for row in fast.rows] == [row.held for row in slow.rows]


def test_a_smaller_memory_holds_fewer_sequences() -> None:
    assert room(capacity="80 GB").kv_tokens < room().kv_tokens


def test_a_model_that_does_not_fit_has_a_reason() -> None:
    found = room(model=HUGE)
    assert "does not fit" in found.error
    assert not found.rows


def test_the_least_memory_is_just_enough() -> None:
    least = LeastMemoryAsk(SMALL, "hgx-h200:1").answer(None)
    assert least is not None
    assert room(capacity=f"{least!r} B").concurrency >= 1
    assert room(capacity=f"{least * 0.99!r} B").concurrency < 1


def card(capacity: str | None = None) -> Finding:
    of = basis(models={SMALL: 1.0})
    if capacity:
        of = of.with_(f"scalex40.{CAPACITY}", capacity)
    return CHECKS["C14"].judge(of, {ask: answered(ask) for ask in CHECKS["C14"].asks(of)})


@functools.cache
def answered(ask: ClaimAsk) -> Any:
    return ask.answer(None)


def test_the_verdict_on_long_contexts_changes_at_its_turning_point() -> None:
    found = card()
    assert found.verdict == "holds"
    (point,) = found.turning_points
    assert card(f"{point.value * 1.05!r} {point.unit}").verdict == "holds"
    assert card(f"{point.value * 0.95!r} {point.unit}").verdict == point.verdict_below


def test_memory_binds_where_it_holds_fewer_sequences_than_the_speed_allows() -> None:
    of = basis(models={SMALL: 1.0})
    answers = {ask: ask.answer(None) for ask in CHECKS["C29"].asks(of)}
    found = CHECKS["C29"].judge(of, answers)
    for _, _, _, held, quick, binds, _ in found.tables[0].rows:
        assert isinstance(held, float)
        assert isinstance(quick, float)
        assert binds == ("memory" if held < quick else "speed")
    row = next(row for room in answers.values() for row in room.rows if row.context >= LONG)
    assert found.computed == pytest.approx(row.held / row.quick)


def test_no_model_on_a_server_leaves_the_claim_open() -> None:
    of = basis(models={HUGE: 1.0}, main=HUGE, servers=["hgx-h100"])
    found = CHECKS["C29"].judge(of, {ask: ask.answer(None) for ask in CHECKS["C29"].asks(of)})
    assert found.verdict == "cannot be known"


def tiers(*hits: tuple[float, float]) -> Finding:
    """The finding where HBM and all tiers serve these shares of the input, one pair for each think time."""
    of, answers = basis(), {}
    for ask, (bare, full) in zip(CHECKS["C15"].asks(of), hits, strict=True):
        names = (("HBM", bare), ("HBM, DRAM and SSD", full))
        points = tuple(TierPoint(name, 1.0, share, 2.0, 3.0, 10.0, meets_slo=True) for name, share in names)
        answers[ask] = TierPoints(points, "1x[tp8]", endless=0.9)
    return CHECKS["C15"].judge(of, answers)


def test_tiers_meet_the_need_where_they_serve_almost_all_hits() -> None:
    assert tiers((0.85, 0.89), (0.2, 0.88)).verdict == "holds"
    some = tiers((0.85, 0.89), (0.2, 0.5))
    assert some.verdict == "holds if"
    assert some.conditions == (f"It holds with a think time of {THINK_S[0]:g} s.",)
    assert some.computed == pytest.approx(0.5 / 0.9)
    assert some.low == pytest.approx(0.2 / 0.9)
    assert tiers((0.1, 0.2), (0.1, 0.2)).verdict == "does not hold"


def test_a_model_that_serves_no_agents_leaves_the_claim_open() -> None:
    of = basis()
    found = CHECKS["C15"].judge(of, dict.fromkeys(CHECKS["C15"].asks(of), TierPoints(())))
    assert found.verdict == "cannot be known"
