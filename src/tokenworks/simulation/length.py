"""Length of a run: how many requests a run needs, and whether a finished run was long enough."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tokenworks.arrays import Floats
from tokenworks.engine.outcome import Outcome
from tokenworks.engine.types import Status
from tokenworks.simulation.measured import DONE, WARM, Span, batch_means
from tokenworks.specs.workload import Workload
from tokenworks.traffic.generate import BLOCK, session_turns
from tokenworks.traffic.memory import most_requests

if TYPE_CHECKING:
    from tokenworks.simulation.run import Simulation

WARM_LIVES, WINDOW_LIVES = 3, 6
"""Least warm-up and least measured window, in lives of a request, or of a session if there are sessions [-]."""

WINDOW_REQUESTS, WINDOW_SESSIONS = 3000, 1000
"""Least number of requests in the measured window, and of sessions if there are sessions [count]."""

ENOUGH = 0.6
"""A finished run is long enough with this share of the requests that the rule asks for [-]."""

MSER_BATCHES = 100
"""Batches of time that `warm_up_s` divides a run into [count]."""


Lives = tuple[float, float]
"""Least warm-up and least measured window of a run, in lives [-]."""


def requests_for(
    workload: Workload, rate: float, life_s: float, *, sessions: int = WINDOW_SESSIONS,
    lives: Lives = (WARM_LIVES, WINDOW_LIVES),
) -> int:  # fmt: skip
    """How many requests a run at a rate needs, so that its measured window is warm and long enough.

    The window lies between two times: when 20 % and 90 % of the requests were sent (`measured.WARM`, `DONE`). A system
    with an unlimited number of servers forgets its empty start after the longest request. So the warm-up takes 3 lives,
    and the window takes 6 lives and at least 3,000 requests. (Plain reasoning, no paper: of 3,000 requests, 30 are
    beyond the 99th percentile.) Requests of a session are alike and wait for each other. So with sessions the life of
    a whole session counts, and the window has at least 1,000 sessions.

    Parameters
    ----------
    workload : the workload; with think time and hits, its requests form sessions
    rate : requests per second [1/s]
    life_s : life of one request, from sending to the last token: TTFT + osl x TPOT [s]
    sessions : least number of sessions in the measured window, if there are sessions [count]
    lives : least warm-up and least measured window [-]

    Returns
    -------
    Number of requests, at most as many as the memory of this machine holds [count].
    """
    turns, _ = session_turns(workload)
    return min(_requests(rate, life_s, turns, workload.think_time, sessions, lives=lives), _most(workload))


def requests_for_users(workload: Workload, users: float, *, sessions: int = WINDOW_SESSIONS) -> int:
    """How many requests a closed loop needs. In one life, each user sends one request, or one session.

    Parameters
    ----------
    workload : the workload
    users : number of users [count]
    sessions : least number of sessions in the measured window, if there are sessions [count]
    """
    turns, _ = session_turns(workload)
    return min(_requests(users, 1.0, turns, 0.0, sessions), _most(workload))


def live_sessions(workload: Workload, rate: float, life_s: float) -> int:
    """Sessions of a workload that are live on average, by Little's law [count].

    A run of sessions begins with as many, all with cold caches, as after a restart. A deployment that does not recover
    from this does not recover from a chance crowd of sessions either, which comes once in many hours.

    Parameters
    ----------
    workload : the workload
    rate : requests per second [1/s]
    life_s : life of one request, as in `requests_for` [s]
    """
    return round(rate * (life_s + workload.think_time))


def _most(workload: Workload) -> int:
    """Most requests that `requests_for` asks for, by memory. Requests that share prefixes have block hashes."""
    return most_requests(workload.isl / BLOCK if workload.hit_share else 0.0)


def _requests(
    rate: float, life_s: float, turns: float, think_s: float, sessions: int, *,
    lives: Lives = (WARM_LIVES, WINDOW_LIVES),
) -> int:  # fmt: skip
    """The rule of `requests_for`, for sessions of `turns` requests with a think time of `think_s` before each."""
    in_flight = rate * (turns * (life_s + think_s) if turns > 1 else life_s)
    in_window = max(lives[1] * in_flight, WINDOW_REQUESTS, sessions * turns if turns > 1 else 0)
    wanted = max(lives[0] * in_flight / WARM, in_window / (DONE - WARM))
    return math.ceil(min(wanted, most_requests()))


def life_of(run: Simulation, *, waiting: bool = True) -> float:
    """Mean life of a request in the measured window, by Little's law: mean requests in flight / completed per second.

    Little's law also counts requests that are longer than the window. A mean over completed requests misses them.

    Parameters
    ----------
    run : a finished simulation
    waiting : True: a life begins when the client sends the request. False: it begins with the first step, so the wait
        in the queue is left out

    Returns
    -------
    Mean life [s]; if no request completed in the window, the life that one completed request would give.

    References
    ----------
    [1] Little, Operations Research 9(3), 1961.
    """
    span, outcome = run.span, run.outcome
    level = float(in_flight(outcome, np.array([span.start_s, span.end_s]), waiting=waiting)[0])
    return level * span.seconds / max(int(span.served(outcome).sum()), 1)


def in_flight(outcome: Outcome, edges_s: Floats, *, waiting: bool = True) -> Floats:
    """Mean number of requests in flight between neighbouring times.

    Parameters
    ----------
    outcome : result of the engine
    edges_s : times in ascending order [s]
    waiting : whether requests count that wait for their first step
    """
    sent = (outcome.status > Status.PENDING) & (outcome.status != Status.REJECTED)
    begin = outcome.arrival_s[sent] if waiting else outcome.scheduled_s[sent]
    up_to = _summed(begin, edges_s) - _summed(outcome.end_s[sent], edges_s)
    levels: Floats = np.diff(up_to) / np.maximum(np.diff(edges_s), 1e-12)
    return levels


def _summed(events_s: Floats, times_s: Floats) -> Floats:
    """Time since each event, summed over the events before each time [s]; NaN = the event never happened."""
    events = np.sort(events_s[~np.isnan(events_s)])
    before = np.searchsorted(events, times_s, side="right")
    total: Floats = before * times_s - np.append(0.0, np.cumsum(events))[before]
    return total


def warm_up_s(run: Simulation) -> float:
    """End of the warm-up of a run, by the MSER rule on the number of requests in flight.

    The run up to the end of its window is divided into batches of equal time. With x_i the mean number in flight in
    batch i, and d batches left out, the rule minimises the squared standard error of the mean of the n - d others:

        MSER(d) = sum over i >= d of (x_i - mean_d)^2 / (n - d)^2

    Parameters
    ----------
    run : a finished simulation

    Returns
    -------
    Time on the clock of the simulation [s].

    References
    ----------
    [1] White, Simulation 69(6), 1997; White, Cobb and Spratt, Winter Simulation Conference 2000.
    """
    edges = np.linspace(Span.whole(run.outcome).start_s, run.span.end_s, MSER_BATCHES + 1)
    backward = in_flight(run.outcome, edges)[::-1]
    kept = np.arange(1, MSER_BATCHES + 1)  # error[k - 1] is the statistic with the last k batches kept
    error = np.maximum(np.cumsum(backward**2) - np.cumsum(backward) ** 2 / kept, 0.0) / kept**2
    error[: MSER_BATCHES // 4 - 1] = np.inf  # a few batches can agree by chance
    return float(edges[MSER_BATCHES - kept[int(np.argmin(error))]])


def settled(run: Simulation) -> bool:
    """Whether a run was long enough for its results; `unsettled` says what is missing."""
    return not unsettled(run)


def unsettled(run: Simulation) -> str:
    """Why a run is too short for its results, in words; empty if it is long enough, or a complete trace.

    A run is settled if it has `ENOUGH` of the requests that the rule of `requests_for` asks for, and the warm-up ends
    before the window begins. The second test is `warm_up_s`. MSER can also cut off a chance dip. So a later end of the
    warm-up counts only if it changes the mean number in flight by more than its 95 % interval.

    If more is sent than is served, the queue never settles. Then the time in the queue does not count as life, and the
    second test is left out: a longer run would show the same overload.

    Parameters
    ----------
    run : a finished simulation
    """
    return _shortfall(run)[0]


def requests_needed(run: Simulation) -> int:
    """How many requests a repetition of a run needs to be settled; its own number if the run is settled [count].

    If the warm-up ends too late, the repetition has twice as many requests.

    Parameters
    ----------
    run : a finished simulation
    """
    trace = run.traffic.trace
    blocks = int(trace.run_length.sum()) / len(trace) * trace.hash_block_tokens / BLOCK
    return max(min(_shortfall(run)[1], most_requests(blocks)), len(trace))


def _shortfall(run: Simulation) -> tuple[str, int]:
    """Why a run is too short, and how many requests it needs."""
    span, sent = run.span, len(run.traffic.trace)
    if not run.traffic.endless:
        return "", sent
    holds_up = run.served and run.stable
    turns, think_s = _sessions(run)
    life_s = life_of(run, waiting=holds_up)
    wanted = _requests(run.flow.sent / span.seconds, life_s, turns, think_s, WINDOW_SESSIONS)
    if sent < ENOUGH * wanted:
        unit = "sessions" if turns > 1 else "requests"
        lives = span.seconds / max(turns * (life_s + think_s) if turns > 1 else life_s, 1e-12)
        return (
            f"not settled: the measured window has {(DONE - WARM) * sent / turns:,.0f} {unit} and {lives:,.1f} times "
            f"their life; give about {wanted:,} requests"
        ), wanted
    warm_s = warm_up_s(run)
    if holds_up and warm_s > span.start_s:
        edges = np.linspace(span.start_s, span.end_s, MSER_BATCHES + 1)
        levels = in_flight(run.outcome, edges)
        mean, half = batch_means(levels)
        if abs(float(levels[edges[:-1] >= warm_s].mean()) - mean) > half:
            return (
                f"not settled: the number of requests in flight still changes at {warm_s:,.0f} s, and the measured "
                f"window begins at {span.start_s:,.0f} s; give more than {sent:,} requests"
            ), 2 * sent
    return "", sent


def _sessions(run: Simulation) -> tuple[float, float]:
    """Requests of a session (1 without sessions) and the mean think time before each [s]."""
    if run.traffic.workload is not None:
        return session_turns(run.traffic.workload)[0], run.traffic.workload.think_time
    trace = run.traffic.trace
    follows = trace.parent >= 0
    if not follows.any():
        return 1.0, 0.0
    return len(trace) / float((~follows).sum()), float(trace.think_s[follows].mean())
