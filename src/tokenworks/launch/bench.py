"""`bench.sh`: the planned requests, sent by the client of the engine."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass

import numpy as np

from tokenworks.errors import SpecError
from tokenworks.launch.commands import Launch
from tokenworks.launch.figures import Figure
from tokenworks.specs.slo import Slo
from tokenworks.specs.trace import Trace
from tokenworks.specs.workload import Workload
from tokenworks.traffic.generate import BLOCK
from tokenworks.traffic.source import generated

WIDE_BLOCK = 512
"""Tokens of a block of requests that share nothing [token]."""
DURATION_S, LEAST, MOST, ROUNDS = 300, 100, 5000, 10
"""The requests of a rate last about `DURATION_S`, those of a number of users `ROUNDS` rounds, from `LEAST` to `MOST`
requests."""
MOST_TOKENS = 50_000_000
"""Most input tokens of a file of requests [token]."""


@dataclass(frozen=True, slots=True)
class BenchLoad:
    """The load that is measured.

    Parameters
    ----------
    workload : lengths and shared prefixes of the requests
    rate : requests per second; None: a closed loop [1/s]
    users : requests in flight; None: a rate is given [count]
    count : requests [count]
    seed : seed of the requests
    """

    workload: Workload
    rate: float | None
    users: int | None
    count: int
    seed: int = 0

    @property
    def words(self) -> str:
        """The load in words."""
        load = f"{self.rate:.4g} requests/s" if self.rate is not None else f"{self.users:,} requests in flight"
        return f"{self.workload.name}: {self.count:,} requests, {load}"


def load_of_bench(
    workload: Workload, expected_rate: float | None, *, rate: float | None = None, concurrency: float | None = None,
    requests: int | None = None, seed: int = 0,
) -> BenchLoad:  # fmt: skip
    """The load that `bench.sh` sends.

    Parameters
    ----------
    workload : workload of the plan
    expected_rate : requests per second that the plan expects; None: not known [1/s]
    rate, concurrency : load that the user asks for; None: the load of the workload, else the expected rate
    requests : number of requests; None: some minutes of them [count]
    seed : seed of the requests

    Raises
    ------
    SpecError : two loads, or none
    """
    if rate is not None and concurrency is not None:
        raise SpecError("--rate and --concurrency", hint="an open loop has a rate, a closed one a concurrency")
    if rate is None and concurrency is None:
        rate, concurrency = workload.rate, workload.concurrency
    if rate is None and concurrency is None:
        rate = expected_rate
    if rate is None and concurrency is None:
        hint = "give --rate or --concurrency, or a file that `plan -o yaml` wrote"
        raise SpecError("no load for bench.sh", where=workload.name, hint=hint)
    users = None if concurrency is None else max(1, round(concurrency))
    wanted = ROUNDS * users if users is not None else math.ceil(DURATION_S * (rate or 0.0))
    count = requests or min(max(wanted, LEAST), MOST)
    if count * workload.isl > MOST_TOKENS:
        if requests:
            hint = f"give at most {int(MOST_TOKENS / workload.isl):,}"
            raise SpecError(f"{requests:,} requests of {workload.isl:,.0f} tokens", where="--requests", hint=hint)
        count = max(int(MOST_TOKENS / workload.isl), 1)
    return BenchLoad(workload, rate, users, count, seed)


def requests_of(load: BenchLoad) -> tuple[str, int]:
    """The requests as a trace in the format of Mooncake, and the tokens of a block.

    Every block of every prompt has an id, and equal ids mean equal tokens. So a client can make the same prompts as the
    simulation has: with the same lengths and the same shared prefixes.
    """
    block = BLOCK if load.workload.hit_share else WIDE_BLOCK
    trace = generated(load.workload, load.rate, load.users, requests=load.count, seed=load.seed, block_tokens=block)
    return "\n".join(_lines(trace, block, load.count)) + "\n", block


def _lines(trace: Trace, block: int, count: int) -> list[str]:
    offsets, ids = trace.hash_offsets, trace.hash_ids
    following, lines = int(trace.id_count), []
    for index in range(min(count, len(trace))):
        own = ids[offsets[index] : offsets[index + 1]].tolist()
        tokens = int(trace.input_tokens[index])
        missing = max(-(-tokens // block) - len(own), 0)
        own += range(following, following + missing)
        following += missing
        lines.append(
            json.dumps(
                {
                    "timestamp": int(np.rint(trace.arrival_s[index] * 1e3)),
                    "input_length": tokens,
                    "output_length": int(trace.output_tokens[index]),
                    "hash_ids": own,
                }
            )
        )
    return lines


def bench_script(launch: Launch, weights: str, load: BenchLoad, block: int, figures: tuple[Figure, ...]) -> str:
    """The text of `bench.sh`.

    Parameters
    ----------
    launch : the launch
    weights : model as the client loads its tokenizer
    load : the load; the client counts goodput within the SLO of its workload
    block : tokens of a block of the requests [token]
    figures : what the client should measure
    """
    lines = ["#!/usr/bin/env bash", f"# Measures {load.words}, with the client of the engine.", "#"]
    lines += [f"# Predicted: {figure.title} {figure.text}" for figure in figures] or ["# The file had no predictions."]
    lines += ["# In brackets: the interval that should contain 80 % of measurements.", "set -euo pipefail",
              'here=$(cd "$(dirname "$0")" && pwd)', 'mkdir -p "$here/results"']  # fmt: skip
    lines += (
        _vllm(launch, weights, load, block)
        if launch.dialect.engine == "vllm"
        else _sglang(launch, weights, load, block)
    )
    return "\n".join(lines) + "\n"


def _goodput(slo: Slo) -> list[str]:
    bounds = [f"{name}:{bound.value * 1e3:g}" for name, bound in (("ttft", slo.ttft), ("tpot", slo.tpot)) if bound]
    return ["--goodput", *bounds] if bounds else []


def _vllm(launch: Launch, weights: str, load: BenchLoad, block: int) -> list[str]:
    slo = Slo.of(load.workload.slo)
    words = [
        "vllm", "bench", "serve", "--backend", "vllm", "--base-url", launch.entry, "--model", weights,
        "--served-model-name", launch.served, "--dataset-name", "timed_trace",
        "--timed-trace-chunk-hash-size", str(block),
        "--timed-trace-sec-multiplier", "0.001", "--num-prompts", str(load.count), "--num-warmups", "2",
        "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99", *_goodput(slo),
        "--save-result", "--save-detailed", "--ready-check-timeout-sec", "600", "--seed", str(load.seed),
    ]  # fmt: skip
    if load.users is not None:
        words += ["--no-self-timed", "--max-concurrency", str(load.users)]
    folder = '--dataset-path "$here/requests.jsonl" --result-dir "$here/results"'
    return [f'exec {shlex.join(words)} {folder} "$@"']


PROMPTS = """\
import json, sys
block = int(sys.argv[3])
with open(sys.argv[1]) as source, open(sys.argv[2], "w") as target:
    for line in source:
        request = json.loads(line)
        left, words = request["input_length"], []
        for number in request["hash_ids"]:  # equal numbers make equal text; " hi" is one token
            size = min(block, left)
            left -= size
            begin = str(number)
            words.append(begin + " hi" * max(size - len(begin), 1))
        turns = [{"value": "".join(words)}, {"value": " hi" * request["output_length"]}]
        target.write(json.dumps({"conversations": turns}) + "\\n")
"""
"""Program that makes prompts for the client of SGLang, which reads text."""


def _sglang(launch: Launch, weights: str, load: BenchLoad, block: int) -> list[str]:
    words = [
        "python3", "-m", "sglang.bench_serving", "--backend", "sglang-oai", "--base-url", launch.entry, "--model",
        launch.served, "--tokenizer", weights, "--dataset-name", "custom", "--num-prompts", str(load.count),
        "--seed", str(load.seed),
    ]  # fmt: skip
    words += ["--request-rate", f"{load.rate:.6g}"] if load.users is None else ["--max-concurrency", str(load.users)]
    files = '--dataset-path "$here/results/prompts.jsonl" --output-file "$here/results/bench.jsonl"'
    return [
        f'python3 - "$here/requests.jsonl" "$here/results/prompts.jsonl" {block} <<\'PROGRAM\'',
        *PROMPTS.splitlines(),
        "PROGRAM",
        f'exec {shlex.join(words)} {files} "$@"',
    ]
