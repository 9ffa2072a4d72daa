"""Memory of the compiled engine: a record for each request, rank, instance and pool, and the arrays they refer to.

`tier_state` has the records of KV tiers.
"""

from __future__ import annotations

from dataclasses import astuple, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenworks.engine.faults import LossName
from tokenworks.engine.gaps import ITL_BINS
from tokenworks.engine.outcome import SERIES
from tokenworks.engine.policies import POLICIES, Policy, Reserve
from tokenworks.engine.tier_state import (
    FLOW,
    PRIORITY,
    block_arrays,
    node_arrays,
    private_blocks,
    tier_records,
    tier_world,
)
from tokenworks.engine.types import GROUPS, PRIORITIES, Cluster
from tokenworks.specs.deployment import RoleName, RouterName

ROLES: dict[RoleName, int] = {"aggregated": 0, "prefill": 1, "decode": 2}
ROUTERS: dict[RouterName, int] = {"round_robin": 0, "least_loaded": 1, "power_of_two": 2, "prefix_aware": 3}
LOSSES: dict[LossName, int] = {"fail": 0, "restart": 1, "migrate": 2}
LOST = 2  # `cold` of a lost rank
BUCKETS = 4096  # of the completion calendar, which is a ring: an output may be longer

REQUEST = np.dtype(
    [
        # sent_s: time of the next arrival, at the gate or at a rank; at a rank it becomes the time of sending
        # end_s: while the request runs, the time of its last token; lag_s: see `types.Pool.lag_s`; late_s: time for
        # which the request waited until the front end took it
        # target: value of the rank's token clock at which the request completes
        ("sent_s", "f8"), ("scheduled_s", "f8"), ("first_s", "f8"), ("end_s", "f8"), ("lag_s", "f8"), ("late_s", "f8"),
        ("place_s", "f8"),  # place in the queue of its class, if the policy orders queues (`kernel.queue`)
        ("target", "i8"),
        # number in the order of submission, which decides between events at the same time; -1: the slot is spare
        ("number", "i8"),
        ("input", "i4"), ("output", "i4"), ("hit", "i4"), ("preemptions", "i4"),
        # tokens to prefill, in the KV cache, and in this step; output tokens so far (until it decodes); blocks
        ("goal", "i4"), ("computed", "i4"), ("chunk", "i4"), ("generated", "i4"), ("blocks", "i4"),
        # prefix cache: leading blocks that were looked up or stored, and the number of them that have a node
        ("chained", "i4"), ("owned", "i4"),
        # prev, next: in a queue, the running list, the gate or the list of ended requests; cprev, cnext: in a bucket of
        # the calendar; before that, cnext is the next request with the same parent; child: the first follower
        ("prev", "i4"), ("next", "i4"), ("cprev", "i4"), ("cnext", "i4"), ("child", "i4"),
        # doomed: 1 = fits no rank, 2 = never sent, because its parent did not complete
        ("at", "i4"), ("route", "i4"), ("owed", "i4"), ("status", "i1"), ("priority", "i1"), ("group", "i1"),
        ("decoding", "i1"), ("remote", "i1"), ("cancelled", "i1"), ("gated", "i1"), ("doomed", "i1"), ("fresh", "i1"),
        ("accepted", "i1"),  # whether the front end has taken the request
        # 1: the request was sent to a rank, and the scheduler has not looked at it yet; 2: it waits for a prefetch
        ("unseen", "i1"),
        ("failed", "i1"),  # its blocks could not be read from a KV tier, and the request ends with FAILED
        ("flows", "i4"),  # 1 + its first prefetch flow
        # how often it was sent again after a loss; whether its rank was lost, and it is about to be sent again. late_s
        # is then its time of sending
        ("retries", "i2"), ("lost", "i1"),
    ],
    align=True,
)  # fmt: skip

