"""Prices with their source and date: cards, systems, rent, API tokens, network, racks, electricity, financing.

Prices of the catalog stand in `catalog/prices`. A user's file has the same keys. `specs/price_file.py` reads both.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tokenworks.specs.provenance import GIVEN, Quantity, Spec, Status
from tokenworks.specs.system import CoolingKind

Currency = Literal["USD", "CNY"]
Region = Literal["us", "cn"]

MOST = 1e15
"""Largest price that a file may have; larger ones are typing errors."""


@dataclass(frozen=True, slots=True)
class Money:
    """An amount with its range. Sums add low to low, middle to middle and high to high.

    Parameters
    ----------
    low, mid, high : the amount at the low, the middle and the high end of all prices; the currency is the context's
    """

    low: float
    mid: float
    high: float

    def __add__(self, other: Money) -> Money:
        return Money(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def __sub__(self, other: Money) -> Money:
        """The difference. Its low end is the low end of this amount minus the high end of the other."""
        return Money(self.low - other.high, self.mid - other.mid, self.high - other.low)

    def __mul__(self, factor: float) -> Money:
        """The amount times a factor of 0 or more."""
        return Money(self.low * factor, self.mid * factor, self.high * factor)

    def __truediv__(self, divisor: float) -> Money:
        """The amount divided by a number above 0."""
        return Money(self.low / divisor, self.mid / divisor, self.high / divisor)

    def times(self, other: Money) -> Money:
        """The product of two ranges of numbers that are not negative: low x low, middle x middle, high x high."""
        return Money(self.low * other.low, self.mid * other.mid, self.high * other.high)


ZERO = Money(0.0, 0.0, 0.0)
"""No money."""


class Price(Spec):
    """A price with its range, source and date. Null means "no source has it", never zero.

    In a file: `{value: 32000, unit: USD/card, status: media, date: 2026-05, source: "..."}`, or with a range `low`,
    `mid`, `high` in place of `value`. Sources that disagree are kept as one range. A plain `32000 USD/card` is short
    for a price with the status `assumed` and the source "given by the user". A plain `null` is an unknown price.

    Parameters
    ----------
    low, mid, high : ends and middle of the range, in `unit`. A missing middle is the mean of both ends. A missing end
        is the middle
    unit : currency and what the price is for, such as "USD/card"; "-" for a plain number, such as a PUE
    status, source, date, note : where the price is from, how trustworthy it is, and of which month
    """

    low: float | None = Field(default=None, ge=0, le=MOST)
    mid: float | None = Field(default=None, ge=0, le=MOST)
    high: float | None = Field(default=None, ge=0, le=MOST)
    unit: str = ""
    status: Status
    source: str = ""
    date: Annotated[str, Field(coerce_numbers_to_str=True)] = ""
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _one_value_is_a_range_without_width(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "value" not in data:
            return data
        if clash := [name for name in ("low", "mid", "high") if data.get(name) is not None]:
            raise ValueError(f"has both value and {clash[0]}; write value, or low, mid and high")
        return {**{key: item for key, item in data.items() if key != "value"}, "mid": data["value"]}

    @model_validator(mode="after")
    def _honest(self) -> Price:
        ends = [end for end in (self.low, self.mid, self.high) if end is not None]
        if (not ends) != (self.status == "not-published"):
            raise ValueError("a price of null goes with status not-published, and only with it")
        if ends and not self.source:
            raise ValueError("a price needs a source")
        if ends != sorted(ends):
            low, high = next((a, b) for a, b in itertools.pairwise(ends) if a > b)
            raise ValueError(f"the range is not in order: {low:g} stands before {high:g}; write low <= mid <= high")
        return self

    @property
    def currency(self) -> Currency | None:
        """Currency of the price; None for a plain number, and for an unknown price."""
        head = self.unit.partition("/")[0]
        return "USD" if head == "USD" else "CNY" if head == "CNY" else None

    @property
    def range(self) -> Money | None:
        """Low, middle and high in the price's own unit; None: the price is unknown."""
        ends = [end for end in (self.low, self.mid, self.high) if end is not None]
        if not ends:
            return None
        mid = self.mid if self.mid is not None else (ends[0] + ends[-1]) / 2
        return Money(ends[0] if self.low is not None else mid, mid, ends[-1] if self.high is not None else mid)

    @property
    def written(self) -> str:
        """The price as text, such as "25,000 to 40,000 USD/card, middle 30,000"; empty: unknown."""
        known = self.range
        if known is None:
            return ""
        unit = "" if self.unit == "-" else f" {self.unit}"
        if known.low == known.high:
            return f"{_number(known.mid)}{unit}"
        return f"{_number(known.low)} to {_number(known.high)}{unit}, middle {_number(known.mid)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


