"""All checks, by the number of their claim."""

from __future__ import annotations

from tokenworks.ledger.claims import (
    catalogue,
    domains,
    failures,
    memory,
    money,
    network,
    scaling,
    serving,
)
from tokenworks.ledger.claims.check import Check

CHECKS: dict[str, Check] = dict(
    sorted(
        {
            **catalogue.CHECKS,
            **domains.CHECKS,
            **failures.CHECKS,
            **memory.CHECKS,
            **money.CHECKS,
            **network.CHECKS,
            **scaling.CHECKS,
            **serving.CHECKS,
        }.items()
    )
)
"""Number of a claim -> its check."""
