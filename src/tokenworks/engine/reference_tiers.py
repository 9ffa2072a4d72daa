"""The KV tiers of the reference engine: stores, flows over links, prefetches. The rules stand in `tiers`, numbered."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenworks.engine.reference_eviction import EVICTIONS, Eviction
from tokenworks.engine.reference_link import ReferenceLink
from tokenworks.engine.reference_random import RandomStream
from tokenworks.engine.tiers import Lane, Store, TierCounts, Tiers

if TYPE_CHECKING:
    from tokenworks.engine.reference_rank import Rank, Sequence

HBM = -1
"""Place of blocks that are in HBM, where others have the index of a tier."""
ROUNDING = 1e-6
"""Share of the time of a block that the arrival of a prefetched block may be early, because of rounding [-]."""


class ReferenceStore:
    """The blocks of one store of a tier.

    eviction : the blocks, in the order of the policy
    uses : how often each block was used in this store
    owner : number of the rank that has the store alone, -1 = ranks share the store
    """

    def __init__(self, tier: Store, number: int) -> None:
        ranks = [rank for rank, own in enumerate(tier.stores) if own == number]
        self.eviction: Eviction = EVICTIONS[tier.eviction](tier.blocks)
        self.uses: dict[int, int] = {}
        self.owner = ranks[0] if len(ranks) == 1 else -1


@dataclass(eq=False)
class Prefetch:
    """A flow of blocks from a store to its gateway, before the admission of a request.

    tier : index of the tier that the blocks come from
    names : the blocks, in the order of the chain
    end_s : end of the flow [s]
    failed : the flow brings nothing
    """

    tier: int
    names: list[int]
    end_s: float
    failed: bool

    def arrived(self, block_s: float, now: float) -> int:
        """Number of blocks that have arrived by `now`; one arrives each `block_s`, the last one at the end [block]."""
        if self.failed or now >= self.end_s:
            return 0 if self.failed else len(self.names)
        if not block_s:
            return 0
        return max(0, len(self.names) - math.ceil((self.end_s - now) / block_s - ROUNDING))


@dataclass
class StoreLoad:
    """Blocks that an admission takes from stores.

    blocks : blocks that the request gets [block]
    end_s : end of the last flow, -inf = no flow [s]
    failed : the request ends with the status FAILED
    """

    blocks: int = 0
    end_s: float = -math.inf
    failed: bool = False


@dataclass
class _Counters:
    """Counters of one tier, as in `TierCounts`."""

    hit_blocks: int = 0
    read_blocks: int = 0
    written_blocks: int = 0
    evictions: int = 0
    failed: int = 0
    late_blocks: int = 0
    read_s: float = 0.0
    write_s: float = 0.0


@dataclass
class ReferenceTiers:
    """All KV tiers of a cluster.

    tiers : the tiers as the cluster has them
    emit : cache events for the router
    ranks : ranks of the first pool
    uses : how often each block was used in the HBM of each rank
    positions : position of each block in its prompt
    links : links by their numbers
    pending : blocks that the present event writes, by rank and tier [block]
    """

    tiers: Tiers
    emit: list[tuple[float, int, int, bool]]
    ranks: list[Rank] = field(default_factory=list)
    uses: list[dict[int, int]] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)
    links: dict[int, ReferenceLink] = field(default_factory=dict)
    pending: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = RandomStream(self.tiers.seed)
        self.counters = [_Counters() for _ in self.tiers.stores]
        self.stores = [{n: ReferenceStore(tier, n) for n in set(tier.stores)} for tier in self.tiers.stores]
        self.waits = self.tiers.load == "async"

    def join(self, rank: Rank) -> None:
        """Add the next rank of the first pool."""
        self.ranks.append(rank)
        self.uses.append({})

    def store(self, tier: int, rank: int) -> ReferenceStore:
        """The store of a tier that a rank uses."""
        return self.stores[tier][self.tiers.stores[tier].stores[rank]]

    # ---- writes and evictions (rules 4 and 5)

    def put(self, tier: int, rank: int, name: int, now: float, *, written: bool) -> None:
        """Give a block to the store of `rank`; `written` : over the write lanes of the tier."""
        if not self.tiers.stores[tier].blocks:
            return
        store = self.store(tier, rank)
        if name in store.uses:
            store.eviction.use(name)
            return
        if written:
            self.pending[rank, tier] = self.pending.get((rank, tier), 0) + 1
        cost_s = self.tiers.block_s + self.tiers.position_s * self.positions[name]
        victim = store.eviction.insert(name, cost_s)
        if victim is not None:
            self.lose(tier, rank, victim, now)
        store.uses[name] = 1
        if store.owner >= 0:
            self.emit.append((now, store.owner, name, True))
        self.write_through(tier, rank, name, now)

    def lose(self, tier: int, rank: int, name: int, now: float) -> None:
        """A block leaves the store of `rank`, and goes on to tiers that are written back from there."""
        store = self.store(tier, rank)
        del store.uses[name]
        self.counters[tier].evictions += 1
        self.write_back(tier, rank, name, now)
        if store.owner >= 0 and not self.holds(store.owner, name):
            self.emit.append((now, store.owner, name, False))

    def write_through(self, place: int, rank: int, name: int, now: float) -> None:
        """Write a block, which was used in `place`, to the tiers that are written through from there."""
        uses = (self.uses[rank] if place == HBM else self.store(place, rank).uses)[name]
        for tier, own in enumerate(self.tiers.stores):
            if own.written == "through" and own.gateway == place and uses >= own.uses:
                self.put(tier, rank, name, now, written=True)

    def write_back(self, place: int, rank: int, name: int, now: float) -> None:
        """Write a block, which leaves `place`, to the tiers that are written back from there."""
        for tier, own in enumerate(self.tiers.stores):
            if own.written == "back" and self.tiers.source(tier) == place:
                self.put(tier, rank, name, now, written=True)

    def flush(self, now: float) -> float:
        """Book the writes of the present event. Returns the end of the writes from HBM, -inf = there are none [s]."""
        end = -math.inf
        for (rank, tier), blocks in sorted(self.pending.items()):
            own, counters = self.tiers.stores[tier], self.counters[tier]
            done = self.occupy(own.write, rank, blocks, now)
            counters.written_blocks += blocks
            counters.write_s += blocks * own.write[0].block_s
            if own.written == "back" and self.tiers.source(tier) == HBM:
                end = max(end, done)
        self.pending.clear()
        return end

    # ---- HBM

    def stored(self, rank: int, names: dict[int, int], now: float) -> None:
        """Blocks, given with their positions, have entered the HBM of `rank`."""
        if not self.tiers.stores:
            return
        self.positions |= names
        self.uses[rank] |= dict.fromkeys(names, 1)
        for name in reversed(names):
            self.write_through(HBM, rank, name, now)

    def evicted(self, rank: int, name: int, now: float) -> bool:
        """A block has left the HBM of `rank`. Returns whether the rank still holds it elsewhere (rule 8)."""
        if not self.tiers.stores:
            return False
        del self.uses[rank][name]
        self.write_back(HBM, rank, name, now)
        return self.holds(rank, name)

    def holds(self, rank: int, name: int) -> bool:
        """Whether the HBM of a rank, or a store of this rank alone, holds a block (rule 8)."""
        own = (self.store(tier, rank) for tier in range(len(self.stores)))
        return name in self.ranks[rank].where or any(name in store.uses for store in own if store.owner == rank)

    # ---- losses (rule 7 of `faults`)

    def clear(self, rank: int) -> None:
        """A rank is lost, and its HBM is empty. Stores that only lost ranks of its instance use are emptied, too."""
        self.uses[rank].clear()
        for tier, own in enumerate(self.tiers.stores):
            number = own.stores[rank]
            users = [other for other, store in zip(self.ranks, own.stores, strict=True) if store == number]
            alone = all(other.lost and other.home == self.ranks[rank].home for other in users)
            if alone and not own.survives:
                self.stores[tier][number] = ReferenceStore(own, number)

    # ---- flows (rule 3)

    def occupy(self, lanes: Iterable[Lane], rank: int, blocks: int, start: float) -> float:
        """Book a flow of `blocks` from `start` on. Returns the end of its last lane [s]."""
        end = start
        for lane in lanes:
            link, seconds = self.links.setdefault(lane.links[rank], ReferenceLink()), blocks * lane.block_s
            link.free_s = max(start, link.free_s) + seconds
            link.busy_s += seconds
            link.flows += 1
            end = max(end, link.free_s)
        return end

    def read(self, tier: int, rank: int, blocks: int, start: float) -> tuple[float, bool]:
        """Book a read flow. Returns its end, and whether it fails (rule 7)."""
        own, counters = self.tiers.stores[tier], self.counters[tier]
        failed = own.failures > 0 and self.random.share() < own.failures
        counters.failed += failed
        counters.read_blocks += blocks
        counters.read_s += blocks * own.read[0].block_s
        return self.occupy(own.read, rank, blocks, start) + own.latency_s, failed

    # ---- loads (rules 1 and 2)

    def places(self, rank: int, q: Sequence, known: int, *, prefetch: bool) -> list[int]:
        """Places of the blocks of the longest prefix of `q`; the first `known` blocks are in HBM.

        With `prefetch`, stores that only a prefetch reads are looked up as well.
        """
        places = [HBM] * known
        for name in q.ids[known : (q.goal - 1) // self.ranks[rank].limits.block_tokens]:
            holders = (
                tier
                for tier, own in enumerate(self.tiers.stores)
                if (prefetch or own.prefetch == "none") and name in self.store(tier, rank).uses
            )
            place = next(holders, HBM)
            if place == HBM:
                break
            places.append(place)
        return places

    def shared(self, names: list[int]) -> int:
        """Number of the leading blocks that stores hold which all ranks share."""
        common = [stores[own.stores[0]] for own, stores in zip(self.tiers.stores, self.stores, strict=True)
                  if len(stores) == 1]  # fmt: skip
        held = (any(name in store.uses for store in common) for name in names)
        return next((i for i, known in enumerate(held) if not known), len(names))

    def load(self, rank: int, q: Sequence, known: int, now: float) -> StoreLoad:
        """Admission takes blocks for `q` from stores; its first `known` blocks are in HBM."""
        if not self.tiers.stores:
            return StoreLoad()
        places = self.places(rank, q, known, prefetch=False)
        load, served = StoreLoad(), len(places)
        for tier in sorted(set(places) - {HBM}):
            names = [name for name, place in zip(q.ids, places, strict=False) if place == tier]
            self.counters[tier].hit_blocks += len(names) if math.isnan(q.scheduled_s) else 0
            end, failed = self.carry(tier, rank, names, now)
            load.end_s = max(load.end_s, end)
            if failed:
                served = min(served, places.index(tier))
                load.failed = self.tiers.on_failure == "fail"
        for name, place in reversed(list(zip(q.ids, places, strict=False))):
            self.hit(place, rank, name, now)
        load.blocks = served - known
        return load

    def carry(self, tier: int, rank: int, names: list[int], now: float) -> tuple[float, bool]:
        """Carry blocks from a store to HBM, through its gateways. Returns the end, and whether a flow failed."""
        place, end, failed = tier, now, False
        while place != HBM and not failed:
            end, failed = self.read(place, rank, len(names), end)
            place = self.tiers.stores[place].gateway
            if place != HBM and not failed:
                self.copy(place, rank, names, now)
        return end, failed

    def copy(self, gateway: int, rank: int, names: list[int], now: float) -> None:
        """The gateway keeps blocks that come from a store behind it."""
        for name in reversed(names):
            self.put(gateway, rank, name, now, written=False)

    def hit(self, place: int, rank: int, name: int, now: float) -> None:
        """A block is used in the place that served it, unless it has left that place in the meantime."""
        uses = self.uses[rank] if place == HBM else self.store(place, rank).uses
        if name not in uses:
            return
        if place != HBM:
            self.store(place, rank).eviction.use(name)
        uses[name] += 1
        self.write_through(place, rank, name, now)

    # ---- prefetches (rule 6)

    def prefetch(self, rank: int, q: Sequence, known: int, now: float) -> float:
        """Start the prefetches of `q`, whose first `known` blocks are in HBM. Returns when to queue `q` [s]."""
        places, due = self.places(rank, q, known, prefetch=True), now
        for tier in sorted(set(places) - {HBM}):
            own = self.tiers.stores[tier]
            if own.prefetch == "none":
                continue
            names = [name for name, place in zip(q.ids, places, strict=False) if place == tier]
            for name in reversed(names):
                self.hit(tier, rank, name, now)
            end, failed = self.read(tier, rank, len(names), now)
            q.prefetches.append(Prefetch(tier, names, end, failed))
            longest = {"wait": math.inf, "timeout": own.timeout_s, "best_effort": 0.0}[own.prefetch]
            due = max(due, min(end, now + longest))
        return due

    def land(self, rank: int, prefetch: Prefetch, now: float) -> int:
        """The blocks of a prefetch that have arrived enter the gateway. Returns their number [block]."""
        own = self.tiers.stores[prefetch.tier]
        arrived = prefetch.arrived(max(lane.block_s for lane in own.read), now)
        self.copy(own.gateway, rank, prefetch.names[:arrived], now)
        self.counters[prefetch.tier].hit_blocks += arrived
        return arrived

    def cut(self, rank: int, q: Sequence, now: float) -> None:
        """Admission ends the prefetches of `q`; blocks that have not arrived are dropped."""
        for prefetch in q.prefetches:
            arrived = self.land(rank, prefetch, now)
            self.counters[prefetch.tier].late_blocks += len(prefetch.names) - arrived
        q.prefetches.clear()

    # ---- results

    def counts(self) -> tuple[TierCounts, ...]:
        """Counters of each tier."""
        return tuple(
            TierCounts(
                **vars(counters), used=sum(len(store.uses) for store in stores.values()), total=own.blocks * len(stores)
            )
            for own, stores, counters in zip(self.tiers.stores, self.stores, self.counters, strict=True)
        )
