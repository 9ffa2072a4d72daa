"""Finding a model: catalog ids, aliases, short names, paths, and the local Hugging Face cache."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest

from tests.specs.hf_cases import FP8, LLAMA, shipped, write
from tokenworks.errors import SpecError, UnknownName
from tokenworks.specs.hf import load_model, model_names
from tokenworks.specs.hf.load import CATALOG
from tokenworks.specs.model import parameters, weight_formats

CANNOT = {"nvidia/Llama-3_3-Nemotron-Super-49B-v1"}
MEASURED = Path(__file__).parents[2] / "../shared/measured/serving_dev.csv"


def test_every_model_of_the_catalog_is_computed_but_the_one_that_cannot_be() -> None:
    names = model_names()
    assert len(names) >= 96
    assert names == sorted(names)
    for name in names:
        if name in CANNOT:
            with pytest.raises(SpecError, match="block_configs"):
                load_model(name)
        else:
            model = load_model(name)
            assert model.name == name
            assert parameters(model) > 5e8
            assert model.layers >= 24


def test_names_in_any_case_short_names_and_aliases() -> None:
    r1 = load_model("deepseek-ai/DeepSeek-R1")
    assert load_model("DEEPSEEK-AI/deepseek-r1") is r1
    assert load_model("DeepSeek-R1") is r1
    assert load_model("meta-llama/Llama-3.1-8B") is load_model("meta-llama/Meta-Llama-3.1-8B")
    assert load_model("deepseek-ai/DeepSeek-R1-0528") is r1


def test_aliases_lead_to_what_is_there() -> None:
    import yaml

    aliases = yaml.safe_load((CATALOG / "aliases.yaml").read_text())
    assert set(aliases.values()) <= set(model_names())
    assert not set(aliases) & set(model_names())


@pytest.mark.shared
def test_every_model_that_was_measured_loads() -> None:
    if not MEASURED.exists():
        pytest.skip(f"no measured points beside this checkout ({MEASURED})")
    with MEASURED.open() as file:
        names = {row["model"] for row in csv.DictReader(file)}
    assert len(names) >= 14
    for name in names:
        assert load_model(name).layers


def test_unknown_names_say_what_is_near() -> None:
    with pytest.raises(UnknownName, match="did you mean deepseek-ai/DeepSeek-R1") as caught:
        load_model("deepseek-ai/DeepSek-R1")
    assert "no such path" in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "../..", "org/", "/", "*", "models--a--b"])
def test_names_that_can_be_nothing(name: str) -> None:
    with pytest.raises(SpecError):
        load_model(name)


def test_a_path_to_a_file_or_its_directory(tmp_path: Path) -> None:
    file = write(tmp_path / "my-llama" / "config.json", LLAMA)
    by_directory, by_file = load_model(str(file.parent)), load_model(str(file))
    assert by_directory == by_file
    assert by_directory.name == "my-llama"
    lone = write(tmp_path / "org--other.json", LLAMA)
    assert load_model(str(lone)).name == "org/other"
    with pytest.raises(SpecError, match=r"no config\.json in this directory"):
        load_model(str(tmp_path))


def test_the_directory_is_the_name_that_promises_a_format(tmp_path: Path) -> None:
    file = write(tmp_path / "Llama-FP8" / "config.json", LLAMA)
    with pytest.raises(SpecError, match="says FP8") as caught:
        load_model(str(file))
    assert str(file) in str(caught.value)
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    write(file.with_name("hf_quant_config.json"), beside)
    assert "fp8" in weight_formats(load_model(str(file)))
    write(file, LLAMA | {"quantization_config": FP8})
    assert "fp8-block" in weight_formats(load_model(str(file)))


def test_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / "models--acme--Tiny"
    write(root / "snapshots" / "old" / "config.json", LLAMA | {"num_hidden_layers": 1})
    assert load_model("acme/Tiny").layers == 1
    write(root / "snapshots" / "new" / "config.json", LLAMA | {"num_hidden_layers": 2})
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("old\n")
    assert load_model("acme/Tiny").layers == 1
    (root / "refs" / "main").write_text("new")
    assert load_model("acme/Tiny").layers == 2
    (root / "refs" / "main").write_text("gone")
    assert load_model("acme/Tiny").layers in (1, 2)
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert load_model("acme/Tiny").name == "acme/Tiny"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(UnknownName):
        load_model("acme/Tiny")


def test_shipped_files_are_facts_in_one_form() -> None:
    """One key a line, sorted, so that a change of a fact is one line of a diff."""
    for path in CATALOG.glob("*.json"):
        config = json.loads(path.read_text())
        assert list(config) == sorted(config), path.name
        assert config == shipped(path.stem.replace("--", "/", 1))


def test_the_whole_catalog_is_read_in_a_second() -> None:
    from tokenworks.specs.hf import load

    load._from_catalog.cache_clear()
    start = time.process_time()
    for name in set(model_names()) - CANNOT:
        load_model(name)
    assert time.process_time() - start < 1.5
