"""`tokenworks compare`: which machine, why, and what a token costs on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from tokenworks.cli.options import (
    CALIBRATION,
    MACHINE,
    NUMBERS,
    PAGE_HELP,
    REQUESTS,
    RESULT,
    PageFormat,
    PageOptions,
)
from tokenworks.cli.output import console, emit, timed
from tokenworks.cli.page import Page
from tokenworks.cli.plan import BINDING
from tokenworks.cli.progress import compile_once, progress
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import DoesNotFit, SloMissed, SpecError, TokenworksError
from tokenworks.ledger.compare import Axis
from tokenworks.ledger.compare import compare as comparing
from tokenworks.ledger.comparison import Compared, Comparison, Equal, four_digits, joules
from tokenworks.ledger.curves import Crossover
from tokenworks.ledger.terms import Pay
from tokenworks.planning.setting import EngineChoice
from tokenworks.specs.calibration import DEFAULT
from tokenworks.specs.given import AREAS, Given, from_options, given, split
from tokenworks.specs.price import Currency, Money, Region

MONEY = Group("Money and site", sort_key=2)
FORMAT = Parameter(name=["-o", "--output"], help=PAGE_HELP, group=RESULT)


@Parameter(name="*", group=MONEY)
@dataclass(frozen=True, kw_only=True)
class MoneyOptions:
    """What costs are computed with.

    Parameters
    ----------
    prices
        YAML file of prices that replace prices of the catalog, or litellm's price list (JSON), whose API prices are
        read.
    pay
        Buy the machines, or rent their devices.
    utilisation
        Share of the time in which the machines serve, such as 0.5. May be repeated: break-even prices are printed for
        each share, all other costs for the first one.
    currency
        Currency of all costs.
    region
        Region of the price of electricity.
    room
        YAML file of the room for the machines: racks, rack_power, power, rack_weight, cooling.
    api
        Model whose API price is a rival; by default the compared model.
    """

    prices: Path | None = None
    pay: Pay = "buy"
    utilisation: Annotated[tuple[float, ...], Parameter(negative=())] = (0.5,)
    currency: Currency = "USD"
    region: Region = "cn"
    room: Path | None = None
    api: str | None = None


def compare(
    models: Annotated[
        tuple[str, ...],
        Parameter(
            help="Models, as plan takes them. Of several models each may have its share of the effective tokens behind "
            "it, such as deepseek-ai/DeepSeek-R1=0.7 Qwen/Qwen3-8B=0.3.",
            group=MACHINE,
        ),
    ] = (),
    /,
    *,
    on: Annotated[
        tuple[str, ...], Parameter(help="Machine, as plan takes it. Give it twice or more.", group=MACHINE, negative=())
    ] = (),
    workload: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    isl: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    osl: Annotated[float | None, Parameter(group=REQUESTS)] = None,
    slo: Annotated[str | None, Parameter(group=REQUESTS)] = None,
    engine: Annotated[EngineChoice, Parameter(group=MACHINE)] = "auto",
    equal: Annotated[Equal, Parameter(group=RESULT)] = "devices",
    assume: Annotated[tuple[str, ...], Parameter(group=NUMBERS, negative=())] = (),
    set_: Annotated[tuple[str, ...], Parameter(name="--set", group=NUMBERS, negative=(), show_default=False)] = (),
    calibration: Annotated[str, CALIBRATION] = DEFAULT,
    money: MoneyOptions = MoneyOptions(),
    crossover: Annotated[tuple[Axis, ...], Parameter(group=RESULT, negative=())] = (),
    budget: Annotated[str | None, Parameter(group=RESULT)] = None,
    workers: Annotated[int | None, Parameter(group=RESULT)] = None,
    output: Annotated[PageFormat, FORMAT] = "table",
    page: PageOptions = PageOptions(),  # noqa: B008 - frozen
) -> None:
    """Compare machines on the same work: the best simulated plan of each, why one wins, and what a token costs.

    Parameters
    ----------
    workload
        Workload of the catalog (agent, chat, code, reason, summarise) or a YAML file.
    isl
        Mean input tokens of a request. --isl and --osl replace --workload.
    osl
        Mean output tokens of a request.
    slo
        Bounds, such as ttft=2s,tpot=50ms (99th percentiles) or ttft.p50=1s; by default the SLO of the workload.
    engine
        Serving engine. auto compares all engines that run on the device.
    equal
        What the machines have equal amounts of: devices, power of the devices under load, racks, or money (cost of an
        hour).
    assume
        YAML file of numbers that replace numbers of the catalog, for all machines, or for one of them:
        SYSTEM=FILE, such as scalex40=mine.yaml. May be repeated.
    set_
        Replace one number for all machines, such as engine.host_step=1ms or workload.isl=5000. May be repeated.
    crossover
        Repeat the comparison at other context lengths or other shares of reuse, and print where the winner changes.
        Takes several times as long. May be repeated.
    budget
        Where the search of each machine ends, settled or not, as in plan.
    workers
        Processes; by default one for each processor. The number changes no result.
    """
    began = time.perf_counter()
    page.check(output)
    if not on:
        raise SpecError("no machine", where="--on", hint="give two or more, such as --on scalex40 --on 5xhgx-h100")
    if workers is not None and workers < 1:
        raise SpecError(f"{workers} processes", where="--workers", hint="give 1 or more")
    bare, numbers = split(from_options(set_))
    if bare:
        hint = f"begin the path with one of {', '.join(AREAS)}, as in machine.{bare[0].path}"
        raise SpecError("no such path", where=bare[0].where, hint=hint)
    shared, own = _assumed(assume, on)
    shares = _shares(models)
    compile_once()
    with progress("reading") as report:
        result = comparing(
            shares, on, workload=workload, isl=isl, osl=osl, slo=slo, engine=engine, equal=equal,
            assume=(*shared, *numbers) or None, assume_of=own, calibration=calibration, budget=budget,
            prices=money.prices, pay=money.pay, utilisation=money.utilisation, currency=money.currency,
            region=money.region, room=money.room, api=money.api, crossover=crossover, workers=workers, progress=report,
        )  # fmt: skip
    if output == "table":
        _print(result, console())
    elif output == "json" or output == "yaml":  # noqa: PLR1714 - mypy reads these
        emit(timed(result.plain(), began), output)
    else:
        machines = [answer.machine for one in result.systems for answer in one.answers if answer.machine]
        page.write(output, result.plain(), machines)
    if error := _missed(result):
        raise error


def _shares(models: tuple[str, ...]) -> dict[str, float]:
    """Models with their shares: NAME or NAME=SHARE."""
    if not models:
        raise SpecError("no model", where="MODEL", hint="give one, such as deepseek-ai/DeepSeek-R1")
    shares: dict[str, float] = {}
    for text in models:
        name, equals, share = text.rpartition("=")
        if not equals:
            name, share = text, "1"
        try:
            value = float(share)
        except ValueError:
            raise SpecError("has no number behind =", where=text, hint=f"write {name}=0.5") from None
        if name in shares:
            raise SpecError("is given twice", where=name, hint="give each model once")
        shares[name] = value
    return shares


def _assumed(texts: tuple[str, ...], on: tuple[str, ...]) -> tuple[tuple[Given, ...], dict[str, tuple[Given, ...]]]:
    """Numbers for all machines, and numbers by machine."""
    shared: list[Given] = []
    own: dict[str, tuple[Given, ...]] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals:
            shared += given(Path(text))
        elif name not in on:
            raise SpecError("is not compared", where=f"--assume {text}", hint=f"one of {', '.join(on)}, as --on has it")
        elif not path:
            raise SpecError("has no file behind =", where=f"--assume {text}", hint=f"write {name}=mine.yaml")
        else:
            own[name] = (*own.get(name, ()), *given(Path(path)))
    return tuple(shared), own


def _missed(result: Comparison) -> TokenworksError | None:
    """The error where no machine has a value: a missed SLO counts before a model that does not fit."""
    if result.winner is not None:
        return None
    codes = {answer.exit_code for one in result.systems for answer in one.answers if answer.error}
    reasons = "; ".join(
        one.error if one.error.startswith(one.system) else f"{one.system}: {one.error}" for one in result.systems
    )
    kind = next((kind for kind in (SloMissed, DoesNotFit) if kind.exit_code in codes), SpecError)
    return kind(f"no machine has a value: {reasons}")


# ── the page ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _print(result: Comparison, out: Page) -> None:
    for line in _heading(result):
        out.paragraph(line)
    out.print()
    _print_machines(result, out)
    out.paragraph("\nWhy")
    for line in result.why:
        out.paragraph(f"- {line}")
    _print_costs(result, out)
    _print_sites(result, out)
    for line in (*_crossovers(result), *result.notes):
        out.paragraph(line)
    if any(answer.plan is not None for one in result.systems for answer in one.answers):
        out.paragraph("\nEach line of the first table comes from one of these commands:")
    for one in result.systems:
        for answer in one.answers:
            if answer.plan is not None:
                out.paragraph(f"  {answer.command}")


def _heading(result: Comparison) -> Iterator[str]:
    workload = result.asked["workload"] or {}
    names = ", ".join(
        f"{share:.0%} {model}" if len(result.models) > 1 else model for model, share in result.models.items()
    )
    yield names
    reuse = f", {workload['hit_share']:.0%} of it from the prefix cache" if workload.get("hit_share") else ""
    yield (
        f"{workload.get('title') or workload.get('name')}: {workload['isl']:,.0f} tokens in{reuse}, "
        f"{workload['osl']:,.0f} out; SLO {result.asked['slo'] or 'none'}; compared at equal {result.equal}"
    )


def _print_machines(result: Comparison, out: Page) -> None:
    columns: Columns = {"": "right", "machine": "left", "model": "left", "devices": "right", "deployment": "left"}
    columns |= {"engine": "left", "effective": "right", "80 % interval": "right", "whole machine": "right"}
    columns |= {"users": "right", "tok/s user": "right", "J/token": "right", "bound by": "left"}
    if len(result.models) == 1:
        del columns["model"]
    lines = [line for rank, one in enumerate(result.systems, 1) for line in _lines(rank, one, result)]
    rows = [[line.get(name, "") for name in columns] for line in lines]
    print_table(
        out,
        columns,
        rows,
        wraps=("deployment", "machine"),
        spare=("bound by", "J/token", "engine", "tok/s user", "whole machine", "users"),
    )
    out.paragraph(
        f"\neffective = output tokens/s of requests that meet the SLO, per {result.unit}. whole machine = the same, of "
        "all devices. users = requests in flight, and users who think. J/token = energy of the devices per effective "
        "token."
    )
    for one in result.systems:
        if one.error:
            out.paragraph(f"{one.system} has no value: {one.error}")


def _lines(rank: int, one: Compared, result: Comparison) -> Iterator[dict[str, str]]:
    """The lines of a machine, one for each model: heading -> cell."""
    if one.effective_tok_s_per_unit is None or one.devices is None:
        yield {"": "-", "machine": one.system, "deployment": "no value"}
        return
    whole = {"": str(rank), "machine": one.system, "devices": f"{one.devices:,}"}
    whole["effective"] = four_digits(one.effective_tok_s_per_unit)
    for answer, share in zip(one.answers, result.models.values(), strict=True):
        row, best = answer.row, answer.best
        assert row is not None
        assert best is not None
        energy = joules(answer)
        cells = {
            "model": f"{share:.0%} {answer.model}", "deployment": str(row.deployment), "engine": row.deployment.engine,
            "whole machine": f"{best.effective_tok_s:,.0f}", "users": f"{best.users:,.0f}",
            "tok/s user": f"{row.output_tok_s_per_user:,.1f}", "J/token": "-" if energy is None else f"{energy:,.3g}",
            "bound by": BINDING[row.bound_by],
        }  # fmt: skip
        if len(one.answers) == 1:
            factor = one.effective_tok_s_per_unit / row.output_tok_s_per_device
            low, high = (four_digits(end * factor) for end in row.interval["output_tok_s_per_device"])
            cells["80 % interval"] = f"{low} to {high}"
        yield whole | cells
        whole = {}


def _print_costs(result: Comparison, out: Page) -> None:
    out.paragraph(f"\nCost, in {result.terms.currency}: {result.terms.words}; SLO {result.asked['slo'] or 'none'}")
    columns: Columns = {"machine": "left", "an hour": "right", "M effective": "right", "low to high": "right"}
    columns |= {"M input": "right", "M cached": "right", "M output": "right"}
    rows = []
    for one in result.systems:
        cost = one.costs.cost
        if cost is None or cost.missing:
            continue
        whole = cost.per_million_effective
        rows.append([
            one.system, _amount(cost.per_hour), _amount(whole), _ends(whole, ",.3g"),
            _amount(cost.per_million_input), _amount(cost.per_million_cached), _amount(cost.per_million_output),
        ])  # fmt: skip
    if rows:
        print_table(out, columns, rows, wraps=("machine",))
        out.paragraph(
            "M effective = all cost, per million effective tokens. M input, M cached, M output = the cost of the "
            "device time of computed input, of cached input and of output, per million of these tokens."
        )
    for one in result.systems:
        if one.costs.cost is not None and one.costs.cost.missing:
            out.paragraph(f"{one.system} has no cost; {one.costs.cost.needed}")
    for one in result.systems:
        if one.costs.cost is not None and one.costs.cost.missing:
            _print_break_even(one, result, out)


def _print_break_even(one: Compared, result: Comparison, out: Page) -> None:
    """The prices at which a machine without a price has tokens as cheap as those of its rivals."""
    unit, rivals = result.terms.currency, one.costs.rivals
    answered = [rival for rival in rivals if rival.break_even.price is not None]
    if not answered:
        for rival in rivals[:1]:
            out.paragraph(f"{rival.break_even.words}.")
        return
    out.paragraph(f"\nPrice of {one.system} in {unit} at which its effective tokens cost as much as those of a rival:")
    columns: Columns = {"rival": "left", "utilisation": "right", "price": "right", "low to high": "right"}
    columns["price of a card"] = "right"
    rows = []
    for rival in sorted(answered, key=lambda rival: [known.name for known in answered].index(rival.name)):
        asked = rival.break_even
        card = "-" if asked.per_card is None or asked.per_card.mid < 0 else f"{asked.per_card.mid:,.0f}"
        price = "none" if asked.price is None or asked.price.mid < 0 else f"{asked.price.mid:,.0f}"
        rows.append([rival.name, f"{asked.terms.utilisation:.0%}", price, _ends(asked.price, ",.0f"), card])
    print_table(out, columns, rows, wraps=("rival",), spare=("low to high",))
    never = [rival for rival in answered if rival.break_even.price and rival.break_even.price.mid < 0]
    for rival in never[:1]:
        out.paragraph(f"Against {rival.name}, {rival.break_even.words}.")
    machines = {other.system for other in result.systems}
    against = next((rival.name for rival in answered if rival.name in machines), "")
    if one.costs.effects:
        moved = "; ".join(
            f"{effect.name} {effect.low_input} to {effect.high_input}: {effect.low:,.0f} to {effect.high:,.0f}"
            for effect in one.costs.effects
        )
        out.paragraph(f"What moves this price most, against {against}: {moved} {unit}.")


def _ends(money: Money | None, form: str) -> str:
    return "" if money is None else f"{money.low:{form}} to {money.high:{form}}"


def _amount(money: Money | None) -> str:
    return "-" if money is None else f"{money.mid:,.3g}"


def _print_sites(result: Comparison, out: Page) -> None:
    columns: Columns = {"site": "left", "boxes": "right", "units": "right", "racks": "right", "kW a rack": "right"}
    columns |= {"kg a rack": "right", "cooling": "left", "cables": "right", "scale-out links": "right"}
    columns |= {"endpoints": "right", "boxes that fit": "right"}
    rows = []
    for one in result.systems:
        place = one.costs.placed
        if place is None:
            continue
        machine = place.hardware
        rows.append([
            one.system, f"{place.boxes:,}", _number(machine.rack_units), f"{place.racks:,}",
            _number(place.rack_power_w, 1e3), _number(place.rack_weight_kg), machine.cooling or "-",
            _number(machine.cables), f"{machine.links:,}", f"{machine.endpoints:,}",
            "-" if place.fits is None else f"{place.fits:,}",
        ])  # fmt: skip
    out.print()
    if rows:
        print_table(out, columns, rows, wraps=("site",), spare=("kg a rack", "cables", "units", "endpoints"))
    for one in result.systems:
        if one.costs.placed is None and not (one.error and one.costs.error == one.error):
            why = one.costs.error or "its height is not published; give machine.rack_units with --assume SYSTEM=FILE"
            out.paragraph(f"{one.system} has no place: {why}")


def _number(value: float | None, scale: float = 1.0) -> str:
    return "-" if value is None else f"{value / scale:,.4g}"


def _crossovers(result: Comparison) -> Iterator[str]:
    prices = [one for one in result.crossovers if one.axis.startswith("price of ")]
    tokens = [one for one in result.crossovers if one not in prices]
    if not tokens:
        if result.winner is not None and result.ratios and len(result.models) == 1:
            yield f"\nAt every speed per user, {result.winner.system} has the most throughput per {result.unit}."
    else:
        yield f"\nWhere the winner changes (output tokens/s per {result.unit}, simulated curves):"
    for one in tokens:
        yield f"- {_axis(one)}: {one.below or 'no machine'} below, {one.above or 'no machine'} above"
    if prices:
        unit = result.terms.currency
        yield f"\nWhere the cheapest effective token changes machines ({result.terms.utilisation:.0%} utilisation):"
        for one in prices:
            yield f"- {one.axis} {one.low:,.0f} {unit}: {one.below} below, {one.above} above"


def _axis(one: Crossover) -> str:
    if one.axis == "output_tok_s_per_user":
        return f"{(one.low * one.high) ** 0.5:,.3g} tok/s per user (mean TPOT {1e3 / one.low:,.3g} ms)"
    what = "input tokens" if one.axis == "context" else "of the input from the cache"
    ends = (f"{value:,.0f}" if one.axis == "context" else f"{value:.0%}" for value in (one.low, one.high))
    return f"between {' and '.join(ends)} {what}"
