"""`tokenworks systems`: the machines of the catalog, or one machine with the status and source of every number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tokenworks.cli.options import Output
from tokenworks.cli.output import console, emit, listing, table
from tokenworks.planning.listing import SystemDetail, SystemRow, Systems, system_row
from tokenworks.specs import compose
from tokenworks.specs.compose import Parts


def systems(name: str | None = None, /, *, output: Output = "table") -> None:
    """List the machines, or show one with every number's source.

    Parameters
    ----------
    name
        anything that --on takes: scalex40, 5xhgx-h100, 4xscalex40@xdr, my-box.yaml
    """
    if name is None:
        known = Systems.read()
        rows = known.rows
        if output == "table":
            _list(rows)
            console().print(
                f"{sum(row['plannable'] for row in rows)} of {len(rows)} can be planned with; the others lack numbers "
                "that are not published (`tokenworks systems NAME` names them, --assume FILE supplies them)."
            )
        else:
            emit(known.plain(), output)
    else:
        found = compose.parts(name)
        if output == "table":
            _show(found)
        else:
            emit(SystemDetail(found).plain(), output)


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


def _show(found: Parts) -> None:
    """Every number with its status and source."""
    summary = system_row(found)
    numbers = [
        [path, quantity.written or "-", quantity.status, "; ".join(filter(None, [quantity.source, quantity.note]))]
        for path, quantity in found.quantities().items()
    ]
    facts = [
        [key, fact.value, fact.status, "; ".join(filter(None, [fact.source, fact.note]))]
        for key, fact in found.system.facts.items()
    ]
    heading = f"{found.on}: {found.system.title}, {summary['devices']} devices in domains of {summary['domain']}"
    page = console()
    page.print(table(heading, {"number": "left", "value": "right", "status": "left", "source": "left"}, numbers))
    if facts:
        page.print()
        page.print(table("Also told", {"fact": "left", "value": "left", "status": "left", "source": "left"}, facts))
    for spec in (found.system, found.device, found.network):
        if spec and spec.note:
            page.print(f"\n{spec.name}: {spec.note}")
    page.print(f"\nAssumed numbers that a plan would use: {', '.join(summary['assumed']) or 'none'}")
    if summary["missing"]:
        page.print(f"Missing, to be supplied with --assume FILE: {', '.join(summary['missing'])}")
