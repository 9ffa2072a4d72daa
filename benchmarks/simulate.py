"""Requests per second of the engine on one core, each case in its own process: `python benchmarks/simulate.py [-n N]`.

`--trace FILE` plays a recorded trace in the cases that have block hashes. The trace is repeated, each pass with block
names of its own. To make these passes takes more memory than to play them, so ignore the bytes per request with
`--trace`.

`--faults N` plays each case again with N failures and N changes of the step cost, at random times: an instance stops;
5 s later all its ranks are lost, their requests migrate, and the instance begins again.

Without it traffic is synthetic. Lengths fit the published statistics of two traces: Azure 2023 conversation (ISL mean
1,155, median 1,020; OSL mean 211, median 129), and Mooncake (ISL mean 12,035, median 6,909; OSL mean 343; 37 % of
blocks seen before; blocks of 512 tokens). Arrivals are Poisson at 0.8 of the capacity, which a saturated run of the
same requests shows. The step cost is about that of DeepSeek-R1 on eight H200: 10 ms, 12 us a token, 2.6 ns a token of
context.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tokenworks.engine import simulator
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.tiers import Lane, Store, Tiers, WriteName
from tokenworks.engine.types import Cluster, Limits, Pool, Requests, Router, StepCost, Transfer
from tokenworks.ingest import load_trace
from tokenworks.simulation.play import requests_of
from tokenworks.traffic.transform import replicate

LOAD = 0.8
BLOCK = 512
KV_TOKEN = 70_272  # DeepSeek-R1, BF16 [byte]
SLICE = 10_000
COPY = 12_031  # requests of one pass of the Mooncake trace


def cost(tokens: int) -> StepCost:
    return StepCost(np.linspace(0.010, 0.010 + 1.2e-5 * tokens, tokens + 1), 0.0, 2.6e-9, 1e-11)


def lognormal(rng: np.random.Generator, mean: float, median: float, most: int, count: int) -> np.ndarray:
    values = rng.lognormal(np.log(median), np.sqrt(2 * np.log(mean / median)), count)
    return np.clip(values, 1, most).astype(np.int32)


def azure(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "input_tokens": lognormal(rng, 1154.7, 1020, 14_050, count),
        "output_tokens": lognormal(rng, 211.1, 129, 1000, count),
    }


def mooncake(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Turns that continue an earlier request; one pass, repeated with its own names of blocks."""
    one = min(count, COPY)
    inputs = lognormal(rng, 8500, 4800, 126_000, one)
    chains: list[np.ndarray] = []
    fresh = 0
    for i in range(one):
        parent = i - int(rng.geometric(1 / 400)) if rng.random() < 0.45 else -1
        prefix = chains[parent] if parent >= 0 else np.zeros(0, np.int64)
        new = int(inputs[i]) // BLOCK
        chains.append(np.concatenate([prefix, np.arange(fresh, fresh + new)])[: 126_000 // BLOCK])
        inputs[i] = len(chains[i]) * BLOCK + int(inputs[i]) % BLOCK
        fresh += new
    copies = -(-count // one)
    sizes = np.tile([len(chain) for chain in chains], copies)[:count]
    ids = np.concatenate(chains)
    names = (ids + fresh * np.arange(copies)[:, None]).ravel()[: int(sizes.sum())]
    return {
        "input_tokens": np.tile(inputs, copies)[:count],
        "output_tokens": np.tile(lognormal(rng, 342.6, 300, 2000, one), copies)[:count],
        "block_ids": names,
        "block_offsets": np.concatenate([[0], np.cumsum(sizes)]),
    }


def whole(role: str, instances: int, *, prefix: bool, block: int) -> Pool:
    limits = Limits(512, 8192, 2_000_000 // block, block, prefix_caching=prefix)
    return Pool(cost(8192), limits, instances=instances, role=role)  # type: ignore[arg-type]


def tiers(ranks: int, written: WriteName) -> Tiers:
    """DRAM of the host for each rank, pooled DRAM and SSD for all; HBM of a rank holds 3,906 blocks of 36 MB."""
    alone, together = tuple(range(ranks)), (0,) * ranks

    def link(number: int, bandwidth: float, ranks_of: tuple[int, ...]) -> tuple[Lane, ...]:
        return (Lane(tuple(number + rank for rank in ranks_of), BLOCK * KV_TOKEN / bandwidth),)

    def store(name: str, first: int, blocks: int, stores: tuple[int, ...], bandwidth: float) -> Store:
        reads, writes = link(first, bandwidth, stores), link(first + ranks, bandwidth, stores)
        return Store(name, blocks, stores, reads, writes, latency_s=5e-5, written=written)

    return Tiers((
        store("dram", 0, 8_000, alone, 50e9),
        store("pool", 2 * ranks, 12_000 * ranks, together, 200e9),
        store("ssd", 4 * ranks, 40_000 * ranks, together, 100e9),
    ), layers=61)  # fmt: skip


AWARE = Router("prefix_aware", event_delay_s=0.05)
LINK = Transfer(0.002, KV_TOKEN / 50e9, 0.5)
CACHED = Cluster((whole("aggregated", 4, prefix=True, block=BLOCK),), AWARE)
APART = Cluster(
    (whole("prefill", 10, prefix=True, block=BLOCK), whole("decode", 6, prefix=False, block=16)), AWARE, LINK
)
BELOW = "three KV tiers below HBM, written"
CASES: dict[str, tuple[str, Callable[[int, np.random.Generator], dict[str, np.ndarray]], Cluster]] = {
    "azure": ("1 instance", azure, Cluster((whole("aggregated", 1, prefix=False, block=16),))),
    "mooncake": ("4 instances, prefix cache, prefix-aware router, cache events 50 ms late", mooncake,
                 CACHED),
    "endless": ("as mooncake; then again in slices, where ended requests are taken out", mooncake, CACHED),
    "mooncake-through": (f"as mooncake, {BELOW} through", mooncake, replace(CACHED, tiers=tiers(4, "through"))),
    "mooncake-back": (f"as mooncake, {BELOW} back", mooncake, replace(CACHED, tiers=tiers(4, "back"))),
    "pd16": ("10 prefill + 6 decode instances, prefix-aware router, KV over 50 GB/s links", mooncake, APART),
    "pd16-through": (f"as pd16, {BELOW} through", mooncake, replace(APART, tiers=tiers(10, "through"))),
    "pd16-back": (f"as pd16, {BELOW} back", mooncake, replace(APART, tiers=tiers(10, "back"))),
    "100": ("100 instances, least loaded", azure,
            Cluster((whole("aggregated", 100, prefix=False, block=16),), Router("least_loaded"))),
    "ep": ("1 instance of 32 dp ranks in lockstep", azure,
           Cluster((Pool(cost(32 * 2048), Limits(128, 2048, 100_000, 16), ranks=32),), Router("least_loaded"))),
}  # fmt: skip


def schedule(run: simulator.Simulator, cluster: Cluster, faults: int, span_s: float) -> None:
    """Schedule failures and changes of the step cost at random times."""
    rng = np.random.default_rng(3)
    instances = np.repeat(np.arange(len(cluster.pools)), [pool.instances for pool in cluster.pools])
    ranks = [pool.instances * pool.ranks for pool in cluster.pools]
    firsts = np.concatenate([[0], np.cumsum(ranks)])
    begins = np.concatenate([[0], np.cumsum([pool.instances for pool in cluster.pools])])
    for time_s in np.sort(rng.uniform(0, span_s, faults)).tolist():
        i = int(rng.integers(len(instances)))
        pool = int(instances[i])
        own = np.arange(i - begins[pool], ranks[pool], cluster.pools[pool].instances) + firsts[pool]
        run.at(time_s, "stop", i)
        run.at(time_s + 5.0, "lose", own)
        run.at(time_s + 5.0, "back", own)
        run.at(time_s + 5.0, "start", i)
    times_s, costs = rng.uniform(0, span_s, faults), rng.integers(0, 2, faults)
    run.at(times_s, "cost", rng.integers(len(instances), size=faults), costs)


def play(
    cluster: Cluster, traffic: dict[str, np.ndarray], rate: float, count: int, faults: int = 0
) -> tuple[Outcome, float]:
    """Outcome, and CPU seconds in the kernel."""
    rng = np.random.default_rng(2)
    arrival = np.cumsum(rng.exponential(1 / rate, count))
    part: dict[str, Any] = {name: values[: count + (name == "block_offsets")] for name, values in traffic.items()}
    if "block_ids" in traffic:
        part["block_ids"] = traffic["block_ids"][: int(part["block_offsets"][-1])]
    run = simulator.Simulator(cluster)
    run.submit(Requests.of(arrival, **part))
    if faults:
        schedule(run, cluster, faults, float(arrival[-1]))
    start = time.process_time()
    run.advance()
    return run.outcome(), time.process_time() - start


def endless(cluster: Cluster, traffic: dict[str, np.ndarray], rate: float, count: int) -> dict[str, object]:
    """Submit the same requests in slices, and take out those that ended: memory holds requests in flight only."""
    rng, run, kernel_s = np.random.default_rng(2), simulator.Simulator(cluster), 0.0
    arrival = np.cumsum(rng.exponential(1 / rate, count))
    begun = time.process_time()
    for low in range(0, count, SLICE):
        part = slice(low, low + SLICE)
        columns: dict[str, Any] = {name: traffic[name][part] for name in ("input_tokens", "output_tokens")}
        if "block_ids" in traffic:
            offsets = traffic["block_offsets"][low : low + SLICE + 1]
            columns["block_ids"] = traffic["block_ids"][offsets[0] : offsets[-1]]
            columns["block_offsets"] = offsets - offsets[0]
        run.submit(Requests.of(arrival[part], **columns))
        start = time.process_time()
        run.advance(arrival[part][-1])
        kernel_s += time.process_time() - start
        run.take()
    run.advance()
    run.take()
    return {"slices_ended": run.ended, "slices_slots": run.slots, "slices_kernel_s": kernel_s,
            "slices_s": time.process_time() - begun}  # fmt: skip


def recorded(path: Path, count: int) -> dict[str, np.ndarray]:
    trace = load_trace(path)
    repeated = requests_of(replicate(trace, -(-count // len(trace))))
    names = ("input_tokens", "output_tokens", "block_ids", "block_offsets")
    return {name: getattr(repeated, name) for name in names}


def with_faults(
    cluster: Cluster, traffic: dict[str, np.ndarray], rate: float, count: int, faults: int
) -> dict[str, object]:
    """The same requests with failures, whose requests migrate, and a second cost, where a context costs 8 % more."""
    slower = replace(cost(len(cluster.pools[0].cost.by_tokens) - 1), decode_context_s=2.8e-9)
    pools = tuple(replace(pool, variants=(slower,)) for pool in cluster.pools)
    outcome, kernel_s = play(replace(cluster, pools=pools, on_loss="migrate"), traffic, rate, count, faults)
    sums = {name: sum(getattr(pool, name) for pool in outcome.faults) for name in vars(outcome.faults[0])}
    return {"faults": faults, "faults_kernel_s": kernel_s, "faults_steps": outcome.steps, **sums}


def measure(name: str, count: int, trace: Path | None, faults: int) -> dict[str, object]:
    started = time.perf_counter()
    simulator.warm_up()
    ready = time.perf_counter() - started
    title, generate, cluster = CASES[name]
    traffic = recorded(trace, count) if trace and generate is mooncake else generate(count, np.random.default_rng(1))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    first = min(count, 20_000 * max(1, cluster.pools[0].instances // 4))
    saturated, _ = play(cluster, traffic, 1e9, first)
    rate = LOAD * first / float(np.percentile(saturated.end_s, 95)) * 0.95
    del saturated
    begun = time.perf_counter()
    outcome, kernel_s = play(cluster, traffic, rate, count)
    total_s = time.perf_counter() - begun
    sliced = endless(cluster, traffic, rate, count) if name == "endless" else {}
    failed = with_faults(cluster, traffic, rate, count, faults) if faults else {}
    pools = outcome.pools
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "case": name, "deployment": title, "requests": count, "rate": rate, "steps": outcome.steps,
        "mean_batch": [round(pool.mean_batch, 1) for pool in pools],
        "hit_share": pools[0].hit_tokens / max(pools[0].query_tokens, 1),
        "tier_shares": {
            store.name: round(BLOCK * tier.hit_blocks / pools[0].query_tokens, 4)
            for store, tier in zip(cluster.tiers.stores, outcome.tiers, strict=True)
        },
        "tier_evictions": [tier.evictions for tier in outcome.tiers],
        "preemptions": sum(pool.preemptions for pool in pools),
        "mean_ttft_s": float(np.nanmean(outcome.first_token_s - outcome.arrival_s)),
        "kernel_s": kernel_s, "total_s": total_s, "start_s": ready, "requests_per_s": count / kernel_s,
        "steps_per_s": outcome.steps / kernel_s, "peak_bytes": peak,
        "bytes_per_request": (peak - base) / count,
        "ids_bytes_per_request": 4 * len(traffic.get("block_ids", ())) / count, **sliced,
        **failed,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="?", choices=sorted(CASES))
    parser.add_argument("-n", type=float, default=1e6, help="requests")
    parser.add_argument("--trace", type=Path, help="Mooncake JSONL, instead of traffic like it")
    parser.add_argument("--faults", type=int, default=0, help="failures, and changes of the step cost; 0 = none")
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(measure(chosen.case, int(chosen.n), chosen.trace, chosen.faults)))
        return
    for case in CASES:
        command = [sys.executable, __file__, case, "-n", str(chosen.n), "--faults", str(chosen.faults)]
        command += ["--trace", str(chosen.trace)] if chosen.trace else []
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{case}: {measured['deployment']}; load {LOAD} = {measured['rate']:.4g} requests/s")
        print(f"  {measured['requests']:,} requests, {measured['steps']:,} steps, mean batch {measured['mean_batch']}, "
              f"hits {measured['hit_share']:.1%}, preemptions {measured['preemptions']}, "
              f"mean TTFT {measured['mean_ttft_s']:.3f} s")  # fmt: skip
        if measured["tier_shares"]:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in measured["tier_shares"].items())
            print(f"  of the hits, from tiers: {shares} of the input")
        print(f"  kernel {measured['kernel_s']:.3f} s = {measured['requests_per_s']:,.0f} requests/s, "
              f"{measured['steps_per_s']:,.0f} steps/s; with submit and outcome {measured['total_s']:.3f} s; "
              f"start {measured['start_s']:.2f} s")  # fmt: skip
        print(f"  peak {measured['peak_bytes'] / 1e6:,.0f} MB; {measured['bytes_per_request']:.0f} bytes a request, "
              f"{measured['ids_bytes_per_request']:.0f} of them beside each block id")  # fmt: skip
        if chosen.faults:
            longer = measured["faults_kernel_s"] / measured["kernel_s"]
            print(f"  with {chosen.faults} failures and as many changes of the step cost: kernel "
                  f"{measured['faults_kernel_s']:.3f} s, {longer:.2f} times as long; "
                  f"{measured['lost_requests']:,} lost requests, {measured['retries']:,} sent again")  # fmt: skip
        if "slices_s" in measured:
            print(f"  in slices of {SLICE:,}: {measured['slices_ended']:,} ended, {measured['slices_slots']:,} "
                  f"remembered at most; kernel {measured['slices_kernel_s']:.3f} s; "
                  f"with submit and take {measured['slices_s']:.3f} s")  # fmt: skip


if __name__ == "__main__":
    main()
