"""`tokenworks simulate --experts` as a user meets it: table, object, page, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tokenworks
from tests.cli.test_simulate import call
from tokenworks.errors import SpecError

pytestmark = pytest.mark.usefixtures("kernel")

DEPLOYMENT = """
model: Qwen/Qwen3-30B-A3B
system: hgx-h100
engine: sglang
roles: [{parallel: {dp: 8, ep: 8}, max_sequences: 512, eplb: {every_steps: 150}}]
"""
LOAD = ("--workload", "chat", "--requests", "150", "--rate", "30")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKENWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("wide.yaml").write_text(DEPLOYMENT)
    Path("experts.yaml").write_text("alpha: 1.0\nhalf_life: 1 min\n")
    return tmp_path


def test_table_and_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("wide.yaml", *LOAD, "--experts", "experts.yaml")
    shown = capsys.readouterr().out
    assert "hottest / mean" in shown
    assert "no EPLB" in shown
    assert "eplb.host_s" in shown  # the assumed time of a rebalance
    call("wide.yaml", *LOAD, "--experts", "experts.yaml", "-o", "json")
    plain = json.loads(capsys.readouterr().out)
    (role,) = plain["experts"]["roles"]
    assert plain["experts"]["load"] == "alpha 1, half-life 60 s, seed 0"
    assert role["eplb"]["every_steps"] == 150
    assert role["rebalances"] > 0
    call("wide.yaml", *LOAD, "-o", "json")
    assert "experts" not in json.loads(capsys.readouterr().out)


def test_python(folder: Path) -> None:
    run = tokenworks.simulate("wide.yaml", workload="chat", requests=150, rate=30.0, experts={"alpha": 1.0})
    assert len(run.tracks) == 1


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("alpha: -1\n", "alpha: -1"),
        ("half_life: 1 h\n", "alpha"),
        ("alpha: 1\nhalf_life: 1 kg\n", "half_life"),
        ("- alpha\n", "experts.yaml"),
    ],
)
def test_bad_files(folder: Path, text: str, word: str) -> None:
    Path("experts.yaml").write_text(text)
    with pytest.raises(SpecError, match=word):
        call("wide.yaml", *LOAD, "--experts", "experts.yaml")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"parallel: {dp: 8, ep: 8}": "parallel: {tp: 8}", ", eplb: {every_steps: 150}": ""}, "expert_tp|ep"),
        ({"every_steps: 150": "every_steps: 0"}, "every_steps: 0"),
        ({"eplb:": "redundant_experts: 3, eplb:"}, "divide|redundant"),
        ({"eplb:": "redundant_experts: 136, eplb:"}, "redundant"),
        ({"Qwen/Qwen3-30B-A3B": "Qwen/Qwen3-8B", "{dp: 8, ep: 8}": "{tp: 8}", ", eplb: {every_steps: 150}": ""},
         "no routed experts"),
    ],
)  # fmt: skip
def test_bad_deployments(folder: Path, change: dict[str, Any], word: str) -> None:
    text = DEPLOYMENT
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    Path("wide.yaml").write_text(text)
    with pytest.raises(SpecError, match=word):
        call("wide.yaml", *LOAD, "--experts", "experts.yaml")
