"""A deployment as the engine simulates it: pools with their step times, KV blocks and limits, and the links."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tokenworks.costs.memory import Memory, memory
from tokenworks.costs.requests import accepted_tokens
from tokenworks.costs.transfer import exposed_transfer, wire
from tokenworks.engine.types import Cluster, Limits, Pool, Router, Transfer
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.legal.points import Points, Setting
from tokenworks.legal.rules import MEMORY, SHAPE, Proposal
from tokenworks.simulation.steps import Site, step_cost
from tokenworks.specs.calibration import number
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.workload import Workload

MOST_BLOCKS = 1 << 24
"""KV blocks of a rank where tokens add nothing to the cache (linear attention): as good as without an end."""


def cluster(
    deployment: Deployment,
    site: Site,
    *,
    router: Router,
    block_tokens: int,
    prefix_caching: bool,
    concurrency: int = 0,
    window_s: float = 0.0,
    max_queue: int = 0,
) -> Cluster:
    """The engine's view of a deployment.

    Parameters
    ----------
    block_tokens : of a KV block, and of the block hashes of requests
    prefix_caching : whether requests share prefixes by block hash
    max_queue : a request that finds so many waiting at its rank is refused, 0 = none

    Raises
    ------
    SpecError : a role breaks a rule of its shape
    DoesNotFit : more devices than the machine has, or weights and one sequence do not fit
    """
    if deployment.devices > site.machine.devices:
        raise DoesNotFit(
            f"{deployment} takes {deployment.devices} devices, {site.machine.name} has {site.machine.devices}: "
            "fewer replicas, or a larger machine"
        )
    pools = [
        _pool(role, site, block_tokens, prefix_caching=prefix_caching and role.name != "decode", max_queue=max_queue)
        for role in deployment.roles
    ]
    transfer = _transfer(deployment, site, pools) if len(pools) > 1 else Transfer()
    request_s = len(pools) * number(site.engine.request)
    return Cluster(tuple(pools), router, transfer, concurrency, window_s, request_s)


def room(role: Role, site: Site) -> Memory:
    """Memory of one instance, all rules of shape and memory checked."""
    points, setting = Points.of(role), Setting(site.model, site.machine, site.engine, _ONE)
    _judge(Proposal(points, setting), role, SpecError)
    found = memory(
        site.model, site.machine, points.split(), engine=site.engine, max_sequences=points.max_sequences,
        chunk_tokens=points.chunk_tokens, memory_fraction=role.memory_fraction,
    )  # fmt: skip
    _judge(Proposal(points, setting, found), role, DoesNotFit)
    return found


_ONE = Workload(name="one token", isl=1, osl=1)


def _judge(proposal: Proposal, role: Role, error: type[SpecError] | type[DoesNotFit]) -> None:
    for check in (SHAPE if proposal.memory is None else MEMORY).values():
        verdict = check(proposal)
        if not np.all(verdict.kept):
            setting = proposal.setting
            raise error(
                f"{setting.model.name} on {setting.machine.name}, {role.name} [{role.parallel}]: {verdict.why()}"
            )


def _pool(role: Role, site: Site, block_tokens: int, *, prefix_caching: bool, max_queue: int) -> Pool:
    """One role. Its limits are those of a dp rank, with an equal share of the instance's sequences and tokens."""
    ranks, width = role.parallel.dp, 1 + role.draft_tokens
    sequences = max(1, role.max_sequences // ranks)
    found = room(role, site)
    kv_tokens = float(np.min(found.kv_tokens)) / ranks
    limits = Limits(
        max_sequences=sequences,
        token_budget=max(role.chunk_tokens // ranks, sequences * width),
        kv_blocks=int(min(kv_tokens // block_tokens, MOST_BLOCKS)),
        block_tokens=block_tokens,
        max_model_len=site.model.max_context,
        max_queue=max_queue,
        draft_tokens=role.draft_tokens,
        tokens_per_step=float(accepted_tokens(role.draft_tokens, site.rates.acceptance)),
        prefix_caching=prefix_caching,
        policy=site.engine.scheduler,
    )
    return Pool(step_cost(role, site, limits), limits, role.replicas, ranks, role.name, role.parallel.pp)


# ── KV from prefill to decode ─────────────────────────────────────────────────────────────────────────────────────


def _transfer(deployment: Deployment, site: Site, pools: list[Pool]) -> Transfer:
    """KV over the link that both roles share: scale-up where all devices lie in one domain, else scale-out.

    Each decode device pulls the cache that it will hold, from all devices of the prefill instance; the side with fewer
    devices is the slower. A link of the engine is an instance's, so the ranks of an instance count together. Layers
    travel while later ones are computed (`costs.transfer`), for a mean request.
    """
    prefill, decode = deployment.roles
    if prefill.kv_dtype != decode.kv_dtype:
        raise SpecError(
            f"prefill keeps {prefill.kv_dtype}, decode {decode.kv_dtype}", where="roles: kv_dtype",
            hint="KV travels as it is stored: take one for both",
        )  # fmt: skip
    link = wire(site.machine, site.rates, deployment.devices)
    if link is None:
        raise SpecError(f"{site.machine.name} has no network between its domains", where="roles")
    found, per_rank = room(decode, site), decode.parallel.tp * decode.parallel.pp
    slower = link.bandwidth * min(prefill.parallel.devices, decode.parallel.devices)
    token_s = per_rank * float(np.min(found.kv_bytes_per_token)) / slower
    state_s = per_rank * float(np.min(found.state_bytes_per_sequence)) / slower
    transfer = Transfer(link.start + link.alpha + state_s, token_s)
    return replace(transfer, overlap=_hidden(site, transfer, pools[0]))


def _hidden(site: Site, transfer: Transfer, prefill: Pool) -> float:
    """Share of a mean request's transfer that its own prefill hides [-]."""
    tokens, cost, budget = site.request.isl, prefill.cost, prefill.limits.token_budget
    alone_s = tokens * transfer.seconds_per_token
    if not alone_s:
        return 0.0
    passes = max(1.0, tokens / budget)
    own_s = passes * float(np.interp(tokens / passes, np.arange(budget + 1), cost.by_tokens[: budget + 1]))
    own_s += prefill.ranks * (cost.prefill_context_s * site.request.seen + cost.prefill_token_s) * tokens
    return 1.0 - float(exposed_transfer(alone_s, own_s, site.model.layers)) / alone_s
