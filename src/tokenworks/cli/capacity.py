"""`tokenworks capacity`: the highest rate, or the most users, that a deployment serves within an SLO."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tokenworks.cli.options import DEPLOYMENTS, REQUESTS, DeployedOptions, Output, PlayedOptions, Switch
from tokenworks.cli.output import console, emit, timed
from tokenworks.cli.progress import compile_once, progress
from tokenworks.cli.simulate import shown
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import SpecError

if TYPE_CHECKING:
    from tokenworks.simulation.capacity import Capacity, Try
    from tokenworks.specs.interval import Distance


NEAREST: dict[Distance, str] = {
    "device": "the calibration was fitted on points of this device",
    "family": "the calibration was fitted on points of another device of this family",
    "vendor": "the calibration was fitted on points of another device family of this vendor",
    "other-vendor": "the calibration was fitted on services of other vendors",
    "datasheet": "no measured point of this vendor is in the calibration",
}
"""What the interval rests on, by distance of the measured points."""


@Parameter(name="*", group=REQUESTS)
@dataclass(frozen=True, kw_only=True)
class Tried(PlayedOptions):
    """The requests that are simulated at each load.

    Parameters
    ----------
    trace
        File of requests. It is played at different rates.
    requests
        Requests to generate at each load; by default the number depends on the load and on the time of a request.
    slo
        Bounds, such as ttft=2s,tpot=50ms (99th percentiles) or ttft.p50=1s; by default the SLO of the workload.
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
    """Find the highest rate, or the most users, that a deployment serves within an SLO.

    Parameters
    ----------
    users
        Find the most users instead of the highest rate. A user sends the next request after reading the last answer.
    """
    from tokenworks.simulation.capacity import WITHIN, capacity_of

    began = time.perf_counter()
    if users and played.trace is not None:
        hint = "leave --users out to find the highest rate of the trace"
        raise SpecError("a trace has a fixed number of users", where="--users", hint=hint)
    chosen = deployed.read(deployment)
    source = played.source(chosen)
    slo = source.slo(played.slo)
    source.must_be_bound(slo, WITHIN)  # check before the compilation, which can take a minute
    compile_once()
    with progress("trying") as report:
        result = capacity_of(
            chosen, source, slo, "users" if users else "rate", router=deployed.router, seed=played.seed, say=report,
        )  # fmt: skip
    if output == "table":
        _print(result, str(chosen.deployment), str(slo))
        return
    emit(timed(result.plain(), began), output)


def _print(result: Capacity, deployment: str, slo: str) -> None:
    from tokenworks.simulation.capacity import UNITS

    best, failed, unit = result.best, result.failed, UNITS[result.kind]
    out = console()
    out.paragraph(
        f"{deployment} holds {best.load:.4g} {unit} within {slo}: {best.output_tok_s_per_device:,.1f} output, "
        f"{best.effective_tok_s_per_device:,.1f} effective tokens/s per device; at {failed.load:.4g} it misses "
        f"{', '.join(failed.missed)}"
    )
    low, high = result.interval["capacity"]
    output_low, output_high = result.interval["output_tok_s_per_device"]
    out.paragraph(
        f"80 % interval: {low:.4g} to {high:.4g} {unit}, {output_low:,.1f} to {output_high:,.1f} output tokens/s per "
        f"device ({NEAREST[result.run.site.rates.distance]})\n"
    )
    if best.confidence:
        parts = ", ".join(f"{name} ±{value:.1%}" for name, value in best.confidence.items())
        out.paragraph(f"95 % intervals at {best.load:.4g}: {parts}")
    if result.unsettled:
        out.paragraph(result.unsettled)
    columns: Columns = {unit: "right"}
    numbers = ("requests", "TTFT [ms]", "TPOT [ms]", "sent/s", "served/s", "output/device", "effective/device")
    columns |= {**dict.fromkeys(numbers, "right"), "missed": "left"}
    rows = [_row(one) for one in result.tries]
    print_table(out, columns, rows, wraps=("missed",), spare=("requests", "sent/s", "served/s", "output/device"))
    out.paragraph("\nTTFT and TPOT at the percentiles of the SLO.")


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
