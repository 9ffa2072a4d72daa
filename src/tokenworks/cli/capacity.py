"""`tokenworks capacity`: the highest rate, or most users, that a deployment holds within an SLO."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from tokenworks.cli.inputs import Source, compile_once, deployment_of, progress
from tokenworks.cli.output import Classes, Output, Switch, console, emit, table
from tokenworks.cli.simulate import shown
from tokenworks.errors import SpecError
from tokenworks.specs.deployment import RouterName
from tokenworks.specs.deployment_file import load_assumed, load_calibration_of
from tokenworks.specs.slo import Slo

if TYPE_CHECKING:
    from tokenworks.simulation.capacity import Capacity, Try
    from tokenworks.simulation.run import Simulation


def capacity(
    deployment: Path,
    /,
    *,
    trace: Path | None = None,
    workload: str | None = None,
    users: Switch = False,
    requests: int | None = None,
    limit: int | None = None,
    slo: str | None = None,
    class_: Classes = (),
    router: RouterName | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = (),
    pick: int = 1,
    seed: int = 0,
    assume: Path | None = None,
    calibration: str | None = None,
    strict: Switch = False,
    output: Output = "table",
) -> None:
    """Find the highest rate, or most users, that a deployment holds within an SLO.

    Parameters
    ----------
    deployment
        YAML file of deployments, as `plan -o yaml` writes it.
    trace
        File of requests, played at the rates that are tried.
    workload
        Workload of the catalog, or a YAML file, to make requests of.
    users
        Count users that each send their next request when they have read the last answer, not requests a second.
    requests
        How many to make of a workload; by default 5000, or 20 for each user.
    limit
        Only the first so many requests of a trace.
    slo
        Such as ttft=2s,tpot=50ms; by default the workload's own.
    class_
        Priority (0 first, 7 last) and own SLO of a class, such as batch:priority=1,ttft=60s; may be repeated.
    router
        By default prefix_aware where requests share prefixes, else least_loaded.
    set_
        Edit the deployment, such as roles.0.max_sequences=64; may be repeated.
    pick
        Which deployment of the file, 1 is the best.
    seed
        Of made requests, and of a router that draws.
    assume
        YAML file of machine numbers to use instead, `path: value` a line.
    calibration
        Calibration of the catalog, or a YAML file such as `calibrate` writes; serving, or the file's own.
    strict
        Stop at the first broken or misplaced row of a trace.
    output
        table, json or yaml.
    """
    from tokenworks.simulation.capacity import UNITS
    from tokenworks.simulation.capacity import capacity as find
    from tokenworks.simulation.run import Traffic, simulate
    from tokenworks.traffic.source import rate_of

    began = time.perf_counter()
    if users and trace is not None:
        raise SpecError("a trace has no users to add", where="--users", hint="leave it out to scale the trace's rate")
    chosen = deployment_of(deployment, pick, set_)
    source = Source(trace, workload, requests, None, limit, seed, strict, class_)
    bounds = _bounds(source, slo)
    recorded = source.recorded() if trace else None
    compile_once()
    with progress("trying") as say:

        def play(load: float) -> Simulation:
            if say:
                say(f"trying {load:.4g} {UNITS['users' if users else 'rate']}")
            if recorded is not None:
                played = source.played(recorded, load)
            else:
                played = source.made(None if users else load, load if users else None)
            traffic = Traffic(played, endless=True, classes=source.promised(played))
            return simulate(
                chosen, traffic, slo=bounds, router=router, seed=seed, assume=assume or load_assumed(deployment),
                calibration=calibration or load_calibration_of(deployment),
            )  # fmt: skip

        start = (rate_of(recorded) if recorded is not None else 0.0) or 1.0
        found = find(play, "users" if users else "rate", start=start)
    if output == "table":
        _print(found, str(chosen), str(bounds))
        return
    summary = {
        "inputs": {
            "deployment": chosen.model_dump(mode="json"), "devices": chosen.devices, "slo": str(bounds), "seed": seed,
            "trace": str(trace) if trace else None, "workload": workload,
        },
        **found.summary(),
    }  # fmt: skip
    emit({**summary, "wall": {"total_s": time.perf_counter() - began}}, output)


def _bounds(source: Source, text: str | None) -> Slo:
    """The SLO of all requests; it may bind nothing where a class has one of its own."""
    bounds, described = source.slo(text), source.described()
    own = any(one.slo for one in (*source.told, *(described.promised if described else ())))
    if bounds.ttft is None and bounds.tpot is None and not own:
        raise SpecError(
            "is missing", where="--slo", hint='capacity is the most within an SLO, such as "ttft=2s,tpot=50ms"'
        )
    return bounds


def _print(found: Capacity, deployment: str, slo: str) -> None:
    from tokenworks.simulation.capacity import UNITS

    best, failed, unit = found.best, found.failed, UNITS[found.kind]
    out = console()
    out.print(
        f"{deployment} holds {best.load:.4g} {unit} within {slo}: {best.output_tok_s_per_device:,.1f} output, "
        f"{best.effective_tok_s_per_device:,.1f} effective tokens/s per device; at {failed.load:.4g} it misses "
        f"{', '.join(failed.missed)}",
        soft_wrap=True,
    )
    columns: dict[str, Literal["left", "right"]] = {unit: "right"}
    numbers = ("TTFT [ms]", "TPOT [ms]", "served/s", "output/device", "effective/device")
    columns |= {**dict.fromkeys(numbers, "right"), "missed": "left"}
    out.print(table("", columns, [_row(one) for one in found.tries]))
    out.print("TTFT and TPOT at the percentiles of the SLO")


def _row(one: Try) -> list[str]:
    seen = ["-" if value is None else shown(value) for value in (one.ttft_ms, one.tpot_ms)]
    rates = (one.output_tok_s_per_device, one.effective_tok_s_per_device)
    served = f"{one.request_throughput:.4g}"
    return [f"{one.load:.4g}", *seen, served, *(f"{rate:,.1f}" for rate in rates), ", ".join(one.missed)]
