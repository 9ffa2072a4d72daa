"""`tokenworks simulate` as a user meets it: table, object, files, notes on stderr, bad input with its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cyclopts import App

from tokenworks.cli.simulate import simulate
from tokenworks.errors import DoesNotFit, SpecError, TokenworksError

pytestmark = pytest.mark.usefixtures("kernel")

DEPLOYMENT = """
schema: tokenworks.deployment/1
deployments:
  - rank: 1
    deployment:
      model: meta-llama/Llama-3.3-70B-Instruct
      system: hgx-h100
      roles: [{name: aggregated, parallel: {tp: 4}, replicas: 2}]
  - rank: 2
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
        {"timestamp": 100 * k, "input_length": 1100, "output_length": 20 + k % 7, "hash_ids": [0, 1, k + 2]}
        for k in range(400)
    ]
    rows[7]["output_length"] = 0
    Path("talk.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    Path("plan.yaml").write_text(DEPLOYMENT)
    return "plan.yaml"


def call(*arguments: str) -> None:
    app = App(result_action="return_value", exit_on_error=False, print_error=False)
    app.default(simulate)
    app(arguments)


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    call(*arguments, "-o", "json")
    return json.loads(capsys.readouterr().out)


def test_table(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(file, "--trace", "talk.jsonl", "--slo", "ttft=1s,tpot=50ms")
    out, err = capsys.readouterr()
    assert "2x[tp4], 8 devices, router prefix_aware: talk, 399 requests" in out
    assert "399 completed in" in out
    assert "TTFT [ms]" in out
    assert "SLO ttft=1s,tpot=50ms: met" in out
    assert "time bound by" in out
    assert "Assumed: " in out
    assert "left out 1: output_length" in err


def test_json_is_one_object(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = found(capsys, file, "--trace", "talk.jsonl")
    assert one["completed"] == 399
    assert one["tiers"][0]["hit_share"] > 0.8  # 1,024 of 1,100 tokens are common
    assert set(one["wall"]) == {"kernel_s", "total_s", "requests_per_s", "steps", "peak_bytes"}
    two = found(capsys, file, "--trace", "talk.jsonl")
    assert {**one, "wall": 0} == {**two, "wall": 0}


def test_the_deployment_can_be_picked_and_edited(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    def role(*arguments: str) -> Any:
        return found(capsys, file, "--trace", "talk.jsonl", *arguments)["inputs"]["deployment"]["roles"][0]

    assert role("--pick", "2")["parallel"]["tp"] == 8
    edited = role("--set", "roles.0.max_sequences=3", "--set", "roles.0.parallel.tp=8", "--set", "roles.0.replicas=1")
    assert (edited["max_sequences"], edited["parallel"]["tp"]) == (3, 8)


def test_rate_scale_and_limit_of_a_trace(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    def span(*arguments: str) -> int:
        return len(found(capsys, file, "--trace", "talk.jsonl", *arguments)["series"]["running"])

    whole = span()
    assert whole == pytest.approx(41, abs=2)  # 400 requests, 10 a second
    assert span("--scale", "2") == pytest.approx(whole / 2, abs=2)
    assert span("--rate", "5") == pytest.approx(whole * 2, abs=3)
    assert span("--limit", "100") == pytest.approx(whole / 4, abs=2)


def test_a_workload_at_an_impossible_rate(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(file, "--workload", "chat", "--rate", "100", "--requests", "2000")
    out, _ = capsys.readouterr()
    assert "UNSTABLE: more is sent than can be served, the queue grows: waiting" in out
    assert "no mean is shown" in out
    assert "MISSED" in out


def test_a_closed_loop(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = found(capsys, file, "--workload", "chat", "--concurrency", "16", "--requests", "400")
    assert max(one["series"]["running"]) == 16
    two = found(capsys, file, "--trace", "talk.jsonl", "--concurrency", "4")
    assert max(two["series"]["running"]) <= 4


@pytest.mark.parametrize("name", ["out.npz", "out.csv"])
def test_a_row_for_each_request(file: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(file, "--trace", "talk.jsonl", "--per-request", name)
    if name.endswith("npz"):
        columns = dict(np.load(name))
    else:
        table = np.genfromtxt(name, delimiter=",", names=True)
        columns = {key: table[key] for key in table.dtype.names or ()}
    assert len(columns["end_s"]) == 399
    assert (columns["first_token_s"] > columns["arrival_s"]).all()
    assert columns["cached_tokens"].max() == 1024  # two blocks of 512 are common to all


BAD = {
    "--trace talk.jsonl --set roles.0.max_sequence=3": 'did you mean "max_sequences"?',
    "--trace talk.jsonl --set roles.4.replicas=3": "unknown key '4'; known: 0",
    "--trace talk.jsonl --set roles.0.parallel=3": "set one of tp, pp, dp, ep, expert_tp",
    "--trace talk.jsonl --set roles.0.replicas=two": "valid integer",
    "--trace talk.jsonl --set roles.0.replicas=[": "cannot read '['",
    "--trace talk.jsonl --set replicas": "write it like roles.0.max_sequences=64",
    "--trace talk.jsonl --set model.name.x=1": "it is a plain value",
    "--trace talk.jsonl --pick 3": "holds 1 to 2",
    "--trace talk.jsonl --rate 0": "give a rate above 0",
    "--trace talk.jsonl --rate 2 --scale 2": "give one of them",
    "--trace talk.jsonl --scale -1": "give a factor above 0",
    "--trace talk.jsonl --limit 0": "--limit: 0 must be at least 1",
    "--trace talk.jsonl --requests 5": "say --limit",
    "--trace talk.jsonl --slo ttft=2": "write",
    "--trace talk.jsonl --per-request out.txt": "neither .npz nor .csv",
    "--trace talk.jsonl --per-request no/out.csv": "cannot be written",
    "--trace talk.jsonl --strict": "output_length",
    "--trace nowhere.jsonl": "cannot read",
    "--trace empty.jsonl": "the file is empty",
    "--trace zero.jsonl": "no",
    "--trace long.jsonl": "all 1 requests are beyond the 131,072 tokens",
    "--workload chat": "give --rate or --concurrency",
    "--workload chat --rate nan": "give a rate above 0",
    "--workload chat --rate 1 --concurrency 2": "a closed one a concurrency",
    "--workload chat --rate 1 --scale 2": "give --rate",
    "--workload chat --rate 1 --limit 2": "say --requests",
    "--workload chatt --rate 1": "did you mean chat?",
    "--workload chat --trace talk.jsonl": "one of them",
    "": "give --trace FILE or --workload NAME",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input(file: str, arguments: str) -> None:
    Path("empty.jsonl").write_text("")
    row = {"timestamp": 0, "input_length": 0, "output_length": 5, "hash_ids": [1]}
    Path("zero.jsonl").write_text(json.dumps(row))
    ids = list(range(400))
    Path("long.jsonl").write_text(json.dumps({**row, "input_length": 200_000, "hash_ids": ids[:391]}))
    with pytest.raises(SpecError) as error:
        call(file, *arguments.split())
    assert BAD[arguments] in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--set roles.0.replicas=3", "takes 12 devices, hgx-h100 has 8"),
        ("--set roles.0.parallel.tp=1 --set roles.0.replicas=1", "short by"),
    ],
)
def test_what_does_not_fit(file: str, arguments: str, words: str) -> None:
    with pytest.raises(TokenworksError, match=words) as error:
        call(file, "--trace", "talk.jsonl", *arguments.split())
    assert isinstance(error.value, DoesNotFit)
    assert error.value.exit_code == 3
