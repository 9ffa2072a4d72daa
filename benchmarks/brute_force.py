"""Winner of a plan against deployments drawn at random: `python -m benchmarks.brute_force [DRAWS [CASE]]`.

Of each case, deployments are drawn over the whole legal space: half at random (widths, settings, batch, token budget,
shares of the machine), half of all deployments whose estimate the search keeps, best families first. A drawn
deployment is simulated at the rate at which it would give `AHEAD` times the effective tokens of the winner. If it
holds the rate, its own highest rate is searched. The table shows the best that was found over the winner.
"""

from __future__ import annotations

import dataclasses
import sys
import time

import numpy as np

from benchmarks.estimate import legal_splits, one_role, two_roles
from tokenworks.errors import TokenworksError
from tokenworks.planning.bench import Bench
from tokenworks.planning.decide import decide
from tokenworks.planning.plan import planned, prepare
from tokenworks.planning.ranking import Candidate, candidates
from tokenworks.planning.searches import searched
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.deployment import Deployment

CASES = (
    ("Qwen/Qwen3-8B", "hgx-h100", "chat"),
    ("Qwen/Qwen3-32B", "hgx-h20", "chat"),
    ("Qwen/Qwen3-30B-A3B", "hgx-h100", "code"),
    ("openai/gpt-oss-120b", "hgx-h200", "chat"),
    ("Qwen/Qwen3-235B-A22B-FP8", "hgx-h200", "chat"),
    ("deepseek-ai/DeepSeek-R1", "hgx-h200", "chat"),
    ("deepseek-ai/DeepSeek-R1", "scalex40", "chat"),
    ("deepseek-ai/DeepSeek-R1", "5xhgx-h100", "chat"),
    ("deepseek-ai/DeepSeek-R1", "5xhgx-h20", "chat"),
    ("openai/gpt-oss-120b", "scalex40", "chat"),
    ("Qwen/Qwen3-235B-A22B", "5xhgx-h100", "chat"),
    ("deepseek-ai/DeepSeek-R1", "hgx-h200", "reason"),
)
AHEAD = 1.02
"""Effective tokens of a drawn deployment that count as better, over those of the winner [-]."""
KEPT = 2000
"""Families whose entries are kept for the second half of the draws [count]."""
APART = 0.4
"""Share of random draws with prefill and decode roles [-]."""


def drawn(every: list[Candidate], template: Candidate, count: int, random: np.random.Generator) -> list[Candidate]:
    """Random legal deployments, and kept ones of `every`, each with estimates that only set the length of its run."""
    chosen = [every[k] for k in random.permutation(len(every))[: count // 2]]
    engines = {one.costing.setting.engine.name: one.costing for one in every}
    legal = {name: legal_splits(costing) for name, costing in engines.items()}
    while len(chosen) < count:
        name = str(random.choice(sorted(engines)))
        make = two_roles if random.random() < APART else one_role
        deployment = make(engines[name], legal[name], random)
        if deployment is None:
            continue
        machine = engines[name].setting.machine.devices
        deployment = filling(deployment, machine)
        chosen.append(
            dataclasses.replace(
                template, costing=engines[name], family=("drawn", len(chosen)), deployment=deployment,
                devices=deployment.devices, idle_devices=machine - deployment.devices,
            )
        )  # fmt: skip
    return chosen


def filling(deployment: Deployment, devices: int) -> Deployment:
    """The deployment as often as it fits a machine."""
    times = devices // deployment.devices
    roles = tuple(role.model_copy(update={"replicas": times * role.replicas}) for role in deployment.roles)
    return deployment.model_copy(update={"roles": roles})


def best_of(choices: list[Candidate], floor: float) -> tuple[float, Candidate | None, int]:
    """The most effective tokens per device of deployments that exceed a floor, and how many were simulated."""
    bench, best, winner, count = Bench(), floor, None, 0
    for one in choices:
        rate = best * one.charged / one.costing.demand.request.osl
        try:
            if bench.holds(one, rate) is None:
                count += 1
                continue
            ((row,), _) = decide(bench, [one], 1)
        except TokenworksError:  # no KV cache of a request, or a network that the draw would need
            continue
        count += 1
        if row.meets_slo and row.effective_tok_s_per_device > best:
            best, winner = row.effective_tok_s_per_device, one
    return best, winner, count


def main(draws: int, only: int | None) -> None:
    for number, (model, on, workload) in enumerate(CASES):
        if only not in (None, number):
            continue
        asked = dict.fromkeys(("isl", "osl", "rate", "concurrency", "slo", "assume"))
        costings = prepare(model, on, workload=workload, engine="auto", calibration=DEFAULT, **asked)
        plan = planned(costings, 10)
        every = list(candidates(searched(costings, KEPT, margin=0.0)))
        template = next(one for one in every if one.deployment == plan.best.deployment) if any(
            one.deployment == plan.best.deployment for one in every) else every[0]  # fmt: skip
        began, winner = time.process_time(), plan.best.effective_tok_s_per_device
        best, better, count = best_of(drawn(every, template, draws, np.random.default_rng(number)), AHEAD * winner)
        what = f"{better.deployment} with {better.deployment.engine}, {best:.1f}" if better else "none"
        print(
            f"{model} on {on}, {workload}: {plan.best.deployment} with {plan.best.deployment.engine}, {winner:.1f}; "
            f"{count} of {draws} drawn ones simulated in {time.process_time() - began:.0f} CPU s, better: {what}",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500, int(sys.argv[2]) if len(sys.argv) > 2 else None)
