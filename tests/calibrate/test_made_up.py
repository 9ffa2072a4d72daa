"""Rows of every kind: possible points have a prediction within their roofs, and impossible points have a reason."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.calibrate.cases import table
from tests.calibrate.made_up import write
from tokenworks.calibrate.case_machine import Skipped, machine_of
from tokenworks.calibrate.checkpoints import checkpoint
from tokenworks.calibrate.measured import UNKNOWN_SPLIT, Point, read_points
from tokenworks.calibrate.predict import Predicted, predict
from tokenworks.cli import run
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.model import Model, active_parameters

CALIBRATION = load_calibration("serving")
KINDS = {"does not fit", "cannot be run", "lacks numbers", "not in the catalog", "the row is not complete"}
pytestmark = pytest.mark.usefixtures("kernel")


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory, kernel: None) -> list[tuple[Point, Predicted]]:
    points = read_points(write(tmp_path_factory.mktemp("made_up") / "rows.csv", 250)).points
    return [(point, predict(point, CALIBRATION)) for point in points]


def test_each_point_is_predicted_or_has_a_reason(predictions: list[tuple[Point, Predicted]]) -> None:
    for point, one in predictions:
        if one.why:
            assert one.why.partition(": ")[0] in KINDS, one.why
            continue
        numbers = [one.tpot, one.ttft, one.rate, one.energy, one.spread, one.energy_spread]
        assert all(np.isfinite(number) and number >= 0 for number in numbers if number is not None), point
        assert one.rate, point


def test_what_fits_is_covered(predictions: list[tuple[Point, Predicted]]) -> None:
    known = [(point, one) for point, one in predictions if UNKNOWN_SPLIT not in one.why]
    fits = [(point, one) for point, one in known if not one.why.startswith("does not fit")]
    assert len(fits) > 0.6 * len(predictions)
    assert sum(not one.why for _, one in fits) >= 0.9 * len(fits)


def test_what_does_not_fit_is_larger_than_the_memory(predictions: list[tuple[Point, Predicted]]) -> None:
    """The weights, or the weights with a small KV cache, are larger than the memory of the largest worker."""
    short = [one.why for _, one in predictions if one.why.startswith("does not fit: ") and "short by" in one.why]
    assert short
    assert all("usable" in why for why in short)


def test_no_prediction_is_above_its_roofs(predictions: list[tuple[Point, Predicted]]) -> None:
    """Each step reads the weights that every step needs, each token needs its FLOP, and power is at most the TDP."""
    for point, one in predictions:
        if one.why:
            continue
        model = checkpoint(point.model, point.weights)
        on = machine_of(point.device, point.workers)
        widest = max(worker.devices for worker in point.workers)
        if one.tpot:
            step = one.tpot * (1 + point.drafts)
            assert step * widest * on.hbm_bandwidth >= 0.99 * _always_read(model), point
        if one.rate and point.measured.counted == "total":
            head = model.head.parameters if model.head else model.embedding.parameters
            work = 2 * (active_parameters(model) - head)
            assert one.rate * work <= max(on.peak.values()), point
        if one.energy and one.tdp and point.measured.counted == "output":
            assert one.rate is not None
            assert one.energy * one.rate <= one.tdp * 1.0001, point


def _always_read(model: Model) -> float:
    """Weights that any batch reads: all but routed experts and the embedding [byte]."""
    blocks = sum(
        block.count * matrix.stored
        for block in model.blocks
        for matrix in block.matrices
        if not (block.experts and matrix.part == "experts")
    )
    return blocks + (model.head.stored if model.head else 0.0)


def test_the_command_covers_them_without_a_word_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, out = write(tmp_path / "rows.csv", 60, seed=1), tmp_path / "out.csv"
    assert run(["validate", "--data", str(file), "--out", str(out), "-o", "json"]) == 0
    captured = capfd.readouterr()
    summary = json.loads(captured.out, parse_constant=lambda text: pytest.fail(f"{text} in the JSON"))
    assert captured.err == ""
    assert summary["covered"] + sum(item["count"] for item in summary["skipped"]) == summary["points"] == 60
    assert {item["reason"] for item in summary["skipped"]} <= KINDS | {UNKNOWN_SPLIT}
    assert {"what", "count"} == set(summary["assumed"][0])
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert all(bool(row["skipped"]) != bool(row["tok_s_per_device_predicted"]) for row in rows)


SIBLINGS = [
    ("mi325x", "mi300x"), ("b300", "b200"), ("gb300", "gb200"), ("h20-141gb", "h20"), ("h200", "h100"),
    ("h100", "a100"), ("a100", "a800"), ("a100", "a100-40gb"), ("a100", "a100-pcie"), ("a100", "rtx-4090"),
    ("h100", "h800"), ("ascend-910c", "ascend-910b"), ("bw1000", "k100-ai"), ("rtx-4090", "arc-b60"),
    ("h200", "h20-141gb"),
]  # fmt: skip


@pytest.mark.parametrize(("better", "other"), SIBLINGS)
def test_a_device_that_has_more_of_all_is_not_slower(tmp_path: Path, better: str, other: str) -> None:
    """A device is at most five times as fast: none has more than five times of any resource. Memory is large."""
    loads = [{"concurrency": str(users), "weights": weights} for users in (1, 8) for weights in ("bf16", "int4")]
    rows = [{**load, "device": device} for load in loads for device in (better, other)]
    predicted = [predict(point, CALIBRATION) for point in read_points(table(tmp_path, *rows)).points]
    for fast, slow in zip(predicted[::2], predicted[1::2], strict=True):
        assert fast.tpot is not None
        assert slow.tpot is not None
        assert fast.tpot <= slow.tpot * 1.01
        assert slow.tpot <= 5 * fast.tpot


@pytest.mark.parametrize("device", ["h20", "a100", "mi325x", "b300", "rtx-4090", "ascend-910b", "bw1000", "arc-b60"])
def test_decode_of_one_sequence_is_near_the_bandwidth(tmp_path: Path, device: str) -> None:
    """8.03 G weights of 16 bits and a short cache: the step reads 16 GB, and little else takes time."""
    (point,) = read_points(table(tmp_path, {"device": device, "concurrency": "1"})).points
    predicted = predict(point, CALIBRATION)
    least = 15.0e9 / machine_of(point.device, point.workers).hbm_bandwidth
    assert predicted.tpot is not None
    assert least < predicted.tpot < 2.5 * least


# ── what points leave open ────────────────────────────────────────────────────────────────────────────────────────


def rate(tmp_path: Path, **row: str) -> float:
    (point,) = read_points(table(tmp_path, {"isl": "500", "isl_mean": "500", "osl_mean": "50", **row})).points
    predicted = predict(point, CALIBRATION)
    assert predicted.rate is not None
    return predicted.rate


def test_a_full_queue_is_measured_where_it_is_full(tmp_path: Path) -> None:
    """The number of queued requests does not change throughput: the device always has enough requests."""
    steady = rate(tmp_path, load="offline", concurrency="")
    assert rate(tmp_path, load="offline", n_requests="20000") == pytest.approx(steady, rel=0.1)
    assert rate(tmp_path, load="closed", concurrency="1000") == pytest.approx(steady, rel=0.1)
    assert rate(tmp_path, load="closed", concurrency="8") < steady


def test_instances_that_share_nothing_are_alike(tmp_path: Path) -> None:
    one = rate(tmp_path, load="offline", n_requests="500")
    assert rate(tmp_path, load="offline", n_requests="4000", n_devices="8") == pytest.approx(one)


def test_a_split_that_is_not_known_is_skipped_and_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A guessed split would measure the guess. Rows of one device have only one split."""
    unknown = dict.fromkeys(("devices", "tp", "dp", "pp", "ep"), "") | {"n_devices": "8"}
    file = table(tmp_path, unknown, unknown | {"load": "offline"}, unknown | {"n_devices": "1"}, {})
    assert run(["validate", "--data", str(file), "-o", "json"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert summary["covered"] == 2
    (skipped,) = summary["skipped"]
    assert (skipped["reason"], skipped["count"]) == (UNKNOWN_SPLIT, 2)
    assert skipped["examples"] == ["8 devices, and tp, dp and pp are empty"]


def test_a_draft_that_the_model_does_not_bring(tmp_path: Path) -> None:
    """A draft token costs one layer and gives more tokens per step: faster, by less than the number of tokens."""
    rows = [{"spec_decode": text, "concurrency": "1"} for text in ("none", "eagle")]
    plain, drafted = (predict(point, CALIBRATION) for point in read_points(table(tmp_path, *rows)).points)
    assert any("a draft for" in what for what in drafted.assumed)
    assert plain.tpot is not None
    assert drafted.tpot is not None
    assert plain.tpot / 3 < drafted.tpot < plain.tpot


def test_the_longest_draws_of_a_data_set_may_be_refused(tmp_path: Path) -> None:
    """Lengths vary if a mean is not a whole number. Llama 2 reads 4,096 tokens, and few requests are longer."""
    lengths = {"isl": "294.45", "isl_mean": "294.45", "osl": "287.12", "osl_mean": "287.12"}
    row = {"model": "meta-llama/Llama-2-70b-hf", "weights": "fp8", "device": "h200", "load": "offline"} | lengths
    (point,) = read_points(table(tmp_path, row)).points
    assert predict(point, CALIBRATION).rate


def test_decode_alone_is_a_step_of_its_own(tmp_path: Path) -> None:
    """Four sequences on two devices are two on each, and nothing prefills between them."""
    two = {"n_devices": "2", "devices": "2", "tp": "2", "mode": "decode_only"}
    rows = [two | {"load": "closed"}, two | {"load": "batch_per_device", "concurrency": "2"}]
    closed, each = (predict(point, CALIBRATION) for point in read_points(table(tmp_path, *rows)).points)
    assert closed == each


def test_an_engine_that_captures_no_graph_waits_for_its_host(tmp_path: Path) -> None:
    """32 layers of 0.6 ms: 19 ms of Python a token, whatever the device could do."""
    (point,) = read_points(table(tmp_path, {"engine": "transformers", "concurrency": "1"})).points
    predicted = predict(point, CALIBRATION)
    assert predicted.tpot == pytest.approx(0.6e-3 * 32 + 1.5e-3, rel=0.02)
    assert "engine transformers as vllm, 0.6 ms of host time per layer" in predicted.assumed


def test_eight_bits_on_a_card_without_them_are_read_as_such(tmp_path: Path) -> None:
    """A100 has no FP8: weights stay packed and are multiplied in 16 bits; half the bytes, nearly half the time."""
    rows = [{"device": "a100", "weights": weights, "concurrency": "1"} for weights in ("fp8", "bf16")]
    narrow, wide = (predict(point, CALIBRATION) for point in read_points(table(tmp_path, *rows)).points)
    assert narrow.tpot is not None
    assert wide.tpot is not None
    assert 0.45 < narrow.tpot / wide.tpot < 0.8


def test_a_link_that_nobody_published_is_assumed(tmp_path: Path) -> None:
    rows = [{"device": "bw1000", "tp": "2", "devices": "2", "n_devices": "2"}, {"device": "k100"}]
    predicted, none = (predict(point, CALIBRATION) for point in read_points(table(tmp_path, *rows)).points)
    assert any("device.scale_up.bandwidth of bw1000" in what for what in predicted.assumed)
    assert predicted.energy is None  # its TDP is not published
    assert none.why == "not in the catalog: no system has the device k100"


def test_a_machine_without_its_numbers_is_left_out(tmp_path: Path) -> None:
    (point,) = read_points(table(tmp_path, {"device": "metax-s600"})).points
    with pytest.raises(Skipped, match="lacks numbers"):
        machine_of(point.device, point.workers)
