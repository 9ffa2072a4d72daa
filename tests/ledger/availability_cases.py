"""Machines, deployments and failure rates for the tests of availability, without a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenworks.ledger.availability_stand import Stand, Standing
from tokenworks.simulation.layout import DeviceLayout, DevicePlace
from tokenworks.specs.compose import machine
from tokenworks.specs.parts import parts_of
from tokenworks.specs.reliability import Reliability, load_reliability

PART: dict[str, Any] = {"failures": 1e-4, "permanent": 0.5, "reset": "2 min", "range": 2}
RATES: dict[str, Any] = {
    "device_failures": 1e-5, "host_failures": 1e-4, "lost": 0.4, "restart": "11 min", "repair": "12 h",
    "storage": "1 GB/s",
    "parts": dict.fromkeys(("device", "host", "switch", "nic"), PART) | {"software": PART | {"permanent": 0}},
    "recovery": {
        "detect": "30 s", "process": "20 s", "weights": "30 s", "graphs": "100 s", "shrink": "60 s", "crash": 1,
        "ranges": {"repair": 3, "detect": 4},
    },
}  # fmt: skip


def rates(**changes: Any) -> Reliability:
    """The rates of these tests with some changes."""
    return load_reliability(RATES | changes)


def scaled(factor: float, *, repair: str = "12 h") -> Reliability:
    """The rates of these tests with all failures times a factor."""
    parts = {kind: part | {"failures": factor * part["failures"]} for kind, part in RATES["parts"].items()}
    return rates(parts=parts, repair=repair)


def stand(
    on: str = "scalex40", instances: Sequence[int] = (40,), *, least: int | None = None, spares: int = 0
) -> Stand:
    """A deployment of one role, with one rank per device.

    Parameters
    ----------
    on : the machine
    instances : devices of each instance [count]
    least : fewest ranks of an elastic instance; None: not elastic [count]
    spares : spare devices [count]
    """
    box = machine(on)
    places: list[DevicePlace | None] = [None] * box.devices
    standing, first = [], 0
    for number, size in enumerate(instances):
        devices = range(first, first + size)
        domains = {device // box.domain for device in devices}
        levels = {"scale_up"} if size > len(domains) else set()
        levels |= {"scale_out"} if len(domains) > 1 else set()
        for device in devices:
            places[device] = DevicePlace(0, number, device - first)
        standing.append(Standing(0, frozenset(devices), size, least or size, frozenset(levels)))  # type: ignore[arg-type]
        first += size
    layout = DeviceLayout(
        tuple(places), box.host.devices, box.domain, tuple((0, size, at) for at, size in enumerate(instances))
    )
    return Stand(box, parts_of(box), layout, tuple(standing), tuple(range(first, first + spares)))