RANK = np.dtype(
    [
        ("head", "i4", (PRIORITIES,)), ("tail", "i4", (PRIORITIES,)),  # waiting requests, a list for each class
        ("first", "i4"), ("last", "i4"), ("prefill", "i4"),  # running list; its first sequence that does not decode yet
        ("ready", "i4"), ("ready_last", "i4"),
        ("running", "i4"), ("waiting", "i4"), ("loading", "i4"), ("readied", "i4"), ("load", "i4"), ("decodes", "i4"),
        ("instance", "i4"), ("pool", "i4"), ("number", "i4"), ("cancels", "i4"), ("fresh", "i4"),
        ("batch", "i4"), ("tokens", "i4"), ("preempted", "i4"), ("gain", "i4"),
        ("square", "i8"), ("context", "i8"),
        ("ticks", "i8"), ("clock", "i8"), ("next_target", "i8"),
        # end of the last step that decoded; if prefill and decode share steps, of the last step
        ("last_s", "f8"),
        # targets of all decoding sequences, their sum and their largest so far; share of the output that admission
        # keeps free (`policies.Reserve`), and the number of decode steps when it was set; number of admissions
        ("targets", "i8"), ("longest", "i8"), ("ratio", "f8"), ("ratio_ticks", "i8"), ("passes", "i8"),
        ("unseen", "i4"),  # requests that were sent to the rank, and that the scheduler has not looked at yet
        ("full", "i4"),  # whether admission waits until a sequence has left
        # of the admission that goes on: requests, tokens of the step that are left, blocks to take at the end, room for
        # output and for admitted requests, and the part of this room that the step needs [token]
        ("admitted", "i4"), ("budget", "i8"), ("due", "i8"), ("kept", "f8"), ("soon", "i8"),
        ("free", "i8"), ("nameless", "i8"), ("lru_first", "i4"), ("lru_last", "i4"), ("spare", "i4"), ("shift", "i4"),
        ("table", "i8"), ("mask", "i8"), ("growth", "i8"), ("calendar", "i8"),
        ("queries", "i8"), ("hits", "i8"), ("evictions", "i8"), ("preemptions", "i8"), ("prefill_tokens", "i8"),
        ("output_tokens", "i8"), ("decode_sequences", "i8"),
        # router: tokens this rank must still prefill, number of its last choice, known prefix of a request [token]
        ("owed", "i8"), ("chosen", "i8"), ("known", "i8"),
        ("cold", "i4"),  # whether the rank is for cold prompts (`types.Router`); LOST while it is lost
        ("grouped", "i4", (GROUPS,)),  # number of decoding sequences of each group
    ],
    align=True,
)  # fmt: skip

INSTANCE = np.dtype(
    [
        # a plan of `planned` equal steps; `done` steps since the anchor have ended, the next one runs since start_s
        ("start_s", "f8"), ("end_s", "f8"), ("anchor_s", "f8"), ("step_s", "f8"), ("growth_s", "f8"),
        ("done", "i8"), ("planned", "i8"), ("anchored", "i8"), ("steps", "i8"), ("busy_s", "f8"), ("tokens", "i8"),
        ("pool", "i4"), ("first_rank", "i4"), ("load", "i4"), ("load_last", "i4"), ("link", "i4"),
        # requests that the scheduler has not looked at yet, a list; number of steps when it looked for new requests;
        # whether the last step had prefill, or the instance was idle
        ("unseen", "i4"), ("unseen_last", "i4"), ("heard", "i8"), ("prefilled", "i4"),
        # ends of the latest load, and of the latest write of evicted blocks, of the planned step; -1: there is none
        ("loaded_s", "f8"), ("written_s", "f8"),
        # numbers of the cost of the planned steps, and of later steps
        ("cost", "i4"), ("next_cost", "i4"),
        # no step begins before hold_s; pause_s: a pause after the present step
        ("hold_s", "f8"), ("pause_s", "f8"),
    ],
    align=True,
)  # fmt: skip

# What failures note of each instance: whether and when it stopped, for how long it was stopped before, lost steps.
HALT = np.dtype([("stopped", "i8"), ("stopped_s", "f8"), ("down_s", "f8"), ("lost_steps", "i8")], align=True)
# What failures note of each rank: `cold` before its loss, and counters of `faults.FaultCounts`.
LOSS = np.dtype(
    [("was_cold", "i8"), ("requests", "i8"), ("retries", "i8"), ("output_tokens", "i8"), ("kv_tokens", "i8")],
    align=True,
)  # fmt: skip

# A link carries one flow at a time: end of the last booked flow, booked time, number of flows.
LINK = np.dtype([("free_s", "f8"), ("busy_s", "f8"), ("flows", "i8")], align=True)

