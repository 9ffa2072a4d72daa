"""A training deployment: short form, file, defaults, and bad input."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.errors import SpecError
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.provenance import file_form
from tokenworks.specs.training import Training, TrainingDeployment
from tokenworks.specs.training_text import (
    KEYS,
    load_training,
    load_training_deployment,
    training_document,
    training_text,
)

PLAN = "tp=8,pp=16,vpp=4,gbs=2048,seq=8192,precision=fp8,recompute=selective,modules=moe_act+layernorm,master=none"


def test_short_form() -> None:
    training = load_training(PLAN, devices=8192)
    assert training.parallel.dp == 64
    assert training.parallel.devices == 8192
    assert training.micro_batches == 32
    assert training.tokens == 2048 * 8192
    assert training.schedule.name == "interleaved"
    assert training.recompute.modules == ("moe_act", "layernorm")
    assert training.optimiser.master is None
    assert str(training) == (
        "[tp8 pp16 dp64 zero1], micro-batch 1, batch 2,048 x 8,192, interleavedx4, recompute selective, fp8"
    )


def test_defaults_hold_where_the_text_has_none() -> None:
    training = load_training("tp=2,seq=1024", devices=4, gbs=64, seq=8192)
    assert (training.global_batch, training.seq_len, training.parallel.dp) == (64, 1024, 2)


values = st.fixed_dictionaries(
    {},
    optional={
        "tp": st.sampled_from([1, 2, 8]),
        "zero": st.integers(0, 3),
        "schedule": st.sampled_from(["1f1b", "zero-bubble", "dualpipe", "gpipe"]),
        "recompute": st.sampled_from(["none", "full"]),
        "recompute_layers": st.integers(0, 9),
        "master": st.sampled_from(["none", "bf16"]),
        "capacity": st.sampled_from([1.25, 2]),
        "skew": st.sampled_from([0, 0.3]),
        "sp": st.sampled_from(["true", "false"]),
        "graphs": st.sampled_from(["none", "full"]),
        "document": st.integers(1, 5000),
        "precision": st.sampled_from(["bf16", "mxfp8"]),
    },
)


@given(values)
@settings(max_examples=60, deadline=None)
def test_short_form_and_back(pairs: dict[str, Any]) -> None:
    """The short form of what a short form gave gives the same deployment, and so does the plain data of its file."""
    training = load_training(",".join(f"{key}={value}" for key, value in pairs.items()))
    assert load_training(training_text(training)) == training
    assert load_training(training.model_dump(mode="json")) == training


def test_every_key_has_a_field() -> None:
    for path in KEYS.values():
        value: Any = Training()
        for name in path:
            value = getattr(value, name)


def test_file_and_back(tmp_path: Path) -> None:
    deployment = TrainingDeployment(model="m", system="s", training=load_training(PLAN, devices=8192))
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(training_document(deployment)), encoding="utf-8")
    assert load_training_deployment(path) == deployment
    assert load_training(path) == deployment.training
    assert load_training(deployment.training) is deployment.training


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tp", "'tp' is not KEY=VALUE"),
        ("tp=", "is not KEY=VALUE"),
        ("tp=2,tp=4", "tp is given twice"),
        ("tpp=2", "unknown key 'tpp'; did you mean"),
        ("tp=0", "parallel.tp: 0"),
        ("tp=-1", "parallel.tp: -1"),
        ("tp=1.5", "parallel.tp: 1.5"),
        ("tp=many", "parallel.tp: 'many'"),
        ("tp=[1", "parallel.tp"),
        ("tp=7", "tp=7 x pp=1 x cp=1 does not divide the 64 devices"),
        ("zero=4", "parallel.zero: 4 is not one of"),
        ("precision=fp7", "'fp7' is not one of"),
        ("modules=norms", "recompute.modules.0"),
        ("gbs=3", "global_batch=3 is not a multiple of micro_batch x dp = 64"),
        ("gbs=64,ep=3", "ep=3 x etp=1 does not divide tp x cp x dp = 64"),
        ("gbs=64,shard=5", "shard=5 does not divide cp x dp = 64"),
        ("gbs=64,schedule=1f1b,vpp=2", "schedule 1f1b has one chunk per stage"),
        ("gbs=64,filled=0", "method.filled: 0"),
        ("gbs=64,sp=maybe", "parallel.sequence: 'maybe'"),
        ("gbs=1e99", "global_batch"),
    ],
)
def test_bad_short_forms(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_training(text, devices=64)
    assert message in str(caught.value)
    assert str(caught.value).startswith("--deploy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not a mapping"),
        ("schema: tokenworks.deployment/1", "unknown schema"),
        ("parallel: 3", "parallel: is just 3"),
        ("parallel: {tpp: 3}", "did you mean"),
        ("training: 3", "is not a mapping"),
        ("micro_batch: [1", "line"),
    ],
)
def test_bad_files(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_training(path, devices=8)
    assert message in str(caught.value)
    assert "bad.yaml" in str(caught.value)


def test_a_missing_file_and_a_deployment_without_model(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no\.yaml"):
        load_training(tmp_path / "no.yaml")
    with pytest.raises(SpecError, match="model: is missing"):
        load_training_deployment({"system": "s", "training": {}})
    with pytest.raises(SpecError, match="not a mapping"):
        load_training_deployment(_yaml(tmp_path, "[]"))


def _yaml(folder: Path, content: str) -> Path:
    path = folder / "list.yaml"
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gemm": "0"}, "above zero"),
        ({"dp_exposed": "1.5"}, "a share is 0 to 1"),
        ({"host_op": None}, "must not be null"),
        ({"host_op": "5 GB"}, "is a size, not a time"),
        ({"context": None}, "must not be null"),
        ({"speed": "3"}, "unknown key"),
    ],
)
def test_bad_factors_of_a_calibration(change: dict[str, Any], message: str) -> None:
    data = file_form(load_calibration("datasheet"))
    data["training"] = data["training"] | change
    with pytest.raises(SpecError) as caught:
        load_calibration(data)
    assert message in str(caught.value)


def test_families_have_factors_of_their_own() -> None:
    factors = load_calibration().training
    assert factors is not None
    assert factors.of("hygon-dcu", "grouped").value == 0.22
    assert factors.of("nvidia-hopper", "grouped") == factors.grouped


def test_the_page_lists_every_key() -> None:
    """The table of the short form on docs/train-model.md has all keys of `KEYS`, and no other one."""
    page = (Path(__file__).parents[2] / "docs" / "train-model.md").read_text(encoding="utf-8")
    table = page.partition("| keys | field |")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    assert {key.strip() for cell in cells for key in cell.split(",")} == set(KEYS)
