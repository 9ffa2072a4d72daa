"""`tokenworks sweep` as a user meets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.envelope import result
from tests.ledger.sweep_cases import ESTIMATE, PLAN, SIMULATE
from tests.waiting import wait_until
from tokenworks.cli import run


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(ESTIMATE))
    return path


def test_table(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sweep", str(file), "--workers", "1"]) == 0
    out, err = capsys.readouterr()
    assert "8 points of estimate: 6 with a result, 2 do not fit." in out
    assert "2 x [tp2 etp2] on hgx-h100:2: 4,096 sequences" in out.replace("\n", " ")
    assert "machine.device.hbm.bandwidth = 3.35 TB/s" in out
    assert "decode_step_s along batch" in out
    assert "knee = value of batch with the largest distance" in out
    assert "What moves decode_step_s most" in out
    assert "Together the inputs explain 9" in out
    assert err == ""


def test_the_currency_of_a_curve_is_known_where_the_first_point_fails(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One H100 is too small for the model; the other points have a cost."""
    question = {**PLAN, "model": "meta-llama/Llama-3.3-70B-Instruct", "on": "hgx-h100", "engine": "vllm"}
    question |= {"currency": "CNY", "over": {"devices": [1, 4, 8]}}
    file.write_text(yaml.safe_dump(question))
    assert run(["sweep", str(file), "--workers", "1"]) == 0
    out, _ = capsys.readouterr()
    assert "1 does not fit" in out or "1 do not fit" in out
    assert "in CNY, prices in the middle" in " ".join(out.split())


def test_one_curve_has_a_bar_a_point(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps: dict[str, Any] = {"from": 1, "to": 128, "steps": 60}
    file.write_text(yaml.safe_dump({**ESTIMATE, "title": "A title", "over": {"batch": steps}}))
    assert run(["sweep", str(file), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("A title\n")
    assert "40 of 60 points" in out or "41 of 60 points" in out
    assert "Knee at batch = " in out
    assert "What moves" not in out


def test_a_latin_hypercube_is_shown_in_parts(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    over = {"batch": {"from": 1, "to": 128}, "machine.device.hbm.bandwidth": {"from": "2 TB/s", "to": "4 TB/s"}}
    file.write_text(yaml.safe_dump({**ESTIMATE, "over": over, "latin": {"points": 40}}))
    assert run(["sweep", str(file), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "decode_step_s along batch, mean of the points in each part" in out
    assert "(SRRC)" in out


def test_json_keeps_to_its_schema_and_is_equal_twice(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for _ in range(2):
        assert run(["sweep", str(file), "--workers", "1", "-o", "json"]) == 0
        plain = result(capsys.readouterr().out)
        assert plain.pop("wall")["computed"] == 8
        shown.append(plain)
    assert shown[0] == shown[1]
    assert (plain["in_all"], plain["with_result"], plain["does_not_fit"]) == (8, 6, 2)
    assert [axis["name"] for axis in plain["axes"]] == ["batch", "machine.device.hbm.bandwidth"]
    assert plain["axes"][1]["units"] == ["byte/s"]
    assert len(plain["points"]) == 8
    assert plain["inputs"]["model"] == "Qwen/Qwen3-30B-A3B"
    assert plain["inputs"]["sweep"]["over"]["batch"] == [1, 16, 4096, 64]


def test_a_finished_file_is_only_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", str(file), "--workers", "1", "--parquet", "e.parquet"]
    assert run(command) == 0
    first = capsys.readouterr().out
    assert run(command) == 0
    out, err = capsys.readouterr()
    assert out == first
    assert "e.parquet has all points already; nothing was computed" in err


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"over": {"scale_up.bandwith": ["1 GB/s"]}}, [], "over.scale_up.bandwith: no such path; did you mean"),
        ({}, ["--workers", "0"], "--workers: 0 is not a number of 1 or more"),
        ({}, ["--parquet", "no/such/e.parquet"], "there is no folder"),
        ({"show": {"y": "decode_step"}}, ["--workers", "1"], 'did you mean "decode_step_s"?'),
        ({"show": {"x": "bach"}}, [], 'show.x: bach is not an axis of the sweep; did you mean "batch"?'),
    ],
)
def test_bad_input(
    changes: dict[str, Any], options: list[str], words: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(yaml.safe_dump({**ESTIMATE, **changes}))
    assert run(["sweep", str(file), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert sorted(path.name for path in file.parent.iterdir()) == ["sweep.yaml"]


def test_nothing_fits(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(yaml.safe_dump({**ESTIMATE, "over": {"batch": [5000]}}))
    assert run(["sweep", str(file), "--workers", "1"]) == 3
    assert "none of 1 points has a result; 1 of them: [tp2 etp2]" in capsys.readouterr().err


LONG = {**SIMULATE, "requests": 4000, "over": {"rate": {"from": 1, "to": 40, "steps": 120}}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, kernel: None) -> bytes:
    """The table of the sweep `LONG` that nobody stops."""
    question = tmp_path_factory.mktemp("whole") / "sweep.yaml"
    question.write_text(yaml.safe_dump(LONG))
    table = question.parent / "whole.parquet"
    assert run(["sweep", str(question), "--workers", "1", "--parquet", str(table)]) == 0
    return table.read_bytes()


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_sweep_goes_on_and_ends_with_the_same_bytes(stop: signal.Signals, file: Path, whole: bytes) -> None:
    """The processes of a killed sweep end, too."""
    file.write_text(yaml.safe_dump(LONG))
    command = [sys.executable, "-m", "tokenworks", "sweep", str(file), "--workers", "2", "--parquet"]
    journal = file.parent / "cut.parquet.journal"

    def lines() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    with subprocess.Popen(
        [*command, "cut.parquet"], cwd=file.parent, stderr=subprocess.PIPE, start_new_session=True
    ) as first:
        wait_until(lambda: lines() > 4 or first.poll() is not None)
        first.send_signal(stop)
        _, err = first.communicate(timeout=60)
    wait_until(lambda: not alive(first.pid), 20)
    assert 4 < lines() < 121
    assert not (file.parent / "cut.parquet").exists()
    if stop != signal.SIGKILL:
        assert "leaked" not in err.decode()
        assert first.returncode == 130
        words = " ".join(err.decode().split())
        assert "the finished points are in cut.parquet.journal; the same command goes on from there" in words
    before = lines() - 1
    assert run(["sweep", str(file), "--workers", "1", "--parquet", "cut.parquet"]) == 0
    assert (file.parent / "cut.parquet").read_bytes() == whole
    assert before > 3
    assert not journal.exists()


def alive(group: int) -> bool:
    """Whether a process of a group runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
