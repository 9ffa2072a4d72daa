"""Build the engine's form of a deployment: pools with step times, KV blocks and limits, and the links between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tokenworks.costs.memory import Memory, memory
from tokenworks.costs.requests import accepted_tokens
from tokenworks.costs.transfer import exposed_transfer, wire
from tokenworks.engine.policies import POLICIES
from tokenworks.engine.tiers import Tiers
from tokenworks.engine.types import Cluster, Limits, Pool, Router, Transfer
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.legal.points import Points, Setting
from tokenworks.legal.rules import MEMORY, SHAPE, Proposal
from tokenworks.simulation.layout import must_have_room
from tokenworks.simulation.steps import Site, step_cost
from tokenworks.simulation.tiers import tiers_of
from tokenworks.specs.calibration import number
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.scheduling import Scheduling
from tokenworks.specs.workload import Workload

MOST_BLOCKS = 1 << 24
"""KV blocks of a rank if tokens add nothing to the cache (linear attention): more than any simulation uses [count]."""


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
    """Build the pools and links that the engine simulates for a deployment.

    Parameters
    ----------
    deployment : roles and their settings
    site : model, machine, engine and mean request of the deployment
    router : how requests are assigned to ranks
    block_tokens : size of a KV block; block hashes of requests have the same block size [token]
    prefix_caching : whether requests share prefixes by block hash
    concurrency : requests that the client keeps in flight at most, 0 = no limit [count]
    window_s : width of a window of the time series [s]
    max_queue : a request is refused if this many requests wait at its rank, 0 = no limit [count]

    Raises
    ------
    SpecError : a role breaks a rule of its shape, or a KV tier needs a number or a link that the machine does not have
    DoesNotFit : the machine has too few devices or too little memory for the KV tiers, or weights and one sequence do
        not fit into memory
    """
    must_have_room(deployment, site.machine)
    scheduling = deployment.scheduling
    pools = [
        _scheduled(
            _pool(
                role, site, block_tokens, prefix_caching=prefix_caching and role.name != "decode", max_queue=max_queue
            ),
            scheduling,
        )
        for role in deployment.roles
    ]
    router = _with_cold_ranks(router, scheduling, pools[0])
    transfer = _transfer(deployment, site, pools) if len(pools) > 1 else Transfer()
    request_s = len(pools) * site.rates.request_of(site.engine)
    accept_s = number(site.engine.admission) / pools[0].instances  # each instance has a front end of its own
    tiers = tiers_of(deployment, site, pools[0], seed=router.seed).engine if prefix_caching else Tiers()
    return Cluster(tuple(pools), router, transfer, concurrency, window_s, request_s, accept_s, tiers)


def room(role: Role, site: Site) -> Memory:
    """Memory of one instance of a role.

    Parameters
    ----------
    role : the role, with its parallel widths and settings
    site : model, machine and engine

    Raises
    ------
    SpecError : the role breaks a rule of its shape
    DoesNotFit : the role breaks a rule of memory
    """
    one = role.model_copy(update={"replicas": 1})
    if one in site.rooms:
        return site.rooms[one]
    points, setting = Points.of(role), Setting(site.model, site.machine, site.engine, _ONE)
    _judge(Proposal(points, setting), role, SpecError)
    instance_memory = memory(
        site.model, site.machine, points.split(), engine=site.engine, max_sequences=points.max_sequences,
        chunk_tokens=points.chunk_tokens, memory_fraction=role.memory_fraction,
    )  # fmt: skip
    _judge(Proposal(points, setting, instance_memory), role, DoesNotFit)
    site.rooms[one] = instance_memory
    return instance_memory


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
    """The pool of one role. Limits are per dp rank: ranks share the sequences and tokens of an instance equally.

    Deployments that share a site often share a role: its pool is built once.
    """
    key = role.model_copy(update={"replicas": 1}), block_tokens, prefix_caching, max_queue
    if key not in site.pools:
        site.pools[key] = _new_pool(role, site, block_tokens, prefix_caching=prefix_caching, max_queue=max_queue)
    return replace(site.pools[key], instances=role.replicas)


def _new_pool(role: Role, site: Site, block_tokens: int, *, prefix_caching: bool, max_queue: int) -> Pool:
    """The pool of a role that the site has not seen yet."""
    ranks, width = role.parallel.dp, 1 + role.draft_tokens
    sequences = max(1, role.max_sequences // ranks)
    instance_memory = room(role, site)
    kv_tokens = float(np.min(instance_memory.kv_tokens)) / ranks
    limits = Limits(
        max_sequences=sequences,
        token_budget=max(role.chunk_tokens // ranks, sequences * width),
        kv_blocks=int(min(kv_tokens // block_tokens, MOST_BLOCKS)),
        block_tokens=block_tokens,
        max_model_len=site.model.max_context,
        max_queue=max_queue,
        draft_tokens=role.draft_tokens,
        tokens_per_step=float(accepted_tokens(role.draft_tokens, site.rates.acceptance, site.rates.later_acceptance)),
        prefix_caching=prefix_caching,
        policy=site.engine.scheduler,
        output_reserve=0.0 if site.engine.output_reserve is None else float(number(site.engine.output_reserve)),
        receive_interval=site.engine.receive_interval,
    )
    return Pool(step_cost(role, site, limits), limits, role.replicas, ranks, role.name, role.parallel.pp)


def _scheduled(pool: Pool, scheduling: Scheduling) -> Pool:
    """The pool with the scheduling policy of the deployment; a decode pool has none."""
    if pool.role == "decode":
        return pool
    if scheduling.long_prefill_tokens and not POLICIES[pool.limits.policy].mixes:
        raise SpecError(
            f"the scheduler of {pool.limits.policy} prefills one unfinished prompt at a time", where="scheduling",
            hint="leave long_prefill_tokens out, or take engine vllm",
        )  # fmt: skip
    limits = replace(
        pool.limits, ageing_s=scheduling.ageing_s or 0.0, long_prefill_tokens=scheduling.long_prefill_tokens or 0
    )
    return replace(pool, limits=limits)


def _with_cold_ranks(router: Router, scheduling: Scheduling, front: Pool) -> Router:
    """The router with the cold ranks of the deployment."""
    if not scheduling.cold_ranks:
        return router
    ranks = front.instances * front.ranks
    if router.name != "prefix_aware":
        raise SpecError(
            f"cold_pool needs the router prefix_aware, not {router.name}", where="scheduling",
            hint="take router prefix_aware, or another scheduling",
        )  # fmt: skip
    if scheduling.cold_ranks >= ranks:
        raise SpecError(
            f"{scheduling.cold_ranks} cold ranks of {ranks} ranks of the {front.role} role: none is left for warm "
            "requests", where="scheduling.cold_ranks",
            hint=f"write {ranks - 1} or less" if ranks > 1 else "the role needs two dp ranks or replicas",
        )  # fmt: skip
    return replace(router, cold_ranks=scheduling.cold_ranks, cold_tokens=scheduling.cold_tokens or 0)


# ── KV from prefill to decode ─────────────────────────────────────────────────────────────────────────────────────


def _transfer(deployment: Deployment, site: Site, pools: list[Pool]) -> Transfer:
    """The transfer of KV from prefill to decode: over scale-up if all devices are in one domain, else over scale-out.

    Each decode device reads its part of the cache from all devices of the prefill instance. The side with fewer devices
    limits the bandwidth. In the engine a link belongs to an instance, so the bandwidths of its ranks add up. Layers are
    transferred while later layers are computed (`costs.transfer`); the hidden share is computed for the mean request.
    """
    prefill, decode = deployment.roles
    if prefill.kv_dtype != decode.kv_dtype:
        raise SpecError(
            f"prefill stores {prefill.kv_dtype}, decode stores {decode.kv_dtype}", where="roles: kv_dtype",
            hint="KV is transferred as it is stored: set the same kv_dtype for both roles",
        )  # fmt: skip
    link = wire(site.machine, site.rates, deployment.devices)
    if link is None:
        raise SpecError(f"{site.machine.name} has no network between its domains", where="roles")
    cache, per_rank = room(decode, site), decode.parallel.tp * decode.parallel.pp
    slower = link.bandwidth * min(prefill.parallel.devices, decode.parallel.devices)
    token_s = per_rank * float(np.min(cache.kv_bytes_per_token)) / slower
    state_s = per_rank * float(np.min(cache.state_bytes_per_sequence)) / slower
    transfer = Transfer(link.start + link.alpha + state_s, token_s)
    return replace(transfer, overlap=_hidden(site, transfer, pools[0]))


def _hidden(site: Site, transfer: Transfer, prefill: Pool) -> float:
    """Share of the transfer time of a mean request that overlaps with its own prefill [-]."""
    tokens, cost, budget = site.request.isl, prefill.cost, prefill.limits.token_budget
    alone_s = tokens * transfer.seconds_per_token
    if not alone_s:
        return 0.0
    passes = max(1.0, tokens / budget)
    own_s = passes * float(np.interp(tokens / passes, np.arange(budget + 1), cost.by_tokens[: budget + 1]))
    own_s += prefill.ranks * (cost.prefill_context_s * site.request.seen + cost.prefill_token_s) * tokens
    return 1.0 - float(exposed_transfer(alone_s, own_s, site.model.layers)) / alone_s
