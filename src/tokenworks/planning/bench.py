"""Simulations of a search: deployments on requests of one workload with the same random numbers, and a budget."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from tokenworks import units
from tokenworks.engine.types import Cluster
from tokenworks.errors import SpecError
from tokenworks.planning.ranking import Candidate
from tokenworks.simulation.length import WINDOW_SESSIONS, requests_for, requests_for_users
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.source import Source
from tokenworks.simulation.steps import Site
from tokenworks.specs.deployment import Deployment
from tokenworks.specs.deployment_file import Deployed
from tokenworks.traffic.generate import BLOCK

SESSIONS, SESSION_LIVES = 100, (1.0, 2.0)
SESSIONS_AGAIN, SESSION_LIVES_AGAIN = WINDOW_SESSIONS, (2.0, 3.0)
"""Length of a run in the search where requests form sessions, and of one that confirms a deployment: sessions in the
measured window [count], and lives of a session, which is a sum of many turns and varies little [-]. A cache that loses
sessions slowly fails only in a long run.
"""

LEAST, LEAST_AGAIN = 8_000, 40_000
"""Requests of a run in the search, and of a run that confirms a listed deployment, at least [count]."""

SESSION_BLOCK = 256
"""Size of a block of the prefix cache where requests form sessions, whose prefixes are long [token]. `simulate` has
smaller blocks: it takes five times as long, and a request has half a block more hits on average.
"""

BUDGET_TOKENS, SESSION_BUDGET = 10e9, 1_000_000
"""Where the search ends, settled or not: new input and output tokens of all simulated requests [token]; where requests
form sessions, whose long shared prefixes take more time, simulated requests [count]. The same on every machine."""


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


@dataclass
class Bench:
    """Simulates deployments on requests of one workload, with the same random numbers for all, and counts the runs.

    Parameters
    ----------
    seed : seed of all random streams
    simulations, requests : runs so far, and requests in them [count]
    built : site and cluster of the deployments that were simulated
    listed : the last simulation of each deployment that `decide` lists
    began : when the bench was set up, by the monotonic clock [s]
    """

    seed: int = 0
    simulations: int = 0
    requests: int = 0
    built: dict[Deployment, tuple[Site, Cluster]] = field(default_factory=dict)
    listed: dict[Deployment, Simulation] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def at(
        self, candidate: Candidate, *, rate: float | None = None, users: int | None = None, again: bool = False
    ) -> Simulation:
        """Simulate a deployment at a rate [1/s], or with a number of users.

        Parameters
        ----------
        candidate : the deployment, with its estimated times, which set the length of the run
        again : with other requests, and more of them
        """
        costing, setting = candidate.costing, candidate.costing.setting
        life = candidate.estimated.ttft_s + setting.workload.osl * candidate.estimated.tpot_s
        if rate is None:
            assert users is not None
            count = requests_for_users(setting.workload, users, sessions=SESSIONS)
        elif sessions_of(candidate):
            sessions, lives = (SESSIONS_AGAIN, SESSION_LIVES_AGAIN) if again else (SESSIONS, SESSION_LIVES)
            count = requests_for(setting.workload, rate, life, sessions=sessions, lives=lives)
        else:
            count = max(requests_for(setting.workload, rate, life), LEAST_AGAIN if again else LEAST)
        seed, block = self.seed + again, SESSION_BLOCK if sessions_of(candidate) else BLOCK
        source = Source(setting.workload, count, seed, block_tokens=block)
        traffic = source.traffic(rate=rate, concurrency=users)
        deployed = Deployed(
            candidate.deployment, setting.given, costing.calibration, model=setting.model, machine=setting.machine
        )
        like = self.built.get(candidate.deployment)
        run = simulate(deployed, traffic, slo=costing.slo, seed=seed, like=like, drain=False, block_tokens=block)
        if run.partial:
            raise KeyboardInterrupt
        self.built[candidate.deployment] = run.site, run.cluster
        self.simulations += 1
        self.requests += count
        return run

    def loaded(self, candidate: Candidate, *, again: bool = False) -> Simulation:
        """Simulate a deployment under the given load."""
        load = candidate.costing.load
        assert load is not None
        if load.kind == "rate":
            return self.at(candidate, rate=load.value, again=again)
        return self.at(candidate, users=max(1, round(load.value)), again=again)
