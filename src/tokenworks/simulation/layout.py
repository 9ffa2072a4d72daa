"""Where the instances of a deployment stand: the number of a device gives its role, its instance and its rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.machine import Machine


@dataclass(frozen=True, slots=True, order=True)
class DevicePlace:
    """What a device works for.

    Parameters
    ----------
    role : number of the role in the deployment
    instance : number of the instance in the engine, over all roles
    rank : number of the dp rank in its instance
    """

    role: int
    instance: int
    rank: int


@dataclass(frozen=True)
class DeviceLayout:
    """The place of each device of a machine.

    Parameters
    ----------
    places : place of each device, by device number; None: no role uses the device
    per_host, domain : devices of a host node, and of a scale-up domain [count]
    instances : for each instance, the number of its role, its dp ranks, and its number inside its role
    """

    places: tuple[DevicePlace | None, ...]
    per_host: int
    domain: int
    instances: tuple[tuple[int, int, int], ...]

    @cached_property
    def idle(self) -> tuple[int, ...]:
        """Numbers of the devices that no role uses."""
        return tuple(device for device, place in enumerate(self.places) if place is None)

    @cached_property
    def devices_of(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the devices of each instance."""
        devices: list[list[int]] = [[] for _ in self.instances]
        for device, place in enumerate(self.places):
            if place is not None:
                devices[place.instance].append(device)
        return tuple(map(tuple, devices))

    def lost_ranks(self, devices: Iterable[int]) -> dict[int, tuple[int, ...]]:
        """The ranks that stop with some devices: number of the instance -> its ranks.

        Parameters
        ----------
        devices : numbers of the devices
        """
        ranks: dict[int, set[int]] = {}
        for device in devices:
            place = self.places[device]
            if place is not None:
                ranks.setdefault(place.instance, set()).add(place.rank)
        return {instance: tuple(sorted(own)) for instance, own in sorted(ranks.items())}

    def engine_rank(self, instance: int, rank: int) -> int:
        """Number of a rank in the engine. Ranks of a pool are numbered across its instances: first all ranks 0.

        Parameters
        ----------
        instance : number of the instance
        rank : number of the rank in its instance
        """
        role, _, inside = self.instances[instance]
        before = sum(ranks for other, ranks, _ in self.instances if other < role)
        return before + rank * sum(1 for other, _, _ in self.instances if other == role) + inside


def must_have_room(deployment: Deployment, machine: Machine) -> None:
    """Refuse a deployment with more devices and spares than its machine.

    Parameters
    ----------
    deployment : roles and spares
    machine : the machine

    Raises
    ------
    DoesNotFit : the roles take more devices than the machine has
    SpecError : the roles leave fewer devices than the spares that the deployment keeps
    """
    if deployment.devices > machine.devices:
        raise DoesNotFit(
            f"{deployment} takes {deployment.devices} devices, {machine.name} has {machine.devices}: "
            "use fewer replicas, or a larger machine"
        )
    left = machine.devices - deployment.devices
    if deployment.spares > left:
        raise SpecError(
            f"{deployment.spares} spare devices, but {machine.name} has {machine.devices} devices and {deployment} "
            f"takes {deployment.devices}", where="spares",
            hint=f"write {left} or less" if left else "leave spares out, or use fewer devices for the roles",
        )  # fmt: skip


def device_layout(deployment: Deployment, machine: Machine) -> DeviceLayout:
    """Place the instances of a deployment on the devices of its machine.

    An instance that is larger than a scale-up domain takes whole domains. A smaller one takes the next free devices of
    the first domain with room for it. Roles are placed in their order, so devices that are left over stand last.
    Inside an instance, the devices of a pipeline stage stand together, and in a stage the devices of a dp rank.

    Parameters
    ----------
    deployment : roles and spares
    machine : the machine

    Raises
    ------
    DoesNotFit, SpecError : as `must_have_room`
    """
    must_have_room(deployment, machine)
    instances = tuple(
        (number, role.parallel.dp, inside)
        for number, role in enumerate(deployment.roles)
        for inside in range(role.replicas)
    )
    places: list[DevicePlace | None] = [None] * machine.devices
    for instance, (number, _, _) in enumerate(instances):
        wide = deployment.roles[number].parallel
        for at, device in enumerate(_free(places, wide.devices, machine.domain)):
            places[device] = DevicePlace(number, instance, at % (wide.tp * wide.dp) // wide.tp)
    return DeviceLayout(tuple(places), machine.host.devices, machine.domain, instances)


def _free(places: list[DevicePlace | None], count: int, domain: int) -> list[int]:
    """Numbers of the devices for the next instance: in one domain, or in whole domains.

    If no domain has enough free devices, the instance takes the first free devices of the machine.

    Parameters
    ----------
    places : place of each device so far
    count : devices of the instance [count]
    domain : devices of a domain [count]
    """
    wide = min(count, domain)
    taken: list[int] = []
    for first in range(0, len(places), domain):
        free = [device for device in range(first, min(first + domain, len(places))) if places[device] is None]
        if len(free) >= wide:
            taken += free[:wide]
        if len(taken) >= count:
            return taken[:count]
    return [device for device, place in enumerate(places) if place is None][:count]
