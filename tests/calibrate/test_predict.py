"""A measured point in the simulator and in closed form, and a fit that recovers hidden factors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.calibrate.cases import DISAGG, table
from tokenworks.calibrate.calibrate import calibrate
from tokenworks.calibrate.case import case, recipe_of
from tokenworks.calibrate.case_machine import machine_of
from tokenworks.calibrate.closed_form import bunches, tpots
from tokenworks.calibrate.factors import Factor, factors_of, turned
from tokenworks.calibrate.file import write
from tokenworks.calibrate.fit import Problem, fit
from tokenworks.calibrate.measured import Point, Worker, read_points
from tokenworks.calibrate.validate import predict_all
from tokenworks.engine.simulator import run
from tokenworks.engine.types import Router
from tokenworks.errors import SpecError
from tokenworks.simulation.cluster import cluster
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.engine import Recipe, find_engine

PRIOR = load_calibration("datasheet")
pytestmark = pytest.mark.usefixtures("kernel")


def points_of(path: Path, *rows: dict[str, str]) -> tuple[Point, ...]:
    return read_points(table(path, *rows)).points


def test_decode_of_one_sequence_reads_the_weights(tmp_path: Path) -> None:
    """16.1 GB at 0.86 x 3.35 TB/s take 5.6 ms. Latencies and the KV cache add a little."""
    (prediction,) = predict_all(points_of(tmp_path, {"concurrency": "1"}), PRIOR)
    assert prediction.tpot is not None
    assert 5.0e-3 < prediction.tpot < 8.5e-3


def test_every_load_is_played(tmp_path: Path) -> None:
    rows = [
        {"load": "burst", "n_requests": "40", "concurrency": ""},
        {"load": "poisson", "n_requests": "40", "request_rate": "5", "concurrency": ""},
        {"load": "offline", "n_requests": "40", "concurrency": ""},
        {"load": "batch_per_device", "mode": "decode_only"},
        {"load": "tokens_per_device", "mode": "prefill_only", "concurrency": "4096"},
        DISAGG,
    ]
    predictions = predict_all(points_of(tmp_path, *rows), PRIOR)
    assert [one.why for one in predictions] == [""] * len(rows)
    assert all(one.rate and one.rate > 0 for one in predictions)


@pytest.mark.parametrize(
    ("changed", "interval"),
    [
        ({}, 30),
        ({"concurrency": 15.0}, 10),
        ({"group": "mine"}, None),
        ({"device": "h200"}, None),
        ({"model": "Qwen/Qwen3-32B"}, None),
        ({"mode": "disagg"}, None),
        ({"workers": (Worker("aggregated", 8, 1, 8, 1, 8),)}, None),
        ({"model": "zai-org/GLM-5", "weights": "fp4"}, 10),
        ({"model": "zai-org/GLM-5", "weights": "fp8"}, None),
    ],
)
def test_a_benchmark_that_publishes_its_receive_interval(
    tmp_path: Path, changed: dict[str, Any], interval: int | None
) -> None:
    """InferenceX sets it for SGLang on B200, for some models, in aggregated rows without dp."""
    (point,) = points_of(tmp_path, {})
    own: dict[str, Any] = {
        "group": "inferencex-dump", "device": "b200", "model": "deepseek-ai/DeepSeek-R1", "concurrency": 16.0,
    }  # fmt: skip
    point = replace(point, **(own | changed))
    recipe = recipe_of(point, find_engine("sglang"))
    assert (recipe.receive_interval if recipe else None) == interval
    assert recipe_of(point, find_engine("vllm")) is None


PREFILL, DECODE = Worker("prefill", 8, 1, 8, 1, 8), Worker("decode", 8, 1, 8, 1, 8)


@pytest.mark.parametrize(
    ("changed", "chunks", "sequences"),
    [
        ({}, (8 * 8192, 8 * 8192), 8 * 64),
        ({"group": "mine"}, (8 * 8192, 8 * 8192), 8 * 64),
        ({"drafts": 2}, (65536, 8 * 8192), 8 * 16),
        ({"drafts": 2, "workers": (replace(PREFILL, tp=8, dp=1), DECODE)}, (163840, 8 * 8192), 8 * 64),
        ({"workers": (replace(PREFILL, tp=8, dp=1), DECODE), "nominal_isl": 8192.0}, (32768, 8 * 8192), 8 * 64),
        ({"workers": (replace(PREFILL, tp=8, dp=1), DECODE), "nominal_isl": 1024.0}, (163840, 8 * 8192), 8 * 64),
    ],
)
def test_settings_of_a_disaggregated_benchmark_go_to_the_instances_that_need_them(
    tmp_path: Path, changed: dict[str, Any], chunks: tuple[int, int], sequences: int
) -> None:
    """SGLang with DeepSeek-R1 on H200: the chunk is of instances that prefill, sequences are of those that decode."""
    (point,) = points_of(tmp_path, DISAGG)
    own: dict[str, Any] = {
        "group": "inferencex-dump", "device": "h200", "model": "deepseek-ai/DeepSeek-R1", "weights": "fp8",
        "engine": "sglang", "concurrency": 512.0, "workers": (PREFILL, DECODE), "nominal_isl": 1024.0, "drafts": 0,
    }  # fmt: skip
    roles = case(replace(point, **(own | changed)), PRIOR).deployment.roles
    assert tuple(role.chunk_tokens for role in roles) == chunks
    assert roles[1].max_sequences == sequences


@pytest.mark.parametrize(("device", "group", "dtype"), [
    ("h200", "inferencex-dump", "bf16"), ("h200", "mine", "fp8"), ("b200", "inferencex-dump", "fp8"),
])  # fmt: skip
def test_a_benchmark_that_publishes_the_dtype_of_its_cache(tmp_path: Path, device: str, group: str, dtype: str) -> None:
    (point,) = points_of(tmp_path, {"model": "openai/gpt-oss-120b", "weights": "fp4", "engine": "trtllm"})
    (role,) = case(replace(point, device=device, group=group), PRIOR).deployment.roles
    assert role.kv_dtype == dtype


@pytest.mark.parametrize(
    ("published", "dp", "chunk"),
    [({}, 8, None), ({"chunk_tokens": 2048}, 8, 2048), ({"shared_chunk_tokens": 16384}, 8, 2048)],
)
def test_a_shared_chunk_is_of_all_ranks_of_an_instance(published: dict[str, int], dp: int, chunk: int | None) -> None:
    recipe = Recipe(group="mine", devices=("h100",), models=("any",), source="a test", **published)
    assert recipe.chunk_of(dp) == chunk


def test_a_small_chunk_costs_throughput_where_prefill_is_the_limit(tmp_path: Path) -> None:
    """Each step reads all weights: with 2,048 tokens a step, one B200 prefills MiniMax-M2.5 a third slower."""
    (point,) = points_of(tmp_path, DISAGG)
    point = replace(
        point, device="b200", model="MiniMaxAI/MiniMax-M2.5", weights="fp4", engine="vllm", drafts=0,
        concurrency=1024.0, isl=1024.0, osl=128.0, nominal_isl=1024.0,
        workers=(Worker("prefill", 1, 1, 1, 1, 1), Worker("decode", 4, 4, 1, 1, 4)),
    )  # fmt: skip
    own, published = predict_all([point, replace(point, group="inferencex-dump")], PRIOR)
    assert own.rate
    assert published.rate
    assert 0.5 * own.rate < published.rate < 0.85 * own.rate


def test_a_benchmark_that_publishes_its_sequences_and_its_requests_waits_for_a_slot(tmp_path: Path) -> None:
    """128 sequences and outputs of nearly one length: of 300 requests in 30 s, most wait for a slot."""
    row = {
        "load": "poisson", "n_requests": "300", "request_rate": "10", "concurrency": "", "isl": "857.5", "osl": "652.5",
        "isl_mean": "857.5", "osl_mean": "652.5", "device": "rtx-pro-6000",
    }  # fmt: skip
    (point,) = points_of(tmp_path, row)
    ttft = []
    for group in ("mine", "llmservingsim-vllm"):
        one = replace(point, group=group)
        (prediction,) = predict_all([one], PRIOR)
        assert prediction.ttft is not None
        ttft.append(prediction.ttft)
        (role,) = case(one, PRIOR).deployment.roles
        assert (role.max_sequences, role.chunk_tokens) == ((300, 8192) if group == "mine" else (128, 2048))
    assert ttft[1] > 2.0 > ttft[0]


def test_a_longer_receive_interval_delays_the_first_token(tmp_path: Path) -> None:
    """TTFT of the same row, as InferenceX ran it and with the default: the wait is up to 30 decode steps longer."""
    row = {"engine": "sglang", "device": "b200", "model": "openai/gpt-oss-20b", "concurrency": "16"}
    (point,) = points_of(tmp_path, row)
    engine = find_engine("sglang")
    ready = case(point, PRIOR)
    ttft = []
    for interval in (1, 30):
        site = replace(ready.site, engine=engine.model_copy(update={"receive_interval": interval}))
        built = cluster(ready.deployment, site, router=Router("least_loaded"), block_tokens=64, prefix_caching=False,
                        concurrency=ready.concurrency)  # fmt: skip
        outcome = run(built, ready.requests)
        ttft.append(float(np.mean(outcome.first_token_s - outcome.arrival_s)))
    assert ttft[1] > 1.3 * ttft[0]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"model": "no/such"}, "not in the catalog: model no/such"),
        ({"device": "abacus"}, "not in the catalog: no system has the device abacus"),
        (
            {"isl": "8000", "isl_mean": "8000", "model": "meta-llama/Llama-2-70b-hf", "device": "b200"},
            "beyond the 4096",
        ),
        ({"load": "poisson"}, "the row is not complete: request_rate"),
        ({"weights": "fp2"}, "weights 'fp2'"),
        ({"model": "deepseek-ai/DeepSeek-R1", "weights": "fp8"}, "does not fit"),
    ],
)
def test_what_cannot_be_predicted_has_a_reason(tmp_path: Path, row: dict[str, str], why: str) -> None:
    (prediction,) = predict_all(points_of(tmp_path, row), PRIOR)
    assert why in prediction.why
    assert prediction.tpot is None


def test_workers_get_the_hosts_they_need(tmp_path: Path) -> None:
    (point,) = points_of(tmp_path, DISAGG)
    assert machine_of("b200", point.workers).devices == 16
    assert machine_of("gb200", point.workers).domain == 72
    assert machine_of("2xhgx-h200", point.workers).devices == 16


@pytest.mark.parametrize(
    ("device", "tp", "machine"),
    [("tpu-v6e", 4, "tpu-v6e-8"), ("tpu-v6e", 16, "tpu-v6e-32"), ("tpu7x", 4, "tpu7x-4"), ("gaudi3", 2, "gaudi3-8"),
     ("scalex40-card", 32, "scalex40-32"), ("scalex40-card", 40, "scalex40"), ("h100", 16, "2xhgx-h100")],
)  # fmt: skip
def test_a_worker_runs_in_the_smallest_domain_that_holds_it(device: str, tp: int, machine: str) -> None:
    on = machine_of(device, (Worker("aggregated", tp, tp, 1, 1, 1),))
    assert on.name.removesuffix("@ndr") == machine


LOADS = [{"concurrency": str(c), "device": d} for c in (1, 4, 16, 64) for d in ("h100", "h200")]


def test_the_closed_form_follows_the_simulation(tmp_path: Path) -> None:
    points = points_of(tmp_path, *LOADS)
    predictions = predict_all(points, PRIOR)
    closed = tpots(bunches(points, predictions, PRIOR), PRIOR, len(points))
    assert closed == pytest.approx([one.tpot for one in predictions], rel=0.15)


def test_a_fit_finds_the_factor_that_was_hidden(tmp_path: Path) -> None:
    points = points_of(tmp_path, *LOADS)
    hidden = [Factor(("nvidia-hopper",), "hbm", 0.5)]
    truth = turned(PRIOR, hidden, np.array([-0.3]))
    problem = Problem.of(points, predict_all(points, PRIOR), PRIOR)
    measured = tpots(problem.bunches, truth, len(points)) * problem.anchor
    problem.measured[:] = measured
    result = fit(problem, hidden)
    assert result.theta == pytest.approx([-0.3], abs=0.02)
    assert np.abs(result.errors).max() < 0.01


def test_no_share_goes_above_one() -> None:
    factors = factors_of(["nvidia-hopper"], PRIOR)
    calibration = turned(PRIOR, factors, np.full(len(factors), 2.0))
    hopper, blackwell = calibration.families["nvidia-hopper"], calibration.families["nvidia-blackwell"]
    assert hopper.hbm.value is not None
    assert hopper.hbm.value < 1
    assert blackwell.hbm == PRIOR.families["nvidia-blackwell"].hbm
    assert blackwell.kernel.value == pytest.approx(np.exp(2) * PRIOR.families["nvidia-blackwell"].kernel.value)
    assert blackwell.blockwise["vllm"].value == hopper.blockwise["vllm"].value
    assert calibration.families["amd-cdna3"].blockwise == PRIOR.families["amd-cdna3"].blockwise


def test_a_calibration_is_written_and_read_again(tmp_path: Path) -> None:
    points = [
        replace(point, measured=replace(point.measured, energy=500.0 / (point.measured.rate or 1.0)))
        for point in points_of(tmp_path, *LOADS)
    ]
    fitted = calibrate(points, PRIOR, name="mine", fitted_on="points.csv", data_sha256="0" * 64)
    file = tmp_path / "mine.yaml"
    write(fitted, file)
    again = load_calibration(str(file))
    assert again.grade_of(machine("hgx-h100")) == "end-to-end-calibrated"
    assert again.grade_of(machine("hgx-h800")) == "kernel-calibrated"
    assert again.grade_of(machine("hgx-mi300x")) == "datasheet"
    assert again.families["nvidia-hopper"].hbm.value == pytest.approx(
        fitted.calibration.families["nvidia-hopper"].hbm.value
    )
    assert "points.csv" in again.families["nvidia-hopper"].kernel.source
    assert "points.csv" in again.power.idle.source
    assert fitted.power is not None
    assert again.power.hbm.value == fitted.power.power.hbm.value
    assert {left.group for left in fitted.systems} == {"h100", "h200"} == {left.group for left in fitted.power.systems}
    summary = fitted.plain()
    assert summary["tpot_in_sample"]["mape"] <= summary["tpot_before"]["mape"]
    assert len(fitted.ablation()) == summary["constants"]


def test_too_few_points(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="1 points have a TPOT"):
        calibrate(points_of(tmp_path, {}), PRIOR, name="x", fitted_on="x", data_sha256="")


# ── points that did run but do not fit, and points that are experiments ───────────────────────────────────────────────


def test_a_server_that_barely_starts_has_fewer_sequences_before_it_has_more_memory(tmp_path: Path) -> None:
    """Sequences of a burst shrink to 64. A closed loop keeps those in flight. Then all memory, then the rest."""
    burst = {"load": "burst", "n_requests": "1000", "concurrency": ""}
    for row, kept in ((burst, 64), ({"concurrency": "200"}, 200)):
        (point,) = points_of(tmp_path, row)
        current = case(point, PRIOR)
        (role,) = current.deployment.roles
        while role.memory_fraction < 1:
            less = current.smaller()
            assert less is not None
            (smaller,) = less.deployment.roles
            assert (smaller.max_sequences < role.max_sequences) != (smaller.memory_fraction > role.memory_fraction)
            assert smaller.chunk_tokens == role.chunk_tokens
            current, role = less, smaller
        assert kept <= role.max_sequences < 2 * kept
        least = current.smaller()
        assert least is not None
        assert least.deployment.roles[0].max_sequences < kept


def test_an_experiment_is_predicted_and_not_fitted(tmp_path: Path) -> None:
    """Points that their authors call an experiment are three times as slow: the fit is the same as without them."""
    loads = [{"concurrency": str(flying), "tpot_ms_median": str(6 + flying / 8)} for flying in (1, 2, 4, 8, 16, 32)]
    wrong = [row | {"source_group": "x-experimental", "tpot_ms_median": "60"} for row in loads]
    points = points_of(tmp_path, *loads, *wrong)
    assert [one.steady for one in points] == [True] * 6 + [False] * 6
    assert all(one.rate for one in predict_all(points, PRIOR))
    fits = [calibrate(some, PRIOR, name="x", fitted_on="x", data_sha256="").plain() for some in (points, points[:6])]
    assert fits[0]["factors"] == fits[1]["factors"]
    assert fits[0]["tpot_in_sample"] == fits[1]["tpot_in_sample"]
