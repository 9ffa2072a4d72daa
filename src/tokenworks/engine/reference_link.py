"""The links of the reference engine, over which KV is transferred."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ReferenceLink:
    """A link: it carries one flow at a time.

    free_s : time at which the last booked flow ends [s]
    busy_s, flows : booked time [s] and number of flows so far
    """

    free_s: float = 0.0
    busy_s: float = 0.0
    flows: int = 0


def book(links: tuple[ReferenceLink, ...], seconds: float, now: float) -> float:
    """Book a flow that occupies all `links` for `seconds`, as soon as all of them are free. Returns its end [s]."""
    done = max(now, *(link.free_s for link in links)) + seconds
    for link in links:
        link.free_s = done
        link.busy_s += seconds
        link.flows += 1
    return done
