"""`tokenworks trace`: the table and the object, notes on stderr, bad input with its exit code."""

import json
from pathlib import Path

import pytest
from cyclopts import App

from tests.cli.envelope import result
from tests.ingest import format_cases
from tokenworks.cli.trace import trace
from tokenworks.errors import SpecError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKENWORKS_CACHE", str(tmp_path / "cache"))
    rows = [
        {"timestamp": 1000 * k, "input_length": 1024, "output_length": k % 5, "hash_ids": [0, k + 1]} for k in range(60)
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [rows[1], rows[0], *rows[2:]]))
    return path


def call(*arguments: str) -> None:
    app = App(result_action="return_value", exit_on_error=False, print_error=False)
    app.default(trace)
    app(arguments)


def test_table(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(str(file))
    out, err = capsys.readouterr()
    assert "talk: 48 requests in 58 s" in out
    assert "one column is 0.967 s" in out
    assert "input [token]" in out
    assert "prefix reuse: 49.0% of the input tokens" in out
    assert "100% of these hits need an LRU cache of" in out
    assert "left out 12 rows: output_length: expected `int` >= 1" in err


def test_object(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(str(file), "-o", "json", "--limit", "10")
    out, err = capsys.readouterr()
    found = result(out)
    assert err == ""
    assert found["requests"] == sum(found["requests_over_time"]) == 10
    assert found["reuse"]["unique_blocks"] == 11
    assert found["reordered"] == 0
    assert [d["count"] for d in found["dropped"]] == [12]


def test_requests_at_once_and_sessions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk = [{"from": who, "value": "words " * 30} for who in ("human", "gpt", "human", "gpt")]
    path = tmp_path / "s.json"
    path.write_text(json.dumps([{"conversations": talk}]))
    call(str(path))
    out, _ = capsys.readouterr()
    assert "2 requests in 0 s, all at once" in out
    assert "1 sessions, 0 requests of sub-agents" in out
    assert "note: assumed: lengths are UTF-8 bytes / 4" in out


def test_classes_and_sessions_without_a_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"timestamp": 1000 * k, "input_length": 512, "output_length": 5, "hash_ids": [k], "class": "ab"[k % 2]}
        for k in range(4)
    ]
    path = tmp_path / "classes.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    call(str(path))
    assert "classes: a 50.0%, b 50.0%" in capsys.readouterr().out
    turns = [{"t": 20.0 * k + 1, "type": "n", "in": 64, "out": 5, "hash_rl": [0, 1]} for k in range(3)]
    sessions = [{"block_size": 64, "hash_id_scope": "local", "requests": turns[k:]} for k in range(2)]
    path.write_text("\n".join(map(json.dumps, sessions)))
    call(str(path))
    assert "5 requests in 40 s, all at once" in capsys.readouterr().out


def test_one_benchmark_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(format_cases.guidellm()))
    call(str(path), "--benchmark", "2")
    out, err = capsys.readouterr()
    assert "report: 3 requests" in out
    assert "left out 1 row: requests.errored[]" in err
    with pytest.raises(SpecError, match="choose one with --benchmark 1 to 2"):
        call(str(path))


def test_a_seed_draws_other_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chunk-0-dataset.json").write_text(json.dumps(format_cases.DATASET))
    path = tmp_path / "chunk-0-trace.csv"
    path.write_text(format_cases.SERVEGEN)
    counts = []
    for seed in ("1", "1", "2"):
        call(str(path), "--seed", seed, "-o", "json")
        counts.append(result(capsys.readouterr().out)["requests"])
    assert counts[0] == counts[1] != counts[2]


def test_bad_input(file: Path) -> None:
    with pytest.raises(SpecError, match="has the format mooncake, without benchmarks"):
        call(str(file), "--benchmark", "1")
    with pytest.raises(SpecError, match=r"talk\.jsonl:"):
        call(str(file), "--strict")
    with pytest.raises(SpecError, match="known formats: sharegpt"):
        call(str(file), "--format", "mooncakes")
    with pytest.raises(SpecError, match="at least 1"):
        call(str(file), "--limit", "0")
