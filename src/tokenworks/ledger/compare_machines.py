"""What all comparisons share: the machines and their numbers, their places, and what they have equal amounts of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.ledger.cost import MachineCost
from tokenworks.ledger.priced import Paying, hardware
from tokenworks.ledger.site import Hardware, Placed, Room, placed
from tokenworks.ledger.terms import Terms
from tokenworks.ledger.uptime import SystemUptime, system_uptime
from tokenworks.specs.given import Given
from tokenworks.specs.reliability import Reliability

Equal = Literal["devices", "power", "racks", "money"]

UNITS: dict[Equal, str] = {"devices": "device", "power": "kW", "racks": "rack"}


def unit_of(equal: Equal, terms: Terms) -> str:
    """The unit of what machines have equal amounts of."""
    return UNITS.get(equal, f"{terms.currency} an hour")


def four_digits(value: float) -> str:
    """A number with four digits, or with all digits before the point: 0.01234, 148.6, 12,346."""
    return f"{value:,.0f}" if value >= 1e3 else f"{value:,.4g}"


def written(value: float) -> str:
    """A number with all its digits, without a needless ".0"."""
    return repr(int(value)) if value == int(value) else repr(value)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Tokens per second of one machine / those of another, at equal amounts; `low` to `high` is the 80 % interval."""

    system: str
    against: str
    low: float
    value: float
    high: float


@dataclass(frozen=True, kw_only=True)
class AskedMachines:
    """The machines of a comparison.

    Parameters
    ----------
    on : machines
    assume, assume_of : numbers for all machines, and numbers by machine
    equal : what the machines have equal amounts of
    paying : prices and conditions
    reliability : failure rates and times
    workers : processes [count]
    """

    on: tuple[str, ...]
    assume: tuple[Given, ...]
    assume_of: Mapping[str, tuple[Given, ...]]
    equal: Equal
    paying: Paying
    reliability: Reliability
    workers: int

    def must_be_machines(self) -> None:
        """Refuse machines that are missing, given twice, or not compared."""
        if len(set(self.on)) < len(self.on):
            twice = next(name for name in self.on if self.on.count(name) > 1)
            raise SpecError("is given twice", where=f"--on {twice}", hint="give each machine once")
        if len(self.on) < 2:
            hint = "give two or more, such as --on scalex40 --on 5xhgx-h100"
            raise SpecError("a comparison needs two machines", where="--on", hint=hint)
        for name in self.assume_of:
            if name not in self.on:
                hint = f"one of {', '.join(self.on)}, as --on has it"
                raise SpecError("is not compared", where=f"--assume {name}=", hint=hint)

    def numbers(self, name: str) -> tuple[Given, ...]:
        """The numbers of a machine: those of all machines, then its own."""
        return (*self.assume, *self.assume_of.get(name, ()))

    @property
    def given(self) -> tuple[Given, ...]:
        """All numbers that the user set."""
        return (*self.assume, *(item for items in self.assume_of.values() for item in items))

    def bought(self) -> dict[str, Hardware]:
        """The hardware of each machine with the numbers of the user."""
        return {name: hardware(name, self.numbers(name)) for name in self.on}

    def uptimes(self) -> tuple[dict[str, SystemUptime | None], tuple[str, ...]]:
        """The availability of each machine, and a sentence about each machine whose availability is not known."""
        known: dict[str, SystemUptime | None] = {}
        unknown = []
        for name in self.on:
            try:
                known[name] = system_uptime(name, self.numbers(name), self.reliability)
            except SpecError as error:
                known[name] = None
                unknown.append(f"No availability of {name} is known: {error}")
        return known, tuple(unknown)


def does_not_stand(machine: Hardware, room: Room) -> DoesNotFit | None:
    """Why a machine does not stand in the room; None if it does, or if its height is not published."""
    try:
        if machine.rack_units is not None:
            placed(machine, room)
    except DoesNotFit as error:
        return error
    return None


@dataclass(frozen=True, slots=True)
class Measures:
    """What an amount of a machine is measured by. None: not known.

    Parameters
    ----------
    devices : devices of the machine [count]
    power_w : mean power of the devices under load [W]
    place : the machine in the room
    cost : what the machine costs
    """

    devices: int
    power_w: float | None
    place: Placed | None
    cost: MachineCost | None


def _kilowatts(one: Measures) -> float | None:
    return None if one.power_w is None else one.power_w / 1e3


def _racks(one: Measures) -> float | None:
    return None if one.place is None else one.place.hardware.systems / one.place.boxes_per_rack


def _money(one: Measures) -> float | None:
    an_hour = one.cost and one.cost.per_hour
    return an_hour.mid if an_hour else None


AMOUNTS: dict[Equal, Callable[[Measures], float | None]] = {
    "devices": lambda one: float(one.devices), "power": _kilowatts, "racks": _racks, "money": _money,
}  # fmt: skip
"""What machines have equal amounts of -> the amount of a machine; None: not known."""

NO_AMOUNT: dict[Equal, Callable[[Measures], str]] = {
    "power": lambda _: "the power of its device is not published; give it with --assume SYSTEM=FILE",
    "racks": lambda _: "its height is not published; give machine.rack_units with --assume SYSTEM=FILE",
    "money": lambda one: f"it has no cost; {one.cost.needed if one.cost else 'no price'}",
}
"""Why a machine has no amount."""
