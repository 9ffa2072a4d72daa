"""Speed of the plan, on one core: `python benchmarks/plan.py`.

It prints three figures, each the best of three runs after a run that warms up:
- legal candidates estimated per second: every legal split of DeepSeek-R1 on scaleX40 at every batch and token budget.
  Nothing is ruled out. Cells that do not fit the KV cache are computed, but not counted. An estimate holds memory, one
  decode step and one mixed step of the cost model, and the steady state with prefix cache, queue and percentiles. Time
  is CPU seconds of the process, which has one thread.
- the whole plan, from names to typed result, with disaggregated deployments and ranking: wall seconds.
- the command in a new process, with imports and reading of files: wall seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import tokenworks
from tokenworks.legal.splits import Candidates, candidates, splits
from tokenworks.planning.aggregated import BLOCK, climb
from tokenworks.planning.costing import Costing
from tokenworks.planning.plan import prepare
from tokenworks.planning.space import Ladders
from tokenworks.specs.calibration import DEFAULT

MODEL, MACHINE, SLO = "deepseek-ai/DeepSeek-R1", "scalex40", "ttft=2s,tpot=50ms"
CASES: dict[str, dict[str, Any]] = {
    "4000 in, 1000 out": {"isl": 4000.0, "osl": 1000.0, "slo": SLO},
    "agent": {"workload": "agent"},
}


def best(run: Callable[[], object], clock: Callable[[], float]) -> float:
    run()
    times = []
    for _ in range(3):
        begun = clock()
        run()
        times.append(clock() - begun)
    return min(times)


def candidates_per_second(costing: Costing) -> tuple[int, float]:
    every: Candidates = candidates(costing.setting, splits(costing.setting))
    ladders, count = Ladders.default(), 0

    def run() -> None:
        nonlocal count
        count = 0
        for start in range(0, len(every.points), BLOCK):
            block = slice(start, start + BLOCK)
            count += int(climb(costing, every.points[block], ladders).legal.sum())

    seconds = best(run, time.process_time)
    return count, count / seconds


def main() -> None:
    for name, asked in CASES.items():
        given = dict.fromkeys(("workload", "isl", "osl", "rate", "concurrency", "slo", "assume")) | asked
        (costing,) = prepare(MODEL, MACHINE, engine="vllm", calibration=DEFAULT, **given)
        count, rate = candidates_per_second(costing)
        print(f"{name}: {count:,} candidates in full, {rate:,.0f} a second on one core (target 200,000)")
        wall = best(partial(tokenworks.plan, MODEL, MACHINE, **asked), time.perf_counter)
        plan = tokenworks.plan(MODEL, MACHINE, **asked)
        print(f"{name}: whole plan {wall:.2f} s wall (target 3), {plan.considered:,} considered, {plan.legal:,} legal,")
        print(
            f"  {plan.estimated:,} estimated, best {plan.best.deployment} at {plan.best.output_tok_s_per_device:,.1f}"
        )
    command = [sys.executable, "-m", "tokenworks", "plan", MODEL, "--on", MACHINE, "--isl", "4000", "--osl", "1000"]
    command += ["--slo", SLO, "-o", "json"]
    wall = best(partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL), time.perf_counter)
    print(f"command, -o json: {wall:.2f} s wall; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
