"""Measured training runs: which forms are read, what a run becomes, and what bad files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.calibrate.training_cases import HEADER, RUN, iterations, runs
from tokenworks.calibrate.case_machine import Skipped
from tokenworks.calibrate.training_case import FRAMEWORKS, training_case
from tokenworks.calibrate.training_points import METRICS, TrainingPoint, are_training, is_training, read_training
from tokenworks.calibrate.training_recipes import all_recipes, recipe_settings
from tokenworks.errors import SpecError
from tokenworks.specs.hf import load_model
from tokenworks.specs.training_text import KEYS, load_training

ITERATION = "8,32,4,1024,16,24,1024,2,2,2,219.7"


def one(folder: Path, **cells: str) -> TrainingPoint:
    return read_training([runs(folder, cells)]).points[0]


def test_rows_of_one_run_become_one_point(tmp_path: Path) -> None:
    path = runs(tmp_path, {}, {"metric": "train_model_tflops_per_gpu", "value": "725"})
    table = read_training([path])
    assert len(table.points) == 1
    point = table.points[0]
    assert (point.device, point.devices, point.batch, point.micro_batch, point.sequence) == ("h100", 8, 128, 1, 8192)
    assert (point.measured.tok_s_per_device, point.measured.tflops) == (14000, 725e12)
    case = training_case(point)
    assert str(case.training.parallel) == "dp8 zero3 shard8"
    assert case.model.name == "meta-llama/Meta-Llama-3.1-8B"
    assert case.training.precision.recipe == "fp8"
    assert case.training.recompute.layers == 5  # the recipe of this container says so
    assert any("Performance recipes of Megatron-Bridge" in text for text in case.assumed)


def test_words_of_published_tables(tmp_path: Path) -> None:
    point = one(tmp_path, parallelism="tp=1 (2);pp=2;cp=1;vp=20;ep=n/a;fsdp=0", n_devices="8.0", weights_dtype="MXFP8")
    training = training_case(point).training
    assert (training.parallel.tp, training.parallel.pp, training.schedule.virtual_stages) == (1, 2, 20)
    assert training.schedule.name == "interleaved"
    assert training.precision.recipe == "mxfp8"
    tokens = one(tmp_path, concurrency_or_batch="16M tokens/batch", parallelism="tp=8;pp=1;dp=1")
    assert tokens.batch == 2048
    lora = one(tmp_path, note="LoRA Performance", parallelism="tp=2;pp=4")
    assert (lora.method, training_case(lora).training.method.name) == ("lora", "lora")
    dropped = one(tmp_path, model="Qwen3_30B_a3B (tokendrop)", parallelism="tp=1;pp=1;ep=8", isl="4096")
    assert training_case(dropped).training.experts.capacity == 1.0


def test_a_run_without_parallelism_needs_a_planner(tmp_path: Path) -> None:
    point = one(tmp_path, parallelism="", engine="NVIDIA NeMo Framework", source_group="mlperf-training-v5.0")
    assert (point.planned, point.framework) == (True, "mlperf")
    with pytest.raises(Skipped, match="the parallelism is not stated"):
        training_case(point)
    chosen = load_training("tp=8,gbs=128,seq=8192")
    assert training_case(point, lambda *_, **__: chosen).training == chosen


def test_iterations_of_vtrain(tmp_path: Path) -> None:
    point = read_training([iterations(tmp_path, ITERATION)]).points[0]
    assert point.measured.step_s == pytest.approx(0.2197)
    assert point.measured.tok_s_per_device == pytest.approx(32 * 1024 / 8 / 0.2197)
    case = training_case(point)
    assert (case.model.layers, case.model.hidden, case.machine.device) == (24, 1024, "a100")
    assert str(case.training.parallel) == "tp2 pp2 dp2 zero0"
    assert (case.training.attention_kernel, case.training.recompute.name) == ("unfused", "full")
    assert point.assumed[0].startswith("FP16 mixed precision, NVLink")


def test_which_files_hold_training_runs(tmp_path: Path) -> None:
    training, other = runs(tmp_path, {}), tmp_path / "serving.csv"
    other.write_text("point_id,model,weights\na,b,c\n", encoding="utf-8")
    assert is_training(training)
    assert is_training(iterations(tmp_path, ITERATION))
    assert not is_training(other)
    assert not is_training(tmp_path / "none.csv")
    with pytest.raises(SpecError, match=r"serving\.csv: holds no training runs, as the other files do"):
        are_training([training, other])


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"parallelism": "tp"}, "parallelism: 'tp'; write it like tp=4;pp=8;cp=1"),
        ({"parallelism": "fsdp=many"}, "want the ranks of fsdp, 0 for none"),
        ({"concurrency_or_batch": "big"}, "write it like GBS=256;MBS=1"),
        ({"concurrency_or_batch": "GBS=0"}, "write it like GBS=256;MBS=1"),
        ({"metric": "speed"}, "metric: 'speed'; want one of train_tok_s_per_gpu"),
        ({"value": ""}, "value is empty; want the measured number"),
        ({"value": "fast"}, "value: 'fast'; want a number above zero"),
        ({"value": "-1"}, "value: '-1'; want a number above zero"),
        ({"value": "nan"}, "value is empty"),
        ({"n_devices": "2.5"}, "n_devices: '2.5'; want a whole number"),
        ({"n_devices": "1e9"}, "n_devices: '1e9'; want a number above zero, at most 100,000"),
        ({"point_id": ""}, "point_id is empty; name the run"),
    ],
)
def test_bad_cells_name_their_place(tmp_path: Path, cells: dict[str, str], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        one(tmp_path, **cells)
    assert says in str(caught.value)
    assert "runs.csv:2" in str(caught.value)


def test_rows_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"runs\.csv:3: n_devices is '16', and '8' in line 2"):
        read_training([runs(tmp_path, {}, {"n_devices": "16", "metric": "train_step_ms"})])
    with pytest.raises(SpecError, match="metric train_tok_s_per_gpu is given twice for one run"):
        read_training([runs(tmp_path, {}, {})])
    with pytest.raises(SpecError, match="the run 'run' is in two files"):
        read_training([runs(tmp_path, {}), runs(tmp_path, {}, name="again.csv")])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "has no column point_id"),
        (",".join(HEADER) + "\n", "has no rows"),
        (",".join(HEADER) + "\nrun,1\n", "2 cells, the header has 14"),
        ("\xff\xfe", "is not text in UTF-8"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(SpecError) as caught:
        read_training([path])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("8,32,4,1024,16,24,1024,2,2,3,219.7", "tp 2 x dp 2 x pp 3 is not 8 GPUs"),
        ("8,32,,1024,16,24,1024,2,2,2,219.7", "micro batch is empty"),
        ("8,32,4,1024,16,24,1024,2,2,2,", "iteration time (ms) is empty"),
        ("8,32,4,wide,16,24,1024,2,2,2,219.7", "hidden size: 'wide'; want a number above zero"),
    ],
)
def test_bad_iterations(tmp_path: Path, row: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_training([iterations(tmp_path, row)])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"model": "GPT (Megatron)"}, "the model is not known: GPT"),
        ({"hardware": "Z900"}, "no system has the device"),
        ({"isl": ""}, "lacks data: run: isl is empty"),
        ({"parallelism": "tp=3"}, "the deployment is not valid: run"),
        ({"parallelism": "tp=8;color=red"}, "unknown key 'color'"),
    ],
)
def test_runs_that_cannot_be_predicted_say_why(tmp_path: Path, cells: dict[str, str], says: str) -> None:
    with pytest.raises(Skipped) as caught:
        training_case(one(tmp_path, **cells))
    assert says in str(caught.value)


def test_recipes_name_models_of_the_catalog_and_keys_of_a_deployment() -> None:
    for file in all_recipes():
        for recipe in file.recipes:
            assert recipe.source
            assert all(load_model(name).name == name for name in recipe.models)
            assert set(recipe.settings) <= set(KEYS), recipe
        assert set(file.common.settings) <= set(KEYS)
    for settings in FRAMEWORKS.values():
        assert set(settings) <= set(KEYS)
    settings_there, source = recipe_settings(
        "megatron-bridge", model="deepseek-ai/DeepSeek-V3", device="gb200", precision="mxfp8", method="pretrain",
        version="26.08 NeMo Container",
    )  # fmt: skip
    assert settings_there["graphs"] == "full"
    assert "deepseek" in source
    assert recipe_settings("unknown", model="", device="", precision="", method="", version="") == ({}, "")
    assert set(METRICS) > {RUN["metric"]}
