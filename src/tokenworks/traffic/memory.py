"""What requests take in memory, estimated before it is asked for: too many become words, not a machine that swaps."""

from __future__ import annotations

import os

from tokenworks.errors import SpecError

REQUEST_BYTES, RUN_BYTES = 500, 60
"""About what a request and a run of its block hashes take, made and simulated [byte]; making one was measured at 130 to
210, the rest is its place in the engine and in what is measured."""

MOST_BYTES = 64 * 2**30
"""Far beyond any trace: 137 million requests."""


def must_hold(requests: float, *, where: str, hint: str, runs: float = 0) -> None:
    """Refuse what takes more than `MOST_BYTES`, or than this machine has.

    Parameters
    ----------
    requests, runs : how many of them, and of runs of block hashes [count]
    where, hint : of the message

    Raises
    ------
    SpecError : with what they would take, and what there is
    """
    need, most = requests * REQUEST_BYTES + runs * RUN_BYTES, min(MOST_BYTES, _machine_bytes())
    if need > most:
        words = f"{requests:,.0f} requests take about {need / 2**30:,.0f} GiB, {most / 2**30:,.0f} GiB is the most"
        raise SpecError(words, where=where, hint=hint)


def _machine_bytes() -> int:
    """Memory of this machine [byte]; where it does not say, it is taken for enough."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return MOST_BYTES
