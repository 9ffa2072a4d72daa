"""Capacity of a deployment that is not whole, from simulations of it: fewer ranks, or less bandwidth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

from tokenworks.simulation.bound import rate_bound
from tokenworks.simulation.capacity import PILOT_RATE, TOLERANCE, Capacity, Try, capacity_of
from tokenworks.simulation.run import Simulation, simulate
from tokenworks.simulation.source import Source
from tokenworks.simulation.variants import HEALTHY, Condition, shrunk
from tokenworks.specs.deployment_file import Deployed
from tokenworks.specs.machine import Link, Machine
from tokenworks.specs.slo import Slo

Say = Callable[[str], None]

PILOT = 20
"""Requests of a run that only prices the steps of a condition [count]."""

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

    def __post_init__(self) -> None:
        self.full = capacity_of(self.deployed, self.source, self.slo, seed=self.seed, say=self.say)

    @property
    def effective_tok_s(self) -> float:
        """Effective tokens per second of the whole deployment at its highest load within the SLO."""
        return self.full.best.effective_tok_s_per_device * self.deployed.deployment.devices

    def simulated(self, role: int, condition: Condition) -> float:
        """Capacity of a condition / full capacity, by simulation; each condition is simulated once.

        Parameters
        ----------
        role : number of the role whose instances are in the condition
        condition : the condition
        """
        key = (role, condition.rounded())
        if key not in self.shares:
            self.shares[key] = 1.0 if key[1] == HEALTHY else self._searched(*key)
        return self.shares[key]

    def bounded(self, role: int, condition: Condition) -> float:
        """The same share from the roofline bound of both deployments, which simulates no load.

        Parameters
        ----------
        role : number of the role whose instances are in the condition
        condition : the condition
        """
        key = (role, condition.rounded())
        if key not in self.shares:
            run, whole = self._run(*key, PILOT_RATE, PILOT), self.full.run
            self.shares[key] = min(
                1.0, rate_bound(run.cluster, whole.site.request) / rate_bound(whole.cluster, whole.site.request)
            )
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
        whole, site = self.deployed.deployment, self.full.run.site
        live = condition.live or whole.roles[role].parallel.dp
        roles = list(whole.roles)
        roles[role] = shrunk(roles[role], site.model, live)
        rest = dataclasses.replace(
            self.deployed,
            deployment=whole.model_copy(update={"roles": tuple(roles), "elastic_ep": False, "spares": 0}),
            machine=_slower(site.machine, condition),
        )
        traffic = dataclasses.replace(self.source, requests=requests).traffic(rate=rate)
        return simulate(rest, traffic, slo=self.slo, seed=self.seed, drain=False)


def _slower(machine: Machine, condition: Condition) -> Machine:
    """The machine with the bandwidth that a condition leaves."""

    def less(link: Link, share: float) -> Link:
        return dataclasses.replace(link, bandwidth=link.bandwidth * share, pair=link.pair * share)

    out = machine.scale_out
    return dataclasses.replace(
        machine,
        scale_up=less(machine.scale_up, condition.up_share),
        scale_out=None if out is None else less(out, condition.out_share),
    )


def _words(condition: Condition, ranks: int) -> str:
    """A condition in words."""
    words = [f"{condition.live} of {ranks} ranks"] if condition.live else []
    shares = {"scale-up": condition.up_share, "scale-out": condition.out_share}
    words += [f"{share:.0%} of the {name} bandwidth" for name, share in shares.items() if share < 1]
    return " and ".join(words)
