"""Ratios over many cases: the verdict, the sentences and the prices that follow from the cells."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.ledger.claims.article import ClaimNumber
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.finding import MapCell
from tokenworks.ledger.claims.ratios import (
    NEITHER,
    ONLY_SERVERS,
    ONLY_SUPERNODE,
    Gain,
    GainPrices,
    best_and_worst,
    conditions,
    honest,
    machine_paths,
    price_paths_of,
    verdict_of,
    with_assumed,
)
from tokenworks.ledger.cost import Served

UP_TO, AT_LEAST = ClaimNumber(relation="up to", value=4.3), ClaimNumber(relation="at least", value=2.2)
PRICE = "prices.systems.scalex40"


def cell(value: float | None, width: float = 2.0, *, row: str = "a case", column: str = "5xhgx-h20",
         state: str = "") -> MapCell:  # fmt: skip
    """A cell with a symmetric interval, or without a ratio."""
    if value is None:
        return MapCell(row, column, None, state=state)
    return MapCell(row, column, value, value / width, value * width)


def gain(value: float | None, width: float = 2.0, *, row: str = "a case", against: str = "5xhgx-h20",
         state: str = "") -> Gain:  # fmt: skip
    """A case in which the servers serve 1,000 tokens a second."""
    own = None if value is None else Served(1000 * value, 1000 * value)
    other = None if value is None else Served(1000.0, 1000.0)
    return Gain(cell(value, width, row=row, column=against, state=state), own, other, "scalex40", against)


CELLS = st.one_of(
    st.builds(cell, st.floats(0.01, 100), st.floats(1, 5)),
    st.sampled_from([cell(None, state=state) for state in (ONLY_SUPERNODE, ONLY_SERVERS, NEITHER)]),
)
ORDER = {"does not hold": 0, "cannot be known": 0, "holds if": 1, "holds": 2}


@pytest.mark.parametrize(
    ("cells", "up_to", "at_least"),
    [
        ([cell(10.0)], "holds", "holds"),
        ([cell(10.0), cell(1.0)], "holds", "holds if"),
        ([cell(3.0)], "does not hold", "holds if"),
        ([cell(5.0)], "holds if", "holds"),
        ([cell(0.5)], "does not hold", "does not hold"),
        ([cell(0.5), cell(None, state=ONLY_SUPERNODE)], "does not hold", "does not hold"),
        ([cell(None, state=ONLY_SUPERNODE)], "cannot be known", "cannot be known"),
        ([cell(10.0), cell(None, state=ONLY_SUPERNODE)], "holds", "holds if"),
        ([cell(0.5), cell(None, state=ONLY_SERVERS)], "does not hold", "does not hold"),
        ([cell(10.0), cell(None, state=NEITHER)], "holds", "holds"),
        ([cell(None, state=NEITHER)], "cannot be known", "cannot be known"),
    ],
)
def test_a_verdict_follows_from_the_values_and_their_low_ends(cells: list[MapCell], up_to: str, at_least: str) -> None:
    assert verdict_of(cells, UP_TO) == up_to
    assert verdict_of(cells, AT_LEAST) == at_least


@given(st.lists(CELLS, min_size=1, max_size=6), CELLS)
def test_one_more_case_never_weakens_up_to(cells: list[MapCell], more: MapCell) -> None:
    assert ORDER[verdict_of([*cells, more], UP_TO)] >= ORDER[verdict_of(cells, UP_TO)]


@given(st.lists(CELLS, min_size=1, max_size=6), st.floats(1, 10))
def test_a_larger_number_is_harder_to_reach(cells: list[MapCell], factor: float) -> None:
    for number in (UP_TO, AT_LEAST):
        harder = number.model_copy(update={"value": number.value * factor})
        assert ORDER[verdict_of(cells, harder)] <= ORDER[verdict_of(cells, number)]


@given(st.lists(st.builds(gain, st.floats(0.01, 100), st.floats(1, 5)), min_size=1, max_size=6))
def test_the_sentence_of_a_salesman_is_true_of_the_cells(gains: list[Gain]) -> None:
    text = honest(gains, does="serves", amount="card")
    shown = re.search(r"up to (\S+) times \((\S+) to (\S+) with", text)
    worst = re.search(rf"worst of {len(gains)} cases it is (\S+) times", text)
    ends = best_and_worst(gains)
    assert shown is not None
    assert worst is not None
    assert ends is not None
    best = ends[0].cell
    assert best.value == max(one.cell.value or 0.0 for one in gains)
    for text_of, value in zip(shown.groups(), (best.value, best.low, best.high), strict=True):
        assert float(text_of) == pytest.approx(value, rel=0.06)
    assert float(worst[1]) == pytest.approx(min(one.cell.value or 0.0 for one in gains), rel=0.06)


def test_a_salesman_names_servers_with_assumed_numbers_and_says_nothing_without_a_ratio() -> None:
    assert "assumed" in honest([gain(2.0)], does="serves", amount="card", assumed=["5xhgx-h20"])
    assert "assumed" not in honest([gain(2.0)], does="serves", amount="card")
    assert honest([gain(None, state=NEITHER)], does="serves", amount="card") == ""


def test_conditions_count_the_cases_and_name_those_without_a_ratio() -> None:
    cases = [gain(5.0, 1.1), gain(3.0, 2.0), gain(1.0, 1.1, row="the worst"),
             gain(None, row="long", state=ONLY_SUPERNODE), gain(0.2, 1.1, against="5xhgx-h100")]  # fmt: skip
    counted, first, alone, other = conditions(cases, UP_TO)
    assert counted == (
        "Cases that reach 4.3: 1 of 4; with the whole 80 % interval: 1; only with its high end: 1. Cases that only the "
        "supernode does, without a ratio: 1."
    )
    assert first == (
        "Against 5xhgx-h20: 1 to 5 times, the most with a case: 5 times (4.5 to 5.5 with 80 % probability). 1 of 3 "
        "cases reach 4.3."
    )
    assert alone == "Against 5xhgx-h20, only the supernode does the work, so there is no ratio: long."
    assert other.startswith("Against 5xhgx-h100: 0.2 to 0.2 times")


@pytest.mark.parametrize("wanted", [0.5, 1.0, 2.0])
def test_at_the_limit_of_the_price_the_gain_for_the_money_is_the_wanted_one(wanted: float) -> None:
    basis, case = Basis.read(), gain(3.0)
    (price,) = GainPrices(basis).limits(case, [wanted])
    priced = GainPrices(basis.with_(PRICE, f"{price!r} USD/system"))
    same = priced.at_equal_money(case)
    assert same is not None
    assert same.cell.value == pytest.approx(wanted)
    assert (same.cell.high or 0.0) / (same.cell.low or 1.0) == pytest.approx(4.0)


def test_without_a_price_there_is_no_ratio_for_the_money() -> None:
    assert GainPrices(Basis.read()).known([gain(3.0)]) is None


@pytest.mark.parametrize("number", [UP_TO, AT_LEAST])
def test_each_break_even_price_flips_the_verdict_when_passed_by_5_percent(number: ClaimNumber) -> None:
    basis, cases = Basis.read(), [gain(9.0, 1.3), gain(4.0, 1.3, against="5xhgx-h200")]
    points = list(GainPrices(basis).turning_points(cases, number))
    assert points
    for point in points:
        assert (point.path, point.unit, point.now) == (PRICE, "USD/system", None)
        for factor, verdict in ((0.95, point.verdict_below), (1.05, point.verdict_above)):
            priced = GainPrices(basis.with_(PRICE, f"{point.value * factor!r} USD/system")).known(cases)
            assert priced is not None
            assert verdict_of([one.cell for one in priced], number) == verdict


def test_the_table_of_prices_has_one_row_for_each_kind_of_servers() -> None:
    cases = [gain(3.0), gain(2.0), gain(1.0, against="5xhgx-h200"), gain(None, against="5xhgx-h100", state=NEITHER)]
    rows = GainPrices(Basis.read()).table(cases, UP_TO).rows
    assert [row[0] for row in rows] == ["5xhgx-h20", "5xhgx-h200"]
    for row in rows:
        cost, equal, more = row[2:]
        assert isinstance(cost, float)
        assert isinstance(equal, float)
        assert isinstance(more, float)
        assert equal > more


def test_paths_are_those_with_a_number() -> None:
    basis = Basis.read()
    paths = list(machine_paths(basis, ["scalex40", "5xbw1000-8"]))
    assert "scalex40.device.peak.fp8" in paths
    assert "bw1000-8.device.peak.fp8" not in paths  # the card has no FP8
    assert "bw1000-8.device.nic" in paths
    assert "scalex40.device.nic" not in paths  # one scale-up domain
    assert all(basis.input(path).value is not None for path in paths)
    assert {"prices.cards.h20", "prices.servers.hgx-h20"} <= set(price_paths_of(basis, ["5xhgx-h20"]))
    assert with_assumed(basis, basis.mix.baselines) == ("5xbw1000-8",)


def test_a_price_of_the_servers_moves_the_limit_of_the_supernode() -> None:
    basis, case = Basis.read(), dataclasses.replace(gain(3.0))
    dearer = basis.with_("prices.cards.h20", "30000 USD/card")
    before, after = (GainPrices(one).limits(case, [1.0]) for one in (basis, dearer))
    assert after > before
