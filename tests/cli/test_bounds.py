"""What is refused in words, with the bound, before anything is compiled or much memory is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenworks import cli

DEPLOYMENT = """
schema: tokenworks.deployment/1
deployments:
  - rank: 1
    deployment:
      model: meta-llama/Llama-3.3-70B-Instruct
      system: hgx-h100
      roles: [{name: aggregated, parallel: {tp: 8}}]
"""
PLAN = "plan meta-llama/Llama-3.3-70B-Instruct --on hgx-h100 --workload chat"
HUGE = "9" * 30

REFUSED = {
    "simulate plan.yaml --workload chat --rate 1 --seed -1": "--seed: -1 must be at least 0",
    f"simulate plan.yaml --workload chat --rate 1 --seed {HUGE}": "must be at most 18,446,744,073,709,551,615",
    "capacity plan.yaml --workload chat --seed -1": "--seed: -1 must be at least 0",
    f"simulate plan.yaml --workload chat --rate 1 --max-queue {HUGE}": "must be at most 1,000,000,000",
    f"simulate plan.yaml --workload chat --concurrency {HUGE}": "must be at most 100,000,000",
    "simulate plan.yaml --workload chat --concurrency 1000000000": "--concurrency: 1000000000 must be at most",
    f"simulate plan.yaml --trace talk.jsonl --concurrency {HUGE}": "must be at most 100,000,000",
    "simulate plan.yaml --workload chat --concurrency 100000000": "chat: 2,000,000,000 requests take about 931 GiB",
    "simulate plan.yaml --workload chat --rate 1 --requests 1000000000": "1,000,000,000 requests take about 466 GiB",
    f"simulate plan.yaml --workload chat --rate 1 --requests {HUGE}": "GiB is the most; give fewer --requests",
    "simulate plan.yaml --trace agents.jsonl --rate 1e9": "--rate 1e+09: ",
    "simulate plan.yaml --workload chat --rate 1e-300": "--rate: 1e-300 requests/s is out of range; give a rate",
    "simulate plan.yaml --trace talk.jsonl --rate 1e300": "--rate: 1e+300 requests/s is out of range; give a rate",
    "simulate plan.yaml --trace talk.jsonl --scale 1e300": "scaled by 1e+300; give a factor above 0, of 1e-09 to 1e+09",
    "simulate plan.yaml --trace talk.jsonl --scale nan": "scaled by nan; give a factor above 0",
    "simulate plan.yaml --workload quiet --rate 1 --require-slo": "--slo: is missing; --require-slo needs one",
    "simulate plan.yaml --trace talk.jsonl --require-slo": "--slo: is missing; --require-slo needs one, such as",
    "capacity plan.yaml --trace talk.jsonl": "--slo: is missing; capacity is the most within an SLO, such as",
    f"{PLAN} --rate 1e-300": "rate",
    f"{PLAN} --concurrency 1e9": "concurrency",
}


@pytest.mark.parametrize("command", REFUSED)
def test_beyond_anything_real(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compiled() -> bool:
        pytest.fail("was not refused before the engine was compiled")

    monkeypatch.setattr("tokenworks.engine.simulator.compiled", compiled)
    monkeypatch.setenv("TOKENWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text(DEPLOYMENT)
    rows = [{"timestamp": k, "input_length": 1100, "output_length": 20, "hash_ids": [0, 1, k + 2]} for k in range(9)]
    Path("talk.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("quiet.yaml").write_text("name: quiet\nisl: 100\nosl: 10\n")
    call = {"t": 0, "in": 64, "out": 8, "hash_rl": [0, 1], "type": "n"}
    session = {"block_size": 64, "hash_id_scope": "local", "requests": [call, {**call, "t": 60}]}
    Path("agents.jsonl").write_text("\n".join([json.dumps(session)] * 3))
    assert cli.run(command.replace("quiet", "quiet.yaml").split()) == 2
    out, err = capsys.readouterr()
    assert REFUSED[command] in err
    assert out == ""
