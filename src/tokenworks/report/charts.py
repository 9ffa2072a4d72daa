"""Charts of the pages as Vega-Lite specifications, made with altair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from tokenworks.report.palette import DASHES, SERIES, SHAPES, TEXT

CHOSEN = "chosen"
"""Name of the data set with the points that the sliders choose."""

ROOM = 1.3
"""Width of a bar chart / its longest bar: room for the text beside the bar [-]."""

LEAST = "least"
"""Name of the data set with the least speed of one user, which is drawn as a vertical line."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Noto Sans CJK SC', 'PingFang SC', sans-serif"

NUMBERS = frozenset({"user", "device", "rate", "x", "ttft", "tpot", "at", "value", "total", "low", "high"})
"""Fields of rows that are numbers."""

Row = Mapping[str, Any]

CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": "transparent"},
    "axis": {
        "labelColor": TEXT, "titleColor": TEXT, "tickColor": TEXT, "domainColor": TEXT, "gridColor": TEXT,
        "gridOpacity": 0.15, "labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal",
    },
    "legend": {
        "labelColor": TEXT, "titleColor": TEXT, "labelFontSize": 12, "titleFontSize": 12, "orient": "top",
        "labelLimit": 320, "title": None, "columns": 3,
    },
    "text": {"color": TEXT, "fontSize": 12},
}  # fmt: skip

HEIGHT, BAR, GROUP = 320, 15, 12
"""Height of a chart, of a bar, and of the gap between groups of bars [pixel]."""


def finished(chart: Any, description: str) -> dict[str, Any]:
    """The specification of a chart, as wide as its container.

    Parameters
    ----------
    chart : chart of altair
    description : what the chart shows, for a screen reader
    """
    whole = chart.properties(width="container", height=HEIGHT, description=description)
    spec: dict[str, Any] = whole.to_dict()
    spec.pop("$schema", None)  # no address stands in a page
    spec["config"] = CONFIG
    spec["autosize"] = {"type": "fit", "contains": "padding"}
    return spec


def speed_chart(
    rows: Sequence[Row],
    names: Sequence[str],
    tips: Mapping[str, str],
    words: Mapping[str, str],
    *,
    title: str,
    description: str,
    chosen: Sequence[Row],
    least: float,
    log: bool = False,
) -> dict[str, Any]:
    """Throughput against the speed of one user: one line per series, and what the sliders choose.

    Parameters
    ----------
    rows : points with `user`, `rate` and `series`; `line` is True for points that the line joins
    names : the series, in their order
    tips : field -> title, of what is shown when the reader points at a mark
    words : texts of the language
    title : title of the vertical axis
    description : what the chart shows, for a screen reader
    chosen : the points that are chosen before the reader moves a slider, with a `label` each
    least : least speed of one user before the reader moves a slider [token/s]
    log : whether the vertical axis is logarithmic, so that machines of different size can be compared
    """
    count = range(len(names))
    colours = [SERIES[index % len(SERIES)] for index in count]
    shapes = [SHAPES[index % len(SHAPES)] for index in count]
    dashes = [DASHES[index % len(DASHES)] for index in count]
    x = alt.X("user:Q", title=words["chart_speed"], scale=alt.Scale(zero=True, nice=True))
    height = alt.Scale(type="log", nice=True) if log else alt.Scale(zero=True, nice=True)
    y = alt.Y("rate:Q", title=f"{title} ({words['logarithmic']})" if log else title, scale=height)
    domain = list(names)
    colour = alt.Color("series:N", scale=alt.Scale(domain=domain, range=colours))
    tooltip = [_tip(field, title) for field, title in tips.items()]
    base = alt.Chart(alt.InlineData(values=[dict(row) for row in rows]))
    line = (
        base.transform_filter("datum.line")
        .mark_line(strokeWidth=2)
        .encode(
            x=x, y=y, color=colour, order=alt.Order("user:Q"),
            strokeDash=alt.StrokeDash("series:N", scale=alt.Scale(domain=domain, range=dashes)),
        )
    )  # fmt: skip
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=x, y=y, color=colour,
        shape=alt.Shape("series:N", scale=alt.Scale(domain=domain, range=shapes)),
        tooltip=tooltip,
    )  # fmt: skip
    bound = alt.Chart(alt.NamedData(name=LEAST)).mark_rule(strokeDash=[4, 4], color=TEXT, aria=False).encode(x="user:Q")
    picked = alt.Chart(alt.NamedData(name=CHOSEN))
    ring = picked.mark_point(size=340, strokeWidth=2.5, color=TEXT, filled=False, aria=False).encode(
        x="user:Q", y="rate:Q"
    )
    label = picked.mark_text(align="left", dx=14, dy=-12, fontWeight="bold", aria=False).encode(
        x="user:Q", y="rate:Q", text="label:N"
    )
    layers = alt.layer(line, points, bound, ring, label)
    spec = finished(layers, description)
    spec["datasets"] = {**spec.get("datasets", {}), CHOSEN: [dict(row) for row in chosen], LEAST: [{"user": least}]}
    return spec