_SHORT = re.compile(r"([+-]?[0-9][0-9,]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?)\s*([A-Z]{3}(?:/.+)?)?")


def _reads(per: str) -> BeforeValidator:
    """Reads a price for one `per`, such as "card"; an empty text for a plain number."""
    example = f"30000 USD/{per}" if per else "1.2"

    def read(raw: Any) -> Any:
        if raw is None:
            return {"status": "not-published", "unit": f"USD/{per}" if per else "-"}
        if isinstance(raw, (str, int, float)) and not isinstance(raw, bool):
            match = _SHORT.fullmatch(str(raw).strip())
            if match is None:
                raise ValueError(f'cannot read "{raw}" as a price; write it like "{example}"')
            unit = match[2] or ("" if per else "-")
            raw = {"value": float(match[1].replace(",", "")), "unit": unit, "status": "assumed", "source": GIVEN}
        if not isinstance(raw, Mapping):
            return raw
        data = dict(raw)
        for name in ("value", "low", "mid", "high"):
            number = data.get(name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float))):
                raise ValueError(f"{name} {number!r} is not a number; the unit stands in `unit`")
            if number is not None and not (math.isfinite(number) and number >= 0):
                raise ValueError(f"{name} {number:g}: a price must be finite and not negative")
        empty = all(data.get(name) is None for name in ("value", "low", "mid", "high"))
        known = [f"{currency}/{per}" for currency in ("USD", "CNY")] if per else ["-"]
        unit = data.get("unit", known[0] if empty or not per else "")
        if unit not in known:
            raise ValueError(f'unit "{unit}" is not one of {", ".join(known)}; write it like "{example}"')
        return {**data, "unit": unit}

    return BeforeValidator(read)


PerCard = Annotated[Price, _reads("card")]
PerServer = Annotated[Price, _reads("server")]
PerSystem = Annotated[Price, _reads("system")]
PerHour = Annotated[Price, _reads("card-h")]
PerTokens = Annotated[Price, _reads("M tokens")]
PerPort = Annotated[Price, _reads("port")]
PerOptic = Annotated[Price, _reads("optic")]
PerCable = Annotated[Price, _reads("cable")]
PerRack = Annotated[Price, _reads("rack")]
PerKilowatt = Annotated[Price, _reads("kW")]
PerKilowattMonth = Annotated[Price, _reads("kW-month")]
PerKilowattHour = Annotated[Price, _reads("kWh")]
PerRackYear = Annotated[Price, _reads("rack-year")]
PlainNumber = Annotated[Price, _reads("")]


class ApiPrice(Spec):
    """What a provider asks for one million tokens of a model.

    Parameters
    ----------
    input : input tokens that the prefix cache does not serve [1/M tokens]
    cached_input : input tokens that the prefix cache serves; None: the provider asks the price of other input
    output : output tokens [1/M tokens]
    """

    input: PerTokens
    cached_input: PerTokens | None = None
    output: PerTokens


class NetworkPrices(Spec):
    """Parts of a scale-out network.

    Parameters
    ----------
    switch_port : one port of a switch; a switch costs radix x this [1/port]
    optic_400g, optic_800g : one optical module; a link has two [1/optic]
    fibre : one fibre between two modules [1/cable]
    copper : one copper cable inside a rack [1/cable]
    """

    switch_port: PerPort | None = None
    optic_400g: PerOptic | None = None
    optic_800g: PerOptic | None = None
    fibre: PerCable | None = None
    copper: PerCable | None = None


