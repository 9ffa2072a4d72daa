"""docs/accuracy.md from the figures of docs/accuracy.json. Equal figures give equal text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.accuracy import beside
from benchmarks.accuracy.history import (
    LARGE,
    METRICS,
    WORSE,
    Figures,
    Target,
    changes,
    left_out,
    result,
    targets,
)
from benchmarks.accuracy.limits_words import limits
from benchmarks.accuracy.markdown import factor, kind_words, percent, signed, table, wrapped
from benchmarks.accuracy.reasons import reasons

ABLATED = 0.0005
"""Constants whose ablation costs less mean error than this are not listed [-]."""

NEARLY_ALL = "load", "other"
"""The group of frontiers that has all points but the experimental ones: it is not listed."""

HEAD = """# How accurate are predictions?

<!-- `make accuracy DATA=FOLDER` writes this page. Do not edit it. -->

`tokenworks validate --data POINTS.csv` simulates each measured point with its own load and compares. This page has the
errors. One command writes it from the results: `make accuracy DATA=FOLDER`. Three pages explain the figures:

- [Calibration](calibration.md): the measured points, the rules for what a point does not state, the constants and how
  they are fitted, the kernel tables, the intervals, and the causes of the remaining errors.
- [The card of the scaleX40](hygon.md): public kernel tables of Hygon cards, and what was predicted before they were
  known.
- [Comparison with other tools](peers.md).

