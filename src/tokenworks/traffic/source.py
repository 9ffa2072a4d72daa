"""What is played: requests of a workload, or a recorded trace at a rate."""

from __future__ import annotations

import math

from tokenworks.errors import SpecError
from tokenworks.specs.trace import Trace
from tokenworks.specs.workload import LEAST_RATE, MOST_IN_FLIGHT, MOST_RATE, Workload
from tokenworks.traffic.generate import from_workload, streams
from tokenworks.traffic.transform import limit, scale, stream

REQUESTS, ROUNDS = 5000, 20
"""Requests that are made of a workload: so many, and so many for each that is in flight."""


def made(
    workload: Workload, rate: float | None, concurrency: float | None, *, requests: int | None = None, seed: int = 0
) -> Trace:
    """Requests of a workload at a rate, or with so many users; else as the workload itself says.

    Parameters
    ----------
    rate : requests a second [1/s]; concurrency : users that each send when they have their answer [count]
    requests : how many to make; None: `REQUESTS`, or `ROUNDS` for each user
    seed : of all random streams
    """
    _check(rate)
    if concurrency is not None and not 1 <= concurrency <= MOST_IN_FLIGHT:
        hint = f"give 1 to {MOST_IN_FLIGHT:,.0f} users"
        raise SpecError(f"{concurrency:,.0f} users", where="--concurrency", hint=hint)
    if rate is not None or concurrency is not None:
        workload = workload.model_copy(update={"rate": rate, "concurrency": concurrency})
    count = requests or max(REQUESTS, ROUNDS * math.ceil(workload.concurrency or 0))
    return from_workload(workload, count, seed=seed)


def played(
    recorded: Trace, *, rate: float | None = None, factor: float | None = None, requests: int | None = None,
    seed: int = 0,
) -> Trace:  # fmt: skip
    """A recorded trace at a rate, or at `factor` times its own, else as it is; the first `requests` of it.

    What has a rate of its own is cut before it is scaled, so that what is played has the rate. Conversations that
    all begin at the same time become a stream of conversations, which is cut then.

    Parameters
    ----------
    rate : requests a second [1/s]; requests : None = all; seed : of a stream's random start times
    """
    _check(rate)
    if rate is not None and not rate_of(recorded):
        return _cut(stream(recorded, rate, streams(seed)["arrivals"]), requests)
    recorded = _cut(recorded, requests)
    own = rate_of(recorded)
    if not own and (rate is not None or factor is not None):
        hint = "give a higher --limit" if rate is not None else "give a --rate"
        raise SpecError("all requests that wait for nobody come at once", where=recorded.name, hint=hint)
    factor = rate / own if rate is not None else factor
    return recorded if factor is None else scale(recorded, factor)


def rate_of(trace: Trace) -> float:
    """Requests a second of a recorded trace [1/s]; 0 where all that waits for nobody comes at once, or undated."""
    first = trace.arrival_s[trace.parent < 0]
    return (len(trace) - 1) / float(trace.arrival_s[-1]) if first[-1] > first[0] and not trace.undated else 0.0


def _cut(trace: Trace, requests: int | None) -> Trace:
    return trace if requests is None else limit(trace, requests)


def _check(rate: float | None) -> None:
    if rate is not None and not LEAST_RATE <= rate <= MOST_RATE:
        hint = f"give a rate above 0, of {LEAST_RATE:g} to {MOST_RATE:g}"
        raise SpecError(f"{rate:g} requests/s", where="--rate", hint=hint)