class RoomPrices(Spec):
    """What stands around a machine, and what it costs to keep it there.

    Parameters
    ----------
    rack : an empty rack with power distribution [1/rack]
    cdu : coolant distribution unit, per kW of heat [1/kW]
    liquid_loop : manifolds and cold plates inside the racks, per kW of heat [1/kW]
    installation_rack, installation_link : work to install and test one rack, and one link [1/rack, 1/cable]
    space : floor, power supply and cooling plant, per kW of the machine [1/kW-month]
    staff : people who run the machine [1/rack-year]
    maintenance : repairs and spare parts, share of the purchase price per year [-]
    idle_power : power of an idle machine / its largest power [-]
    """

    rack: PerRack | None = None
    cdu: PerKilowatt | None = None
    liquid_loop: PerKilowatt | None = None
    installation_rack: PerRack | None = None
    installation_link: PerCable | None = None
    space: PerKilowattMonth | None = None
    staff: PerRackYear | None = None
    maintenance: PlainNumber | None = None
    idle_power: PlainNumber | None = None


class FinancePrices(Spec):
    """How a purchase is paid.

    Parameters
    ----------
    years : time over which the machine is paid and used [year]
    rate : interest per year [-]
    residual : value of the machine at the end / its price [-]
    cny_per_usd : yuan for one dollar [-]
    """

    years: PlainNumber | None = None
    rate: PlainNumber | None = None
    residual: PlainNumber | None = None
    cny_per_usd: PlainNumber | None = None


class Prices(Spec):
    """A price list: one file of catalog/prices, the file of a user, or all of them together.

    Parameters
    ----------
    name, title : name and title of the list
    cards : price of one device, by name of the device
    servers : a server without its devices, by name of the system
    systems : a whole system, by name of the system or path of its file
    rental : rent of one device for an hour, everything included, by name of the device
    api : prices of a provider, by id of a model, or by provider and model
    network, room, finance : parts of the network, the machine room, and financing
    electricity : price of electricity by region
    pue : power usage effectiveness by kind of cooling: power of the site / power of the machines
    note : remark about the list
    """

    name: str = "prices"
    title: str = ""
    cards: dict[str, PerCard] = Field(default_factory=dict)
    servers: dict[str, PerServer] = Field(default_factory=dict)
    systems: dict[str, PerSystem] = Field(default_factory=dict)
    rental: dict[str, PerHour] = Field(default_factory=dict)
    api: dict[str, ApiPrice] = Field(default_factory=dict)
    network: NetworkPrices = NetworkPrices()
    room: RoomPrices = RoomPrices()
    finance: FinancePrices = FinancePrices()
    electricity: dict[Region, PerKilowattHour] = Field(default_factory=dict)
    pue: dict[CoolingKind, PlainNumber] = Field(default_factory=dict)
    note: str = ""

    @property
    def cny_per_usd(self) -> float:
        """Yuan for one dollar, in the middle of its range."""
        known = self.finance.cny_per_usd.range if self.finance.cny_per_usd else None
        assert known is not None
        return known.mid

    def usd(self, price: Price | None) -> Money | None:
        """A price in dollars; a plain number stays as it is. None: the price is unknown."""
        known = price.range if price else None
        if price is None or known is None:
            return None
        return known / self.cny_per_usd if price.currency == "CNY" else known

    def items(self) -> Iterator[tuple[str, Price]]:
        """Every price with its dotted path, such as `cards.h100` and `network.nic`."""
        yield from _items("", self)


def _items(path: str, value: Any) -> Iterator[tuple[str, Price]]:
    if isinstance(value, Price):
        yield path, value
    elif isinstance(value, Spec) and not isinstance(value, Quantity):
        for name, inner in value:
            yield from _items(f"{path}.{name}" if path else name, inner)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _items(f"{path}.{name}" if path else name, inner)