POOL = np.dtype(
    [
        ("role", "i4"), ("instances", "i4"), ("ranks", "i4"), ("stages", "i4"), ("first_rank", "i4"),
        *((trait.name, "i4") for trait in fields(Policy)),
        ("max_sequences", "i4"), ("token_budget", "i4"), ("block_tokens", "i4"), ("max_queue", "i4"),
        ("watermark", "i4"), ("draft", "i4"), ("prefix", "i4"), ("receive", "i4"), ("kv_blocks", "i8"),
        ("ratio", "f8"), ("least_ratio", "f8"), ("decay", "f8"),
        ("gain", "f8"),
        ("ageing", "f8"), ("most_of_prompt", "i8"),  # most tokens of one prompt in one step
        ("cost", "i8"),  # number of `Pool.cost`; the variants follow it
    ],
    align=True,
)  # fmt: skip

# `types.StepCost`; by_tokens: index of the time of 0 tokens in `EngineState.by_tokens`.
COST = np.dtype(
    [
        ("sequence_s", "f8"), ("context_s", "f8"), ("prefill_s", "f8"), ("token_s", "f8"), ("together_s", "f8"),
        ("by_tokens", "i8"),
    ],
    align=True,
)  # fmt: skip

WORLD = np.dtype(
    [
        # door_s: time at which the front end is free for the next request
        ("now", "f8"), ("window_s", "f8"), ("request_s", "f8"), ("accept_s", "f8"), ("door_s", "f8"),
        ("latency_s", "f8"), ("token_s", "f8"),
        ("delay_s", "f8"), ("imbalance", "f8"), ("seed", "u8"), ("router", "i8"), ("slack", "i8"),
        ("load_tokens", "i8"), ("turn", "i8"), ("cold_ranks", "i8"), ("cold_tokens", "i8"),
        ("concurrency", "i8"), ("flying", "i8"), ("sent", "i8"), ("groups", "i8"), ("gate", "i4"), ("gate_last", "i4"),
        ("freed", "i8"),  # slots of the client that become free at the times in `freed_s`
        ("ended", "i8"), ("ended_last", "i8"), ("outside", "i8"),  # ended requests, the last one; outside events
        # number of lost ranks; what happens to their requests, and how often; ranks of the first pool
        ("lost_ranks", "i4"), ("on_loss", "i4"), ("retries", "i8"), ("front_ranks", "i8"),
        ("opened", "i8"), ("heaped", "i8"), ("loads", "i8"), ("rows", "i8"), ("seen_output", "i8"),
        ("seen_prefill", "i8"), ("events_first", "i8"), ("events", "i8"), ("events_spare", "i8"),
        ("index_shift", "i8"), ("index_mask", "i8"), ("emit", "i8"),
        # whether changes of the prefix caches are listed in `change`; their number; most changes of one event
        ("listed", "i8"), ("changes", "i8"), ("changes_spare", "i8"),
        ("pinned", "i8"),  # whether `pin` chooses the ranks of requests
        ("stepped_s", "f8"), ("stepped", "i8"),  # the last end of a step: its time and instance
        # KV tiers, see `tier_state`: their number, ranks that use them, groups of stores that serve the same ranks,
        # groups with a store for one rank alone; tiers with blocks from HBM by write policy, and tiers with a prefetch,
        # as bits; whether uses of blocks in HBM are counted
        ("tiers", "i8"), ("tier_ranks", "i8"), ("tier_groups", "i8"), ("alone", "i8"), ("common", "i8"),
        ("through", "i4"), ("back", "i4"), ("prefetched", "i4"), ("counts", "i4"),
        ("layerwise", "i4"), ("fails", "i4"),
        ("layers", "i8"), ("tier_seed", "u8"),
        ("again_s", "f8"), ("again_position_s", "f8"),  # `tiers.Tiers.block_s` and `position_s`
        # first unused and first spare run, cell and extent; entries of `key_at`, and 64 - log2 of the part in use
        ("fresh", "i8", (3,)), ("spare", "i8", (3,)), ("keys", "i8"), ("key_shift", "i8"),
        ("text", "i8"), ("text_limit", "i8"),  # used part of `run_name`; the part beyond which names are compacted
        ("unchained", "i8"),  # whether names do not fit `run_name`, so block ids are no chained hashes
        # blocks that left HBM one after the other, and must still be written: their run, begin and end
        ("gone_run", "i8"), ("gone_lo", "i8"), ("gone_hi", "i8"),
        ("looked", "i8"),  # place in its run of the first block of the last lookup in tiers
        ("errands", "i8"), ("due_writes", "i8"),  # number of errands; blocks that the event writes to tiers so far
        ("flows", "i8"), ("flow_fresh", "i8"), ("flow_spare", "i8"),  # size of the heap; first unused, first spare flow
    ],
    align=True,
)  # fmt: skip

