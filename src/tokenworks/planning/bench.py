"""Simulations of a search: deployments on requests of one workload with the same random numbers, and a budget."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Any, TypeVar

from tokenworks import units
from tokenworks.engine.types import Cluster
from tokenworks.errors import SpecError
from tokenworks.planning.costing import Costing
from tokenworks.planning.elsewhere import PROCESSES, elsewhere, here, threads
from tokenworks.planning.ranking import Candidate
from tokenworks.simulation.length import WINDOW_SESSIONS, life_of, live_sessions, requests_for, requests_for_users
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.source import Source
from tokenworks.simulation.steps import Site
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.deployment_file import Deployed
from tokenworks.traffic.generate import BLOCK, session_turns

SESSIONS, SESSION_LIVES = 100, (1.0, 2.0)
SESSIONS_AGAIN, SESSION_LIVES_AGAIN = 2 * WINDOW_SESSIONS, (1.0, 3.0)
"""Length of a run in the search where requests form sessions, and of one that confirms a deployment: sessions in the
measured window [count], and lives of a session, which is a sum of many turns and varies little [-]. Twice as many as
`simulate` has: near the cliff of the caches, 1,000 sessions promised rates that failed in longer runs."""

LEAST, LEAST_AGAIN = 8_000, 40_000
"""Requests of a run in the search, and of a run that confirms a listed deployment, at least [count]."""

SESSION_BLOCK = 256
"""Size of a block of the prefix cache where requests form sessions, whose prefixes are long [token]. `simulate` has
smaller blocks: it takes five times as long, and a request has half a block more hits on average.
"""

BUDGET_TOKENS, SESSION_BUDGET = 10e9, 1_500_000
"""Where the search ends, settled or not: new input and output tokens of all simulated requests [token]; where requests
form sessions, whose long shared prefixes take more time, simulated requests [count]. The same on every machine."""

SESSION_MOST, SESSION_MOST_AGAIN = 40_000, 120_000
"""Requests of one run where requests form sessions, at most, in the search and where a deployment is confirmed: a bound
on memory and time, as a request brings hundreds of blocks, each with some 120 bytes (measured) [count]."""

CUT = (
    f"Sessions are so many at these rates that runs end after {SESSION_MOST:,} or {SESSION_MOST_AGAIN:,} requests, "
    "before sessions begin and end equally often: rates may be too high."
)

KEPT_AHEAD = 2
"""Runs that began ahead and are kept until someone asks for them [count]."""

Done = TypeVar("Done")
Say = Callable[[str], None]
"""Told in words what happens next."""
_Built = tuple[Site, Cluster]
_Played = tuple[Simulation | None, _Built]


@dataclass(frozen=True, slots=True)
class Budget:
    """Where a search ends, settled or not. Without both numbers: at `BUDGET_TOKENS`, or at `SESSION_BUDGET`.

    Parameters
    ----------
    requests : simulated requests [count]
    seconds : time since the search began [s]; what the search decides then depends on the speed of the machine
    """

    requests: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, text: str | None) -> Budget:
        """A budget from a text such as "10 s" or "500000 requests"; None is the fixed number of requests.

        Raises
        ------
        SpecError : no unit, or not above zero
        """
        if text is None:
            return cls()
        where, example = "--budget", 'write it like "10s" or "500000 requests"'
        if match := re.fullmatch(r"([0-9][0-9_,]*) ?requests?", text.strip()):
            budget = cls(requests=int(re.sub("[_,]", "", match[1])))
        elif re.fullmatch(r"[-+0-9.,_e ]*", text):
            raise SpecError(f'"{text}" has no unit', where=where, hint=example)
        else:
            budget = cls(seconds=units.parse(text, "s", where=where, example="10s"))
        if not (budget.requests or budget.seconds):
            raise SpecError(f'"{text}" leaves nothing to simulate', where=where, hint=example)
        return budget

    def spent(self, bench: Bench, candidate: Candidate) -> bool:
        """Whether a bench has used the budget up."""
        if self.seconds is not None:
            return time.monotonic() - bench.began >= self.seconds
        request = candidate.costing.demand.request
        fixed = SESSION_BUDGET if sessions_of(candidate) else BUDGET_TOKENS / (request.uncached + request.osl)
        return bench.requests >= (self.requests or fixed)


def sessions_of(candidate: Candidate) -> bool:
    """Whether the requests of the workload form sessions."""
    return candidate.costing.setting.workload.think_time > 0


@dataclass(frozen=True, slots=True)
class _Run:
    """One simulation that a bench was asked for.

    Parameters
    ----------
    deployment : what is simulated
    rate, users : load: a rate [1/s], or a number of users
    requests : length of the run [count]
    ongoing : sessions that are live when the run begins [count]
    seed : seed of the requests
    block : size of a block of the prefix cache [token]
    whole : whether the run goes on after it has missed the SLO
    """

    deployment: Deployment
    rate: float | None
    users: int | None
    requests: int
    ongoing: int
    seed: int
    block: int
    whole: bool


@dataclass(frozen=True, slots=True)
class _Place:
    """What the site of a simulation depends on.

    Parameters
    ----------
    costing : identity of the costing, which holds model, machine, engine and workload
    longest : longest request that the deployment takes [token]
    caching : whether the deployment has a prefix cache
    requests, seed, block : as in `_Run`
    load : rate and users where requests form sessions: the load decides which turns are among the first requests
    """

    costing: int
    longest: int | None
    caching: bool
    requests: int
    seed: int
    block: int
    load: tuple[float | None, int | None] | None

    @classmethod
    def of(cls, candidate: Candidate, wanted: _Run) -> _Place:
        """The place of a run."""
        deployment = wanted.deployment
        return cls(
            id(candidate.costing), deployment.max_model_len, deployment.prefix_caching, wanted.requests, wanted.seed,
            wanted.block, (wanted.rate, wanted.users) if sessions_of(candidate) else None,
        )  # fmt: skip


@dataclass
class Bench:
    """Simulates deployments on requests of one workload, with the same random numbers for all, and counts the runs.

    Several processes simulate at the same time (`elsewhere`). No result depends on their number, or on which one is
    faster.

    Parameters
    ----------
    seed : seed of all random streams
    simulations, requests : runs so far, and requests in them [count]
    built : site and cluster of the deployments that were simulated
    sites : sites that deployments share, with their costing: those of one engine whose requests are alike
    listed : the last simulation of each deployment that `decide` lists
    cut : deployments of which a run was cut at `SESSION_MOST`
    lives : life of a request in the last run of each deployment that held, where requests form sessions [s]
    number : identity of the bench, for other processes
    began : when the bench was set up, by the monotonic clock [s]
    """

    seed: int = 0
    simulations: int = 0
    requests: int = 0
    built: dict[Deployment, _Built] = field(default_factory=dict)
    sites: dict[_Place, tuple[Costing, Site]] = field(default_factory=dict, repr=False)
    listed: dict[Deployment, Simulation] = field(default_factory=dict)
    cut: set[Deployment] = field(default_factory=set)
    lives: dict[Deployment, float] = field(default_factory=dict)
    number: int = field(default_factory=count(1).__next__)
    began: float = field(default_factory=time.monotonic)
    _ahead: dict[_Run, tuple[Future[_Played], bool]] = field(default_factory=dict, repr=False)
    _each: bool = field(default=False, repr=False)
    _counting: Lock = field(default_factory=Lock, repr=False)

    def at(
        self, candidate: Candidate, *, rate: float | None = None, users: int | None = None, again: bool = False
    ) -> Simulation:
        """Simulate a deployment at a rate [1/s], or with a number of users.

        Parameters
        ----------
        candidate : the deployment, with its estimated times, which set the length of the run
        again : with other requests, and more of them
        """
        run = self._counted(candidate, self._run(candidate, rate, users, again=again, whole=True))
        assert run is not None
        return run

    def holds(self, candidate: Candidate, rate: float, *, again: bool = False) -> Simulation | None:
        """The simulation of a deployment at a rate; None if it misses the SLO [1/s].

        Parameters
        ----------
        candidate : the deployment
        again : with other requests, and more of them
        """
        return self._counted(candidate, self._run(candidate, rate, None, again=again, whole=False))

    def _counted(self, candidate: Candidate, wanted: _Run) -> Simulation | None:
        """The simulation of a run; None if the run may end early and misses the SLO."""
        like = self.built.get(candidate.deployment)
        begun, was_built = self._ahead.pop(wanted, (None, False))
        if begun is None or was_built != (like is not None) or begun.cancel():
            run, built = self._elsewhere(candidate, wanted, like)
        else:
            run, built = begun.result()
        with self._counting:
            self.built[candidate.deployment] = built
            self.simulations += 1
            self.requests += wanted.requests
            if wanted.ongoing and run is not None and run.meets_slo:
                self.lives[candidate.deployment] = life_of(run)
        return run

    def loaded(self, candidate: Candidate, *, again: bool = False) -> Simulation:
        """Simulate a deployment under the given load."""
        return self.at(candidate, **_load_of(candidate), again=again)

    def expect(self, candidate: Candidate, rate: float | None = None) -> None:
        """Begin a run in another process, if one is idle: `holds` may ask for it soon, or `loaded`.

        A run that nobody asks for is not counted and changes nothing.

        Parameters
        ----------
        candidate : the deployment
        rate : rate of the run; None: the given load [1/s]
        """
        running = sum(not begun.done() for begun, _ in self._ahead.values())
        if self._each or running >= PROCESSES - 1:
            return
        load = _load_of(candidate) if rate is None else {"rate": rate, "users": None}
        wanted = self._run(candidate, **load, again=False, whole=rate is None)
        like = self.built.get(candidate.deployment)
        if wanted not in self._ahead:
            if len(self._ahead) >= KEPT_AHEAD:
                del self._ahead[next(iter(self._ahead))]
            self._ahead[wanted] = threads().submit(self._elsewhere, candidate, wanted, like), like is not None

    def forget(self) -> None:
        """Drop the runs that began ahead and that nobody asked for."""
        for begun, _ in self._ahead.values():
            begun.cancel()
        self._ahead.clear()

    def each(self, candidates: Sequence[Candidate], work: Callable[[int], Done]) -> list[Done]:
        """Do independent work on several deployments at the same time.

        Parameters
        ----------
        candidates : the deployments
        work : what to do with the deployment of a number; it may call `at`

        Returns
        -------
        The results, in the order of the deployments.
        """
        self.forget()
        together: dict[Deployment, list[int]] = {}  # the first run of a deployment builds the site of its other runs
        for number, candidate in enumerate(candidates):
            together.setdefault(candidate.deployment, []).append(number)
        left, done, failed = deque(together.values()), dict[int, Done](), dict[int, Exception]()

        def take() -> None:
            with suppress(IndexError):
                while numbers := left.popleft():
                    try:
                        done.update((number, work(number)) for number in numbers)
                    except Exception as error:
                        failed[numbers[0]] = error
                        left.clear()

        self._each = True
        try:
            begun = [threads().submit(take) for _ in range(min(PROCESSES, len(together)) - 1)]
            take()
            for one in begun:
                one.result()
        finally:
            left.clear()
            self._each = False
        if failed:
            raise failed[min(failed)]
        return [done[number] for number in range(len(candidates))]

    def _run(self, candidate: Candidate, rate: float | None, users: int | None, *, again: bool, whole: bool) -> _Run:
        """What `at` simulates."""
        workload = candidate.costing.setting.workload
        life = candidate.estimated.ttft_s + workload.osl * candidate.estimated.tpot_s
        if self.lives:  # the same for all deployments in the search, and its own where a deployment is confirmed
            first = next(iter(self.lives))
            life = self.lives.get(candidate.deployment if again else first, self.lives[first])
        if rate is None:
            assert users is not None
            requests = requests_for_users(workload, users, sessions=SESSIONS)
        elif sessions_of(candidate):
            sessions, lives = (SESSIONS_AGAIN, SESSION_LIVES_AGAIN) if again else (SESSIONS, SESSION_LIVES)
            requests = requests_for(workload, rate, life, sessions=sessions, lives=lives)
        else:
            requests = max(requests_for(workload, rate, life), LEAST_AGAIN if again else LEAST)
        block = SESSION_BLOCK if sessions_of(candidate) else BLOCK
        most = SESSION_MOST_AGAIN if again else SESSION_MOST
        ongoing = live_sessions(workload, rate, life) if sessions_of(candidate) and rate is not None else 0
        if sessions_of(candidate) and requests > most:
            requests = most
            if most < ongoing * session_turns(workload)[0]:  # less than a session lasts: too short to recover
                ongoing = 0
            self.cut.add(candidate.deployment)
        return _Run(candidate.deployment, rate, users, requests, ongoing, self.seed + again, block, whole)

    def _elsewhere(self, candidate: Candidate, wanted: _Run, like: _Built | None) -> _Played:
        """Simulate a run in the process of this thread; `like` as in `simulate`."""
        if here():
            return self.played(candidate, wanted, like)
        return elsewhere(_played, self.number, candidate, wanted, like)

    def played(self, candidate: Candidate, wanted: _Run, like: _Built | None) -> _Played:
        """Simulate a run in this process; `like` as in `simulate`.

        Returns
        -------
        The simulation, None if it may end early and misses the SLO; and its site and cluster.
        """
        costing, setting = candidate.costing, candidate.costing.setting
        source = Source(
            setting.workload, wanted.requests, wanted.seed, block_tokens=wanted.block, ongoing=wanted.ongoing
        )
        traffic = source.traffic(rate=wanted.rate, concurrency=wanted.users)
        deployed = Deployed(
            wanted.deployment, setting.given, costing.calibration, model=setting.model, machine=setting.machine
        )
        place = _Place.of(candidate, wanted)
        _, site = self.sites.get(place, (None, None))
        run = simulate(
            deployed, traffic, slo=costing.slo, seed=wanted.seed, like=like, site=site, drain=False,
            until_missed=not wanted.whole, block_tokens=wanted.block,
        )  # fmt: skip
        if run.partial:
            raise KeyboardInterrupt
        if like is None:
            self.sites.setdefault(place, (costing, run.site))
        return run if wanted.whole or run.meets_slo else None, (run.site, run.cluster)


def _load_of(candidate: Candidate) -> dict[str, Any]:
    """The given load as a rate [1/s] or a number of users."""
    load = candidate.costing.load
    assert load is not None
    if load.kind == "rate":
        return {"rate": load.value, "users": None}
    return {"rate": None, "users": max(1, round(load.value))}


_benches: dict[int, Bench] = {}


def _played(number: int, candidate: Candidate, wanted: _Run, like: _Built | None) -> _Played:
    """Simulate a run for a bench of another process; a bench of this process keeps what the runs have in common."""
    if number not in _benches:
        _benches.clear()
        _benches[number] = Bench()
    return _benches[number].played(candidate, wanted, like)
