"""The requests of a simulation: generated from a workload, or a recorded trace at a given rate."""

from __future__ import annotations

import math

from tokenworks.errors import SpecError
from tokenworks.specs.trace import Trace
from tokenworks.specs.workload import LEAST_RATE, MOST_IN_FLIGHT, MOST_RATE, Workload
from tokenworks.traffic.generate import BLOCK, from_workload, streams
from tokenworks.traffic.transform import limit, scale, stream

REQUESTS, ROUNDS = 5000, 20
"""Default number of requests that are generated from a workload: the larger of `REQUESTS` and `ROUNDS` per user."""


def generated(
    workload: Workload, rate: float | None, concurrency: float | None, *, requests: int | None = None, seed: int = 0,
    block_tokens: int = BLOCK, ongoing: int = 0,
) -> Trace:  # fmt: skip
    """Generate the requests of a workload, at a rate or with a number of users.

    Parameters
    ----------
    workload : the workload; without `rate` and `concurrency`, its own load counts
    rate : requests a second [1/s]
    concurrency : users; each sends the next request when the last answer is complete [count]
    requests : number of requests; None: `REQUESTS`, or `ROUNDS` for each user if that is more [count]
    seed : seed of all random streams
    block_tokens : size of the blocks that requests share [token]
    ongoing : sessions that began before, as `from_workload` takes it [count]

    Raises
    ------
    SpecError : a rate or a number of users that is out of range
    """
    _check(rate)
    if concurrency is not None and not 1 <= concurrency <= MOST_IN_FLIGHT:
        hint = f"give 1 to {MOST_IN_FLIGHT:,.0f} users"
        raise SpecError(f"{concurrency:,.0f} users is out of range", where="--concurrency", hint=hint)
    if rate is not None or concurrency is not None:
        workload = workload.model_copy(update={"rate": rate, "concurrency": concurrency})
    count = requests or max(REQUESTS, ROUNDS * math.ceil(workload.concurrency or 0))
    return from_workload(workload, count, seed=seed, block_tokens=block_tokens, ongoing=ongoing)


def played(
    recorded: Trace, *, rate: float | None = None, factor: float | None = None, requests: int | None = None,
    seed: int = 0,
) -> Trace:  # fmt: skip
    """A recorded trace, at a rate or at a multiple of its own rate.

    A trace that has a rate is cut first and scaled then, so that the played requests have the given rate. If all
    conversations of a trace start at the same time, they become a stream of conversations (`transform.stream`), and the
    stream is cut.

    Parameters
    ----------
    recorded : the trace
    rate : requests a second; None: the rate of the trace [1/s]
    factor : multiple of the rate of the trace; None: no scaling [-]
    requests : only the first `requests` requests; None: all [count]
    seed : seed of the random start times of a stream

    Raises
    ------
    SpecError : a rate that is out of range, or a factor for a trace without a rate
    """
    _check(rate)
    if rate is not None and not rate_of(recorded):
        return _cut(stream(recorded, rate, streams(seed)["arrivals"]), requests)
    recorded = _cut(recorded, requests)
    own = rate_of(recorded)
    if not own and (rate is not None or factor is not None):
        hint = "give a higher --limit" if rate is not None else "give a --rate"
        words = "all conversations start at the same time, so the trace has no rate"
        raise SpecError(words, where=recorded.name, hint=hint)
    factor = rate / own if rate is not None else factor
    return recorded if factor is None else scale(recorded, factor)


def rate_of(trace: Trace) -> float:
    """Rate of a recorded trace.

    Parameters
    ----------
    trace : the trace

    Returns
    -------
    Requests a second; 0 if the trace has no times, or if all its conversations start at the same time [1/s].
    """
    first = trace.arrival_s[trace.parent < 0]
    return (len(trace) - 1) / float(trace.arrival_s[-1]) if first[-1] > first[0] and not trace.undated else 0.0


def _cut(trace: Trace, requests: int | None) -> Trace:
    return trace if requests is None else limit(trace, requests)


def _check(rate: float | None) -> None:
    if rate is not None and not LEAST_RATE <= rate <= MOST_RATE:
        hint = f"give a rate above 0, of {LEAST_RATE:g} to {MOST_RATE:g}"
        raise SpecError(f"{rate:g} requests/s is out of range", where="--rate", hint=hint)
