"""The conditions that a cost holds for: utilisation, financing, electricity, currency; and prices as they are taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy_financial as npf

from tokenworks.errors import SpecError
from tokenworks.ledger.site import Room
from tokenworks.specs.machine import Assumption
from tokenworks.specs.price import Currency, Money, Price, Prices, Region

Pay = Literal["buy", "rent"]
LEAST_RATE = 1e-9
"""Smaller interest counts as none: `pmt` would divide by zero [-]."""


class Taken:
    """Takes prices from a list, and collects the assumed ones."""

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        self.assumed: list[Assumption] = []

    def __call__(self, path: str, price: Price | None) -> Money | None:
        """A price in dollars; None: the list does not have it."""
        known = self.prices.usd(price)
        if price is not None and known is not None and price.status in ("assumed", "unverified"):
            self.assumed.append(Assumption(path, price.written, price.source))
        return known


@dataclass(frozen=True, slots=True)
class Terms:
    """The conditions that a cost holds for. `terms_of` fills in the prices of the list.

    Parameters
    ----------
    utilisation : share of the time in which the machine serves at the given rate; otherwise it is idle [-]
    pay : "buy" the machine, or "rent" its devices
    years : time over which the machine is paid and used [year]
    rate : interest per year [-]
    residual : value of the machine at the end / its price [-]
    electricity : price of electricity [USD/kWh]
    pue : power of the site / power of the machines; None: of the list, by the cooling of the machine [-]
    region : region of the electricity price
    currency : currency of the results
    cny_per_usd : yuan for one dollar [-]
    room : where the machine stands; it sets the number of racks
    assumed : assumed numbers among these
    """

    utilisation: float
    pay: Pay
    years: float
    rate: Money
    residual: float
    electricity: Money
    pue: Money | None
    region: Region
    currency: Currency
    cny_per_usd: float
    room: Room = field(default_factory=Room)
    assumed: tuple[Assumption, ...] = ()

    def shown(self, dollars: Money) -> Money:
        """An amount of dollars in the currency of the results."""
        return dollars * self.cny_per_usd if self.currency == "CNY" else dollars

    def dollars(self, amount: float) -> float:
        """An amount in the currency of the results as dollars."""
        return amount / self.cny_per_usd if self.currency == "CNY" else amount

    @property
    def annuity(self) -> Money:
        """Payment of each year / purchase price.

            a = (1 - s v^n) i / (1 - v^n),  v = 1 / (1 + i)

        with the interest i, n years and the residual share s. Without interest a = (1 - s) / n.

        References
        ----------
        [1] numpy-financial, `pmt`: payments at the end of each year.
        """
        rates = (rate if rate > LEAST_RATE else 0.0 for rate in (self.rate.low, self.rate.mid, self.rate.high))
        low, mid, high = (-float(npf.pmt(rate, self.years, 1.0, -self.residual)) for rate in rates)
        return Money(low, mid, high)

    @property
    def words(self) -> str:
        """The terms in one line."""
        if self.pay == "rent":
            return f"{self.utilisation:.0%} utilisation, rent"
        paid = f"{self.years:g} years at {self.rate.mid:.1%} interest"
        return f"{self.utilisation:.0%} utilisation, {paid}, electricity {self.electricity.mid:.3f} USD/kWh"


def terms_of(
    prices: Prices, *, utilisation: float = 0.5, pay: Pay = "buy", years: float | None = None,
    rate: float | None = None, residual: float | None = None, electricity: float | None = None,
    pue: float | None = None, region: Region = "cn", currency: Currency = "USD", room: Room | None = None,
) -> Terms:  # fmt: skip
    """The conditions of a cost. What is not given here comes from the price list.

    Parameters
    ----------
    prices : the price list
    utilisation : share of the time in which the machine serves at the given rate [-]
    pay : "buy" the machine, or "rent" its devices
    years : time over which the machine is paid and used [year]
    rate : interest per year [-]
    residual : value of the machine at the end / its price [-]
    electricity : price of electricity, in the currency of the results [1/kWh]
    pue : power usage effectiveness [-]
    region : region of the electricity price in the list
    currency : currency of the results
    room : where the machine stands; None: racks of 42 units without other limits

    Raises
    ------
    SpecError : a number is out of its range, or the price list lacks it
    """
    taken = Taken(prices)
    cny = taken("finance.cny_per_usd", prices.finance.cny_per_usd)
    if cny is None or cny.mid <= 0:
        raise SpecError("is missing", where="finance.cny_per_usd", hint="give yuan for one dollar, such as 7.1")

    def number(name: str, own: float | None) -> Money:
        listed = None if own is not None else taken(f"finance.{name}", getattr(prices.finance, name))
        if own is None and listed is None:
            raise SpecError("is missing", where=f"finance.{name}", hint="give it in the price list or as an argument")
        return listed if listed is not None else Money(own or 0.0, own or 0.0, own or 0.0)

    if electricity is not None:
        dollars = electricity / cny.mid if currency == "CNY" else electricity
        power: Money | None = Money(dollars, dollars, dollars)
    else:
        power = taken(f"electricity.{region}", prices.electricity.get(region))
    if power is None:
        raise SpecError("is missing", where=f"electricity.{region}", hint="give a price of electricity")
    one = Terms(
        utilisation=utilisation,
        pay=pay,
        years=number("years", years).mid,
        rate=number("rate", rate),
        residual=number("residual", residual).mid,
        electricity=power,
        pue=None if pue is None else Money(pue, pue, pue),
        region=region,
        currency=currency,
        cny_per_usd=cny.mid,
        room=room or Room(),
        assumed=tuple(taken.assumed),
    )
    _must_be_possible(one)
    return one


def _must_be_possible(terms: Terms) -> None:
    """Refuse numbers that no purchase has."""
    checks = (
        ("utilisation", terms.utilisation, 0 < terms.utilisation <= 1, "a share of the time above 0, at most 1"),
        ("years", terms.years, 0 < terms.years <= 100, "more than 0 years, at most 100"),
        ("rate", terms.rate.high, 0 <= terms.rate.low <= terms.rate.high < 1, "0 to 0.99, such as 0.06 for 6 %"),
        ("residual", terms.residual, 0 <= terms.residual <= 1, "a share of the price, 0 to 1"),
        ("electricity", terms.electricity.low, terms.electricity.low >= 0, "a price of 0 or more"),
        ("pue", terms.pue.low if terms.pue else 1.0, terms.pue is None or terms.pue.low >= 1, "1 or more"),
    )
    for name, value, holds, want in checks:
        if not (math.isfinite(value) and holds):
            raise SpecError(f"{value:g} is not possible", where=name, hint=f"write {want}")
