"""Studies with chosen values, for tests of checks: one quick plan of a small model whose numbers are replaced."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

from tokenworks.ledger.claims.asks import PlanAsk
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.study import Study

SMALL = "Qwen/Qwen3-0.6B"
WIDTH = 2.0
"""High end of the interval of throughput / its value [-]."""

MIX: dict[str, Any] = {
    "models": {SMALL: 1.0, "Qwen/Qwen3-30B-A3B": 1.0}, "main": SMALL, "baselines": ["2xhgx-h200"],
    "servers": ["hgx-h200"], "domains": [8, 16, 40, 72],
}  # fmt: skip


def basis(**other: Any) -> Basis:
    """A basis with two small models, and other keys of the mix."""
    return Basis.read(mix={**MIX, **other}) if other else _basis()


@functools.cache
def _basis() -> Basis:
    return Basis.read(mix=MIX)


@functools.cache
def _plan() -> Study:
    return PlanAsk(SMALL, "hgx-h200:1", "chat", engine="vllm", simulate=False).answer(None)


def study(tok_s: float | None, width: float = WIDTH) -> Study:
    """A study with effective tokens per second and device; None: nothing meets the SLO."""
    plain = _plan()
    if tok_s is None:
        return dataclasses.replace(plain, plan=None, best=None, error="does not fit")
    assert plain.plan is not None
    row = dataclasses.replace(
        plain.plan.best, effective_tok_s_per_device=tok_s, output_tok_s_per_device=tok_s, slo_pressure=0.9,
        interval={"output_tok_s_per_device": (tok_s / width, tok_s * width)},
    )  # fmt: skip
    return dataclasses.replace(plain, plan=dataclasses.replace(plain.plan, deployments=(row,)), error="")


APART = math.exp(math.sqrt(2 * 0.01) * math.log(WIDTH))
"""Ratio of two throughputs of `study` from which on they are told apart, with a correlation of 0.99 [-]."""
