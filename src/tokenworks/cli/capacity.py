"""`tokenworks capacity`: the highest rate, or most users, that a deployment holds within an SLO."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from tokenworks.cli.options import DEPLOYMENTS, REQUESTS, DeployedOptions, Output, PlayedOptions, Switch
from tokenworks.cli.output import console, emit, table, timed
from tokenworks.cli.progress import compile_once, progress
from tokenworks.cli.simulate import shown
from tokenworks.errors import SpecError

if TYPE_CHECKING:
    from tokenworks.simulation.capacity import Capacity, Try


@Parameter(name="*", group=REQUESTS)
@dataclass(frozen=True, kw_only=True)
class Tried(PlayedOptions):
    """What is played at each load that is tried.

    Parameters
    ----------
    trace
        File of requests, played at the rates that are tried.
    requests
        Requests to make of a workload at each load; by default as many as the load and the life of a request need.
    slo
        Such as ttft=2s,tpot=50ms; by default the SLO of the workload.
    """

    trace: Path | None = None
    requests: int | None = None
    slo: str | None = None


def capacity(
    deployment: Annotated[Path, DEPLOYMENTS],
    /,
    *,
    played: Tried = Tried(),
    users: Annotated[Switch, Parameter(group=REQUESTS)] = False,
    deployed: DeployedOptions = DeployedOptions(),  # noqa: B008 - frozen
    output: Output = "table",
) -> None:
    """Find the highest rate, or most users, that a deployment holds within an SLO.

    Parameters
    ----------
    users
        Find the most users instead of the highest rate; a user sends a request after reading the answer before.
    """
    from tokenworks.simulation.capacity import WITHIN, capacity_of

    began = time.perf_counter()
    if users and played.trace is not None:
        raise SpecError("a trace has no users to add", where="--users", hint="leave it out to scale the trace's rate")
    chosen = deployed.read(deployment)
    source = played.source(chosen.given)
    slo = source.slo(played.slo)
    source.must_be_bound(slo, WITHIN)  # before a minute of compiling
    compile_once()
    with progress("trying") as say:
        result = capacity_of(
            chosen, source, slo, "users" if users else "rate", router=deployed.router, seed=played.seed, say=say,
        )  # fmt: skip
    if output == "table":
        _print(result, str(chosen.deployment), str(slo))
        return
    emit(timed(result.plain(), began), output)


def _print(result: Capacity, deployment: str, slo: str) -> None:
    from tokenworks.simulation.capacity import UNITS

    best, failed, unit = result.best, result.failed, UNITS[result.kind]
    out = console()
    out.print(
        f"{deployment} holds {best.load:.4g} {unit} within {slo}: {best.output_tok_s_per_device:,.1f} output, "
        f"{best.effective_tok_s_per_device:,.1f} effective tokens/s per device; at {failed.load:.4g} it misses "
        f"{', '.join(failed.missed)}",
        soft_wrap=True,
    )
    if best.confidence:
        parts = ", ".join(f"{name} ±{value:.1%}" for name, value in best.confidence.items())
        out.print(f"95 % intervals at {best.load:.4g}: {parts}", soft_wrap=True)
    if result.unsettled:
        out.print(result.unsettled, soft_wrap=True)
    columns: dict[str, Literal["left", "right"]] = {unit: "right"}
    numbers = ("requests", "TTFT [ms]", "TPOT [ms]", "sent/s", "served/s", "output/device", "effective/device")
    columns |= {**dict.fromkeys(numbers, "right"), "missed": "left"}
    out.print(table("", columns, [_row(one) for one in result.tries]))
    out.print("TTFT and TPOT at the percentiles of the SLO")


def _row(one: Try) -> list[str]:
    seen = ["-" if value is None else shown(value) for value in (one.ttft_ms, one.tpot_ms)]
    rates = (one.output_tok_s_per_device, one.effective_tok_s_per_device)
    flow = (f"{one.sent_throughput:.4g}", f"{one.request_throughput:.4g}")
    return [
        f"{one.load:.4g}",
        f"{one.requests:,}",
        *seen,
        *flow,
        *(f"{rate:,.1f}" for rate in rates),
        ", ".join(one.missed),
    ]
