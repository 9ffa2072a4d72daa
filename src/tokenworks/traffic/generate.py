"""Traces out of statistics: arrivals, lengths, and sessions that grow and wait. Each draws from a stream of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from tokenworks.arrays import Floats, Ints
from tokenworks.errors import SpecError
from tokenworks.specs.trace import MAX_TOKENS, Trace
from tokenworks.specs.workload import Arrivals, Workload
from tokenworks.traffic.memory import must_hold
from tokenworks.traffic.transform import limit

BLOCK = 64
STREAMS = ("arrivals", "inputs", "outputs", "thinks", "classes")

Lengths = Callable[[Generator, int], Ints]


def streams(seed: int) -> dict[str, Generator]:
    """One random stream a subsystem, so that drawing more from one changes nothing in another."""
    return {
        name: Generator(PCG64(child))
        for name, child in zip(STREAMS, SeedSequence(seed).spawn(len(STREAMS)), strict=True)
    }


# Arrivals: n times [s] from 0 on, never falling, `rate` of them a second in the mean.


def poisson(random: Generator, n: int, rate: float) -> Floats:
    """Independent users: exponential gaps."""
    return np.cumsum(random.exponential(1 / rate, n))


def gamma(random: Generator, n: int, rate: float, cv: float) -> Floats:
    """Gamma gaps of coefficient of variation `cv`: 1 is Poisson, above it comes in clumps, below it evenly."""
    return np.cumsum(random.gamma(1 / cv**2, cv**2 / rate, n))


def burst(random: Generator, n: int, rate: float, size: int) -> Floats:  # noqa: ARG001 - nothing is random here
    """`size` at once, every size / rate seconds; `size` = n: all at 0."""
    return (np.arange(n) // size).astype(np.float64) * (size / rate)


def diurnal(random: Generator, n: int, rate: float, peak: float, period: float) -> Floats:
    """Poisson whose rate follows a sine from its mean up to `peak` times it and down as far, by thinning.

    Lewis and Shedler, Naval Research Logistics Quarterly 26(3), 1979: of arrivals at the highest rate each is kept with
    probability rate(t) / highest.
    """
    kept: list[Floats] = []
    now, found = 0.0, 0
    while found < n:
        times = now + poisson(random, n, rate * peak)
        share = (1 + (peak - 1) * np.sin(2 * np.pi * times / period)) / peak
        kept.append(times[random.random(n) < share])
        now, found = float(times[-1]), found + len(kept[-1])
    return np.concatenate(kept)[:n]


ARRIVALS: dict[str, Callable[..., Floats]] = {
    "poisson": poisson,
    "gamma": gamma,
    "burst": burst,
    "diurnal": diurnal,
}


# Lengths: n whole numbers of tokens, at least 1.


def lognormal(random: Generator, n: int, mean: float, cv: float) -> Ints:
    """Lognormal lengths of this mean and coefficient of variation; cv 0: all the same."""
    return whole(mean * _factor(random, n, cv))


def uniform(random: Generator, n: int, low: int, high: int) -> Ints:
    """Each length from `low` to `high`, both included, equally often."""
    return random.integers(low, high, n, endpoint=True)


def empirical(random: Generator, n: int, values: Ints) -> Ints:
    """Lengths drawn from measured ones."""
    return random.choice(values, n)


def fixed(random: Generator, n: int, tokens: int) -> Ints:  # noqa: ARG001 - nothing is random here
    """The same length for all."""
    return np.full(n, tokens)


def whole(tokens: Floats) -> Ints:
    """Rounded to tokens that a request can have."""
    return np.clip(np.rint(tokens), 1, MAX_TOKENS).astype(np.int64)


def _factor(random: Generator, n: int, cv: float) -> Floats:
    """Lognormal factors of mean 1: sigma^2 = ln(1 + cv^2), mu = -sigma^2 / 2."""
    variance = np.log1p(cv**2)
    return np.exp(random.normal(-variance / 2, np.sqrt(variance), n))


def from_workload(
    workload: Workload,
    requests: int,
    *,
    seed: int = 0,
    inputs: Lengths | None = None,
    outputs: Lengths | None = None,
) -> Trace:
    """Requests as a workload describes them: in an open loop at its rate, in a closed one at its concurrency.

    In an open loop its `arrivals` say how independent requests, or sessions, come.

    Without think time requests are independent, and a shared prefix of hit_share x input serves the hits. With it they
    come in sessions whose context grows evenly from turn to turn and is all reused by the next. With T turns from
    a x isl to (2 - a) x isl, the hits are what all turns but the last had:

        hit_share = 1 - (2 - a) / T,    T = round(1.5 / (1 - hit_share)),    a = 2 - T (1 - hit_share), about 1/2

    Parameters
    ----------
    workload : isl, osl and their cv, hit_share, think_time, rate or concurrency. In a closed loop `concurrency` users
        each send when they have their answer and have thought (exponential, mean think_time); a user's sessions follow
        one another
    requests : how many
    inputs, outputs : other lengths than lognormal ones of the workload's mean and cv: (stream, n) -> tokens, such as
        `partial(uniform, low=800, high=1000)`; inputs of sessions follow from their growth
    """
    if requests < 1:
        raise SpecError(f"{requests} requests", hint="give at least 1")
    if workload.rate is None and workload.concurrency is None:
        raise SpecError("neither rate nor concurrency", where=workload.name, hint="give --rate or --concurrency")
    random = streams(seed)
    turns, first = _turns(workload)
    sessions = -(-requests // turns)
    must_hold(sessions * turns, where=workload.name, hint="give fewer --requests, or a lower --concurrency")
    session, turn = np.divmod(np.arange(sessions * turns), turns)
    n = len(session)
    if turns > 1:
        if inputs:
            raise SpecError("sessions take no other input lengths", where=workload.name, hint="leave think_time out")
        shape = first + (2 - 2 * first) * turn / (turns - 1)
        cv = np.sqrt(max(0.0, (1 + workload.isl_cv**2) / float((shape**2).mean()) - 1))
        input_tokens = whole(workload.isl * shape * _factor(random["inputs"], sessions, float(cv))[session])
        columns = _grown_blocks(input_tokens, session)
    else:
        inputs = inputs or partial(lognormal, mean=workload.isl, cv=workload.isl_cv)
        input_tokens = inputs(random["inputs"], n)
        columns = _shared_blocks(input_tokens, workload.hit_share)
    outputs = outputs or partial(lognormal, mean=workload.osl, cv=workload.osl_cv)
    if workload.rate is not None:
        come = ARRIVALS[workload.arrivals.kind]
        chain, start = session, come(random["arrivals"], sessions, workload.rate / turns, **_numbers(workload.arrivals))
    else:
        if workload.arrivals.kind != "poisson":
            hint = "give a rate: users of a closed loop send when they have their answer"
            raise SpecError(f"{workload.arrivals.kind} arrivals", where=workload.name, hint=hint)
        users = max(1, round(workload.concurrency or 1))
        chain, start = session % users, np.zeros(users)
    think: Floats = random["thinks"].exponential(workload.think_time, n) if workload.think_time else np.zeros(n)
    arrival, parent, think = _chained(chain, start, think)
    shares = [one.share for one in workload.classes]
    kinds = random["classes"].choice(len(shares), sessions, p=np.array(shares) / sum(shares)) if shares else None
    trace = Trace.of(
        arrival,
        input_tokens,
        outputs(random["outputs"], n),
        name=workload.name,
        source=f"generated from workload {workload.name}, seed {seed}",
        session=session if turns > 1 else None,
        parent=parent,
        class_of=None if kinds is None else kinds[session],
        classes=tuple(one.name for one in workload.classes),
        think_s=think,
        **columns,
    )
    return limit(trace, requests)


def _numbers(arrivals: Arrivals) -> dict[str, Any]:
    return arrivals.model_dump(exclude={"kind"})


def _turns(workload: Workload) -> tuple[int, float]:
    """Turns of a session, and the first input over the mean one."""
    if not (workload.think_time and workload.hit_share):
        return 1, 1.0
    turns = round(1.5 / (1 - workload.hit_share))
    return turns, 2 - turns * (1 - workload.hit_share)


def _chained(chain: Ints, start: Floats, think: Floats) -> tuple[Floats, Ints, Floats]:
    """Rows of a chain follow one another: earliest arrival, parent and think time of each; the first is at start."""
    order = np.argsort(chain, kind="stable")
    link = chain[order]
    head = np.append(True, link[1:] != link[:-1])
    wait = np.where(head, 0.0, think[order])
    passed = np.cumsum(wait)
    since = passed - passed[np.flatnonzero(head)[np.cumsum(head) - 1]]
    arrival, parent, waits = np.empty(len(chain)), np.empty(len(chain), np.int64), np.empty(len(chain))
    arrival[order], waits[order] = start[link] + since, wait
    parent[order] = np.where(head, -1, np.append(-1, order[:-1]))
    return arrival, parent, waits


def _grown_blocks(inputs: Ints, session: Ints) -> dict[str, Any]:
    """Each session counts up in ids of its own; a turn has the leading ones that fill its input."""
    blocks = inputs // BLOCK
    most = np.zeros(int(session[-1]) + 1, np.int64)
    np.maximum.at(most, session, blocks)
    return _runs(np.stack([(np.cumsum(most) - most)[session]], axis=1), np.stack([blocks], axis=1))


def _shared_blocks(inputs: Ints, share: float) -> dict[str, Any]:
    """One prefix that all have in common, as much of it as `share` of the input, then blocks of its own."""
    if not share:
        return {}
    blocks = inputs // BLOCK
    common = np.minimum(np.rint(share * inputs / BLOCK).astype(np.int64), blocks)
    own = blocks - common
    starts = int(common.max()) + np.cumsum(own) - own
    return _runs(np.stack([np.zeros_like(starts), starts], axis=1), np.stack([common, own], axis=1))


def _runs(starts: Ints, lengths: Ints) -> dict[str, Any]:
    """Runs of each request (a row each) as the columns of a trace; empty ones left out."""
    some = lengths > 0
    if not some.any():
        return {}
    return {
        "run_start": starts[some],
        "run_length": lengths[some],
        "run_offsets": np.append(0, np.cumsum(some.sum(axis=1))),
        "hash_block_tokens": BLOCK,
    }
