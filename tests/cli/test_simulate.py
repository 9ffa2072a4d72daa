"""`tokenworks simulate` as a user meets it: table, object, files, notes on stderr, bad input with its exit code."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclopts import App

import tokenworks
from tests.cli.envelope import result
from tokenworks.cli import per_request
from tokenworks.cli.simulate import shown, simulate
from tokenworks.errors import DoesNotFit, SloMissed, SpecError, TokenworksError
from tokenworks.ingest import load_trace

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
    return result(capsys.readouterr().out)


def test_table(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(file, "--trace", "talk.jsonl", "--slo", "ttft=1s,tpot=50ms")
    out, err = capsys.readouterr()
    assert "2x[tp4], 8 devices, router prefix_aware: talk, 399 requests" in out
    assert "399 completed in" in out
    assert "TTFT [ms]" in out
    assert "SLO ttft=1s,tpot=50ms: met" in out
    assert "time bound by" in out
    assert "Assumed: " in out
    assert "left out 1 row: output_length" in err


def test_the_table_of_tiers_says_whether_they_pay(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(file, "--trace", "talk.jsonl", "--set", "tiers=vllm-offload")
    out, _ = capsys.readouterr()
    for words in (
        "KV tier",
        "quicker from [token]",
        "Do the tiers below HBM pay? No",
        "the best possible eviction has",
    ):
        assert words in out
    lines = {line.split()[0] for line in out.splitlines() if line.strip()}
    assert {"hbm", "host", "ssd"} <= lines
    assert found(capsys, file, "--trace", "talk.jsonl", "--set", "tiers=none")["tier_worth"] is None


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
    assert "UNSTABLE: the queue grows, because more requests arrive than are served. Waiting:" in out
    assert "have no mean" in out
    assert "MISSED" in out


def test_a_limit_on_the_queue_refuses_what_it_cannot_serve(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (file, "--workload", "chat", "--rate", "100", "--requests", "1500")
    one = found(capsys, *arguments, "--max-queue", "20")
    assert one["rejected"] > 300
    assert one["stable"] is True
    assert max(one["series"]["waiting"]) <= 40  # two instances
    assert one["completed_in_all"] + one["rejected"] == 1500
    assert found(capsys, *arguments)["rejected"] == 0


def test_a_closed_loop(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = found(capsys, file, "--workload", "chat", "--concurrency", "16", "--requests", "400")
    assert max(one["series"]["running"]) == 16
    two = found(capsys, file, "--trace", "talk.jsonl", "--concurrency", "4")
    assert max(two["series"]["running"]) <= 4


def rows_of(name: str) -> list[dict[str, Any]]:
    """A file of requests; what is missing is None."""
    if name.endswith("parquet"):
        import pyarrow.parquet as pq

        found: list[dict[str, Any]] = pq.read_table(name).to_pylist()
        return found
    words = ("status", "class")
    with Path(name).open() as file:
        return [
            {key: (text if key in words else float(text)) if text else None for key, text in row.items()}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_row_for_each_request(file: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(file, "--trace", "talk.jsonl", "--per-request", name)
    rows = rows_of(name)
    assert len(rows) == 399
    assert all(row["first_token_s"] > row["arrival_s"] and row["status"] == "completed" for row in rows)
    assert max(row["cached_tokens"] for row in rows) == 1024  # two blocks of 512 are common to all
    assert {path.name for path in Path().glob("*out*")} == {name}
    call(file, "--trace", name)
    assert "trace: the file has no block hashes and no parents" in capsys.readouterr().err.replace("\n", " ")
    again = load_trace(name, strict=True)  # the file is a trace of the same requests
    assert again.arrival_s.tolist() == [row["arrival_s"] for row in rows]
    assert again.input_tokens.tolist() == [row["input_tokens"] for row in rows]
    assert again.output_tokens.tolist() == [row["output_tokens"] for row in rows]
    classed("classed.jsonl")
    call(file, "--trace", "classed.jsonl", "--per-request", name)
    (late, *others) = rows_of(name)
    assert (late["status"], late["end_s"] is None, late["class"]) == ("rejected", False, "batch")
    assert late["first_token_s"] is None
    assert {row["class"] for row in others} == {"batch", "chat"}


def test_parquet_without_pyarrow(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        SpecError, match=r"--per-request out.parquet: Parquet needs pyarrow.*tokenworks\[parquet\]"
    ) as error:
        call(file, "--trace", "talk.jsonl", "--per-request", "out.parquet")
    assert error.value.exit_code == 2


def test_a_file_is_written_whole_or_not_at_all(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, _: object) -> None:
        Path(name).write_text("half")
        raise OSError(28, "No space left on device")

    Path("out.csv").write_text("before")
    monkeypatch.setitem(per_request.FORMATS, ".csv", fail)
    with pytest.raises(SpecError, match=r"out\.csv: cannot be written: No space left"):
        call(file, "--trace", "talk.jsonl", "--per-request", "out.csv")
    assert Path("out.csv").read_text() == "before"
    assert len(list(Path().iterdir())) == 4  # talk.jsonl, plan.yaml, out.csv, cache


def classed(name: str) -> None:
    """Two requests in three are of class chat; the first is longer than the model reads."""
    lengths = [140_000] + [1100] * 398
    rows = [
        {"timestamp": 100 * k, "input_length": n, "output_length": 20, "class": "chat" if k % 3 else "batch",
         "hash_ids": [*range(-(-n // 512) - 1), k + 900]}
        for k, n in enumerate(lengths)
    ]  # fmt: skip
    Path(name).write_text("\n".join(json.dumps(row) for row in rows))


def test_classes_of_a_trace(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    classed("classed.jsonl")
    asked = ("--class", "batch:priority=2,ttft=60s", "--class", "chat:ttft=1s,tpot=1ms")
    chat, batch = sorted(
        found(capsys, file, "--trace", "classed.jsonl", *asked)["classes"], key=lambda c: c["priority"]
    )
    assert (chat["class"], batch["class"], batch["priority"]) == ("chat", "batch", 2)
    assert chat["requests"] + batch["requests"] == 399
    assert (chat["slo"]["met"], batch["slo"]["met"]) == (False, True)
    assert chat["request_goodput"] == 0 < batch["request_goodput"]
    call(file, "--trace", "classed.jsonl", "--slo", "ttft=5s", *asked[:2])
    out, _ = capsys.readouterr()
    assert "132 of 133" in out
    assert "ttft=60s: met" in out
    assert "ttft=5s: met" in out


def test_classes_of_a_workload(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mixed.yaml").write_text(
        "name: mixed\nisl: 800\nosl: 60\nslo: ttft=2s\nclasses:\n"
        "  - {name: chat, share: 0.7, slo: 'ttft=1s,tpot=60ms'}\n  - {name: batch, share: 0.3, priority: 1}\n"
    )
    arguments = ("--workload", "./mixed.yaml", "--rate", "8", "--requests", "500")
    one = found(capsys, file, *arguments)
    assert [(c["class"], c["priority"], c["slo"]["text"]) for c in one["classes"]] == [
        ("chat", 0, "ttft=1s,tpot=60ms"), ("batch", 1, "ttft=2s")
    ]  # fmt: skip
    two = found(capsys, file, *arguments, "--class", "batch:ttft=1ms")
    assert [c["slo"]["met"] for c in two["classes"]] == [True, False]
    assert set(two["slo"]) == {"text", "met", "chat.ttft", "chat.tpot", "batch.ttft"}


def sessions(count: int) -> None:
    """Agents that all begin soon after 0, for their file does not say when: five turns that grow, 20 s apart."""
    calls = [
        [{"t": 20.0 * turn + k / 1000, "type": "n", "in": 640 * (turn + 1), "out": 20, "hash_rl": [0, 10 * (turn + 1)],
          "api_time": 1.0, "think_time": 19.0 if turn else None} for turn in range(5)]
        for k in range(count)
    ]  # fmt: skip
    lines = [{"id": str(k), "block_size": 64, "hash_id_scope": "local", "requests": c} for k, c in enumerate(calls)]
    Path("agents.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_sessions_at_a_rate(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A stream of sessions, some of them under way when it begins; think times stay, and turns hit the ones before."""
    sessions(200)
    one = found(capsys, file, "--trace", "agents.jsonl", "--rate", "4")
    assert one["request_throughput"] == pytest.approx(4, rel=0.1)
    assert one["tiers"][0]["hit_share"] > 0.5
    assert one["inputs"]["endless"] is True
    cut = found(capsys, file, "--trace", "agents.jsonl", "--rate", "4", "--limit", "300")
    assert cut["inputs"]["requests"] == 300
    assert cut["request_throughput"] == pytest.approx(4, rel=0.15)
    again = found(capsys, file, "--trace", "agents.jsonl", "--rate", "4", "--seed", "1")
    assert again["inputs"]["requests"] != one["inputs"]["requests"]
    with pytest.raises(SpecError, match="so the trace has no rate; give a --rate"):
        call(file, "--trace", "agents.jsonl", "--scale", "2")


