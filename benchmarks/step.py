"""Points (split, load) that `costs.step.step` and `costs.memory.memory` evaluate in a second, on one core."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from tokenworks.costs.memory import memory
from tokenworks.costs.rates import rates
from tokenworks.costs.split import Split
from tokenworks.costs.step import OVERLAPS, Batch, step
from tokenworks.specs.calibration import load_calibration
from tokenworks.specs.compose import machine
from tokenworks.specs.engine import load_engine
from tokenworks.specs.hf import load_model

MODEL, SYSTEM, ENGINE = "deepseek-ai/DeepSeek-R1", "5xhgx-h100", "sglang"
TARGET = 500_000  # points/s of a step with overlap "none"
SIZES = (10_000, 100_000)
ROUNDS = 5


def points(count: int) -> tuple[Split, Batch]:
    """Random splits of 40 devices, all arrays, with random mixed batches."""
    random = np.random.default_rng(0)
    tp = random.choice([1.0, 2.0, 4.0, 8.0], count)
    split = Split(
        tp=tp, pp=np.ones(count), dp=40 / tp, ep=np.full(count, 40.0), expert_tp=np.ones(count),
        redundant=np.full(count, 24.0), kv_bytes=random.choice([1.0, 2.0], count), draft_tokens=np.zeros(count),
    )  # fmt: skip
    decode, prefill = random.integers(1, 4000, count) * 1.0, random.integers(0, 40000, count) * 1.0
    return split, Batch(decode, decode * 4000, prefill, prefill * 2000)


def rate(run: Callable[[], object], count: int) -> float:
    """Points per second, the best of a few rounds."""
    run()
    spent = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
    return count / min(spent)


def main() -> None:
    model, system, engine = load_model(MODEL), machine(SYSTEM), load_engine(ENGINE)
    achieved = rates(system, load_calibration())
    missed = False
    for count in SIZES:
        split, load = points(count)
        for overlap in OVERLAPS:
            speed = rate(partial(step, model, achieved, split, load, engine=engine, overlap=overlap), count)
            print(f"step    {MODEL} on {SYSTEM}, overlap {overlap:9}, {count:7,} points: {speed:12,.0f} points/s")
            missed |= overlap == "none" and speed < TARGET
        held = partial(
            memory, model, system, split, engine=engine, max_sequences=400, chunk_tokens=8192, memory_fraction=0.9
        )
        speed = rate(held, count)
        print(f"memory  {MODEL} on {SYSTEM},{'':19} {count:7,} points: {speed:12,.0f} points/s")
    sys.exit(f"below {TARGET:,} points/s" if missed else 0)


if __name__ == "__main__":
    main()
