"""Parts that a page consists of. The modules of the kinds of results fill them, `files/page.html.j2` writes the HTML.

All fields are plain text. The template escapes text when it writes HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class TextPart:
    """A paragraph.

    Parameters
    ----------
    text : the sentences
    style : CSS class of the paragraph, such as `answer` or `note`
    lang : language of the text if it is not the language of the page, such as `en`; empty: the language of the page
    """

    kind: ClassVar[str] = "text"
    text: str
    style: str = ""
    lang: str = ""


@dataclass(frozen=True, slots=True)
class FactsPart:
    """Names and values, one pair a line."""

    kind: ClassVar[str] = "facts"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TablePart:
    """A table.

    Parameters
    ----------
    caption : what the table shows
    headings : text of each column heading
    rows : cells of each row, as text
    numbers : indexes of the columns that are aligned to the right
    wide : indexes of the columns with long texts, which need room
    folded : True: the reader opens the table; False: the table is open
    lang : language of the cells if it is not the language of the page
    """

    kind: ClassVar[str] = "table"
    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    wide: frozenset[int] = frozenset()
    folded: bool = False
    lang: str = ""


@dataclass(frozen=True, slots=True)
class ChartPart:
    """A chart, with its values as a table.

    Parameters
    ----------
    name : identifier of the chart in the page
    caption : what the chart shows
    spec : Vega-Lite specification
    table : the same values as a table; None: a table elsewhere in the page has the values
    """

    kind: ClassVar[str] = "chart"
    name: str
    caption: str
    spec: Mapping[str, Any]
    table: TablePart | None = None


@dataclass(frozen=True, slots=True)
class ChooserPart:
    """Sliders that choose the best point under a bound on speed and TTFT, and a price.

    Parameters
    ----------
    chart : name of the chart whose points are chosen
    data : values for `files/page.js`
    """

    kind: ClassVar[str] = "chooser"
    chart: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CodePart:
    """A command or a file, as it is typed."""

    kind: ClassVar[str] = "code"
    label: str
    text: str
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One device of a drawing.

    Parameters
    ----------
    role : name of the role that uses the device; empty: the device is idle
    instance : number of the instance of the role, from 1
    """

    role: str
    instance: int


@dataclass(frozen=True, slots=True)
class HostDrawing:
    """One host with its devices, in a drawing.

    Parameters
    ----------
    label : what a screen reader says
    cells : the devices
    """

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class DomainDrawing:
    """Equal scale-up domains, drawn once.

    Parameters
    ----------
    title : which domains the drawing stands for
    link : the scale-up fabric, in words
    hosts : the hosts of one domain; empty if the domain is too large to draw
    summary : the devices of one domain by role, in words
    """

    title: str
    link: str
    hosts: tuple[HostDrawing, ...]
    summary: str


@dataclass(frozen=True, slots=True)
class TopologyPart:
    """A machine with the instances that run on it.

    Parameters
    ----------
    domains : groups of equal domains
    network : the scale-out network, in words; empty if the machine is one domain
    roles : name of each role and what the drawing knows of it
    """

    kind: ClassVar[str] = "machine"
    domains: tuple[DomainDrawing, ...]
    network: str
    roles: tuple[tuple[str, str], ...]


Part = TextPart | FactsPart | TablePart | ChartPart | ChooserPart | CodePart | TopologyPart


@dataclass(frozen=True, slots=True)
class SectionPart:
    """A heading and what stands under it.

    Parameters
    ----------
    name : identifier of the section in the page
    heading : text of the heading
    parts : contents, in the order of the page
    """

    name: str
    heading: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class PageContent:
    """Everything that a page shows.

    Parameters
    ----------
    title : title of the document
    sections : sections, in the order of the page
    main : name of the main chart, which `-o svg` and `-o png` draw
    """

    title: str
    sections: tuple[SectionPart, ...]
    main: str

    def charts(self) -> dict[str, ChartPart]:
        """All charts by name."""
        return {part.name: part for part in self._parts() if isinstance(part, ChartPart)}

    def choosers(self) -> list[ChooserPart]:
        """All groups of sliders."""
        return [part for part in self._parts() if isinstance(part, ChooserPart)]

    def _parts(self) -> Sequence[Part]:
        return [part for section in self.sections for part in section.parts]