def test_ctrl_c_gives_the_result_so_far(file: str, tmp_path: Path) -> None:
    """A real signal to a real process, once it says on its terminal that it simulates: partial, exit code 130."""
    Path("long.yaml").write_text("name: long\nisl: 60000\nosl: 300\nhit_share: 0.9\nreused_context: 54000\n")
    command = [sys.executable, "-m", "tokenworks", "simulate", file, "--workload", "./long.yaml", "--rate", "1",
               "--requests", "60000", "-o", "json"]  # fmt: skip
    screen, terminal = os.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env={**os.environ, "TERM": "xterm"}) as run:
        os.close(terminal)
        seen = b""
        while b"simulated" not in seen:
            seen += os.read(screen, 1024)
        run.send_signal(signal.SIGINT)
        threading.Thread(target=_drain, args=(screen,), daemon=True).start()
        out, _ = run.communicate(timeout=60)
    one = result(out.decode())
    assert one["partial"] is True
    assert 0 < one["completed_in_all"] < 60_000
    assert one["unsent"] > 0
    assert run.returncode == 130


def _drain(screen: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(screen, 1024):
            pass


BAD = {
    "--trace talk.jsonl --set roles.0.max_sequence=3": "did you mean roles.0.max_sequences",
    "--trace talk.jsonl --set roles.4.replicas=3": "no such path; did you mean roles.0.replicas",
    "--trace talk.jsonl --set roles.0.parallel=3": "set one of roles.0.parallel.tp, roles.0.parallel.pp",
    "--trace talk.jsonl --set roles.0.replicas=two": "valid integer",
    "--trace talk.jsonl --set roles.0.replicas=[": "cannot read '['",
    "--trace talk.jsonl --set replicas": "write it like roles.0.max_sequences=64",
    "--trace talk.jsonl --set model.name.x=1": "model is a single value",
    "--trace talk.jsonl --pick 3": "holds 1 to 2",
    "--trace talk.jsonl --rate 0": "give a rate above 0",
    "--trace talk.jsonl --rate 2 --scale 2": "give one of them",
    "--trace talk.jsonl --scale -1": "give a factor above 0",
    "--trace talk.jsonl --max-queue -1": "--max-queue: -1 must be at least 0",
    "--trace talk.jsonl --limit 0": "--limit: 0 must be at least 1",
    "--trace talk.jsonl --requests 5": "say --limit",
    "--trace talk.jsonl --slo ttft=2": "write",
    "--trace talk.jsonl --per-request out.txt": "neither .csv nor .parquet",
    "--trace talk.jsonl --per-request no/out.csv": "cannot be written",
    "--trace talk.jsonl --class batch:ttft=1s": "talk has no classes; a workload lists `classes`",
    "--trace classed.jsonl --class batsh:ttft=1s": "unknown class 'batsh'; did you mean batch?",
    "--trace classed.jsonl --class batch:priority=8": "--class batch: the priority cannot be read",
    "--trace classed.jsonl --class batch:ttft=soon": "--class batch ttft",
    "--trace classed.jsonl --class :ttft=1s": 'write it like "batch:priority=1,ttft=60s"',
    "--trace classed.jsonl --class batch:ttft=1s --class batch:priority=1": "names a class twice",
    "--trace talk.jsonl --strict": "output_length",
    "--trace talk.jsonl --benchmark 1": "has the format mooncake, without benchmarks",
    "--workload chat --rate 1 --benchmark 1": "--benchmark: chooses from a trace file; give --trace FILE",
    "--trace nowhere.jsonl": "no such file",
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
    "--workload chat --rate 1 --set tiers=nonsense": "unknown set-up of KV tiers 'nonsense'",
    "--workload chat --rate 1 --set tiers=hicache": "hicache is a set-up of sglang, not of vllm",
    "--workload chat --rate 1 --set tiers=mooncake --set tiers.0.capacity=0GB": "tiers.0.capacity: 0GB is zero",
    "--workload chat --rate 1 --set tiers=mooncake --set tiers.1.gateway=dram": "dram is not there; earlier",
    "--workload chat --rate 1 --set tiers=mooncake --set tiers.0.eviction=cost": "vllm offers lru, arc",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input(file: str, arguments: str) -> None:
    Path("empty.jsonl").write_text("")
    classed("classed.jsonl")
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
        ("--set tiers=vllm-offload --set tiers.0.capacity=5TB", "5 TB of host.dram.*with 2 TB each"),
    ],
)
def test_what_does_not_fit(file: str, arguments: str, words: str) -> None:
    with pytest.raises(TokenworksError, match=words) as error:
        call(file, "--trace", "talk.jsonl", *arguments.split())
    assert isinstance(error.value, DoesNotFit)
    assert error.value.exit_code == 3


