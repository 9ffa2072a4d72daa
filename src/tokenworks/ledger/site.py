"""What a machine is made of and where it stands: boxes, racks, power, weight, cooling, cables, switches, endpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.specs import compose, load
from tokenworks.specs.compose import Parts
from tokenworks.specs.provenance import Kilograms, Spec, Watts, not_published
from tokenworks.specs.system import CoolingKind

FAST_PORT = 75e9
"""From this bandwidth on, a port takes 800G optics; below, 400G optics [byte/s]."""

RACK_UNITS = 42
"""Height of a usual rack [count]."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine as a buyer and a site see it. None: the number is not published.

    Parameters
    ----------
    name : the text of `--on`
    system, device : names of the system and of the device
    devices : devices of the machine [count]
    systems : systems of the machine; a fraction if only a part of a system is used [count]
    hosts : host nodes of the machine [count]
    endpoints : devices whose scale-out port must be connected and configured; 0 in one scale-up domain [count]
    switches, radix : switches of the scale-out network, and ports of one switch [count]
    links : cables of the scale-out network, between a device and a switch or between two switches [count]
    fast_port : whether links need 800G optics
    cables : cables and optical links inside the scale-up domains [count]
    rack_units : height of all systems [count]
    power_w, weight_kg : largest power and weight of all systems, without switches of the network [W, kg]
    tdp_w : largest power of all devices together [W]
    cooling : how the systems are cooled
    price_usd : price of all systems, of `--set machine.price` or of the user's own machine file [USD]
    card_usd : price of one device, of `--set machine.device.price` or of the user's own device file [USD]
    """

    name: str
    system: str
    device: str
    devices: int
    systems: float
    hosts: float
    endpoints: int = 0
    switches: int = 0
    radix: int = 0
    links: int = 0
    fast_port: bool = False
    cables: float | None = None
    rack_units: float | None = None
    power_w: float | None = None
    weight_kg: float | None = None
    tdp_w: float | None = None
    cooling: CoolingKind | None = None
    price_usd: float | None = None
    card_usd: float | None = None

    @property
    def boxes(self) -> int:
        """Whole systems that must stand somewhere [count]."""
        return max(math.ceil(self.systems - 1e-9), 1)


def hardware_of(parts: Parts) -> Hardware:
    """The hardware of a machine.

    Parameters
    ----------
    parts : the machine with all its files, as `specs.compose.parts` reads it from the text of `--on`
    """
    system, device, network = parts.system, parts.device, parts.network
    share = parts.devices / system.devices
    endpoints = parts.devices if parts.devices > parts.domain else 0
    radix = int(network.radix.value or 0) if network and endpoints else 0
    switches, links = clos(endpoints, radix) if radix else (0, 0)
    port = network.port.value if network else None

    def own(path: str, price: float | None, names: list[str], name: str) -> float | None:
        """A price that the user set or wrote into a file; prices of the catalog are in the price list."""
        return price if name not in names or any(item.path == path for item in parts.given) else None

    def every(one: float | None) -> float | None:
        return None if one is None else one * share

    return Hardware(
        name=parts.on,
        system=system.name,
        device=device.name,
        devices=parts.devices,
        systems=share,
        hosts=parts.devices / system.host.devices,
        endpoints=endpoints,
        switches=switches,
        radix=radix,
        links=links,
        fast_port=port is not None and port >= FAST_PORT,
        cables=every(system.cables.value),
        rack_units=every(system.rack_units.value),
        power_w=every(system.power.value),
        weight_kg=every(system.weight.value),
        tdp_w=None if device.tdp.value is None else device.tdp.value * parts.devices,
        cooling=system.cooling.value if system.cooling else None,
        price_usd=every(own("price", system.price.value, load.catalog_names("system"), system.name)),
        card_usd=own("device.price", device.price.value, load.catalog_names("device"), device.name),
    )


def clos(endpoints: int, radix: int) -> tuple[int, int]:
    """Switches and links of a non-blocking folded Clos network with one, two or three layers.

    One switch connects r endpoints. With two layers, a leaf has r/2 endpoints, and r/2 links to the spine. With three
    layers, there are as many switches in the second layer as leaves, and the core has half as many.

    Parameters
    ----------
    endpoints : ports of devices [count]
    radix : ports r of one switch [count]

    Returns
    -------
    Switches, and links between endpoints and switches or between two switches [count, count].

    References
    ----------
    [1] Al-Fares et al., A Scalable, Commodity Data Center Network Architecture, SIGCOMM 2008, section 2.2.
    """
    if endpoints <= radix:
        return 1, endpoints
    half = radix // 2
    leaves = math.ceil(endpoints / half)
    if endpoints <= 2 * half**2:
        return leaves + math.ceil(leaves * half / radix), endpoints + leaves * half
    return 2 * leaves + math.ceil(leaves * half / radix), endpoints + 2 * leaves * half


class Room(Spec):
    """Where machines can stand. A number that is left out is no limit.

    Parameters
    ----------
    name : name of the room in messages
    racks : racks that the room has space for [count]
    rack_units : height of one rack [count]
    rack_power : largest power of one rack [W]
    rack_weight : largest weight of one rack, by the load of the floor [kg]
    power : largest power of all machines together, without cooling [W]
    cooling : best cooling of the room: "air"; "liquid", which also takes machines with air; "immersion", which takes
        all
    """

    name: str = "room"
    racks: int | None = Field(default=None, gt=0, strict=True)
    rack_units: int = Field(default=RACK_UNITS, gt=0, strict=True)
    rack_power: Watts = not_published("W")
    rack_weight: Kilograms = not_published("kg")
    power: Watts = not_published("W")
    cooling: CoolingKind = "immersion"


def load_room(room: str | Path | Mapping[str, Any] | Room) -> Room:
    """A room from a YAML file, from the content of such a file, or as it is.

    Raises
    ------
    SpecError : the file cannot be read, or has an unknown key or a wrong value
    """
    if isinstance(room, Room):
        return room
    if isinstance(room, Mapping):
        return load.validate(Room, dict(room), "room")
    return load.load(Room, Path(room))


@dataclass(frozen=True, slots=True)
class Placed:
    """A machine in a room.

    Parameters
    ----------
    hardware, room : the machine and the room
    boxes : systems of the machine [count]
    racks : racks that the machine fills; a rack that is partly filled counts as one [count]
    boxes_per_rack : systems in one rack; below 1 if one system fills several racks [count]
    own_racks : whether the systems are taller than a rack, and bring their own racks
    rack_power_w, rack_weight_kg : power and weight of a full rack of the machine; None: not published [W, kg]
    fits : systems of this kind that fit into the room; None: the room has no limit [count]
    limited_by : what limits the number of systems: "racks" or "power"; empty: nothing
    """

    hardware: Hardware
    room: Room
    boxes: int
    racks: int
    boxes_per_rack: float
    own_racks: bool
    rack_power_w: float | None
    rack_weight_kg: float | None
    fits: int | None
    limited_by: str

    @property
    def unknown(self) -> tuple[str, ...]:
        """Numbers of the machine that are not published, and that a limit of the room is about."""
        one, room = self.hardware, self.room
        pairs = (
            ("power", one.power_w, room.rack_power.value or room.power.value),
            ("weight", one.weight_kg, room.rack_weight.value),
        )
        return tuple(name for name, known, limit in pairs if known is None and limit is not None)


def placed(hardware: Hardware, room: Room | None = None) -> Placed:
    """Put a machine into a room.

    A system that is taller than a rack brings its own racks: its height / the height of a rack, rounded. Other systems
    share racks as far as height, power and weight of a rack allow. A limit whose number the machine does not publish is
    not checked; `Placed.unknown` names it.

    Parameters
    ----------
    hardware : the machine
    room : the room; None: racks of 42 units without any other limit

    Raises
    ------
    SpecError : the height of the machine is not published
    DoesNotFit : not one system fits, or the machine is too large for the room. The message says what does not fit, by
        how much, and which system of the catalog fits
    """
    room = room or Room()
    if hardware.rack_units is None:
        raise SpecError(
            "its height is not published",
            where=f"{hardware.name}: rack_units",
            hint="give it with --set machine.rack_units=8, or in the file of the machine",
        )
    if short := tuple(_short(hardware, room)):
        raise DoesNotFit(f"{hardware.name} does not fit {room.name}: {'; '.join(short)}; {_nearest(hardware, room)}")
    inside = _placed(hardware, room)
    if inside.fits is not None and inside.fits < inside.boxes:
        raise DoesNotFit(f"{hardware.name} does not fit {room.name}: {_too_many(inside)}")
    return inside


def _one(whole: float | None, hardware: Hardware) -> float | None:
    """A number of one system, from the number of all systems."""
    return None if whole is None else whole / hardware.systems


def _own_racks(hardware: Hardware, room: Room) -> int:
    """Racks that one system fills alone; 0 if it may share a rack [count]."""
    height = _one(hardware.rack_units, hardware) or 0.0
    return max(round(height / room.rack_units), 1) if height > room.rack_units else 0


def _placed(hardware: Hardware, room: Room) -> Placed:
    """The machine in the room; every system fits into a rack or brings its own racks."""
    height = _one(hardware.rack_units, hardware) or 0.0
    power, weight = _one(hardware.power_w, hardware), _one(hardware.weight_kg, hardware)
    own = _own_racks(hardware, room)
    if own:
        per_rack = 1 / own
        racks = own * hardware.boxes
    else:
        limits = ((room.rack_units, height), (room.rack_power.value, power), (room.rack_weight.value, weight))
        per_rack = min(int(limit / need + 1e-9) for limit, need in limits if limit is not None and need)
        racks = math.ceil(hardware.boxes / per_rack)
    counts = []
    if room.racks is not None:
        counts.append((room.racks // own if own else room.racks * int(per_rack), "racks"))
    if room.power.value is not None and power:
        counts.append((int(room.power.value / power + 1e-9), "power"))
    fits, limited_by = min(counts, default=(None, ""), key=lambda count: count[0] or 0)
    return Placed(
        hardware=hardware,
        room=room,
        boxes=hardware.boxes,
        racks=racks,
        boxes_per_rack=per_rack,
        own_racks=own > 0,
        rack_power_w=None if power is None else power * per_rack,
        rack_weight_kg=None if weight is None else weight * per_rack,
        fits=fits,
        limited_by=limited_by,
    )


_BETTER: dict[CoolingKind, int] = {"air": 0, "liquid": 1, "immersion": 2}


def _short(hardware: Hardware, room: Room) -> Iterator[str]:
    """Everything that keeps a machine out of a room, with the amount that is missing."""
    if hardware.cooling and _BETTER[hardware.cooling] > _BETTER[room.cooling]:
        yield f"it needs {hardware.cooling} cooling, and the room has {room.cooling}"
    for what, whole, limit, unit, scale in (
        ("draws", hardware.power_w, room.rack_power.value, "kW", 1e3),
        ("weighs", hardware.weight_kg, room.rack_weight.value, "kg", 1.0),
    ):
        need = _one(whole, hardware)
        if need is None or limit is None:
            continue
        need /= max(_own_racks(hardware, room), 1)
        if need > limit:
            drawn, more, most = (f"{value / scale:,.4g} {unit}" for value in (need, need - limit, limit))
            yield f"one system {what} {drawn} in a rack, {more} more than the {most} of a rack"


def _too_many(inside: Placed) -> str:
    """The words for a machine of which the room takes a part of the systems."""
    room, one = inside.room, inside.hardware
    if inside.limited_by == "racks":
        need, has = f"{inside.racks:,} racks", f"{room.racks:,}"
    else:
        need, has = f"{(one.power_w or 0) / 1e3:,.4g} kW", f"{(room.power.value or 0) / 1e3:,.4g} kW"
    fits = f"{inside.fits:,} of them fit" if inside.fits else "not one of them fits"
    return f"{inside.boxes:,} systems need {need}, and the room has {has}; {fits}"


def _nearest(hardware: Hardware, room: Room) -> str:
    """The system of the catalog with the most devices that fits the room, as part of a message."""
    best: Hardware | None = None
    for name in load.catalog_names("system"):
        one = hardware_of(compose.parts(name))
        needs = (one.rack_units, one.power_w, one.cooling, one.weight_kg if room.rack_weight.value else 0)
        if name == hardware.system or any(need is None for need in needs) or any(_short(one, room)):
            continue
        if best is None or one.devices > best.devices:
            best = one
    if best is None:
        return "no system of the catalog whose height, power and cooling are known fits it"
    return f"{best.name} with {best.devices} devices is the largest system of the catalog that fits"
