"""What a machine costs, and what a token on it costs: purchase or rent, financing, power, space, staff, maintenance.

Sums are in dollars inside, and in the currency of the terms in results. Every price is a range, and every cost has a
low, a middle and a high end: all prices at their low end, in the middle, and at their high end.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenworks.errors import SpecError
from tokenworks.ledger.site import Hardware, Room, placed
from tokenworks.ledger.terms import Taken, Terms
from tokenworks.specs import load
from tokenworks.specs.machine import Assumption
from tokenworks.specs.price import ZERO, Money, Price, Prices

HOURS = 8760.0
"""Hours of a year."""

NEEDED = {
    "system": "systems.{system} of the price list",
    "cards": "cards.{device} of the price list",
    "hosts": "servers.{system} of the price list",
    "rent": "rental.{device} of the price list",
    "racks": "rack_units of the machine",
    "installation": "rack_units of the machine",
    "coolant distribution": "power of the machine",
    "liquid loop": "power of the machine",
    "power": "power and cooling of the machine",
    "space": "power of the machine",
    "staff": "rack_units of the machine",
}
"""Part of a cost -> number that the part needs, and that a user can give."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a machine does at one point of its curve, all devices together, while it serves.

    Parameters
    ----------
    effective_tok_s : output tokens of requests that meet the SLO [token/s]
    output_tok_s : all output tokens [token/s]
    input_tok_s : input tokens that are computed, because the prefix cache does not serve them [token/s]
    cached_tok_s : input tokens that the prefix cache serves [token/s]
    input_share, cached_share, output_share : shares of the device time that the three kinds of tokens take; the cost
        is divided by these shares; together 1 [-]
    power_w : mean power of all devices while they serve; None: unknown [W]
    idle_w : power of all devices while they are idle; None: unknown [W]
    slo : the SLO that effective tokens meet, for the words beside a cost
    """

    effective_tok_s: float
    output_tok_s: float
    input_tok_s: float = 0.0
    cached_tok_s: float = 0.0
    input_share: float = 0.0
    cached_share: float = 0.0
    output_share: float = 1.0
    power_w: float | None = None
    idle_w: float | None = None
    slo: str = ""

    def __post_init__(self) -> None:
        rates = (self.effective_tok_s, self.output_tok_s, self.input_tok_s, self.cached_tok_s)
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates) or self.effective_tok_s > self.output_tok_s * (
            1 + 1e-9
        ):
            raise SpecError(f"rates {rates}", where="Served", hint="0 or more, and effective_tok_s <= output_tok_s")
        shares = (self.input_share, self.cached_share, self.output_share)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise SpecError(f"shares {shares} of the device time", where="Served", hint="0 or more, together 1")


@dataclass(frozen=True, slots=True)
class Capex:
    """What the purchase of a machine costs.

    Parameters
    ----------
    parts : amount of each part, by name: system, or cards and hosts; switches; optics and cables; racks; installation;
        liquid loop; coolant distribution
    missing : parts whose price or whose number is unknown. They are not in `parts`, and there is no total
    """

    parts: Mapping[str, Money]
    missing: tuple[str, ...]

    @property
    def total(self) -> Money | None:
        """Sum of all parts; None if a part is missing."""
        return None if self.missing else _sum(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCost:
    """What a machine costs, in the currency of the terms. None: a price is missing.

    Parameters
    ----------
    hardware : the machine
    terms : the conditions
    capex : the purchase; None with rent
    hourly : cost of one hour by part: depreciation and interest, maintenance, power, space and staff; or rent
    missing : parts without a price
    assumed : assumed prices that the cost depends on
    """

    hardware: Hardware
    terms: Terms
    capex: Capex | None
    hourly: Mapping[str, Money]
    missing: tuple[str, ...]
    assumed: tuple[Assumption, ...]

    @property
    def per_hour(self) -> Money | None:
        """Cost of one hour."""
        return None if self.missing else _sum(self.hourly)

    @property
    def per_device_hour(self) -> Money | None:
        """Cost of one hour of one device."""
        return None if self.per_hour is None else self.per_hour / self.hardware.devices

    @property
    def needed(self) -> str:
        """The missing parts, and what a user has to give for them; empty: nothing is missing."""
        return needed(self.missing, self.hardware)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCost(MachineCost):
    """What a machine and its tokens cost.

    Parameters
    ----------
    served : what the machine serves
    """

    served: Served

    @property
    def per_million_effective(self) -> Money | None:
        """All cost / effective output tokens, for one million tokens."""
        return self._per_million(self.served.effective_tok_s, 1.0)

    @property
    def per_million_input(self) -> Money | None:
        """Cost of the device time of computed input / computed input tokens, for one million tokens."""
        return self._per_million(self.served.input_tok_s, self.served.input_share)

    @property
    def per_million_cached(self) -> Money | None:
        """Cost of the device time of cached input / cached input tokens, for one million tokens."""
        return self._per_million(self.served.cached_tok_s, self.served.cached_share)

    @property
    def per_million_output(self) -> Money | None:
        """Cost of the device time of output / all output tokens, for one million tokens."""
        return self._per_million(self.served.output_tok_s, self.served.output_share)

    def _per_million(self, tok_s: float, share: float) -> Money | None:
        if self.per_hour is None or tok_s <= 0:
            return None
        return self.per_hour * (share / millions_per_hour(tok_s, self.terms.utilisation))

    @property
    def words(self) -> str:
        """What stands beside a cost: utilisation, kind of tokens and SLO."""
        slo = f"SLO {self.served.slo}" if self.served.slo else "no SLO"
        return f"{self.terms.words}; effective tokens: output tokens of requests within the SLO; {slo}"


def millions_per_hour(tok_s: float, utilisation: float) -> float:
    """Tokens of one hour, in millions.

    Parameters
    ----------
    tok_s : tokens per second while the machine serves [token/s]
    utilisation : share of the time in which it serves [-]
    """
    return tok_s * utilisation * 3600 / 1e6


def needed(missing: Iterable[str], hardware: Hardware) -> str:
    """The missing parts of a cost, and what a user has to give for them; empty: nothing is missing."""
    ways = {"system": hardware.system, "device": hardware.device}
    names: dict[str, list[str]] = {}
    for name in missing:
        names.setdefault(NEEDED.get(name, "its price").format(**ways), []).append(name)
    return "; ".join(f"{', '.join(parts)}: give {number}" for number, parts in names.items())


def _sum(parts: Mapping[str, Money]) -> Money:
    return functools.reduce(Money.__add__, parts.values(), ZERO)


def capex(hardware: Hardware, prices: Prices, room: Room | None = None, *, taken: Taken | None = None) -> Capex:
    """The purchase of a machine, part by part, in dollars.

    The machine itself is one price (`systems` of the list, or `price` of the machine's own file), or its cards and its
    hosts. Cold plates are part of the price of a whole system. Around it stand the scale-out network (only if the
    machine has several scale-up domains), racks, installation, and coolant distribution for liquid cooling.

    Parameters
    ----------
    hardware : the machine
    prices : the price list
    room : where the machine stands; it sets the number of racks
    taken : collects assumed prices; None: they are not collected
    """
    take = taken or Taken(prices)
    known = _machine(hardware, prices, take) | _around(hardware, prices, room, take)
    missing = tuple(name for name, money in known.items() if money is None)
    return Capex({name: money for name, money in known.items() if money is not None}, missing)


def beside(hardware: Hardware, prices: Prices, room: Room | None = None) -> Capex:
    """The purchase of everything beside the machine itself, in dollars: `capex` without system, cards and hosts."""
    known = _around(hardware, prices, room, Taken(prices))
    missing = tuple(name for name, money in known.items() if money is None)
    return Capex({name: money for name, money in known.items() if money is not None}, missing)


def one_price(hardware: Hardware, prices: Prices) -> bool:
    """Whether the machine has one price as a whole, and not the price of its cards and of its hosts."""
    return _whole(hardware, prices) is not None


def _whole(hardware: Hardware, prices: Prices) -> tuple[str, Price | None] | None:
    """Path and price of the machine as a whole; an empty path stands for the price that the machine has itself.

    None: the machine is priced by its cards and hosts. The first of these counts: `--set machine.price`, or the price
    in the user's own file unless the list has the machine; the list's price of the system; the price of its cards.
    """
    keys = (key for key in prices.systems if key == hardware.system or Path(key).stem == hardware.system)
    key = next(keys, "")
    listed, card = prices.systems.get(key), prices.cards.get(hardware.device)
    known = listed is not None and listed.range is not None
    if hardware.price_usd is not None and not (known and hardware.system not in load.catalog_names("system")):
        return "", None
    carded = hardware.card_usd is not None or (card is not None and card.range is not None)
    return (f"systems.{key}", listed) if listed is not None and (known or not carded) else None


def _machine(hardware: Hardware, prices: Prices, take: Taken) -> dict[str, Money | None]:
    """The machine itself: one price, or cards and hosts."""
    if (whole := _whole(hardware, prices)) is not None:
        path, listed = whole
        own = hardware.price_usd
        if not path and own is not None:
            return {"system": Money(own, own, own)}
        return {"system": _times(hardware.systems, take(path, listed))}
    own = hardware.card_usd
    listed = prices.cards.get(hardware.device)
    card = take(f"cards.{hardware.device}", listed) if own is None else Money(own, own, own)
    host = take(f"servers.{hardware.system}", prices.servers.get(hardware.system))
    return {"cards": _times(hardware.devices, card), "hosts": _times(hardware.systems, host)}


def _around(hardware: Hardware, prices: Prices, room: Room | None, take: Taken) -> dict[str, Money | None]:
    """What stands around the machine: network, racks, installation, liquid."""
    known: dict[str, Money | None] = _network(hardware, prices, take) if hardware.endpoints else {}
    inside = placed(hardware, room) if hardware.rack_units is not None else None
    racks = inside.racks if inside else None
    known["racks"] = ZERO if inside and inside.own_racks else _times(racks, take("room.rack", prices.room.rack))
    work = _times(racks, take("room.installation_rack", prices.room.installation_rack))
    links = float(hardware.links)
    if inside and inside.boxes_per_rack < 1:  # cables between racks; cables inside a rack come installed
        links += hardware.cables or 0.0
    laid = _times(links, take("room.installation_link", prices.room.installation_link))
    known["installation"] = None if work is None or laid is None else work + laid
    if hardware.cooling in ("liquid", "immersion"):
        kilowatts = None if hardware.power_w is None else hardware.power_w / 1e3
        known["coolant distribution"] = _times(kilowatts, take("room.cdu", prices.room.cdu))
        if not one_price(hardware, prices):
            known["liquid loop"] = _times(kilowatts, take("room.liquid_loop", prices.room.liquid_loop))
    return known


def _network(hardware: Hardware, prices: Prices, take: Taken) -> dict[str, Money | None]:
    """Switches, and two optical modules and one fibre for each link. Network cards are part of the hosts."""
    network = prices.network
    port = take("network.switch_port", network.switch_port)
    name = "optic_800g" if hardware.fast_port else "optic_400g"
    optic, fibre = take(f"network.{name}", getattr(network, name)), take("network.fibre", network.fibre)
    link = None if optic is None or fibre is None else optic * 2 + fibre
    return {
        "switches": _times(hardware.switches * hardware.radix, port),
        "optics and cables": _times(hardware.links, link),
    }


def _times(count: float | None, each: Money | None) -> Money | None:
    return None if count is None or each is None else each * count


def mean_power(
    hardware: Hardware, terms: Terms, idle: Money | None, *, busy_w: float | None, idle_w: float | None = None
) -> Money | None:
    """Mean power of a machine over all hours, without cooling [W].

        P = u P_busy + (1 - u) P_idle

    While the machine serves, P_busy is the power of the devices by load, plus the rest of the machine: its largest
    power - TDP of all devices. If one of these is unknown, P_busy is the largest power of the machine. P_idle is the
    idle power of the devices plus the rest, or a share of the largest power.

    Parameters
    ----------
    hardware, terms : the machine, and the conditions
    idle : power of an idle machine / its largest power [-]
    busy_w, idle_w : power of all devices while they serve, and while they are idle; None: unknown [W]

    Returns
    -------
    The power, with the range of the idle power; None: the power of the machine is not published.
    """
    peak = hardware.power_w
    if peak is None:
        return None
    rest = None if hardware.tdp_w is None else max(peak - hardware.tdp_w, 0.0)
    busy = peak if busy_w is None or rest is None else busy_w + rest
    if idle_w is not None and rest is not None:
        quiet = Money(idle_w + rest, idle_w + rest, idle_w + rest)
    elif idle is not None:
        quiet = idle * peak
    else:
        return None
    u = terms.utilisation
    low, mid, high = (u * busy + (1 - u) * min(one, busy) for one in (quiet.low, quiet.mid, quiet.high))
    return Money(low, mid, high)


def opex(
    hardware: Hardware, prices: Prices, terms: Terms, *, busy_w: float | None, idle_w: float | None = None,
    taken: Taken | None = None,
) -> dict[str, Money | None]:  # fmt: skip
    """What a bought machine costs in one hour beside its price, in dollars: power, space, staff. None: not known.

    Parameters
    ----------
    hardware : the machine
    prices, terms : the price list, and the conditions
    busy_w, idle_w : as in `mean_power` [W]
    taken : collects assumed prices; None: they are not collected
    """
    take = taken or Taken(prices)
    room = prices.room
    pue = terms.pue
    if pue is None and hardware.cooling is not None:
        pue = take(f"pue.{hardware.cooling}", prices.pue.get(hardware.cooling))
    idle = take("room.idle_power", room.idle_power)
    drawn = mean_power(hardware, terms, idle, busy_w=busy_w, idle_w=idle_w)
    power = None if pue is None or drawn is None else (drawn / 1e3).times(pue).times(terms.electricity)
    kilowatts = None if hardware.power_w is None else hardware.power_w / 1e3
    racks = placed(hardware, terms.room).racks if hardware.rack_units is not None else None
    space = _times(kilowatts, take("room.space", room.space))
    staff = _times(racks, take("room.staff", room.staff))
    return {
        "power": power,
        "space": None if space is None else space * (12 / HOURS),
        "staff": None if staff is None else staff / HOURS,
    }


def machine_cost(
    hardware: Hardware, prices: Prices, terms: Terms, *, busy_w: float | None, idle_w: float | None = None
) -> MachineCost:
    """What a machine costs in one hour.

    With a purchase: annuity and maintenance of the purchase price, power, space and staff. With rent: the rent of all
    devices, which has all of this inside. The two are never added.

    Parameters
    ----------
    hardware : the machine, see `site.hardware_of`
    prices, terms : the price list, and the conditions
    busy_w, idle_w : power of all devices while they work, and while they are idle; None: unknown [W]

    Raises
    ------
    DoesNotFit : the machine does not fit the room of the terms
    """
    take = Taken(prices)
    bought: Capex | None = None
    if terms.pay == "rent":
        rent = take(f"rental.{hardware.device}", prices.rental.get(hardware.device))
        known: dict[str, Money | None] = {"rent": _times(hardware.devices, rent)}
        missing: tuple[str, ...] = ()
    else:
        bought = capex(hardware, prices, terms.room, taken=take)
        repairs = take("room.maintenance", prices.room.maintenance)
        whole = _sum(bought.parts)
        known = opex(hardware, prices, terms, busy_w=busy_w, idle_w=idle_w, taken=take)
        if not bought.missing:
            paid: dict[str, Money | None] = {"depreciation and interest": whole.times(terms.annuity) / HOURS}
            paid["maintenance"] = None if repairs is None else whole.times(repairs) / HOURS
            known = paid | known
        missing = bought.missing
    missing += tuple(name for name, money in known.items() if money is None)
    shown = {name: terms.shown(money) for name, money in known.items() if money is not None}
    return MachineCost(
        hardware=hardware,
        terms=terms,
        capex=bought and Capex({name: terms.shown(money) for name, money in bought.parts.items()}, bought.missing),
        hourly=shown,
        missing=missing,
        assumed=tuple(dict.fromkeys((*terms.assumed, *take.assumed))),
    )


def cost(hardware: Hardware, served: Served, prices: Prices, terms: Terms) -> UnitCost:
    """What a machine costs in one hour, and what its tokens cost.

    Parameters
    ----------
    hardware : the machine, see `site.hardware_of`
    served : what the machine serves at the chosen point
    prices, terms : the price list, and the conditions

    Raises
    ------
    DoesNotFit : the machine does not fit the room of the terms
    """
    one = machine_cost(hardware, prices, terms, busy_w=served.power_w, idle_w=served.idle_w)
    return UnitCost(**{name: getattr(one, name) for name in MachineCost.__slots__}, served=served)
