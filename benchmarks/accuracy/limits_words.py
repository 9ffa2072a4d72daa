"""The section of the accuracy page about the best that a prediction can reach."""

from __future__ import annotations

from benchmarks.accuracy.history import Figures, result
from benchmarks.accuracy.markdown import kind_words, percent, signed, table

INTRODUCTION = """## How well can a prediction be?
The frontiers above are computed again with changed predictions, to find where their error comes from. All errors are
medians. "Without the median error of each group" divides the predictions of a group by its median ratio to measured
values. "Software stack" is one device, engine, model and dtype of the weights, with or without MTP, aggregated or
disaggregated. What its median error holds is what no point states: the version of the engine, its kernels for this
model, and its settings. The calibration has a [factor](calibration.md#software-stacks) for each engine with a model on
a device. "By the other splits": each point has the factor that all other splits of its stack give, so that the factor
has not seen it.
"""


def limits(figures: Figures) -> str:
    """Causes of the frontier's error, and what repeated measurements differ by; "" without figures."""
    told = result(figures, "limits")
    if not told:
        return ""
    text = INTRODUCTION + table(("predictions", "throughputs", "frontier", "ratio of two devices"), _causes(told))
    return text + _factors(told) + _beside(told) + _stacks(told) + _invented(told) + _repeats(told)


def _causes(told: Figures) -> list[list[str]]:
    rows = [
        ("as they are", told["as_predicted"]),
        ("with factors of software stacks by the other splits", told["by_other_splits"]),
        ("without factors of software stacks", told["without_factors"]),
        ("TPOT as measured", told["true_tpot"]),
    ]
    rows += [(f"without the median error of each {name}", one) for name, one in told["without"].items()]
    rows.append(("measured values, with only the median error of each software stack", told["only_software"]))
    rows += told["parts"].items()
    return [[name, *_cells(one)] for name, one in rows]


def _factors(told: Figures) -> str:
    rows = [[kind_words(name) if name else "all", *map(percent, medians)] for name, medians in told["kinds"].items()]
    columns = ("TPOT: median", "without factors of software stacks", "by the other splits", "as they are")
    return table(columns, rows)


def _cells(one: Figures | None) -> list[str]:
    if not one:
        return ["", "", ""]
    return [f"{one['n']:,}", percent(one["median_ape"]), percent(one["ratio_median_ape"])]


def _beside(told: Figures) -> str:
    whole, points, choice = told["as_predicted"], told["at_measured_points"], told["choice"]
    engine, same = percent(choice["same_engine"], 0), percent(choice["same_split"], 0)
    return (
        f"\nBetween sparse points, frontiers are interpolated. At the speeds of the {points['n']:,} measured Pareto "
        f"points, where nothing measured is interpolated, the median error is {percent(points['median_ape'])} "
        f"(at the fixed speeds {percent(whole['median_ape'])}).\n"
        f"\nChoice: at {choice['n']:,} speeds of a machine, two or more choices of engine, split and dtype reach the "
        f"speed. At {engine} of these speeds, the predicted best choice has the engine of the measured best one. At "
        f"{same}, both are the same choice. What the predicted choice gave, measured, was less than the best by "
        f"{percent(choice['lost_median'], 0)} in the median, {percent(choice['lost_mean'], 0)} in the mean, and "
        f"{percent(choice['lost_p90'], 0)} at the 90th percentile.\n"
    )


def _stacks(told: Figures) -> str:
    rows = [
        [one["stack"], kind_words(one["kind"]), f"{one['n']:,}", percent(one["median_ape"]), signed(one["bias"])]
        for one in told["stacks"]
    ]
    return (
        "\nThe software stacks whose median error, times their points, is largest "
        "([what is known](calibration.md#remaining-errors-and-their-causes)):\n"
        + table(("software stack", "points", "n", "TPOT median", "bias"), rows)
    )


def _invented(told: Figures) -> str:
    rows = [
        [percent(float(name), 0), percent(one["median_ape"]), percent(one["ratio_median_ape"])]
        for name, one in told["invented"].items()
    ]
    return (
        "\nAn error of TPOT counts about twice on a frontier: a slower step needs a smaller batch for the same speed. "
        "If the only error was one random factor for each software stack:\n"
        + table(("error of TPOT (standard deviation)", "frontier", "ratio of two devices"), rows)
    )


def _repeats(told: Figures) -> str:
    again = told["repeats"]
    if not again:
        return "\nRepeated measurements were not compared: the package with kernel tables is not installed.\n"
    rows = [
        ["one dated run, against the table", *_row(again, "table")],
        ["two runs on different days", *_row(again, "days")],
        ["two versions of the engine", *_row(again, "versions")],
    ]
    columns = ("the same configuration, measured twice", "pairs", "TPOT: median", "mean", "throughputs", "frontier",
               "ratio", "our error there: frontier", "ratio")  # fmt: skip
    return (
        f"\n**Repeats.** {again['points']:,} of these points were measured again: the kernel package "
        "`aiconfigurator-core` has single runs with their dates. One run is scored as a prediction of the other one. "
        "The table often holds the dated run itself, so the first line is a lower bound. A predictor that does not "
        "know the version of the engine cannot be better than two versions agree; the table of random factors above "
        "says what such a difference costs on frontiers.\n" + table(columns, rows)
    )


def _row(again: Figures, name: str) -> list[str]:
    pairs = again[name]
    cells = [f"{pairs['n']:,}", percent(pairs["median"]), percent(pairs["mean"])] if pairs else ["0", "", ""]
    return cells + _cells(again.get(f"{name}_frontier")) + _cells(again.get(f"{name}_ours"))[1:]
