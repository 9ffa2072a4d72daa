"""How prefill and decode instances share a machine: small instances stay in a domain, large ones take whole domains."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Bools, FloatArray, Ints
from tokenworks.specs.machine import Machine

MOST_WAYS = 128
"""Number of ways to share a machine that are tried for one pair of sizes [count]."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Ways to share a machine between x prefill instances and y decode instances.

    x rises and y falls. Each y is the largest number of decode instances beside x prefill instances.
    """

    prefill: Ints
    decode: Ints

    def tried(self) -> Shares:
        """The ways to try: all of them, or a choice if there are more than `MOST_WAYS`.

        The choice is dense near both ends: neighbours differ by about a tenth in x or in y.
        """
        if len(self.prefill) <= MOST_WAYS:
            return self
        steps = np.unique(np.geomspace(1, len(self.prefill), MOST_WAYS // 2).round().astype(int))
        chosen = np.unique(np.concatenate([steps - 1, len(self.prefill) - steps]))
        return Shares(self.prefill[chosen], self.decode[chosen])

    def fit(self, x: FloatArray, y: FloatArray) -> Bools:
        """Whether x prefill instances and y decode instances fit the machine together."""
        fits: Bools = y <= np.append(self.decode, 0)[np.searchsorted(self.prefill, x)]
        return fits


def shares(machine: Machine, prefill: int, decode: int) -> Shares:
    """The ways to share a machine, with at least one instance of each role.

    Parameters
    ----------
    machine : gives domains and devices
    prefill, decode : devices of one instance [count]
    """
    return _shares(machine.domain, machine.devices // machine.domain, prefill, decode)


@functools.lru_cache(maxsize=1 << 15)
def _shares(domain: int, domains: int, prefill: int, decode: int) -> Shares:
    if prefill > domain or decode > domain:
        most = _whole_domains(domain, domains, prefill, decode)
    else:
        most = _packed(domain, domains, prefill, decode)
    prefills = {y: x for x, y in sorted(most.items()) if x > 0 and y > 0}  # for equal y, the largest x
    return Shares(np.array(sorted(prefills.values()), dtype=int), np.array(sorted(prefills, reverse=True), dtype=int))


def _whole_domains(domain: int, domains: int, prefill: int, decode: int) -> dict[int, int]:
    """Largest number of decode instances for each number of prefill instances, if one role takes whole domains."""
    ways: dict[int, int] = {}
    for given_to_prefill in range(1, domains):
        x = _in_domains(domain, given_to_prefill, prefill)
        ways[x] = max(ways.get(x, 0), _in_domains(domain, domains - given_to_prefill, decode))
    return ways


def _in_domains(domain: int, domains: int, devices: int) -> int:
    return domains * domain // devices if devices > domain else domains * (domain // devices)


def _packed(domain: int, domains: int, prefill: int, decode: int) -> dict[int, int]:
    """Largest number of decode instances for each number of prefill instances, if all instances stay in a domain.

    The result is the (max, +) power of the numbers for one domain.
    """
    power = np.array([(domain - x * prefill) // decode for x in range(domain // prefill + 1)])
    decodes: Ints = np.zeros(1, dtype=int)
    left = domains
    while left:
        if left & 1:
            decodes = _both(decodes, power)
        left >>= 1
        power = _both(power, power) if left else power
    return dict(enumerate(decodes.tolist()))


def _both(one: Ints, other: Ints) -> Ints:
    """Largest y for each x, over all ways to divide x between two groups of domains."""
    total = np.full(len(one) + len(other) - 1, -1)
    for x, y in enumerate(other):
        total[x : x + len(one)] = np.maximum(total[x : x + len(one)], one + y)
    return total
