"""`tokenworks compare --train`: which machine trains the model fastest, why, and what the run costs."""

from __future__ import annotations

from collections.abc import Iterator

from tokenworks.cli.compare_table import none_has_a_value
from tokenworks.cli.page import Page
from tokenworks.cli.tables import Columns, print_table
from tokenworks.cli.train import energy_words, plan_words, token_words
from tokenworks.errors import TokenworksError
from tokenworks.ledger.compare_machines import four_digits
from tokenworks.ledger.train_comparison import TrainCompared, TrainComparison
from tokenworks.specs.price import Money


def print_runs(result: TrainComparison, out: Page) -> None:
    """Print a comparison of training as tables.

    Parameters
    ----------
    result : the comparison
    out : where to print
    """
    out.paragraph(
        f"{result.asked['model']}: {result.method} on {token_words(result.tokens)} tokens, "
        f"{result.batch_sequences:,} x {result.seq_len:,} tokens a step; compared at equal {result.equal}"
    )
    out.print()
    columns: Columns = {"": "right", "machine": "left", "devices": "right", "plan": "left", "kept tok/s": "right"}
    columns |= {"80 % interval": "right", "days": "right", "tok/s device": "right", "MFU": "right", "goodput": "right"}
    columns |= {"energy": "right", "bound by": "left"}
    lines = [_line(rank, one) for rank, one in enumerate(result.systems, 1)]
    rows = [[line.get(name, "") for name in columns] for line in lines]
    print_table(out, columns, rows, wraps=("plan", "machine"), spare=("bound by", "energy", "tok/s device"))
    out.paragraph(
        f"\nkept tok/s = tokens/s that the run keeps, checkpoints and failures counted, per {result.unit}. tok/s "
        "device = tokens/s without failures / devices of the machine. energy = of the devices, for the whole run."
    )
    for one in result.systems:
        if one.error:
            out.paragraph(f"{one.system} has no value: {one.error}")
    out.paragraph("\nWhy")
    for line in result.why:
        out.paragraph(f"- {line}")
    _print_costs(result, out)
    for line in result.notes:
        out.paragraph(line)
    commands = [one.study.command for one in result.systems if one.study.run]
    if commands:
        out.paragraph("\nEach line of the first table comes from one of these commands:")
    for command in commands:
        out.paragraph(f"  {command}")


def missed_runs(result: TrainComparison) -> TokenworksError | None:
    """The error where no machine has a value; None if one has.

    Parameters
    ----------
    result : the comparison
    """
    if result.winner is not None:
        return None
    codes = [one.study.exit_code for one in result.systems]
    return none_has_a_value({one.system: one.error for one in result.systems}, codes)


def _line(rank: int, one: TrainCompared) -> dict[str, str]:
    """The line of a machine: heading -> cell."""
    best, run = one.study.best, one.study.run
    if best is None or run is None or one.kept_tok_s_per_unit is None:
        return {"": "-", "machine": one.system, "plan": "no value"}
    factor = one.kept_tok_s_per_unit / best.tok_s_per_device
    low, high = (four_digits(end * factor) for end in best.interval["tok_s_per_device"])
    return {
        "": str(rank), "machine": one.system, "devices": f"{one.devices:,}", "plan": plan_words(best.training),
        "kept tok/s": four_digits(one.kept_tok_s_per_unit), "80 % interval": f"{low} to {high}",
        "days": f"{best.days:,.4g}", "tok/s device": f"{best.tok_s_per_device:,.0f}", "MFU": f"{best.mfu:.1%}",
        "goodput": f"{run.goodput.share:.1%}",
        "energy": "-" if best.energy_kwh is None else energy_words(best.energy_kwh), "bound by": best.bound_by,
    }  # fmt: skip


def _print_costs(result: TrainComparison, out: Page) -> None:
    """What an hour of each machine and the run cost."""
    out.paragraph(f"\nCost, in {result.terms.currency}: {result.terms.words}")
    columns: Columns = {"machine": "left", "an hour": "right", "the run": "right", "low to high": "right"}
    rows = list(_costs(result))
    if rows:
        print_table(out, columns, rows, wraps=("machine",))
    for one in result.systems:
        if one.cost is not None and one.cost.missing:
            out.paragraph(f"{one.system} has no cost; {one.cost.needed}")


def _costs(result: TrainComparison) -> Iterator[list[str]]:
    for one in result.systems:
        if one.run_cost is None or one.cost is None or one.cost.per_hour is None:
            continue
        paid = one.run_cost
        yield [one.system, _amount(one.cost.per_hour), _amount(paid), f"{_figure(paid.low)} to {_figure(paid.high)}"]


def _amount(money: Money) -> str:
    return _figure(money.mid)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1e3 else f"{value:,.3g}"
