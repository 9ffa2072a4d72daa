"""Curves pass through their points, and their crossings are where a scan of many speeds sees another winner."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.ledger.curves import Curve, crossings

NAMES = ("a", "b", "c")


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    """A Pareto front: faster points, with less throughput; fastest first."""
    speeds = draw(st.lists(st.integers(1, 400), min_size=1, max_size=6, unique=True))
    outputs = draw(st.lists(st.integers(1, 10_000), min_size=len(speeds), max_size=len(speeds), unique=True))
    return Curve(np.array(sorted(speeds, reverse=True), float), np.array(sorted(outputs), float))


FAMILIES = st.lists(curves(), min_size=1, max_size=3).map(lambda some: dict(zip(NAMES, some, strict=False)))


def highest(family: dict[str, Curve], speed: float) -> dict[str, float]:
    return {name: float(curve.at(np.array([speed]))[0]) for name, curve in family.items()}


@given(curves())
def test_a_curve_passes_through_its_points(curve: Curve) -> None:
    assert curve.at(curve.speed) == pytest.approx(curve.output)


@given(curves(), st.floats(0.1, 500))
def test_a_curve_falls_with_speed_and_ends_at_its_fastest_point(curve: Curve, speed: float) -> None:
    slower, value = curve.at(np.array([speed * 0.9, speed]))
    assert value <= slower * (1 + 1e-9)
    if speed > curve.speed[0] * (1 + 1e-9):
        assert value == 0
    elif speed <= curve.speed[-1]:
        assert value == pytest.approx(curve.output[-1])


@given(FAMILIES, st.lists(st.floats(0, 1), max_size=30))
def test_between_crossings_the_named_machine_wins(family: dict[str, Curve], places: list[float]) -> None:
    """Brute force: at any speed between two crossings no machine is better than the one that both of them name."""
    every = np.concatenate([curve.speed for curve in family.values()])
    changes = crossings(family)
    edges = [every.min(), *(change.low for change in changes), every.max()]
    assert edges == sorted(edges)
    for before, after in itertools.pairwise(changes):
        assert before.above == after.below
    if not changes:
        winners = [name for name in family if all(_leads(family, name, speed) for speed in _speeds(edges, places))]
        assert winners
        return
    leaders = [changes[0].below, *(change.above for change in changes)]
    for leader, (low, high) in zip(leaders, itertools.pairwise(edges), strict=True):
        assert leader is not None
        assert all(_leads(family, leader, speed) for speed in _speeds([low, high], places))


def _speeds(edges: list[float], places: list[float]) -> list[float]:
    """Speeds between the first and the last edge, without the edges themselves."""
    low, high = np.log(edges[0]) + 1e-6, np.log(edges[-1]) - 1e-6
    return [float(np.exp(low + place * (high - low))) for place in places] if low < high else []


def _leads(family: dict[str, Curve], name: str, speed: float) -> bool:
    values = highest(family, speed)
    return values[name] >= max(values.values()) * (1 - 1e-6)


@given(FAMILIES)
def test_a_crossing_names_two_machines(family: dict[str, Curve]) -> None:
    for change in crossings(family):
        assert change.axis == "output_tok_s_per_user"
        assert change.below != change.above
        assert change.low == change.high


@given(FAMILIES, st.floats(0.01, 100))
def test_another_unit_for_all_machines_moves_no_crossing(family: dict[str, Curve], factor: float) -> None:
    scaled = {name: Curve(curve.speed, curve.output * factor) for name, curve in family.items()}
    before, after = crossings(family), crossings(scaled)
    assert [(one.below, one.above) for one in before] == [(one.below, one.above) for one in after]
    assert [one.low for one in before] == pytest.approx([one.low for one in after], rel=1e-6)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ({}, []),
        ({"a": [(10, 1)]}, []),
        ({"a": [(10, 100)], "b": [(20, 50)]}, [(10, "a", "b")]),
        ({"a": [(20, 50)], "b": [(20, 50)]}, []),
        ({"a": [(100, 1), (1, 100)], "b": [(100, 10), (1, 10)]}, [(10, "a", "b")]),
        # three lines that cross in one interval: each leads for a part of it
        (
            {"a": [(100, 1), (1, 1000)], "b": [(100, 10), (1, 100)], "c": [(100, 20), (1, 20)]},
            [(10 ** 1.0, "a", "b"), (10 ** 1.39794, "b", "c")],
        ),
    ],
)  # fmt: skip
def test_crossings_by_hand(family: dict[str, Any], changes: list[tuple[float, str, str]]) -> None:
    points = {name: np.array(one, float) for name, one in family.items()}
    answers = crossings({name: Curve(one[:, 0], one[:, 1]) for name, one in points.items()})
    assert [(one.below, one.above) for one in answers] == [(below, above) for _, below, above in changes]
    assert [one.low for one in answers] == pytest.approx([speed for speed, _, _ in changes], rel=1e-4)
