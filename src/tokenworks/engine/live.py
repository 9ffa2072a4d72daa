"""A simulation that is played in real time: step costs may be added, caches may be watched, and requests be pinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenworks.arrays import Floats, Ints
from tokenworks.engine.kernel.codes import CLEARED, ENTERED, LEFT, REMOVED, STORED
from tokenworks.engine.simulator import Simulator
from tokenworks.engine.state import CHANGE, costs_of
from tokenworks.engine.types import Cluster, Requests, StepCost

__all__ = ["CLEARED", "ENTERED", "LEFT", "REMOVED", "STORED", "CacheChanges", "LiveSimulator"]


@dataclass(frozen=True)
class CacheChanges:
    """Changes of the prefix caches in HBM and of KV tiers, in the order in which they happened: arrays of equal length.

    kinds : STORED: a block entered the cache in HBM; REMOVED: it was evicted; CLEARED: the cache of a lost rank is
        empty, and so is each store that only lost ranks use, unless the store survives. ENTERED, LEFT: a block entered
        or left a store of a tier (`tier_state`)
    times : when it happened [s]
    names : name of the block; 0 if the cache was cleared
    ranks : rank of the cache, over all pools; of a store: the rank that wrote to it
    numbers : of a block in HBM: the request that stored it; of a block in a store: the tier
    blocks : of a block in HBM: its place in the prompt
    """

    kinds: Ints
    times: Floats
    names: Ints
    ranks: Ints
    numbers: Ints
    blocks: Ints

    def __len__(self) -> int:
        return len(self.kinds)


class LiveSimulator(Simulator):
    """A `Simulator` for a caller that plays it along a real clock.

    Parameters
    ----------
    cluster : the deployment to simulate
    watched : whether changes of the prefix caches are listed for `changes`
    """

    def __init__(self, cluster: Cluster, *, watched: bool = False) -> None:
        super().__init__(cluster)
        self.watched = watched
        own = [(pool.limits, pool.instances * pool.ranks) for pool in cluster.pools]
        blocks = sum(limits.kv_blocks * ranks for limits, ranks in own if limits.prefix_caching)
        # a request names the blocks of its whole answer when it comes, and holds about half of them in the mean
        self._reserve(sum(limits.max_sequences * ranks for limits, ranks in own), 2 * blocks)
        self._state.known.fill(0)  # a hash table: the first blocks would touch nearly all of it
        if watched:
            # In one event, a rank stores and evicts each of its blocks once; preempted requests do so once more.
            most = max(pool.limits.kv_blocks * pool.ranks for pool in cluster.pools)
            world = self._state.world
            more = 2 * len(cluster.tiers.stores)  # each of these blocks may enter each tier, and drive out another one
            world["listed"], world["changes_spare"] = 1, (5 + 5 * more) * most + 64
            self._state = self._state._replace(change=np.empty(int(world["changes_spare"][0]) + 1024, CHANGE))

    def add_variant(self, pool: int, cost: StepCost) -> int:
        """Add a step cost to the variants of a pool. Returns its number for the event "cost".

        Parameters
        ----------
        pool : number of the pool
        cost : times of steps that later events choose
        """
        pools = list(self.cluster.pools)
        pools[pool] = replace(pools[pool], variants=(*pools[pool].variants, cost))
        self.cluster = replace(self.cluster, pools=tuple(pools))
        records, by_tokens = costs_of(self.cluster)
        s = self._state
        s.pool["cost"][pool + 1 :] += 1  # costs of later pools move up by one
        for name in ("cost", "next_cost"):
            s.instance[name] += s.instance["pool"] > pool
        self._state = s._replace(cost=records, by_tokens=by_tokens)
        return len(pools[pool].variants)

    def submit(self, requests: Requests, pins: Sequence[int] = ()) -> None:
        """Add requests, as `Simulator.submit` does, and choose the ranks that they may go to.

        Parameters
        ----------
        requests : the requests
        pins : for each of them 0: any rank; 1 + r: rank r; -1 - k: the ranks of instance k, of which the least loaded
            takes the request; ranks and instances of the first pool. Empty: any rank
        """
        first = self._submitted
        super().submit(requests)
        world = self._state.world
        if any(pins):
            world["pinned"] = 1
        if world["pinned"][0]:
            pin = self._state.pin
            if len(pin) < self._slots:
                pin = np.zeros(2 * self._slots, np.int32)
                pin[: len(self._state.pin)] = self._state.pin
                self._state = self._state._replace(pin=pin)
            pin[self._slots_of(np.arange(first, self._submitted))] = pins or 0

    def work(self) -> tuple[Ints, Ints]:
        """Steps of the instance of each rank so far, and prompt and output tokens of the rank in them."""
        rank, instance = self._state.rank, self._state.instance
        return instance["steps"][rank["instance"]], rank["prefill_tokens"] + rank["output_tokens"]

    @property
    def has_changes(self) -> bool:
        """Whether there are changes that `changes` has not returned yet."""
        return bool(self._state.world["changes"][0])

    def changes(self) -> CacheChanges:
        """Changes of the prefix caches since the last call."""
        world = self._state.world
        new = self._state.change[: int(world["changes"][0])].copy()
        world["changes"] = 0
        return CacheChanges(new["kind"], new["time"], new["name"], new["rank"], new["number"], new["block"])

    def cached(self, rank: int) -> Ints:
        """Names of all blocks in the prefix cache of a rank.

        Parameters
        ----------
        rank : number of the rank, over all pools
        """
        s, own = self._state, self._state.rank[rank]
        nodes = s.table[int(own["table"]) : int(own["table"] + own["mask"]) + 1]
        names: Ints = s.node["name"][nodes[nodes >= 0]]
        return names
