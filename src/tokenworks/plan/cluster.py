"""A deployment as the engine simulates it: step times as a table and slopes, KV blocks, limits, links."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from tokenworks.costs import step
from tokenworks.costs.arrays import Floats
from tokenworks.costs.breakdown import Breakdown
from tokenworks.costs.memory import Memory, memory
from tokenworks.costs.rates import Rates
from tokenworks.costs.split import Split
from tokenworks.engine.types import Cluster, Limits, Pool, Router, StepCost, Transfer
from tokenworks.errors import DoesNotFit, SpecError
from tokenworks.plan.points import Points, Setting
from tokenworks.plan.rules import MEMORY, SHAPE, Case
from tokenworks.plan.steady import accepted_tokens, exposed_transfer
from tokenworks.specs.calibration import number
from tokenworks.specs.deployment import Deployment, Role
from tokenworks.specs.engine import Engine
from tokenworks.specs.machine import Machine
from tokenworks.specs.model import Model
from tokenworks.specs.workload import Workload

NODES_DENSE, NODES_RATIO = 256, 1.03
"""Token counts at which the cost model is asked: each up to the first, then growing by the second."""

SHORTER = 0.1
"""Share by which contexts are shortened to find what a token of context costs."""

COMMON = 0.01
"""Share of a step that belongs to no rank by itself, at least [-]."""

MOST_BLOCKS = 1 << 24
"""KV blocks of a rank where tokens add nothing to the cache (linear attention): as good as without an end."""


@dataclass(frozen=True, slots=True)
class Around:
    """The requests that step times are made linear around: exact for them, near for others.

    input : mean input; context : of a decoding sequence, mean over time; seen : by a prefill token, mean [token]
    """

    input: float
    context: float
    seen: float

    @classmethod
    def of(cls, input_tokens: ArrayLike, output_tokens: ArrayLike, hit_share: float = 0.0) -> Around:
        """Of requests; `hit_share` of their input tokens need no prefill.

        A sequence is seen once for each output token, a prefill token once: context = sum o (i + o / 2) / sum o, and
        seen = sum i (i (1 + h) / 2) / sum i, as those that are computed come last.
        """
        i, o = np.asarray(input_tokens, float), np.asarray(output_tokens, float)
        return cls(
            input=float(i.mean()),
            context=float((o * (i + o / 2)).sum() / o.sum()),
            seen=float((i * i).sum() * (1 + hit_share) / (2 * i.sum())),
        )


@dataclass(frozen=True, slots=True)
class Site:
    """What every role of a deployment shares."""

    model: Model
    machine: Machine
    engine: Engine
    rates: Rates
    around: Around


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
        for role in sorted(deployment.roles, key=lambda role: role.name, reverse=True)  # prefill before decode
    ]
    transfer = _transfer(deployment, site, pools) if len(pools) > 1 else Transfer()
    request_s = len(pools) * number(site.engine.request)
    return Cluster(tuple(pools), router, transfer, concurrency, window_s, request_s)


def room(role: Role, site: Site) -> Memory:
    """Memory of one instance, all rules of shape and memory checked."""
    points, setting = Points.of(role), Setting(site.model, site.machine, site.engine, _ONE)
    _judge(Case(points, setting), role, SpecError)
    found = memory(
        site.model, site.machine, points.split(), engine=site.engine, max_sequences=points.max_sequences,
        chunk_tokens=points.chunk_tokens, memory_fraction=role.memory_fraction,
    )  # fmt: skip
    _judge(Case(points, setting, found), role, DoesNotFit)
    return found


_ONE = Workload(name="one token", isl=1, osl=1)


def _judge(case: Case, role: Role, error: type[SpecError] | type[DoesNotFit]) -> None:
    for check in (SHAPE if case.memory is None else MEMORY).values():
        verdict = check(case)
        if not np.all(verdict.kept):
            setting = case.setting
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
        policy="vllm" if site.engine.mixing == "mixed" else "sglang",
    )
    return Pool(step_cost(role, site, limits), limits, role.replicas, ranks, role.name, role.parallel.pp)


# ── step times ────────────────────────────────────────────────────────────────────────────────────────────────────


def step_cost(role: Role, site: Site, limits: Limits) -> StepCost:
    """The times of `costs.step` as the engine takes them: a table over tokens, and slopes.

    The engine's form is t = f(m) + R max over ranks (a n + b S + c Q + e p), with d times all Q for c and e where ranks
    prefill at the same time. For requests as in `site.around`, evenly spread, it is exact at the nodes of f: on
    steps that only decode (m up to all sequences of all ranks), and on those that prefill beside all of these; a holds
    what a decoding sequence costs beyond f (head, drafts, host, windows and states), so that a step of prefill alone is
    right, too. Slopes are those at the largest batch, what overlap and host hide taken off. Between nodes f is linear.
    """
    steps = _Steps(role, site)
    width, ranks = 1 + role.draft_tokens, role.parallel.dp
    most = ranks * limits.token_budget
    full = float(ranks * limits.max_sequences) if role.name != "prefill" else 0.0
    square_s = steps.attending(0.0, float(most)) / (most * site.around.seen)
    alone = ranks > 1 and site.engine.dp_prefill == "alone"
    token_s = max(0.0, steps.own(float(most)) - square_s * site.around.seen) if alone else 0.0
    context_s = steps.attending(full, 0.0) / (full * site.around.context) if full else 0.0
    sequence_s = 0.0
    if full:
        prefill_alone = float(steps(0.0, full * width)) - (square_s * site.around.seen + token_s) * full * width
        beyond = float(steps(full, 0.0)) - context_s * full * site.around.context - prefill_alone
        sequence_s = max(0.0, beyond / full)
    nodes = _nodes(role, site, most, int(full * width))
    decode = np.minimum(nodes, full * width) / width
    prefill = nodes - decode * width
    hot = np.maximum(decode, ranks) * (full > 0)
    whole = steps(decode, prefill)
    table = whole - hot * (sequence_s + context_s * site.around.context)
    # Slopes are those of large batches: where a small one is cheaper a token than they say, nothing of it is left.
    table = np.maximum(table - (square_s * site.around.seen + token_s) * prefill, COMMON * whole)
    by_tokens = np.interp(np.arange(most + 1), nodes, table)
    if ranks > 1 and not alone:
        return StepCost(by_tokens, sequence_s, context_s, together_context_s=square_s)
    return StepCost(by_tokens, sequence_s, context_s, square_s, token_s)


@dataclass(frozen=True, slots=True)
class _Steps:
    """Step times of an instance for batches of typical requests [s]."""

    role: Role
    site: Site

    def __call__(self, decode: Floats | float, prefill: Floats | float, context: float = 1.0) -> Floats:
        """Of `decode` sequences and `prefill` tokens; `context` scales what they attend to."""
        seconds: Floats = self.breakdown(decode, prefill, context).seconds
        return seconds

    def breakdown(self, decode: Floats | float, prefill: Floats | float, context: float = 1.0) -> Breakdown:
        """The same, part by part."""
        around, role = self.site.around, self.role
        seen = around.seen * context
        # Chunks as they come: the budget of a lane, or a whole prompt, of which a token sees half.
        chunk = min(role.chunk_tokens / (role.parallel.dp * role.parallel.pp), 2 * around.seen)
        prefix = step.prefix_tokens(prefill, seen, chunks=prefill / chunk)
        load = step.Load(decode, decode * around.context * context, prefill, prefill * seen, prefix)
        return step.step(
            self.site.model, self.site.rates, Split.of(role), load, engine=self.site.engine, overlap=role.overlap
        )

    def attending(self, decode: float, prefill: float) -> float:
        """The part of a step's time that grows in proportion to context [s]."""
        return float(self(decode, prefill) - self(decode, prefill, 1 - SHORTER)) / SHORTER

    def own(self, prefill: float) -> float:
        """What one more prefill token costs the rank that it is on [s/token]: all but the experts, which all share."""
        whole, half = self.breakdown(0.0, prefill), self.breakdown(0.0, prefill / 2)

        def more(name: str) -> float:
            return float(whole.parts[name].seconds - half.parts[name].seconds)

        share = 1.0 - more("experts") / sum(map(more, whole.parts)) if "experts" in whole.parts else 1.0
        return float(whole.seconds - half.seconds) / (prefill / 2) * share


