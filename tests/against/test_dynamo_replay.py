"""Traces through NVIDIA's offline replay (`ai-dynamo-runtime` 1.6.1) and through ours; `-s` prints them side by side.

It needs an environment of its own, whose python TOKENWORKS_DYNAMO_PYTHON names (docs/peers.md says how to make one).
Both get one clock, so what is left is scheduling, caching and routing; docs/peers.md explains each difference.
"""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenworks.arrays import Floats, Ints
from tokenworks.engine.metrics import metrics
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.simulator import run, warm_up
from tokenworks.engine.types import Cluster, Limits, Pool, Router, StepCost
from tokenworks.ingest import load_trace
from tokenworks.simulation.play import requests_of
from tokenworks.traffic import reblock

pytestmark = pytest.mark.peer

PYTHON = os.environ.get("TOKENWORKS_DYNAMO_PYTHON", "")
RUNNER = Path(__file__).with_name("dynamo_replay_runner.py")
MOONCAKE = Path(__file__).parents[3] / "shared/traces/mooncake_conversation_trace.jsonl.xz"
HASH_BLOCK = 512
SEQUENCES, BUDGET = 64, 8192


@dataclass(frozen=True)
class Clock:
    """Step time: step_s + prefill_s a prefill token + context_s a token that a decode reads [s].

    Theirs has step_s in steps that decode only, and a decode takes 1 ms at least; so step_s is 0, and every context
    is long enough for that millisecond, where the two are to be equal.
    """

    prefill_s: float = 20e-6
    context_s: float = 0.25e-6
    step_s: float = 0.0

    def cost(self) -> StepCost:
        """Ours."""
        table = np.full(BUDGET + 1, max(self.step_s, 1e-12))
        return StepCost(table, decode_context_s=self.context_s, prefill_token_s=self.prefill_s)

    def profile(self, path: Path) -> dict[str, Any]:
        """Theirs: tables of prefill tokens and of (context, context a sequence), interpolated linearly [ms]."""
        tokens, context, each = np.linspace(0, 2e5, 3), np.linspace(0, 4e7, 3), np.linspace(1, 1e6, 3)
        decode = np.repeat((self.step_s + context * self.context_s)[:, None] * 1e3, 3, axis=1)
        np.savez(
            path, prefill_isl=tokens, prefill_ttft_ms=tokens * self.prefill_s * 1e3,
            decode_active_kv_tokens=context, decode_context_length=each, decode_itl=decode,
        )  # fmt: skip
        return {"type": "external", "provider": "dynamo_profile", "config": {"path": str(path)}}


@dataclass(frozen=True)
class Case:
    """A trace and a deployment, and how far apart the two may be: means and batch relative, hits [share of input]."""

    rate: float = 1.4
    long_outputs: bool = False
    blocks: int = 40_000
    block_tokens: int = HASH_BLOCK
    workers: int = 1
    kv_router: bool = False
    clock: Clock = Clock()
    mooncake: bool = False
    times: float = 0.002
    batch: float = 0.002
    hits: float = 0.0


SLOW = Clock(step_s=0.01, context_s=0.05e-6)
FOUR = Case(rate=4.0, workers=4, block_tokens=16)
REAL = Case(mooncake=True, clock=SLOW, batch=0.005)
REAL_FOUR = replace(REAL, workers=4, blocks=12_000)
CASES = {
    "room for all": Case(),
    "evicting, blocks of 16": Case(rate=1.0, blocks=32_000, block_tokens=16),
    "evicting, blocks of 512": Case(rate=1.0, blocks=3_000),
    "preempting": Case(long_outputs=True, blocks=12_000, block_tokens=16),
    "4 workers in turn": FOUR,
    "4 workers, KV router": replace(FOUR, kv_router=True, times=0.2, batch=0.15, hits=0.15),
    "Mooncake, 1 worker, too few": REAL,
    "Mooncake, 4 workers in turn": REAL_FOUR,
    "Mooncake, 4 workers, KV router": replace(REAL_FOUR, kv_router=True, times=0.25, batch=0.1, hits=0.1),
}