def _tip(field: str, title: str) -> alt.Tooltip:
    """One line of what is shown when the reader points at a mark."""
    if field in NUMBERS:
        return alt.Tooltip(field=field, type="quantitative", title=title, format=",.4~r")
    return alt.Tooltip(field=field, type="nominal", title=title)


def time_chart(
    rows: Sequence[Row], names: Sequence[str], title: str, words: Mapping[str, str], description: str, *,
    bound: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Values over time, one line per series.

    Parameters
    ----------
    rows : points with `at` [s], `value`, `series` and, for the reader who points at a mark, `bound`
    names : the series, in their order
    title : title of the vertical axis
    words : texts of the language
    description : what the chart shows, for a screen reader
    bound : whether the rows have `bound`
    """
    domain = list(names)
    count = range(len(names))
    base = alt.Chart().encode(
        x=alt.X("at:Q", title=words["time"]), y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=True))
    )
    line = base.mark_line(strokeWidth=1.6, interpolate="step-after").encode(
        color=alt.Color("series:N", scale=alt.Scale(domain=domain, range=[SERIES[index] for index in count])),
        strokeDash=alt.StrokeDash("series:N", scale=alt.Scale(domain=domain, range=[DASHES[index] for index in count])),
    )
    tips = {"at": words["time"], "series": words["series"], "value": title}
    if bound:
        tips["bound"] = words["bound_by"]
    hover = base.mark_point(size=60, opacity=0, aria=False).encode(
        tooltip=[_tip(field, text) for field, text in tips.items()]
    )
    data = alt.InlineData(values=[dict(row) for row in rows])
    return finished(alt.layer(line, hover, data=data), description)


def bar_chart(
    rows: Sequence[Row], groups: Sequence[str], names: Sequence[str], title: str, *, tips: Mapping[str, str],
    description: str,
) -> dict[str, Any]:  # fmt: skip
    """Bars side by side: one group of bars for each part, one bar for each series. Each bar has its series as text.

    Parameters
    ----------
    rows : bars with `group`, `series`, `value` and `text`
    groups, names : the groups and the series, in their order
    title : title of the horizontal axis
    tips : field -> title, of what is shown when the reader points at a bar
    description : what the chart shows, for a screen reader
    """
    colours = [SERIES[index % len(SERIES)] for index in range(len(names))]
    longest = max(row["value"] for row in rows)
    base = alt.Chart().encode(
        y=alt.Y("group:N", sort=list(groups), title=None, axis=alt.Axis(labelLimit=180)),
        yOffset=alt.YOffset("series:N", sort=list(names)),
        x=alt.X("value:Q", title=title, scale=alt.Scale(domain=[0, ROOM * longest], nice=False)),
    )
    bars = base.mark_bar().encode(
        color=alt.Color("series:N", scale=alt.Scale(domain=list(names), range=colours), legend=None),
        tooltip=[_tip(field, text) for field, text in tips.items()],
    )
    labels = base.mark_text(align="left", dx=4, fontSize=11, aria=False).encode(text="text:N")
    data = alt.InlineData(values=[dict(row) for row in rows])
    spec = finished(alt.layer(bars, labels, data=data), description)
    spec["height"] = max(HEIGHT // 2, BAR * len(rows) + GROUP * len(groups))
    return spec


def sweep_chart(
    rows: Sequence[Row], names: Sequence[str], titles: tuple[str, str], *, log: bool, lines: bool,
    tips: Mapping[str, str], knees: Sequence[Row], description: str,
) -> dict[str, Any]:  # fmt: skip
    """A result along one input: one line per series, with a mark and a text at each knee.

    Parameters
    ----------
    rows : points with `x`, `value` and `series`
    names : the series, in their order
    titles : titles of the horizontal and of the vertical axis
    log : whether the horizontal axis is logarithmic
    lines : whether lines join the points of a series
    tips : field -> title, of what is shown when the reader points at a mark
    knees : knees, with `x`, `value` and `text`
    description : what the chart shows, for a screen reader
    """
    count = range(len(names))
    domain = list(names)
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False)
    x, y = alt.X("x:Q", title=titles[0], scale=scale), alt.Y("value:Q", title=titles[1], scale=alt.Scale(zero=True))
    legend: Any = alt.Undefined if len(names) > 1 else None
    colours = alt.Scale(domain=domain, range=[SERIES[index % len(SERIES)] for index in count])
    shapes = alt.Scale(domain=domain, range=[SHAPES[index % len(SHAPES)] for index in count])
    dashes = alt.Scale(domain=domain, range=[DASHES[index % len(DASHES)] for index in count])
    colour = alt.Color("series:N", scale=colours, legend=legend)
    base = alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).encode(x=x, y=y, color=colour)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        shape=alt.Shape("series:N", scale=shapes, legend=legend),
        tooltip=[_tip(field, text) for field, text in tips.items()],
    )
    layers: list[Any] = [points]
    if lines:
        dash = alt.StrokeDash("series:N", scale=dashes, legend=legend)
        layers.insert(0, base.mark_line(strokeWidth=2).encode(strokeDash=dash))
    if knees:
        at = alt.Chart(alt.InlineData(values=[dict(row) for row in knees])).encode(x="x:Q", y="value:Q")
        layers.append(at.mark_point(size=300, strokeWidth=2.5, color=TEXT, filled=False, aria=False))
        layers.append(at.mark_text(align="left", dx=12, dy=-12, fontWeight="bold", aria=False).encode(text="text:N"))
    return finished(alt.layer(*layers), description)


def tornado_chart(
    rows: Sequence[Row], title: str, at: float, *, tips: Mapping[str, str], description: str
) -> dict[str, Any]:
    """One bar for each input: from the result with its lower value to the result with its higher value.

    Parameters
    ----------
    rows : bars with `group`, `low` and `high`, the widest first
    title : title of the horizontal axis
    at : result with all inputs as they are, drawn as a vertical line
    tips : field -> title, of what is shown when the reader points at a bar
    description : what the chart shows, for a screen reader
    """
    order = [row["group"] for row in rows]
    bars = alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).mark_bar(color=SERIES[0]).encode(
        y=alt.Y("group:N", sort=order, title=None, axis=alt.Axis(labelLimit=180)),
        x=alt.X("low:Q", title=title, scale=alt.Scale(zero=True)),
        x2="high:Q",
        tooltip=[_tip(field, text) for field, text in tips.items()],
    )  # fmt: skip
    rule = alt.Chart(alt.InlineData(values=[{"at": at}])).mark_rule(color=TEXT, strokeDash=[4, 3], aria=False)
    spec = finished(alt.layer(bars, rule.encode(x="at:Q")), description)
    spec["height"] = max(HEIGHT // 2, 2 * BAR * len(rows))
    return spec
