"""Why one machine wins: the sentences name the parts that make the difference, with figures that the study has."""

from __future__ import annotations

import dataclasses
import re

import pytest

from tests.ledger.comparisons import H20, H100, L40S, SMALL, compared, row
from tokenworks.ledger.compare_machines import Ratio
from tokenworks.ledger.comparison import Compared
from tokenworks.ledger.reasons import reasons, resource

pytestmark = pytest.mark.usefixtures("kernel")


def spent(one: Compared, seconds: dict[str, float], *, model: int = 0) -> Compared:
    """A machine whose device time per output token is written by hand."""
    answers = list(one.answers)
    best = answers[model].best
    assert best is not None
    answers[model] = dataclasses.replace(answers[model], best=dataclasses.replace(best, spent=seconds, roofs={}))
    return dataclasses.replace(one, answers=tuple(answers))


def pair() -> tuple[Compared, Compared, Ratio]:
    result = compared(H20, L40S)
    return result.systems[0], result.systems[1], result.ratios[0]


def test_the_sentences_of_a_comparison() -> None:
    result = compared(H20, L40S)
    first, second = result.why
    assert first.startswith(f"{H20} wins with ")
    assert "effective tokens/s per device" in first
    assert f"{result.ratios[0].value:.3g} times the tokens of {L40S}" in second
    assert "Largest differences: " in second
    assert "80 % interval" in second


def test_the_time_of_the_sentence_is_the_time_that_the_throughput_has() -> None:
    """The parts of a machine add up to 1 / (output tokens per second and device)."""
    for one in compared(H20, L40S).systems:
        (answer,) = one.answers
        assert answer.best is not None
        assert one.devices is not None
        assert sum(answer.best.spent.values()) == pytest.approx(one.devices / answer.best.output_tok_s, rel=1e-6)


def test_parts_are_named_by_their_difference() -> None:
    winner, other, ratio = pair()
    fast = spent(winner, {"experts": 1e-6, "attention": 4e-6, "norms": 1.00e-6, "router": 1e-6})
    slow = spent(other, {"experts": 21e-6, "attention": 3e-6, "norms": 1.01e-6, "router": 1.01e-6})
    (_, text) = reasons([fast, slow], [ratio], "device", {SMALL: 1.0})
    assert re.search(r"differences: experts 20 us less \(1 us against 21 us\); attention 1 us more", text)
    assert "norms" not in text
    assert "router" not in text


def test_the_model_that_takes_most_time_explains_a_mix_on_both_machines() -> None:
    """Each machine alone has another heaviest model; the sentence compares one model with itself."""
    winner, other, ratio = pair()
    names = ("light", "heavy")

    def two(one: Compared, times: tuple[float, float]) -> Compared:
        answers = tuple(dataclasses.replace(one.answers[0], model=name) for name in names)
        one = dataclasses.replace(one, answers=answers)
        for number, seconds in enumerate(times):
            one = spent(one, {"experts": seconds}, model=number)
        return one

    machines = [two(winner, (3e-6, 2e-6)), two(other, (4e-6, 90e-6))]
    headline, text = reasons(machines, [ratio], "device", {"light": 0.5, "heavy": 0.5})
    assert "for light" in headline
    assert "for heavy" in headline
    assert f"an output token of heavy takes 2 us of device time on {H20}, 90 us on {L40S}" in text
    _, text = reasons(machines, [ratio], "device", {"light": 0.99, "heavy": 0.01})
    assert "an output token of light" in text


def test_other_equal_amounts_say_how_many_devices_a_unit_is() -> None:
    winner, other, ratio = pair()
    winner, other = dataclasses.replace(winner, amount=0.5), dataclasses.replace(other, amount=0.25)
    (_, text) = reasons([winner, other], [ratio], "kW", {SMALL: 1.0})
    assert f"where one kW is 2 devices of {H20} or 4 of {L40S}" in text


def test_machines_without_a_value() -> None:
    winner, other, _ = pair()
    none = dataclasses.replace(other, effective_tok_s_per_unit=None, error="too small")
    assert reasons([none], [], "device", {SMALL: 1.0}) == ("No machine has a value.",)
    assert reasons([winner, none], [], "device", {SMALL: 1.0})[1] == "No other machine has a value."


def test_the_figure_of_a_resource_is_that_of_the_machine() -> None:
    (answer,) = row(compared(H20, L40S, H100), H100).answers
    assert resource(answer, "hbm").words == "3.35 TB/s"
    assert resource(answer, "compute").words == "989 BF16 TFLOP/s"
    assert not resource(answer, "host")
