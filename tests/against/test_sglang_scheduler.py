"""The same requests through SGLang's own scheduler (version 0.5.23) and through `policy="sglang"`; `-s` prints both.

SGLang runs in an environment of its own, whose python TOKENWORKS_SGLANG_PYTHON names
(sglang_scheduler_requirements.txt says how to make one). Both schedulers get the same logical clock, so all that can
differ is scheduling, the prefix cache and preemption.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenworks.arrays import Floats, Ints
from tokenworks.engine.simulator import run, warm_up
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, StepCost

pytestmark = pytest.mark.peer

PYTHON = os.environ.get("TOKENWORKS_SGLANG_PYTHON", "")
RUNNER = Path(__file__).with_name("sglang_scheduler_runner.py")
STEP_S, PREFILL_S, CONTEXT_S = 0.01, 20e-6, 0.05e-6
SEQUENCES, CHUNK = 48, 4096
PREFIXES = 40
OUTPUT_TOKENS = 60_000
"""The runner gives request i the output token `OUTPUT_TOKENS` + i, always the same."""


@dataclass(frozen=True)
class Case:
    """Requests and a KV cache.

    Parameters
    ----------
    rate : requests per second [1/s]
    kv_tokens : size of the KV cache [token]
    page_tokens : size of a page of the KV cache, the block of tokenworks [token]
    reserve : share of the output to come that admission keeps free at the start (SGLang: new_token_ratio) [-]
    requests : number of requests
    long_outputs : whether prompts are short and outputs are long; else the other way round
    turns : share of the requests that continue an earlier prompt and its output [-]
    """

    rate: float
    kv_tokens: int
    page_tokens: int = 64
    reserve: float = 0.7
    requests: int = 400
    long_outputs: bool = False
    turns: float = 0.0


ROOM = Case(rate=4.0, kv_tokens=1_000_000)
EVICTING = Case(rate=4.0, kv_tokens=60_000)
STARVED = Case(rate=30.0, kv_tokens=40_000, requests=300)
LONG = replace(STARVED, rate=8.0, long_outputs=True)
CASES = {
    "room": ROOM,
    "overload with room": replace(ROOM, rate=12.0),
    "evicting": EVICTING,
    "evicting, pages of 1": replace(EVICTING, page_tokens=1),
    "evicting, later turns": replace(EVICTING, turns=0.5),
    "starved of KV": STARVED,
    "starved of KV, pages of 1": replace(STARVED, page_tokens=1),
    "starved of KV, no reserve": replace(STARVED, reserve=0.0),
    "starved of KV, long outputs": LONG,
    "starved of KV, long outputs, no reserve": replace(LONG, reserve=0.0),
}


@dataclass(frozen=True)
class Trace:
    """Requests: arrival [s], tokens of each prompt, and output length [token]."""

    arrival_s: Floats
    prompts: list[list[int]]
    outputs: Ints


@dataclass(frozen=True)
class Result:
    """What one scheduler did with each request: admission, first and last token [s], hits [token], preemptions."""

    admitted_s: Floats
    first_s: Floats
    end_s: Floats
    hits: Ints
    preemptions: Ints
    steps: int


def _trace(case: Case, seed: int = 1) -> Trace:
    """Poisson arrivals. Each prompt begins with one of `PREFIXES` shared prefixes, which may be cut, or with a turn.

    A turn is the prompt and the output of an earlier request. All prompts end with tokens of their own.
    """
    rng = np.random.default_rng(seed)
    shared = [rng.integers(2, 50_000, int(size)) for size in rng.integers(300, 2_000, PREFIXES)]
    outputs = rng.integers(300, 2_000, case.requests) if case.long_outputs else rng.integers(60, 400, case.requests)
    prompts: list[list[int]] = []
    for number in range(case.requests):
        if number > 20 and rng.random() < case.turns:
            before = number - int(rng.integers(1, 20))
            if len(prompts[before]) < 8_000:
                answer = [OUTPUT_TOKENS + before] * int(outputs[before])
                prompts.append([*prompts[before], *answer, *rng.integers(2, 50_000, 50).tolist()])
                continue
        prefix = shared[int(PREFIXES * rng.random() ** 2)]
        whole = len(prefix) if rng.random() < 0.8 else int(rng.integers(1, len(prefix)))
        own = rng.integers(2, 50_000, int(min(rng.lognormal(6.5, 1.0), 12_000)))
        whole = min(whole, 200) if case.long_outputs else whole
        own = own[:200] if case.long_outputs else own
        prompts.append([*prefix[:whole].tolist(), *own.tolist()])
    return Trace(np.cumsum(rng.exponential(1 / case.rate, case.requests)), prompts, outputs)


def _names(trace: Trace, page: int) -> tuple[list[int], list[int]]:
    """Block ids of full pages of prompt and output, equal where all tokens up to their end are equal; and offsets."""
    following: dict[tuple[int, ...], int] = {}
    ids, offsets = [], [0]
    for i, prompt in enumerate(trace.prompts):
        name, text = 0, [*prompt, *[OUTPUT_TOKENS + i] * int(trace.outputs[i])]
        for at in range(0, len(text) - page + 1, page):
            name = following.setdefault((name, *text[at : at + page]), len(following) + 1)
            ids.append(name)
        offsets.append(len(ids))
    return ids, offsets


def _ours(case: Case, trace: Trace) -> Result:
    cost = StepCost(np.full(CHUNK + 1, STEP_S), decode_context_s=CONTEXT_S, prefill_token_s=PREFILL_S)
    limits = Limits(SEQUENCES, CHUNK, case.kv_tokens // case.page_tokens, case.page_tokens, prefix_caching=True,
                    policy="sglang", output_reserve=case.reserve)  # fmt: skip
    ids, offsets = _names(trace, case.page_tokens)
    requests = Requests.of(trace.arrival_s, [len(prompt) for prompt in trace.prompts], trace.outputs,
                           block_ids=ids, block_offsets=offsets)  # fmt: skip
    warm_up()
    outcome = run(Cluster((Pool(cost, limits),)), requests)
    return Result(outcome.scheduled_s, outcome.first_token_s, outcome.end_s, outcome.cached_tokens.astype(np.int64),
                  outcome.preemptions.astype(np.int64), outcome.steps)  # fmt: skip


def _theirs(case: Case, trace: Trace, folder: Path) -> Result:
    job = {
        "arrival_s": trace.arrival_s.tolist(), "prompts": trace.prompts, "output_tokens": trace.outputs.tolist(),
        "page_tokens": case.page_tokens, "kv_tokens": case.kv_tokens // case.page_tokens * case.page_tokens,
        "chunk_tokens": CHUNK, "max_sequences": SEQUENCES, "reserve": case.reserve,
        "step_s": STEP_S, "prefill_s": PREFILL_S, "context_s": CONTEXT_S,
    }  # fmt: skip
    out = folder / "out.json"
    command = [PYTHON, str(RUNNER), str(out)]
    done = subprocess.run(command, input=json.dumps(job), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(out.read_text())
    assert seen["kv_tokens"] == job["kv_tokens"]
    return Result(np.array(seen["admitted_s"]), np.array(seen["first_s"]), np.array(seen["end_s"]),
                  np.array(seen["hit_tokens"]), np.array(seen["retractions"]), seen["steps"])  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trace, Result, Result]:
    """A case, played by tokenworks and by SGLang."""
    if not PYTHON:
        pytest.skip("TOKENWORKS_SGLANG_PYTHON does not name the python of an environment with sglang 0.5.23")
    case = CASES[request.param]
    trace = _trace(case)
    ours, theirs = _ours(case, trace), _theirs(case, trace, tmp_path_factory.mktemp("sglang"))
    _print(request.param, trace, ours, theirs)
    return trace, ours, theirs


def _print(name: str, trace: Trace, ours: Result, theirs: Result) -> None:
    """Print both results side by side."""
    print(f"\n{name}: {len(trace.prompts)} requests; tokenworks / SGLang")
    for what, one, other in (("TTFT", ours.first_s, theirs.first_s), ("E2E", ours.end_s, theirs.end_s)):
        mean, their_mean = (one - trace.arrival_s).mean() * 1e3, (other - trace.arrival_s).mean() * 1e3
        print(
            f"  mean {what:4s} {mean:12.2f} / {their_mean:12.2f} ms; largest difference {abs(one - other).max():.2e} s"
        )
    same = int((ours.hits == theirs.hits).sum())
    print(f"  hits      {ours.hits.sum():12d} / {theirs.hits.sum():12d} tokens, equal in {same} requests")
    print(f"  preempted {ours.preemptions.sum():12d} / {theirs.preemptions.sum():12d}")
    print(f"  steps     {ours.steps:12d} / {theirs.steps:12d}")


def test_equal_times(played: tuple[Trace, Result, Result]) -> None:
    """Each request is admitted, gets its first token and its last token at the same time."""
    _, ours, theirs = played
    for name in ("admitted_s", "first_s", "end_s"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-6, err_msg=name)
    assert ours.steps == theirs.steps


def test_equal_hits(played: tuple[Trace, Result, Result]) -> None:
    """Each request finds the same number of tokens in the prefix cache at its first admission."""
    _, ours, theirs = played
    np.testing.assert_array_equal(ours.hits, theirs.hits)


def test_equal_preemptions(played: tuple[Trace, Result, Result]) -> None:
    """Each request is preempted equally often."""
    _, ours, theirs = played
    np.testing.assert_array_equal(ours.preemptions, theirs.preemptions)
