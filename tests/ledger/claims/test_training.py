"""+120 %: which training runs the map asks for, and what the check makes of the answers."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tokenworks.ledger.claims.asks import TrainAnswer, TrainAsk
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.ratios import NEITHER, ONLY_SUPERNODE
from tokenworks.ledger.claims.training import CHECKS, LONG, train_places

TRAINING = {"models": ["meta-llama/Meta-Llama-3.1-8B"], "tokens": "1T", "batch": "4M"}
SMALL: dict[str, Any] = {"baselines": ["5xhgx-h20"], "training": TRAINING}
CHECK = CHECKS["C12"]


@functools.cache
def answered(ask: TrainAsk) -> TrainAnswer:
    """The answer of a question; each one is computed once."""
    return ask.answer(None)


def answers(basis: Basis) -> dict[Any, TrainAnswer]:
    """The answers of all questions of the check."""
    return {ask: answered(ask) for ask in CHECK.asks(basis) if isinstance(ask, TrainAsk)}


def test_cards_without_fp8_train_in_bf16_and_models_that_are_too_large_have_one_case() -> None:
    basis = Basis.read()
    cases = {(place.case.words, place.against): place.asks(basis) for place in train_places(basis)}
    own, other = cases["Meta-Llama-3.1-8B, FP8 where the card has it", "5xbw1000-8"]
    assert (own.precision, other.precision) == ("fp8", "bf16")
    assert cases[f"Meta-Llama-3.1-8B, BF16, sequences of {LONG:,}", "5xhgx-h20"][0].seq == LONG
    assert {row for row, _ in cases if row.startswith("DeepSeek-V3")} == {"DeepSeek-V3, BF16"}


def test_a_question_carries_only_numbers_of_its_own_machine() -> None:
    basis = Basis.read()
    faster = basis.with_("scalex40.device.scale_up.bandwidth", "896 GB/s")
    before, after = (
        {ask.system: ask for place in train_places(one) for ask in place.asks(one)} for one in (basis, faster)
    )
    assert {on for on in before if before[on] != after[on]} == {"scalex40"}


def test_a_cell_is_the_ratio_of_two_runs_and_failures_take_their_share() -> None:
    basis = Basis.read(mix=SMALL)
    known = answers(basis)
    finding = CHECK.judge(basis, known)
    with_failures, without = finding.maps
    for kept, plain, place in zip(with_failures.cells, without.cells, train_places(basis), strict=True):
        own, other = (known[ask].run for ask in place.asks(basis))
        assert own is not None
        assert other is not None
        assert plain.value is not None
        assert plain.value == pytest.approx(own.best.tok_s_per_device / other.best.tok_s_per_device)
        assert plain.low is not None
        assert plain.high is not None
        assert plain.low < plain.value < plain.high
        assert kept.value == pytest.approx(plain.value * own.goodput.share / other.goodput.share)
    assert finding.computed == max(cell.value or 0.0 for cell in with_failures.cells)
    assert "trains" in finding.because[0]
    assert {row[1] for row in finding.tables[1].rows} == {"scalex40", "5xhgx-h20"}


def test_a_run_without_a_plan_is_no_ratio() -> None:
    basis = Basis.read(mix=SMALL)
    known = {ask: TrainAnswer(None, "does not fit") if ask.system != "scalex40" else answer
             for ask, answer in answers(basis).items()}  # fmt: skip
    finding = CHECK.judge(basis, known)
    assert {cell.state for cell in finding.maps[0].cells} == {ONLY_SUPERNODE}
    assert (finding.verdict, finding.computed) == ("cannot be known", None)
    none = CHECK.judge(basis, dict.fromkeys(known, TrainAnswer(None, "does not fit")))
    assert {cell.state for cell in none.maps[0].cells} == {NEITHER}
    assert none.verdict == "cannot be known"
    assert any("no plan fits any" in sentence for sentence in none.because)


def test_each_break_even_price_flips_the_verdict_when_passed_by_5_percent() -> None:
    basis = Basis.read(mix=SMALL)
    known = answers(basis)
    points = CHECK.judge(basis, known).turning_points
    assert points
    for point in points:
        for factor, verdict in ((0.95, point.verdict_below), (1.05, point.verdict_above)):
            priced = basis.with_(point.path, f"{point.value * factor!r} USD/system")
            assert CHECK.judge(priced, known).verdict == verdict


def test_failures_change_the_questions_and_the_gauge_is_the_cell_that_decides() -> None:
    basis = Basis.read(mix=SMALL)
    known = answers(basis)
    assert "reliability.repair" in list(CHECK.rests_on(basis))
    assert not set(CHECK.asks(basis.with_("reliability.repair", "4 h"))) & set(known)
    finding = CHECK.judge(basis, known)
    assert CHECK.gauge is not None
    assert CHECK.gauge.value(basis, known, finding) == pytest.approx(finding.computed)
