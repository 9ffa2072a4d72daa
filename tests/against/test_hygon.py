"""The card class of the scaleX40 against public figures of Hygon cards: kernels, expert layers, power, CI floors.

Kernel figures are in the calibration. Serving figures are held out: no number of the calibration was fitted on them.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenworks.calibrate.factors import quantities
from tokenworks.calibrate.kernels import hygon
from tokenworks.calibrate.kernels.hygon_fit import FAMILY, fit_card, layer_errors
from tokenworks.calibrate.measured import Measured, Point, Worker
from tokenworks.calibrate.predict import Predicted
from tokenworks.calibrate.validate import predict_all
from tokenworks.costs.power import power
from tokenworks.specs.calibration import load_calibration, number

TABLES = Path(__file__).parents[3] / "shared/hygon"
pytestmark = [pytest.mark.shared, pytest.mark.skipif(not TABLES.exists(), reason=f"{TABLES} is not here")]

MODELS = {
    "Qwen3-30B-A3B": "Qwen/Qwen3-30B-A3B",
    "Qwen3-32B": "Qwen/Qwen3-32B",
    "MiniMax-M2.5": "MiniMaxAI/MiniMax-M2.5",
    "GLM-5.1-Channel-FP8": "zai-org/GLM-5.1-FP8",
    "DeepSeek-V3.2-Channel-FP8": "deepseek-ai/DeepSeek-V3.2",
    "MiMo-V2-Flash": "XiaomiMiMo/MiMo-V2-Flash",
    "Kimi-K2.6": "moonshotai/Kimi-K2.5",  # the catalog has K2.6 in NVFP4 only; both have the same layers
}


def table(name: str) -> list[dict[str, str]]:
    with (TABLES / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@pytest.mark.parametrize("name", ["datasheet", "serving"])
def test_the_catalog_has_the_numbers_that_the_tables_give(name: str) -> None:
    """Latencies of the default calibration are fitted on top, as for all families; their prior is in the note."""
    shipped = load_calibration(name).family(FAMILY)
    _, fitted = fit_card(TABLES, load_calibration("datasheet"))
    for one in fitted:
        for field, value in one.values.items():
            (quantity, *_) = quantities(shipped, field)
            if name == "datasheet" or field not in ("experts_start", "expert"):
                assert quantity.value == pytest.approx(value, rel=5e-3), field
    assert {one.operation: (one.rows, round(one.error, 2), round(one.left_out_error, 2)) for one in fitted} == {
        "GEMM": (16, 0.21, 0.22),
        "experts": (106, 0.09, 0.11),
        "grouped GEMM": (6, 0.27, 0.32),
        "attention": (4, 0.15, 0.19),
        "expert layers": (7, 0.06, 0.09),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("serving", {16: (-11, -6, -14, -20), 8: (-24, 3, -7, -12)}),
        ("datasheet", {16: (2, -6, -15, -21), 8: (4, 7, -8, -13)}),
    ],
)
def test_an_expert_layer_after_the_fit(name: str, expected: dict[int, tuple[int, ...]]) -> None:
    """The figures of docs/hygon.md, in per cent, at 8, 64, 256 and 512 tokens of a rank."""
    errors = layer_errors(TABLES, load_calibration(name))
    for ranks, figures in expected.items():
        of_tokens = errors[f"TX32 node, LL graph, EP{ranks}"]
        assert tuple(round(100 * of_tokens[tokens]) for tokens in (8, 64, 256, 512)) == pytest.approx(figures, abs=1)


def test_the_measured_floor_of_the_peak() -> None:
    """No row of a kernel is faster than the peak of the card, and the best one has three quarters of the BF16 peak."""
    rates = [float(row["tflops"]) for row in table(hygon.KERNELS) if row["tflops"]]
    assert max(rates) == pytest.approx(263.2)
    peak = hygon.gemm_rows(TABLES)[0].machine.peak["bf16"]
    assert max(rates) * 1e12 / peak == pytest.approx(0.75, abs=0.01)


@pytest.fixture(scope="module")
def floors() -> list[tuple[dict[str, str], Predicted]]:
    """Floors of nightly CI with their predictions on cards of the scaleX40. All requests come at once."""
    rows = [row for row in table("hygon_bw1100_serving.csv") if row["kind"] == "floor"]
    return list(zip(rows, predict_all([point(row) for row in rows], load_calibration()), strict=True))


def point(row: dict[str, str]) -> Point:
    """Lengths are uniform between 1 and the nominal length: mean (n + 1) / 2, std / mean 0.58."""
    cards, dp = int(row["cards"]), 2 if "dp2" in row["parallelism"] else 1
    nominal_isl, nominal_osl = 2048, 256
    fields: dict[str, Any] = {"engine": "sglang", "mode": "agg", "load": "burst", "concurrency": 0.0, "rate": 0.0}
    return Point(
        line=1, id=row["model"], group="floor", model=MODELS[row["model"]],
        weights="bf16" if row["weights"] == "bf16" else "native", device="scalex40", devices=cards,
        drafts=3 if "EAGLE" in row["parallelism"] else 0, workers=(Worker("aggregated", cards, cards // dp, dp, 1, 1),),
        requests=int(row["load"].split()[0]), isl=(nominal_isl + 1) / 2, osl=(nominal_osl + 1) / 2,
        nominal_isl=nominal_isl, measured=Measured(counted="output"), variation=(0.58, 0.58), **fields,
    )  # fmt: skip


def test_no_prediction_is_below_a_floor(floors: list[tuple[dict[str, str], Predicted]]) -> None:
    """A floor is the throughput that nightly CI demands, so the true throughput is above it."""
    assert len(floors) == 7
    for row, predicted in floors:
        assert predicted.rate is not None, f"{row['model']}: {predicted.why}"
        assert predicted.rate * int(row["cards"]) > float(row["value"]), row["model"]


def test_power_under_load_is_near_the_readings(floors: list[tuple[dict[str, str], Predicted]]) -> None:
    """Six readings of single cards under load: 298 to 400 W. The load of the readings is not known."""
    shares = load_calibration().family(FAMILY).power
    assert shares is not None
    assert number(shares.idle) * 800 == pytest.approx((149 + 162) / 2, rel=0.01)
    watts = []
    for _, predicted in floors:
        assert predicted.used is not None
        assert predicted.tdp == 800
        watts.append(float(power(predicted.tdp, shares, compute=predicted.used.compute, hbm=predicted.used.hbm)))
    assert 298 < np.median(watts) < 400
    assert max(watts) < 400 * number(shares.spread)
