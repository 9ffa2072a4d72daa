"""Where the time of all devices goes in a simulation: by part of a step, and by kind of token."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tokenworks.costs.breakdown import total
from tokenworks.simulation.energy import mean_step
from tokenworks.simulation.run import Simulation

WAITING, IDLE, LEFT_OVER = "uneven steps and ranks", "no work", "devices left over"


def device_time(run: Simulation, charged: int, output_tok_s_per_device: float) -> dict[str, float]:
    """Time of all devices per output token, by part of a step. The sum is 1 / `output_tok_s_per_device`.

    The parts are those of the mean step of each role. What the steps took beyond the mean step is `WAITING`: ranks that
    wait for the busiest one, and steps that differ from the mean. A role without requests has `IDLE` time.

    Parameters
    ----------
    run : the simulation
    charged : devices that throughput is divided by, with those left over where no further replica fits [count]
    output_tok_s_per_device : output tokens that the run serves, as `planning.judge` counts them [token/s]

    Returns
    -------
    Part to time [s/token].
    """
    seconds, tokens = run.span.seconds, max(output_tok_s_per_device * charged * run.span.seconds, 1e-12)
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


def roofs_of_parts(run: Simulation) -> dict[str, str]:
    """The roof that binds each part of the mean step, in the role that spends most device time on the part."""
    most: dict[str, tuple[float, str]] = {}
    for role, counts in zip(run.deployment.roles, run.window.counts.pools, strict=True):
        for name, part in mean_step(role, counts, run.site).parts.items():
            device_s = counts.steps * float(part.seconds) * role.devices / role.replicas
            if device_s > most.get(name, (-1.0, ""))[0]:
                most[name] = device_s, str(part.bound())
    return {name: roof for name, (_, roof) in most.items()}


@dataclass(frozen=True, slots=True)
class TokenShares:
    """Shares of the busy time of all devices, by kind of token. The sum is 1 [-].

    Parameters
    ----------
    input : computing input tokens that no cache held
    cached : attending from these tokens to the input tokens that the prefix cache served
    output : everything else: decoding
    """

    input: float
    cached: float
    output: float


def token_shares(run: Simulation) -> TokenShares:
    """Divide the busy time of a run between kinds of tokens, by what each kind adds to the mean step of its role.

    Output tokens come first: input tokens are charged with what they add to a step beside the decoding sequences. So
    the weights that a step reads in any case are charged to output tokens in a role that does both. Cached tokens are
    charged with what the prefill steps take less if the new tokens do not attend to them.
    """
    spent = dict.fromkeys(("input", "cached", "output"), 0.0)
    request = run.site.request
    known = request.isl * request.hit_share
    bare = dataclasses.replace(request, isl=request.uncached, hit_share=0.0, seen=max(request.seen - known, 1.0))
    without = dataclasses.replace(run.site, request=bare)
    for role, counts in zip(run.deployment.roles, run.window.counts.pools, strict=True):
        decode, prefill = counts.mean_batch, counts.prefill_tokens / max(counts.steps, 1)
        both = float(run.site.breakdown(role, decode, prefill).seconds)
        if both <= 0:
            continue
        alone = float(run.site.breakdown(role, decode, 0.0).seconds) if decode else 0.0
        fewer = float(without.breakdown(role, 0.0, prefill).seconds) if prefill and known else 0.0
        added = max(both - alone, 0.0)
        whole = float(run.site.breakdown(role, 0.0, prefill).seconds) if prefill and known else 0.0
        cached = min(max(whole - fewer, 0.0), added)
        device_s = counts.busy_s / both * role.devices / role.replicas
        for kind, seconds in (("input", added - cached), ("cached", cached), ("output", both - added)):
            spent[kind] += seconds * device_s
    whole_s = sum(spent.values()) or 1.0
    return TokenShares(**{kind: seconds / whole_s for kind, seconds in spent.items()})
