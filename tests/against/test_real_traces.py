"""Real traces through deployments of DeepSeek-R1 on scaleX40 that `plan` found: docs/simulate.md has their tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tokenworks.engine.types import Status
from tokenworks.ingest import load_trace
from tokenworks.simulation.run import Traffic, simulate
from tokenworks.specs.deployment import Deployment, Parallel, Role
from tokenworks.specs.slo import Slo
from tokenworks.specs.trace import Trace
from tokenworks.traffic import limit, reblock, stream
from tokenworks.traffic.generate import streams

pytestmark = [pytest.mark.shared, pytest.mark.usefixtures("kernel")]

TRACES = Path(__file__).parents[2] / "../shared/traces"
SLO = Slo.parse("ttft.p90=30s,tpot=100ms")
CHAT = Deployment(
    model="deepseek-ai/DeepSeek-R1", system="4xscalex40",
    roles=(
        Role(name="prefill", parallel=Parallel(tp=8, ep=8), replicas=17, max_sequences=3, chunk_tokens=8192,
             kv_dtype="fp8", redundant_experts=8, overlap="two-batch"),
        Role(name="decode", parallel=Parallel(tp=4, dp=5, ep=20), max_sequences=280, chunk_tokens=560,
             kv_dtype="fp8", redundant_experts=24, draft_tokens=1),
    ),
)  # fmt: skip
AGENTS = Deployment(
    model="deepseek-ai/DeepSeek-R1", system="scalex40",
    roles=(
        Role(name="prefill", parallel=Parallel(tp=32, ep=32), max_sequences=2, chunk_tokens=4096, kv_dtype="fp8",
             redundant_experts=32, overlap="two-batch"),
        Role(name="decode", parallel=Parallel(pp=8), max_sequences=15, chunk_tokens=15, kv_dtype="fp8"),
    ),
)  # fmt: skip


def real(name: str) -> Trace:
    path = TRACES / name
    if not path.is_file():
        pytest.skip(f"no trace at {path}")
    return load_trace(path)


def test_an_hour_of_chat_on_four_boxes() -> None:
    """Mooncake's conversation trace, as it is: all 12,031 requests, within the SLO of its own paper."""
    run = simulate(CHAT, Traffic(reblock(real("mooncake_conversation_trace.jsonl.xz"), 64)), slo=SLO)
    found = run.plain()
    assert found["completed"] == 12_031
    assert found["stable"] is True
    assert found["slo"]["met"] is True
    assert found["tiers"][0]["hit_share"] == pytest.approx(0.31, abs=0.05)  # of 0.37 with a cache without an end
    # Little: requests in flight = rate x time.
    inside = (found["series"]["running"], found["series"]["waiting"])
    seen = np.sum(inside) * found["series"]["window_s"] / found["duration"]
    assert seen == pytest.approx(found["request_throughput"] * found["mean_e2el_ms"] / 1e3, rel=0.05)


def test_coding_agents_on_one_box() -> None:
    """Claude Code sessions as a stream: within the edge turns find what their session left; far beyond it is gone."""
    trace = real("weka_claude_code.jsonl.xz")
    slow, fast = (
        simulate(AGENTS, Traffic(limit(stream(trace, rate, streams(0)["arrivals"]), 4000), endless=True), slo=SLO)
        for rate in (0.2, 2.0)
    )
    assert slow.meets_slo
    hits = [run.plain()["tiers"][0]["hit_share"] for run in (slow, fast)]
    assert hits[0] > 0.9
    assert hits[1] < 0.5
    assert not fast.meets_slo
    refused = slow.outcome.count(Status.REJECTED)
    assert 0 < refused < 100  # beyond the context of the model; their sessions end there
