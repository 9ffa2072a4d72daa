"""KV tiers for coding agents: `python -m benchmarks.tiers DEPLOYMENT TRACE [--agents 50,500,5000] [--block 512]`.

The trace has sessions with think times, such as Claude Code sessions. For each number of agents the trace is played as
an endless stream: sessions that have begun earlier go on, and copies have block names of their own. The rate of a
stream is agents / mean time between two requests of a session, as recorded; in an overload a session takes longer, so
more agents are in the middle of one. Rows: HBM alone, then host memory, pooled memory and flash storage below it, and
the what-if of memory semantics; then the scheduling policies.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenworks.ingest import load_trace
from tokenworks.planning.asked import deployed_of
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.source import Source
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.slo import Slo
from tokenworks.specs.tier_setup import load_setup
from tokenworks.specs.trace import Trace
from tokenworks.traffic.transform import roots

SLO = "ttft.p90=30s,tpot=100ms"
AGENTS = (50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Variant:
    """A row of the table: name, and fields of the deployment."""

    name: str
    fields: dict[str, Any]


def between_s(trace: Trace) -> float:
    """Mean time between two requests of a session, as recorded [s]."""
    root = roots(trace.parent)
    lasts = np.zeros(len(trace))
    np.maximum.at(lasts, root, trace.arrival_s - trace.arrival_s[root])
    return float(lasts.sum()) / len(trace)


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


def played(deployed: Deployed, trace: Trace, rate: float, variant: Variant, block: int) -> Simulation:
    """One row: the deployment with the fields of the variant, under the rate."""
    plain = {**deployed.deployment.model_dump(mode="json", exclude_unset=True), **variant.fields}
    deployment = Deployment.model_validate({key: value for key, value in plain.items() if value is not None})
    chosen = Deployed(deployment, deployed.given, deployed.calibration, model=deployed.model, machine=deployed.machine)
    traffic = Source(trace).traffic(rate=rate)
    return simulate(chosen, traffic, slo=Slo.of(SLO), drain=False, block_tokens=block)


def row(agents: int, variant: Variant, run: Simulation, seconds: float) -> str:
    """A line of the table."""
    plain = run.plain()
    hits = " / ".join(f"{tier['name']} {tier['hit_share']:.0%}" for tier in plain["tiers"])
    done = run.outcome.first_token_s - run.outcome.arrival_s
    inside = (run.outcome.arrival_s >= run.span.start_s) & (run.outcome.arrival_s < run.span.end_s) & ~np.isnan(done)
    p50, p99 = np.percentile(done[inside], [50, 99]) if inside.any() else (np.nan, np.nan)
    served = run.flow.completed / run.span.seconds
    return (
        f"| {agents:,} | {variant.name} | {hits} | {p50:,.3g} | {p99:,.3g} | {served:.3g} | "
        f"{plain['effective_throughput']:,.4g} | {'met' if run.meets_slo else 'missed'} | {seconds:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("deployment")
    parser.add_argument("trace")
    parser.add_argument("--agents", default=",".join(map(str, AGENTS)))
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    deployed, trace = deployed_of(args.deployment), load_trace(args.trace)
    gap = between_s(trace)
    print(f"{len(trace):,} requests, {gap:.0f} s between two requests of an agent; {deployed.deployment}\n")
    print("| agents | tiers | hits | TTFT p50 [s] | TTFT p99 [s] | completed/s | effective tokens/s | SLO | run [s] |")
    print("|---|---|---|---|---|---|---|---|---|")
    for agents in map(int, args.agents.split(",")):
        for variant in variants(deployed.deployment.engine):
            if args.only and args.only not in variant.name:
                continue
            began = time.perf_counter()
            run = played(deployed, trace, agents / gap, variant, args.block)
            print(row(agents, variant, run, time.perf_counter() - began))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
