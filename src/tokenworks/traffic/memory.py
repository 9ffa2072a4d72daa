"""Memory that requests need, estimated before they are made, so that too many requests give an error in words."""

from __future__ import annotations

import os

from tokenworks.errors import SpecError

REQUEST_BYTES, RUN_BYTES = 500, 60
"""Approximate memory of one request, and of one run of block hashes, generated and simulated [byte]. Generating a
request takes 130 to 210 byte (measured). The rest is its memory in the engine and in the metrics."""

HASH_BYTES = 16
"""Memory of one block hash of a request in the simulation: written out from its run, and copied once [byte]."""

CHOSEN_BYTES = 8 * 2**30
"""Memory limit for a run whose number of requests follows from a rule: 15 million requests without hashes [byte]."""

MOST_BYTES = 64 * 2**30
"""Memory limit for any machine [byte]: 137 million requests, far more than any trace has."""


def must_hold(requests: float, *, where: str, hint: str, runs: float = 0) -> None:
    """Refuse requests that need more memory than `MOST_BYTES` or than this machine has.

    Parameters
    ----------
    requests : number of requests [count]
    where : place of the setting, for the message
    hint : way out, for the message
    runs : number of runs of block hashes [count]

    Raises
    ------
    SpecError : the memory is not enough; the message has the needed and the available memory
    """
    need, most = requests * REQUEST_BYTES + runs * RUN_BYTES, min(MOST_BYTES, _machine_bytes())
    if need > most:
        words = f"{requests:,.0f} requests take about {need / 2**30:,.0f} GiB, {most / 2**30:,.0f} GiB is the most"
        raise SpecError(words, where=where, hint=hint)


def most_requests(blocks: float = 0.0) -> int:
    """Most requests of a run whose length nobody chose: as many as fit into `CHOSEN_BYTES`, or half of this machine.

    Parameters
    ----------
    blocks : block hashes of a request, mean [count]

    Returns
    -------
    Number of requests [count].
    """
    return int(min(CHOSEN_BYTES, _machine_bytes() / 2) / (REQUEST_BYTES + RUN_BYTES + HASH_BYTES * blocks))


def _machine_bytes() -> int:
    """Memory of this machine [byte]; `MOST_BYTES` if the operating system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return MOST_BYTES
