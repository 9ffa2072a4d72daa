"""The page of a sweep: the curves with their knees, which input matters most, and the points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from tokenworks.report.charts import sweep_chart
from tokenworks.report.common import again_section, notes_section, terms_section, workload_words
from tokenworks.report.content import (
    ChartPart,
    CodePart,
    FactsPart,
    PageContent,
    Part,
    SectionPart,
    TablePart,
    TextPart,
)
from tokenworks.report.figures import figure, percent, text_of
from tokenworks.report.strings import Lang, filled, strings
from tokenworks.specs.machine import Machine

Plain = Mapping[str, Any]
Words = Mapping[str, str]

CHART = "curves"
MOST_POINTS = 3000
"""Most points of the chart. A larger sweep shows every n-th point [count]."""

MOST_ROWS = 200
"""Most rows of the table of points [count]."""

SHOWN = (
    "deployment", "label", "engine", "effective_tok_s_per_device", "output_tok_s_per_device", "output_tok_s_per_user",
    "ttft_slo_s", "tpot_slo_s", "p99_ttft_ms", "p99_tpot_ms", "bound_by", "meets_slo", "error",
)  # fmt: skip
"""Result columns of the table and of the text at a point, if the sweep has them."""


def sweep_content(plain: Plain, machines: Mapping[str, Machine], command: str, lang: Lang) -> PageContent:
    """The content of the page of a sweep.

    Parameters
    ----------
    plain : the sweep as plain data
    machines : not used: a sweep may change the machine
    command : command that gives the same sweep
    lang : language of the page
    """
    del machines
    words = strings(lang)
    chart = _chart(plain, words)
    sections = [
        SectionPart("asked", words["asked"], (_asked(plain, words),)),
        SectionPart("answer", words["answer"], tuple(_answer(plain, words))),
        SectionPart("chart", words["curves"], tuple(chart)),
        SectionPart("effects", words["effects"], tuple(_effects(plain, words))),
        SectionPart("points", words["points"], tuple(_points(plain, words))),
        *notes_section(plain.get("notes") or [], words),
        SectionPart("assumed", words["assumed"], (TextPart(words["sweep_assumed"]),)),
        again_section(command, words, list(_file(plain, words))),
        terms_section(words),
    ]
    return PageContent(filled(words["sweep_title"], name=_title(plain)), tuple(sections), CHART)


def _file(plain: Plain, words: Words) -> Iterator[Part]:
    """The file of the sweep."""
    if file := plain["inputs"].get("sweep"):
        yield CodePart(
            words["sweep_file"], yaml.safe_dump(dict(file), sort_keys=False, allow_unicode=True), folded=True
        )


def _title(plain: Plain) -> str:
    file = plain["inputs"].get("sweep") or {}
    return str(file.get("title") or plain["inputs"].get("model") or plain["do"])


def _asked(plain: Plain, words: Words) -> FactsPart:
    inputs = plain["inputs"]
    pairs = [(words[name], str(inputs[name])) for name in ("model", "machine", "slo", "engine") if inputs.get(name)]
    if inputs.get("workload"):
        pairs.append((words["workload"], workload_words(inputs["workload"], words)))
    for axis in plain["axes"]:
        values = [text_of(value) for value in axis["values"]]
        shown = ", ".join(values) if len(values) <= 12 else f"{', '.join(values[:5])}, …, {values[-1]}"
        unit = next(iter(axis["units"]), None)
        pairs.append((f"{words['axis']}: {axis['name']}", f"{shown} {unit or ''}".rstrip()))
    counts = ("in_all", "with_result", "does_not_fit", "bad_input", "internal_errors")
    by_end = {name: figure(plain[name]) for name in counts}
    pairs.append((words["points"], filled(words["sweep_counts"], **by_end)))
    return FactsPart(tuple(pairs))


def _knees(plain: Plain) -> list[tuple[Plain, Plain]]:
    return [(curve, curve["knee"]) for curve in plain["curves"] if curve["knee"]]


def _at(curve: Plain) -> str:
    """The values of the other inputs of a curve, as its name."""
    return ", ".join(f"{path} = {text_of(value)}" for path, value in curve["at"].items())


def _answer(plain: Plain, words: Words) -> Iterator[Part]:
    lines = []
    for curve, knee in _knees(plain)[:5]:
        text = filled(
            words["knee"], y=str(plain["y"]), value=figure(knee["y"]), x=str(plain["x"]), at=figure(knee["x"])
        )
        lines.append(f"{_at(curve)}: {text}" if curve["at"] else text)
    if plain["effects"]:
        first = plain["effects"][0]
        lines.append(filled(words["strongest"], path=first["path"], share=percent(first["share"]), y=str(plain["y"])))
    for index, line in enumerate(lines or [words["no_knee"]]):
        yield TextPart(line, style="answer" if not index else "")


def _chart(plain: Plain, words: Words) -> Iterator[Part]:
    x: str | None = plain["x"]
    y: str | None = plain["y"]
    if not plain["curves"] and plain["effects"]:
        x = plain["effects"][0]["path"]
    if x is None or y is None:
        yield TextPart(words["none"])
        return
    paths = {axis["name"]: axis["paths"][0] for axis in plain["axes"]}
    rows = list(_rows(plain, paths.get(x, x), y))
    if not rows:
        yield TextPart(words["none"])
        return
    names = list(dict.fromkeys(row["series"] for row in rows))
    scales = {axis["name"]: axis["scale"] for axis in plain["axes"]}
    log = scales.get(x) == "log" and all(row["x"] > 0 for row in rows)
    knees = [
        {"x": knee["x"], "value": knee["y"], "text": f"{figure(knee['x'])}: {figure(knee['y'])}"}
        for _, knee in _knees(plain)
    ]
    tips = {"series": words["series"], "x": x, "value": y, **{name: name for name in SHOWN if name in rows[0]}}
    caption = filled(words["sweep_chart"], x=x, y=y)
    lines = bool(plain["curves"])
    spec = sweep_chart(rows, names, (x, y), log=log, lines=lines, tips=tips, knees=knees, description=caption)
    yield ChartPart(CHART, caption, spec)


def _rows(plain: Plain, x: str, y: str) -> Iterator[dict[str, Any]]:
    """Points of the chart: numbers on both axes, and the result columns that are shown."""
    others = list(plain["curves"][0]["at"]) if plain["curves"] else []
    points = [point for point in plain["points"] if _number(point.get(x)) and _number(point.get(y))]
    for point in points[:: max(1, -(-len(points) // MOST_POINTS))]:
        series = ", ".join(f"{path} = {text_of(point.get(path))}" for path in others)
        more = {name: text_of(point[name]) for name in SHOWN if name in point and name != y}
        yield {"x": point[x], "value": point[y], "series": series or y, **more}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _effects(plain: Plain, words: Words) -> Iterator[Part]:
    if not plain["effects"]:
        yield TextPart(words["none"])
        return
    rows = tuple(
        (str(item["path"]), percent(item["share"]), words.get(f"direction_{item['direction']}", item["direction"]))
        for item in plain["effects"]
    )
    headings = (words["input"], words["share"], words["direction"])
    yield TablePart(words["effects_table"], headings, rows, numbers=frozenset({1}))
    yield TextPart(str(plain["method"]), style="note", lang="en")


def _points(plain: Plain, words: Words) -> Iterator[Part]:
    points: Sequence[Plain] = plain["points"]
    if not points:
        yield TextPart(words["none"])
        return
    paths = [path for axis in plain["axes"] for path in axis["paths"]]
    y = [plain["y"]] if plain["y"] else []
    columns = [name for name in dict.fromkeys([*paths, *y, *SHOWN]) if name in points[0]]
    every = max(1, -(-len(points) // MOST_ROWS))
    shown = points[::every]
    rows = tuple(tuple(text_of(point.get(name)) for name in columns) for point in shown)
    caption = filled(words["points_table"], shown=figure(len(shown)), all=figure(len(points)))
    numbers = frozenset(index for index, name in enumerate(columns) if _number(points[0].get(name)))
    yield TablePart(caption, tuple(columns), rows, numbers=numbers, folded=True)