def test_a_required_slo_that_is_missed_is_an_exit_code_after_the_output(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    what = (file, "--trace", "talk.jsonl", "--require-slo", "--slo")
    call(*what, "ttft=100s,tpot=1s")
    assert ": met (" in capsys.readouterr().out
    with pytest.raises(SloMissed, match=r"misses the SLO: tpot p99 is .* ms, 1 ms at most") as error:
        call(*what, "ttft=100s,tpot=1ms")
    assert error.value.exit_code == 4
    assert "MISSED" in capsys.readouterr().out
    call(file, "--trace", "talk.jsonl", "--slo", "tpot=1ms")  # not required


def test_rows_that_were_sorted_are_told(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f'{{"timestamp": {t}, "input_length": 10, "output_length": 3, "hash_ids": [1]}}' for t in (5, 1)]
    (tmp_path / "trace.jsonl").write_text("\n".join(rows))
    call(file, "--trace", str(tmp_path / "trace.jsonl"))
    assert "sorted 1 row that was not in the order of time" in capsys.readouterr().err


def test_a_context_limit_refuses_what_is_longer(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(file, "--trace", "talk.jsonl", "--max-model-len", "1124", "-o", "json")
    found = result(capsys.readouterr().out)
    assert found["rejected"] > 0
    assert found["notes"][0].startswith("Context limit (--max-model-len): 1,124 tokens")
    assert "set --max-model-len to 131,072" in found["notes"][1]
    with pytest.raises(SpecError, match=r"all \d+ requests are beyond the 500 tokens .*set --max-model-len"):
        call(file, "--trace", "talk.jsonl", "--max-model-len", "500")


def test_a_file_of_deployments_says_the_context_limit(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(file, "--trace", "talk.jsonl", "--set", "max_model_len=1124", "-o", "json")
    assert result(capsys.readouterr().out)["rejected"] > 0


@pytest.mark.parametrize("tokens", ["0", "131073"])
def test_a_context_limit_that_is_not_allowed_is_named(file: str, tokens: str) -> None:
    with pytest.raises(SpecError, match=f"--max-model-len.*{int(tokens):,}"):
        call(file, "--trace", "talk.jsonl", "--max-model-len", tokens)


def test_a_plan_file_has_its_workload_and_its_slo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --trace and --workload, the requests are those that the plan was made for, under its SLO."""
    bounds, path = "ttft=3s,tpot=40ms", tmp_path / "plan.yaml"
    plan = tokenworks.plan(
        "Qwen/Qwen3-0.6B", "hgx-h100:1", workload="chat", slo=bounds, engine="vllm", simulate=False, top=1
    )
    path.write_text(yaml.safe_dump(plan.document()))
    alone = found(capsys, str(path), "--rate", "5", "--requests", "300")
    named = found(capsys, str(path), "--rate", "5", "--requests", "300", "--workload", "chat", "--slo", bounds)
    assert alone["inputs"]["slo"] == named["inputs"]["slo"] == bounds
    assert {**alone, "wall": {}, "inputs": {}} == {**named, "wall": {}, "inputs": {}}
    run = tokenworks.simulate(plan, rate=5, requests=300)
    assert (str(run.slo), run.metrics) == (bounds, tokenworks.simulate(path, rate=5, requests=300).metrics)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1281.2, 3, "1,281"),
        (99.96, 3, "100"),
        (55.47, 3, "55.5"),
        (0.0123, 3, "0.0123"),
        (999.96, 4, "1000"),
        (31739.4, 4, "31,739"),
    ],
)
def test_a_number_has_no_exponent(value: float, digits: int, text: str) -> None:
    assert shown(value, digits) == text
