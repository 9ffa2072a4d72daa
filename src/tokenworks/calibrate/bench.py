"""Results of `vllm bench serve` as measured points of a deployment: measure three, get your machine."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tokenworks.calibrate.points import Measured, Point, Worker
from tokenworks.errors import SpecError
from tokenworks.specs.deployment import Deployment

NATIVE = "native"
"""The dtype of a point whose model names its checkpoint."""


class Result(msgspec.Struct):
    """What is read of a result; a request rate of infinity is written as text, "inf"."""

    completed: int
    total_input_tokens: int
    total_output_tokens: int
    total_token_throughput: float
    median_tpot_ms: float
    median_ttft_ms: float
    max_concurrency: int | None = None
    request_rate: float | str = "inf"


def read_bench(path: Path, deployment: Deployment) -> Point:
    """One result file of a run on a deployment."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Result)
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"is no result of vllm bench serve: {error}", where=str(path)) from None
    if min(found.completed, found.total_output_tokens, found.median_tpot_ms, found.total_token_throughput) <= 0:
        raise SpecError("nothing completed in this run", where=str(path))
    rate = 0.0 if isinstance(found.request_rate, str) else found.request_rate
    closed = found.max_concurrency is not None
    isl, osl = found.total_input_tokens / found.completed, found.total_output_tokens / found.completed
    return Point(
        line=1, id=path.name, group="", model=deployment.model, weights=NATIVE, device=deployment.system,
        devices=deployment.devices, engine=deployment.engine, mode="disagg" if len(deployment.roles) > 1 else "agg",
        drafts=max(role.draft_tokens for role in deployment.roles),
        workers=tuple(
            Worker(r.name, r.parallel.devices, r.parallel.tp, r.parallel.dp, r.parallel.pp, r.parallel.ep, r.replicas)
            for r in sorted(deployment.roles, key=lambda role: role.name, reverse=True)
        ),
        load="closed" if closed else "poisson" if rate else "burst",
        concurrency=float(found.max_concurrency or 0), rate=rate, requests=found.completed,
        isl=round(isl), osl=round(osl), nominal_isl=round(isl),
        measured=Measured(
            tpot=1e-3 * found.median_tpot_ms, ttft=1e-3 * found.median_ttft_ms or None,
            rate=found.total_token_throughput / deployment.devices,
        ),
    )  # fmt: skip
