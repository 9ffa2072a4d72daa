"""The parts of a machine that can fail, counted from its topology, and what each failed part takes away.

How often parts fail is in `specs/reliability.py`. Some parts count as a part of their host node: power supplies, fans,
processors, memory, drives, and the switches and links on the board of one host.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from tokenworks.errors import SpecError
from tokenworks.specs.machine import Assumption, Machine

PartKind = Literal["device", "hbm", "host", "nic", "link", "lane", "optic", "switch", "software"]
"""Kinds of parts. `link` is a cable, `lane` a connection over a backplane, `optic` a transceiver at one end of a cable.
`software` is the serving software of one host node."""

KINDS: tuple[PartKind, ...] = get_args(PartKind)
LevelName = Literal["scale_up", "scale_out"]
"""The levels of the interconnect: inside a domain, and between domains."""


@dataclass(frozen=True, slots=True)
class MachinePart:
    """One part of a machine.

    Parameters
    ----------
    kind : kind of the part
    number : number of the part among the parts of its kind, from 0
    devices : devices that stop while the part is down
    level : level of the interconnect whose bandwidth the part carries; None: the part carries none
    reach : devices that lose bandwidth while the part is down
    share : share of the bandwidth of this level that each of these devices loses [-]
    """

    kind: PartKind
    number: int
    devices: tuple[int, ...] = ()
    level: LevelName | None = None
    reach: tuple[int, ...] = ()
    share: float = 0.0

    @property
    def name(self) -> str:
        """Kind and number, such as `switch 1`."""
        return f"{self.kind} {self.number}"


def parts_of(machine: Machine) -> tuple[MachinePart, ...]:
    """All parts of a machine that can fail, ordered by kind and number.

    Device d is on host d // host.devices and in domain d // domain. The parts of the scale-up level are numbered before
    the parts of the scale-out level.

    Parameters
    ----------
    machine : the machine

    Raises
    ------
    SpecError : the scale-up links form a torus
    """
    every = [*_nodes(machine), *_scale_up(machine), *_scale_out(machine)]
    counts: Counter[PartKind] = Counter()
    numbered = []
    for kind, devices, level, reach, share in every:
        numbered.append(MachinePart(kind, counts[kind], devices, level, reach, share))
        counts[kind] += 1
    return tuple(sorted(numbered, key=lambda part: (KINDS.index(part.kind), part.number)))


def part_counts(parts: Iterable[MachinePart]) -> dict[PartKind, int]:
    """Number of parts of each kind; kinds that the machine does not have are left out.

    Parameters
    ----------
    parts : parts of the machine
    """
    counts = Counter(part.kind for part in parts)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def lost_share(failed: Iterable[MachinePart], level: LevelName, devices: Iterable[int]) -> float:
    """Share of the bandwidth of a level that a group of devices loses: the loss of the device that loses the most [-].

    Devices of a group wait for the slowest one. Shares of failed parts add up. A link to a failed switch counts twice.

    Parameters
    ----------
    failed : parts that are down
    level : level of the interconnect
    devices : devices of the group
    """
    group = frozenset(devices)
    lost: defaultdict[int, float] = defaultdict(float)
    for part in failed:
        if part.level == level:
            for device in group.intersection(part.reach):
                lost[device] += part.share
    return min(1.0, max(lost.values(), default=0.0))


def assumed_parts(machine: Machine) -> Iterator[Assumption]:
    """Assumed numbers of the count of parts.

    Parameters
    ----------
    machine : the machine
    """
    wiring = machine.wiring
    if not spans_hosts(machine) or wiring.topology != "switched":
        return
    yield from wiring.assumed
    if wiring.switches is None:
        yield Assumption(
            "scale_up.switches",
            "1",
            "not published; one switch a domain, so its failure stops all devices of the domain",
        )
    if wiring.cables is None:
        yield Assumption("cables", "", "not published; a cable is counted for each link of a device with a switch")


def spans_hosts(machine: Machine) -> bool:
    """Whether a scale-up domain has devices of more than one host.

    Parameters
    ----------
    machine : the machine
    """
    return machine.domain > machine.host.devices


_Row = tuple[PartKind, tuple[int, ...], LevelName | None, tuple[int, ...], float]


def _nodes(machine: Machine) -> Iterator[_Row]:
    """Devices, their memory, host nodes and their software: each stops its own devices."""
    for device in range(machine.devices):
        yield "device", (device,), None, (), 0.0
        yield "hbm", (device,), None, (), 0.0
    for host in _groups(machine.devices, machine.host.devices):
        yield "host", host, None, (), 0.0
        yield "software", host, None, (), 0.0


def _scale_up(machine: Machine) -> Iterator[_Row]:
    """Switches and links of domains with more than one host.

    A switch takes an equal share of the bandwidth of each device of its domain; the only switch stops the domain.
    Switches and links on the board of one host are a part of the host.
    """
    wiring = machine.wiring
    if not spans_hosts(machine):
        return
    if wiring.topology == "torus":
        raise SpecError(
            "the scale-up links form a torus, and tokenworks counts no parts of a torus",
            where=f"{machine.name}: scale_up.topology",
            hint="write a machine file with an equal switched fabric",
        )
    for domain in _groups(machine.devices, machine.domain):
        if wiring.topology == "mesh":
            yield from _mesh(machine, domain)
            continue
        switches, links = wiring.switches or 1, _links_of_a_device(machine)
        for _ in range(switches):
            yield (
                ("switch", (), "scale_up", domain, 1 / switches) if switches > 1 else ("switch", domain, None, (), 0.0)
            )
        for device, _ in itertools.product(domain, range(links)):
            yield from _wires(machine, (device,), 1 / links)


def _mesh(machine: Machine, domain: tuple[int, ...]) -> Iterator[_Row]:
    """Links of a mesh between devices of different hosts; links on the board of a host are a part of the host."""
    for one, other in itertools.combinations(domain, 2):
        if one // machine.host.devices != other // machine.host.devices:
            yield from _wires(machine, (one, other), 1 / (len(domain) - 1))


def _wires(machine: Machine, reach: tuple[int, ...], share: float) -> Iterator[_Row]:
    """One link of the scale-up level: a lane of a backplane, or a cable, optical ones with two transceivers."""
    if machine.wiring.cables == 0:
        yield "lane", (), "scale_up", reach, share
        return
    yield "link", (), "scale_up", reach, share
    if machine.wiring.optical:
        yield "optic", (), "scale_up", reach, share
        yield "optic", (), "scale_up", reach, share


def _links_of_a_device(machine: Machine) -> int:
    """Links of one device with the switches: one with each switch of a single layer.

    With more layers: the cables of the machine / its devices, at least 1.
    """
    wiring = machine.wiring
    if machine.scale_up.layers <= 1:
        return wiring.switches or 1
    return max(1, (wiring.cables or 0) // wiring.system_devices)


def _scale_out(machine: Machine) -> Iterator[_Row]:
    """NICs, cables, transceivers and switches between the domains.

    Each device has a NIC and a cable with a transceiver at each end. While one of these is down, the traffic of the
    host goes over the other NICs of the host. Switches form a non-blocking folded Clos network.
    """
    if machine.scale_out is None:
        return
    hosts = _groups(machine.devices, machine.host.devices)
    for host in hosts:
        for _ in host:
            yield "nic", (), "scale_out", host, 1 / len(host)
            yield from _optical_cable(host)
    yield from _clos(machine.devices, machine.wiring.radix or machine.devices, machine.scale_out.layers)


def _optical_cable(reach: tuple[int, ...]) -> Iterator[_Row]:
    """A cable between switches or to a NIC with its two transceivers, one of equal ones of a group of devices."""
    yield "link", (), "scale_out", reach, 1 / len(reach)
    yield "optic", (), "scale_out", reach, 1 / len(reach)
    yield "optic", (), "scale_out", reach, 1 / len(reach)


def _clos(ports: int, radix: int, layers: int) -> Iterator[_Row]:
    """Switches of a folded Clos network, and the cables between its layers.

    A switch of the lowest layer takes all bandwidth of its devices. n switches of a higher layer carry the traffic of
    the same devices, and one of these takes 1/n of the bandwidth.

    References
    ----------
    [1] Al-Fares et al., A Scalable, Commodity Data Center Network Architecture, SIGCOMM 2008, section 2.2.
    """
    everyone = tuple(range(ports))
    if layers == 1:
        yield "switch", (), "scale_out", everyone, 1.0
        return
    half = radix // 2
    for leaf in _groups(ports, half):
        yield "switch", (), "scale_out", leaf, 1.0
        for _ in leaf:  # an uplink for each port, so that the layer is non-blocking
            yield from _optical_cable(leaf)
    if layers == 3:
        for pod in _groups(ports, half * half):
            for _ in range(half):
                yield "switch", (), "scale_out", pod, 1 / half
            for _ in pod:
                yield from _optical_cable(pod)
    top = max(1, -(-ports // radix))
    for _ in range(top):
        yield "switch", (), "scale_out", everyone, 1 / top


def _groups(devices: int, size: int) -> list[tuple[int, ...]]:
    """Device numbers in groups of one size; the last group may be smaller."""
    return [tuple(range(start, min(start + size, devices))) for start in range(0, devices, size)]
