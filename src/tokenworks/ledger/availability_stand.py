"""Which instances of a deployment a failed part of the machine stops, and which ones it slows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tokenworks.errors import SpecError
from tokenworks.simulation.cluster import room
from tokenworks.simulation.layout import DeviceLayout, device_layout
from tokenworks.simulation.steps import Site
from tokenworks.simulation.variants import Condition, least_ranks
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.machine import Machine
from tokenworks.specs.parts import LevelName, MachinePart, lost_share, parts_of


@dataclass(frozen=True, slots=True)
class Standing:
    """One instance on its devices.

    Parameters
    ----------
    role : number of its role in the deployment
    devices : numbers of its devices
    ranks : its dp ranks [count]
    least : fewest ranks that it can run with; `ranks` without elastic expert parallelism [count]
    uses : levels of the interconnect that connect its devices
    load_s : least time in which the hosts of the instance read its weights from their drives; 0: unknown [s]
    """

    role: int
    devices: frozenset[int]
    ranks: int
    least: int
    uses: frozenset[LevelName]
    load_s: float = 0.0

    @property
    def elastic(self) -> bool:
        """Whether the instance goes on without failed ranks."""
        return self.least < self.ranks

    def condition(self, lost_ranks: Iterable[int], failed: Iterable[MachinePart]) -> Condition | None:
        """The condition of the instance; None: it gives no tokens.

        Parameters
        ----------
        lost_ranks : ranks that do not work
        failed : failed parts that carry bandwidth
        """
        live, parts = self.ranks - len(set(lost_ranks)), tuple(failed)
        up, out = (
            1 - lost_share(parts, level, self.devices) if level in self.uses else 1.0
            for level in ("scale_up", "scale_out")
        )
        if live < self.least or min(up, out) <= 0:
            return None
        return Condition(None if live == self.ranks else live, up, out)

    def slowed_by(self, part: MachinePart) -> bool:
        """Whether the instance loses bandwidth with a part."""
        return part.level in self.uses and not self.devices.isdisjoint(part.reach)


@dataclass(frozen=True)
class Stand:
    """A deployment on the parts of its machine.

    Parameters
    ----------
    machine : the machine
    parts : its parts that can fail
    layout : where the instances stand
    instances : the instances, in the order of the layout
    spares : numbers of the devices that replace failed ones
    """

    machine: Machine
    parts: tuple[MachinePart, ...]
    layout: DeviceLayout
    instances: tuple[Standing, ...]
    spares: tuple[int, ...] = ()

    @cached_property
    def roles(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the instances of each role."""
        count = 1 + max(instance.role for instance in self.instances)
        return tuple(
            tuple(at for at, instance in enumerate(self.instances) if instance.role == role) for role in range(count)
        )

    @property
    def load_s(self) -> float:
        """Longest time in which an instance reads its weights from drives [s]."""
        return max(instance.load_s for instance in self.instances)

    def capacity(self, conditions: Mapping[int, float]) -> float:
        """Capacity of the deployment / its full capacity, as far as some instances have less than their own.

        Instances of a role add up. Requests pass all roles, so the role with the least capacity limits the deployment.

        Parameters
        ----------
        conditions : number of an instance -> its capacity / its full capacity; other instances have all [-]
        """
        return min(math.fsum(conditions.get(at, 1.0) for at in instances) / len(instances) for instances in self.roles)


def stand_of(deployment: Deployment, site: Site) -> Stand:
    """Place a deployment on the parts of its machine.

    Parameters
    ----------
    deployment : roles, spares, and whether expert parallelism is elastic
    site : model, machine and engine

    Raises
    ------
    SpecError : the deployment keeps more spares than the machine has devices left
    DoesNotFit : the machine has too few devices
    """
    machine = site.machine
    layout = device_layout(deployment, machine)
    instances = []
    for (number_of_role, ranks, _), devices in zip(layout.instances, layout.devices_of, strict=True):
        role = deployment.roles[number_of_role]
        shrinks = deployment.elastic_ep and role.can_shrink
        instances.append(
            Standing(
                number_of_role, frozenset(devices), ranks, least_ranks(role, site.model) if shrinks else ranks,
                _levels(machine, devices), _load_s(machine, devices, float(np.max(room(role, site).weights))),
            )
        )  # fmt: skip
    return Stand(machine, parts_of(machine), layout, tuple(instances), layout.idle[: deployment.spares])


def must_be_for(deployment: Deployment, system: str) -> None:
    """Refuse a deployment for another machine.

    Parameters
    ----------
    deployment : the deployment
    system : machine, as the user gave it
    """
    if deployment.system != system:
        raise SpecError(
            f"the deployment is for {deployment.system}, not for {system}", where="--deploy",
            hint=f"ask for the availability of {deployment.system}, or give a deployment for {system}",
        )  # fmt: skip


def _levels(machine: Machine, devices: tuple[int, ...]) -> frozenset[LevelName]:
    """Levels of the interconnect that connect the devices of an instance."""
    domains = {device // machine.domain for device in devices}
    levels: set[LevelName] = set()
    if len(devices) > len(domains):
        levels.add("scale_up")
    if len(domains) > 1:
        levels.add("scale_out")
    return frozenset(levels)


def _load_s(machine: Machine, devices: tuple[int, ...], weights: float) -> float:
    """Time in which the drives of the fullest host deliver the weights of its devices; 0: unknown [s]."""
    drives = machine.host.ssd_bandwidth
    if drives is None:
        return 0.0
    hosts = [device // machine.host.devices for device in devices]
    return max(hosts.count(host) for host in set(hosts)) * weights / drives


def without_elastic(stand: Stand) -> Stand:
    """The same deployment without elastic expert parallelism.

    Parameters
    ----------
    stand : the deployment
    """
    rigid = tuple(dataclasses.replace(instance, least=instance.ranks) for instance in stand.instances)
    return dataclasses.replace(stand, instances=rigid)