def _nodes(role: Role, site: Site, most: int, decodes: int) -> Floats:
    """Token counts to ask for: dense, then geometric, and both sides of every kink."""
    ranks = role.parallel.dp * role.parallel.pp
    graph = int(number(site.engine.graph_tokens)) * ranks
    kinks = [k + side for k in (ranks, graph, decodes) for side in (0, 1)]
    count = int(np.log(max(most / NODES_DENSE, 1.0)) / np.log(NODES_RATIO)) + 2
    wide = np.geomspace(min(NODES_DENSE, most), most, count).round()
    nodes = np.unique(np.concatenate([np.arange(1, NODES_DENSE), wide, kinks]))
    return nodes[(nodes >= 1) & (nodes <= most)].astype(float)


# ── KV from prefill to decode ─────────────────────────────────────────────────────────────────────────────────────


def _transfer(deployment: Deployment, site: Site, pools: list[Pool]) -> Transfer:
    """KV over the link that both roles share: scale-up where all devices lie in one domain, else scale-out.

    Each decode device pulls the cache that it will hold, from all devices of the prefill instance; the side with fewer
    devices is the slower. A link of the engine is an instance's, so the ranks of an instance count together. Layers
    travel while later ones are computed (`steady.exposed_transfer`), for a mean request.
    """
    prefill, decode = (next(r for r in deployment.roles if r.name == name) for name in ("prefill", "decode"))
    if prefill.kv_dtype != decode.kv_dtype:
        raise SpecError(
            f"prefill keeps {prefill.kv_dtype}, decode {decode.kv_dtype}", where="roles: kv_dtype",
            hint="KV travels as it is stored: take one for both",
        )  # fmt: skip
    link = site.rates.inner if deployment.devices <= site.machine.domain else site.rates.outer
    if link is None:
        raise SpecError(f"{site.machine.name} has no network between its domains", where="roles")
    found, per_rank = room(decode, site), decode.parallel.tp * decode.parallel.pp
    slower = link.bandwidth * min(prefill.parallel.devices, decode.parallel.devices)
    token_s = per_rank * float(np.min(found.kv_bytes_per_token)) / slower
    state_s = per_rank * float(np.min(found.state_bytes_per_sequence)) / slower
    transfer = Transfer(link.start + float(link.alpha) + state_s, token_s)
    return replace(transfer, overlap=_hidden(site, transfer, pools[0]))


def _hidden(site: Site, transfer: Transfer, prefill: Pool) -> float:
    """Share of a mean request's transfer that its own prefill hides [-]."""
    tokens, cost, budget = site.around.input, prefill.cost, prefill.limits.token_budget
    alone_s = tokens * transfer.seconds_per_token
    if not alone_s:
        return 0.0
    passes = max(1.0, tokens / budget)
    own_s = passes * float(np.interp(tokens / passes, np.arange(budget + 1), cost.by_tokens[: budget + 1]))
    own_s += prefill.ranks * (cost.prefill_context_s * site.around.seen + cost.prefill_token_s) * tokens
    return 1.0 - float(exposed_transfer(alone_s, own_s, site.model.layers)) / alone_s
