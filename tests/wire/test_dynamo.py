"""The tables of `Predictor.save_npz`, played by Dynamo's own replay beside `simulate`. `make wire` installs Dynamo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tokenworks
from tests.wire.environments import HERE
from tests.wire.test_clients import PLAN, command_of, run

pytestmark = pytest.mark.wire

ENGINE = {
    "backend": "vllm", "block_size": 16, "num_gpu_blocks": 30000, "max_num_seqs": 64, "max_num_batched_tokens": 8192,
    "enable_prefix_caching": True, "enable_chunked_prefill": True,
}  # fmt: skip


def both(folder: Path, rate: float, count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """TTFT and TPOT of each request: of `simulate` without the time of client and HTTP, and of Dynamo's replay [ms]."""
    rng, rows, block = np.random.default_rng(0), list[dict[str, object]](), 0
    times = 1e3 * np.cumsum(rng.exponential(1 / rate, count))
    inputs = np.clip(rng.lognormal(6.3, 0.8, count), 20, 6000).astype(int)
    outputs = np.clip(rng.lognormal(4.6, 0.6, count), 8, 600).astype(int)
    for when, isl, osl in zip(times.tolist(), inputs.tolist(), outputs.tolist(), strict=True):
        ids = list(range(block, block := block + -(-isl // 512)))
        rows.append({"timestamp": when, "input_length": isl, "output_length": osl, "hash_ids": ids})
    trace, profile, engine, out = (folder / name for name in ("trace.jsonl", "profile.npz", "engine.json", "out.json"))
    trace.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    engine.write_text(json.dumps(ENGINE))
    tokenworks.predictor(PLAN, trace=trace).save_npz(profile)
    outcome = tokenworks.simulate(PLAN, trace=trace, router="round_robin").outcome
    run([command_of("dynamo", "python"), HERE / "play_dynamo.py", trace, profile, engine, "2", out])
    played = json.loads(out.read_text())
    assert [row["input_length"] for row in played] == inputs.tolist()
    assert [row["output_length"] for row in played] == outputs.tolist()
    lengths = np.maximum(outputs - 1, 1)
    own_ttft = 1e3 * (outcome.first_token_s - outcome.arrival_s)
    own_ttft -= round(own_ttft.min() - min(row["ttft_ms"] for row in played), 1)  # time of client, HTTP and tokeniser
    return {
        "TTFT": (own_ttft, np.array([row["ttft_ms"] for row in played])),
        "TPOT": (
            1e3 * (outcome.end_s - outcome.first_token_s) / lengths,
            np.array([row["last_token_ms"] - row["first_token_ms"] for row in played]) / lengths,
        ),
    }


@pytest.mark.parametrize(("rate", "worst"), [(0.2, {"TTFT": 0.01, "TPOT": 0.001}), (6.0, {"TTFT": 0.3, "TPOT": 0.03})])
def test_dynamo_replay(rate: float, worst: dict[str, float], tmp_path: Path) -> None:
    """Alone, a request takes the same times. With others, Dynamo adds the times of prefill and decode of a step."""
    for name, (own, theirs) in both(tmp_path, rate, 200).items():
        print(
            f"{rate:g}/s {name}: mean {own.mean():.2f} {theirs.mean():.2f} ms, "
            f"p99 {np.percentile(own, 99):.2f} {np.percentile(theirs, 99):.2f} ms"
        )
        assert theirs.mean() == pytest.approx(own.mean(), rel=worst[name])
        assert np.percentile(theirs, 99) == pytest.approx(np.percentile(own, 99), rel=worst[name] + 0.05)
