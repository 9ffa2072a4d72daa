"""Availability in a comparison: laws of the closed form, and what `availability` says of the same deployment."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenworks
from tests.ledger.availability_cases import RATES, scaled
from tests.ledger.comparisons import H20, L40S, SMALL, WORK, compared, row
from tokenworks.errors import SpecError
from tokenworks.ledger.compare import compare
from tokenworks.ledger.reasons import reasons
from tokenworks.ledger.uptime import mix_capacity, system_uptime
from tokenworks.specs.reliability import load_reliability

pytestmark = pytest.mark.usefixtures("kernel")


def test_a_machine_serves_at_least_as_often_as_it_has_capacity() -> None:
    for one in compared(H20, L40S).systems:
        (answer,) = one.answers
        assert answer.uptime is not None
        assert 0 < answer.uptime.capacity <= answer.uptime.serves < 1
        assert one.capacity == pytest.approx(answer.uptime.capacity)
        assert one.effective_tok_s_per_unit is not None
        assert one.expected_tok_s_per_unit == pytest.approx(one.effective_tok_s_per_unit * answer.uptime.capacity)


def test_the_closed_form_is_that_of_availability() -> None:
    """One device has no links whose loss only slows it, so no capacity of a condition is estimated."""
    one = row(compared(H20, L40S), H20)
    (answer,) = one.answers
    assert answer.plan is not None
    assert answer.uptime is not None
    assert one.uptime is not None
    whole = tokenworks.availability(H20, seeds=1)
    assert one.uptime.whole == pytest.approx(1 - whole.whole.closed_form_s / (365 * 86400), abs=1e-6)
    found = tokenworks.availability(H20, deployment=answer.plan.document(), seeds=1)
    assert found.deployment is not None
    for name in ("serves", "capacity"):
        lost_s = getattr(found.deployment, name).closed_form_s
        assert getattr(answer.uptime, name) == pytest.approx(1 - lost_s / (365 * 86400), abs=1e-6)


def test_more_failures_and_longer_repairs_leave_less() -> None:
    before = compared(H20, L40S)
    rates = scaled(1.0)
    few, much, slow = (
        {one.system: one for one in compare(SMALL, [H20, L40S], **WORK, reliability=chosen).systems}
        for chosen in (rates, scaled(2.0), scaled(1.0, repair="24 h"))
    )
    for one in before.systems:
        capacities = [found[one.system].capacity or 0.0 for found in (few, much, slow)]
        assert capacities[0] > max(capacities[1:])
        for found in (few, much, slow):
            assert found[one.system].effective_tok_s_per_unit == one.effective_tok_s_per_unit
            assert found[one.system].costs == one.costs


@given(st.lists(st.tuples(st.floats(0.5, 1), st.floats(1, 1e6), st.floats(0.01, 1)), min_size=1, max_size=4))
def test_the_capacity_of_a_mix_lies_between_those_of_its_models(models: list[tuple[float, float, float]]) -> None:
    capacities, rates, weights = ([one[at] for one in models] for at in range(3))
    shares = {str(at): weight / sum(weights) for at, weight in enumerate(weights)}
    mix = mix_capacity(capacities, rates, shares)
    assert min(capacities) * (1 - 1e-9) <= mix <= max(capacities) * (1 + 1e-9)
    expected = 1 / sum(s / (r * c) for s, r, c in zip(shares.values(), rates, capacities, strict=True))
    assert mix == pytest.approx(expected * sum(s / r for s, r in zip(shares.values(), rates, strict=True)))


def test_a_reason_names_failures_that_change_the_order() -> None:
    result = compared(H20, L40S)
    first, second = result.systems
    assert not any("Failures" in line for line in result.why)
    assert first.effective_tok_s_per_unit is not None
    assert second.effective_tok_s_per_unit is not None
    share = 0.9 * second.effective_tok_s_per_unit / first.effective_tok_s_per_unit
    worse = dataclasses.replace(first, capacity=share)
    better = dataclasses.replace(second, capacity=1.0)
    lines = reasons((worse, better), result.ratios, "device", result.models)
    assert lines[-1].startswith(f"Failures change this order: in the mean over a long time {second.system} gives")
    assert "mostly by failures of its parts of the kind" in lines[-1]


def test_parts_that_cannot_be_counted_have_no_availability() -> None:
    with pytest.raises(SpecError, match="torus"):
        system_uptime("tpu-v6e-pod", (), load_reliability())


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ("publishd", "failure rates"),
        (RATES | {"repair": "0 s"}, "no part is replaced in no time"),
        ({key: value for key, value in RATES.items() if key != "parts"}, "availability needs it"),
    ],
)
def test_bad_rates_are_refused_before_any_plan(rates: object, words: str) -> None:
    def never(_: str) -> None:
        raise AssertionError("a plan began")

    with pytest.raises(SpecError, match=words):
        compare(SMALL, [H20, L40S], **WORK, reliability=rates, progress=never)  # type: ignore[arg-type]
