"""Build the machine of a measured point: enough hosts of a catalog system with its devices."""

from __future__ import annotations

import functools
import math
import re

from tokenworks.calibrate.measured import Worker
from tokenworks.errors import SpecError
from tokenworks.specs import load
from tokenworks.specs.compose import machine, parts, resolve
from tokenworks.specs.machine import Machine

LINK = {
    "device.scale_up.bandwidth": "32 GB/s", "device.nic": "25 GB/s", "scale_up.hop": "0.25 us",
    "scale_up.endpoint": "1 us",
}  # fmt: skip
NETWORK = "roce400"
"""Assumed links of devices whose links are not published: PCIe 4.0 x16, a matching network adapter, and Ethernet.
Without these, points measured on such cards could not be predicted."""

_SYSTEM = re.compile(r"([0-9]+x)?(" + "|".join(map(re.escape, load.catalog_names("system"))) + ")(@.+)?")


class Skipped(Exception):
    """A point cannot be predicted. The text is the kind of reason, a colon, and the reason."""


@functools.cache
def systems_of(device: str) -> tuple[str, ...]:
    """Catalog systems with a device, smallest system first."""
    sizes = []
    for name in load.catalog_names("system"):
        system = load.load_system(name)
        if system.device == device:
            sizes.append((system.devices, name))
    return tuple(name for _, name in sorted(sizes))


@functools.cache
def machine_of(device: str, workers: tuple[Worker, ...]) -> Machine:
    """A machine with enough hosts (or supernodes) for all workers; or the machine that `device` names.

    The machine consists of the smallest system with a domain as large as the largest worker, or else of the smallest
    system: a slice of 16 TPU chips is one domain, and 16 H100 are two. A worker that is not larger than a domain stays
    inside one domain.

    Parameters
    ----------
    device : name of a device, of a system, or path of a system file
    workers : the instances of the point

    Raises
    ------
    Skipped : no system has this device, or the machine lacks numbers
    """
    if load.is_path(device) or (_SYSTEM.fullmatch(device) and device not in load.catalog_names("device")):
        try:
            return machine(device)
        except SpecError as error:
            raise Skipped(f"lacks numbers: {device}: {error.message}") from None
    names = systems_of(device)
    if not names:
        raise Skipped(f"not in the catalog: no system has the device {device}")
    systems, widest = [load.load_system(name) for name in names], max(worker.devices for worker in workers)
    wide = (one for one in systems if one.domain >= widest and one.scale_up.topology != "torus")
    system = systems[-1] if device.startswith("gb") else next(wide, systems[0])
    domain = system.domain
    if sum(w.devices * w.count for w in workers) <= domain:
        hosts = 1
    else:
        hosts = sum(w.count * math.ceil(w.devices / domain) for w in workers if w.devices >= domain)
        small = [w.devices for w in workers for _ in range(w.count) if w.devices < domain]
        hosts += _packed(small, domain)
    count = max(1, math.ceil(hosts * domain / system.devices))
    on = f"{count}x{system.name}" if count > 1 else system.name
    if count > 1 and not system.network:
        on = f"{on}@{NETWORK}"
    try:
        return machine(on, assume={path: LINK[path] for path in assumed_links(on)})
    except SpecError as error:
        raise Skipped(f"lacks numbers: {system.name}: {error.message}") from None


@functools.cache
def assumed_links(on: str) -> tuple[str, ...]:
    """Paths of link numbers that are not published for a machine, and that are assumed here."""
    return tuple(path for path in resolve(parts(on))[1] if path in LINK)


def _packed(sizes: list[int], domain: int) -> int:
    """Hosts for instances smaller than a host, by first fit [count]."""
    free: list[int] = []
    for size in sorted(sizes, reverse=True):
        for i, room in enumerate(free):
            if room >= size:
                free[i] -= size
                break
        else:
            free.append(domain - size)
    return len(free)
