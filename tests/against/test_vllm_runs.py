"""Three recorded vLLM 0.19 runs on RTX PRO 6000, replayed request by request; `-s` prints them beside the real ones.

This is about the scheduler's shape: who runs, who waits, in what order. Step times are those of the datasheet grade, so
the clock may be off by its spread, and the bounds here are loose; accuracy is `validate`'s business.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tokenworks.ingest import load_trace
from tokenworks.simulation.run import Simulation, Traffic, simulate
from tokenworks.simulation.summary import series
from tokenworks.specs.deployment import Deployment, Parallel, Role

pytestmark = pytest.mark.shared

RUNS = Path(__file__).parents[3] / "shared/measured/vllm-runs"
# What meta.json says of each: 128 sequences and 2,048 tokens a step for a rank, and how the model is split.
CASES = {
    "rtxpro6000-Llama-3.1-8B": ("meta-llama/Meta-Llama-3.1-8B", Parallel()),
    "rtxpro6000-Qwen3-32B": ("Qwen/Qwen3-32B", Parallel(tp=2)),
    "rtxpro6000-Qwen3-30B-A3B-Instruct-2507": ("Qwen/Qwen3-30B-A3B", Parallel(dp=2, ep=2)),
}
EVERY_S = 8


@dataclass(frozen=True)
class Real:
    """A recorded run: per request, in order of arrival [s]; running and waiting, a row a second."""

    ttft: NDArray[np.float64]
    e2el: NDArray[np.float64]
    queued: NDArray[np.float64]
    over_time: NDArray[np.float64]

    @classmethod
    def load(cls, folder: Path) -> Real:
        rows = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
        rows.sort(key=lambda row: row["arrival_time"])
        names = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
        queued, scheduled, first, last = (np.array([row[name] for row in rows]) for name in names)
        table = np.loadtxt(folder / "timeseries.csv", delimiter=",", skiprows=1)
        return cls(first - queued, last - queued, scheduled - queued, table[:, [0, 3, 4]])


@pytest.fixture(params=CASES, scope="module")
def replayed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Real, Simulation]:
    folder = RUNS / request.param
    if not folder.is_dir():
        pytest.skip(f"no measured runs at {RUNS}")
    model, parallel = CASES[request.param]
    role = Role(
        name="aggregated", parallel=parallel, max_sequences=128 * parallel.dp, chunk_tokens=2048 * parallel.dp
    )  # fmt: skip
    deployment = Deployment(model=model, system="pcie-rtx-pro-6000", roles=(role,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENWORKS_CACHE", str(tmp_path_factory.mktemp("cache")))
        trace = load_trace(folder / "requests.jsonl")
    real, run = Real.load(folder), simulate(deployment, Traffic(trace))
    _print(request.param, real, run)
    return real, run


def _times(run: Simulation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    outcome = run.outcome
    return outcome.first_token_s - outcome.arrival_s, outcome.end_s - outcome.arrival_s


def _print(name: str, real: Real, run: Simulation) -> None:
    print(f"\n{name}: {run.outcome.steps} steps; simulated beside real, and the error of each request")
    for what, ours, theirs in zip(("TTFT", "E2EL"), _times(run), (real.ttft, real.e2el), strict=True):
        error = ours / theirs - 1
        low, high = np.quantile(error, (0.1, 0.9))
        print(
            f"  {what} mean {ours.mean():6.2f} / {theirs.mean():6.2f} s, median {np.median(ours):6.2f} / "
            f"{np.median(theirs):6.2f} s; error median {np.median(np.abs(error)):.0%}, p10 {low:+.0%}, p90 {high:+.0%}"
        )
    found = series(run)
    print("  second: running / real, waiting / real")
    for second, running, waiting in real.over_time[::EVERY_S].astype(int):
        row = second - 1
        runs, waits = (found[what][row] if row < len(found[what]) else 0 for what in ("running", "waiting"))
        print(f"  {second:4d}: {runs:4d} / {running:4d}, {waits:4d} / {waiting:4d}")


def test_all_requests_complete(replayed: tuple[Real, Simulation]) -> None:
    _, run = replayed
    assert run.metrics.completed == 300


def test_as_many_run_at_once(replayed: tuple[Real, Simulation]) -> None:
    """The most that run, and whether a queue forms at all, are the scheduler's."""
    real, run = replayed
    found = series(run)
    assert max(found["running"]) == pytest.approx(real.over_time[:, 1].max(), rel=0.1)
    if real.over_time[:, 2].max() > 50:
        assert max(found["waiting"]) == pytest.approx(real.over_time[:, 2].max(), rel=0.4)


def test_the_queue_is_served_in_the_same_order(replayed: tuple[Real, Simulation]) -> None:
    """Who waited long there waits long here: rank correlation of the waits, where there was a queue."""
    real, run = replayed
    if np.median(real.queued) < 1:
        pytest.skip("no queue in this run")
    ours = run.outcome.scheduled_s - run.outcome.arrival_s
    one, other = (np.argsort(np.argsort(values)) for values in (ours, real.queued))
    assert np.corrcoef(one, other)[0, 1] > 0.8


def test_the_clock_is_within_the_spread_of_its_grade(replayed: tuple[Real, Simulation]) -> None:
    real, run = replayed
    _, ours = _times(run)
    ratio = real.e2el.mean() / ours.mean()
    assert 1 / 2 < ratio < 2
