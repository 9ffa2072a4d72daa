"""Ratios of two machines in many cases: the cells of a map, what they are at equal money, and the verdict they give."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tokenworks.ledger.break_even import break_even
from tokenworks.ledger.claims.article import ClaimNumber
from tokenworks.ledger.claims.basis import Basis
from tokenworks.ledger.claims.finding import ClaimMap, ClaimTable, ClaimVerdict, MapCell, TableCell, TurningPoint
from tokenworks.ledger.cost import Served, cost
from tokenworks.ledger.priced import paying
from tokenworks.ledger.site import Hardware, hardware_of
from tokenworks.ledger.terms import Terms
from tokenworks.specs.compose import settable
from tokenworks.specs.price import Prices

ONLY_SUPERNODE, ONLY_SERVERS, NEITHER = "only the supernode", "only the servers", "neither"
"""States of a cell without a ratio: which machine does the work at all."""


@dataclass(frozen=True, slots=True)
class Gain:
    """What a supernode gains over servers in one case.

    Parameters
    ----------
    cell : the ratio at equal cards, or why there is none
    own, other : what both machines serve; None: a machine does not do the work
    on, against : the supernode and the servers, as `--on` writes them
    """

    cell: MapCell
    own: Served | None
    other: Served | None
    on: str
    against: str

    @property
    def valued(self) -> bool:
        """Whether both machines do the work."""
        return self.cell.value is not None


def state_of(own: object, other: object) -> str:
    """The state of a cell of which at least one machine does not do the work."""
    return ONLY_SUPERNODE if own else ONLY_SERVERS if other else NEITHER


# ── verdict ───────────────────────────────────────────────────────────────────────────────────────────────────────


def verdict_of(cells: Sequence[MapCell], number: ClaimNumber) -> ClaimVerdict:
    """The verdict on a claim that does not say which case it means.

    "up to": one case is enough. "at least": all cases must reach the number. A claim holds if the whole intervals do,
    and it does not hold if no case reaches the number with its value: an interval that reaches it is a reason to
    measure, and no support of the claim. A case that only the supernode does has no ratio: it never makes a claim hold,
    and it never lets one fail. A case that no machine does says nothing.

    Parameters
    ----------
    cells : the ratios of all cases
    number : the number of the claim
    """
    cells = [cell for cell in cells if cell.state != NEITHER]
    valued = [cell for cell in cells if cell.value is not None]
    if not valued:
        return "cannot be known"
    sure = [_end(cell.low) >= number.value for cell in valued]
    if any(sure) if number.relation == "up to" else all(sure) and len(valued) == len(cells):
        return "holds"
    return "holds if" if any(_end(cell.value) >= number.value for cell in valued) else "does not hold"


def _end(value: float | None) -> float:
    assert value is not None
    return value


def best_and_worst(gains: Iterable[Gain]) -> tuple[Gain, Gain] | None:
    """The largest and the smallest ratio; None: there is no ratio."""
    valued = [gain for gain in gains if gain.valued]
    return (max(valued, key=_value), min(valued, key=_value)) if valued else None


def _value(gain: Gain) -> float:
    return _end(gain.cell.value)


def two_digits(value: float | None) -> str:
    """A ratio with two digits, or with all digits before the point: 0.84, 4.5, 118."""
    ratio = _end(value)
    return f"{ratio:,.0f}" if ratio >= 99.5 else f"{ratio:.2g}"


def ratio_words(cell: MapCell) -> str:
    """A ratio with its interval, in words."""
    low, value, high = map(two_digits, (cell.low, cell.value, cell.high))
    return f"{value} times ({low} to {high} with 80 % probability)"


def honest(
    gains: Sequence[Gain], *, does: str, amount: str, assumed: Collection[str] = (),
    cards: Mapping[str, int] | None = None,
) -> str:  # fmt: skip
    """The best sentence about the gain that is true: the best case with its interval, and the worst one beside it.

    Parameters
    ----------
    gains : all cases
    does : what the machines do with a case, such as "serves"
    amount : what the tokens are counted for, such as "card"
    assumed : servers with numbers that nobody published
    cards : machine -> its cards, to be named; None: the machines have as many as each other [count]

    Returns
    -------
    The sentence; empty: there is no ratio.
    """
    ends = best_and_worst(gains)
    if ends is None:
        return ""
    best, worst = ends
    guess = ", some numbers of which are assumed" if best.against in assumed else ""
    sizes = f", {cards[best.on]} cards against {cards[best.against]}" if cards else ""
    return (
        f'An honest salesman can say: "{best.on} {does} {best.cell.row} at up to {ratio_words(best.cell)} the tokens '
        f"per {amount} of {best.against}{sizes}{guess}. In the worst of {sum(gain.valued for gain in gains)} cases it "
        f'is {two_digits(worst.cell.value)} times: {worst.cell.row}, {worst.on} against {worst.against}."'
    )


def conditions(
    gains: Sequence[Gain], number: ClaimNumber, *, group: Callable[[Gain], str] = lambda gain: f"Against {gain.against}"
) -> Iterator[str]:
    """How many cases reach the number; then one or two sentences for each group with the range of its ratios.

    Parameters
    ----------
    gains : all cases
    number : the number of the claim
    group : words for the group of a case
    """
    yield _counted(gains, number)
    for words in dict.fromkeys(map(group, gains)):
        mine = [gain for gain in gains if group(gain) == words]
        if (ends := best_and_worst(mine)) is not None:
            count = f"{_reach(mine, 'value', number)} of {sum(gain.valued for gain in mine)}"
            yield (
                f"{words}: {two_digits(_value(ends[1]))} to {two_digits(_value(ends[0]))} times, the most with "
                f"{_case(ends[0], words)}: {ratio_words(ends[0].cell)}. {count} cases reach {number.value:g}."
            )
        alone = [_case(gain, words) for gain in mine if gain.cell.state == ONLY_SUPERNODE]
        if alone:
            yield f"{words}, only the supernode does the work, so there is no ratio: {'; '.join(alone)}."


def _counted(gains: Sequence[Gain], number: ClaimNumber) -> str:
    """How many cases reach the number, and how certain that is."""
    reach, sure, may = (_reach(gains, end, number) for end in ("value", "low", "high"))
    alone = sum(gain.cell.state == ONLY_SUPERNODE for gain in gains)
    return (
        f"Cases that reach {number.value:g}: {reach} of {sum(gain.valued for gain in gains)}; with the whole 80 % "
        f"interval: {sure}; only with its high end: {may - reach}. Cases that only the supernode does, without a "
        f"ratio: {alone}."
    )


def _reach(gains: Sequence[Gain], end: str, number: ClaimNumber) -> int:
    """The number of cases of which the value, the low or the high end reaches the number [count]."""
    return sum(gain.valued and _end(getattr(gain.cell, end)) >= number.value for gain in gains)


def _case(gain: Gain, words: str) -> str:
    """The case, and its column where the words do not have it."""
    return gain.cell.row if gain.cell.column in words else f"{gain.cell.row} ({gain.cell.column})"


def map_of(title: str, gains: Sequence[Gain], number: ClaimNumber, *, rows: str, columns: str) -> ClaimMap:
    """The map of all cases; the parameters are those of `ClaimMap`."""
    return ClaimMap(title, rows, columns, "", number.value, tuple(gain.cell for gain in gains))


# ── money ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class GainPrices:
    """Ratios at equal money: what the supernode may cost, and what the ratios are at its price.

    Parameters
    ----------
    basis : prices, and the numbers of the machines
    known_hardware : the machines that were read before, by name
    """

    basis: Basis
    known_hardware: dict[str, Hardware] = field(default_factory=dict)

    @functools.cached_property
    def terms(self) -> Terms:
        """The conditions of all costs."""
        return paying(prices=self.basis.prices).terms

    @property
    def prices(self) -> Prices:
        """The price list."""
        return self.basis.prices

    def hardware(self, on: str) -> Hardware:
        """A machine as a buyer sees it."""
        if on not in self.known_hardware:
            self.known_hardware[on] = hardware_of(self.basis.parts(on))
        return self.known_hardware[on]

    def per_million(self, on: str, served: Served) -> float | None:
        """Cost of a million tokens in the middle of all prices; None: a price is missing [USD]."""
        money = cost(self.hardware(on), served, self.prices, self.terms).per_million_effective
        return None if money is None else money.mid

    def limits(self, gain: Gain, wanted: Sequence[float]) -> tuple[float, ...]:
        """Prices of one system of the supernode at which its gain at equal money is as wanted; empty: unknown [USD].

        The gain at equal money is the rival's cost of a token / the own cost of a token, so the own cost must be the
        rival's / the wanted gain. `ledger.break_even` solves this for the price. A limit below 0 is no price: power,
        space and staff alone cost too much.
        """
        if gain.own is None or gain.other is None:
            return ()
        rival, own = self.per_million(gain.against, gain.other), self.hardware(gain.on)
        if rival is None:
            return ()
        prices = [break_even(own, gain.own, self.prices, self.terms, rival / each).price for each in wanted]
        return tuple(price.mid / own.systems for price in prices if price is not None)

    def at_equal_money(self, gain: Gain) -> Gain | None:
        """The same case at equal money; None: a price is missing."""
        if gain.own is None or gain.other is None or gain.cell.value is None:
            return gain
        own, rival = self.per_million(gain.on, gain.own), self.per_million(gain.against, gain.other)
        if own is None or rival is None:
            return None
        factor = rival / own / gain.cell.value
        low, value, high = (_end(end) * factor for end in (gain.cell.low, gain.cell.value, gain.cell.high))
        return replace(gain, cell=replace(gain.cell, low=low, value=value, high=high))

    def known(self, gains: Sequence[Gain]) -> tuple[Gain, ...] | None:
        """All cases at equal money; None: no price of the supernode is known. Servers without a price are left out."""
        own = next(((gain.on, gain.own) for gain in gains if gain.own is not None), None)
        if own is None or self.per_million(*own) is None:
            return None
        return tuple(filter(None, map(self.at_equal_money, gains)))

    def turning_points(self, gains: Sequence[Gain], number: ClaimNumber) -> Iterator[TurningPoint]:
        """The prices of the supernode at which the verdict at equal money changes.

        A case reaches the number at prices up to a limit, so the verdict changes at the largest limit of all cases
        ("up to") or at the smallest ("at least") of the low ends of the intervals, and at the largest of the values.
        """
        every = [gain for gain in gains if gain.valued]
        if not every:
            return
        on = every[0].on
        path = f"prices.systems.{self.hardware(on).system}"
        limits = [self.limits(gain, [number.value * _value(gain) / _end(end)
                                     for end in (gain.cell.low, gain.cell.value)])
                  for gain in every]  # fmt: skip
        known = [pair for pair in limits if pair]
        if not known:
            return
        lows, values = zip(*known, strict=True)
        points = {max(lows) if number.relation == "up to" else min(lows), max(values)}
        now = self.basis.input(path).value
        for price in sorted(price for price in points if price > 0):
            below, above = (self._verdict(gains, price * factor, number) for factor in (1 - NUDGE, 1 + NUDGE))
            if below != above:
                yield TurningPoint(path, price, "USD/system", now, below, above)

    def _verdict(self, gains: Sequence[Gain], price: float, number: ClaimNumber) -> ClaimVerdict:
        """The verdict at equal money with another price of the supernode [USD/system]."""
        on = gains[0].on
        path = f"prices.systems.{self.hardware(on).system}"
        changed = GainPrices(self.basis.with_(path, f"{price!r} USD/system", why="break-even"), self.known_hardware)
        return verdict_of([gain.cell for gain in changed.known(gains) or ()], number)

    def table(self, gains: Sequence[Gain], number: ClaimNumber) -> ClaimTable:
        """For each kind of servers: what they cost, and what the supernode may cost so that the largest gain pays."""
        rows: list[tuple[TableCell, ...]] = []
        for column in dict.fromkeys(gain.cell.column for gain in gains):
            ends = best_and_worst([gain for gain in gains if gain.cell.column == column])
            if ends is None or ends[0].other is None:
                continue
            best = ends[0]
            whole = cost(self.hardware(best.against), ends[0].other, self.prices, self.terms).capex
            bought = whole.total.mid if whole and whole.total else None
            limits = self.limits(best, (1.0, number.value)) or (None, None)
            rows.append((column, best.cell.row, bought, *(one if one and one > 0 else None for one in limits)))
        headings = (
            "servers", "case with the largest gain", "servers cost [USD]", "equal tokens for the money up to [USD]",
            f"{number.value:g} times for the money up to [USD]",
        )  # fmt: skip
        return ClaimTable("What one supernode may cost; empty: at no price", headings, tuple(rows))


NUDGE = 1e-6
"""Distance from a turning point at which the verdicts on both sides are read, as a share of the price [-]."""


# ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────────

PORT = "device.nic"
RESTS_ON = (
    "device.peak.fp8", "device.peak.int8", "device.peak.bf16", "device.hbm.bandwidth", "device.scale_up.bandwidth",
    PORT,
)  # fmt: skip
"""Numbers of a machine that a ratio of two machines rests on most."""


def with_assumed(basis: Basis, machines: Iterable[str]) -> tuple[str, ...]:
    """The machines with numbers that the mix assumes, because nobody published them."""
    return tuple(on for on in machines if basis.parts(on).system.name in basis.mix.assume)


def machine_paths(basis: Basis, machines: Iterable[str], names: Iterable[str] = RESTS_ON) -> Iterator[str]:
    """The published and the assumed ones of the numbers of machines, as paths of the basis.

    A machine of one scale-up domain does not use its network ports.
    """
    for on in dict.fromkeys(machines):
        parts = basis.parts(on)
        known = dict(settable(parts))
        for name in names:
            if name == PORT and parts.devices <= parts.domain:
                continue
            if getattr(known.get(name), "value", None) is not None:
                yield f"{parts.system.name}.{name}"


def price_paths_of(basis: Basis, machines: Iterable[str]) -> Iterator[str]:
    """The prices of machines in the price list, as paths of the basis."""
    for on in dict.fromkeys(machines):
        parts = basis.parts(on)
        for kind, name in (
            ("systems", parts.system.name), ("cards", parts.device.name), ("servers", parts.system.name),
        ):  # fmt: skip
            if name in getattr(basis.prices, kind):
                yield f"prices.{kind}.{name}"


def short(model: str) -> str:
    """The name of a model without its maker."""
    return model.rsplit("/", 1)[-1]
