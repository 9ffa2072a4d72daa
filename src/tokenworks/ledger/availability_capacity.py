"""Capacity of a deployment that is not whole, from simulations of it: fewer ranks, or less bandwidth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tokenworks.engine.tiers import Tiers
from tokenworks.engine.types import Cluster
from tokenworks.simulation.bound import rate_bound
from tokenworks.simulation.capacity import TOLERANCE, Capacity, Try, capacity_of
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.source import Source
from tokenworks.simulation.steps import Site, step_cost
from tokenworks.simulation.variants import HEALTHY, Condition, shrunk, with_bandwidth
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.slo import Slo

Say = Callable[[str], None]

MOST_SIMULATED = 40
"""Most conditions that are simulated [count]."""

LEAST_SHARE = 0.01
"""Below this share of the full load, a condition counts as one without capacity [-]."""


@dataclass
class DegradedCapacity:
    """Capacity of each condition of the instances of a role / capacity of the whole deployment.

    In a simulation, all instances of the role are in the condition. The load begins at the full load x the share of the
    ranks that are left, and falls in steps of 2 % until the SLO holds.

    Parameters
    ----------
    deployed : the deployment
    source : its requests
    slo : bounds that the capacity keeps
    seed : seed of the requests
    say : told what is simulated
    """

    deployed: Deployed
    source: Source
    slo: Slo
    seed: int = 0
    say: Say | None = None
    full: Capacity = field(init=False)
    shares: dict[tuple[int, Condition], float] = field(init=False, default_factory=dict)
    simulated: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.full = capacity_of(self.deployed, self.source, self.slo, seed=self.seed, say=self.say)

    @property
    def effective_tok_s(self) -> float:
        """Effective tokens per second of the whole deployment at its highest load within the SLO."""
        return self.full.best.effective_tok_s_per_device * self.deployed.deployment.devices

    def share(self, role: int, condition: Condition) -> float:
        """Capacity of a condition / full capacity: each condition is computed once.

        The first `MOST_SIMULATED` conditions are simulated; later ones take the ratio of both roofline bounds.

        Parameters
        ----------
        role : number of the role whose instances are in the condition
        condition : the condition
        """
        key = (role, condition.rounded())
        if key[1] == HEALTHY:
            return 1.0
        if key not in self.shares:
            simulated = self.simulated < MOST_SIMULATED
            self.shares[key] = self._searched(*key) if simulated else bounded_share(self.full.run, *key)
            self.simulated += simulated
        return self.shares[key]

    def _searched(self, role: int, condition: Condition) -> float:
        """Highest load that the condition holds / highest load of the whole deployment."""
        whole, ranks = self.full.best.load, self.deployed.deployment.roles[role].parallel.dp
        most = (condition.live or ranks) / ranks
        requests = len(self.full.run.traffic.trace)

        def holds(k: int) -> bool:
            share = most / (1 + TOLERANCE) ** k
            if self.say:
                self.say(f"trying {share:.0%} of the load with {_words(condition, ranks)}")
            run = self._run(role, condition, whole * share, max(1, round(requests * share)))
            return Try.of(whole * share, run).held

        if holds(0):
            return most
        failed, step = 0, 1
        while not holds(failed + step):
            failed, step = failed + step, 2 * step
            if most / (1 + TOLERANCE) ** (failed + step) < LEAST_SHARE:
                return 0.0
        held = failed + step
        while held - failed > 1:
            middle = (held + failed) // 2
            held, failed = (middle, failed) if holds(middle) else (held, middle)
        return most / (1 + TOLERANCE) ** held

    def _run(self, role: int, condition: Condition, rate: float, requests: int) -> Simulation:
        """A simulation of the deployment with all instances of a role in a condition."""
        like = degraded(self.full.run, role, condition)
        traffic = replace(self.source, requests=requests).traffic(rate=rate)
        return simulate(self.deployed, traffic, slo=self.slo, seed=self.seed, drain=False, like=like)


def degraded(run: Simulation, role: int, condition: Condition) -> tuple[Site, Cluster]:
    """Site and cluster of a deployment with all instances of a role in a condition.

    Ranks that are left keep their limits. A deployment without some ranks reads no KV tiers: a lower bound.

    Parameters
    ----------
    run : a simulation of the whole deployment
    role : number of the role whose instances are in the condition
    condition : the condition
    """
    pools = list(run.cluster.pools)
    pool, live = pools[role], condition.live or pools[role].ranks
    site = replace(run.site, rates=with_bandwidth(run.site.rates, condition))
    smaller = shrunk(run.deployment.roles[role], site.model, live)
    pools[role] = replace(pool, cost=step_cost(smaller, site, pool.limits), ranks=live)
    tiers = run.cluster.tiers if live == pool.ranks else Tiers()
    return site, replace(run.cluster, pools=tuple(pools), tiers=tiers)


def bounded_share(run: Simulation, role: int, condition: Condition) -> float:
    """Roofline bound on the rate of a condition / bound of the whole deployment, at most 1 [-].

    Parameters
    ----------
    run : a simulation of the whole deployment
    role : number of the role whose instances are in the condition
    condition : the condition
    """
    _, rest = degraded(run, role, condition)
    request = run.site.request
    return min(1.0, rate_bound(rest, request) / rate_bound(run.cluster, request))


def _words(condition: Condition, ranks: int) -> str:
    """A condition in words."""
    words = [f"{condition.live} of {ranks} ranks"] if condition.live else []
    shares = {"scale-up": condition.up_share, "scale-out": condition.out_share}
    words += [f"{share:.0%} of the {name} bandwidth" for name, share in shares.items() if share < 1]
    return " and ".join(words)
