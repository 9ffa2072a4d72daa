"""Costs of the machines of a comparison: what their tokens cost, and the price at which they break even."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tokenworks.errors import DoesNotFit, UnknownName
from tokenworks.ledger.break_even import BreakEven, Effect, Pair, api_per_million, break_even, sensitivity
from tokenworks.ledger.cost import Served, UnitCost, cost
from tokenworks.ledger.curves import Crossover
from tokenworks.ledger.site import Hardware, Placed, hardware_of, placed
from tokenworks.ledger.study import Study, charged
from tokenworks.ledger.terms import Terms
from tokenworks.specs.compose import parts
from tokenworks.specs.given import Given
from tokenworks.specs.price import Prices
from tokenworks.specs.price_file import api_price


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
    pairs = [(one, one.best) for one in studies if one.best is not None]
    times = [share / best.effective_tok_s for (_, best), share in zip(pairs, shares.values(), strict=True)]
    parts_of_time = [time / sum(times) for time in times]

    def mean(values: Sequence[float]) -> float:
        return sum(value * part for value, part in zip(values, parts_of_time, strict=True))

    bests = [best for _, best in pairs]
    watts = [None if best.watts_per_device is None else best.watts_per_device * charged(one) for one, best in pairs]
    known = [value for value in watts if value is not None]
    shared = [mean([getattr(best.shares, kind) for best in bests]) for kind in ("input", "cached", "output")]
    output_tok_s = mean([best.output_tok_s for best in bests])
    return Served(
        effective_tok_s=min(mean([best.effective_tok_s for best in bests]), output_tok_s),
        output_tok_s=output_tok_s,
        input_tok_s=mean([best.input_tok_s for best in bests]),
        cached_tok_s=mean([best.cached_tok_s for best in bests]),
        input_share=shared[0],
        cached_share=shared[1],
        output_share=1 - shared[0] - shared[1],
        power_w=mean(known) if len(known) == len(watts) else None,
        slo=str(studies[0].plan.slo) if studies[0].plan else "",
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