# A cached block has `users` >= 0, and is in the LRU list while it has no user. A node with users = -1 stands in that
# list for `count` full blocks without a name. In a radix tree, `count` of a cached block is 1 if the block
# is the last one of its node of the tree.
NODE = np.dtype([("name", "i8"), ("users", "i4"), ("count", "i4"), ("prev", "i4"), ("next", "i4")], align=True)
# An event from outside, for the request, instance or rank with this number. The slot of a request may hold another
# request by now.
OUTSIDE = np.dtype([("time", "f8"), ("number", "i8"), ("slot", "i4"), ("kind", "i4"), ("value", "f8")], align=True)
EVENT = np.dtype([("time", "f8"), ("name", "i8"), ("rank", "i4"), ("stored", "i4")], align=True)
# A change of the prefix cache of a rank (`live.CacheChanges`); number and block: of the request that stored the block.
CHANGE = np.dtype(
    [("time", "f8"), ("name", "i8"), ("number", "i8"), ("rank", "i4"), ("kind", "i4"), ("block", "i8")], align=True
)


class EngineState(NamedTuple):
    """All arrays of the engine. The slot of a request is its index in `request`, `offsets` and `named`.

    halt, loss : what failures note of each instance and of each rank
    cost, by_tokens : costs of all pools, and `StepCost.by_tokens` of each cost, one after the other
    growth : decoding sequences by context modulo block size, each rank
    calendar : first and last sequence that completes at each value of the token clock, each rank
    node, table : cached blocks, and the hash table from names to them, each rank
    ids, held : names of the blocks of all requests, and the node of each; request `slot` has named[slot] of them, from
        offsets[slot] on
    open : slots of requests without a parent, in order of arrival
    heap : slots of requests whose parent has ended, and of requests past the gate, by the time of their next arrival
    outside : events from outside, by time
    freed_s : times at which slots of the client become free, the latest first; only with pipeline stages [s]
    load_s, load : ends of KV transfers, and the slots of their requests, a heap
    event : a ring of the cache events that have not reached the router yet, its length a power of two
    change : changes of the prefix caches that the caller has not taken yet
    pin : which ranks of the first pool each request may go to: 0 any; 1 + r: rank r; -1 - k: a rank of instance k
    known : hash table of the router, each row a name and one bit for each rank that holds it
    itl, series : as in `types.Outcome`
    tier, store, lane, group, errand : records of `tier_state`; stores of all tiers; lanes of all tiers, reads before
        writes
    lane_link : link of each rank, for each lane
    shelf, alone : index that each rank uses, for each group; whether a rank has each index for itself
    pending : blocks that the event writes, for each tier and each rank
    run, run_name : runs, and the names of their blocks
    cell, extent : cells of all indexes, and extents of all cells
    key_at : hash table of the runs by their first names, and of the cells that are not in the records of their runs
    priority : heaps of the stores that evict by cost
    node_run, node_block, node_uses : run of the block of each node, its place in the run, and its uses
    origin : of each name: 1 + the tier that holds it, in the last lookup or in a prefetch
    flow, flow_heap : prefetch flows, and a heap of the flows by their ends
    """

    request: NDArray[Any]
    rank: NDArray[Any]
    instance: NDArray[Any]
    link: NDArray[Any]
    pool: NDArray[Any]
    world: NDArray[Any]
    halt: NDArray[Any]
    loss: NDArray[Any]
    cost: NDArray[Any]
    by_tokens: NDArray[np.float64]
    growth: NDArray[np.int32]
    calendar: NDArray[np.int32]
    node: NDArray[Any]
    table: NDArray[np.int32]
    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    named: NDArray[np.int32]
    held: NDArray[np.int32]
    open: NDArray[np.int32]
    heap: NDArray[np.int32]
    outside: NDArray[Any]
    freed_s: NDArray[np.float64]
    load_s: NDArray[np.float64]
    load: NDArray[np.int32]
    event: NDArray[Any]
    change: NDArray[Any]
    pin: NDArray[np.int32]
    known: NDArray[np.uint64]
    itl: NDArray[np.int64]
    series: NDArray[np.int64]
    tier: NDArray[Any]
    store: NDArray[Any]
    lane: NDArray[Any]
    lane_link: NDArray[np.int32]
    group: NDArray[Any]
    shelf: NDArray[np.int32]
    alone: NDArray[np.int32]
    pending: NDArray[np.int32]
    errand: NDArray[Any]
    run: NDArray[Any]
    run_name: NDArray[np.int64]
    key_at: NDArray[np.uint64]
    cell: NDArray[Any]
    extent: NDArray[Any]
    priority: NDArray[Any]
    node_run: NDArray[np.int32]
    node_block: NDArray[np.int32]
    node_uses: NDArray[np.int32]
    origin: NDArray[np.int8]
    flow: NDArray[Any]
    flow_heap: NDArray[np.int32]


