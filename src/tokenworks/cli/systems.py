"""`tokenworks systems`: the machines of the catalog, one machine in full, or a file for a machine of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from tokenworks.cli.options import DEVICES, NumberOptions, Output, OutputFormat
from tokenworks.cli.output import console, emit, listing, notes, table, write
from tokenworks.errors import SpecError
from tokenworks.planning.listing import SystemDetail, SystemRow, Systems, system_row
from tokenworks.specs import compose
from tokenworks.specs.compose import Parts
from tokenworks.specs.machine_file import machine_file, write_template

NEW = Group("A machine of your own", sort_key=1)
YAML_IS_A_FILE = Parameter(help="table, json, or yaml: of one machine, a file that --on takes.")


def systems(
    name: str | None = None,
    /,
    *,
    devices: Annotated[int | None, DEVICES] = None,
    new: Annotated[str | None, Parameter(group=NEW)] = None,
    like: Annotated[str | None, Parameter(group=NEW)] = None,
    out: Annotated[Path | None, Parameter(group=NEW)] = None,
    numbers: NumberOptions = NumberOptions(),  # noqa: B008 - frozen
    output: Annotated[Output, YAML_IS_A_FILE] = "table",
) -> None:
    """List the machines, show one with every number's source, or write a file for a machine of your own.

    Parameters
    ----------
    name
        Anything that --on takes: scalex40, 5xhgx-h100, 4xscalex40@xdr, hgx-h200:2, my-box.yaml.
    new
        Name of a machine of your own; a commented file for it is written to --out.
    like
        Machine whose numbers stand in the new file until you replace them.
    out
        The new file.
    """
    if new is not None:
        _write_new(name, new, like, out)
    elif like is not None or out is not None:
        raise SpecError("is missing", where="--new", hint="--like and --out go with --new NAME")
    elif name is None:
        if devices is not None or numbers.set_ or numbers.assume:
            raise SpecError("no machine is named", hint="name one, such as `tokenworks systems scalex40`")
        _show_all(output)
    else:
        parts = compose.parts(name, assume=numbers.given("machine"), devices=devices)
        if output == "table":
            _show(parts)
        elif output == "yaml":
            write(machine_file(parts))
        else:
            emit(SystemDetail(parts).plain(), output)


def _write_new(name: str | None, new: str, like: str | None, out: Path | None) -> None:
    if name is not None:
        raise SpecError(f"{name} and --new {new}", hint="leave one of the two out")
    if like is None or out is None:
        missing = "--like" if like is None else "--out"
        hint = "write it like `tokenworks systems --new my-box --like hgx-h200 --out my-box.yaml`"
        raise SpecError("is missing", where=missing, hint=hint)
    if out.suffix not in (".yaml", ".yml"):
        raise SpecError("is no name of a YAML file", where=f"--out {out}", hint="end it in .yaml, for --on to know it")
    write_template(new, compose.parts(like), out)
    notes().print(f"wrote {out}: replace its numbers by yours, then plan with --on {out}", soft_wrap=True)


def _show_all(output: OutputFormat) -> None:
    known = Systems.read()
    rows = known.rows
    if output != "table":
        emit(known.plain(), output)
        return
    _list(rows)
    console().print(
        f"{sum(row['plannable'] for row in rows)} of {len(rows)} can be planned with. The others lack numbers that are "
        "not published: `tokenworks systems NAME` names these numbers, --assume FILE or --set supplies them."
    )


def _list(rows: Sequence[SystemRow]) -> None:
    columns: dict[str, Literal["left", "right"]] = {
        "system": "left",
        "devices": "right",
        "domain": "right",
        "FP8 PF": "right",
        "BF16 PF": "right",
        "HBM TB": "right",
        "TB/s": "right",
        "link GB/s": "right",
        "network": "left",
        "assumed": "right",
        "plan": "left",
    }
    title = "Systems: dense FLOP/s, memory and its bandwidth in all; scale-up link per device and direction"
    spare = ("assumed", "network", "BF16 PF", "link GB/s", "domain", "plan", "HBM TB", "TB/s")
    listing(console(), title, columns, [_row(row) for row in rows], spare)


def _row(row: SystemRow) -> list[str]:
    link = row["scale_up_bandwidth"]
    in_all = [row["peak"].get("fp8"), row["peak"].get("bf16"), row["hbm_bytes"], row["hbm_bandwidth"]]
    scales = [1e15, 1e15, 1e12, 1e12]
    return [
        row["name"],
        str(row["devices"]),
        str(row["domain"]),
        *(_number(value and value * row["devices"] / scale) for value, scale in zip(in_all, scales, strict=True)),
        _number(link and link / 1e9),
        row["network"] or "-",
        str(len(row["assumed"])),
        "yes" if row["plannable"] else f"no: {len(row['missing'])} missing",
    ]


def _number(value: float | None) -> str:
    """Three digits, or a dash for what is not known or has no end."""
    if value is None or not 0 <= value < float("inf"):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _show(parts: Parts) -> None:
    """Every number with its status and source."""
    summary = system_row(parts)
    numbers = [
        [path, quantity.written or "-", quantity.status, "; ".join(filter(None, [quantity.source, quantity.note]))]
        for path, quantity in parts.quantities().items()
    ]
    facts = [
        [key, fact.value, fact.status, "; ".join(filter(None, [fact.source, fact.note]))]
        for key, fact in parts.system.facts.items()
    ]
    heading = f"{parts.on}: {parts.system.title}, {summary['devices']} devices in domains of {summary['domain']}"
    page = console()
    page.print(table(heading, {"number": "left", "value": "right", "status": "left", "source": "left"}, numbers))
    if facts:
        page.print()
        page.print(
            table(
                "Also said by the vendor", {"fact": "left", "value": "left", "status": "left", "source": "left"}, facts
            )
        )
    for spec in (parts.system, parts.device, parts.network):
        if spec and spec.note:
            page.print(f"\n{spec.name}: {spec.note}")
    page.print(f"\nAssumed numbers that a plan would use: {', '.join(summary['assumed']) or 'none'}")
    if summary["missing"]:
        page.print(f"Missing, to be supplied with --assume FILE or --set: {', '.join(summary['missing'])}")
