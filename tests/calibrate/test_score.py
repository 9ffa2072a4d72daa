"""Errors and rankings, compared with numbers by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.calibrate.leave_out import conformal
from tokenworks.calibrate.measured import Measured, Point, Worker
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.score import batch_class, errors, kind, little, ranking

POINT = Point(
    line=2, id="a", group="inferencex-dump", model="m", weights="fp8", device="h100", devices=8, engine="vllm",
    mode="agg", drafts=0, workers=(Worker("aggregated", 8, 8, 1, 1, 1),), load="closed", concurrency=64, rate=0,
    requests=0, isl=1000, osl=1000, nominal_isl=1000, measured=Measured(tpot=0.02, rate=800.0),
)  # fmt: skip


def test_errors_by_hand() -> None:
    """1.1, 0.8 and 2.0 of the truth: errors 0.1, 0.2 and 1.0; the interval of 1.25 holds the first two."""
    summary = errors([(1.1, 1.0, 1.25), (0.8, 1.0, 1.25), (2.0, 1.0, 1.25)])
    assert summary is not None
    assert summary.mape == pytest.approx(1.3 / 3)
    assert summary.median_ape == pytest.approx(0.2)
    assert summary.bias == pytest.approx(0.1)
    assert summary.inside_interval == pytest.approx(2 / 3)
    assert errors([]) is None


def test_little_by_hand() -> None:
    """64 in flight, 2,000 tokens in 1,000 x 20 ms on 8 devices: 64 x 2000 / (20 x 8) = 800 token/s a device."""
    assert little([(POINT, Predicted())])["agg"]["mape"] == pytest.approx(0)


def test_ranking_counts_pairs_of_splits() -> None:
    narrow = replace(POINT, devices=4, workers=(Worker("aggregated", 4, 4, 1, 1, 1),),
                     measured=Measured(tpot=0.03, rate=1000.0))  # fmt: skip
    pairs = [(POINT, Predicted(tpot=0.02, rate=1100.0)), (narrow, Predicted(tpot=0.04, rate=900.0))]
    tau = ranking(pairs)
    assert tau["tpot"] == {"pairs": 1, "predicted": 1.0, "by_devices": 1.0}
    assert tau["tok_s_per_device"]["predicted"] == -1.0
    assert ranking([])["tpot"]["predicted"] is None


def test_kinds_stand_apart() -> None:
    starved = replace(POINT, mode="disagg", little_ratio=0.3)
    assert kind(POINT) == "agg none"
    assert kind(starved) == "disagg starved"
    assert kind(replace(POINT, load="burst")) == "agg none burst"
    assert batch_class(POINT) == "4..16"


@given(st.lists(st.floats(-1, 1), min_size=10, max_size=200))
def test_conformal_covers_what_it_says(errors: list[float]) -> None:
    width = conformal(np.array(errors))
    assert np.mean(np.abs(errors) <= np.log(width) + 1e-9) >= 0.8
