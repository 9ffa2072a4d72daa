"""The faults on the page of a simulation: what each fault stopped, and what the requests felt around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenworks.report.charts import time_chart
from tokenworks.report.content import ChartPart, Part, SectionPart, TablePart, TextPart
from tokenworks.report.figures import figure, percent
from tokenworks.report.strings import filled

Plain = Mapping[str, Any]
Words = Mapping[str, str]

PHASES = ("before", "during", "after")
SHOWN = 20
"""Most faults of a table, and most rows of a table of values over time [count]."""


def faults_sections(plain: Plain, words: Words) -> list[SectionPart]:
    """The section on faults; none without faults.

    Parameters
    ----------
    plain : the simulation as plain data
    words : texts of the language
    """
    faults = plain.get("faults")
    if not faults or not faults["faults"]:
        return []
    lost = filled(
        words["faults_lost"], effective=figure(faults["effective_tokens"], 7),
        healthy=figure(faults["healthy_effective_tokens"], 7), share=percent(faults["lost_effective_share"]),
        requests=figure(faults["lost_requests"], 7), retries=figure(faults["retries"], 7),
        tokens=figure(faults["lost_output_tokens"], 7), kv=figure(faults["lost_kv_tokens"], 7),
    )  # fmt: skip
    parts: list[Part] = [TextPart(lost), _table(faults["faults"], words), *_charts(faults, words),
                         _felt(faults["faults"], words)]  # fmt: skip
    return [SectionPart("faults", words["faults"], tuple(parts))]


def _table(faults: Sequence[Plain], words: Words) -> TablePart:
    headings = tuple(
        words[name]
        for name in ("fault_part", "fault_at", "fault_lasts", "fault_ranks", "fault_bandwidth", "fault_down",
                     "fault_whole", "fault_requests", "fault_retries", "fault_tokens")
    )  # fmt: skip
    rows = tuple(
        (
            fault["part"], figure(fault["at_s"], 6), figure(fault["lasts_s"]), figure(fault["ranks"]),
            percent(fault["lost_bandwidth_share"]), figure(fault["down_s"]),
            figure(fault["whole_s"] - fault["at_s"], 6), figure(fault["lost_requests"], 7),
            figure(fault["retries"], 7), figure(fault["lost_output_tokens"], 7),
        )
        for fault in faults[:SHOWN]
    )  # fmt: skip
    return TablePart(words["faults_table"], headings, rows, numbers=frozenset(range(1, len(headings))))


def _felt(faults: Sequence[Plain], words: Words) -> TablePart:
    """Windows before, during and after each fault."""
    headings = (
        words["fault_part"], words["window"], words["arrived"], words["failed"], "TTFT p50 [ms]", "TTFT p99 [ms]",
        "TPOT p50 [ms]", "TPOT p99 [ms]", words["effective_s"],
    )  # fmt: skip
    rows = tuple(
        (
            fault["part"], words[f"phase_{phase}"], figure(fault[phase]["arrived"], 7),
            figure(fault[phase]["failed"], 7), figure(fault[phase]["median_ttft_ms"]),
            figure(fault[phase]["p99_ttft_ms"]), figure(fault[phase]["median_tpot_ms"]),
            figure(fault[phase]["p99_tpot_ms"]), figure(fault[phase]["effective_tok_s"]),
        )
        for fault in faults[:SHOWN]
        for phase in PHASES
    )  # fmt: skip
    return TablePart(words["felt_table"], headings, rows, numbers=frozenset(range(2, len(headings))))


def _charts(faults: Plain, words: Words) -> Iterator[ChartPart]:
    """Effective tokens and TTFT over time, with the faults and without them."""
    series, width = faults["series"], faults["series"]["window_s"]
    for name, own, other, title in (
        ("faults", "effective_tok_s", "healthy_effective_tok_s", words["effective_s"]),
        ("faults-ttft", "p99_ttft_ms", "healthy_p99_ttft_ms", "TTFT p99 [ms]"),
    ):
        values = {words["with_faults"]: series[own], words["without_faults"]: series[other]}
        rows = [
            {"at": float(f"{index * width:.6g}"), "value": value, "series": line}
            for line, numbers in values.items()
            for index, value in enumerate(numbers)
            if value is not None
        ]
        caption = filled(words["faults_chart"], value=title)
        spec = time_chart(rows, list(values), title, words, caption, bound=False)
        count = len(series[own])
        most = min(count, SHOWN)
        shown = sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})
        cells = tuple(
            (figure(i * width), *(figure(column[i]) if i < len(column) else "-" for column in values.values()))
            for i in shown
        )
        table = TablePart(
            filled(words["series_table"], rows=str(len(cells))), (words["time"], *values), cells,
            numbers=frozenset({0, 1, 2}), folded=True,
        )  # fmt: skip
        yield ChartPart(name, caption, spec, table)
