"""Break-even prices: what a machine may cost so that its tokens cost as much as the tokens of a rival or of an API."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from tokenworks.errors import SpecError
from tokenworks.ledger.cost import HOURS, Served, beside, capex, cost, millions_per_hour, needed, opex
from tokenworks.ledger.site import Hardware
from tokenworks.ledger.terms import Terms
from tokenworks.specs.price import ZERO, ApiPrice, Money, Price, Prices

CHANGE = 0.2
"""Change of an input in `sensitivity` where the price list has no range for it [-]."""


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The price at which a machine costs as much per effective token as its rival, in the currency of the terms.

    Parameters
    ----------
    hardware : the machine
    rival_per_million : cost of one million effective tokens of the rival
    price : price of all systems of the machine, without network, racks, installation and coolant distribution. The low
        end has all other prices at their high end. Below zero: the machine cannot win at any price. None: a number of
        the machine is missing
    per_card : `price` / devices
    beside_per_million : cost of one million effective tokens without the price of the machine
    missing : parts without a price or without a number
    terms, served : the conditions, and what the machine serves
    """

    hardware: Hardware
    rival_per_million: float
    price: Money | None
    per_card: Money | None
    beside_per_million: Money
    missing: tuple[str, ...]
    terms: Terms
    served: Served

    @property
    def needed(self) -> str:
        """The missing parts, and what a user has to give for them; empty: nothing is missing."""
        return needed(self.missing, self.hardware)

    @property
    def words(self) -> str:
        """The result in one sentence."""
        unit, at = self.terms.currency, f"at {self.terms.utilisation:.0%} utilisation"
        if self.price is None or self.per_card is None:
            return f"{self.hardware.name} has no break-even price; {self.needed}"
        name, price, card = self.hardware.name, self.price, self.per_card.mid
        if price.mid < 0:
            return (
                f"{name} cannot win at any price {at}: power, space, staff, racks and network alone cost "
                f"{self.beside_per_million.mid:,.3g} {unit} per million effective tokens, and the rival costs "
                f"{self.rival_per_million:,.3g}"
            )
        return (
            f"{name} breaks even {at} if it costs {price.mid:,.0f} {unit}, {card:,.0f} a card "
            f"({price.low:,.0f} to {price.high:,.0f} {unit})"
        )


def break_even(hardware: Hardware, served: Served, prices: Prices, terms: Terms, rival_per_million: float) -> BreakEven:
    """The price of a machine at which its effective tokens cost as much as those of a rival.

    The cost of one hour is linear in the price p of the machine:

        c(p) = (p + b) (a + m) / 8760 + o

    with the purchase b of everything beside the machine, the annuity a, the maintenance m, and the cost o of power,
    space and staff in one hour. The rival's cost of a million effective tokens r gives the hourly cost that the tokens
    are worth, c = r x effective tokens per hour / 1e6. So p = (c - o) 8760 / (a + m) - b, exactly.

    Parameters
    ----------
    hardware, served : the machine, and what it serves
    prices : the price list; its price of the machine itself is not read
    terms : the conditions; the machine is bought
    rival_per_million : cost of one million effective tokens of the rival, in the currency of the terms

    Raises
    ------
    SpecError : no effective tokens, or a purchase is not what the terms say
    """
    if terms.pay != "buy":
        raise SpecError("a break-even price is the price of a purchase", where="pay", hint='take pay="buy"')
    if served.effective_tok_s <= 0:
        raise SpecError(
            f"{hardware.name} serves no effective token", where="break-even",
            hint="take a point of the machine that meets the SLO",
        )  # fmt: skip
    running = opex(hardware, prices, terms, busy_w=served.power_w, idle_w=served.idle_w)
    repairs, around = prices.usd(prices.room.maintenance), beside(hardware, prices, terms.room)
    missing = around.missing + tuple(name for name, money in running.items() if money is None)
    missing += () if repairs else ("maintenance",)
    yearly = terms.annuity + (repairs or ZERO)
    hourly, other = _sum(money for money in running.values() if money), _sum(around.parts.values())
    millions = millions_per_hour(served.effective_tok_s, terms.utilisation)
    worth = terms.dollars(rival_per_million) * millions
    ends = [
        (worth - getattr(hourly, end)) * HOURS / getattr(yearly, end) - getattr(other, end)
        for end in ("low", "mid", "high")
    ]
    price = None if missing else terms.shown(Money(min(ends), ends[1], max(ends)))
    return BreakEven(
        hardware=hardware,
        rival_per_million=rival_per_million,
        price=price,
        per_card=None if price is None else price / hardware.devices,
        beside_per_million=terms.shown((other.times(yearly) / HOURS + hourly) / millions),
        missing=missing,
        terms=terms,
        served=served,
    )


def _sum(amounts: Iterable[Money]) -> Money:
    return functools.reduce(Money.__add__, amounts, ZERO)


def api_per_million(served: Served, api: ApiPrice, prices: Prices, terms: Terms) -> Money | None:
    """What an API asks for the tokens that go with one million output tokens, in the currency of the terms.

        r = (n_in p_in + n_cached p_cached + n_out p_out) / n_out

    with the token rates n of the machine's own mix. A provider without a price for cached input asks the price of other
    input.

    Parameters
    ----------
    served : what the machine serves; its token rates are the mix
    api : prices of the provider
    prices, terms : exchange rate and currency

    Returns
    -------
    The amount; None: the provider does not publish a price, or the mix has no output.
    """
    asked = {"input": prices.usd(api.input), "output": prices.usd(api.output)}
    asked["cached"] = prices.usd(api.cached_input) or asked["input"]
    rates = {"input": served.input_tok_s, "cached": served.cached_tok_s, "output": served.output_tok_s}
    if served.output_tok_s <= 0 or any(money is None for money in asked.values()):
        return None
    amounts = (money * (rates[kind] / served.output_tok_s) for kind, money in asked.items() if money)
    return terms.shown(_sum(amounts))


