"""`tokenworks calibrate`: fit a machine's factors on measured points, and show what they are worth elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from tokenworks.cli.inputs import compile_once, measured, progress
from tokenworks.cli.output import Output, Switch, console, emit, notes, table
from tokenworks.errors import SpecError

ABLATED = 12


def calibrate(
    *,
    data: Annotated[tuple[Path, ...], Parameter(negative=())],
    deployment: Path | None = None,
    prior: str = "datasheet",
    name: str = "mine",
    without: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    only_assumed: Switch = False,
    leave_out: Literal["system", "model"] | None = None,
    ablation: Switch = False,
    out: Path | None = None,
    output: Output = "table",
) -> None:
    """Fit a calibration on measured points: CSV files, or your own benchmark results on a deployment.

    Results of your own are fitted on TPOT and TTFT by simulation, and each point is left out once.

    Parameters
    ----------
    data
        CSV of measured points, or with --deployment a JSON result of vllm bench serve, AIPerf or GuideLLM; may be
        repeated.
    deployment
        YAML file of the deployment that the JSON results were measured on.
    prior
        Calibration to start from: a name of the catalog, or a YAML file.
    name
        Name of the calibration that is written.
    without
        A model whose times are not fitted on; may be repeated. Power is fitted on every point that carries energy.
    only_assumed
        Turn only what the prior assumes; leave what a kernel table measured as it is.
    leave_out
        Leave out each system, or each model, in turn, and print what the others predict of it; fits nothing else.
    ablation
        Print the error without each constant, too.
    out
        Write the calibration to this YAML file.
    output
        table, json or yaml.
    """
    from tokenworks.calibrate.calibrate import calibrate as run
    from tokenworks.calibrate.calibrate import calibrate_own, problem_of, write, write_own
    from tokenworks.calibrate.factors import factors_of
    from tokenworks.calibrate.leave import leave_out as leave
    from tokenworks.specs.calibration import load_calibration

    points, start = measured(data, deployment).points, load_calibration(prior)
    compile_once()
    with progress("calibrating") as say:
        if leave_out:
            problem = problem_of(points, start, without, say)
            left, _ = leave(problem, factors_of(problem.families, start, only_assumed=only_assumed), leave_out, say)
            found: dict[str, Any] = {"leave_out": leave_out, "groups": [one.plain() for one in left]}
        elif deployment:
            for option, given in (("--without", without), ("--only-assumed", only_assumed), ("--ablation", ablation)):
                if given:
                    raise SpecError("is for tables of points", where=option, hint="leave it out beside --deployment")
            own = calibrate_own(points, start, name=name, fitted_on=", ".join(path.name for path in data),
                                data_sha256=_sha256(data), say=say)  # fmt: skip
            found = own.summary()
            if out:
                write_own(own, out)
                notes().print(f"wrote {out}")
        else:
            made = run(points, start, name=name, fitted_on=", ".join(path.name for path in data),
                       data_sha256=_sha256(data), without=without, only_assumed=only_assumed, say=say)  # fmt: skip
            found = made.summary() | ({"ablation": made.ablation()} if ablation else {})
            if out:
                write(made, out)
                notes().print(f"wrote {out}")
    if output == "table":
        _print_left(found["groups"]) if leave_out else _print_own(found) if deployment else _print(found)
    else:
        emit(found, output)


def _sha256(data: tuple[Path, ...]) -> str:
    """Of all files, one after the other."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in data)).hexdigest()


def _print(found: dict[str, Any]) -> None:
    out = console()
    before, after = found["tpot_before"], found["tpot_in_sample"]
    out.print(
        f"{found['constants']} constants on {after['n']:,} points of {found['fitted_on']}: median TPOT error "
        f"{100 * before['median_ape']:.1f} % before, {100 * after['median_ape']:.1f} % in sample",
        soft_wrap=True,
    )
    rows = [[name, f"{value:.2f}"] for name, value in found["factors"].items() if abs(value - 1) > 0.005]
    out.print(table("constants against their prior", {"constant": "left", "x": "right"}, rows))
    if found["left_out_systems"]:
        _print_left(found["left_out_systems"])
    if power := found["power"]:
        left = ", ".join(f"{one['group']} {100 * one['median_ape']:.0f} %" for one in power["left_out_systems"])
        out.print(
            f"mean power of {power['n']} points: {power['idle']:g} of TDP idle, {power['compute']:g} more at the "
            f"compute roof, {power['hbm']:g} at the HBM roof; median error {100 * power['median_ape']:.1f} % in "
            f"sample, left out {left or 'none'}",
            soft_wrap=True,
        )
    if "ablation" in found:
        lost = [[r["without"], f"{100 * r['mape_lost']:+.2f} %"] for r in found["ablation"][:ABLATED]]
        out.print(table("mean error without", {"constant": "left", "more": "right"}, lost))


def _print_own(found: dict[str, Any]) -> None:
    out = console()
    out.print(f"{found['constants']} constants on {found['fitted_on']}", soft_wrap=True)
    stages = {"before": "before", "fitted": "in_sample", "each point left out": "left_out"}
    rows = [
        [label, *(_median(found[f"{metric}_{stage}"]) for stage in stages.values())]
        for metric, label in (("tpot", "TPOT"), ("ttft", "TTFT"))
    ]
    out.print(table("", {"median error": "left", **dict.fromkeys(stages, "right")}, rows))
    turned = [[name, f"{value:.2f}"] for name, value in found["factors"].items() if abs(value - 1) > 0.005]
    out.print(table("constants against their prior", {"constant": "left", "x": "right"}, turned))
    for family, spread in found["spreads"].items():
        out.print(f"80 % interval of {family}: a factor of {spread:g}")


def _median(one: dict[str, Any] | None) -> str:
    return f"{100 * one['median_ape']:.1f} %" if one else ""


def _print_left(groups: list[dict[str, Any]]) -> None:
    rows = [
        [g["group"], str(g["n"]), f"{100 * g['before_median_ape']:.1f} %", f"{100 * g['median_ape']:.1f} %",
         f"{100 * g['bias']:+.0f} %", f"{g['spread']:.2f}", f"{100 * g['covered']:.0f} %"]
        for g in groups
    ]  # fmt: skip
    heads = {"left out": "left", "points": "right", "prior": "right", "median error": "right", "bias": "right",
             "80 % interval": "right", "covers": "right"}  # fmt: skip
    console().print(table("fitted without it", heads, rows))  # type: ignore[arg-type]
