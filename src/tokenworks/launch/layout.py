"""Where the instances of a deployment sit: nodes of an instance, hosts, devices of a host, and ports."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenworks.errors import SpecError
from tokenworks.specs.deployment import Deployment, Parallel, Role


@dataclass(frozen=True, slots=True)
class Seat:
    """The devices that one node of an instance has on one host.

    Parameters
    ----------
    role : name of the role
    instance : number of the instance of the role, from 0
    node : rank of the node in the instance, from 0
    host : number of the host, from 0
    devices : devices of the host that the seat uses, by their numbers on the host
    place : number of the seat among the seats of its host, from 0; it shifts ports
    """

    role: str
    instance: int
    node: int
    host: int
    devices: tuple[int, ...]
    place: int


@dataclass(frozen=True, slots=True)
class Layout:
    """All nodes of a deployment.

    Parameters
    ----------
    seats : seats of all instances, in the order of roles, instances and nodes
    per_host : devices of one host [count]
    hosts : hosts that are used [count]
    """

    seats: tuple[Seat, ...]
    per_host: int
    hosts: int

    def nodes(self, role: str) -> int:
        """Nodes of one instance of a role [count]."""
        return 1 + max(seat.node for seat in self.seats if seat.role == role)

    def first(self, role: str, instance: int) -> Seat:
        """The first node of an instance, where its API server runs."""
        return next(p for p in self.seats if (p.role, p.instance, p.node) == (role, instance, 0))


def node_counts(parallel: Parallel, per_host: int) -> list[int]:
    """Numbers of nodes that an instance can be divided over, fewest first.

    All nodes have the same number of devices. A node has whole data-parallel ranks, or a rank has whole nodes; the same
    holds for pipeline stages.

    Parameters
    ----------
    parallel : widths of the instance
    per_host : devices of one host [count]
    """
    rank, counts = parallel.tp * parallel.pp, []
    for nodes in range(1, parallel.devices + 1):
        share = parallel.devices // nodes
        whole_ranks = share % rank == 0 or rank % share == 0
        whole_stages = nodes % parallel.pp == 0 or parallel.pp % nodes == 0
        if parallel.devices % nodes == 0 and share <= per_host and whole_ranks and whole_stages:
            counts.append(nodes)
    return counts


def layout_of(deployment: Deployment, per_host: int, hosts: int) -> Layout:
    """Place all instances on hosts: instances on as few nodes as possible, hosts filled one after the other.

    Parameters
    ----------
    deployment : the deployment
    per_host : devices of one host [count]
    hosts : hosts of the machine [count]

    Raises
    ------
    SpecError : the instances do not fit the hosts
    """
    choices = [node_counts(role.parallel, per_host) for role in deployment.roles]
    for counts in itertools.product(*(choice or [0] for choice in choices)):
        if 0 in counts:
            break
        seats = _packed(deployment.roles, counts, per_host)
        if seats is not None and 1 + max(seat.host for seat in seats) <= hosts:
            return Layout(seats, per_host, 1 + max(seat.host for seat in seats))
    raise SpecError(
        f"{deployment} does not fit {hosts} hosts of {per_host} devices", where="hosts",
        hint="take widths that divide the devices of a host, or correct devices_per_host",
    )  # fmt: skip


def _packed(roles: Sequence[Role], counts: Sequence[int], per_host: int) -> tuple[Seat, ...] | None:
    """The seats of all instances, each in the first host with room for it."""
    used: list[int] = []
    places: list[int] = []
    seats = []
    for role, nodes in zip(roles, counts, strict=True):
        share = role.parallel.devices // nodes
        for instance, node in itertools.product(range(role.replicas), range(nodes)):
            host = next((number for number, taken in enumerate(used) if taken + share <= per_host), len(used))
            if host == len(used):
                used.append(0)
                places.append(0)
            devices = tuple(range(used[host], used[host] + share))
            seats.append(Seat(role.name, instance, node, host, devices, places[host]))
            used[host] += share
            places[host] += 1
    return tuple(seats)


def instances(layout: Layout, role: str) -> Iterator[int]:
    """Numbers of the instances of a role."""
    return iter(sorted({seat.instance for seat in layout.seats if seat.role == role}))
