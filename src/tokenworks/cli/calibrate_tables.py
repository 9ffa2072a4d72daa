"""The tables that `tokenworks calibrate` prints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tokenworks.cli.output import console
from tokenworks.cli.tables import Columns, print_table
from tokenworks.specs.software import times_words

if TYPE_CHECKING:
    from tokenworks.calibrate.kernels.fit import KernelFit

LISTED = 12
AGAINST_PRIOR = "\nfitted constants / their prior"


def print_fit(plain: dict[str, Any]) -> None:
    """Print the constants of a fit, its errors on points and systems that it has not seen, and its intervals."""
    out = console()
    before, after = plain["tpot_before"], plain["tpot_in_sample"]
    out.paragraph(
        f"{plain['constants']} constants on {after['n']:,} points of {plain['fitted_on']}: median TPOT error "
        f"{100 * before['median_ape']:.1f} % before, {100 * after['median_ape']:.1f} % in sample"
    )
    rows = [[name, f"{value:.2f}"] for name, value in plain["factors"].items() if abs(value - 1) > 0.005]
    print_table(out, {"constant": "left", "x": "right"}, rows, title=AGAINST_PRIOR)
    if plain["left_out_systems"]:
        print_left(plain["left_out_systems"])
    print_distances(plain)
    print_software(plain)
    if power := plain["power"]:
        left = ", ".join(f"{one['group']} {100 * one['median_ape']:.0f} %" for one in power["left_out_systems"])
        out.paragraph(
            f"\nmean power of {power['n']} points: {power['idle']:g} of TDP idle, {power['compute']:g} more at the "
            f"compute roof, {power['hbm']:g} at the HBM roof; median error {100 * power['median_ape']:.1f} % in "
            f"sample, left out {left or 'none'}"
        )
        _print_power(power["families"])
    if "ablation" in plain:
        lost = [[r["without"], f"{100 * r['mape_lost']:+.2f} %"] for r in plain["ablation"][:LISTED]]
        print_table(out, {"constant": "left", "more": "right"}, lost, title="\nmean error without each constant")


def print_own(plain: dict[str, Any]) -> None:
    """Print the constants and the errors of a fit on a machine of one's own."""
    out = console()
    out.paragraph(f"{plain['constants']} constants on {plain['fitted_on']}\n")
    stages = {"before": "before", "fitted": "in_sample", "each point left out": "left_out"}
    rows = [
        [label, *(_median(plain[f"{metric}_{stage}"]) for stage in stages.values())]
        for metric, label in (("tpot", "TPOT"), ("ttft", "TTFT"))
    ]
    print_table(out, {"median error": "left", **dict.fromkeys(stages, "right")}, rows)
    turned = [[name, f"{value:.2f}"] for name, value in plain["factors"].items() if abs(value - 1) > 0.005]
    print_table(out, {"constant": "left", "x": "right"}, turned, title=AGAINST_PRIOR)
    for family, spread in plain["spreads"].items():
        out.paragraph(f"80 % interval of {family}: a factor of {spread:g}")


def print_left(groups: list[dict[str, Any]]) -> None:
    """Print the errors of groups that were left out of the fit, one at a time."""
    rows = [
        [g["group"], str(g["n"]), f"{100 * g['before_median_ape']:.1f} %", f"{100 * g['median_ape']:.1f} %",
         f"{100 * g['bias']:+.0f} %", f"{g['spread']:.2f}", f"{g['needed']:.2f}", f"{100 * g['covered']:.0f} %"]
        for g in groups
    ]  # fmt: skip
    columns: Columns = {
        "left out": "left", "points": "right", "prior": "right", "median error": "right", "bias": "right",
        "80 % interval": "right", "needed": "right", "covers": "right",
    }  # fmt: skip
    title = "\nerrors of each group, with a fit on the other groups"
    print_table(console(), columns, rows, title=title, spare=("needed", "prior", "bias"))


