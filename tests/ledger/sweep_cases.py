"""Small sweeps that tests share: an estimate takes milliseconds, a simulation of few requests a little more."""

from typing import Any

DEPLOYMENT: dict[str, Any] = {
    "model": "Qwen/Qwen3-30B-A3B",
    "system": "hgx-h100:2",
    "roles": [{"name": "aggregated", "parallel": {"tp": 2, "ep": 2}}],
}

ESTIMATE: dict[str, Any] = {
    "do": "estimate",
    "model": "Qwen/Qwen3-30B-A3B",
    "on": "hgx-h100:2",
    "deploy": "tp=2",
    "over": {"batch": [1, 16, 4096, 64], "machine.device.hbm.bandwidth": ["2 TB/s", "3.35 TB/s"]},
}

SIMULATE: dict[str, Any] = {
    "do": "simulate",
    "deployment": DEPLOYMENT,
    "workload": "chat",
    "requests": 300,
    "over": {"rate": [2, 8, 32], "slo.tpot": ["10 ms", "50 ms"]},
}

PLAN: dict[str, Any] = {
    "do": "plan",
    "model": "Qwen/Qwen3-30B-A3B",
    "on": "hgx-h100:2",
    "workload": "chat",
    "simulate": False,
    "over": {"engine": ["vllm", "sglang"]},
}
