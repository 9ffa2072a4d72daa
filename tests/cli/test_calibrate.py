"""`tokenworks calibrate` as a user meets it."""

import json
from pathlib import Path

import pytest

from tests.calibrate.cases import table
from tokenworks.cli import run

ROWS = [{"concurrency": str(c), "device": d} for c in (1, 8, 32) for d in ("h100", "h200")]
pytestmark = pytest.mark.usefixtures("kernel")


def test_fit_write_and_validate_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = str(table(tmp_path, *ROWS)), tmp_path / "mine.yaml"
    assert run(["calibrate", "--data", data, "--out", str(out), "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["constants"] == len(found["factors"])
    assert found["tpot_in_sample"]["median_ape"] <= found["tpot_before"]["median_ape"]
    assert run(["validate", "--data", data, "--calibration", str(out), "-o", "json"]) == 0
    validated = json.loads(capsys.readouterr().out)
    assert validated["inputs"]["grade"] == "end-to-end-calibrated"


def test_systems_left_out_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", "--data", str(table(tmp_path, *ROWS)), "--leave-out", "system"]) == 0
    text = capsys.readouterr().out
    assert "h100" in text
    assert "h200" in text


def test_a_result_needs_its_deployment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    file.write_text("{}")
    assert run(["calibrate", "--data", str(file)]) == 2
    assert "give --deployment FILE" in capsys.readouterr().err
