"""All checks, by the number of their claim."""

from __future__ import annotations

from tokenworks.ledger.claims import catalogue, failures, gain, money, network, scaling, training
from tokenworks.ledger.claims.check import Check

CHECKS: dict[str, Check] = dict(
    sorted(
        {
            **catalogue.CHECKS,
            **failures.CHECKS,
            **gain.CHECKS,
            **money.CHECKS,
            **network.CHECKS,
            **scaling.CHECKS,
            **training.CHECKS,
        }.items()
    )
)
"""Number of a claim -> its check."""
