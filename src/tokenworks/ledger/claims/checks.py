"""All checks, by the number of their claim."""

from __future__ import annotations

from tokenworks.ledger.claims import catalogue, network
from tokenworks.ledger.claims.check import Check

CHECKS: dict[str, Check] = dict(sorted({**catalogue.CHECKS, **network.CHECKS}.items()))
"""Number of a claim -> its check."""