MANY = 1 << 60
"""More block ids than there ever are [count]."""


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 1).bit_length()


def allocate(cluster: Cluster, names: int = MANY) -> EngineState:
    """Memory of an idle cluster without requests.

    Parameters
    ----------
    cluster : the cluster
    names : different block ids that are ever submitted, at most: no table need hold more [count]
    """
    pools = cluster.pools
    pool, (cost, by_tokens) = np.zeros(len(pools), POOL), costs_of(cluster)
    rank = np.zeros(sum(p.instances * p.ranks for p in pools), RANK)
    instance = np.zeros(sum(p.instances for p in pools), INSTANCE)
    instance["link"] = np.arange(len(instance))  # each instance has its own link
    growth = nodes = slots = first_rank = first_instance = first_cost = 0
    for i, p in enumerate(pools):
        limits, own = p.limits, p.instances * p.ranks
        reserve = Reserve(limits.output_reserve)
        pool[i] = (
            ROLES[p.role], p.instances, p.ranks, p.stages, first_rank, *astuple(POLICIES[limits.policy]),
            limits.max_sequences, limits.token_budget, limits.block_tokens, limits.max_queue,
            limits.watermark_blocks, limits.draft_tokens, limits.prefix_caching, limits.receive_interval,
            limits.kv_blocks, limits.output_reserve, reserve.least, reserve.decay, limits.tokens_per_step,
            limits.ageing_s, limits.long_prefill_tokens or limits.token_budget, first_cost,
        )  # fmt: skip
        width = _power_of_two(4 * min(limits.kv_blocks, names))
        for number in range(own):
            r = rank[first_rank + number]
            r["pool"], r["number"], r["instance"] = i, number, first_instance + number % p.instances
            r["free"], r["growth"], r["calendar"] = limits.kv_blocks, growth, (first_rank + number) * 2 * BUCKETS
            r["ratio"] = limits.output_reserve
            growth += limits.block_tokens
            if limits.prefix_caching:
                r["table"], r["mask"], r["shift"] = slots, width - 1, 65 - width.bit_length()
                r["nameless"], r["spare"] = limits.kv_blocks, nodes
                slots, nodes = slots + width, nodes + limits.kv_blocks
        instance["pool"][first_instance : first_instance + p.instances] = i
        instance["first_rank"][first_instance : first_instance + p.instances] = first_rank + np.arange(p.instances)
        for name in ("cost", "next_cost"):
            instance[name][first_instance : first_instance + p.instances] = first_cost
        first_cost += 1 + len(p.variants)
        first_rank, first_instance = first_rank + own, first_instance + p.instances
    for name in ("head", "tail", "first", "last", "prefill", "ready", "ready_last", "lru_first", "lru_last"):
        rank[name] = -1
    instance["end_s"], instance["load"], instance["load_last"] = np.inf, -1, -1
    instance["unseen"] = instance["unseen_last"] = -1
    loads = sum(
        p.instances * p.ranks * p.limits.max_sequences
        for p in pools
        if p.role == "decode" or (cluster.tiers.stores and cluster.tiers.load == "async")
    )
    rank["cold"][: pools[0].instances * pools[0].ranks] = cluster.is_cold()
    world, index = _world(cluster, names)
    tiers = tier_records(cluster, len(instance))
    links = len(instance) + len(tiers.pop("more_links"))
    tiers |= block_arrays() | node_arrays(cluster, world)
    words = -(-pools[0].instances * pools[0].ranks // 64)
    event = np.zeros(_power_of_two(int(world["events_spare"][0]) + 1024) if index else 1, EVENT)
    return EngineState(
        np.zeros(0, REQUEST), rank, instance, np.zeros(links, LINK), pool, world,
        np.zeros(len(instance), HALT), np.zeros(len(rank), LOSS), cost, by_tokens,
        np.zeros(growth, np.int32), np.full(2 * BUCKETS * len(rank), -1, np.int32),
        _nodes(rank, nodes), np.full(slots, -1, np.int32),
        np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32),
        np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, OUTSIDE), np.zeros(cluster.concurrency, np.float64),
        np.zeros(loads, np.float64), np.zeros(loads, np.int32), event,
        np.zeros(1, CHANGE), np.zeros(1, np.int32),
        np.zeros((max(index, 1), 1 + words), np.uint64),
        np.zeros((GROUPS, ITL_BINS), np.int64), np.zeros((1024 if cluster.window_s else 1, len(SERIES)), np.int64),
        **tiers, priority=np.zeros(0, PRIORITY), origin=np.zeros(0, np.int8), flow=np.zeros(0, FLOW),
        flow_heap=np.zeros(0, np.int32),
    )  # fmt: skip


