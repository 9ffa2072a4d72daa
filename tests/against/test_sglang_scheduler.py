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


@dataclass(frozen=True)
class Case:
    """Requests, a KV cache, and how far apart the two schedulers may be.

    Parameters
    ----------
    rate : requests per second [1/s]
    kv_tokens : size of the KV cache [token]
    page_tokens : size of a page of the KV cache, the block of tokenworks [token]
    ratio : SGLang's first new_token_ratio; None: its default
    requests : number of requests
    long_outputs : whether prompts are short and outputs are long; else the other way round
    times : largest relative difference of mean TTFT and mean E2E latency
    hits : smallest share of the requests with equal hits
    """

    rate: float
    kv_tokens: int
    page_tokens: int = 64
    ratio: float | None = None
    requests: int = 400
    long_outputs: bool = False
    times: float = 1e-6
    hits: float = 1.0


ROOM = Case(rate=4.0, kv_tokens=1_000_000)
EVICTING = Case(rate=4.0, kv_tokens=60_000)
STARVED = Case(rate=30.0, kv_tokens=40_000, requests=300)
LONG = replace(STARVED, rate=8.0, long_outputs=True)
CASES = {
    "room": ROOM,
    "overload with room": replace(ROOM, rate=12.0),
    "evicting": EVICTING,
    "evicting, pages of 1": replace(EVICTING, page_tokens=1),
    "starved of KV": STARVED,
    "starved of KV, pages of 1": replace(STARVED, page_tokens=1),
    "starved of KV, no reserve": replace(STARVED, ratio=0.0),
    "starved of KV, long outputs": LONG,
    "starved of KV, long outputs, no reserve": replace(LONG, ratio=0.0),
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
    """Poisson arrivals; each prompt is one of `PREFIXES` shared prefixes, cut at random, and tokens of its own."""
    rng = np.random.default_rng(seed)
    shared = [rng.integers(2, 50_000, int(size)) for size in rng.integers(300, 2_000, PREFIXES)]
    prompts: list[list[int]] = []
    for _ in range(case.requests):
        prefix = shared[int(PREFIXES * rng.random() ** 2)]
        whole = len(prefix) if rng.random() < 0.8 else int(rng.integers(1, len(prefix)))
        own = rng.integers(2, 50_000, int(min(rng.lognormal(6.5, 1.0), 12_000)))
        whole = min(whole, 200) if case.long_outputs else whole
        own = own[:200] if case.long_outputs else own
        prompts.append([*prefix[:whole].tolist(), *own.tolist()])
    outputs = rng.integers(300, 2_000, case.requests) if case.long_outputs else rng.integers(60, 400, case.requests)
    return Trace(np.cumsum(rng.exponential(1 / case.rate, case.requests)), prompts, outputs)


def _names(prompts: list[list[int]], page: int) -> tuple[list[int], list[int]]:
    """Block ids of full pages, equal where all tokens up to the end of the page are equal; and offsets."""
    following: dict[tuple[int, ...], int] = {}
    ids, offsets = [], [0]
    for prompt in prompts:
        name = 0
        for at in range(0, len(prompt) - page + 1, page):
            name = following.setdefault((name, *prompt[at : at + page]), len(following) + 1)
            ids.append(name)
        offsets.append(len(ids))
    return ids, offsets


def _ours(case: Case, trace: Trace) -> Result:
    cost = StepCost(np.full(CHUNK + 1, STEP_S), decode_context_s=CONTEXT_S, prefill_token_s=PREFILL_S)
    limits = Limits(SEQUENCES, CHUNK, case.kv_tokens // case.page_tokens, case.page_tokens, prefix_caching=True,
                    policy="sglang", reserve_ratio=0.7 if case.ratio is None else case.ratio)  # fmt: skip
    ids, offsets = _names(trace.prompts, case.page_tokens)
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
        "chunk_tokens": CHUNK, "max_sequences": SEQUENCES, "ratio": case.ratio,
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
