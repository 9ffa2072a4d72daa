"""TTFT of warm and of cold turns under each scheduling policy: `python benchmarks/scheduling.py [--trace FILE]`.

A turn is cold if a cache that forgets nothing would leave more than `COLD` tokens of its prompt to compute: the first
turn of a session, a long file that a tool has read. All others are warm. Without `--trace` the sessions are synthetic.
An agent begins with a prompt of 30,000 to 120,000 tokens, and its 30 turns add 300 to 3,000 tokens each, a few seconds
after the answer before. Agents arrive in bursts of four, so cold prompts meet warm turns. With `--documents` the cold
prompts are requests of their own, which no later turn continues, and sessions begin with 1,000 to 6,000 tokens.

The model is DeepSeek-R1 on one scaleX40: three prefill instances and two decode instances, as `plan` ranks them first
for agents; `--aggregated` takes five instances that do both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from tokenworks.arrays import Bools
from tokenworks.ingest import load_trace
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.deployment import Deployment, Parallel, Role
from tokenworks.specs.scheduling import Scheduling
from tokenworks.specs.trace import Trace
from tokenworks.traffic.distance import reuses

COLD = 8192
BLOCK = 64
COLUMNS = ("input_tokens", "output_tokens", "session", "parent", "think_s", "run_start", "run_length")
TURNS, BURST, GAP_S = 30, 4, 300.0
POLICIES: tuple[Scheduling, ...] = (
    Scheduling(),
    Scheduling(name="shortest_prefill", ageing_s=1e-4),
    Scheduling(name="shortest_prefill", ageing_s=1e-2),
    Scheduling(name="interleaved", long_prefill_tokens=4096),
    Scheduling(name="shortest_prefill", ageing_s=1e-2, long_prefill_tokens=4096),
    Scheduling(name="shortest_prefill", ageing_s=1e-2, long_prefill_tokens=12288),
    Scheduling(name="cold_pool", cold_tokens=COLD, cold_ranks=1),
)
PREFILL = Role(
    name="prefill", parallel=Parallel(tp=8, ep=8), replicas=3, max_sequences=16, chunk_tokens=16384, kv_dtype="fp8"
)
DECODE = Role(
    name="decode", parallel=Parallel(tp=2, dp=4, ep=8), replicas=2, max_sequences=16, chunk_tokens=16, kv_dtype="fp8"
)
BOTH = Role(parallel=Parallel(tp=8, ep=8), replicas=5, max_sequences=16, chunk_tokens=8192, kv_dtype="fp8")


def agents(sessions: int, random: np.random.Generator, *, documents: bool) -> Trace:
    """Sessions whose turns have the whole session as prefix, and documents without a second turn."""
    columns: dict[str, list[float]] = {name: [] for name in ("arrival_s", *COLUMNS)}
    spare = 0
    for number in range(sessions):
        at = GAP_S * (number // BURST) + random.uniform(0, 2)
        first = random.uniform(30_000, 120_000)
        if documents:
            rows = [(at + GAP_S * random.uniform(0, 1), first, -1.0)]
            spare = add(columns, rows, number + sessions, spare, random)
            first = random.uniform(1000, 6000)
        rows = [(at, first, -1.0)]
        for turn in range(1, TURNS):
            rows.append((at + 10.0 * turn, random.uniform(300, 3000), random.uniform(1, 8)))
        spare = add(columns, rows, number, spare, random)
    return Trace.of(
        **columns, name="agents", run_offsets=np.arange(len(columns["arrival_s"]) + 1), hash_block_tokens=BLOCK
    )


def add(
    columns: dict[str, list[float]], rows: list[tuple[float, float, float]], session: int, spare: int,
    random: np.random.Generator,
) -> int:  # fmt: skip
    """Add the turns of a session, as (arrival, new tokens, pause). Returns the next free block id."""
    tokens = 0
    for turn, (arrival, new, pause) in enumerate(rows):
        tokens += int(new)
        answer = int(random.uniform(50, 400))
        parent = len(columns["parent"]) - 1 if turn else -1
        values = (arrival, tokens, answer, session, parent, max(pause, 0.0), spare, max(tokens // BLOCK, 1))
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
        tokens += answer
    return spare + tokens // BLOCK + 1


def cold_turns(trace: Trace) -> Bools:
    """Turns that leave more than `COLD` tokens to compute even with a cache that forgets nothing."""
    cold: Bools = trace.input_tokens - reuses(trace).leading * trace.hash_block_tokens > COLD
    return cold


def line(run: Simulation, name: str, cold: Bools) -> str:
    """A row of the table: TTFT of warm and of cold turns that completed in the measured window."""
    outcome, roles = run.outcome, run.plain()["roles"]
    ttft = outcome.first_token_s - outcome.arrival_s
    inside = (outcome.arrival_s >= run.span.start_s) & (outcome.arrival_s < run.span.end_s) & ~np.isnan(ttft)
    cells = []
    for kind in (~cold, cold):
        times = ttft[inside & kind]
        cells += [f"{np.percentile(times, q):9.2f}" if len(times) else "        -" for q in (50, 99)]
    share = roles[0]["hit_share"]
    return f"{name:60}{' '.join(cells)} {run.metrics.request_throughput:9.4f} {share:7.1%} {ttft[inside].mean():9.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="recorded trace with block hashes; needs --rate")
    parser.add_argument("--rate", type=float, help="requests per second of the trace")
    parser.add_argument("--limit", type=int, help="first requests of the trace")
    parser.add_argument("--sessions", type=int, default=80, help="synthetic sessions [count]")
    parser.add_argument("--documents", action="store_true", help="cold prompts are documents of one turn")
    parser.add_argument("--aggregated", action="store_true", help="five instances that prefill and decode")
    asked = parser.parse_args()
    if asked.trace:
        source = Source.read(load_trace(asked.trace), None, limit=asked.limit)
        traffic = source.traffic(rate=asked.rate)
    else:
        traffic = Source.read(
            agents(asked.sessions, np.random.default_rng(7), documents=asked.documents), None
        ).traffic(rate=asked.rate)
    cold = cold_turns(traffic.trace)
    print(f"{len(traffic.trace):,} turns, {cold.mean():.1%} of them cold. TTFT [s]; a rate in requests/s")
    header = ("warm p50", "warm p99", "cold p50", "cold p99", "served", "hits", "mean")
    widths = (9, 9, 9, 9, 9, 7, 9)
    print(f"{'scheduling':60}" + " ".join(f"{word:>{width}}" for word, width in zip(header, widths, strict=True)))
    for policy in POLICIES:
        deployment = Deployment(
            model="deepseek-ai/DeepSeek-R1", system="scalex40", scheduling=policy,
            roles=(BOTH,) if asked.aggregated else (PREFILL, DECODE),
        )  # fmt: skip
        print(line(simulate(deployment, traffic), str(policy), cold), flush=True)


if __name__ == "__main__":
    main()
