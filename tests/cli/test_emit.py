"""`tokenworks emit` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cli.envelope import result
from tests.launch.test_emit import plan_file
from tests.planning.settings import R1
from tokenworks.cli import run
from tokenworks.specs.deployment import Role


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan_file()))
    return path


def test_the_table_names_files_and_figures(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["emit", str(file), "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("1x[tp2] on hgx-h200, vLLM 0.33.0: 6 files in")
    assert "20 (10 to 40)" in out
    assert "note: 6 of 8 devices of hgx-h200 stay free" in err
    assert (tmp_path / "out" / "aggregated.sh").exists()


def test_json_keeps_to_its_schema(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["emit", str(file), "--out", str(tmp_path / "out"), "-o", "json"]) == 0
    found = result(capsys.readouterr().out)
    assert found["dialect"] == "vllm-0.33.0"
    assert [entry["file"] for entry in found["files"]][:2] == ["aggregated.sh", "requests.jsonl"]
    assert found["files"][0]["host"] == "127.0.0.1"


def test_options_reach_the_commands(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--hosts", "a.example", "--model-path", "/w", "--set", "roles.0.max_sequences=32", "--requests", "120"]
    assert run(["emit", str(file), "--out", str(tmp_path / "out"), *words]) == 0
    script = (tmp_path / "out" / "aggregated.sh").read_text()
    assert "vllm serve /w" in script
    assert "--max-num-seqs 32" in script
    assert "Run on a.example." in script
    assert (tmp_path / "out" / "requests.jsonl").read_text().count("\n") == 120
    assert capsys.readouterr().err.count("note:") == 1


def test_errors_have_their_exit_codes(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert run(["emit", str(file), *out, "--dialect", "sglang-0.5.23"]) == 2
    assert "plan with --engine sglang: predictions hold for one engine" in capsys.readouterr().err
    assert run(["emit", str(tmp_path / "no.yaml"), *out]) == 2
    assert run(["emit", str(file)]) == 2
    assert run(["emit", str(file), "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    large = tmp_path / "large.yaml"
    large.write_text(yaml.safe_dump(plan_file(Role(), model=R1)))
    assert run(["emit", str(large), *out]) == 3
    assert not (tmp_path / "out").exists()
