"""docs/published.md from its figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.accuracy.markdown import number, signed, table, wrapped
from benchmarks.published.cases import Case, published

Figures = dict[str, Any]

COLUMNS = ("figure", "split and load", "published", "predicted", "80 % interval", "inside", "error", "grade")
LEFT_OUT_CASE = "blackwell"
FENCE = "```"


def page(figures: Figures) -> str:
    """The page.

    Parameters
    ----------
    figures : what docs/published.json holds
    """
    text = "\n".join([_top(figures), *(_section(case, figures) for case in published().cases), _not_predicted()])
    parts = text.split(FENCE)  # every second part stands between fences: lines of a console are not wrapped
    return FENCE.join(part if at % 2 else wrapped(part) for at, part in enumerate(parts))


def _top(figures: Figures) -> str:
    calibration = figures["calibration"]
    held = "is the same" if calibration["held"] else "**has changed since: predict again**"
    cells = [cell for case in published().cases for cell in _cells(case, figures["predictions"][case.id])]
    inside = sum(cell[5] == "yes" for cell in cells)
    return f"""# Predictions beside published figures

<!-- `python -m benchmarks.published` writes this page. Do not edit it. -->

What operators, vendors and benchmarks published about whole machines, beside what this product predicts with the \
publisher's own split, batch, lengths, draft tokens and cache hits. Misses stay here, with their reason. What was \
assumed is named.

No constant of the calibration was fitted on these figures but those of the first table of GB200 and B200, and none \
was changed after a look at them. The figures of CloudMatrix384 and of DeepSeek were known when earlier calibrations \
were made: the [accuracy page](accuracy.md#production-figures) had them before.

Calibration: `{calibration["name"]}` as of commit {calibration["frozen"]} (sha256 {calibration["sha256"][:12]}); the \
file of today {held}. Predicted on {figures["date"]}: {len(cells)} figures, {inside} of them inside the 80 % interval \
of their prediction. Throughput and TPOT of one run are one prediction, not two, and an interval with the grade \
`datasheet` is wide.

`python -m benchmarks.published` makes this page again in less than a minute. The figures are in \
`docs/published.json`, too.
"""


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
        told = [figure.what, figure.at, f"{number(figure.value)} {figure.unit}"]
        one = predictions.get(figure.id)
        if not one:
            yield [*told, "not reached", "", "no", "", ""]
            continue
        inside = one["low"] <= figure.value <= one["high"]
        interval = f"{number(one['low'])} to {number(one['high'])}"
        error = signed(one["value"] / figure.value - 1)
        yield [*told, number(one["value"]), interval, "yes" if inside else "no", error, one["grade"]]


HOW = """
How these calibrations are made, from measured points that are not part of the repository (six minutes each on one \
core). The second command needs `tokenworks[kernels]`:

```console
$ tokenworks calibrate --data serving_dev.csv --without gb200 --without b200 --out points.yaml
$ tokenworks calibrate --data serving_dev.csv --kernels default --without gb200 --without b200 --out kernels.yaml
$ python -m benchmarks.published --left-out points.yaml --left-out kernels.yaml
```

The configurations of both machines:
"""


def _left_out(case: Case, figures: Figures) -> str:
    """The same figures, by calibrations without both systems."""
    tables = [
        f"Fitted without them, on {', '.join(told['devices'])} of {told['fitted_on']} (sha256 "
        f"{told['data_sha256'][:12]}), {_kernels(told['kernels'])}:\n"
        + table(COLUMNS, _cells(case, told["predictions"]))
        for told in figures["left_out"]
    ]
    return "**Both systems left out of the fit.** " + "\n".join(tables or ["Not predicted yet.\n"]) + HOW


def _kernels(of: list[str]) -> str:
    return f"with single kernels measured on {' and '.join(of)}" if of else "without single kernels measured on them"


def _not_predicted() -> str:
    return "## Published figures without a prediction\n" + table(
        ("figure", "why not"), [(one.figure, one.why) for one in published().not_predicted]
    )
