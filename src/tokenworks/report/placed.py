"""Which instance uses which device of a machine: one placement that keeps small instances inside a scale-up domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_WORK = 5_000_000
"""Most steps of the exact search for a placement of two roles [count]."""

Owner = tuple[int, int] | None
"""Index of the role and number of the instance, both from 0; None: an idle device."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one role needs.

    Parameters
    ----------
    replicas : instances [count]
    devices : devices of one instance [count]
    """

    replicas: int
    devices: int


def placed(domain: int, devices: int, needs: Sequence[Need]) -> list[list[Owner]] | None:
    """Owner of each device, one list per scale-up domain; None if no placement was found.

    An instance that is larger than a domain takes devices of neighbouring domains. If such an instance exists, each
    role has domains of its own. All other instances stay inside one domain. `planning.placement` counts by the same
    rule.

    Parameters
    ----------
    domain : devices of one domain [count]
    devices : devices of the machine [count]
    needs : one entry per role
    """
    sizes = [min(domain, devices - start) for start in range(0, devices, domain)]
    if max(need.devices for need in needs) > domain:
        return _by_whole_domains(sizes, domain, needs)
    counts = _first_fit(sizes, needs)
    if counts is None and len(needs) == 2:
        counts = _exact(sizes, needs)
    if counts is None:
        return None
    return _filled(sizes, counts, needs)


def _by_whole_domains(sizes: list[int], domain: int, needs: Sequence[Need]) -> list[list[Owner]] | None:
    """Each role takes the next domains: in one row if its instances are larger than a domain."""
    owners: list[Owner] = []
    for role, need in enumerate(needs):
        start = -(-len(owners) // domain) * domain
        owners += [None] * (start - len(owners))
        for instance in range(need.replicas):
            left = domain - len(owners) % domain
            if need.devices <= domain and need.devices > left:
                owners += [None] * left
            owners += [(role, instance)] * need.devices
    if len(owners) > sum(sizes):
        return None
    owners += [None] * (sum(sizes) - len(owners))
    return [owners[index * domain : index * domain + size] for index, size in enumerate(sizes)]


def _first_fit(sizes: list[int], needs: Sequence[Need]) -> list[list[int]] | None:
    """Instances of each role in each domain: large instances first, each in the first domain with room."""
    free = list(sizes)
    counts = [[0] * len(needs) for _ in sizes]
    for role in sorted(range(len(needs)), key=lambda index: -needs[index].devices):
        left = needs[role].replicas
        for index, room in enumerate(free):
            taken = min(left, room // needs[role].devices)
            counts[index][role] = taken
            free[index] -= taken * needs[role].devices
            left -= taken
        if left:
            return None
    return counts


def _exact(sizes: list[int], needs: Sequence[Need]) -> list[list[int]] | None:
    """Instances of two roles in each domain, by dynamic programming over the domains; None if nothing fits.

    `most[x]` is the largest number of instances of the second role beside x instances of the first role.
    """
    first, second = needs
    ways = max(sizes) // first.devices + 1
    if len(sizes) * (first.replicas + 1) * ways > MOST_WORK:
        return None
    most: list[int] = [0] + [-1] * first.replicas
    chosen: list[list[int]] = []
    for size in sizes:
        best = [-1] * (first.replicas + 1)
        choice = [0] * (first.replicas + 1)
        for x, y in enumerate(most):
            if y < 0:
                continue
            for added in range(min(size // first.devices, first.replicas - x) + 1):
                total = y + (size - added * first.devices) // second.devices
                if total > best[x + added]:
                    best[x + added], choice[x + added] = total, added
        most = best
        chosen.append(choice)
    if most[first.replicas] < second.replicas:
        return None
    counts, x, left = [], first.replicas, second.replicas
    for size, choice in zip(reversed(sizes), reversed(chosen), strict=True):
        added = choice[x]
        beside = min(left, (size - added * first.devices) // second.devices)
        counts.append([added, beside])
        x, left = x - added, left - beside
    return counts[::-1]


def _filled(sizes: list[int], counts: list[list[int]], needs: Sequence[Need]) -> list[list[Owner]]:
    """Owners of the devices, from the instances of each role in each domain."""
    following = [0] * len(needs)
    domains = []
    for size, inside in zip(sizes, counts, strict=True):
        owners: list[Owner] = []
        for role, count in enumerate(inside):
            for _ in range(count):
                owners += [(role, following[role])] * needs[role].devices
                following[role] += 1
        domains.append(owners + [None] * (size - len(owners)))
    return domains
