"""`tokenworks.compare_training`: laws of the comparison, and machines that cannot train the model."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import pytest

import tokenworks
from tokenworks.errors import SpecError
from tokenworks.ledger.compare_training import compare_training, train_ratio
from tokenworks.ledger.train_comparison import TrainComparison
from tokenworks.ledger.train_reasons import device_times

MODEL, LARGE = "Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B"
H20, H100, SCALEX = "hgx-h20", "hgx-h100", "scalex40"
RUN: dict[str, Any] = {"tokens": "20B", "batch": "64x4096", "workers": 1}


@functools.cache
def compared(*on: str, model: str = MODEL, **other: Any) -> TrainComparison:
    return compare_training(model, on, **(RUN | other))


def plain(result: TrainComparison) -> str:
    return json.dumps({key: value for key, value in result.plain().items() if key != "wall"})


def test_the_best_machine_is_first_whatever_the_order() -> None:
    one, two = compared(H20, H100, SCALEX), compared(SCALEX, H100, H20)
    figures = [machine.kept_tok_s_per_unit or 0.0 for machine in one.systems]
    assert figures == sorted(figures, reverse=True)
    assert one.plain()["systems"] == two.plain()["systems"]
    assert (one.why, one.ratios) == (two.why, two.ratios)
    assert one.winner is one.systems[0]


def test_the_same_input_gives_the_same_bytes() -> None:
    words: list[str] = []
    again = compare_training(MODEL, [H20, H100], **RUN, progress=words.append)
    assert plain(again) == plain(compared(H20, H100))
    assert any(text.startswith(f"{H20}: ") for text in words)


def test_each_machine_has_the_figures_of_its_own_run() -> None:
    for one in compared(H20, H100).systems:
        run = tokenworks.train(MODEL, one.system, tokens="20B", batch="64x4096", top=1)
        assert one.study.best == run.best
        assert one.devices is not None
        kept = run.best.tok_s * run.goodput.share / one.devices
        assert one.kept_tok_s_per_unit == pytest.approx(kept)
        assert run.tokens / (run.best.days * 86400) / one.devices == pytest.approx(kept)


def test_ratios_are_quotients_with_the_width_of_independent_errors() -> None:
    result = compared(H20, H100)
    first, second = result.systems
    (ratio,) = result.ratios
    assert first.kept_tok_s_per_unit
    assert second.kept_tok_s_per_unit
    assert ratio.value == pytest.approx(first.kept_tok_s_per_unit / second.kept_tok_s_per_unit)
    widths = []
    for one in (first, second):
        assert one.study.best is not None
        low, high = one.study.best.interval["tok_s_per_device"]
        widths.append(math.log(high / low) / 2)
    assert math.log(ratio.high / ratio.low) / 2 == pytest.approx(math.hypot(*widths))
    back = train_ratio(second, first)
    assert (back.low, back.value, back.high) == pytest.approx((1 / ratio.high, 1 / ratio.value, 1 / ratio.low))


def test_parts_of_the_device_time_add_up_to_the_time_of_a_token() -> None:
    for one in compared(H20, H100).systems:
        best = one.study.best
        assert best is not None
        assert sum(device_times(best).values()) == pytest.approx(1 / best.tok_s_per_device, rel=0.01)


@pytest.mark.parametrize("equal", ["power", "racks", "money"])
def test_equal_amounts_divide_the_same_tokens(equal: Any) -> None:
    base, other = compared(H20, H100), compared(H20, H100, equal=equal)
    whole = {one.system: (one.kept_tok_s_per_unit or 0) * (one.devices or 0) for one in base.systems}
    for one in other.systems:
        assert one.amount is not None
        assert (one.kept_tok_s_per_unit or 0) * one.amount == pytest.approx(whole[one.system])
    assert other.unit in {"kW", "rack", "USD an hour"}


def test_a_run_costs_the_hours_that_it_takes() -> None:
    for one in compared(H20, H100).systems:
        assert one.cost is not None
        assert one.cost.per_hour is not None
        assert one.run_cost is not None
        assert one.study.best is not None
        assert one.run_cost.mid == pytest.approx(one.cost.per_hour.mid * one.study.best.days * 24)
        assert one.cost.terms.utilisation == 1.0


def test_spares_keep_at_least_as_much_as_waiting() -> None:
    spare, wait = (compared(H20, H100, after_failure=after) for after in ("spare", "wait"))
    for one, other in zip(spare.systems, wait.systems, strict=True):
        assert one.system == other.system
        assert (one.kept_tok_s_per_unit or 0) >= (other.kept_tok_s_per_unit or 0)


def test_numbers_of_one_machine_change_that_machine_alone() -> None:
    before = compared(H20, H100)
    after = compare_training(MODEL, [H20, H100], **RUN, assume_of={H20: {"device.hbm.bandwidth": "2 TB/s"}})
    values = [{one.system: one.kept_tok_s_per_unit for one in result.systems} for result in (before, after)]
    assert values[0][H100] == values[1][H100]
    assert values[0][H20] > values[1][H20]  # type: ignore[operator]
    assert "machine.device.hbm.bandwidth=2 TB/s" in next(
        one.study.command for one in after.systems if one.system == H20
    )


# ── machines that cannot train the model ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("on", [(H20, "pcie-l40s:1"), ("pcie-l40s:1", H20)])
def test_a_machine_that_is_too_small_has_a_reason(on: tuple[str, str]) -> None:
    result = compared(*on, model=LARGE)
    assert [one.system for one in result.systems] == [H20, "pcie-l40s:1"]
    assert result.systems[1].error
    assert result.systems[1].study.exit_code == 3
    assert result.why[-1] == "No other machine has a value."


def test_numbers_that_nobody_published_have_a_way_out() -> None:
    result = compared(H20, "kunlun-32")
    assert result.systems[-1].system == "kunlun-32"
    assert "--assume" in result.systems[-1].error


def test_no_machine_trains_the_model() -> None:
    result = compared("hgx-h20:1", "pcie-l40s:1", model=LARGE)
    assert result.winner is None
    assert result.why == ("No machine has a value.",)
    assert result.headline == "none of 2 machines has a value"


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "on", "other", "words"),
    [
        (MODEL, [H20], {}, "needs two machines"),
        (MODEL, [H20, H20], {}, "given twice"),
        (MODEL, [H20, "hgx-h2000"], {}, "did you mean"),
        ("Qwen/Qwen3-0.7B", [H20, H100], {}, "unknown model"),
        (MODEL, [H20, H100], {"batch": None}, "no batch"),
        (MODEL, [H20, H100], {"tokens": "many"}, "--tokens"),
        (MODEL, [H20, H100], {"tokens": "0"}, "--tokens"),
        (MODEL, [H20, H100], {"storage": "fast"}, "--storage"),
        (MODEL, [H20, H100], {"storage": "0 GB/s"}, "--storage"),
        (MODEL, [H20, H100], {"seq": 10**9}, "--seq"),
        (MODEL, [H20, H100], {"reliability": "publishd"}, "failure rates"),
        (MODEL, [H20, H100], {"assume": {"workload.isl": "5"}}, "reads no numbers of workload"),
        (MODEL, [H20, H100], {"assume_of": {SCALEX: {"device.tdp": "1 kW"}}}, "is not compared"),
        (MODEL, [H20, H100], {"prices": "no-such.yaml"}, "no such file"),
    ],
)
def test_bad_input_is_refused_before_any_search(model: str, on: list[str], other: dict[str, Any], words: str) -> None:
    def never(_: str) -> None:
        raise AssertionError("a search began")

    with pytest.raises(SpecError, match=words):
        compare_training(model, on, **(RUN | other), progress=never)