def costs_of(cluster: Cluster) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Records of the costs of all pools, each pool's own cost before its variants, and their tables of times."""
    costs = [cost for pool in cluster.pools for cost in (pool.cost, *pool.variants)]
    records, first = np.zeros(len(costs), COST), 0
    for record, cost in zip(records, costs, strict=True):
        record["sequence_s"], record["context_s"] = cost.decode_sequence_s, cost.decode_context_s
        record["prefill_s"], record["token_s"] = cost.prefill_context_s, cost.prefill_token_s
        record["together_s"], record["by_tokens"] = cost.together_context_s, first
        first += len(cost.by_tokens)
    return records, np.concatenate([cost.by_tokens for cost in costs])


def _nodes(rank: NDArray[Any], count: int) -> NDArray[Any]:
    """Nodes of an empty prefix cache: each rank has a spare node for each block, linked by `next`."""
    node = np.zeros(count, NODE)
    node["next"] = np.arange(1, count + 1)
    for r in rank[rank["nameless"] > 0]:
        node["next"][r["spare"] + r["nameless"] - 1] = -1
    return node


def _world(cluster: Cluster, names: int) -> tuple[NDArray[Any], int]:
    """Record of the settings of the cluster, and the size of the router's hash table, 0 without one."""
    world, front, router, transfer = np.zeros(1, WORLD), cluster.pools[0], cluster.router, cluster.transfer
    world["window_s"], world["concurrency"] = cluster.window_s, cluster.concurrency
    world["request_s"], world["accept_s"] = cluster.request_s, cluster.accept_s
    world["latency_s"], world["token_s"] = transfer.latency_s, transfer.seconds_per_token * (1.0 - transfer.overlap)
    world["delay_s"], world["imbalance"], world["slack"] = router.event_delay_s, router.imbalance, router.slack
    world["router"], world["seed"], world["load_tokens"] = ROUTERS[router.name], router.seed, router.load_tokens
    world["cold_ranks"], world["cold_tokens"] = router.cold_ranks, router.cold_tokens
    world["front_ranks"] = front.instances * front.ranks
    world["on_loss"], world["retries"] = LOSSES[cluster.on_loss], cluster.retries
    world["gate"] = world["gate_last"] = world["ended_last"] = -1
    world["groups"], index = 1, 0
    if router.name == "prefix_aware" and front.limits.prefix_caching:
        held = front.limits.kv_blocks * front.instances * front.ranks
        index = _power_of_two(2 * (held + max(held, private_blocks(cluster))))
        index = min(index, _power_of_two(4 * names))
        world["emit"], world["index_mask"], world["index_shift"] = 1, index - 1, 65 - index.bit_length()
        more = 2 * len(cluster.tiers.stores)  # events of private stores, for each block that enters or leaves HBM
        world["events_spare"] = (5 + 5 * more) * front.limits.kv_blocks * front.ranks + 64
    tier_world(world, cluster)
    return world, index
