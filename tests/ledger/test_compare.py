"""`tokenworks.compare`: laws of the comparison, and what happens to machines that cannot do the work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ledger.comparisons import H20, H100, HUGE, L40S, LARGE, SMALL, WORK, compared, row
from tests.ledger.test_cost import PRICES, hardware
from tokenworks.errors import SpecError, TokenworksError
from tokenworks.ledger.break_even import Effect
from tokenworks.ledger.compare import compare
from tokenworks.ledger.compare_axes import Axis, numbers_at
from tokenworks.ledger.compare_rank import ratio_of
from tokenworks.ledger.comparison import Compared, Comparison
from tokenworks.ledger.cost import cost
from tokenworks.ledger.curves import Crossover
from tokenworks.ledger.priced import Priced, served
from tokenworks.ledger.study import Study
from tokenworks.ledger.terms import terms_of
from tokenworks.planning.setting import workload_of
from tokenworks.specs.workload import Workload

pytestmark = pytest.mark.usefixtures("kernel")
LITTLE = "1000 requests"
CUPBOARD = {"name": "cupboard", "racks": 1, "rack_power": "1 kW"}


def values(result: Comparison) -> dict[str, float | None]:
    return {one.system: one.effective_tok_s_per_unit for one in result.systems}


def plain(result: Comparison) -> str:
    return json.dumps({key: value for key, value in result.plain().items() if key != "wall"})


def altered(answer: Study, **fields: Any) -> Study:
    """A study whose best deployment does something else."""
    assert answer.best is not None
    return dataclasses.replace(answer, best=dataclasses.replace(answer.best, **fields))


# ── laws ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_order_of_the_machines_changes_no_value() -> None:
    one, two = compared(H20, L40S, H100), compared(H100, L40S, H20)
    assert values(one) == values(two)
    assert [machine.system for machine in one.systems] == [machine.system for machine in two.systems]
    assert (one.why, one.ratios, one.crossovers) == (two.why, two.ratios, two.crossovers)


def test_two_processes_give_the_same_bytes_as_one() -> None:
    words: list[str] = []
    two = compare(SMALL, [H20, L40S], **(WORK | {"workers": 2}), progress=words.append)
    assert plain(two) == plain(compared(H20, L40S))
    assert any(text.startswith(f"{H20}: ") for text in words)


def test_the_best_machine_is_first_and_its_ratios_are_quotients() -> None:
    result = compared(H20, L40S, H100)
    figures = [one.effective_tok_s_per_unit or 0.0 for one in result.systems]
    assert figures == sorted(figures, reverse=True)
    assert result.winner is result.systems[0]
    for ratio, other in zip(result.ratios, figures[1:], strict=True):
        assert ratio.value == pytest.approx(figures[0] / other)
        assert ratio.low < ratio.value < ratio.high


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_correlated_errors_make_the_interval_of_a_ratio_narrower(correlation: float) -> None:
    one, two = compared(H20, L40S).systems
    alone, together = ratio_of(one, two, 0.0), ratio_of(one, two, correlation)
    assert together.high / together.low <= alone.high / alone.low * (1 + 1e-9)


@settings(deadline=None)
@given(st.floats(0.01, 1), st.floats(0.1, 10))
def test_a_fleet_mix_is_the_harmonic_mean(share: float, factor: float) -> None:
    """A share s of the tokens at rate a and the rest at rate b take s / a + (1 - s) / b seconds a token."""
    (answer,) = row(compared(H20, L40S), H20).answers
    assert answer.best is not None
    rate = answer.best.effective_tok_s
    other = altered(
        answer, effective_tok_s=rate * factor, output_tok_s=answer.best.output_tok_s * factor,
        input_tok_s=answer.best.input_tok_s * factor,
    )  # fmt: skip
    shares = {"one": share, "two": 1 - share} if share < 1 else {"one": 1.0}
    mix = served([answer, other][: len(shares)], shares)
    assert mix.effective_tok_s == pytest.approx(1 / (share / rate + (1 - share) / (rate * factor)))
    assert mix.input_share + mix.cached_share + mix.output_share == pytest.approx(1)
    assert mix.effective_tok_s <= mix.output_tok_s


def test_equal_models_in_a_mix_are_the_model_alone() -> None:
    (answer,) = row(compared(H20, L40S), H20).answers
    alone, mix = served([answer], {"a": 1.0}), served([answer, answer], {"a": 0.3, "b": 0.7})
    for field in dataclasses.fields(alone):
        assert getattr(mix, field.name) == pytest.approx(getattr(alone, field.name))


@settings(deadline=None)
@given(st.floats(1.001, 100), st.sampled_from(["buy", "rent"]))
def test_more_effective_tokens_at_equal_cost_are_cheaper(factor: float, pay: Any) -> None:
    (answer,) = row(compared(H100, L40S), H100).answers
    machine, terms = hardware(H100), terms_of(PRICES, pay=pay)
    few = served([answer], {SMALL: 1.0})
    much = dataclasses.replace(
        few, effective_tok_s=few.effective_tok_s * factor, output_tok_s=few.output_tok_s * factor
    )
    before, after = (cost(machine, one, PRICES, terms) for one in (few, much))
    assert before.per_hour == after.per_hour
    assert before.per_million_effective is not None
    assert after.per_million_effective is not None
    assert after.per_million_effective.mid == pytest.approx(before.per_million_effective.mid / factor)


def test_shares_are_normalised() -> None:
    mixes = [
        compare({SMALL: first, "Qwen/Qwen3-1.7B": second}, [H20, L40S], **WORK)
        for first, second in ((3, 1), (0.75, 0.25))
    ]
    assert plain(mixes[0]) == plain(mixes[1])
    assert mixes[0].models == {SMALL: 0.75, "Qwen/Qwen3-1.7B": 0.25}
    for one in mixes[0].systems:
        rates = [answer.best.effective_tok_s for answer in one.answers if answer.best]
        assert one.effective_tok_s_per_unit == pytest.approx(1 / (0.75 / rates[0] + 0.25 / rates[1]))
        assert min(rates) <= (one.effective_tok_s_per_unit or 0) <= max(rates)


@pytest.mark.parametrize(("equal", "unit"), [("power", "kW"), ("racks", "rack"), ("money", "USD an hour")])
def test_equal_amounts_divide_the_same_tokens(equal: Any, unit: str) -> None:
    base, other = compared(H20, H100), compared(H20, H100, equal=equal)
    assert other.unit == unit
    for one in other.systems:
        assert one.amount is not None
        assert (one.effective_tok_s_per_unit or 0) * one.amount == pytest.approx(values(base)[one.system])
    if equal == "money":
        for one in other.systems:
            assert one.costs.cost is not None
            assert one.costs.cost.per_hour is not None
            assert one.amount == one.costs.cost.per_hour.mid


@pytest.mark.parametrize("axis", ["context", "reuse"])
def test_crossovers_of_another_axis_agree_with_a_comparison_at_their_ends(axis: Axis) -> None:
    result = compared(H20, L40S, crossover=(axis,), budget=LITTLE)
    work = Workload(name="work", isl=1000, osl=100)
    others = ("output_tok_s_per_user", f"price of {H20}", f"price of {L40S}")
    assert all(one.axis in (axis, *others) for one in result.crossovers)
    for change in (one for one in result.crossovers if one.axis == axis):
        assert change.low < change.high
        for value, name in ((change.low, change.below), (change.high, change.above)):
            winner = compared(H20, L40S, budget=LITTLE, assume=numbers_at(axis, work, value)).winner
            assert (winner.system if winner else None) == name


def test_reuse_moves_the_break_even_price_as_two_comparisons_say() -> None:
    """The effect of reuse is the break-even price of the comparisons at 0 % and at 25 % of the input."""
    alone, result = compared(H20, H100, budget=LITTLE), compared(H20, H100, crossover=("reuse",), budget=LITTLE)
    work = Workload(name="work", isl=1000, osl=100)
    more = compared(H20, H100, budget=LITTLE, assume=numbers_at("reuse", work, 0.25))
    for name, rival in ((H20, H100), (H100, H20)):
        before, after = ({one.name: one for one in costs(each, name).effects} for each in (alone, result))
        assert after.pop("reuse") == Effect(
            "reuse", "0% of the input", "25% of the input",
            *(price_against(each, name, rival) for each in (alone, more)),
        )  # fmt: skip
        assert after == before


def test_the_price_crossover_is_the_break_even_price_against_the_cheapest_rival() -> None:
    result = compared(H20, H100, L40S, budget=LITTLE)
    priced = {one.axis: one for one in result.crossovers if one.axis.startswith("price of ")}
    assert priced
    cheapest = min(
        (one for one in result.systems if one.costs.cost and one.costs.cost.per_million_effective),
        key=lambda one: one.costs.cost.per_million_effective.mid,  # type: ignore[union-attr]
    ).system
    for name in (H20, H100, L40S):
        against = {rival.name: rival.break_even for rival in costs(result, name).rivals if "API" not in rival.name}
        rival = min(against, key=lambda other: against[other].rival_per_million)
        assert cheapest in (rival, name)
        price = against[rival].price
        if price is None or price.mid < 0:
            assert f"price of {name}" not in priced
        else:
            assert priced.pop(f"price of {name}") == Crossover(f"price of {name}", price.mid, price.mid, name, rival)
    assert not priced


def costs(result: Comparison, name: str) -> Priced:
    return next(one.costs for one in result.systems if one.system == name)


def price_against(result: Comparison, name: str, rival: str) -> float:
    price = next(one.break_even.price for one in costs(result, name).rivals if one.name == rival)
    assert price is not None
    return price.mid


@given(st.sampled_from(["agent", "chat", "summarise"]), st.just(0.0) | st.floats(0.001, 0.99), st.floats(0.1, 10))
def test_a_workload_is_possible_at_each_value_of_an_axis(name: str, reuse: float, factor: float) -> None:
    """Agent has cold turns: with less reuse its variation would be more than its lengths allow."""
    base = read_workload(name)
    other = read_workload(name, assume=numbers_at("reuse", base, reuse))
    assert (other.hit_share, other.isl) == (reuse, base.isl)
    if base.hit_share:
        assert other.reused_context == pytest.approx(base.reused_context * reuse / base.hit_share)
    longer = read_workload(name, assume=numbers_at("context", base, base.isl * factor))
    assert longer.isl == pytest.approx(base.isl * factor)
    assert longer.reused_context / longer.isl == pytest.approx(base.reused_context / base.isl)
    assert (longer.hit_share, longer.uncached_cv) == (base.hit_share, base.uncached_cv)


def read_workload(name: str, assume: Any = ()) -> Workload:
    return workload_of(name, isl=None, osl=None, rate=None, concurrency=None, assume=assume)


# ── machines that cannot do the work ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("on", [(H20, L40S), (L40S, H20)])
def test_a_model_too_large_for_one_machine(on: tuple[str, str]) -> None:
    """The other machine answers, whichever is named first."""
    result = compared(*on, model=LARGE)
    assert [one.system for one in result.systems] == [H20, L40S]
    assert "does not fit" in row(result, L40S).error
    assert result.ratios == ()


@pytest.mark.parametrize("on", [(H20, "kunlun-32"), ("kunlun-32", H20)])
def test_numbers_that_nobody_published(on: tuple[str, str]) -> None:
    result = compared(*on)
    assert result.winner is not None
    assert result.winner.system == H20
    assert "--assume" in row(result, "kunlun-32").error


def test_one_of_several_models_does_not_fit() -> None:
    result = compare({SMALL: 1, LARGE: 1}, [H20, L40S], **WORK)
    without = row(result, L40S)
    assert without.effective_tok_s_per_unit is None
    assert without.error.startswith(f"{LARGE}: ")
    assert [bool(answer.error) for answer in without.answers] == [False, True]


def test_no_machine_has_a_value() -> None:
    result = compared(H20, L40S, model=HUGE)
    assert result.winner is None
    assert result.why == ("No machine has a value.",)
    assert all(answer.exit_code == 3 for one in result.systems for answer in one.answers)


def test_a_machine_that_does_not_stand_in_the_room_is_out() -> None:
    result = compare(SMALL, [H20, L40S], **WORK, room=CUPBOARD)
    out = row(result, H20)
    assert (out.effective_tok_s_per_unit, out.costs.placed) == (None, None)
    assert "does not fit cupboard" in out.error
    assert result.winner is not None
    assert result.winner.system == L40S


def test_a_room_changes_nothing_for_machines_that_stand_in_it() -> None:
    """H20 does not fit, and the price of the other one has no rival left."""
    room = {"name": "basement", "racks": 1, "rack_power": "9 kW"}
    result = compare(SMALL, [H20, H100], **WORK, room=room)
    inside = row(result, H20)
    assert row(result, H100).error.startswith(f"{H100} does not fit basement")
    assert inside.effective_tok_s_per_unit == row(compared(H20, H100), H20).effective_tok_s_per_unit
    assert [rival for rival in inside.costs.rivals if rival.name == H100] == []


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("models", "on", "other", "words"),
    [
        (SMALL, [H20], {}, "needs two machines"),
        (SMALL, [H20, H20], {}, "given twice"),
        (SMALL, [H20, "hgx-h2000"], {}, "did you mean"),
        ("Qwen/Qwen3-0.7B", [H20, L40S], {}, "unknown model"),
        ([], [H20, L40S], {}, "no model"),
        ([SMALL, SMALL], [H20, L40S], {}, "given twice"),
        ({SMALL: 0}, [H20, L40S], {}, "0 is no share"),
        ({SMALL: float("inf")}, [H20, L40S], {}, "inf is no share"),
        (SMALL, [H20, L40S], {"utilisation": []}, "no utilisation"),
        (SMALL, [H20, L40S], {"utilisation": [0.5, 1.5]}, "1.5 is not possible"),
        (SMALL, [H20, L40S], {"budget": "much"}, "--budget"),
        (SMALL, [H20, L40S], {"api": "nobody/has-this"}, "--api"),
        (SMALL, [H20, L40S], {"assume_of": {H100: {"device.tdp": "1 kW"}}}, "is not compared"),
        (SMALL, [H20, L40S], {"assume_of": {H20: {"workload.isl": "5"}}}, "belongs to the workload"),
        (SMALL, [H20, L40S], {"room": {"racks": 1, "windows": 2}}, "windows"),
    ],
)
def test_bad_input_is_refused_before_any_plan(models: Any, on: list[str], other: dict[str, Any], words: str) -> None:
    def never(_: str) -> None:
        raise AssertionError("a plan began")

    with pytest.raises(SpecError, match=words):
        compare(models, on, **(WORK | other), progress=never)


def test_errors_are_errors_of_the_tree(tmp_path: Path) -> None:
    with pytest.raises(TokenworksError, match="no such file"):
        compare(SMALL, [H20, L40S], **WORK, prices=tmp_path / "none.yaml")


def test_the_value_of_a_machine_is_that_of_its_plan() -> None:
    def value(one: Compared) -> float:
        best = one.answers[0].row
        assert best is not None
        return best.effective_tok_s_per_device

    for one in compared(H20, L40S).systems:
        assert one.effective_tok_s_per_unit == pytest.approx(value(one))