def print_distances(plain: dict[str, Any]) -> None:
    """Print the interval factors by distance, their growth, their coverage, and the correlation of errors."""
    from tokenworks.specs.interval import DISTANCES

    out = console()
    rows = [
        [f"{distance}{of}", *(_factor(law.get(distance)) for law in laws)]
        for of, *laws in (
            *((f", {vendor}", one["tpot"], one["throughput"]) for vendor, one in plain["vendor_spread"].items()),
            ("", plain["tpot_spread"], plain["throughput_spread"]),
        )
        for distance in DISTANCES
        if any(distance in law for law in laws)
    ]
    columns: Columns = {"distance": "left", "TPOT": "right", "throughput at equal speed": "right"}
    print_table(out, columns, rows, title="\n80 % interval as a factor, by distance of the measured points")
    growth = plain["spread_growth"]
    out.paragraph(
        f"both x r^{growth['slope']:g} on a device whose FLOP per byte are r times, or 1/r, of those of the nearest "
        f"measured device (measured pairs reach r = {math.exp(growth['reach']):.2f}), and x {growth['dtype']:g} for "
        "each of FP4 and FP8 that no measured device has"
    )
    if plain["left_out_intervals"]:
        _print_coverage(plain["left_out_intervals"])
    if (correlation := plain["throughput_correlation"]) is not None:
        out.paragraph(f"errors of two devices at equal speed per user: correlation {correlation:.2f}")


def _print_coverage(left_out: list[dict[str, Any]]) -> None:
    """Print the coverage of the intervals of left-out systems, each by the law of the other systems."""
    rows = [
        [one["system"], one["distance"], *(cell for metric in ("tpot", "throughput") for cell in _covered(one[metric]))]
        for one in left_out
    ]
    columns: Columns = {
        "left out": "left", "distance": "left", "TPOT": "right", "covers": "right",
        "throughput at equal speed": "right", "covers throughput": "right",
    }  # fmt: skip
    print_table(console(), columns, rows, title="\nintervals of left-out systems, from the errors of the other systems")


def _covered(one: dict[str, Any] | None) -> list[str]:
    return ["", ""] if one is None else [f"{one['spread']:.2f}", f"{100 * one['covered']:.0f} % of {one['n']}"]


def print_software(plain: dict[str, Any]) -> None:
    """Print the software stacks with the largest factors, and the errors on splits that the factors have not seen."""
    stacks = sorted(plain["software"], key=lambda one: -max(abs(math.log(time)) for time in one["time"].values()))
    rows = [
        [one["device"], one["engine"], one["model"], one["weights"], "yes" if one["drafts"] else "no",
         times_words(one["time"]), str(one["points"]), str(one["splits"])]
        for one in stacks[:LISTED]
    ]  # fmt: skip
    columns: Columns = {
        "device": "left", "engine": "left", "model": "left", "weights": "left", "MTP": "left", "step time x": "right",
        "points": "right", "splits": "right",
    }  # fmt: skip
    title = f"\nsoftware stacks with the largest factors, of {len(stacks)}"
    print_table(console(), columns, rows, title=title, spare=("splits", "weights"))
    if left := plain["tpot_software_left_out"]:
        console().paragraph(
            f"each split by the other splits of its stack: {left['n']:,} points, median TPOT error "
            f"{_median(left)} ({_median(plain['tpot_without_software'])} without these factors)"
        )


def _print_power(families: dict[str, dict[str, Any]]) -> None:
    rows = [
        [name, f"{one['n']:,}", f"{one['idle']:g}", f"{one['compute']:g}", f"{one['hbm']:g}",
         f"{100 * one['median_ape']:.1f} %", f"{100 * one['models_left_out']:.1f} %"]
        for name, one in families.items()
    ]  # fmt: skip
    columns: Columns = {
        "family": "left", "points": "right", "idle": "right", "compute": "right", "HBM": "right",
        "median error": "right", "models left out": "right",
    }  # fmt: skip
    if rows:
        print_table(console(), columns, rows, title="\nshares of TDP of one family, around those of all")


def print_kernels(fit: KernelFit) -> None:
    """Print the errors of kernels by a fit on kernel tables."""
    rows = [
        [one.family, one.operation, f"{one.rows:,}", f"{one.error:.2f}", f"{100 * one.bias:+.0f} %",
         ", ".join(f"{field} {written}" for field, written in one.written.items())]
        for one in fit.fitted
    ]  # fmt: skip
    columns: Columns = {
        "family": "left", "operation": "left", "rows": "right", "mean |log error|": "right", "bias": "right",
        "factors": "left",
    }  # fmt: skip
    print_table(console(), columns, rows, title=fit.calibration.fitted_on, wraps=("factors",))


def _median(error: dict[str, Any] | None) -> str:
    return f"{100 * error['median_ape']:.1f} %" if error else ""


def _factor(factor: float | None) -> str:
    return "" if factor is None else f"{factor:.2f}"
