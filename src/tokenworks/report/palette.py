"""Colours of the pages: the palette of Okabe and Ito, which colour-blind readers can tell apart.

A page names colours as CSS variables, so that its style sheet can change them in the dark and in print. An image has
the colours themselves. A colour never stands alone: series also differ in shape and in dash.

Source: M. Okabe, K. Ito, Color Universal Design, 2008 (jfly.uni-koeln.de/color).
"""

from __future__ import annotations

from typing import Any

TEXT = "currentColor"
"""Colour of axes, labels and titles: the colour of the text around the chart."""

SERIES = tuple(f"var(--series-{index})" for index in range(1, 8))
"""Colours of series, in their order."""

LIGHT = {
    TEXT: "#1a1a1a",
    "var(--series-1)": "#0072b2",
    "var(--series-2)": "#d55e00",
    "var(--series-3)": "#009e73",
    "var(--series-4)": "#cc79a7",
    "var(--series-5)": "#e69f00",
    "var(--series-6)": "#56b4e9",
    "var(--series-7)": "#000000",
}
"""Colours on white. `files/page.css` has the same values."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
DASHES = ([1, 0], [8, 3], [2, 2], [8, 3, 2, 3], [5, 5], [12, 3], [3, 6])
"""Shapes of points and dashes of lines, in the order of the series."""


def recoloured(spec: Any, colours: dict[str, str]) -> Any:
    """A specification with the colours themselves for the names of colours.

    Parameters
    ----------
    spec : Vega-Lite specification, or a part of it
    colours : name of a colour -> colour
    """
    if isinstance(spec, dict):
        return {key: value if key == "values" else recoloured(value, colours) for key, value in spec.items()}
    if isinstance(spec, list | tuple):
        return [recoloured(item, colours) for item in spec]
    return colours.get(spec, spec) if isinstance(spec, str) else spec