@dataclass(frozen=True)
class Run:
    """What one of the two did, request by request in order of arrival, input and output.

    times : columns of arrival, first admission, first token, end [s]; sizes : of input and output [token]
    hits : found in the cache at first admission [token]; load : running and waiting, a row a second, as it says itself
    cpu_s : to read the trace and to play it
    """

    times: Floats
    sizes: Ints
    hits: Ints
    preemptions: int
    mean_itl_s: float
    load: Floats
    cpu_s: float

    @property
    def hit_share(self) -> float:
        return float(self.hits.sum() / self.sizes[:, 0].sum())

    @property
    def means(self) -> dict[str, float]:
        """Means [s]."""
        arrival, _, first, end = self.times.T
        return {"TTFT": float((first - arrival).mean()), "ITL": self.mean_itl_s, "E2EL": float((end - arrival).mean())}

    def batch(self) -> Floats:
        """Requests between first admission and end, at each second: what was admitted, by one definition for both."""
        began, ended = np.sort(self.times[:, 1]), np.sort(self.times[:, 3])
        at = np.arange(0.0, ended[-1])
        inside = np.searchsorted(began, at, side="right") - np.searchsorted(ended, at, side="right")
        return inside.astype(np.float64)


def _order(times: Floats, sizes: Ints) -> Ints:
    """By arrival, to the millisecond of the trace, then input and output."""
    return np.lexsort((times[:, 1], sizes[:, 1], sizes[:, 0], np.round(times[:, 0] * 1e3)))


def _ours(case: Case, trace: Path) -> tuple[Run, Outcome]:
    limits = Limits(SEQUENCES, BUDGET, case.blocks, case.block_tokens, prefix_caching=True)
    pool = Pool(case.clock.cost(), limits, instances=case.workers)
    router = Router("prefix_aware" if case.kv_router else "round_robin")
    cluster = Cluster((pool,), router, window_s=1.0)
    warm_up()
    start = time.process_time()
    outcome = run(cluster, requests_of(reblock(load_trace(trace), case.block_tokens)))
    cpu_s = time.process_time() - start
    found = metrics(outcome)
    assert found.completed == len(outcome.status)
    times = np.stack([outcome.arrival_s, outcome.scheduled_s, outcome.first_token_s, outcome.end_s], axis=1)
    sizes = np.stack([outcome.input_tokens, outcome.output_tokens], axis=1).astype(np.int64)
    order = _order(times, sizes)
    hits, load = outcome.cached_tokens[order].astype(np.int64), outcome.series[:, :2].astype(np.float64)
    again, itl_s = int(outcome.preemptions.sum()), found.mean_itl_ms / 1e3
    return Run(times[order], sizes[order], hits, again, itl_s, load, cpu_s), outcome


