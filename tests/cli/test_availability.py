"""`tokenworks availability` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.envelope import result
from tokenworks.cli import run
from tokenworks.ledger import availability_sensitivity as sensitivity

DEPLOYMENT = """\
model: Qwen/Qwen3-30B-A3B
system: 2xhgx-h100
engine: sglang
roles:
- name: aggregated
  parallel: {tp: 1, dp: 8, ep: 8}
  replicas: 1
  redundant_experts: 64
  max_sequences: 512
elastic_ep: true
spares: 2
"""


@pytest.fixture
def deployment(tmp_path: Path) -> str:
    path = tmp_path / "deployment.yaml"
    path.write_text(DEPLOYMENT, encoding="utf-8")
    return str(path)


def test_a_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["availability", "scalex40", "--seeds", "20"]) == 0
    out, err = capsys.readouterr()
    text = " ".join(out.split())
    assert "scalex40: 40 x scalex40-card, one scale-up domain of 40" in text
    assert "every part works" in text
    assert "99.99 % allows 52.6 min a year" in text
    assert "No failure rate of this vendor is published" in text
    assert "█" in out
    assert err == ""


def test_a_deployment_keeps_to_its_schema(deployment: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["availability", "2xhgx-h100", "--deploy", deployment, "--workload", "chat", "--seeds", "30"]
    assert run([*arguments, "--years", "2", "-o", "json"]) == 0
    read = result(capsys.readouterr().out)
    one = read["deployment"]
    assert read["kind"] == "availability"
    assert (one["elastic"], one["spares"], read["seeds"]) == (True, 2, 30)
    assert 0 < one["capacity"]["availability"] <= one["serves"]["availability"] < 1
    assert one["lost_tokens"] == pytest.approx(one["effective_tok_s"] * one["capacity"]["downtime_s"])
    assert sum(row["downtime_s"] for row in read["causes"]) == pytest.approx(one["capacity"]["downtime_s"], rel=1e-6)
    assert any("7 of 8 ranks" in row["state"] for row in one["states"])
    assert all(0 <= row["capacity"] < 1 for row in one["states"])


def test_the_table_of_a_deployment_without_the_library_of_interactions(
    deployment: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenworks.ledger.availability.can_interact", lambda: False)
    arguments = ["--workload", "chat", "--seeds", "5", "--set", "elastic_ep=false"]
    assert run(["availability", "2xhgx-h100", "--deploy", deployment, *arguments]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "no elastic expert parallelism, 2 spare devices" in text
    assert "What takes the capacity of the deployment" in text
    assert f"pip install '{sensitivity.EXTRA}'" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["5xhgx-h100", "--deploy", "FILE", "--workload", "chat"], "the deployment is for 2xhgx-h100"),
        (["2xhgx-h100", "--deploy", "FILE"], "--workload: is missing"),
        (["2xhgx-h100", "--deploy", "FILE", "--workload", "chat", "--set", "spares=9"], "9 spare devices"),
        (["2xhgx-h100", "--workload", "chat"], "--workload: belongs to a deployment"),
        (["2xhgx-h100", "--set", "spares=1"], "--set: belongs to a deployment"),
        (["2xhgx-h100", "--years", "0"], "--years: 0 years"),
        (["2xhgx-h100", "--promise", "101"], "--promise: 101 %"),
        (["2xhgx-h101"], "2xhgx-h101"),
    ],
)  # fmt: skip
def test_bad_input(arguments: list[str], words: str, deployment: str, capsys: pytest.CaptureFixture[str]) -> None:
    named = [deployment if word == "FILE" else word for word in arguments]
    assert run(["availability", *named, "--seeds", "1"]) in (2, 3)
    assert words.removeprefix("2x") in " ".join(capsys.readouterr().err.split())
