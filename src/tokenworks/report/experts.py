"""The experts on the page of a simulation: balance of the ranks over time, and what EPLB moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenworks.report.charts import time_chart
from tokenworks.report.content import ChartPart, Part, SectionPart, TablePart
from tokenworks.report.figures import figure
from tokenworks.report.strings import filled

Plain = Mapping[str, Any]
Words = Mapping[str, str]

TABLE_ROWS = 20
"""Most rows of a table of values over time [count]."""


def experts_sections(plain: Plain, words: Words) -> list[SectionPart]:
    """The section on experts; none if the popularity of the experts is not known.

    Parameters
    ----------
    plain : the simulation as plain data
    words : texts of the language
    """
    if "experts" not in plain:
        return []
    roles = plain["experts"]["roles"]
    parts: list[Part] = [_table(plain["experts"], words), *(_chart(role, words) for role in roles)]
    return [SectionPart("experts", words["experts"], tuple(parts))]


def _table(experts: Plain, words: Words) -> TablePart:
    headings = (
        words["role"], words["hottest_mean"], words["worst_layer"], words["without_eplb"], words["touched"],
        words["rebalances"], words["moved_inside"], words["moved_between"], words["paused"],
    )  # fmt: skip
    rows = tuple(
        (
            words.get(f"role_{role['role']}", role["role"]), figure(role["balance"], 3),
            figure(role["worst_balance"], 3), figure(role["plain_balance"], 3), figure(role["touched"], 3),
            figure(role["rebalances"]), figure(role["moved_inside_bytes"] / 1e9),
            figure(role["moved_between_bytes"] / 1e9), figure(role["pause_s"], 3),
        )
        for role in experts["roles"]
    )  # fmt: skip
    title = filled(words["experts_table"], load=str(experts["load"]))
    return TablePart(title, headings, rows, numbers=frozenset(range(1, len(headings))))


def _chart(role: Plain, words: Words) -> ChartPart:
    """Balance over time, with the balance of the first places beside it."""
    series = role["series"]
    own = words["with_eplb"] if role["eplb"] else words["as_placed"]
    values = {own: series["balance"], words["without_eplb"]: series["plain_balance"]}
    rows = [
        {"at": float(f"{at:.6g}"), "value": value, "series": name}
        for name, numbers in values.items()
        for at, value in zip(series["at_s"], numbers, strict=True)
    ]
    caption = filled(words["experts_chart"], role=words.get(f"role_{role['role']}", role["role"]))
    spec = time_chart(rows, list(values), words["hottest_mean"], words, caption, bound=False)
    count = len(series["at_s"])
    shown = min(count, TABLE_ROWS)
    numbers = [round(i * (count - 1) / max(shown - 1, 1)) for i in range(shown)]
    cells = tuple(
        (figure(series["at_s"][i]), *(figure(column[i], 3) for column in values.values())) for i in numbers
    )  # fmt: skip
    title = filled(words["series_table"], rows=str(len(cells)))
    table = TablePart(title, (words["time"], *values), cells, numbers=frozenset({0, 1, 2}), folded=True)
    return ChartPart(f"experts-{role['role']}", caption, spec, table)
