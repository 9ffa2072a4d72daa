"""All checks, by the number of their claim."""

from __future__ import annotations

from tokenworks.ledger.claims import catalogue, gain, network, training
from tokenworks.ledger.claims.check import Check

CHECKS: dict[str, Check] = dict(
    sorted({**catalogue.CHECKS, **gain.CHECKS, **network.CHECKS, **training.CHECKS}.items())
)
"""Number of a claim -> its check."""
