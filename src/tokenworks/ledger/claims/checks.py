"""All checks, by the number of their claim."""

from __future__ import annotations

from tokenworks.ledger.claims import catalogue, failures, money, network, scaling
from tokenworks.ledger.claims.check import Check

CHECKS: dict[str, Check] = dict(
    sorted(
        {
            **catalogue.CHECKS,
            **failures.CHECKS,
            **money.CHECKS,
            **network.CHECKS,
            **scaling.CHECKS,
        }.items()
    )
)
"""Number of a claim -> its check."""
