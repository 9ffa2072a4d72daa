"""Generated traces: arrivals, lengths, and sessions with growing contexts. Each of these has its own random stream."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from tokenworks.arrays import Floats, Ints
from tokenworks.errors import SpecError
from tokenworks.specs.trace import MAX_TOKENS, Trace
from tokenworks.specs.workload import Workload
from tokenworks.traffic.memory import must_hold
from tokenworks.traffic.transform import limit

BLOCK = 64
"""Size of the blocks that prefix hashes stand for, if nothing else is asked for [token]. Smaller blocks need more
memory, and serve on average half a block more of each prefix."""
STREAMS = ("arrivals", "inputs", "outputs", "thinks", "classes", "ages")

Lengths = Callable[[Generator, int], Ints]


def streams(seed: int) -> dict[str, Generator]:
    """One random stream for each subsystem. More draws from one stream do not change the other streams.

    Parameters
    ----------
    seed : seed of all streams

    Returns
    -------
    Name of a subsystem (`STREAMS`) -> its random stream.
    """
    return {
        name: Generator(PCG64(child))
        for name, child in zip(STREAMS, SeedSequence(seed).spawn(len(STREAMS)), strict=True)
    }


# Arrival functions return n times in ascending order, from 0 on [s], with a mean of `rate` arrivals a second [1/s].


def poisson(random: Generator, n: int, rate: float) -> Floats:
    """Arrivals of independent users: exponential gaps."""
    return np.cumsum(random.exponential(1 / rate, n))


def gamma(random: Generator, n: int, rate: float, cv: float) -> Floats:
    """Arrivals with gamma gaps. A `cv` of 1 is Poisson, a larger one makes clusters, a smaller one makes even gaps."""
    return np.cumsum(random.gamma(1 / cv**2, cv**2 / rate, n))


def burst(random: Generator, n: int, rate: float, size: int) -> Floats:  # noqa: ARG001 - nothing is random here
    """`size` arrivals at the same time, every size / rate seconds. With `size` = n all arrive at 0."""
    return (np.arange(n) // size).astype(np.float64) * (size / rate)


def diurnal(random: Generator, n: int, rate: float, peak: float, period: float) -> Floats:
    """Poisson arrivals whose rate follows a sine: mean x (1 + (peak - 1) sin(2 pi t / period)).

    The function draws arrivals at the highest rate, and keeps each of them with probability rate(t) / highest rate
    (thinning) [1].

    References
    ----------
    [1] Lewis and Shedler, Naval Research Logistics Quarterly 26(3), 1979.
    """
    kept: list[Floats] = []
    now, count = 0.0, 0
    while count < n:
        times = now + poisson(random, n, rate * peak)
        share = (1 + (peak - 1) * np.sin(2 * np.pi * times / period)) / peak
        kept.append(times[random.random(n) < share])
        now, count = float(times[-1]), count + len(kept[-1])
    return np.concatenate(kept)[:n]


ARRIVALS: dict[str, Callable[..., Floats]] = {
    "poisson": poisson,
    "gamma": gamma,
    "burst": burst,
    "diurnal": diurnal,
}


# Length functions return n whole numbers of tokens, at least 1 each.


def lognormal(random: Generator, n: int, mean: float, cv: float) -> Ints:
    """Lognormal lengths with this mean and coefficient of variation. With cv = 0 all lengths are equal."""
    return whole(mean * _factor(random, n, cv))


def uniform(random: Generator, n: int, low: int, high: int) -> Ints:
    """Uniform lengths from `low` to `high`, both included."""
    return random.integers(low, high, n, endpoint=True)


def empirical(random: Generator, n: int, values: Ints) -> Ints:
    """Lengths drawn at random from measured lengths."""
    return random.choice(values, n)


def fixed(random: Generator, n: int, tokens: int) -> Ints:  # noqa: ARG001 - nothing is random here
    """One length for all requests."""
    return np.full(n, tokens)


def whole(tokens: Floats) -> Ints:
    """Lengths rounded to whole tokens, at least 1 and at most `MAX_TOKENS`."""
    return np.clip(np.rint(tokens), 1, MAX_TOKENS).astype(np.int64)


def _factor(random: Generator, n: int, cv: float) -> Floats:
    """Lognormal factors with mean 1: sigma^2 = ln(1 + cv^2), mu = -sigma^2 / 2."""
    variance = np.log1p(cv**2)
    return np.exp(random.normal(-variance / 2, np.sqrt(variance), n))


def from_workload(
    workload: Workload,
    requests: int,
    *,
    seed: int = 0,
    inputs: Lengths | None = None,
    outputs: Lengths | None = None,
    block_tokens: int = BLOCK,
    ongoing: int = 0,
) -> Trace:
    """Generate the requests of a workload: in an open loop at its rate, or in a closed loop at its concurrency.

    In an open loop, `arrivals` of the workload sets the arrival times of independent requests, or of sessions.

    Without think time, requests are independent. A prefix of hit_share x input, which all requests share, gives the
    hits. With think time, requests form sessions. The context of a session grows by the same amount in each turn, and
    the next turn reuses all of it. With T turns from a x isl to (2 - a) x isl, the hits of a session are the inputs of
    all turns before the last one:

        hit_share = 1 - (2 - a) / T,    T = round(1.5 / (1 - hit_share)),    a = 2 - T (1 - hit_share), about 1/2

    Parameters
    ----------
    workload : isl, osl and their cv, hit_share, think_time, rate or concurrency. In a closed loop there are
        `concurrency` users. A user sends the next request after the last answer and a think time (exponential with mean
        think_time), and starts the next session after the last one
    requests : number of requests [count]
    seed : seed of all random streams
    inputs, outputs : functions (stream, n) -> lengths [token], such as `partial(uniform, low=800, high=1000)`; by
        default lengths are lognormal with mean and cv of the workload. The inputs of sessions follow from their growth
    block_tokens : size of the blocks that requests share [token]
    ongoing : sessions of an open loop that began before the trace, each at a random turn: they all send their next turn
        at the start, within a think time [count]

    Returns
    -------
    The trace of the requests.

    Raises
    ------
    SpecError : no requests, neither rate nor concurrency, or settings that exclude each other
    """
    if requests < 1:
        raise SpecError(f"{requests} requests: there must be at least one", hint="give at least 1")
    if workload.rate is None and workload.concurrency is None:
        hint = "give --rate or --concurrency"
        raise SpecError("the workload has neither rate nor concurrency", where=workload.name, hint=hint)
    random = streams(seed)
    turns, first = session_turns(workload)
    ongoing = ongoing if turns > 1 and workload.rate is not None else 0
    sessions = -(-requests // turns) + ongoing
    must_hold(sessions * turns, where=workload.name, hint="give fewer --requests, or a lower --concurrency")
    session, turn = np.divmod(np.arange(sessions * turns), turns)
    if ongoing:
        begun = np.append(np.zeros(sessions - ongoing, np.int64), random["ages"].integers(0, turns, ongoing))
        session, turn = session[turn >= begun[session]], turn[turn >= begun[session]]
    n = len(session)
    if turns > 1:
        if inputs:
            hint = "leave think_time or the input lengths out"
            raise SpecError("input lengths cannot be set for sessions", where=workload.name, hint=hint)
        growth = first + (2 - 2 * first) * np.arange(turns) / (turns - 1)
        cv = np.sqrt(max(0.0, (1 + workload.isl_cv**2) / float((growth**2).mean()) - 1))
        input_tokens = whole(workload.isl * growth[turn] * _factor(random["inputs"], sessions, float(cv))[session])
        columns = _grown_blocks(input_tokens, session, block_tokens)
    else:
        inputs = inputs or partial(lognormal, mean=workload.isl, cv=workload.isl_cv)
        input_tokens = inputs(random["inputs"], n)
        columns = _shared_blocks(input_tokens, workload.hit_share, block_tokens)
    outputs = outputs or partial(lognormal, mean=workload.osl, cv=workload.osl_cv)
    if workload.rate is not None:
        arrive, shape_of = ARRIVALS[workload.arrivals.kind], workload.arrivals.model_dump(exclude={"kind"})
        chain, start = session, arrive(random["arrivals"], sessions - ongoing, workload.rate / turns, **shape_of)
        start = np.append(start, random["ages"].exponential(workload.think_time, ongoing)) if ongoing else start
    else:
        if workload.arrivals.kind != "poisson":
            hint = "give a rate: in a closed loop, users send when they have their answer"
            raise SpecError(f"{workload.arrivals.kind} arrivals need a rate", where=workload.name, hint=hint)
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


def session_turns(workload: Workload) -> tuple[int, float]:
    """Number of turns of a session of a workload (1 without sessions), and first input / mean input of a session."""
    if not (workload.think_time and workload.hit_share):
        return 1, 1.0
    turns = round(1.5 / (1 - workload.hit_share))
    return turns, 2 - turns * (1 - workload.hit_share)


def _chained(chain: Ints, start: Floats, think: Floats) -> tuple[Floats, Ints, Floats]:
    """Earliest arrival, parent and think time of each row. The rows of a chain follow each other, from `start` on."""
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


def _grown_blocks(inputs: Ints, session: Ints, size: int) -> dict[str, Any]:
    """Block ids of sessions. Each session has its own ids. A turn uses the first ids, one per block of its input."""
    blocks = inputs // size
    most = np.zeros(int(session[-1]) + 1, np.int64)
    np.maximum.at(most, session, blocks)
    return _runs(np.stack([(np.cumsum(most) - most)[session]], axis=1), np.stack([blocks], axis=1), size)


def _shared_blocks(inputs: Ints, share: float, size: int) -> dict[str, Any]:
    """Block ids of independent requests: `share` of the input from a prefix common to all, then blocks of their own."""
    if not share:
        return {}
    blocks = inputs // size
    common = np.minimum(np.rint(share * inputs / size).astype(np.int64), blocks)
    own = blocks - common
    starts = int(common.max()) + np.cumsum(own) - own
    return _runs(np.stack([np.zeros_like(starts), starts], axis=1), np.stack([common, own], axis=1), size)


def _runs(starts: Ints, lengths: Ints, size: int) -> dict[str, Any]:
    """The columns of a trace for runs of block ids, one row for each request. Empty runs are left out."""
    filled = lengths > 0
    if not filled.any():
        return {}
    return {
        "run_start": starts[filled],
        "run_length": lengths[filled],
        "run_offsets": np.append(0, np.cumsum(filled.sum(axis=1))),
        "hash_block_tokens": size,
    }
