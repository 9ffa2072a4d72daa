"""Power of a simulated run, from the mean step of each role and the share of time in which the role runs steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenworks.costs.breakdown import Breakdown
from tokenworks.costs.power import power, roof_use
from tokenworks.engine.outcome import PoolCounts
from tokenworks.simulation.steps import Site
from tokenworks.specs.deployment import Role


@dataclass(frozen=True, slots=True)
class Used:
    """How much of a run the average device of a deployment is limited by compute and by HBM.

    Parameters
    ----------
    compute, hbm : share of the time on the compute roof, and on the HBM roof [-]
    """

    compute: float
    hbm: float

    def watts(self, site: Site) -> float | None:
        """Mean power of a device [W]; None if its TDP is not published."""
        if site.machine.tdp is None:
            return None
        return float(power(site.machine.tdp, site.rates.power, compute=self.compute, hbm=self.hbm))


def mean_step(role: Role, counts: PoolCounts, site: Site) -> Breakdown:
    """Cost of a step of a role with its mean batch and its mean number of prefill tokens.

    Parameters
    ----------
    role : the role
    counts : what the engine counted for the instances of the role
    site : model, machine, engine and mean request
    """
    steps = max(counts.steps, 1)
    decode, prefill = counts.mean_batch, counts.prefill_tokens / steps
    return site.breakdown(role, decode, prefill)


def used(roles: Sequence[Role], pools: Sequence[PoolCounts], site: Site, seconds: float) -> Used:
    """Roof use of the average device, over all devices of all roles.

    Parameters
    ----------
    roles, pools : the roles, and the counts of their instances, in the same order
    site : model, machine, engine and mean request
    seconds : length of the run, from the first request to the last token [s]
    """
    total, compute, hbm = sum(role.devices for role in roles), 0.0, 0.0
    for role, counts in zip(roles, pools, strict=True):
        share = role.devices / total * min(counts.busy_s / (role.replicas * seconds), 1.0)
        on_compute, on_hbm = roof_use(mean_step(role, counts, site))
        compute, hbm = compute + share * float(on_compute), hbm + share * float(on_hbm)
    return Used(compute, hbm)
