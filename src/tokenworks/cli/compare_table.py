"""The tables of `tokenworks compare`: machines, reasons, availability, KV tiers, costs and places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tokenworks.cli.page import Page
from tokenworks.cli.plan import BINDING
from tokenworks.cli.tables import Columns, print_table
from tokenworks.errors import DoesNotFit, SloMissed, SpecError, TokenworksError
from tokenworks.ledger.compare_machines import four_digits
from tokenworks.ledger.comparison import Compared, Comparison, joules
from tokenworks.ledger.curves import Crossover
from tokenworks.specs.price import Money


def print_comparison(result: Comparison, out: Page) -> None:
    """Print a comparison as tables.

    Parameters
    ----------
    result : the comparison
    out : where to print
    """
    for line in _heading(result):
        out.paragraph(line)
    out.print()
    _print_machines(result, out)
    out.paragraph("\nWhy")
    for line in result.why:
        out.paragraph(f"- {line}")
    _print_availability(result, out)
    _print_tiers(result, out)
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


def _print_availability(result: Comparison, out: Page) -> None:
    """How much of the time each machine works and serves."""
    columns: Columns = {"machine": "left", "model": "left", "every part works": "right", "serves": "right"}
    columns |= {"capacity": "right", "most lost by": "left", "expected": "right"}
    if len(result.models) == 1:
        del columns["model"]
    lines = [line for one in result.systems for line in _availability_lines(one)]
    if not lines:
        return
    rows = [[line.get(name, "") for name in columns] for line in lines]
    title = f"\nAvailability with the failure rates {result.rates.name}, closed form"
    print_table(out, columns, rows, title=title, wraps=("machine",), spare=("every part works",))
    out.paragraph(
        "serves = share of the time in which the deployment serves. capacity = mean capacity that failures leave. "
        f"expected = effective x capacity, per {result.unit}. `tokenworks availability` simulates failures."
    )
    known = {item.path.removeprefix("reliability."): item for one in result.systems if one.uptime
             for item in one.uptime.assumed if item.path.startswith("reliability.")}  # fmt: skip
    if known:
        out.paragraph(f"{len(known)} rates and times are assumed, {', '.join([*known][:3])} and others (`-o json`).")


def _availability_lines(one: Compared) -> Iterator[dict[str, str]]:
    """The lines of a machine, one for each model: heading -> cell."""
    if one.uptime is None or one.capacity is None:
        return
    whole = {"machine": one.system, "every part works": f"{one.uptime.whole:.2%}"}
    if (expected := one.expected_tok_s_per_unit) is not None:
        whole["expected"] = four_digits(expected)
    for answer in one.answers:
        assert answer.uptime is not None
        cause = answer.uptime.cause
        yield whole | {
            "model": answer.model, "serves": f"{answer.uptime.serves:.3%}", "capacity": f"{answer.uptime.capacity:.3%}",
            "most lost by": "-" if cause is None else f"{cause} {answer.uptime.cause_share:.0%}",
        }  # fmt: skip
        whole = {}


def _print_tiers(result: Comparison, out: Page) -> None:
    """KV tiers below HBM of the best deployments."""
    columns: Columns = {"machine": "left", "model": "left", "KV cache in": "left", "TB": "right", "hit share": "right"}
    if len(result.models) == 1:
        del columns["model"]
    lines: list[dict[str, str]] = []
    sentences = []
    for one in result.systems:
        for answer in one.answers:
            if answer.tiers is None or answer.best is None:
                continue
            names = {"machine": one.system, "model": answer.model}
            for use in answer.tiers.uses:
                lines.append({
                    **names, "KV cache in": use.name, "TB": f"{use.capacity_bytes / 1e12:,.3g}",
                    "hit share": f"{use.hit_share:.1%}",
                })  # fmt: skip
                names = {}
            kept = "still meets" if answer.tiers.without_meets_slo else "misses"
            sentences.append(
                f"Without the tiers below HBM, the deployment of {one.system} gives "
                f"{answer.tiers.without_effective_tok_s:,.0f} effective tokens/s at the same load, instead of "
                f"{answer.best.effective_tok_s:,.0f}, and {kept} the SLO."
            )
    if not lines:
        return
    rows = [[line.get(name, "") for name in columns] for line in lines]
    title = f"\nKV tiers of the best deployments (--tiers {result.tiers}); hit share = share of the input tokens"
    print_table(out, columns, rows, title=title, wraps=("machine",))
    for sentence in sentences:
        out.paragraph(sentence)


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


def missed(result: Comparison) -> TokenworksError | None:
    """The error where no machine has a value; None if one has.

    Parameters
    ----------
    result : the comparison
    """
    if result.winner is not None:
        return None
    codes = [answer.exit_code for one in result.systems for answer in one.answers if answer.error]
    return none_has_a_value({one.system: one.error for one in result.systems}, codes)


def none_has_a_value(errors: Mapping[str, str], codes: Sequence[int]) -> TokenworksError:
    """The error where no machine has a value: a missed SLO counts before a model that does not fit.

    Parameters
    ----------
    errors : machine -> why it has no value
    codes : exit codes of all plans
    """
    reasons = "; ".join(error if error.startswith(name) else f"{name}: {error}" for name, error in errors.items())
    kind = next((kind for kind in (SloMissed, DoesNotFit) if kind.exit_code in codes), SpecError)
    return kind(f"no machine has a value: {reasons}")
