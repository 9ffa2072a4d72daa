"""Knees, curves and the ranking of inputs, on functions whose answer is known."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from tokenworks.errors import SpecError
from tokenworks.ledger.sweep_axes import LATIN, SweepAxis, SweepDesign
from tokenworks.ledger.sweep_file import load_sweep
from tokenworks.ledger.sweep_paths import SweptPath
from tokenworks.ledger.sweep_reading import curve_axis, curve_column, curves_of, effects_of, knee_of, ranks


def axis(name: str, values: list[Any]) -> SweepAxis:
    return SweepAxis(name, (SweptPath(name, "number"),), tuple((value,) for value in values))


def swept(design: SweepDesign, function: Any) -> list[dict[str, Any]]:
    rows = [design.at(number) for number in range(len(design))]
    return [{**row, "y": function(**row)} for row in rows]


def test_the_knee_of_a_known_curve() -> None:
    """y = 1 - 1/x on 1 to 4: the distance from the chord (1 - 1/x) - (x - 1)/4 is largest at x = 2 (by hand)."""
    x = np.linspace(1, 4, 31)
    knee = knee_of(x.tolist(), (1 - 1 / x).tolist())
    assert knee is not None
    assert knee.x == pytest.approx(2.0)
    assert knee.distance == pytest.approx((0.5 - 0.25) / 0.75)


def test_a_knee_below_the_chord_is_negative() -> None:
    knee = knee_of([1, 2, 3, 4, 5], [1, 1, 1, 1, 9])
    assert knee is not None
    assert knee.x == 4
    assert knee.distance == pytest.approx(-0.75)


def test_a_log_axis_moves_the_knee() -> None:
    x = [8.0, 16, 32, 64, 640]
    y = [1.0, 5, 6, 6.5, 7]
    linear, log = knee_of(x, y), knee_of(x, y, "log")
    assert linear is not None
    assert log is not None
    assert (linear.x, log.x) == (64, 32)  # distances 0.83 and 0.52, by hand


@pytest.mark.parametrize("y", [[1, 1, 1], [1, 2, 3], [1, 2.05, 3], [1, 2], []])
def test_a_straight_or_short_curve_has_no_knee(y: list[float]) -> None:
    assert knee_of(list(range(len(y))), y) is None


@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=12), st.integers(1, 1000), st.integers(-1000, 1000))
def test_units_do_not_move_the_knee(y: list[int], factor: int, shift: int) -> None:
    x = [float(k) for k in range(len(y))]
    one, other = knee_of(x, y), knee_of([factor * value + shift for value in x], y)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert abs(one.distance) == pytest.approx(abs(other.distance), rel=1e-6)


def test_curves_leave_out_points_without_a_result() -> None:
    design = SweepDesign((axis("a", [1, 2, 3]), axis("b", ["u", "v"])))
    rows = swept(design, lambda a, b: None if (a, b) == (2, "v") else float(a))
    curves = curves_of(design, rows, design.axes[0], "y")
    assert [(curve.at, curve.x) for curve in curves] == [({"b": "u"}, (1, 2, 3)), ({"b": "v"}, (1, 3))]


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_main_effects_of_a_sum_are_its_shares_of_the_variance(first: float, second: float) -> None:
    design = SweepDesign((axis("a", [0, 1, 2, 3]), axis("b", [0, 1, 2, 3]), axis("c", ["u", "v"])))
    effects = effects_of(design, swept(design, lambda a, b, c: first * a - second * b), "y")
    shares = {effect.path: effect.share for effect in effects}
    assert shares["a"] == pytest.approx(first**2 / (first**2 + second**2))
    assert shares["b"] == pytest.approx(second**2 / (first**2 + second**2))
    assert shares["c"] == pytest.approx(0, abs=1e-9)
    assert {effect.path: effect.direction for effect in effects}["b"] == "falls"


def latin(points: int) -> SweepDesign:
    random = np.random.default_rng(1)
    columns = [((random.permutation(points) + 0.5) / points).tolist() for _ in range(3)]
    paths = tuple(SweptPath(name, "number") for name in "abc")
    return SweepDesign((SweepAxis(LATIN, paths, tuple(zip(*columns, strict=True))),))


def test_rank_regression_sees_through_a_monotone_curve() -> None:
    """exp(20 a) is far from linear, and its ranks are those of a."""
    design = latin(200)
    effects = effects_of(design, swept(design, lambda a, b, c: float(np.exp(20 * a))), "y")
    assert (effects[0].path, effects[0].direction) == ("a", "rises")
    assert effects[0].share == pytest.approx(1.0, abs=1e-6)


def test_rank_regression_orders_the_inputs() -> None:
    design = latin(400)
    effects = effects_of(design, swept(design, lambda a, b, c: a - 3 * b), "y")
    assert [effect.path for effect in effects] == ["b", "a", "c"]
    assert [effect.direction for effect in effects[:2]] == ["falls", "rises"]
    assert sum(effect.share for effect in effects) == pytest.approx(1.0, abs=0.1)


def test_equal_results_have_no_effects() -> None:
    design = SweepDesign((axis("a", [1, 2, 3]),))
    assert effects_of(design, swept(design, lambda a: 1.0), "y") == ()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_ranks_are_those_of_scipy(values: list[int]) -> None:
    assert ranks(values).tolist() == rankdata(values).tolist()


def test_charts_of_unknown_columns_are_refused() -> None:
    base = {"do": "estimate", "model": "m", "over": {"batch": [1, 2]}}
    design = SweepDesign((axis("batch", [1, 2]), axis("word", ["u", "v"])))
    for x, words in (("bach", 'did you mean "batch"'), ("word", "has words, not numbers")):
        file, _ = load_sweep({**base, "show": {"x": x}})
        with pytest.raises(SpecError, match=words):
            curve_axis(file, design, "s.yaml")
    file, _ = load_sweep({**base, "show": {"y": "decode_step"}})
    with pytest.raises(SpecError, match='did you mean "decode_step_s"'):
        curve_column(file, [{"decode_step_s": 1.0, "error": None}], "s.yaml")
