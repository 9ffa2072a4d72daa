"""Charts of the page of claims: how far computed values are from claimed ones, and maps of where a claim holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from tokenworks.report.charts import Row, finished
from tokenworks.report.palette import SERIES, SHAPES, TEXT

VERDICT_COLOURS = (SERIES[0], SERIES[4], SERIES[1], SERIES[6])
"""Colours of the verdicts, in their order: blue, orange, vermilion, black. Shapes and words say the same."""

CELL_COLOURS = (SERIES[0], SERIES[4], SERIES[1], "transparent")
"""Colours of the cells of a map: above the number, open, below the number, without a value."""

WIDE, HIGH = 92, 42
"""Width and height of a cell of a map [pixel]."""

ROW, AROUND = 22, 110
"""Height of a claim in the chart of ratios, and of its legend and axis [pixel]."""

LONGEST = 9
"""Labels of this many characters stand beside each other; longer ones are slanted [character]."""


def ratio_chart(
    rows: Sequence[Row], verdicts: Sequence[str], title: str, *, tips: Mapping[str, str], description: str
) -> dict[str, Any]:
    """Computed / claimed value of each claim with its range, on a logarithmic axis, and a line at 1.

    Parameters
    ----------
    rows : claims with `group`, `value`, `low`, `high` and `series`, the verdict
    verdicts : all verdicts, in their order
    title : title of the horizontal axis
    tips : field -> title, of what is shown when the reader points at a mark
    description : what the chart shows, for a screen reader
    """
    order = [row["group"] for row in rows]
    domain = list(verdicts)
    colours = alt.Scale(domain=domain, range=list(VERDICT_COLOURS))
    shapes = alt.Scale(domain=domain, range=list(SHAPES[: len(domain)]))
    y = alt.Y("group:N", sort=order, title=None, axis=alt.Axis(labelLimit=120))
    scale = alt.Scale(type="log")
    base = alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).encode(
        y=y, color=alt.Color("series:N", scale=colours)
    )
    tooltip = [alt.Tooltip(field=field, type="nominal", title=text) for field, text in tips.items()]
    bars = base.mark_rule(strokeWidth=3, opacity=0.45).encode(x=alt.X("low:Q", title=title, scale=scale), x2="high:Q")
    points = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=alt.X("value:Q", title=title, scale=scale), shape=alt.Shape("series:N", scale=shapes), tooltip=tooltip
    )
    one = alt.Chart(alt.InlineData(values=[{"at": 1}])).mark_rule(color=TEXT, strokeDash=[4, 3], aria=False)
    spec = finished(alt.layer(bars, points, one.encode(x="at:Q")), description)
    spec["height"] = ROW * len(rows) + AROUND
    return spec


def map_chart(
    rows: Sequence[Row], names: tuple[Sequence[str], Sequence[str]], titles: tuple[str, str], classes: Sequence[str],
    *, tips: Mapping[str, str], description: str,
) -> dict[str, Any]:  # fmt: skip
    """A map: one cell for each pair of a row and a column, with its value as text and its class as colour.

    Parameters
    ----------
    rows : cells with `row`, `column`, `series` (the class), `text` and `range`
    names : the rows and the columns, in their order
    titles : titles of the vertical and of the horizontal axis
    classes : all classes, in their order: above the number, open, below the number, without a value
    tips : field -> title, of what is shown when the reader points at a cell
    description : what the chart shows, for a screen reader
    """
    down, across = (list(one) for one in names)
    angle = 0 if max(map(len, across), default=0) <= LONGEST else -25
    colours = alt.Scale(domain=list(classes), range=list(CELL_COLOURS))
    base = alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).encode(
        y=alt.Y("row:N", sort=down, title=titles[0], axis=alt.Axis(labelLimit=260)),
        x=alt.X("column:N", sort=across, title=titles[1], axis=alt.Axis(labelAngle=angle, labelLimit=180)),
    )
    cells = base.mark_rect(opacity=0.4, stroke=TEXT, strokeWidth=0.6).encode(
        color=alt.Color("series:N", scale=colours),
        tooltip=[alt.Tooltip(field=field, type="nominal", title=text) for field, text in tips.items()],
    )
    value = base.mark_text(dy=-6, fontWeight="bold", aria=False).encode(text="text:N")
    width = base.mark_text(dy=9, fontSize=10, aria=False).encode(text="range:N")
    spec = finished(alt.layer(cells, value, width), description)
    spec |= {"width": {"step": WIDE}, "height": {"step": HIGH}, "autosize": {"type": "pad"}}
    return spec