@dataclass(frozen=True, slots=True)
class Pair:
    """A machine and its rival on the same work.

    Parameters
    ----------
    machine, served : the machine whose break-even price is asked, and what it serves
    rival, rival_served : the rival, and what it serves
    """

    machine: Hardware
    served: Served
    rival: Hardware
    rival_served: Served

    def price(self, prices: Prices, terms: Terms) -> float:
        """Break-even price of the machine against the rival, all prices in the middle, in the currency of the terms.

        Raises
        ------
        SpecError : a price or a number of one of the machines is missing
        """
        rival = cost(self.rival, self.rival_served, prices, terms)
        if rival.per_million_effective is None:
            why = rival.needed or "it serves no effective token"
            raise SpecError("has no cost", where=self.rival.name, hint=why)
        asked = break_even(self.machine, self.served, prices, terms, rival.per_million_effective.mid)
        if asked.price is None:
            raise SpecError("has no break-even price", where=self.machine.name, hint=asked.needed)
        return asked.price.mid


@dataclass(frozen=True, slots=True)
class Effect:
    """How far one input moves the break-even price, in the currency of the terms.

    Parameters
    ----------
    name : the input: power, capex, utilisation, reuse, interest
    low_input, high_input : the two values of the input, in words
    low, high : break-even prices at these two values
    """

    name: str
    low_input: str
    high_input: str
    low: float
    high: float

    @property
    def swing(self) -> float:
        """Distance between the two break-even prices."""
        return abs(self.high - self.low)


def sensitivity(
    pair: Pair, prices: Prices, terms: Terms, *, reuse: Mapping[str, Pair] | None = None
) -> tuple[Effect, ...]:
    """Which input moves the break-even price most: one input at a time, the largest swing first.

    - power: the price of electricity of both machines, 20 % lower and higher.
    - capex: the purchase of the rival, at the low and the high end of the price list; 20 % each way if it has no range.
    - utilisation: of both machines, 20 % lower and higher, at most 100 %.
    - interest: the low and the high end of the price list; 20 % each way if it has no range.
    - reuse: the two pairs that the caller simulated with less and with more of the prompt in the cache.

    Parameters
    ----------
    pair : the machine, its rival, and what both serve
    prices, terms : the price list, and the conditions
    reuse : two pairs on work with less and with more reuse, by the words for their reuse, lower first
    """
    effects = [
        _effect("power", _ends_of_power(terms), lambda changed: pair.price(prices, changed)),
        _effect("utilisation", _ends_of_utilisation(terms), lambda changed: pair.price(prices, changed)),
        _effect("interest", _ends_of_interest(terms), lambda changed: pair.price(prices, changed)),
        _effect("capex", _ends_of_capex(pair.rival, prices), lambda changed: pair.price(changed, terms)),
    ]
    if reuse is not None:
        effects.append(_effect("reuse", dict(reuse), lambda changed: changed.price(prices, terms)))
    return tuple(sorted(effects, key=lambda effect: -effect.swing))


Changed = TypeVar("Changed")


def _effect(name: str, ends: Mapping[str, Changed], price: Callable[[Changed], float]) -> Effect:
    """The break-even prices at two values of an input."""
    (low_input, low), (high_input, high) = ends.items()
    return Effect(name, low_input, high_input, price(low), price(high))


def _ends_of_power(terms: Terms) -> dict[str, Terms]:
    return {
        f"{factor * terms.electricity.mid:.3f} USD/kWh": replace(terms, electricity=terms.electricity * factor)
        for factor in (1 - CHANGE, 1 + CHANGE)
    }


def _ends_of_utilisation(terms: Terms) -> dict[str, Terms]:
    low, high = terms.utilisation * (1 - CHANGE), min(terms.utilisation * (1 + CHANGE), 1.0)
    return {f"{share:.0%}": replace(terms, utilisation=share) for share in (low, high)}


def _ends_of_interest(terms: Terms) -> dict[str, Terms]:
    rate = terms.rate
    ends = (rate.low, rate.high) if rate.low < rate.high else (rate.mid * (1 - CHANGE), rate.mid * (1 + CHANGE))
    return {f"{end:.1%} a year, {name}": replace(terms, rate=Money(end, end, end)) for name, end in _named(ends)}


def _named(ends: tuple[float, float]) -> tuple[tuple[str, float], ...]:
    return (("low", ends[0]), ("high", ends[1]))


def _ends_of_capex(rival: Hardware, prices: Prices) -> dict[str, Prices]:
    """Two price lists: the rival's machine at the low and at the high end of its price."""
    whole = capex(rival, prices)
    names = [name for name in ("system", "cards", "hosts") if name in whole.parts]
    bought = _sum(whole.parts[name] for name in names)
    wide = bought.low < bought.high
    ends = (bought.low, bought.high) if wide else (bought.mid * (1 - CHANGE), bought.mid * (1 + CHANGE))
    return {f"{end:,.0f} USD, {name}": _with_price(rival, prices, end) for name, end in _named(ends)}


def _with_price(hardware: Hardware, prices: Prices, dollars: float) -> Prices:
    """The price list with one price for all systems of a machine [USD]."""
    one = Price(mid=dollars / hardware.systems, unit="USD/system", status="derived", source="sensitivity")
    return prices.model_copy(update={"systems": {**prices.systems, hardware.system: one}})
