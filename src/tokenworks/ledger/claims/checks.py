"""All checks, by the number of their claim."""

from __future__ import annotations

from tokenworks.ledger.claims import (
    catalogue,
    domains,
    failures,
    gain,
    memory,
    money,
    network,
    scaling,
    serving,
    training,
)
from tokenworks.ledger.claims.check import Check

ROOMS = (catalogue, domains, failures, gain, memory, money, network, scaling, serving, training)
"""The modules that have checks."""

CHECKS: dict[str, Check] = dict(sorted((name, check) for room in ROOMS for name, check in room.CHECKS.items()))
"""Number of a claim -> its check."""
