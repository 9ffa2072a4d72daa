"""KV tiers for coding agents: `python -m benchmarks.tiers DEPLOYMENT TRACE [--agents 50,500,5000] [--block 512]`.

The trace has sessions with think times, such as Claude Code sessions. Each agent is in the middle of a session when the
clock starts: sessions are drawn by their duration, and a session that is drawn twice has block names of its own. All
requests that the agents send within three hours, if answers took no time, are played to their ends. Caches are empty
at the start, so the table has the second half of the three hours: TTFT of first tokens in this time, and tokens of
requests that end in it. Hits are those of the whole run. Rows: HBM alone, then host memory, pooled memory and flash
storage below it, and the what-if of memory semantics. `--scheduling NAME,...` adds these policies to the third row,
`--only NAME,...` takes some rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenworks.engine.types import Status
from tokenworks.ingest import load_trace
from tokenworks.planning.asked import deployed_of
from tokenworks.simulation.run import Simulation, Traffic, simulate
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.slo import Slo
from tokenworks.specs.tier_setup import load_setup
from tokenworks.specs.trace import Trace, ranges
from tokenworks.traffic.transform import roots

SLO = "ttft.p90=30s,tpot=100ms"
HOURS, START = 10_800.0, 5_400.0
AGENTS = (50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Variant:
    """A row of the table: name, and fields of the deployment."""

    name: str
    fields: dict[str, Any]


def sessions(trace: Trace, agents: int, seed: int = 0) -> Trace:
    """The requests of `agents` sessions within `HOURS`, each begun some time before."""
    rng, n = np.random.default_rng(seed), len(trace)
    root = roots(trace.parent)
    since, lasts = trace.arrival_s - trace.arrival_s[root], np.zeros(n)
    np.maximum.at(lasts, root, since)
    drawn = rng.choice(n, agents, p=lasts / lasts.sum())
    begun = -lasts[drawn] * rng.random(agents)
    by_root = np.argsort(root, kind="stable")
    low, high = np.searchsorted(root[by_root], [drawn, drawn + 1])
    index = by_root[ranges(low, high - low)]
    agent = np.repeat(np.arange(agents), high - low)
    at = begun[agent] + since[index]
    kept = (at >= 0) & (at < HOURS)
    index, agent, at = index[kept], agent[kept], at[kept]
    keys, above = agent * n + index, agent * n + trace.parent[index]
    place = np.minimum(np.searchsorted(keys, above), len(keys) - 1)
    parent = np.where((trace.parent[index] >= 0) & (keys[place] == above), place, -1)
    counts = np.diff(trace.run_offsets)[index]
    runs = ranges(trace.run_offsets[:-1][index], counts)
    columns = {name: getattr(trace, name) for name in Trace.__slots__}
    single = ("input_tokens", "output_tokens", "agent", "class_of")
    changed = {name: getattr(trace, name)[index] for name in single} | {
        "arrival_s": at, "session": agent.astype(np.int32), "parent": parent,
        "think_s": np.where(parent < 0, 0.0, trace.think_s[index]), "undated": False,
        "run_start": trace.run_start[runs] + np.repeat(agent, counts) * trace.id_count,
        "run_length": trace.run_length[runs], "run_offsets": np.append(0, np.cumsum(counts)),
    }  # fmt: skip
    return Trace.of(**{**columns, **changed})


def tiers_of(setup: str, *media: str) -> dict[str, Any]:
    """The tiers of a set-up with these media, as fields of a deployment."""
    chosen = load_setup(setup)
    tiers = [tier.model_dump(mode="json") for tier in chosen.tiers if tier.medium in media]
    return {"tiers": tiers, "kv_load": chosen.load, "kv_load_failure": chosen.on_failure}


def variants(engine: str) -> list[Variant]:
    """The rows for the engine of the deployment."""
    if engine == "sglang":
        lower = [Variant("+ DRAM", tiers_of("hicache-mooncake", "host")),
                 Variant("+ pool", tiers_of("hicache-mooncake", "host", "pool")),
                 Variant("+ SSD", tiers_of("hicache-mooncake", "host", "pool", "ssd"))]  # fmt: skip
    else:
        lower = [Variant("+ DRAM", tiers_of("vllm-offload", "host")),
                 Variant("+ SSD", tiers_of("vllm-offload", "host", "ssd"))]  # fmt: skip
    what_if = [
        Variant("pooled", tiers_of("pooled", "pool")),
        Variant("pooled + SSD", tiers_of("pooled", "pool", "ssd")),
    ]
    return [Variant("HBM", {}), *lower, *what_if]


def played(deployed: Deployed, trace: Trace, variant: Variant, block: int) -> Simulation:
    """One row: the deployment with the fields of the variant."""
    plain = {**deployed.deployment.model_dump(mode="json", exclude_unset=True), **variant.fields}
    deployment = Deployment.model_validate({key: value for key, value in plain.items() if value is not None})
    chosen = Deployed(deployment, deployed.given, deployed.calibration, model=deployed.model, machine=deployed.machine)
    return simulate(chosen, Traffic(trace), slo=Slo.of(SLO), block_tokens=block)


def row(agents: int, variant: Variant, run: Simulation, seconds: float) -> str:
    """A line of the table."""
    hits = " / ".join(f"{tier['name']} {tier['hit_share']:.0%}" for tier in run.plain()["tiers"])
    out, span = run.outcome, HOURS - START
    ttft, completed = out.first_token_s - out.arrival_s, out.status == Status.COMPLETED
    first = (out.first_token_s >= START) & (out.first_token_s < HOURS)
    p50, p90, p99 = np.percentile(ttft[first], [50, 90, 99]) if first.any() else (np.nan,) * 3
    ended = completed & (out.end_s >= START) & (out.end_s < HOURS)
    tpot = (out.end_s - out.first_token_s) / np.maximum(out.output_tokens - 1, 1)
    good = ended & (ttft <= 30) & (tpot <= 0.1)
    return (
        f"| {agents:,} | {variant.name} | {hits} | {p50:,.3g} | {p90:,.3g} | {p99:,.3g} | {ended.sum() / span:.3g} | "
        f"{out.output_tokens[ended].sum() / span:,.4g} | {out.output_tokens[good].sum() / span:,.4g} | {seconds:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("deployment")
    parser.add_argument("trace")
    parser.add_argument("--agents", default=",".join(map(str, AGENTS)))
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--scheduling", default="")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    deployed, trace = deployed_of(args.deployment), load_trace(args.trace)
    rows = variants(deployed.deployment.engine)
    rows += [Variant(f"{rows[2].name}, {name}", {**rows[2].fields, "scheduling": name})
             for name in args.scheduling.split(",") if name]  # fmt: skip
    if args.only:
        rows = [one for one in rows if one.name in args.only.split(",")]
    print(f"{deployed.deployment}\n")
    print("| agents | tiers | hits | TTFT p50 [s] | p90 | p99 | completed/s | output tokens/s | effective | run [s] |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for agents in map(int, args.agents.split(",")):
        played_sessions = sessions(trace, agents)
        for variant in rows:
            began = time.perf_counter()
            run = played(deployed, played_sessions, variant, args.block)
            print(row(agents, variant, run, time.perf_counter() - began))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
