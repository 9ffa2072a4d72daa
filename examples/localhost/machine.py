"""Measure the peak rates of one core and describe it as a machine for tokenworks. Run with vLLM's python.

    machine.py FOLDER

Writes device.yaml and system.yaml, and prints the dtype that models should have on this core. A CPU without
instructions for BF16 computes BF16 products a hundred times slower than FP32 products.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy and torch count the cores

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIDE, BYTES, SECONDS = 1024, 1 << 29, 4.0


def best(work: Callable[[], object]) -> float:
    """Shortest time of many calls [s]: other work on the machine only makes a call slower."""
    least, end = float("inf"), time.perf_counter() + SECONDS
    while (begin := time.perf_counter()) < end:
        work()
        least = min(least, time.perf_counter() - begin)
    return least


def flop_rates() -> dict[str, float]:
    """Rates of square matrix products, by dtype [FLOP/s]. numpy has no BF16, so torch multiplies in BF16."""
    torch.set_num_threads(1)
    wide = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    narrow = torch.from_numpy(wide).to(torch.bfloat16)
    return {"bf16": 2 * SIDE**3 / best(lambda: narrow @ narrow), "fp32": 2 * SIDE**3 / best(lambda: wide @ wide)}


def read_bandwidth() -> float:
    """Bandwidth of reading an array that is larger than any cache [byte/s]."""
    long = np.ones(BYTES // 4, np.float32)
    return BYTES / best(lambda: np.dot(long, long))


def device(memory: int, rates: dict[str, float]) -> dict[str, Any]:
    """Content of the device file. The priors of the family `cpu` are assumed, and the family says so.

    If FP32 is faster than BF16, models of this computer have FP32 weights, and attention multiplies in FP32, too.
    tokenworks computes attention at the 16-bit rate, so the file gives the FP32 rate for both.

    Parameters
    ----------
    memory : memory of the computer [byte]
    rates : rates of square matrix products, by dtype [FLOP/s]
    """
    how = f"{SIDE}^3 product on one thread, best in {SECONDS:g} s"
    peak = {dtype: measured(f"{rate / 1e9:.1f} GFLOP/s", how) for dtype, rate in rates.items()}
    if best_dtype(rates) == "float32":
        slow = f"BF16 products reach {rates['bf16'] / 1e9:.1f} GFLOP/s, so models have FP32 weights: the rate of FP32"
        peak["bf16"] = {"value": peak["fp32"]["value"], "status": "derived", "source": slow}
    read = measured(f"{read_bandwidth() / 1e9:.1f} GB/s", f"numpy.dot of {BYTES >> 20} MiB on one thread")
    return {
        "name": "one-core", "title": "One core of this machine, measured", "vendor": "this machine", "family": "cpu",
        "peak": peak, "hbm": {"capacity": measured(f"{memory} byte", "sysconf"), "bandwidth": read},
        "scale_up": {"bandwidth": {"value": None, "status": "not-published"}},
    }  # fmt: skip


def system() -> dict[str, Any]:
    """Content of the system file: a machine with one device and without links."""
    nothing = {"value": "0 us", "status": "derived", "source": "one device: no communication"}
    fabric = {"topology": "none", "layers": 0, "semantics": "load-store"}
    return {
        "name": "this-machine", "title": "This machine", "vendor": "this machine", "device": "./device.yaml",
        "devices": 1, "domain": 1, "scale_up": fabric | dict.fromkeys(("hop", "endpoint", "overhead"), nothing),
        "network": None, "host": {"devices": 1},
    }  # fmt: skip


def best_dtype(rates: dict[str, float]) -> str:
    """Dtype of the faster products, as a config.json names it."""
    return "bfloat16" if rates["bf16"] > rates["fp32"] else "float32"


def measured(value: str, how: str) -> dict[str, str]:
    """A number with its unit and its source, as the catalog writes it."""
    return {"value": value, "status": "measured", "source": f"{how}; 1-minute load {os.getloadavg()[0]:.1f}"}


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    memory, rates = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), flop_rates()
    for name, content in {"device": device(memory, rates), "system": system()}.items():
        (folder / f"{name}.yaml").write_text(json.dumps(content, indent=1) + "\n")  # JSON is YAML
    print(best_dtype(rates))
