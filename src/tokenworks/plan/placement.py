"""How prefill and decode instances share a machine: small ones stay in a domain, large ones take whole domains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.plan.points import Array
from tokenworks.specs.machine import Machine


@dataclass(frozen=True, slots=True)
class Shares:
    """Ways to share a machine between x prefill and y decode instances; no other way has more of both."""

    prefill: Array
    decode: Array

    def fit(self, x: Array, y: Array) -> Array:
        """Whether x and y instances have room: some way has as many of each."""
        order = np.argsort(self.prefill)
        room = np.append(np.maximum.accumulate(self.decode[order][::-1])[::-1], 0)
        fits: Array = y <= room[np.searchsorted(self.prefill[order], x)]
        return fits


def shares(machine: Machine, prefill: int, decode: int) -> Shares:
    """The ways for instances of two sizes."""
    domain, domains = machine.domain, machine.devices // machine.domain
    found: dict[int, int] = {}
    for x in range(1, machine.devices // prefill + 1):
        y = _room(domain, domains, x, prefill, decode)
        if y < 1:
            break
        found[y] = x
    return Shares(np.array(list(found.values()), dtype=int), np.array(list(found), dtype=int))


def _room(domain: int, domains: int, x: int, prefill: int, decode: int) -> int:
    """Decode instances that fit beside x prefill instances."""
    if prefill >= domain:
        full, left_in_full, part = x * (prefill // domain), 0, 0
    else:
        full, rest = divmod(x, domain // prefill)
        left_in_full = domain % prefill
        part = domain - rest * prefill if rest else 0
    free = domains - full - (part > 0)
    if free < 0:
        return 0
    if decode > domain:
        return free // (decode // domain)
    return full * (left_in_full // decode) + part // decode + free * (domain // decode)
