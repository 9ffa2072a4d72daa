"""Tables of docs/failures.md: `python -m benchmarks.availability [--seeds N] [--write]`.

A year of a scaleX40, of five hosts of eight devices and of an NVL72, each with deployments of DeepSeek-V3 over all or
nearly all devices; and the mean time to a failure of 1,024 GPUs with and without bad hosts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import tokenworks
from tokenworks.costs import reliability as law
from tokenworks.engine.simulator import warm_up
from tokenworks.ledger.availability_result import Availability
from tokenworks.specs.reliability import load_reliability

PAGE = Path(__file__).parents[1] / "docs" / "failures.md"
MODEL = "deepseek-ai/DeepSeek-V3"
SYSTEMS = ("scalex40", "5xhgx-h100", "5xhgx-h20", "gb200-nvl72")
RSC_1, RSC_2 = 6.5e-3, 2.34e-3
"""Failures of a node in a day (Meta, Revisiting reliability in large-scale machine learning research clusters)."""


def instance(system: str, ep: int, redundant: int, **fields: Any) -> dict[str, Any]:
    """A deployment of one instance with one rank per device.

    Parameters
    ----------
    system : the machine
    ep : devices of the instance [count]
    redundant : additional copies of experts [count]
    fields : further fields of the deployment
    """
    role = {
        "name": "aggregated", "parallel": {"tp": 1, "dp": ep, "ep": ep}, "max_sequences": 64 * ep,
        "chunk_tokens": 4096 * ep, "kv_dtype": "fp8", "redundant_experts": redundant, "memory_fraction": 0.88,
    }  # fmt: skip
    return {"model": MODEL, "system": system, "engine": "sglang", "roles": [role], **fields}


def variants(system: str) -> list[tuple[str, dict[str, Any]]]:
    """Deployments of a machine with their names."""
    if system == "gb200-nvl72":
        return [
            ("EP72, 32 redundant experts", instance(system, 72, 32)),
            ("EP72 with 32, elastic", instance(system, 72, 32, elastic_ep=True)),
            ("EP64, 8 spares", instance(system, 64, 0, spares=8)),
            ("EP64 with 64, elastic, 8 spares", instance(system, 64, 64, elastic_ep=True, spares=8)),
        ]
    return [
        ("EP40, 24 redundant experts", instance(system, 40, 24)),
        ("EP40 with 24, elastic", instance(system, 40, 24, elastic_ep=True)),
        ("EP40 with 64, elastic", instance(system, 40, 64, elastic_ep=True)),
        ("EP32, 8 spares", instance(system, 32, 0, spares=8)),
        ("EP32 with 64, elastic, 8 spares", instance(system, 32, 64, elastic_ep=True, spares=8)),
    ]


def span(seconds: float) -> str:
    """A time in minutes or hours."""
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def machine_rows(seeds: int) -> str:
    """Parts, and the time in which all of them work."""
    lines = [
        "| machine | parts | failures a year | every part works | closed form | usable devices | mean time to repair "
        "that 99.99 % allows |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for system in SYSTEMS:
        result = tokenworks.availability(system, seeds=seeds)
        parts = ", ".join(f"{count:,} {kind}" for kind, count in result.counts.items())
        needed = result.promise.mean_needed_s
        lines.append(
            f"| {system} | {parts} | {result.promise.failures_per_year:.2f} | {result.whole.availability:.3%} | "
            f"{1 - result.whole.closed_form_s / law.YEAR_S:.3%} | {result.devices.availability:.4%} | "
            f"{'-' if needed is None else span(needed)} |"
        )
    return "\n".join(lines)


def deployment_rows(seeds: int) -> tuple[str, str]:
    """Deployments, and what dominates."""
    lines = [
        "| machine | deployment | effective tokens/s | serves | downtime a year | 80 % of years | closed form "
        "| capacity that is lost | tokens lost a year [million] | years that keep 99.99 % | repair that 99.99 % allows "
        "| most of it by |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    states = ["| machine | deployment | state | capacity | hours a year |", "|---|---|---|---:|---:|"]
    for system in SYSTEMS:
        for name, deployment in variants(system):
            began = time.perf_counter()
            try:
                result = tokenworks.availability(system, deployment=deployment, workload="chat", seeds=seeds)
            except tokenworks.TokenworksError as error:
                lines.append(f"| {system} | {name} | {error} | | | | | | | | | | |")
                continue
            lines.append(_deployment_row(system, name, result))
            print(f"{lines[-1]} {time.perf_counter() - began:.0f} s", flush=True)
            one = result.deployment
            assert one is not None
            if not one.elastic or one.spares:
                continue
            states += [
                f"| {system} | {name} | {row.state.removeprefix('aggregated: ')} | {row.capacity:.1%} | "
                f"{row.time * 8760:.2f} |"
                for row in one.states[:4]
                if row.time * 8760 >= 0.01
            ]
    return "\n".join(lines), "\n".join(states)


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _deployment_row(system: str, name: str, result: Availability) -> str:
    one = result.deployment
    assert one is not None
    needed = result.promise.repair_needed_s
    most = max(result.causes, key=lambda row: row.downtime_s or 0.0)
    total = sum(row.downtime_s or 0.0 for row in result.causes) or 1.0
    low, high = one.serves.interval_s
    repair = "none" if needed is None else "any" if needed >= 9.99 * result.promise.repair_s else span(needed)
    return (
        f"| {system} | {name} | {one.effective_tok_s:,.0f} | {one.serves.availability:.4%} "
        f"| {span(one.serves.downtime_s)} ± {span(2 * one.serves.error_s)} | {span(low)} to {span(high)} "
        f"| {span(one.serves.closed_form_s)} | {1 - one.capacity.availability:.3%} | {_rounded(one.lost_tokens / 1e6)} "
        f"| {one.serves.kept:.0%} | {repair} | {most.kind} {(most.downtime_s or 0) / total:.0%} |"
    )


def gpu_rows(clusters: int = 4000) -> str:
    """Mean time to the first failure of a job on 1,024 GPUs, 128 nodes of a cluster with Meta's mean rates [h]."""
    rates = load_reliability()
    bad_hosts, bad_share = float(rates.bad_hosts.value or 0), float(rates.bad_share.value or 0)
    good, bad = law.bad_node_factors(bad_hosts, bad_share)
    rng = np.random.default_rng(0)
    is_bad = rng.random((clusters, 128)) < bad_hosts
    lines = ["| 128 nodes of Meta RSC-1 | mean time to a failure [h] |", "|---|---:|"]

    def mean(hazard: Any) -> float:
        """Mean over clusters of 1 / (sum of the hazards of the nodes) [h]."""
        return float(np.mean(24 / hazard.sum(axis=1)))

    equal = np.full((1, 128), RSC_1)
    same_mean = RSC_1 * np.where(is_bad, bad, good)
    besides = RSC_1 * np.where(is_bad, bad / good, 1.0)
    worst = RSC_1 * np.where(np.arange(128) < round(3 * 128 / 63), bad / good, 1.0)[None]
    lines += [
        f"| measured by Meta | {7.9} |",
        f"| all nodes fail at the mean rate (Poisson) | {mean(equal):.1f} |",
        f"| 3 of 63 nodes are bad and make half of the failures, the mean rate stays | {mean(same_mean):.1f} |",
        f"| the mean rate is that of good nodes, and bad nodes come on top | {mean(besides):.1f} |",
        f"| the same, with exactly six bad nodes in the job | {mean(worst):.1f} |",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/failures.md")
    options = parser.parse_args()
    warm_up()
    deployments, states = deployment_rows(options.seeds)
    tables = {
        "machines": machine_rows(options.seeds), "deployments": deployments, "states": states, "clusters": gpu_rows(),
    }  # fmt: skip
    text = PAGE.read_text(encoding="utf-8") if options.write else ""
    for name, table in tables.items():
        print(f"\n{table}")
        head, end = f"<!-- {name}: written by benchmarks/availability.py -->", f"<!-- end of {name} -->"
        before, mark, rest = text.partition(head)
        if mark:
            text = f"{before}{head}\n{table}\n{end}{rest.partition(end)[2]}"
    if options.write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
