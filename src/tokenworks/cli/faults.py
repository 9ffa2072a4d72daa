"""Faults in `simulate`: options, and the tables of what each fault did and what requests felt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter

from tokenworks.cli.page import BARS, Page
from tokenworks.cli.tables import Columns, print_table

if TYPE_CHECKING:
    from tokenworks.simulation.faults import FailureInput

FAULTS = Group("Faults", sort_key=1)
SHOWN = 8
"""Most faults of a table [count]."""
WIDTH, BESIDE = 60, 40
"""Bars of a series over time; width of the text beside them [character]."""


@Parameter(name="*", group=FAULTS)
@dataclass(frozen=True, kw_only=True)
class FaultOptions:
    """Faults of a run.

    Parameters
    ----------
    faults
        Schedule of faults: a YAML file with a list of faults, such as {at: 10 min, part: device 7, for: 3 min}.
    failures
        Seed of random faults, by the failure rates of the parts.
    hazard
        With --failures: all failure rates are multiplied by HAZARD, 1 by default. An hour of a machine has few faults.
    reliability
        Failure rates and times of the recovery: name in the catalog or YAML file; `published` by default.
    """

    faults: Path | None = None
    failures: int | None = None
    hazard: float | None = None
    reliability: str | None = None

    def read(self) -> FailureInput | None:
        """The faults that are asked for; None: no option asks for faults."""
        if all(value is None for value in (self.faults, self.failures, self.hazard, self.reliability)):
            return None
        from tokenworks.simulation.faults import FailureInput

        return FailureInput.read(self.faults, self.failures, self.hazard, self.reliability)


def print_faults(plain: dict[str, Any], out: Page) -> None:
    """Print what each fault did, what requests felt around it, and effective tokens over time.

    Parameters
    ----------
    plain : a simulation as plain data
    out : the page
    """
    faults = plain.get("faults")
    if not faults or not faults["faults"]:
        return
    numbers = ("at [s]", "for [s]", "devices", "ranks", "bandwidth lost", "noticed after [s]", "down [s]",
               "whole after [s]", "requests lost", "sent again", "tokens lost")  # fmt: skip
    columns: Columns = {"fault": "left", **dict.fromkeys(numbers, "right")}
    rows = [_fault_row(fault) for fault in faults["faults"][:SHOWN]]
    out.print()
    print_table(out, columns, rows, spare=("bandwidth lost", "for [s]", "devices", "noticed after [s]"))
    more = len(faults["faults"]) - SHOWN
    if more > 0:
        out.paragraph(f"and {more:,} more faults; `-o json` has all of them.")
    _print_felt(faults, out)
    lost, healthy = faults["lost_effective_share"], faults["healthy_effective_tokens"]
    beside = "" if healthy is None or lost is None else (
        f"; without faults {healthy:,}: {lost:.2%} are lost" if lost >= 0
        else f"; without faults {healthy:,}: {-lost:.2%} more with them, by chance"
    )  # fmt: skip
    out.paragraph(
        f"\nEffective tokens: {faults['effective_tokens']:,}{beside}. {faults['lost_requests']:,} requests lost their "
        f"rank, {faults['retries']:,} of these were sent again; {faults['lost_output_tokens']:,} output tokens were "
        f"thrown away, and {faults['lost_kv_tokens']:,} tokens of KV cache were lost."
    )
    _print_bars(faults["series"], out)


def _fault_row(fault: dict[str, Any]) -> list[str]:
    noticed = fault["noticed_s"]
    return [
        fault["part"] + (" (permanent)" if fault["permanent"] else ""),
        _shown(fault["at_s"]),
        _shown(fault["lasts_s"]),
        str(fault["devices"]),
        str(fault["ranks"]),
        f"{fault['lost_bandwidth_share']:.0%}",
        "-" if noticed is None else _shown(noticed - fault["at_s"]),
        _shown(fault["down_s"]),
        _shown(fault["whole_s"] - fault["at_s"]),
        f"{fault['lost_requests']:,}",
        f"{fault['retries']:,}",
        f"{fault['lost_output_tokens']:,}",
    ]


def _shown(value: float) -> str:
    """A number with four digits, or with all digits of its integer part."""
    return f"{value:,.0f}" if value >= 1e3 else f"{value:.4g}"


def _print_felt(faults: dict[str, Any], out: Page) -> None:
    """Print the windows before, during and after each fault."""
    numbers = ("from [s]", "to [s]", "arrived", "failed", "TTFT p50 [ms]", "TTFT p99 [ms]", "TPOT p50 [ms]",
               "TPOT p99 [ms]", "effective tokens/s")  # fmt: skip
    columns: Columns = {"what requests felt": "left", **dict.fromkeys(numbers, "right")}
    rows = []
    for fault in faults["faults"][:SHOWN]:
        for name in ("before", "during", "after"):
            felt = fault[name]
            times = ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_tpot_ms")
            rows.append(
                [
                    f"{name} {fault['part']}",
                    _shown(felt["from_s"]),
                    _shown(felt["to_s"]),
                    f"{felt['arrived']:,}",
                    f"{felt['failed']:,}",
                    *("-" if felt[key] is None else _shown(felt[key]) for key in times),
                    f"{felt['effective_tok_s']:,.0f}",
                ]
            )
    out.print()
    print_table(out, columns, rows, spare=("to [s]", "TTFT p50 [ms]", "TPOT p50 [ms]"))


def _print_bars(series: dict[str, Any], out: Page) -> None:
    """Print effective tokens per second over time, with and without the faults."""
    rows = {"with faults": series["effective_tok_s"], "without": series["healthy_effective_tok_s"]}
    most = max((max(values) for values in rows.values() if values), default=0.0)
    room = min(WIDTH, max(1, out.width - BESIDE))
    for name, values in rows.items():
        if not values:
            continue
        size = -(-len(values) // room)
        means = [sum(part) / len(part) for part in (values[i : i + size] for i in range(0, len(values), size))]
        bars = "".join(BARS[round(value * (len(BARS) - 1) / most) if most else 0] for value in means)
        out.print(f"{name:>11} {bars} effective tokens/s, at most {max(values):,.0f}")
