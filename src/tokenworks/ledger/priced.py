"""Costs of the machines of a comparison: what their tokens cost, and the price at which they break even."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenworks.errors import DoesNotFit, SpecError, UnknownName
from tokenworks.ledger.break_even import BreakEven, Effect, Pair, api_per_million, break_even, sensitivity
from tokenworks.ledger.cost import Served, UnitCost, cost
from tokenworks.ledger.curves import Crossover
from tokenworks.ledger.site import Hardware, Placed, hardware_of, load_room, placed
from tokenworks.ledger.study import Best, Study, charged
from tokenworks.ledger.terms import Pay, Terms, terms_of
from tokenworks.specs.compose import parts
from tokenworks.specs.given import Given
from tokenworks.specs.price import Currency, Prices, Region
from tokenworks.specs.price_file import api_price, load_prices


@dataclass(frozen=True, slots=True)
class Paying:
    """What costs are computed with.

    Parameters
    ----------
    prices : the price list
    terms : the conditions, with the first utilisation
    utilisations : shares of the time at which break-even prices are computed, the first one is that of all costs [-]
    api : model of the price list whose API price is a rival; None: the compared model
    """

    prices: Prices
    terms: Terms
    utilisations: tuple[float, ...]
    api: str | None = None

    def at(self, utilisation: float) -> Terms:
        """The conditions with another utilisation."""
        return replace(self.terms, utilisation=utilisation)


def paying(
    *, prices: str | Path | Mapping[str, Any] | Prices | None = None, pay: Pay = "buy",
    utilisation: float | Sequence[float] = 0.5, currency: Currency = "USD", region: Region = "cn",
    room: str | Path | Mapping[str, Any] | None = None, api: str | None = None,
) -> Paying:  # fmt: skip
    """Prices and conditions of costs; the parameters are those of `compare`.

    Raises
    ------
    SpecError : a file cannot be read, or a value is wrong
    """
    shares = (utilisation,) if isinstance(utilisation, int | float) else tuple(utilisation)
    if not shares:
        raise SpecError("no utilisation", where="--utilisation", hint="give a share of the time, such as 0.5")
    listed, where = load_prices(prices), load_room(room or {})
    terms = [terms_of(listed, utilisation=one, pay=pay, currency=currency, region=region, room=where) for one in shares]
    return Paying(listed, terms[0], shares, api)


@dataclass(frozen=True, slots=True)
class Rival:
    """The break-even price of a machine against one rival.

    Parameters
    ----------
    name : the rival: a machine, or an API
    break_even : the result
    """

    name: str
    break_even: BreakEven


@dataclass(frozen=True, slots=True)
class Priced:
    """The costs of one machine.

    Parameters
    ----------
    cost : what the machine and its tokens cost; its total is None if a price is missing
    placed : the machine in the room; None: its height is not published
    rivals : break-even prices against machines with a cost, and against the API, by utilisation
    effects : what moves the break-even price against the first rival machine most; empty without one
    error : why the machine has no place and no cost, in words; else ""
    """

    cost: UnitCost | None
    placed: Placed | None
    rivals: tuple[Rival, ...] = ()
    effects: tuple[Effect, ...] = ()
    error: str = ""


def served(studies: Sequence[Study], shares: Mapping[str, float]) -> Served:
    """What a machine serves that divides its time so that each model has its share of the effective tokens."""
    alone = [served_by(one.best, charged(one), str(one.plan.slo)) for one in studies if one.best and one.plan]
    times = [share / rates.effective_tok_s for rates, share in zip(alone, shares.values(), strict=True)]
    parts_of_time = [time / sum(times) for time in times]

    def mean(name: str) -> float:
        value: float = sum(getattr(rates, name) * part for rates, part in zip(alone, parts_of_time, strict=True))
        return value

    shared = {name: mean(name) for name in ("input_share", "cached_share")}
    rates = {name: mean(name) for name in ("output_tok_s", "input_tok_s", "cached_tok_s")}
    return Served(
        effective_tok_s=min(mean("effective_tok_s"), rates["output_tok_s"]),
        **rates,
        **shared,
        output_share=1 - sum(shared.values()),
        power_w=None if any(each.power_w is None for each in alone) else mean("power_w"),
        slo=alone[0].slo,
    )


def served_by(best: Best, charged: int, slo: str) -> Served:
    """What a machine serves with one model.

    Parameters
    ----------
    best : the best deployment
    charged : devices that throughput is divided by [count]
    slo : the SLO, in words
    """
    return Served(
        effective_tok_s=min(best.effective_tok_s, best.output_tok_s),
        output_tok_s=best.output_tok_s,
        input_tok_s=best.input_tok_s,
        cached_tok_s=best.cached_tok_s,
        input_share=best.shares.input,
        cached_share=best.shares.cached,
        output_share=1 - best.shares.input - best.shares.cached,
        power_w=None if best.watts_per_device is None else best.watts_per_device * charged,
        slo=slo,
    )


def hardware(name: str, given: Sequence[Given]) -> Hardware:
    """The hardware of a machine with the numbers that a user set for it."""
    return hardware_of(parts(name, assume=tuple(item for item in given if item.area == "machine")))


Machines = Mapping[str, tuple[Hardware, Served | None]]
"""Name of a machine -> its hardware, and what the machine serves; None: it serves nothing within the SLO."""


def priced(machines: Machines, paying: Paying, model: str) -> tuple[dict[str, Priced], tuple[str, ...]]:
    """Costs, places and break-even prices of machines.

    Parameters
    ----------
    machines : the machines
    paying : prices and conditions
    model : the compared model, whose API price is a rival

    Returns
    -------
    Machine -> its costs; and sentences about prices that are not known.
    """
    first = {name: _alone(one, rates, paying) for name, (one, rates) in machines.items()}
    notes: list[str] = []
    asked = paying.api or model
    try:
        api = api_price(paying.prices, asked)
    except UnknownName:
        api = None
        if paying.terms.pay == "buy":
            notes.append(
                f"No API price of {model} is known: name another model with --api, or give a price with --prices."
            )
    result = {}
    for name, (one, rates) in machines.items():
        alone = first[name]
        if rates is None or alone.cost is None or paying.terms.pay != "buy":
            result[name] = alone
            continue
        rivals: list[Rival] = []
        for utilisation in paying.utilisations:
            terms = paying.at(utilisation)
            rivals += _rivals(name, machines, paying.prices, terms)
            asked_by_api = api and api_per_million(rates, api[0], paying.prices, terms)
            if api and asked_by_api:
                rivals.append(Rival(f"API {api[1]}", break_even(one, rates, paying.prices, terms, asked_by_api.mid)))
        effects = _effects(name, machines, rivals, paying)
        result[name] = replace(alone, rivals=tuple(rivals), effects=effects)
    return result, tuple(notes)


def _alone(one: Hardware, rates: Served | None, paying: Paying) -> Priced:
    """Cost and place of one machine."""
    try:
        place = placed(one, paying.terms.room) if one.rack_units is not None else None
        return Priced(None if rates is None else cost(one, rates, paying.prices, paying.terms), place)
    except DoesNotFit as error:
        return Priced(None, None, error=str(error))


def _rivals(name: str, machines: Machines, prices: Prices, terms: Terms) -> Iterator[Rival]:
    own, rates = machines[name]
    assert rates is not None
    for other, (rival, theirs) in machines.items():
        if other == name or theirs is None:
            continue
        dollars = cost(rival, theirs, prices, terms).per_million_effective
        if dollars is not None:
            yield Rival(other, break_even(own, rates, prices, terms, dollars.mid))


def _effects(
    name: str, machines: Machines, rivals: Sequence[Rival], paying: Paying, reuse: Mapping[str, Machines] | None = None
) -> tuple[Effect, ...]:
    """What moves the break-even price against the first rival machine most; with `reuse` as in `with_reuse`."""
    rival = next((one.name for one in rivals if one.name in machines and one.break_even.price is not None), None)
    pair = None if rival is None else _pair(machines, name, rival)
    if pair is None or rival is None:
        return ()
    others = {words: _pair(rows, name, rival) for words, rows in (reuse or {}).items()}
    pairs = {words: other for words, other in others.items() if other is not None}
    return sensitivity(pair, paying.prices, paying.terms, reuse=pairs if len(pairs) == len(others) == 2 else None)


def _pair(machines: Machines, name: str, rival: str) -> Pair | None:
    """A machine and its rival; None if one of the two serves nothing within the SLO."""
    if name not in machines or rival not in machines:
        return None
    (own, rates), (theirs, their_rates) = machines[name], machines[rival]
    return None if rates is None or their_rates is None else Pair(own, rates, theirs, their_rates)


def with_reuse(
    costs: Mapping[str, Priced], machines: Machines, reuse: Mapping[str, Machines], paying: Paying
) -> dict[str, Priced]:
    """The same costs, with reuse among the inputs that move break-even prices.

    Parameters
    ----------
    costs : machine -> its costs, from `priced`
    machines : the machines
    reuse : the machines with less and with more of the input from the prefix cache, by the words for this share. A
        break-even price whose machines do not both serve at both shares keeps its other inputs
    paying : prices and conditions
    """
    return {
        name: replace(one, effects=_effects(name, machines, one.rivals, paying, reuse)) if one.effects else one
        for name, one in costs.items()
    }


def price_crossovers(costs: Mapping[str, Priced]) -> Iterator[Crossover]:
    """The price of each machine at which the cheapest effective tokens change hands; prices in the middle.

    A machine that cannot win at any price has none.

    Parameters
    ----------
    costs : machine -> its costs, from `priced`
    """
    for name, one in costs.items():
        rivals = [rival for rival in one.rivals if rival.name in costs]
        first = [rival for rival in rivals if rival.break_even.terms == rivals[0].break_even.terms]
        cheapest = min(first, key=lambda rival: rival.break_even.rival_per_million, default=None)
        price = cheapest and cheapest.break_even.price
        if cheapest and price and price.mid >= 0:
            yield Crossover(f"price of {name}", price.mid, price.mid, name, cheapest.name)
