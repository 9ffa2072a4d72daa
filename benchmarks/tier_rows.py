"""KV tiers beside measured rows: `python -m benchmarks.tier_rows [--only PART]` prints the table of docs/tiers.md.

Every row is simulated from the catalog, without a fit. A row whose publication leaves something out says what was
assumed instead. Small traces are made here: each prompt comes twice, and between the two visits so many other prompts
come that device memory (or host memory, too) has evicted it. Only second visits are measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tokenworks.arrays import Bools
from tokenworks.calibrate.checkpoints import checkpoint
from tokenworks.engine.types import Status
from tokenworks.errors import TokenworksError
from tokenworks.simulation.run import Simulation, Traffic, simulate
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.deployment_file import Deployed, pick_deployment
from tokenworks.specs.tier_setup import load_setup
from tokenworks.specs.trace import Trace

FROZEN = "e4afa0a"
"""Commit at which engine, cost model and catalog were frozen for this table."""

LLAMA, QWEN, R1 = "meta-llama/Meta-Llama-3.1-8B", "Qwen/Qwen3-8B", "deepseek-ai/DeepSeek-R1"
MINIMAX = "MiniMaxAI/MiniMax-M2.7"
GLM_FLASH = {  # zai-org/GLM-4.7-Flash, config.json
    "architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite", "hidden_size": 2048,
    "intermediate_size": 10240, "moe_intermediate_size": 1536, "num_hidden_layers": 47, "num_attention_heads": 20,
    "num_key_value_heads": 20, "q_lora_rank": 768, "kv_lora_rank": 512, "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64, "v_head_dim": 256, "n_routed_experts": 64, "n_shared_experts": 1,
    "num_experts_per_tok": 4, "first_k_dense_replace": 1, "vocab_size": 154880, "max_position_embeddings": 202752,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
OFFLINE = {"engine.request": "0 ms", "engine.admission": "0 ms"}
HOST = [{"medium": "host", "capacity": "1 TB"}]


@dataclass(frozen=True)
class Row:
    """A row of the table: what was measured and what is predicted, None if it was not computed."""

    name: str
    case: str
    measured: float | None
    predicted: float | None
    unit: str
    note: str = ""

    def line(self) -> str:
        """The row in markdown."""
        ratio = "-"
        if self.measured and self.predicted:
            ratio = f"{self.predicted / self.measured:.2f}"
        numbers = [
            "-" if x is None else f"{x:,.3g}" if x < 1000 else f"{x:,.0f}" for x in (self.measured, self.predicted)
        ]
        return f"| {self.name} | {self.case} | {numbers[0]} | {numbers[1]} | {self.unit} | {ratio} | {self.note} |"


@dataclass
class Prompts:
    """Requests of a trace, with the blocks that they share."""

    block: int
    rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    runs: list[list[tuple[int, int]]] = field(default_factory=list)
    fresh: int = 1 << 20

    def add(self, tokens: int, output: int, parent: int, prefix: tuple[int, int] | None, class_of: int) -> int:
        """Add a request and return its number. The prefix is a run of blocks (first, count); other blocks are new."""
        runs = [prefix] if prefix and prefix[1] else []
        rest = tokens // self.block - (prefix[1] if prefix else 0)
        if rest > 0:
            runs.append((self.fresh, rest))
            self.fresh += rest
        self.rows.append((tokens, output, parent, class_of))
        self.runs.append(runs)
        return len(self.rows) - 1

    def trace(self) -> Trace:
        """The trace. All requests without a parent arrive at time 0."""
        tokens, output, parent, class_of = np.array(self.rows).T
        flat = [run for runs in self.runs for run in runs]
        return Trace.of(
            np.zeros(len(tokens)), tokens, output, parent=parent, class_of=class_of, classes=("first", "second"),
            run_start=[first for first, _ in flat], run_length=[count for _, count in flat],
            run_offsets=np.concatenate([[0], np.cumsum([len(runs) for runs in self.runs])]),
            hash_block_tokens=self.block, name="tier_rows", source="made by benchmarks/tier_rows.py",
        )  # fmt: skip


def visits(
    prompts: int, tokens: int, hit: float, *, output: int = 1, flying: int = 1, block: int = 64, warmed: float = 1.0,
    burst: bool = False,
) -> Trace:  # fmt: skip
    """Prompts that come twice, in the same order, from clients that each send the next prompt after the answer.

    Parameters
    ----------
    prompts : number of prompts [count]
    tokens, output : length of each prompt and answer [token]
    hit : share of a prompt that its second visit has in common with the first [-]
    flying : clients, which is the number of requests in flight [count]
    block : size of a block [token]
    warmed : share of the prompts that come a first time [-]
    burst : only the first `flying` prompts come a second time, all at once
    """
    sent = Prompts(block)
    shared = int(tokens * hit) // block
    last = [-1] * flying
    for visit in (0, 1):
        last = [max(last)] * flying  # second visits begin when the last first visit has ended
        for i in range(flying if burst and visit else prompts):
            if visit == 0 and (i * 7919) % prompts >= warmed * prompts:
                continue
            prefix = (i * (tokens // block + 1), shared)
            last[i % flying] = sent.add(tokens, output, last[i % flying], prefix, visit)
    return sent.trace()


def deployment(model: str, system: str, engine: str, tiers: Any = (), **role: Any) -> Deployment:
    """A deployment of one aggregated instance."""
    parallel = role.pop("parallel", {})
    plain = {"model": model, "system": system, "engine": engine, "roles": [{"parallel": parallel, **role}]}
    return Deployment.model_validate({**plain, "tiers": tiers} if tiers else plain)


@dataclass(frozen=True)
class Numbers:
    """What the second visits show: mean TTFT [ms], mean TPOT [ms], input tokens per second."""

    ttft: float
    tpot: float
    input_rate: float
    hits: float


def numbers(run: Simulation, chosen: Bools | None = None) -> Numbers:
    """Means over the chosen requests; None: the second visits."""
    outcome = run.outcome
    if chosen is None:
        chosen = run.traffic.trace.class_of == 1
    chosen = chosen & (outcome.status == Status.COMPLETED)
    ttft = (outcome.first_token_s - outcome.arrival_s)[chosen]
    gaps = np.maximum(outcome.output_tokens[chosen] - 1, 1)
    tpot = (outcome.end_s - outcome.first_token_s)[chosen] / gaps
    seconds = outcome.end_s[chosen].max() - outcome.arrival_s[chosen].min()
    tokens = outcome.input_tokens[chosen].sum()
    return Numbers(1e3 * ttft.mean(), 1e3 * tpot.mean(), tokens / seconds, outcome.cached_tokens[chosen].sum() / tokens)


def played(chosen: Deployment | Deployed, trace: Trace, assume: Any = None, *, concurrency: int = 0) -> Numbers:
    """Play a trace, and read the second visits."""
    traffic = Traffic(trace, concurrency=concurrency)
    return numbers(simulate(chosen, traffic, assume=assume, block_tokens=trace.hash_block_tokens))


# ── vLLM's offloading connector ────────────────────────────────────────────────────────────────────────────


def vllm() -> Iterator[Row]:
    """vLLM blog of 2025-12-29: Llama-3.1-8B on one H100, host memory, prefix cache of the device off."""
    note = "offline run without tokeniser: request and admission of the engine are 0"

    def run(tokens: int, prompts: int, tiers: Any, flying: int = 1, warmed: float = 1.0) -> Numbers:
        trace = visits(prompts, tokens, 1.0, flying=flying, block=16, warmed=warmed)
        return played(deployment(LLAMA, "hgx-h100:1", "vllm", tiers, max_sequences=1024), trace, OFFLINE)

    for tokens, measured, why in (
        (512, 2.0, note),
        (90_000, 22.0, "longest prompt taken as 90,000 tokens, as in figure 5"),
    ):
        prompts = max(3, 600_000 // tokens)
        bare, tier = run(tokens, prompts, ()), run(tokens, prompts, HOST)
        yield Row("vllm1", f"one request of {tokens:,} tokens, hit in host memory: TTFT without / with", measured,
                  bare.ttft / tier.ttft, "x", why)  # fmt: skip
    bare = run(512, 3000, (), 1024)
    for share in (0.8, 1.0):
        tier = run(512, 3000, HOST, 1024, share)
        yield Row("vllm2", f"512-token prompts, {share:.0%} hits in host memory: throughput",
                  9.0 if share == 1 else None, tier.input_rate / bare.input_rate, "x",
                  "3,000 of the 10,000 prompts")  # fmt: skip
    pieces = [{**HOST[0], "layout": "layer"}]
    old, new = run(512, 3000, pieces, 1024), run(512, 3000, HOST, 1024)
    yield Row("vllm5", "all hits, blocks of all layers (0.12) / layer by layer (0.11): throughput", 5.0,
              new.input_rate / old.input_rate, "x", "an input of the catalog: its small blocks")  # fmt: skip
    old, new = run(90_000, 6, pieces), run(90_000, 6, HOST)
    yield Row("vllm5", "the same: TTFT of one request of 90,000 tokens", 4.0, old.ttft / new.ttft, "x")
    for name, rate in (("vllm3", 50.0), ("vllm4", 83.4)):
        yield Row(name, "DMA, one direction" if rate == 50 else "DMA, both", rate, None, "GB/s",
                  "an input: the catalog takes its efficiency and duplex from this row")  # fmt: skip


# ── SGLang issue 26305 ─────────────────────────────────────────────────────────────────────────────────────

BOXES = ("hgx-a100", "hgx-h20", "hgx-h800", "hgx-h100", "hgx-h200", "hgx-b200")
SPLITS = ({"tp": 4, "expert_tp": 4}, {"tp": 4, "ep": 4}, {"tp": 8, "ep": 8})
RECOMPUTE = {"TTFT": 1725.1, "TPOT": 16.45, "TTFT of 131,072 tokens": 5118.0}
Box = tuple[str, dict[str, int]]


def minimax(box: Box, tokens: int, tiers: Any, hit: float = 0.9, prompts: int = 0, *, burst: bool = False) -> Numbers:
    """MiniMax-M2.7 with SGLang: 16 requests of 8,192 tokens in flight, or one of 131,072."""
    system, split = box
    flying = 16 if tokens == 8192 else 1
    trace = visits(prompts or (480 if tokens == 8192 else 40), tokens, hit, output=512, flying=flying, burst=burst)
    chosen = deployment(MINIMAX, f"{system}:{split['tp']}", "sglang", tiers, parallel=split, memory_fraction=0.85)
    return played(chosen, trace)


def machine_of_26305() -> tuple[Box, str]:
    """The machine whose recompute numbers fit best, since the issue names none; and these numbers."""
    fits: list[tuple[float, Box, str]] = []
    for box in itertools.product(BOXES, SPLITS):
        try:
            short, long = (minimax(box, tokens, (), 0.0, prompts) for tokens, prompts in ((8192, 48), (131072, 2)))
        except TokenworksError as error:
            print(f"{box}: {error}", file=sys.stderr)
            continue
        shown = dict(zip(RECOMPUTE, (short.ttft, short.tpot, long.ttft), strict=True))
        off = sum(abs(math.log(shown[name] / value)) for name, value in RECOMPUTE.items())
        fits.append((off, box, ", ".join(f"{name} {value:,.4g} ms" for name, value in shown.items())))
        print(*fits[-1], file=sys.stderr)
    _, box, words = min(fits, key=lambda fit: fit[0])
    return box, words


def storage(rate: float, host: str = "60 GB", prefetch: str = "wait") -> list[dict[str, Any]]:
    """HiCache with L3 at a rate [GB/s], and a host memory that is too small for the prompts."""
    upper, lower = (tier.model_dump(mode="json") for tier in load_setup("hicache").tiers)
    lower.pop("timeout")
    return [{**upper, "capacity": host}, {**lower, "prefetch": prefetch, "total": f"{rate} GB/s"}]


def sglang() -> Iterator[Row]:
    """SGLang issue 26305: MiniMax-M2.7 and GLM-4.7-Flash, 90 % hits."""
    box, words = machine_of_26305()
    where = f"{box[0]}, {' '.join(f'{name} {width}' for name, width in box[1].items())}"
    bare = minimax(box, 8192, (), 0.0, 48)
    yield Row("sgl1", "MiniMax-M2.7, 8,192 tokens, 16 in flight, recompute: TTFT", 1725.1, bare.ttft, "ms",
              f"machine not named, chosen by recompute: {where}; {words}")  # fmt: skip
    yield Row("sgl1", "the same: TPOT", 16.45, bare.tpot, "ms", "chosen, as above")
    yield Row(
        "sgl5",
        "131,072 tokens, 1 in flight, recompute: TTFT",
        5118.0,
        minimax(box, 131072, (), 0.0, 2).ttft,
        "ms",
        "chosen, as above",
    )
    device, host = minimax(box, 8192, (), prompts=32), minimax(box, 8192, "hicache")
    yield Row("sgl2", "8,192 tokens, hits in L1: TTFT", 481.7, device.ttft, "ms", f"hits {device.hits:.0%}")
    yield Row(
        "sgl2", "hits in L2: TTFT", 481.7, host.ttft, "ms", f"hits {host.hits:.0%}; the issue does not divide L1 and L2"
    )
    yield Row("sgl2", "hits in L2: TPOT", 14.13, host.tpot, "ms")
    device, host = minimax(box, 131072, (), prompts=2), minimax(box, 131072, "hicache")
    yield Row("sgl6", "131,072 tokens, hits in L1: TTFT", 1027.2, device.ttft, "ms", f"hits {device.hits:.0%}")
    yield Row("sgl6", "hits in L2: TTFT", 1027.2, host.ttft, "ms", f"hits {host.hits:.0%}")
    for kind, rate, short, long in (("hifile", 7.1, 2450.2, 5249.9), ("UCM", 18.0, 1447.1, 2697.0)):
        deep = minimax(box, 131072, storage(rate))
        yield Row("sgl7", f"131,072 tokens, hits in L3 ({kind}): TTFT", long, deep.ttft, "ms",
                  f"an input: {rate} GB/s = 30 GB / (TTFT here - TTFT of sgl6)")  # fmt: skip
        row = "sgl3" if kind == "hifile" else "sgl4"
        for load, burst, prefetch in (("16 at once", True, "wait"), ("16 in a closed loop", False, "wait"),
                                      ("16 at once, prefetch best_effort", True, "best_effort")):  # fmt: skip
            slow = minimax(box, 8192, storage(rate, prefetch=prefetch), burst=burst)
            yield Row(row, f"8,192 tokens, hits in L3 ({kind}), {load}: TTFT", short, slow.ttft, "ms",
                      f"{rate} GB/s from sgl7; hits in time {slow.hits:.0%}")  # fmt: skip
    yield from glm(box[0])


def glm(system: str) -> Iterator[Row]:
    """GLM-4.7-Flash of the same issue, 16 requests of 8,192 tokens in flight."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(GLM_FLASH), encoding="utf-8")

        def run(tp: int, tiers: Any, hit: float, prompts: int, *, burst: bool = False) -> Numbers:
            trace = visits(prompts, 8192, hit, output=512, flying=16, burst=burst)
            chosen = deployment(
                str(path), f"{system}:{tp}", "sglang", tiers, parallel={"tp": tp, "expert_tp": tp}, memory_fraction=0.85
            )
            return played(chosen, trace)

        def off(tp: int) -> float:
            bare = run(tp, (), 0.0, 48)
            return abs(math.log(bare.ttft / 1114.3)) + abs(math.log(bare.tpot / 12.53))

        tp = min((1, 2, 4), key=off)
        note = f"tp chosen by recompute: GLM-4.7-Flash, {system}, tp {tp}"
        bare, device = run(tp, (), 0.0, 48), run(tp, (), 0.9, 32)
        yield Row("sgl8", "8,192 tokens, 16 in flight: TTFT of recompute", 1114.3, bare.ttft, "ms", note)
        yield Row("sgl8", "the same: TPOT", 12.53, bare.tpot, "ms", "chosen, as above")
        yield Row("sgl8", "hits in HBM: TTFT", 420.6, device.ttft, "ms", f"hits {device.hits:.0%}")
        yield Row(
            "sgl8", "the same: TPOT", 17.79, device.tpot, "ms", "the issue calls it a bug of SGLang: not modelled"
        )
        slow = run(tp, storage(7.1, "20 GB"), 0.9, 400 * tp, burst=True)
        yield Row(
            "sgl8",
            "hits in L3 at 7.1 GB/s: TTFT",
            2586.9,
            slow.ttft,
            "ms",
            f"16 at once, rate as MiniMax; hits in time {slow.hits:.0%}",
        )


