"""A result as one HTML file that needs no network, or its main chart as SVG or PNG."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tokenworks.report.availability import availability_content
from tokenworks.report.claims import claims_content
from tokenworks.report.compare import compare_content
from tokenworks.report.compare_training import compare_training_content
from tokenworks.report.content import PageContent
from tokenworks.report.figures import visible
from tokenworks.report.palette import LIGHT, recoloured
from tokenworks.report.plan import plan_content
from tokenworks.report.scripts import file_text, hashed, vega
from tokenworks.report.simulate import simulate_content
from tokenworks.report.strings import Lang, script_strings, strings
from tokenworks.report.sweep import sweep_content
from tokenworks.specs.machine import Machine
from tokenworks.specs.save import saved

PageForm = Literal["html", "svg", "png"]
FORMS: tuple[PageForm, ...] = ("html", "svg", "png")
"""Formats that this module writes."""

PNG_SCALE = 2
"""Pixels of the image / pixels of the chart [-]."""

BUILDERS = {
    "plan": plan_content, "simulate": simulate_content, "compare": compare_content, "sweep": sweep_content,
    "availability": availability_content, "compare-training": compare_training_content,
    "claims": claims_content,
}  # fmt: skip
"""Kind of a result -> function that makes the content of its page."""


def write(
    path: Path,
    form: PageForm,
    plain: Mapping[str, Any],
    *,
    machines: Mapping[str, Machine],
    command: str,
    lang: Lang,
    version: str,
) -> None:
    """Write the page of a result: completely, or not at all.

    Parameters
    ----------
    path : file to write
    form : `html` for the page; `svg` or `png` for the main chart alone
    plain : the result as plain data, as `-o json` prints it
    machines : the machines of the result by name
    command : command that gives the same result
    lang : language of the page
    version : version of tokenworks, for the foot of the page

    Raises
    ------
    SpecError : the file cannot be written
    """
    content = BUILDERS[plain["kind"]](plain, machines, command, lang)
    whole = page(content, lang, version).encode("utf-8") if form == "html" else image(content, form)
    with saved(path) as part:
        part.write_bytes(whole)


def page(content: PageContent, lang: Lang, version: str = "") -> str:
    """The HTML document. Equal content gives equal bytes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from tokenworks.report.scripts import FILES

    environment = Environment(
        loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    own = file_text("page.js")
    data = {
        "charts": {name: chart.spec for name, chart in content.charts().items()},
        "choosers": [{"chart": part.chart, **part.data} for part in content.choosers()],
        "strings": script_strings(lang),
        "lang": strings(lang)["lang"],
    }
    document: str = environment.get_template("page.html.j2").render(
        content=content,
        words=strings(lang),
        version=f" {version}" if version else "",
        style=file_text("page.css"),
        licences=file_text("licences.txt"),
        embedded=embedded(data),
        scripts=(vega(), own),
        allowed=" ".join((hashed(vega()), hashed(own))),
    )
    return document


def _shown(value: Any) -> Any:
    """A value of the template as it is written. HTML of this project, which the template marks as safe, stays."""
    return value if hasattr(value, "__html__") else visible(value)


def embedded(data: Any) -> str:
    """JSON for a script element: no character of it can end the element or begin a comment."""
    text = json.dumps(visible(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def image(content: PageContent, form: Literal["svg", "png"]) -> bytes:
    """The main chart, in the light colours, as a file."""
    import vl_convert

    spec = recoloured(dict(content.charts()[content.main].spec), LIGHT)
    spec |= {"width": 760, "background": "white", "padding": 12}
    if form == "svg":
        svg: str = vl_convert.vegalite_to_svg(spec)
        return svg.encode("utf-8")
    png: bytes = vl_convert.vegalite_to_png(spec, scale=PNG_SCALE)
    return png