def _theirs(case: Case, trace: Path, folder: Path) -> tuple[Run, dict[str, Any]]:
    engine = {
        "backend": "vllm", "num_gpu_blocks": case.blocks, "block_size": case.block_tokens,
        "max_num_seqs": SEQUENCES, "max_num_batched_tokens": BUDGET, "enable_prefix_caching": True,
        "enable_chunked_prefill": True, "timing_model": case.clock.profile(folder / "clock.npz"),
    }  # fmt: skip
    job = {"trace": str(trace), "engine": engine, "hash_block_tokens": HASH_BLOCK, "workers": case.workers,
           "router": "kv_router" if case.kv_router else "round_robin", "every_ms": 1000.0}  # fmt: skip
    out = folder / "out.json"
    command = [PYTHON, str(RUNNER), str(out)]
    done = subprocess.run(command, input=json.dumps(job), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert all(found["completed"])
    times, sizes = np.array(found["times_ms"]) / 1e3, np.array(found["sizes"])
    order = _order(times, sizes)
    hits, load = np.array(found["hit_tokens"])[order], np.array(found["load"], np.float64)
    again, itl_s = sum(found["readmissions"]), found["mean_itl_ms"] / 1e3
    return Run(times[order], sizes[order], hits, again, itl_s, load, found["cpu_s"]), found


def _conversations(path: Path, case: Case, count: int = 2000) -> None:
    """Mooncake lines: Poisson arrivals, two in five go on with an earlier request's full blocks, inputs of >= 4,096."""
    rng = np.random.default_rng(1)
    lines, live, at, named = [], list[list[int]](), 0.0, 0
    for _ in range(600 if case.long_outputs else count):
        at += rng.exponential(1e3 / case.rate)
        ids = live.pop(int(rng.integers(len(live)))) if live and rng.random() < 0.4 and not case.long_outputs else []
        least = HASH_BLOCK * len(ids) + 64 if ids else 4096
        total = min(least + int(rng.lognormal(7.5, 1.0)), 40_000)
        wanted = -(-total // HASH_BLOCK)
        ids = ids[:wanted] + list(range(named, named + max(wanted - len(ids), 0)))
        named += wanted
        output = int(rng.integers(200, 6000)) if case.long_outputs else int(rng.lognormal(5.2, 0.7)) + 1
        lines.append({"timestamp": int(at), "input_length": total, "output_length": output, "hash_ids": ids})
        live = [*live[-199:], ids[: total // HASH_BLOCK]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


MARKED = [pytest.param(name, marks=[pytest.mark.shared] * case.mooncake) for name, case in CASES.items()]


@pytest.fixture(scope="module", params=MARKED)
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Run, Run]:
    if not PYTHON:
        pytest.skip("TOKENWORKS_DYNAMO_PYTHON does not name the python of an environment with ai-dynamo-runtime 1.6.1")
    case, folder = CASES[request.param], tmp_path_factory.mktemp("dynamo")
    path = folder / "trace.jsonl"
    if not case.mooncake:
        _conversations(path, case)
    elif MOONCAKE.is_file():
        path.write_bytes(lzma.decompress(MOONCAKE.read_bytes()))
    else:
        pytest.skip(f"no Mooncake trace at {MOONCAKE}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENWORKS_CACHE", str(folder / "cache"))
        ours, outcome = _ours(case, path)
    theirs, found = _theirs(case, path, folder)
    _print(request.param, ours, theirs, outcome, found)
    return case, ours, theirs


def _print(name: str, ours: Run, theirs: Run, outcome: Outcome, found: dict[str, Any]) -> None:
    count = len(ours.times)
    print(f"\n{name}: {count} requests, {outcome.steps} steps; ours / theirs ({found['version']})")
    for what, value in ours.means.items():
        print(f"  mean {what:4s} {value * 1e3:12.2f} / {theirs.means[what] * 1e3:12.2f} ms")
    print(f"  hits      {ours.hit_share:12.4f} / {theirs.hit_share:12.4f} of input at first admission"
          f" ({found['hit_share_with_readmissions']:.4f} with readmissions)")  # fmt: skip
    same = (ours.hits == theirs.hits).mean()
    print(f"  preempted {ours.preemptions:12d} / {theirs.preemptions:12d}; same hits in {same:.2%} of the requests")
    for what, column in (("running", 0), ("waiting", 1)):
        print(f"  {what}   {ours.load[:, column].mean():12.2f} / {theirs.load[:, column].mean():12.2f}, as each says")
    batch, other = ours.batch(), theirs.batch()
    print(f"  admitted  {batch.mean():12.2f} / {other.mean():12.2f}, apart {_apart(batch, other):.2%} at a second")
    late = np.abs(ours.times[:, 1] - theirs.times[:, 1])
    print(f"  admission of a request apart: median {np.median(late) * 1e3:.3f} ms, most {late.max() * 1e3:.1f} ms")
    print(f"  speed     {count / ours.cpu_s:12,.0f} / {count / theirs.cpu_s:12,.0f} requests a CPU second, reading too")


def _apart(one: Floats, other: Floats) -> float:
    """Mean absolute difference of two batches over time, as a share of the mean."""
    both = np.zeros((2, max(len(one), len(other))))
    both[0, : len(one)], both[1, : len(other)] = one, other
    return float(np.abs(both[0] - both[1]).mean() / both[1].mean())


def test_the_same_requests_complete(played: tuple[Case, Run, Run]) -> None:
    _, ours, theirs = played
    assert (ours.sizes == theirs.sizes).all()
    assert ours.times[:, 0] == pytest.approx(theirs.times[:, 0], abs=1e-9)


def test_the_means_agree(played: tuple[Case, Run, Run]) -> None:
    case, ours, theirs = played
    assert ours.means == pytest.approx(theirs.means, rel=case.times)


def test_the_same_hits(played: tuple[Case, Run, Run]) -> None:
    """Tokens of first admissions; exactly, request by request, where nothing is evicted."""
    case, ours, theirs = played
    if case.hits:
        assert ours.hit_share == pytest.approx(theirs.hit_share, abs=case.hits)
    else:
        assert (ours.hits == theirs.hits).all()


def test_as_many_are_preempted(played: tuple[Case, Run, Run]) -> None:
    _, ours, theirs = played
    assert ours.preemptions == pytest.approx(theirs.preemptions, rel=0.02)


def test_the_same_batch_at_the_same_time(played: tuple[Case, Run, Run]) -> None:
    case, ours, theirs = played
    one, other = ours.batch(), theirs.batch()
    assert one.mean() == pytest.approx(other.mean(), rel=case.batch)
    assert one.max() == pytest.approx(other.max(), rel=0.05 if not case.kv_router else 0.5)
    assert case.kv_router or _apart(one, other) < 2.5 * case.batch
