"""Costs, break-even prices and places of the machines of a comparison as plain data."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import TypedDict

from tokenworks.ledger.cost import MachineCost, UnitCost
from tokenworks.ledger.priced import Rival
from tokenworks.ledger.site import Placed
from tokenworks.specs.price import Money

Range = tuple[float, float, float]
"""An amount at the low end, in the middle and at the high end of all prices."""


class MachineCostPlain(TypedDict):
    """What a machine costs, in the currency of the comparison; None: a price is missing.

    hourly : cost of an hour by part; capex : price by part; empty with rent
    missing : what is missing, and what a user has to give for it
    """

    per_hour: Range | None
    per_device_hour: Range | None
    hourly: dict[str, Range]
    capex: dict[str, Range]
    missing: str


class CostPlain(MachineCostPlain):
    """What a machine and its tokens cost.

    per_million : cost of a million effective tokens (all cost), and of input, cached input and output tokens apart
    words : the conditions of these costs
    """

    per_million: dict[str, Range | None]
    words: str


class SitePlain(TypedDict):
    """What a machine needs where it stands, and what must be connected and configured."""

    boxes: int
    racks: int
    boxes_per_rack: float
    rack_units: float | None
    rack_power_w: float | None
    rack_weight_kg: float | None
    power_w: float | None
    weight_kg: float | None
    cooling: str | None
    cables: float | None
    links: int
    switches: int
    endpoints: int
    boxes_that_fit: int | None
    limited_by: str


class BreakEvenPlain(TypedDict):
    """The price of a machine at which its effective tokens cost as much as those of a rival."""

    rival: str
    utilisation: float
    price: Range | None
    per_card: Range | None
    words: str


def range_plain(money: Money | None) -> Range | None:
    """An amount as plain data."""
    return None if money is None else (money.low, money.mid, money.high)


def _ranges(parts: Mapping[str, Money]) -> dict[str, Range]:
    return {name: (money.low, money.mid, money.high) for name, money in parts.items()}


def machine_cost_plain(one: MachineCost) -> MachineCostPlain:
    """What a machine costs, as plain data."""
    return {
        "per_hour": range_plain(one.per_hour),
        "per_device_hour": range_plain(one.per_device_hour),
        "hourly": _ranges(one.hourly),
        "capex": _ranges(one.capex.parts) if one.capex else {},
        "missing": one.needed,
    }


def cost_plain(one: UnitCost) -> CostPlain:
    """What a machine and its tokens cost, as plain data."""
    return {
        **machine_cost_plain(one),
        "per_million": {
            "effective": range_plain(one.per_million_effective),
            "input": range_plain(one.per_million_input),
            "cached_input": range_plain(one.per_million_cached),
            "output": range_plain(one.per_million_output),
        },
        "words": one.words,
    }


def site_plain(place: Placed) -> SitePlain:
    """What a machine needs where it stands, as plain data."""
    one = place.hardware
    return {
        "boxes": place.boxes,
        "racks": place.racks,
        "boxes_per_rack": place.boxes_per_rack,
        "rack_units": one.rack_units,
        "rack_power_w": place.rack_power_w,
        "rack_weight_kg": place.rack_weight_kg,
        "power_w": one.power_w,
        "weight_kg": one.weight_kg,
        "cooling": one.cooling,
        "cables": one.cables,
        "links": one.links,
        "switches": one.switches,
        "endpoints": one.endpoints,
        "boxes_that_fit": place.fits,
        "limited_by": place.limited_by,
    }


def break_even_plain(rival: Rival) -> BreakEvenPlain:
    """A break-even price as plain data."""
    return {
        "rival": rival.name,
        "utilisation": rival.break_even.terms.utilisation,
        "price": range_plain(rival.break_even.price),
        "per_card": range_plain(rival.break_even.per_card),
        "words": rival.break_even.words,
    }
