"""Comparisons that the tests share: small models on single devices, with a small budget; each one is computed once."""

from __future__ import annotations

import functools
from typing import Any

from tokenworks.ledger.compare import compare
from tokenworks.ledger.comparison import Compared, Comparison

SMALL, LARGE, HUGE = "Qwen/Qwen3-0.6B", "Qwen/Qwen3-32B", "deepseek-ai/DeepSeek-R1"
H20, H100, L40S = "hgx-h20:1", "hgx-h100:1", "pcie-l40s:1"
WORK: dict[str, Any] = {
    "isl": 1000.0, "osl": 100.0, "slo": "ttft=2s,tpot=50ms", "engine": "vllm", "budget": "5000 requests", "workers": 1,
}  # fmt: skip


@functools.cache
def compared(*on: str, model: str = SMALL, **other: Any) -> Comparison:
    """A comparison of one model, with other arguments that can be hashed."""
    return compare(model, on, **(WORK | other))


def row(result: Comparison, system: str) -> Compared:
    """One machine of a comparison."""
    return next(one for one in result.systems if one.system == system)
