"""The cost model against measured serving points, which stand beside a checkout and are not in it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.costs.cases import achieved, model
from tokenworks.costs.split import Split
from tokenworks.costs.step import Batch, step
from tokenworks.specs.engine import load_engine

POINTS = Path(__file__).parents[2] / "../shared/measured/serving_dev.csv"
SYSTEMS = {"h100": "hgx-h100", "h200": "hgx-h200", "b200": "hgx-b200", "mi300x": "hgx-mi300x", "mi355x": "hgx-mi355x"}
NATIVE = {  # models whose catalog config is what was measured
    ("deepseek-ai/DeepSeek-R1", "fp8"): "deepseek-ai/DeepSeek-R1",
    ("deepseek-ai/DeepSeek-R1", "fp4"): "nvidia/DeepSeek-V3.1-NVFP4",
    ("MiniMaxAI/MiniMax-M2.5", "fp8"): "MiniMaxAI/MiniMax-M2.5",
    ("MiniMaxAI/MiniMax-M2.5", "fp4"): "nvidia/MiniMax-M2.5-NVFP4",
    ("meta-llama/Llama-3.3-70B-Instruct", "fp8"): "nvidia/Llama-3.1-70B-Instruct-FP8",
    ("openai/gpt-oss-120b", "fp4"): "openai/gpt-oss-120b",
}
CHUNK = 8192


def predicted(row: dict[str, str]) -> float:
    """TPOT in a closed loop [s]: a decode step, and the prefill that interrupts it (B / osl requests a step)."""
    name = NATIVE[row["model"], row["weights"]]
    tp, dp, ep = (int(float(row[key])) for key in ("tp", "dp", "ep"))
    routed = any(block.experts for block in model(name).blocks)
    split = Split(tp=tp, dp=dp, ep=ep if routed else 1, expert_tp=tp * dp // ep if routed else 1)
    isl, osl = (float(row[f"{key}_mean"] or row[key]) for key in ("isl", "osl"))
    batch = float(row["concurrency"]) / (float(row["n_devices"]) / float(row["devices"]))
    chunk = min(isl, CHUNK)
    context = batch * (isl + osl / 2)
    loads = Batch(batch, context, np.array([0.0, chunk]), np.array([0.0, chunk * isl / 2]))
    engine = load_engine({"atom": "sglang"}.get(row["engine"], row["engine"]))
    decode, mixed = np.asarray(step(model(name), achieved(SYSTEMS[row["device"]]), split, loads, engine=engine).seconds)
    return float(decode + batch / osl * isl / chunk * (mixed - decode))


@pytest.mark.shared
def test_tpot_of_closed_loops_without_speculation() -> None:
    """Datasheet grade: median error below 20 %, bias below 10 %, 80 % of points within a factor of 1.45."""
    if not POINTS.exists():
        pytest.skip("the measured points are not beside this checkout")
    with POINTS.open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["mode"] == "agg" and row["spec_decode"] == "none" and row["source_group"] == "inferencex-dump"
            and row["device"] in SYSTEMS and (row["model"], row["weights"]) in NATIVE and row["load"] == "closed"
            and float(row["devices"]) <= 8 and row["pp"] == "1"
        ]  # fmt: skip
    assert len(rows) > 1000
    error = np.log([predicted(row) / (float(row["tpot_ms_median"]) * 1e-3) for row in rows[::4]])
    assert np.median(np.abs(np.expm1(error))) < 0.2
    assert abs(np.median(error)) < 0.1
    assert np.quantile(np.abs(error), 0.8) < np.log(1.45)
