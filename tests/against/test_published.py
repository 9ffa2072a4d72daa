"""Published figures of whole machines: each has a source, the page shows them, and quick predictions do not drift."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.published import __main__ as command
from benchmarks.published import predict
from benchmarks.published.cases import Case, published
from benchmarks.published.front import Front
from benchmarks.published.page import LEFT_OUT_CASE, page
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.calibrate.measured import read_points
from tokenworks.calibrate.predict import Predicted
from tokenworks.errors import SpecError

FIGURES = json.loads(command.FIGURES.read_text(encoding="utf-8"))
DRIFT = 0.01
"""Change of a prediction that nobody may overlook [-]."""


@pytest.mark.parametrize("case", published().cases, ids=lambda case: case.id)
def test_each_figure_has_a_source_and_a_prediction(case: Case) -> None:
    assert any(word in case.source for word in ("arXiv", ".com", ".io", "deepseek-ai/")), case.source
    assert any(year in case.source for year in ("2025", "2026")), case.source
    assert {figure.id for figure in case.figures} <= set(FIGURES["predictions"][case.id])
    assert case.misses
    for one in FIGURES["predictions"][case.id].values():
        assert 0 < one["low"] < one["value"] < one["high"]


def test_nobody_edits_the_page() -> None:
    """After a change of the text: `python -m benchmarks.published --render`."""
    assert command.PAGE.read_text(encoding="utf-8") == page(FIGURES)


def test_the_calibration_is_the_frozen_one() -> None:
    """After a change of the calibration the page must be made again, and says that its predictions are new."""
    assert FIGURES["calibration"]["held"], "predict again, and set FROZEN to the commit of the new calibration"
    assert command.sha256() == FIGURES["calibration"]["sha256"]


@pytest.mark.parametrize(
    ("name", "quick"),
    [
        pytest.param("cloudmatrix384", lambda: predict.cloudmatrix384("serving"), id="cloudmatrix384"),
        pytest.param("deepseek-day", lambda: predict.deepseek_day("serving"), id="deepseek-day"),
        pytest.param("mi300x-2p3d", lambda: predict.mi300x("serving", (1000,)), id="40 MI300X"),
        pytest.param("sd200", lambda: predict.sd200("serving"), id="sd200"),
    ],
)
def test_predictions_do_not_drift(name: str, quick: Callable[[], predict.Predictions]) -> None:
    for figure, one in quick().items():
        stored = FIGURES["predictions"][name][figure]
        assert one.grade == stored["grade"]
        for key in ("value", "low", "high"):
            assert getattr(one, key) == pytest.approx(stored[key], rel=DRIFT), f"{figure}: make the page again"


def test_configurations_of_both_blackwell_machines_are_complete() -> None:
    points = read_points(predict.EXAMPLES / "blackwell.csv").points
    assert {point.device for point in points} == {"gb200", "b200"}
    assert not [point.id for point in points if point.lacks]
    assert len({point.id for point in points}) == len(points)


def test_left_out_calibrations_have_not_seen_the_two_machines() -> None:
    for told in FIGURES["left_out"]:
        assert not {"gb200", "b200"} & set(told["devices"])
        assert told["predictions"]
        assert set(told["predictions"]) <= set(FIGURES["predictions"][LEFT_OUT_CASE])


def test_a_calibration_that_has_seen_them_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=r"was fitted on points of gb200, b200"):
        command.unseen("serving")
    monkeypatch.setattr(command, "PREDICT", {})
    monkeypatch.setattr(command, "FIGURES", tmp_path / "published.json")
    monkeypatch.setattr(command, "PAGE", tmp_path / "published.md")
    monkeypatch.setattr(sys, "argv", ["published", "--left-out", str(tmp_path / "none.yaml")])
    assert command.main() == 2
    assert "none.yaml" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "nothing is half-written"


speeds = st.lists(
    st.tuples(st.floats(1.0, 300.0), st.floats(1.0, 9000.0)), min_size=1, max_size=12, unique_by=lambda one: one[0]
)


@given(speeds)
def test_no_point_is_better_than_the_front(points: list[tuple[float, float]]) -> None:
    front = Front.of([Predicted(tpot=1 / speed, rate=rate, frontier_spread=2.0) for speed, rate in points])
    assert list(front.speeds) == sorted(front.speeds)
    assert list(front.rates) == sorted(front.rates, reverse=True)
    for speed, rate in points:
        assert any(s >= speed * (1 - 1e-12) and r >= rate for s, r in zip(front.speeds, front.rates, strict=True))


@given(speeds.filter(lambda points: len(points) > 1), st.floats(0, 1))
def test_between_two_points_of_the_front_lies_no_surprise(points: list[tuple[float, float]], share: float) -> None:
    front = Front.of([Predicted(tpot=1 / speed, rate=rate, frontier_spread=2.0) for speed, rate in points])
    if len(front.speeds) < 2:
        return
    low, high = front.speeds[0], front.speeds[-1]
    between = front.at(min(high, low + share * (high - low)))
    assert between
    rate, spread = between
    assert front.rates[-1] * (1 - 1e-9) <= rate <= front.rates[0] * (1 + 1e-9)
    assert spread == 2.0
    assert front.at(low * 0.99) is None
    assert front.at(high * 1.01) is None
