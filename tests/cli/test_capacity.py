"""`tokenworks capacity` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cyclopts import App

from tests.cli.envelope import result
from tokenworks.cli.capacity import capacity
from tokenworks.errors import SloMissed, SpecError, TokenworksError

pytestmark = pytest.mark.usefixtures("kernel")

DEPLOYMENT = """
schema: tokenworks.deployment/1
deployments:
  - rank: 1
    deployment:
      model: meta-llama/Llama-3.3-70B-Instruct
      system: hgx-h100
      roles: [{name: aggregated, parallel: {tp: 8}}]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TOKENWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [
        {"timestamp": 100 * k, "input_length": 1000, "output_length": 50, "hash_ids": [2 * k, 2 * k + 1]}
        for k in range(400)
    ]
    Path("talk.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("plan.yaml").write_text(DEPLOYMENT)
    return "plan.yaml"


def call(*arguments: str) -> None:
    app = App(result_action="return_value", exit_on_error=False, print_error=False)
    app.default(capacity)
    app(arguments)


def test_table(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(file, "--workload", "chat", "--requests", "1000")
    out, err = capsys.readouterr()
    assert "1x[tp8] holds " in out
    assert "requests/s within ttft=2s,tpot=50ms" in out
    assert "it misses" in out
    assert "effective/device" in out
    assert "80 % interval: " in out
    assert "(the calibration was fitted on points of this device)" in " ".join(out.split())
    assert err == ""


@pytest.mark.parametrize("arguments", [["--workload", "chat", "--requests", "800"], ["--trace", "talk.jsonl"]])
def test_json_has_the_curve(file: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    call(file, *arguments, "--slo", "ttft=2s,tpot=40ms", "-o", "json")
    found = result(capsys.readouterr().out)
    assert (found["kind"], found["load"]) == ("capacity", "rate")
    assert found["capacity"] < found["fails_at"] <= 1.0201 * found["capacity"]
    for name, (low, high) in found["interval"].items():
        assert low < found[name] < high
        assert found[name] ** 2 == pytest.approx(low * high)
    assert found["distance"] == "device"
    loads = [one["load"] for one in found["curve"]]
    assert loads == sorted(loads)
    assert [one["held"] for one in found["curve"]] == [load <= found["capacity"] for load in loads]
    assert found["wall"]["total_s"] > 0


def test_sessions_that_all_begin_at_once(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They are played as a stream at each rate that is tried."""
    turns = [
        {"t": 20.0 * turn, "type": "n", "in": 640 * (turn + 1), "out": 50, "hash_rl": [0, 10 * (turn + 1)]}
        for turn in range(5)
    ]
    lines = [{"id": str(k), "block_size": 64, "hash_id_scope": "local", "requests": turns} for k in range(300)]
    Path("agents.jsonl").write_text("\n".join(map(json.dumps, lines)))
    call(file, "--trace", "agents.jsonl", "--slo", "ttft=1s,tpot=40ms", "--limit", "1200", "-o", "json")
    found = result(capsys.readouterr().out)
    assert 1 < found["capacity"] < found["fails_at"]
    for one in found["curve"]:
        if one["held"]:
            assert one["request_throughput"] == pytest.approx(one["load"], rel=0.15)


def test_the_class_that_misses_its_own_slo_is_named(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) | {"class": "chat" if k % 2 else "batch"} for k, line in
            enumerate(Path("talk.jsonl").read_text().splitlines())]  # fmt: skip
    Path("mixed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = ("--class", "batch:priority=1,ttft=5s", "--class", "chat:ttft=1s")
    call(file, "--trace", "mixed.jsonl", *asked, "-o", "json")
    found = result(capsys.readouterr().out)
    assert found["capacity"] > 1
    assert set(found["bound_by"]) <= {"queue", "batch.ttft", "chat.ttft"}
    assert found["bound_by"]


def test_users(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(file, "--workload", "chat", "--users", "--requests", "800", "-o", "json")
    found = result(capsys.readouterr().out)
    assert (found["load"], found["unit"]) == ("users", "users")
    assert found["capacity"] == int(found["capacity"]) > 8


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ("--workload chat --requests 300 --slo tpot=1ms", SloMissed, "missed: tpot"),
        ("--trace talk.jsonl", SpecError, "--slo: is missing"),
        ("--trace talk.jsonl --users --slo ttft=1s", SpecError, "a trace has a fixed number of users"),
        ("--slo ttft=1s", SpecError, "give --trace FILE or --workload NAME"),
    ],
)
def test_what_cannot_be_found(file: str, arguments: str, error: type[TokenworksError], words: str) -> None:
    with pytest.raises(error, match=words):
        call(file, *arguments.split())
