"""`tokenworks models`: one object on stdout, one line a model, and words for what cannot be computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.specs.hf_cases import LLAMA, write
from tokenworks import cli
from tokenworks.specs.hf import model_names


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(["models", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_the_list_has_every_model_computed_or_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(run(capsys, "-o", "json"))
    names = [row["name"] for row in shown["models"]] + [row["name"] for row in shown["not_computed"]]
    assert sorted(names) == model_names()
    assert "block_configs" in shown["not_computed"][0]["why"]
    row = next(row for row in shown["models"] if row["name"] == "deepseek-ai/DeepSeek-R1")
    assert row["parameters"] / 1e9 == pytest.approx(671, rel=0.01)
    assert row["kv_bytes_per_token"] == 70272
    assert row["attention"] == {"MLA": 61}
    assert row["experts"] == {"count": 256, "topk": 8}


def test_the_table_has_one_line_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys).splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == [name for name in model_names() if "Super-49B" not in name]
    assert lines[-1].startswith("cannot be computed: nvidia/Llama-3_3-Nemotron-Super-49B-v1")


@pytest.mark.parametrize(
    "name", ["deepseek-ai/DeepSeek-V4-Pro", "Qwen3.5-397B-A17B", "gpt-oss-120b", "moonshotai/Kimi-K3"]
)
def test_one_model_shows_every_weight_scan_and_note(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = yaml.safe_load(run(capsys, name, "-o", "yaml"))
    page = run(capsys, name)
    for block in shown["blocks"] + shown["draft"]:
        assert f"{block['name']} x {block['count']}" in page
        for matrix in block["matrices"]:
            assert matrix["name"] in page
        for scan in block["scans"]:
            assert scan["name"] in page
        if block["state"]:
            assert block["state"]["name"] in page
    for note in shown["notes"]:
        assert note.split()[0] in page
    outer = sum(matrix["parameters"] for matrix in shown["outer"])
    weights = [(block, sum(matrix["parameters"] for matrix in block["matrices"])) for block in shown["blocks"]]
    inner = sum(block["count"] * (block["vectors"] + elements) for block, elements in weights)
    assert outer + inner == pytest.approx(shown["parameters"], rel=1e-4)  # but for the final norm


def test_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "mine" / "config.json", LLAMA)
    assert json.loads(run(capsys, str(tmp_path / "mine"), "-o", "json"))["name"] == "mine"


def test_a_folder_of_configs_is_a_table_and_names_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "one.json", LLAMA)
    write(tmp_path / "two" / "config.json", LLAMA)
    rows = json.loads(run(capsys, str(tmp_path), "-o", "json"))["models"]
    assert [row["name"] for row in rows] == ["one", "two"]
    write(tmp_path / "three.json", LLAMA | {"model_type": "bert"})
    assert cli.run(["models", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "cannot be computed" in captured.out
    assert captured.out.count("three.json") == 1
    assert "it is an encoder" in captured.out
    assert captured.err == "tokenworks: 1 of 3 configs are refused; the reason of each is in the result\n"


def test_several_names_are_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "mine" / "config.json", LLAMA)
    rows = json.loads(run(capsys, "Qwen/Qwen3-0.6B", str(file), "-o", "json"))["models"]
    assert [row["name"] for row in rows] == ["Qwen/Qwen3-0.6B", "mine"]
    assert cli.run(["models", "Qwen/Qwen3-0.6B", "/no/such/config.json", "-o", "json"]) == 2
    shown = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in shown["not_computed"]] == ["/no/such/config.json"]


def test_a_model_of_windows_alone_has_a_cache_that_does_not_grow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "config.json", LLAMA | {"model_type": "mistral", "sliding_window": 64})
    assert "0 bytes per token (bf16), windows 0.0246 MB per sequence" in run(capsys, str(file))


def test_an_empty_folder_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models", str(tmp_path)]) == 2
    assert "no config.json in this directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["deepseek-r2", "nvidia/Llama-3_3-Nemotron-Super-49B-v1", "/no/such/config.json"])
def test_what_there_is_not(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models", name]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tokenworks: ")


@pytest.mark.parametrize("columns", [80, 120])
def test_a_narrow_page_keeps_names_whole(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run(capsys).splitlines()
    rows = [
        line.split()[0] for line in lines if line.split() and "/" in line.split()[0] and not line.startswith("models/")
    ]
    assert rows == [name for name in model_names() if "Super-49B" not in name]
    assert all(len(line) <= columns for line in lines if not line.startswith("cannot"))
