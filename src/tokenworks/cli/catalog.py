"""`tokenworks catalog`: workloads, calibrations, engines, networks, devices, prices, failure rates, or one entry."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Group, Parameter

from tokenworks.cli.options import RESULT, Output
from tokenworks.cli.output import console, emit, write
from tokenworks.cli.tables import Columns, print_table
from tokenworks.planning.listing import Catalog, CatalogEntry, Section
from tokenworks.specs.machine_file import spec_file

ENTRY = Group("Entry", sort_key=0)
YAML_IS_A_FILE = Parameter(
    help="Format of the result; yaml of one entry is a file that --workload, --calibration and files of machines take.",
    group=RESULT,
)
USES = {
    "workloads": "--workload NAME",
    "calibrations": "--calibration NAME",
    "engines": "--engine NAME",
    "networks": "--on SYSTEM@NAME",
    "devices": "`device: NAME` in the file of a machine",
    "reliability": "--reliability NAME of `train`",
    "prices": "a --prices FILE of your own has the same keys",
}
"""Section -> how commands use an entry of the section."""


def catalog(
    section: Annotated[Section | None, Parameter(group=ENTRY)] = None,
    name: Annotated[str | None, Parameter(group=ENTRY)] = None,
    /,
    *,
    output: Annotated[Output, YAML_IS_A_FILE] = "table",
) -> None:
    """List workloads, calibrations, engines, networks, devices, prices and failure rates, or show one in full.

    `tokenworks systems` lists machines, and `tokenworks models` lists models.

    Parameters
    ----------
    section
        Part of the catalog; all parts if it is not given.
    name
        Entry of the section, such as chat. A path of a YAML file shows this file.
    """
    if section is not None and name is not None:
        entry = CatalogEntry.read(section, name)
        if output == "table":
            _print_entry(entry)
        elif output == "yaml":
            write(spec_file(entry.spec))
        else:
            emit(entry.plain(), output)
        return
    listed = Catalog.read(section)
    if output != "table":
        emit(listed.plain(), output)
    elif section is None:
        _print_sections(listed)
    else:
        columns: Columns = {"name": "left", "title": "left"}
        rows = [[row["name"], row["title"]] for row in listed.rows]
        print_table(console(), columns, rows, title=f"{section}: {USES[section]}", wraps=("title",))


def _print_sections(listed: Catalog) -> None:
    page = console()
    columns: Columns = {"section": "left", "option": "left", "names": "left"}
    rows = [
        [section, use, ", ".join(row["name"] for row in listed.rows if row["section"] == section)]
        for section, use in USES.items()
    ]
    print_table(page, columns, rows, wraps=("option", "names"))
    page.paragraph(
        "\n`tokenworks catalog SECTION` shows titles, and `tokenworks catalog SECTION NAME` shows the numbers of an "
        "entry with their sources. Machines: `tokenworks systems`. Models: `tokenworks models`."
    )


def _print_entry(entry: CatalogEntry) -> None:
    values = entry.values()
    columns: Columns = {"number": "left", "value": "left"}
    rows = [[value["path"], value["value"] or "-"] for value in values]
    if any(value["status"] for value in values):
        columns |= {"status": "left", "source": "left"}
        rows = [[*row, value["status"] or "-", value["source"] or "-"] for row, value in zip(rows, values, strict=True)]
    title = ": ".join(filter(None, (entry.row["name"], entry.row["title"])))
    print_table(console(), columns, rows, title=title, wraps=("source", "value"))
