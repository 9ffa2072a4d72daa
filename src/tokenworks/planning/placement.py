"""How prefill and decode instances share a machine: small ones stay in a domain, large ones take whole domains."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import Bools, FloatArray, Ints
from tokenworks.specs.machine import Machine

MOST_WAYS = 128
"""Ways to share a machine that are tried for one pair of sizes."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Ways to share a machine between x prefill and y decode instances: x rises, y falls and is the most for its x."""

    prefill: Ints
    decode: Ints

    def tried(self) -> Shares:
        """All of them, or of many those near both ends and ever fewer between: steps of a tenth in x or in y."""
        if len(self.prefill) <= MOST_WAYS:
            return self
        steps = np.unique(np.geomspace(1, len(self.prefill), MOST_WAYS // 2).round().astype(int))
        chosen = np.unique(np.concatenate([steps - 1, len(self.prefill) - steps]))
        return Shares(self.prefill[chosen], self.decode[chosen])

    def fit(self, x: FloatArray, y: FloatArray) -> Bools:
        """Whether x and y instances have room: some way has as many of each."""
        fits: Bools = y <= np.append(self.decode, 0)[np.searchsorted(self.prefill, x)]
        return fits


def shares(machine: Machine, prefill: int, decode: int) -> Shares:
    """The ways for instances of two sizes, each with at least one instance."""
    return _shares(machine.domain, machine.devices // machine.domain, prefill, decode)


@functools.lru_cache(maxsize=1 << 15)
def _shares(domain: int, domains: int, prefill: int, decode: int) -> Shares:
    if prefill > domain or decode > domain:
        most = _whole_domains(domain, domains, prefill, decode)
    else:
        most = _packed(domain, domains, prefill, decode)
    found = {y: x for x, y in sorted(most.items()) if x > 0 and y > 0}  # of equal y the largest x
    return Shares(np.array(sorted(found.values()), dtype=int), np.array(sorted(found, reverse=True), dtype=int))


def _whole_domains(domain: int, domains: int, prefill: int, decode: int) -> dict[int, int]:
    """Most decode instances beside x prefill instances, where one of the two takes whole domains."""
    ways: dict[int, int] = {}
    for given_to_prefill in range(1, domains):
        x = _in_domains(domain, given_to_prefill, prefill)
        ways[x] = max(ways.get(x, 0), _in_domains(domain, domains - given_to_prefill, decode))
    return ways


def _in_domains(domain: int, domains: int, devices: int) -> int:
    return domains * domain // devices if devices > domain else domains * (domain // devices)


def _packed(domain: int, domains: int, prefill: int, decode: int) -> dict[int, int]:
    """Most decode instances beside x prefill instances, where both stay in a domain: (max, +) powers of one domain."""
    power = np.array([(domain - x * prefill) // decode for x in range(domain // prefill + 1)])
    found: Ints = np.zeros(1, dtype=int)
    left = domains
    while left:
        if left & 1:
            found = _both(found, power)
        left >>= 1
        power = _both(power, power) if left else power
    return dict(enumerate(found.tolist()))


def _both(one: Ints, other: Ints) -> Ints:
    """Most y for each x where x and y are shared between two groups of domains."""
    total = np.full(len(one) + len(other) - 1, -1)
    for x, y in enumerate(other):
        total[x : x + len(one)] = np.maximum(total[x : x + len(one)], one + y)
    return total
