"""docs/published.md from its figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.accuracy.markdown import number, signed, table, wrapped
from benchmarks.published.cases import CASES, NOT_PREDICTED, Case

Figures = dict[str, Any]

COLUMNS = ("figure", "split and load", "published", "predicted", "80 % interval", "inside", "error", "grade")
LEFT_OUT_CASE = "blackwell"


def page(figures: Figures) -> str:
    """The page.

    Parameters
    ----------
    figures : what docs/published.json holds
    """
    return wrapped("\n".join([_top(figures), *(_section(case, figures) for case in CASES), _not_predicted()]))


def _top(figures: Figures) -> str:
    calibration = figures["calibration"]
    held = "is the same" if calibration["held"] else "**has changed since; predict again**"
    cells = [cell for case in CASES for cell in _cells(case, figures["predictions"][case.id])]
    inside = sum(cell[5] == "yes" for cell in cells)
    return (
        "# Predictions beside published figures\n\n"
        "<!-- `python -m benchmarks.published` writes this page. Do not edit it. -->\n\n"
        "What operators, vendors and benchmarks published about whole machines, beside what this product predicts with the "
        "publisher's own split, batch, lengths, draft tokens and cache hits. No constant was fitted on these figures, and none "
        "was changed after a look at them. Misses stay here, with their reason.\n\n"
        f"Calibration: `{calibration['name']}` as of commit {calibration['frozen']} (sha256 {calibration['sha256'][:12]}); the "
        f"file of today {held}. Predicted on {figures['date']}. "
        f"{len(cells)} figures, {inside} of them inside the 80 % interval of their prediction. Throughput and TPOT of the "
        "same run are one prediction, not two; and an interval with the grade `datasheet` is wide.\n\n"
        "`python -m benchmarks.published` makes this page again, in about half a minute. "
        "`python -m benchmarks.published --left-out FILE` also predicts GB200 and B200 with a calibration that has not seen them "
        "([how to make it](#gb200-nvl72-against-b200-deepseek-r1-in-fp8-8192--1024)). The figures are in `docs/published.json`, "
        "too.\n"
    )


def _section(case: Case, figures: Figures) -> str:
    parts = [
        f"## {case.title}\nSource: {case.source}.\n" + table(COLUMNS, _cells(case, figures["predictions"][case.id])),
        _left_out(case, figures) if case.id == LEFT_OUT_CASE else "",
        "```console\n" + "".join(f"$ {command}\n" for command in case.commands) + "```\n",
        _points("How the figures are read:", case.reading),
        _points("Assumed, because the source does not state it:", case.assumed),
        _points("Why predictions differ:", case.misses),
    ]
    return "\n".join(part for part in parts if part)


def _points(title: str, points: tuple[str, ...]) -> str:
    return f"{title}\n\n" + "".join(f"- {point}{'' if point.endswith('.') else '.'}\n" for point in points)


def _cells(case: Case, predictions: Figures) -> Iterator[list[str]]:
    """The rows of a table of figures."""
    for figure in case.figures:
        one = predictions[figure.id]
        inside = one["low"] <= figure.value <= one["high"]
        yield [
            figure.what, figure.at, f"{number(figure.value)} {figure.unit}", number(one["value"]),
            f"{number(one['low'])} to {number(one['high'])}", "yes" if inside else "no",
            signed(one["value"] / figure.value - 1), one["grade"],
        ]  # fmt: skip


def _left_out(case: Case, figures: Figures) -> str:
    """The same figures, by calibrations without both systems."""
    tables = [
        f"Without them in the fit: fitted on {', '.join(told['devices'])} of {told['fitted_on']} (sha256 "
        f"{told['data_sha256'][:12]}), {_kernels(told['kernels'])}.\n" + table(COLUMNS, _cells(case, told["predictions"]))
        for told in figures["left_out"]
    ]
    return (
        "### With both systems left out of the fit\n"
        + "\n".join(tables or ["Not predicted yet.\n"])
        + "\nHow such a calibration is made, from measured points that are not part of the repository. With `--kernels "
        "default` (it needs `tokenworks[kernels]`), kernels measured on both cards are left out, too:\n\n"
        "```console\n"
        "$ tokenworks calibrate --data serving_dev.csv --without gb200 --without b200 --out without.yaml\n"
        "$ python -m benchmarks.published --left-out without.yaml\n```\n\n### Both\n"
    )


def _kernels(of: list[str]) -> str:
    return f"with single kernels measured on {' and '.join(of)}" if of else "and without kernels measured on them"


def _not_predicted() -> str:
    return "## Published figures without a prediction\n" + table(("figure", "why not"), NOT_PREDICTED)
