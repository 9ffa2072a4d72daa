"""The predictor gives the step times of the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

import tokenworks
from tokenworks.engine.simulator import run
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, StepCost
from tokenworks.errors import SpecError
from tokenworks.simulation.predictor import Predictor

DEPLOYMENT = {
    "model": "meta-llama/Meta-Llama-3.1-8B", "system": "hgx-h100:1", "roles": [{"name": "aggregated"}],
}  # fmt: skip
OUTPUT = 26


def cost_of(rng: np.random.Generator) -> StepCost:
    return StepCost(np.cumsum(rng.uniform(1e-5, 1e-4, 5000)) + 1e-3, *(1e-5 * rng.random(5) ** 2))


def test_steps_of_the_engine() -> None:
    """10,000 steps: prompts that are prefilled together on 1 to 3 ranks, and their decode steps."""
    rng, steps = np.random.default_rng(7), 0
    while steps < 10_000:
        cost, ranks = cost_of(rng), int(rng.integers(1, 4))
        predictor = Predictor(cost, ranks, 0, 1.2)
        lengths = rng.integers(2, 60, int(rng.integers(1, 26)))
        home = [i % ranks for i in range(len(lengths))]  # round robin
        times = [predictor([(int(one), 0) for one in lengths], home)]
        times += [predictor([(1, int(one) + k) for one in lengths], home) for k in range(OUTPUT - 1)]
        requests = Requests.of(np.zeros(len(lengths)), lengths, np.full(len(lengths), OUTPUT))
        outcome = run(Cluster((Pool(cost, Limits(64, 1600, 100_000), ranks=ranks),)), requests)
        np.testing.assert_allclose(outcome.first_token_s, times[0], rtol=1e-12)
        np.testing.assert_allclose(outcome.end_s, sum(times), rtol=1e-9)
        assert outcome.steps == len(times)
        steps += len(times)


def test_chunks_of_a_long_prompt() -> None:
    rng = np.random.default_rng(8)
    cost = cost_of(rng)
    predictor = Predictor(cost, 1, 0, 1.2)
    outcome = run(
        Cluster(
            (
                Pool(
                    cost,
                    Limits(4, 96, 1000),
                ),
            )
        ),
        Requests.of([0.0], [1000], [1]),
    )
    chunks = [(min(96, 1000 - past), past) for past in range(0, 1000, 96)]
    assert outcome.end_s[0] == pytest.approx(sum(predictor([chunk]) for chunk in chunks), rel=1e-12)


def test_the_predictor_of_a_deployment(tmp_path: Path) -> None:
    predictor = tokenworks.predictor(DEPLOYMENT, workload="chat")
    decode = [(1, 1000 + i) for i in range(256)]
    seconds = predictor(decode)
    assert 0.003 < seconds < 0.1
    low, high = predictor.interval(decode)
    assert low < seconds < high
    assert predictor([(8192, 0)]) < predictor([(16384, 0)]) < predictor([(65536, 0)])  # also beyond the table
    assert predictor([(512, 0)]) < predictor([(512, 16384)])
    file = tmp_path / "profile.npz"
    predictor.save_npz(file, max_context=4096, max_sequences=8)
    with np.load(file) as tables:
        assert tables["decode_itl"].shape == (
            len(tables["decode_active_kv_tokens"]),
            len(tables["decode_context_length"]),
        )
        assert {table.dtype for table in tables.values()} == {np.dtype(np.float64)}  # Dynamo reads no other
        assert (np.diff(tables["prefill_ttft_ms"]) > 0).all()
        assert (tables["decode_itl"] > 0).all()
    with pytest.raises(SpecError, match="role"):
        tokenworks.predictor(DEPLOYMENT, workload="chat", role="decode")


def test_parameters_for_llm_d(tmp_path: Path) -> None:
    """Both ends of the time between tokens are ours; prefills lie on the fitted line within its error."""
    predictor = tokenworks.predictor(DEPLOYMENT, workload="chat")
    given = predictor.llm_d(context=1000, max_prompt=8192, max_sequences=64)

    def seconds(name: str) -> float:
        text = str(given[name])
        return float(text[:-2]) * {"us": 1e-6, "ns": 1e-9}[text[-2:]]

    alone, factor = seconds("inter-token-latency"), float(given["time-factor-under-load"])
    assert alone == pytest.approx(predictor([(1, 1000)]), rel=0.01)
    assert alone * factor == pytest.approx(predictor([(1, 1000)] * 64), rel=0.01)
    for tokens in (256, 1024, 4096, 8192):
        line = seconds("prefill-overhead") + tokens * seconds("prefill-time-per-token")
        assert line == pytest.approx(predictor([(tokens, 0)]), rel=0.35)
    file = tmp_path / "latency.yaml"
    predictor.save_llm_d(file, context=1000, max_sequences=64)
    assert yaml.safe_load(file.read_text(encoding="utf-8")) == {"engine": "vllm", **given}
    for wrong in ({"context": 0}, {"max_prompt": 1}, {"max_sequences": 1}):
        with pytest.raises(SpecError, match=next(iter(wrong))):
            predictor.llm_d(**wrong)
