"""Checks of purchase prices: what supernodes cost, and scaleX40 beside five 8-card servers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenworks.ledger.claims.article import ABOUT, number_of
from tokenworks.ledger.claims.asks import Answers
from tokenworks.ledger.claims.basis import Basis, system_of
from tokenworks.ledger.claims.check import Check
from tokenworks.ledger.claims.finding import ClaimTable, ClaimVerdict, Finding, TableCell, TurningPoint
from tokenworks.ledger.cost import HOURS, beside, capex, opex
from tokenworks.ledger.site import hardware_of
from tokenworks.ledger.terms import Terms, terms_of
from tokenworks.specs.price import Money

MILLION = 1e6
TOP = ("gb200-nvl72", "cloudmatrix384", "scalex640")
"""The supernodes of C02."""

HUNDRED = 100.0
"""The upper price of C02 [M CNY]."""


def _cny(basis: Basis, dollars: Money) -> Money:
    """An amount in millions of yuan."""
    return dollars * (basis.prices.cny_per_usd / MILLION)


def _range(money: Money) -> tuple[TableCell, ...]:
    return money.low, money.mid, money.high


# ── C02: prices of supernodes ─────────────────────────────────────────────────────────────────────────────────────


def _top_paths(_basis: Basis) -> Iterable[str]:
    return (*(f"prices.systems.{name}" for name in TOP), "prices.finance.cny_per_usd")


def _top_prices(basis: Basis, _answers: Answers) -> Finding:
    number, rows, known = number_of("C02"), list[tuple[TableCell, ...]](), list[Money]()
    for name in (*TOP, "vera-rubin-nvl72"):
        bought = capex(hardware_of(basis.parts(name)), basis.prices)
        if bought.total is None:
            rows.append((name, None, None, None, f"no price of {', '.join(bought.missing)}"))
            continue
        rows.append((name, *_range(_cny(basis, bought.total)), ""))
        if name in TOP:
            known.append(_cny(basis, bought.total))
    columns = ("system", "low [M CNY]", "middle [M CNY]", "high [M CNY]", "remark")
    tables = (ClaimTable("Purchase with racks, installation and cooling", columns, tuple(rows)),)
    if not known:
        return Finding("cannot be known", ("No price is published.",), unit=number.unit, tables=tables)
    low, high = min(one.low for one in known), max(one.high for one in known)
    verdict = number.verdict(low, high)
    if verdict == "holds" and high < HUNDRED:
        verdict = "holds if"
    least = min(one.mid for one in known)
    return Finding(
        verdict,
        (f"Priced are {len(known)} of {len(TOP)}: from {low:,.3g} to {high:,.3g} M CNY with everything around them.",),
        least,
        low,
        high,
        number.unit,
        (
            "Tens of millions: it holds for NVL72 and CloudMatrix384.",
            f"More than a hundred million: {'it holds' if high >= HUNDRED else 'no known price reaches it'}; the "
            "highest is "
            f"{high:,.3g} M CNY.",
        ),
        tables,
        notes=("Nobody published a price of scaleX640. Sources of the NVL72 contradict each other.",),
    )


# ── C11: scaleX40 beside five servers ─────────────────────────────────────────────────────────────────────────────

OWN_NETWORK = ("switch_port", "optic_400g", "fibre")
ROOM = ("rack", "installation_rack", "installation_link", "cdu")


def _price_path(basis: Basis) -> str:
    return f"prices.systems.{system_of(basis.mix.machine)}"


def _cost_paths(basis: Basis) -> Iterable[str]:
    """Prices of the machine, of the cards and hosts of each baseline, and of everything around them."""
    yield _price_path(basis)
    for on in basis.mix.baselines:
        parts = basis.parts(on)
        for path in (f"prices.cards.{parts.device.name}", f"prices.servers.{parts.system.name}"):
            if path.removeprefix("prices.") in dict(basis.prices.items()):
                yield path
    yield from (f"prices.network.{name}" for name in OWN_NETWORK)
    yield from (f"prices.room.{name}" for name in ROOM)
    yield "prices.finance.cny_per_usd"


@dataclass(frozen=True)
class _Rival:
    """A baseline: its purchase, and the price at which the machine costs as much [M CNY]; None: a price is missing."""

    name: str
    bought: Money | None
    equal: Money | None
    years: Money | None


def _rivals(basis: Basis, terms: Terms) -> Iterator[_Rival]:
    around = beside(hardware_of(basis.parts(basis.mix.machine)), basis.prices, terms.room)
    for on in basis.mix.baselines:
        bought = capex(hardware_of(basis.parts(on)), basis.prices, terms.room).total
        if bought is None or around.total is None:
            yield _Rival(on, None, None, None)
            continue
        run = _running(basis, on, terms)
        years = None if run is None else _cny(basis, bought + run)
        yield _Rival(on, _cny(basis, bought), _cny(basis, bought - around.total), years)


def _running(basis: Basis, on: str, terms: Terms) -> Money | None:
    """Power, space and staff over the years of the terms [USD]; None: a number is missing."""
    hourly = opex(hardware_of(basis.parts(on)), basis.prices, terms, busy_w=None)
    total = Money(0.0, 0.0, 0.0)
    for money in hourly.values():
        if money is None:
            return None
        total += money * (HOURS * terms.years)
    return total


def _costs(basis: Basis, _answers: Answers) -> Finding:
    terms = terms_of(basis.prices)
    rivals = tuple(_rivals(basis, terms))
    own = basis.prices.usd(basis.prices.systems.get(system_of(basis.mix.machine)))
    tables = (_cost_table(rivals, terms), _own_table(basis, terms))
    priced = [one for one in rivals if one.equal is not None]
    if not priced:
        return Finding("cannot be known", ("No baseline has a price.",), unit="M CNY", tables=tables)
    if own is None:
        return _without_price(basis, priced, tables)
    return _with_price(basis, _cny(basis, own), priced, tables)


def _equal(one: _Rival) -> Money:
    assert one.equal is not None
    return one.equal


def _without_price(basis: Basis, priced: list[_Rival], tables: tuple[ClaimTable, ...]) -> Finding:
    """Nobody published the price: what it would have to be."""
    first = _equal(priced[0])
    low, high = min(_equal(one).low for one in priced), max(_equal(one).high for one in priced)
    machine = basis.mix.machine
    return Finding(
        "cannot be known",
        (
            f"Nobody published a price of {machine}. Against {priced[0].name} it would have to cost "
            f"{first.low:,.3g} to "
            f"{first.high:,.3g} M CNY.",
        ),
        first.mid,
        low,
        high,
        "M CNY",
        tuple(
            f"It would hold against {one.name} if {machine} cost {_equal(one).low * (1 - ABOUT):,.3g} to "
            f"{_equal(one).high * (1 + ABOUT):,.3g} M CNY, cards, hosts and switch nodes together."
            for one in priced
        ),
        tables,
        notes=(
            f"Give the price with --set {_price_path(basis)}='8000000 CNY/system', and the claim is judged. Computed "
            f"is the price at which it costs as much as {priced[0].name}.",
        ),
        turning_points=tuple(_turning(basis, priced)),
    )


def _turning(basis: Basis, priced: list[_Rival]) -> Iterator[TurningPoint]:
    """The prices at which the claim begins and ceases to hold against any baseline [USD]."""
    ends = [(_equal(one).low * (1 - ABOUT), _equal(one).high * (1 + ABOUT)) for one in priced]
    pair, dollars = ("does not hold", "holds if"), MILLION / basis.prices.cny_per_usd
    for value, below, above in ((min(low for low, _ in ends), *pair), (max(high for _, high in ends), *pair[::-1])):
        yield TurningPoint(_price_path(basis), value * dollars, "USD/system", None, below, above)  # type: ignore[arg-type]


def _with_price(basis: Basis, own: Money, priced: list[_Rival], tables: tuple[ClaimTable, ...]) -> Finding:
    """The price is given: cost of the machine / cost of each baseline, everything around them included."""
    around = capex(hardware_of(basis.parts(basis.mix.machine)), basis.prices).total
    assert around is not None
    whole = _cny(basis, around)
    ratios: dict[str, tuple[float, float, float]] = {}
    held: dict[str, bool] = {}
    for one in priced:
        assert one.bought is not None
        bought = one.bought
        ratios[one.name] = (whole.low / bought.high, whole.mid / bought.mid, whole.high / bought.low)
        held[one.name] = own.high >= _equal(one).low * (1 - ABOUT) and own.low <= _equal(one).high * (1 + ABOUT)
    first = ratios[priced[0].name]
    verdict: ClaimVerdict = "holds" if all(held.values()) else "holds if" if any(held.values()) else "does not hold"
    rows = tuple((name, *ratio, "yes" if held[name] else "no") for name, ratio in ratios.items())
    columns = ("baseline", "low", "middle", "high", f"within {ABOUT:.0%} of 1")
    return Finding(
        verdict,
        (
            f"With {own.mid:,.3g} M CNY for {basis.mix.machine}, its purchase is {first[1]:,.3g} x that of "
            f"{priced[0].name}.",
        ),
        first[1],
        min(one[0] for one in ratios.values()),
        max(one[2] for one in ratios.values()),
        "",
        tuple(f"It {'holds' if held[name] else 'does not hold'} against {name}." for name in ratios),
        (ClaimTable("Purchase of the machine / purchase of the baseline", columns, rows), *tables),
    )


def _cost_table(rivals: Iterable[_Rival], terms: Terms) -> ClaimTable:
    rows = []
    for one in rivals:
        cells = [_range(money) if money else (None, None, None) for money in (one.bought, one.equal, one.years)]
        rows.append((one.name, *cells[0], *cells[1], *cells[2]))
    words = ("purchase", "equal price of the machine", f"purchase and {terms.years:g} years")
    columns = ("baseline", *(f"{word}, {end} [M CNY]" for word in words for end in ("low", "middle", "high")))
    return ClaimTable(
        "Baselines with NICs, switches, optics, cables, racks and installation; then with power, space and staff",
        columns,
        tuple(rows),
    )


def _own_table(basis: Basis, terms: Terms) -> ClaimTable:
    """What stands around the machine, and what it takes over the years."""
    around = beside(hardware_of(basis.parts(basis.mix.machine)), basis.prices, terms.room)
    rows = [(name, *_range(_cny(basis, money))) for name, money in around.parts.items()]
    run = _running(basis, basis.mix.machine, terms)
    if run is not None:
        rows.append((f"power, space and staff of {terms.years:g} years", *_range(_cny(basis, run))))
    columns = ("part", "low [M CNY]", "middle [M CNY]", "high [M CNY]")
    return ClaimTable(f"{basis.mix.machine} without its own price", columns, tuple(rows))


CHECKS: dict[str, Check] = {
    "C02": Check(_top_prices, rests_on=_top_paths, turns=_top_paths),
    "C11": Check(_costs, rests_on=_cost_paths, turns=lambda basis: (_price_path(basis),)),
}
"""Number of a claim -> its check."""