The error of a point is predicted / measured - 1. "Median" is the median of the error without its sign, "mean" is its
mean. The bias is the median of the error with its sign. "Inside" is the share of measured values inside their predicted
80 % interval.
"""


def page(figures: Figures) -> str:
    """The page.

    Parameters
    ----------
    figures : what `collect` gathered, and the older figures that the page compares with
    """
    parts: list[Callable[[Figures], str]] = [
        _made, _targets, _changes, _points, _frontier, limits, _left_out, _intervals, _constants, _without_points,
        _energy, beside.far, beside.production, beside.machines, beside.baselines, beside.peer,
    ]  # fmt: skip
    texts = [HEAD, *(part(figures) for part in parts)]
    return wrapped("\n\n".join(text.rstrip() for text in texts if text) + "\n")


# ── sections ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _made(figures: Figures) -> str:
    own, made = figures["calibration"], figures["made"]
    files = [
        [f"`{name}`", f"{one['rows']:,}", f"`{one['sha256'][:16]}`"] for name, one in sorted(figures["data"].items())
    ]
    fitted = f"Calibration: `{own['name']}`, fitted on `{own['fitted_on']}`, {own['constants']} constants, file "
    return f"Written on {made['date']} with commit {made['commit']}. {fitted}`{own['file_sha256'][:16]}`.\n" + table(
        ("file", "rows", "SHA-256"), files
    )


def _targets(figures: Figures) -> str:
    every = targets(figures)
    rows = [[one.what, _bounds(one), _reached(one), _met(one)] for one in every]
    more = (
        "\n[Causes](calibration.md#remaining-errors-and-their-causes) and [what was "
        "tried](calibration.md#tried-and-not-taken) have the details.\n"
    )
    missed = [one for one in every if one.met is False]
    return "## Targets\n" + table(("figure", "target", "now", ""), rows) + (reasons(missed) + more if missed else "")


def _bounds(one: Target) -> str:
    if one.least is None:
        return f"at most {percent(one.most, 0)}" if one.most else "none"
    if one.most is None:
        return f"at least {percent(one.least, 0)}"
    return f"{percent(one.least, 0)} to {percent(one.most, 0)}"


def _reached(one: Target) -> str:
    if not one.values:
        return "not computed"
    if list(one.values) == [""]:
        return percent(one.values[""]) if one.most != 0 else "none"
    if one.most == 0:
        return f"{len(one.values)} groups, see below"
    low, high = min(one.values.values()), max(one.values.values())
    out = ", ".join(f"{name} {percent(value, 0)}" for name, value in sorted(one.missed.items()))
    return f"{percent(low, 0)} to {percent(high, 0)}" + (f"; outside: {out}" if out else "")


def _met(one: Target) -> str:
    return {None: "", True: "met", False: "**missed**"}[one.met]


def _changes(figures: Figures) -> str:
    before = figures.get("before")
    if not before:
        return "## What got worse\nThere are no earlier figures to compare with."
    worse, better = changes(figures)
    bound = f"by more than {100 * WORSE:g} points"
    text = (
        f"## What got worse\nCompared with the page of {before['date']} (commit {before['commit']}): groups of "
        f"{LARGE} or more points whose median error changed {bound}.\n"
    )
    columns = ("group", "n", "median before", "median now")

    def rows(changed: Iterable[Figures]) -> list[list[str]]:
        return [[one["group"], f"{one['n']:,}", percent(one["before"]), percent(one["now"])] for one in changed]

    text += table(columns, rows(worse)) if worse else f"\nNo group got worse {bound}.\n"
    return text + ("\nGroups that got better:\n" + table(columns, rows(better)) if better else "")


def _points(figures: Figures) -> str:
    dev = result(figures, "dev")
    skipped = " ".join(_skipped(one) for one in dev["skipped"])
    text = (
        f"## Errors of single points\n{dev['covered']:,} of {dev['points']:,} points of `serving_dev.csv` are "
        f"predicted. {skipped}The calibration was fitted on these points, so these errors are in sample; "
        "[left-out systems](#transfer-to-devices-that-were-not-measured) are below.\n"
    )
    kinds = [("all", dev), *sorted(dev["by"]["kind"].items(), key=_largest)]
    kinds.append(("disagg EP > 8", dev["wide_disaggregated"]))
    text += _errors_table("points", [(kind_words(name), group) for name, group in kinds])
    text += (
        "\nStarved: the measured throughput is below half of Little's law, so the devices wait for something that is "
        "not modelled.\n"
    )
    for title, grouping in (("system", "system"), ("engine", "engine"), ("model and weights", "model")):
        groups = sorted(dev["by"][grouping].items(), key=_largest)
        text += f"\nBy {title}:\n" + _errors_table(title, groups)
    ttft = [
        [
            kind_words(name),
            f"{one['n']:,}",
            percent(one["median_ape"]),
            signed(one["bias"]),
            percent(one["inside_interval"], 0),
        ]
        for name, group in kinds
        if (one := group.get("ttft"))
    ]
    columns = ("points with TTFT", "n", "median", "bias", "inside")
    return text + "\nTime to first token:\n" + table(columns, ttft)


def _skipped(one: Figures) -> str:
    return f"{one['count']} are not: {one['reason']} ({one['examples'][0]}). "


def _largest(item: tuple[str, Figures]) -> tuple[int, str]:
    counts = [item[1][metric]["n"] for metric in METRICS if item[1].get(metric)]
    return -max(counts, default=0), item[0]


def _errors_table(first: str, groups: Iterable[tuple[str, Figures]]) -> str:
    rows = []
    for name, group in groups:
        tpot, rate = group["tpot"], group["tok_s_per_device"]
        counts = [one["n"] for one in (tpot, rate) if one]
        if not counts:
            continue
        times = ["median_ape", "mape", "bias", "inside_interval"]
        cells = [_in_words(what, tpot) for what in times] + [_in_words(what, rate) for what in times[::3]]
        rows.append([name, f"{max(counts):,}", *cells])
    columns = (first, "n", "TPOT median", "mean", "bias", "inside", "tok/s/device median", "inside")
    return table(columns, rows)


def _in_words(what: str, one: Figures | None) -> str:
    """One statistic of an error; "" without points."""
    if not one:
        return ""
    return signed(one[what]) if what == "bias" else percent(one[what], 0 if what == "inside_interval" else 1)


def _frontier(figures: Figures) -> str:
    frontier = result(figures, "dev")["frontier"]
    whole, ratio = frontier["tok_s_per_device"], frontier["ratio"]
    if not whole:
        return ""
    speeds = ", ".join(f"{speed:g}" for speed in frontier["tok_s_user"])
    text = (
        "## Frontier: throughput at equal speed\n"
        "A choice of machines needs the highest throughput of a device at a given speed per user. `validate` builds "
        "this frontier for each device from measured points, and once more from the predictions of the same points. "
        "[Calibration](calibration.md#frontier) has the rules. "
        f"Speeds: {speeds} tok/s per user. {frontier['machines']} frontiers. {frontier['unreached']} throughputs are "
        "left out, because only the measured frontier reaches the speed.\n"
    )
    names = {"system": "{}", "model": "{}", "engine": "{} alone", "mtp": "{}", "load": "{}",
             "tok_s_user": "{} tok/s per user"}  # fmt: skip
    groups = [("all", whole)]
    for grouping, label in names.items():
        members = frontier["by"].get(grouping, {}).items()
        groups += [(label.format(kind_words(name)), one) for name, one in members if (grouping, name) != NEARLY_ALL]
    rows = [
        [name, str(one["n"]), percent(one["median_ape"], 0), percent(one["p90_ape"], 0), signed(one["bias"]),
         percent(one["inside_interval"], 0)]
        for name, one in groups
    ]  # fmt: skip
    text += table(("frontier", "n", "median", "90th percentile", "bias", "inside"), rows)
    if not ratio["all"]:
        return text
    pairs = {"all": ratio["all"], **ratio["by_pair"]}
    lines = [
        [name, str(one["n"]), percent(one["median_ape"], 0), percent(one["p90_ape"], 0), signed(one["bias"]),
         percent(one["in_order"], 0), percent(one["clear_in_order"], 0)]
        for name, one in pairs.items()
    ]  # fmt: skip
    columns = ("ratio of two devices", "n", "median", "90th percentile", "bias", "faster device right",
               f"right beyond {ratio['clear_ratio']:g}x")  # fmt: skip
    return text + "\nThe ratio of two devices at equal speed per user:\n" + table(columns, lines)


def _left_out(figures: Figures) -> str:
    section = result(figures, "left_out_systems")
    without = " and without the kernel tables of that system" if section and section["kernels"] else ""
    text = (
        "## Transfer to devices that were not measured\n"
        f"The points of each system are predicted by a fit without these points{without}. "
        '"Before the fit" is the error of the calibration that the fit starts from.\n'
    )
    if section and not section["kernels"]:
        text += "The fits start from kernel tables of all systems; `KERNELS=1` leaves out those of the system, too.\n"
        text += "Points that their authors call an experiment are in no fit, and do not count in this table.\n"
    text += (
        "The intervals are those that the other systems give (from the calibration file). The factor is for points "
        "without MTP; the needed factor and the share inside are of all points.\n"
    )
    shipped = {one["group"]: one for one in figures["calibration"]["left_out"]}
    law = {name: {key: one[key] for key in ("spread", "covered") if key in one} for name, one in shipped.items()}
    groups = [one | law.get(one["group"], {}) for one in left_out(figures)]
    text += _stale(figures, "left_out_systems") + _left_table("left-out system", groups)
    if models := result(figures, "left_out_models"):
        text += "\nThe same with models left out:\n" + _stale(figures, "left_out_models")
        text += _left_table("left-out model", sorted(models["groups"], key=lambda one: -one["median_ape"]))
    return text


def _left_table(first: str, groups: Sequence[Figures]) -> str:
    rows = [
        [one["group"], f"{one['n']:,}", percent(one["before_median_ape"]), percent(one["median_ape"]),
         signed(one["bias"]), factor(one.get("spread")), factor(one.get("needed")), percent(one.get("covered"), 0)]
        for one in groups
    ]  # fmt: skip
    columns = (first, "points", "before the fit", "median", "bias", "80 % interval (factor)", "needed factor", "inside")
    return table(columns, rows)


def _stale(figures: Figures, name: str) -> str:
    """A remark if a section was computed with other code than the rest of the page; or not at all."""
    section = figures.get(name) or {}
    if not section:
        return "(From the calibration file. `make accuracy DATA=FOLDER FULL=1` repeats the fits.)\n"
    if section["source"] == figures["dev"]["source"]:
        return ""
    return (
        f"(Computed on {section['date']} with commit {section['commit']}, which is older than the rest of this page.)\n"
    )


def _intervals(figures: Figures) -> str:
    own = figures["calibration"]
    text = (
        "## Intervals\nShare of measured values inside their predicted 80 % interval, by device: in sample, and of "
        "left-out systems with the intervals that the other systems give (from the calibration file).\n"
    )
    dev, unseen = result(figures, "dev"), {one["group"]: one for one in own["left_out"]}
    rows = []
    for name, group in sorted(dev["by"]["system"].items()):
        frontier = dev["frontier"]["by"].get("system", {}).get(name)
        cells = [
            percent(one["inside_interval"], 0) if one else "" for one in (group["tpot"], group["tok_s_per_device"])
        ]
        cells.append(percent(frontier["inside_interval"], 0) if frontier else "")
        if any(cells):
            rows.append([name, *cells, percent(unseen.get(name, {}).get("covered"), 0),
                         percent(unseen.get(name, {}).get("throughput_covered"), 0)])  # fmt: skip
    text += table(("device", "TPOT", "tok/s/device", "frontier", "TPOT, left out", "frontier, left out"), rows)
    if spreads := own["throughput_spread"]:
        lines = [[name, factor(one["factor"]), one["source"]] for name, one in spreads.items()]
        text += (
            "\nThe interval of throughput at equal speed is a factor that grows with the distance of a device from "
            "measured points:\n" + table(("distance of the measured points", "factor", "source"), lines)
        )
    numbers = {
        "Correlation of the errors of two devices at equal speed": own["throughput_correlation"],
        "Widening of an interval with MTP (as a logarithm)": own["draft_widening"],
        "Factor of the interval of TTFT, for all devices": own["ttft_spread"],
    }
    told = [f"- {name}: {value:g}" for name, value in numbers.items() if value is not None]
    return text + ("\n" + "\n".join(told) + "\n" if told else "")


def _constants(figures: Figures) -> str:
    own, fit = figures["calibration"], result(figures, "fit")
    text = (
        f"## Constants\nThe default calibration has {own['constants']} constants that were fitted on serving points.\n"
    )
    if not fit:
        return text
    rows = [[one["without"], f"{100 * one['mape_lost']:.2f}"] for one in fit["ablation"] if one["mape_lost"] >= ABLATED]
    small = len(fit["ablation"]) - len(rows)
    before, after = fit["tpot_before"], fit["tpot_in_sample"]
    return (
        text + _stale(figures, "fit")
        + f"In a fit of {fit['constants']} constants, the median TPOT error of {after['n']:,} closed loops falls from "
        f"{percent(before['median_ape'])} to {percent(after['median_ape'])} (mean {percent(before['mape'])} to "
        f"{percent(after['mape'])}). Ablation: one constant returns to its prior, the others stay as fitted. Increase "
        "of the mean error in percentage points:\n" + table(("constant", "increase"), rows)
        + f"\nThe other {small} constants cost less than {100 * ABLATED:g} each.\n"
    )  # fmt: skip


def _without_points(figures: Figures) -> str:
    dev = result(figures, "datasheet")
    if not dev:
        return ""
    kinds = [(kind_words(name), one) for name, one in sorted(dev["by"]["kind"].items(), key=_largest)]
    systems = sorted(dev["by"]["system"].items(), key=_largest)
    groups = [("all", dev), *kinds, *systems]
    large = [(name, one) for name, one in groups if one["tpot"] and one["tpot"]["n"] >= LARGE]
    return (
        "## Without any serving point\nThe calibration `datasheet` has kernel tables and datasheets only. Groups of "
        f"{LARGE} or more points:\n" + _errors_table("points", large)
    )


def _energy(figures: Figures) -> str:
    dev, fit = result(figures, "dev"), result(figures, "fit")
    if not dev["energy"]:
        return ""
    groups = [("all", dev), *sorted(dev["by"]["system"].items(), key=_largest)]
    groups += [(kind_words(name), one) for name, one in sorted(dev["by"]["kind"].items(), key=_largest)]
    rows = [
        [name, f"{one['n']:,}", percent(one["median_ape"]), percent(one["mape"]), signed(one["bias"]),
         percent(one["inside_interval"], 0)]
        for name, group in groups
        if (one := group.get("energy"))
    ]  # fmt: skip
    text = "## Energy\nJoules per output token. They contain the error of TPOT and the error of power.\n"
    text += table(("points with energy", "n", "median", "mean", "bias", "inside"), rows)
    power = fit and fit["power"]
    if not power:
        return text
    lines = [
        [one["group"], str(one["n"]), percent(one["median_ape"], 0), signed(one["bias"])]
        for one in power["left_out_systems"]
    ]
    text += (
        f"\nMean power of {power['n']} points has a median error of {percent(power['median_ape'])} in sample, by "
        "the same shares of TDP for all devices. Each device left out of the fit:\n"
        + _stale(figures, "fit") + table(("power", "n", "median", "bias"), lines)
    )  # fmt: skip
    families = [
        [name, str(one["n"]), percent(one["median_ape"]), percent(one["models_left_out"])]
        for name, one in power.get("families", {}).items()
    ]
    if not families:
        return text
    heads = ("power, shares of the family", "n", "median", "models left out: median")
    return text + "\nFamilies with several measured models have shares of their own:\n" + table(heads, families)