# ── LMCache on an RTX 4090 ─────────────────────────────────────────────────────────────────────────────────


def turns(conversations: int, first: int, output: int, flying: int, seed: int = 7) -> Trace:
    """Conversations of 6 to 9 questions of 120 to 160 tokens; each client plays one conversation after the other."""
    random = np.random.default_rng(seed)
    sent, last, block = Prompts(16), [-1] * flying, 16
    for number in range(conversations):
        tokens, begin = 500 + int(first), (number + 1) * 100_000
        for turn in range(int(random.integers(6, 10))):
            tokens += int(random.integers(120, 161))
            lane = number % flying
            length = tokens // block
            sent.rows.append((tokens, output, last[lane], 1 if turn else 0))
            sent.runs.append([(0, 500 // block), (begin, length - 500 // block)])
            last[lane] = len(sent.rows) - 1
            tokens += output if output > 1 else int(random.integers(80, 121))
    return sent.trace()


def lmcache() -> Iterator[Row]:
    """gpustack performance lab: LMCache 50 GB of host memory, Qwen3-8B, vLLM 0.10.1.1, one RTX 4090."""
    tiers = [{"medium": "host", "capacity": "50 GB"}]

    def run(trace: Trace, below: Any) -> Numbers:
        chosen = deployment(QWEN, "pcie-rtx-4090:1", "vllm", below, chunk_tokens=2048, max_sequences=256)
        result = simulate(chosen, Traffic(trace), block_tokens=16)
        return numbers(result, np.ones(len(trace), dtype=bool))

    flying = "2 in flight, by Little's law of the measured numbers"
    cases = (
        ("20k tokens, 1 output", turns(24, 18_500, 1, 2), (7443.2, 33887.9, 4658.7, 980.9), flying),
        ("20k tokens, 100 outputs", turns(24, 18_500, 100, 2), (4312.2, 7750.6, 5070.5, 2091.0), flying),
        ("5k tokens, 100 outputs", turns(24, 4_000, 100, 10), (5849.0, 9426.0, 4350.5, 2646.1), "10 in flight"),
    )
    for case, trace, (bare_rate, rate, bare_ttft, ttft), note in cases:
        bare, tier = run(trace, ()), run(trace, tiers)
        yield Row(
            "gps1",
            f"{case}: input tokens/s without LMCache",
            bare_rate,
            bare.input_rate,
            "tokens/s",
            f"{note}; hits {bare.hits:.0%}",
        )
        yield Row(
            "gps1",
            f"{case}: with / without",
            rate / bare_rate,
            tier.input_rate / bare.input_rate,
            "x",
            f"hits {tier.hits:.0%}",
        )
        yield Row("gps1", f"{case}: TTFT with / without", ttft / bare_ttft, tier.ttft / bare.ttft, "x",
                  f"{bare.ttft:,.0f} -> {tier.ttft:,.0f} ms; measured {bare_ttft:,.0f} -> {ttft:,.0f}")  # fmt: skip
    for tokens, measured in ((1024, 0.968), (8192, 0.857)):
        trace = visits(50, tokens, 0.0, output=128, flying=100, block=16)
        bare, tier = run(trace, ()), run(trace, tiers)
        yield Row(
            "gps1",
            f"{tokens:,} random tokens, no reuse: throughput with / without",
            measured,
            tier.input_rate / bare.input_rate,
            "x",
        )


# ── Mooncake with SSD ──────────────────────────────────────────────────────────────────────────────────────


def mooncake() -> Iterator[Row]:
    """Mooncake documentation: Qwen3-8B, one A100-40GB, 20 clients x 10 rounds of 4,096 tokens, 4 in flight."""
    random = np.random.default_rng(1)
    sent = Prompts(64)
    for turn in range(1, 11):
        for client in random.permutation(20).tolist():
            sent.rows.append((4096 * turn, 1, -1, 1))
            sent.runs.append([(client * 1000, 64 * turn)])
    trace = sent.trace()
    wait = {"prefetch": "wait", "timeout": None}
    adapters = {"read": "43.5 GB/s", "write": "43.5 GB/s", "link": "none"}  # two of 200 Gb/s, 87 % reached
    host, pool, ssd = (tier.model_dump(mode="json") for tier in load_setup("hicache-mooncake").tiers)
    host |= {"capacity": "35 GB"}
    pool |= {"capacity": "80 GB", **wait, **adapters}
    ssd |= {"capacity": "10 TB", "total": "27 GB/s", **wait}
    runs = {}
    for name, tiers in (
        ("GPU only", []),
        ("L2", [host]),
        ("L2 + pool", [host, pool]),
        ("L2 + pool + SSD", [host, pool, ssd]),
    ):
        chosen = deployment(
            QWEN, "hgx-a100-40gb:1", "sglang", tiers, chunk_tokens=4096, max_sequences=256, memory_fraction=0.87
        )
        runs[name] = played(chosen, trace, concurrency=4)
    bare, full, without = runs["GPU only"], runs["L2 + pool + SSD"], runs["L2 + pool"]
    words = "; ".join(f"{name} {one.ttft:,.0f} ms, hits {one.hits:.0%}" for name, one in runs.items())
    yield Row("m21073", "TTFT, all tiers / GPU only", 0.43, full.ttft / bare.ttft, "x", words)
    yield Row(
        "m21073",
        "TTFT, all tiers / all but SSD",
        0.66,
        full.ttft / without.ttft,
        "x",
        "34 % less on the page of the row",
    )
    yield Row("m21074", "input tokens/s, all tiers / GPU only", 2.4, full.input_rate / bare.input_rate, "x")


# ── CloudMatrix384, and rows that are not computed ─────────────────────────────────────────────────────────


def cloudmatrix() -> Iterator[Row]:
    """CloudMatrix384 (arXiv 2506.12708): DeepSeek-R1 in INT8, two micro-batches, 16 NPUs, prompts of 4,096 tokens."""
    slow = [{"medium": "pool", "semantics": "load-store", "read": "0.97 GB/s", "write": "50 GB/s"}]

    def run(reuse: float, flying: int, tiers: Any) -> Numbers:
        trace = visits(1600, 4096, reuse, flying=flying, block=128)
        named = deployment(R1, "cloudmatrix384:16", "sglang", tiers if reuse else (), parallel={"dp": 16, "ep": 16},
                           max_sequences=flying, chunk_tokens=16 * 16384, overlap="two-batch",
                           memory_fraction=0.6)  # fmt: skip
        return played(replace(pick_deployment(named, 1), model=checkpoint(R1, "int8")), trace)

    cases: tuple[tuple[str, int, Any, str], ...] = (
        ("4 prompts for each NPU at once", 64, "pooled", "tiers: pooled"),
        ("steps of 16,384 new tokens for each NPU", 1024, "pooled", "tiers: pooled"),
        ("the same steps", 1024, slow, "a pool of 0.97 GB/s for each NPU: chosen by m21286"),
    )
    for (name, reuse, measured), (load, flying, tiers, note) in itertools.product(
        (("m21285", 0.5, 1.42), ("m21286", 0.9, 2.28)), cases
    ):
        bare, pool = run(0.0, flying, tiers), run(reuse, flying, tiers)
        yield Row(name, f"reuse {reuse:.0%}, {load}: prefill throughput / without reuse", measured,
                  pool.input_rate / bare.input_rate, "x",
                  f"{note}; {bare.input_rate / 16:,.0f} tokens/s for one NPU without reuse")  # fmt: skip


def claims() -> Iterator[Row]:
    """Rows without a set-up."""
    yield Row("icms", "NVIDIA ICMS: long context against traditional storage", 5.0, None, "x",
              "a vendor claim without model, machine or load: not computed")  # fmt: skip
    yield Row("ais", "AISimulate: default bandwidths of host memory, pool and drives", None, None, "GB/s",
              "assumptions of another simulator, not measured")  # fmt: skip


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "vllm": vllm, "sglang": sglang, "lmcache": lmcache, "mooncake": mooncake, "cloudmatrix": cloudmatrix,
    "claims": claims,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part of the table")
    asked = parser.parse_args()
    print(f"Code frozen at {FROZEN}.\n")
    print("| row | case | measured | predicted | unit | predicted / measured | notes |")
    print("|---|---|---|---|---|---|---|")
    for name, part in PARTS.items():
        if asked.only in (None, name):
            for row in part():
                print(row.line(), flush=True)


if __name__ == "__main__":
    main()
