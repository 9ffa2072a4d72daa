"""Where the time of all devices goes in a simulation: per output token, part by part."""

from __future__ import annotations

from tokenworks.costs.breakdown import total
from tokenworks.simulation.energy import mean_step
from tokenworks.simulation.run import Simulation

WAITING, IDLE, LEFT_OVER = "uneven steps and ranks", "no work", "devices left over"


def device_time(run: Simulation, charged: int) -> dict[str, float]:
    """Time of all devices per output token, by part of a step. The sum is charged devices / output rate.

    The parts are those of the mean step of each role. What the steps took beyond the mean step is `WAITING`: ranks that
    wait for the busiest one, and steps that differ from the mean. A role without requests has `IDLE` time.

    Parameters
    ----------
    run : the simulation
    charged : devices that throughput is divided by, with those left over where no further replica fits [count]

    Returns
    -------
    Part to time [s/token].
    """
    seconds, tokens = run.span.seconds, max(run.metrics.output_throughput * run.span.seconds, 1e-12)
    spent: dict[str, float] = {}

    def add(part: str, device_s: float) -> None:
        spent[part] = spent.get(part, 0.0) + device_s / tokens

    for role, counts in zip(run.deployment.roles, run.window.counts.pools, strict=True):
        each = role.devices / role.replicas
        mean = mean_step(role, counts, run.site)
        modelled = counts.steps * float(mean.seconds)
        busy = min(counts.busy_s, role.replicas * seconds)
        share = min(1.0, busy / modelled) * modelled / float(total(mean.parts)) if modelled else 0.0
        for name, part in mean.parts.items():
            add(name, each * share * float(part.seconds))
        add(WAITING, each * max(busy - modelled, 0.0))
        add(IDLE, each * (role.replicas * seconds - busy))
    add(LEFT_OVER, (charged - run.deployment.devices) * seconds)
    return {part: value for part, value in spent.items() if value > 0}
