"""Step times of an instance that is not whole: fewer ranks, less bandwidth, or another balance of experts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from tokenworks.costs.collectives import LinkRates
from tokenworks.costs.moe import Balance
from tokenworks.costs.rates import Rates
from tokenworks.engine.types import Limits, StepCost
from tokenworks.errors import SpecError
from tokenworks.simulation.steps import Site, step_cost
from tokenworks.specs.deployment import Role
from tokenworks.specs.model import Model

MOST_VARIANTS = 64
"""Step costs that one run uses beside the normal one [count]. Each takes as long as the normal one to compute."""

SHARE_STEPS = 64
"""Shares of bandwidth are rounded to multiples of 1 / this number [-]."""


@dataclass(frozen=True, slots=True)
class Condition:
    """State of an instance that changes its step times. The default is an instance that works as planned.

    Parameters
    ----------
    live : dp ranks that work; None: all [count]
    up_share : bandwidth inside a domain / its normal value, of the device that has least [-]
    out_share : bandwidth between domains / its normal value, of the device that has least [-]
    balance : hottest expert-parallel rank and touched experts by batch; None: as the calibration has it
    """

    live: int | None = None
    up_share: float = 1.0
    out_share: float = 1.0
    balance: Balance | None = None

    def rounded(self) -> Condition:
        """The condition with rounded numbers, so that conditions that hardly differ share a step cost."""
        up, out = (max(round(share * SHARE_STEPS), 1) / SHARE_STEPS for share in (self.up_share, self.out_share))
        return replace(self, up_share=up, out_share=out)

    def beside(self, other: Condition) -> Condition:
        """Both conditions at the same time: the fewer ranks, both losses of bandwidth, and the balance of either.

        Parameters
        ----------
        other : the other condition; its balance counts if both have one
        """
        both = [ranks for ranks in (self.live, other.live) if ranks is not None]
        return Condition(
            min(both, default=None), self.up_share * other.up_share, self.out_share * other.out_share,
            self.balance if other.balance is None else other.balance,
        )  # fmt: skip


HEALTHY = Condition()


def least_ranks(role: Role, model: Model) -> int:
    """Fewest ranks that an instance with elastic expert parallelism can have.

    A device keeps the number of expert slots that it started with, L = (E + R) / ep. The ranks that are left must hold
    each of the E experts at least once: L x devices >= E.

    Parameters
    ----------
    role : a role that can shrink (`Role.can_shrink`)
    model : the model

    Returns
    -------
    Number of dp ranks, 1 to dp [count].

    References
    ----------
    [1] vLLM, docs/serving/expert_parallel_deployment.md: elastic EP keeps the physical experts of a rank.
    """
    wide = role.parallel
    experts = max((block.experts.count for block in model.blocks if block.experts), default=0)
    slots = -(-(experts + role.redundant_experts) // wide.ep)
    devices = -(-experts // max(slots, 1))
    return max(1, -(-devices // wide.tp))


def shrunk(role: Role, model: Model, live: int) -> Role:
    """The role whose instances have only some of their ranks.

    Each rank keeps its sequences, its tokens of a step, and its expert slots.

    Parameters
    ----------
    role : the role as the deployment has it
    model : the model
    live : dp ranks that are left [count]
    """
    wide = role.parallel
    if live == wide.dp:
        return role
    if not role.can_shrink or not least_ranks(role, model) <= live < wide.dp:
        raise SpecError(f"{live} ranks", where=f"{role.name} [{role.parallel}]",
                        hint=f"an instance runs with {least_ranks(role, model)} to {wide.dp} ranks")  # fmt: skip
    experts = max(block.experts.count for block in model.blocks if block.experts)
    slots, ep = (experts + role.redundant_experts) // wide.ep, wide.tp * live
    return role.model_copy(update={
        "parallel": wide.model_copy(update={"dp": live, "ep": ep}),
        "max_sequences": max(1, role.max_sequences // wide.dp) * live,
        "chunk_tokens": max(1, role.chunk_tokens // wide.dp) * live,
        "redundant_experts": slots * ep - experts,
    })  # fmt: skip


def with_bandwidth(rates: Rates, condition: Condition) -> Rates:
    """The rates with the bandwidth that a condition leaves, and with its balance of experts.

    Parameters
    ----------
    rates : rates of a machine without failures
    condition : shares of the bandwidth on both levels, and balance
    """

    def less(link: LinkRates, share: float) -> LinkRates:
        return replace(link, bandwidth=link.bandwidth * share, pair=link.pair * share)

    def outward(link: LinkRates | None) -> LinkRates | None:
        return None if link is None else less(link, condition.out_share)

    return replace(
        rates,
        inner=less(rates.inner, condition.up_share), inner_moe=less(rates.inner_moe, condition.up_share),
        outer=outward(rates.outer), outer_moe=outward(rates.outer_moe),
        balance=rates.balance if condition.balance is None else condition.balance,
    )  # fmt: skip


def variant_cost(role: Role, site: Site, limits: Limits, condition: Condition) -> StepCost:
    """Step times of an instance under a condition, in the form of the engine.

    The engine multiplies the time of the slowest rank by all R ranks of the instance. With r ranks left, one rank has
    1 / r of the batch, so the coefficients of a rank are those of an instance of r ranks times r / R.

    Parameters
    ----------
    role : the role of the instance
    site : model, machine, engine and mean request
    limits : sequences and tokens of one rank
    condition : the state of the instance
    """
    ranks = role.parallel.dp
    live = ranks if condition.live is None else condition.live
    reached = with_bandwidth(site.rates, condition)
    cost = step_cost(shrunk(role, site.model, live), replace(site, rates=reached), limits)
    share, table = live / ranks, cost.by_tokens
    last = np.full(ranks * limits.token_budget + 1 - len(table), table[-1])  # no step of r ranks is as large
    return StepCost(
        np.concatenate([table, last]), cost.decode_sequence_s * share, cost.decode_context_s * share,
        cost.prefill_context_s * share, cost.prefill_token_s * share, cost.together_context_s,
    )  # fmt: skip


@dataclass(frozen=True)
class Variants:
    """Step costs of one role, by condition.

    Parameters
    ----------
    costs : step costs beside the normal one
    numbers : number of the step cost of each rounded condition; 0 is the normal one
    """

    costs: tuple[StepCost, ...]
    numbers: dict[Condition, int]

    def number(self, condition: Condition) -> int:
        """Number of the step cost of a condition, as events of kind `cost` take it."""
        return self.numbers[condition.rounded()]


def variants(role: Role, site: Site, limits: Limits, conditions: Iterable[Condition]) -> Variants:
    """Step costs of a role under all conditions of a run. Conditions that hardly differ share a cost.

    Parameters
    ----------
    role : the role of the instances
    site : model, machine, engine and mean request
    limits : sequences and tokens of one rank
    conditions : all conditions of the instances of the role

    Raises
    ------
    SpecError : there are more than `MOST_VARIANTS` different conditions
    """
    numbers = {HEALTHY: 0}
    for condition in conditions:
        numbers.setdefault(condition.rounded(), len(numbers))
    if len(numbers) > MOST_VARIANTS + 1:
        raise SpecError(f"{len(numbers) - 1} different states of {role.name} instances", where="faults",
                        hint=f"a run takes {MOST_VARIANTS} at most: give fewer faults at the same time")  # fmt: skip
    costs = (variant_cost(role, site, limits, condition) for condition, at in numbers.items() if at)
    return Variants(tuple(costs), numbers)
