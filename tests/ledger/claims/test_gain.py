"""+330 % and 2.6 times: which plans the maps ask for, and what the checks make of the answers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import pytest

from tokenworks.ledger.claims import gain
from tokenworks.ledger.claims.asks import ClaimAsk, PlanAsk
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.finding import Finding, MapCell
from tokenworks.ledger.claims.gain import (
    CHECKS,
    GainPlace,
    further_cases,
    gain_places,
    link_places,
    model_cases,
    single_places,
)
from tokenworks.ledger.claims.ratios import ONLY_SUPERNODE
from tokenworks.ledger.study import Study

SMALL = {
    "models": {"Qwen/Qwen3-0.6B": 1, "Qwen/Qwen3-1.7B": 1}, "machine": "hgx-h200:2", "baselines": ["hgx-h20:2"],
    "servers": ["hgx-h20:1"], "supernodes": ["hgx-h200:2"], "speeds": ["50 ms"], "workloads": ["chat"],
}  # fmt: skip
"""A mix whose plans take little time."""


@functools.cache
def estimated(ask: PlanAsk) -> Study:
    """The estimate in place of the simulated plan."""
    return dataclasses.replace(ask, simulate=False, budget=None).answer(None)


def answers(basis: Basis, claim: str) -> dict[ClaimAsk, Any]:
    """Estimates for all questions of a check."""
    return {ask: estimated(ask) for ask in CHECKS[claim].asks(basis) if isinstance(ask, PlanAsk)}


def judged(claim: str, mix: dict[str, Any] = SMALL) -> tuple[Basis, Finding]:
    """A basis, and what a check finds with estimates."""
    basis = Basis.read(mix=mix)
    return basis, CHECKS[claim].judge(basis, answers(basis, claim))


def plans(places: Sequence[GainPlace], basis: Basis, on: str) -> set[PlanAsk]:
    """The questions about one machine."""
    return {ask for place in places for ask in place.asks(basis) if ask.system == on}


def best(finding: Finding) -> MapCell:
    """The cell with the largest ratio."""
    return max((cell for cell in finding.maps[0].cells if cell.value is not None), key=lambda cell: cell.value or 0.0)


def test_each_case_differs_in_one_thing_and_has_its_own_words() -> None:
    basis = Basis.read()
    models, further = model_cases(basis), further_cases(basis)
    assert len({case.words for case in (*models, *further)}) == len(models) + len(further)
    assert models[0].words == "DeepSeek-R1, chat, ttft=2s,tpot=50ms"
    assert {case.model for case in models} == set(basis.mix.models)
    assert {case.model for case in further} == {basis.mix.main}
    assert [case.slo for case in further] == [
        "ttft=2s,tpot=15ms", "ttft=2s,tpot=25ms", "ttft=2s,tpot=100ms", None, None,
    ]  # fmt: skip
    assert [case.tiers for case in further if case.tiers == "auto"] == ["auto"]


def test_a_question_carries_only_numbers_of_its_own_machine() -> None:
    basis, places = Basis.read(), gain_places(Basis.read())
    other = basis.with_("hgx-b200.device.nic", "100 GB/s")
    assert set(CHECKS["C13"].asks(other)) == set(CHECKS["C13"].asks(basis))
    faster = basis.with_("scalex40.device.scale_up.bandwidth", "896 GB/s")
    assert not plans(places, faster, "scalex40") & plans(places, basis, "scalex40")
    for on in basis.mix.baselines:
        assert plans(places, faster, on) == plans(places, basis, on)


def test_servers_with_assumed_links_come_with_worse_and_with_better_ones() -> None:
    basis = Basis.read()
    worse, better = ({item.path: item.value for item in place.links} for place in link_places(basis))
    assert worse["device.scale_up.bandwidth"] == "64000000000.0 byte/s"
    assert better["device.scale_up.bandwidth"] == "200000000000.0 byte/s"
    assert float(worse["scale_up.endpoint"].split()[0]) > float(better["scale_up.endpoint"].split()[0])


def test_a_cell_is_the_ratio_of_two_plans_with_its_interval() -> None:
    basis, finding = judged("C13")
    places = {(place.case.words, place.column): place for place in gain_places(basis)}
    assert len(finding.maps[0].cells) == len(places)
    for cell in finding.maps[0].cells:
        own, other = (estimated(ask) for ask in places[cell.row, cell.column].asks(basis))
        if own.row is None or other.row is None:
            assert cell.value is None
            continue
        ratio = own.row.effective_tok_s_per_device / other.row.effective_tok_s_per_device
        assert cell.value == pytest.approx(ratio)
        assert cell.low is not None
        assert cell.high is not None
        assert cell.low < ratio < cell.high
    assert (finding.computed, finding.low, finding.high) == (best(finding).value, best(finding).low, best(finding).high)
    assert best(finding).row in finding.because[0]
    assert "--on hgx-h200:2" in finding.command
    assert "--on hgx-h20:2" in finding.command


def test_the_gauge_is_the_closed_form_of_the_cell_that_decides() -> None:
    basis, finding = judged("C13")
    gauge = CHECKS["C13"].gauge
    assert gauge is not None
    asks = [ask for ask in gauge.asks(basis, finding) if isinstance(ask, PlanAsk)]
    asked: dict[ClaimAsk, Any] = {ask: ask.answer(None) for ask in asks}
    assert [ask.engine for ask in asks] == [row[2] for row in finding.tables[0].rows if row[0] == best(finding).row]
    assert not any(ask.simulate for ask in asks)
    assert gauge.value(basis, asked, finding) == pytest.approx(finding.computed)


def test_a_machine_as_a_whole_has_as_many_times_more_as_it_has_more_cards() -> None:
    _, finding = judged("C26")
    card, machine = finding.maps
    for one, whole in zip(card.cells, machine.cells, strict=True):
        if one.value is not None:
            assert whole.value == pytest.approx(2 * one.value)
    assert len(single_places(Basis.read(mix=SMALL))) == len(card.cells)
    assert any("per card" in sentence for sentence in finding.conditions)
    assert any("whole machine" in sentence for sentence in finding.conditions)
    assert "2 cards against 1" in finding.because[1]


def test_a_case_that_only_the_supernode_serves_has_no_ratio_and_is_named() -> None:
    basis = Basis.read(mix=SMALL)
    known = answers(basis, "C26")
    nothing: dict[ClaimAsk, Any] = {ask: dataclasses.replace(study, plan=None) for ask, study in known.items()
               if isinstance(ask, PlanAsk) and ask.system == "hgx-h20:1"}  # fmt: skip
    finding = CHECKS["C26"].judge(basis, {**known, **nothing})
    assert {cell.state for cell in finding.maps[0].cells} == {ONLY_SUPERNODE}
    assert (finding.computed, finding.verdict) == (None, "cannot be known")
    assert any("no ratio" in sentence for sentence in finding.conditions)


def test_with_a_price_the_ratio_is_that_of_equal_money(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two simulated plans: estimates have no power and no token shares, so they have no cost."""
    monkeypatch.setattr(gain, "model_cases", lambda basis: model_cases(basis)[:1])
    monkeypatch.setattr(gain, "NEAREST", 0)
    basis = Basis.read(mix=SMALL)
    check = CHECKS["C13"]
    known = {ask: dataclasses.replace(ask, budget="1000 requests").answer(None) for ask in check.asks(basis)}  # type: ignore[type-var]
    free = check.judge(basis, known)
    assert free.computed is not None
    point, *_ = free.turning_points
    for factor, verdict in ((0.95, point.verdict_below), (1.05, point.verdict_above)):
        priced = basis.with_(point.path, f"{point.value * factor!r} USD/system")
        assert check.judge(priced, known).verdict == verdict
    dear, cheap = (check.judge(basis.with_(point.path, f"{price} USD/system"), known) for price in (2e6, 2e5))
    assert dear.computed is not None
    assert cheap.computed is not None
    assert dear.computed < cheap.computed
    assert "per dollar" in dear.because[0]
    assert dear.maps[1] == free.maps[1]  # other links are a range of the ratio at equal cards
    assert free.tables[1].rows[0][0] == "hgx-h20:2"
