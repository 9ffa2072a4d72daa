"""`tokenworks systems`: the machines of the catalog, one machine in full, or a new file for a machine of your own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from tokenworks.cli.options import DEVICES, MACHINE, NUMBERS, RESULT, NumberOptions, Output, OutputFormat
from tokenworks.cli.output import console, emit, notes, write
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import SpecError
from tokenworks.planning.listing import SystemDetail, SystemRow, Systems, system_row
from tokenworks.specs import compose
from tokenworks.specs.compose import Parts
from tokenworks.specs.machine_file import machine_file, write_template

NEW = Group("New machine", sort_key=1)
YAML_IS_A_FILE = Parameter(help="Format of the result; yaml of one machine is a file that --on reads.", group=RESULT)


@Parameter(name="*", group=NUMBERS)
@dataclass(frozen=True, kw_only=True)
class MachineNumbers(NumberOptions):
    """Numbers that replace numbers of the machine.

    Parameters
    ----------
    assume
        YAML file of numbers that replace numbers of the machine, one `path: value` per line.
    set_
        Replace one number of the machine, such as machine.scale_up.hop=0.3us. May be repeated.
    """

    assume: Path | None = None
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)] = ()


def systems(
    name: Annotated[str | None, Parameter(group=MACHINE)] = None,
    /,
    *,
    devices: Annotated[int | None, DEVICES] = None,
    new: Annotated[str | None, Parameter(group=NEW)] = None,
    like: Annotated[str | None, Parameter(group=NEW)] = None,
    out: Annotated[Path | None, Parameter(group=NEW)] = None,
    numbers: MachineNumbers = MachineNumbers(),
    output: Annotated[Output, YAML_IS_A_FILE] = "table",
) -> None:
    """List the machines, show one with the source of every number, or write a file for a machine of your own.

    Parameters
    ----------
    name
        Machine, as --on takes it: scalex40, 5xhgx-h100, 4xscalex40@xdr, hgx-h200:2, my-box.yaml.
    new
        Name for a machine of your own. The command writes a file with comments for it to --out.
    like
        Machine whose numbers the new file starts with. You then replace them.
    out
        Path of the new file, such as my-box.yaml.
    """
    if new is not None:
        _write_new(name, new, like, out)
    elif like is not None or out is not None:
        raise SpecError("is missing", where="--new", hint="--like and --out need --new NAME")
    elif name is None:
        if devices is not None or numbers.set_ or numbers.assume:
            raise SpecError(
                "--devices, --set and --assume need one machine", hint="name one, such as `tokenworks systems scalex40`"
            )
        _print_all(output)
    else:
        parts = compose.parts(name, assume=numbers.given("machine"), devices=devices)
        if output == "table":
            _print_machine(parts)
        elif output == "yaml":
            write(machine_file(parts))
        else:
            emit(SystemDetail(parts).plain(), output)


def _write_new(name: str | None, new: str, like: str | None, out: Path | None) -> None:
    if name is not None:
        raise SpecError(f"both {name} and --new {new} are given", hint="give one of the two")
    if like is None or out is None:
        missing = "--like" if like is None else "--out"
        hint = "write the command like `tokenworks systems --new my-box --like hgx-h200 --out my-box.yaml`"
        raise SpecError("is missing", where=missing, hint=hint)
    if out.suffix not in (".yaml", ".yml"):
        raise SpecError("is not the name of a YAML file", where=f"--out {out}", hint="end the name in .yaml")
    write_template(new, compose.parts(like), out)
    notes().paragraph(f"wrote {out}: replace the numbers in it by yours, then plan with --on {out}")


def _print_all(output: OutputFormat) -> None:
    catalog = Systems.read()
    rows = catalog.rows
    if output != "table":
        emit(catalog.plain(), output)
        return
    _list(rows)
    console().paragraph(
        f"\n{sum(row['plannable'] for row in rows)} of {len(rows)} systems have all numbers that a plan needs. The "
        "other systems lack numbers that are not published: `tokenworks systems NAME` names these numbers; "
        "`--assume FILE` or `--set` supplies them."
    )


def _list(rows: Sequence[SystemRow]) -> None:
    columns: Columns = {
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
    title = "Systems: dense PFLOP/s, memory and memory bandwidth of all devices; scale-up link per device and direction"
    spare = ("assumed", "network", "BF16 PF", "link GB/s", "domain", "plan", "HBM TB", "TB/s")
    print_table(console(), columns, [_row(row) for row in rows], title=title, spare=spare)


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
    """A number with three digits; a dash for an unknown or infinite number."""
    if value is None or not 0 <= value < float("inf"):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _print_machine(parts: Parts) -> None:
    """Print every number of a machine with its status and source."""
    summary = system_row(parts)
    numbers = [
        [path, quantity.written or "-", quantity.status, "; ".join(filter(None, [quantity.source, quantity.note]))]
        for path, quantity in parts.quantities().items()
    ]
    facts = [
        [key, fact.value, fact.status, "; ".join(filter(None, [fact.source, fact.note]))]
        for key, fact in parts.system.facts.items()
    ]
    title = f"{parts.system.title}, " if parts.system.title else ""
    heading = f"{parts.on}: {title}{summary['devices']} devices in domains of {summary['domain']}"
    page = console()
    columns: Columns = {"number": "left", "value": "right", "status": "left", "source": "left"}
    print_table(page, columns, numbers, title=heading, wraps=("source",))
    if facts:
        columns = {"fact": "left", "value": "left", "status": "left", "source": "left"}
        title = "\nOther facts from the vendor; no formula uses them"
        print_table(page, columns, facts, title=title, wraps=("source", "value"))
    for spec in (parts.system, parts.device, parts.network):
        if spec and spec.note:
            page.paragraph(f"\n{spec.name}: {spec.note}")
    page.paragraph(f"\nAssumed numbers that a plan would use: {', '.join(summary['assumed']) or 'none'}")
    if summary["missing"]:
        page.paragraph(f"Missing numbers; give them with --assume FILE or --set: {', '.join(summary['missing'])}")
