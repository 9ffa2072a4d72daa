"""Memory of the KV tiers in the compiled engine: records of tiers, stores and lanes, and the cells of their blocks.

All stores of a rank that serve the same ranks form a *group*, and share an *index*. A block that a store holds has one
*cell* in the index of that store, so a block that moves between stores of a group keeps its cell. A cell is a row of
int32 numbers: the name (two of them), `held`, the position of the block in its prompt, and four numbers for each tier
of the group: previous and next cell of a list, uses, and the number of the list (ARC) or the place in the heap (cost).
`held` has a bit for each tier that holds the block, from bit 8 on a bit for each ARC tier that remembers its name, and
from bit 16 on the number of the index. Cell 0 stands for none.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenworks.engine.tiers import EvictionName, PrefetchName, Store, Tiers
from tokenworks.engine.types import Cluster
from tokenworks.errors import SpecError

if TYPE_CHECKING:
    from tokenworks.engine.state import EngineState

MOST_TIERS = 8
MOST_INDEXES = 1 << 15
HEADER, FIELDS = 4, 4
_HUGE_PAGE = 1 << 21  # [byte]
EVICTIONS: dict[EvictionName, int] = {"lru": 0, "arc": 1, "cost": 2}
PREFETCHES: dict[PrefetchName, int] = {"none": 0, "best_effort": 1, "wait": 2, "timeout": 3}

TIER = np.dtype(
    [
        ("latency_s", "f8"), ("timeout_s", "f8"), ("failures", "f8"),
        ("slowest_s", "f8"),  # longest block_s of the read lanes
        ("blocks", "i8"), ("gateway", "i4"), ("uses", "i4"), ("eviction", "i4"), ("prefetch", "i4"),
        ("group", "i4"), ("field", "i4"),  # field: first of the four numbers of this tier in a cell
        ("first_store", "i4"),  # the store of index x has the number first_store + x
        ("read", "i4"), ("reads", "i4"), ("write", "i4"), ("writes", "i4"),  # first lane and number of lanes
        ("through", "i4"), ("back", "i4"),  # tiers that this tier is the source of, as bits, by their write policy
        ("counts", "i4"),  # whether a tier of `through` wants more than one use
        ("found", "i8"),  # blocks of this tier in the last lookup
        ("cursor", "i8"),  # of `kernel.tiers.read_ahead_victims`: the next cell
        ("hits", "i8"), ("read_blocks", "i8"), ("written_blocks", "i8"), ("evictions", "i8"), ("failed", "i8"),
        ("late", "i8"), ("read_s", "f8"), ("write_s", "f8"),
        ("survives", "i8"),  # whether a store stays when all ranks that use it are lost
    ],
    align=True,
)  # fmt: skip

# Lists: 0 is the LRU list, or T1 of ARC; 1 to 3 are T2, B1 and B2 of ARC. target: p of ARC. floor: L of GreedyDual.
STORE = np.dtype(
    [
        ("first", "i4", (4,)), ("last", "i4", (4,)), ("size", "i8", (4,)),
        ("used", "i8"), ("target", "f8"), ("floor", "f8"), ("serial", "i8"), ("heap", "i8"),
    ],
    align=True,
)  # fmt: skip

LANE = np.dtype([("block_s", "f8"), ("links", "i8")], align=True)  # links: first of its numbers in lane_link
GROUP = np.dtype([("tiers", "i4"), ("first_tier", "i4")], align=True)
# A block that a tier is to get: its cell, or 0 if it must be looked up.
ERRAND = np.dtype([("name", "i8"), ("tier", "i4"), ("cell", "i4"), ("position", "i4")], align=True)
# A prefetch flow (tier >= 0), or the time at which a request is queued (tier = number of tiers). follower: the next
# flow of the request, or the next spare flow, + 1; place: its place in the heap; low: its first block is this one of
# the prompt, or a later one.
FLOW = np.dtype(
    [
        ("time", "f8"), ("number", "i8"), ("slot", "i4"), ("tier", "i4"), ("blocks", "i4"), ("follower", "i4"),
        ("place", "i4"), ("low", "i4"), ("failed", "i4"),
    ],
    align=True,
)  # fmt: skip
# An entry of the heap of a store that evicts by cost.
PRIORITY = np.dtype([("h", "f8"), ("serial", "i8"), ("cell", "i4")], align=True)


def _partition(store: Store) -> tuple[int, ...]:
    """Numbers of the stores of all ranks, renumbered in the order of their first rank."""
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(number, len(numbers)) for number in store.stores)


class TierLayout:
    """How the tiers of a cluster lie in memory, as plain Python numbers.

    groups : partition of the ranks of each group, in the order of the first tier
    group, column : group of each tier, and its place in the group
    first_index : number of the first index of each group
    capacity : most cells of each index
    """

    def __init__(self, tiers: Tiers) -> None:
        partitions = [_partition(store) for store in tiers.stores]
        self.groups = list(dict.fromkeys(partitions))
        self.group = [self.groups.index(partition) for partition in partitions]
        self.column = [self.group[:t].count(g) for t, g in enumerate(self.group)]
        self.first_index = [sum(max(g) + 1 for g in self.groups[:i]) for i in range(len(self.groups))]
        self.capacity: list[int] = []
        for g, partition in enumerate(self.groups):
            own = [store for store, group in zip(tiers.stores, self.group, strict=True) if group == g]
            cells = sum(store.blocks * (2 if store.eviction == "arc" else 1) for store in own)
            self.capacity += [cells] * (max(partition) + 1)
        for what, count, most in (("KV tiers", len(tiers.stores), MOST_TIERS),
                                  ("stores", len(self.capacity), MOST_INDEXES)):  # fmt: skip
            if count > most:
                raise SpecError(f"{count} {what}, the engine takes {most}", where="Cluster.tiers",
                                hint="give fewer tiers, or let ranks share stores")  # fmt: skip

    @property
    def words(self) -> int:
        """Numbers of a cell."""
        return HEADER + FIELDS * max((self.group.count(g) for g in range(len(self.groups))), default=0)


def source_of(stores: tuple[Store, ...], tier: int) -> int:
    """Tier from which a tier gets its blocks, -1 = HBM (rule 4 in `tiers`)."""
    store = stores[tier]
    if store.gateway >= 0 or store.written == "through":
        return store.gateway
    return tier - 1


def tier_records(cluster: Cluster, links: int) -> dict[str, NDArray[Any]]:
    """The arrays of `state.EngineState` that hold settings of tiers. `links` is the number of links without tiers."""
    tiers, front = cluster.tiers, cluster.pools[0]
    layout, ranks, count = TierLayout(tiers), front.instances * front.ranks, len(tiers.stores)
    tier = np.zeros(max(count, 1), TIER)
    lanes: list[tuple[float, int]] = []
    lane_link: list[int] = []
    numbers: dict[int, int] = {}
    stores = 0
    for t, store in enumerate(tiers.stores):
        g = layout.group[t]
        row = tier[t]
        for name in ("latency_s", "timeout_s", "failures", "blocks", "gateway", "uses", "survives"):
            row[name] = getattr(store, name)
        row["eviction"], row["prefetch"] = EVICTIONS[store.eviction], PREFETCHES[store.prefetch]
        row["group"], row["field"] = g, HEADER + FIELDS * layout.column[t]
        row["first_store"] = stores - layout.first_index[g]
        row["slowest_s"] = max(lane.block_s for lane in store.read)
        stores += max(layout.groups[g]) + 1
        for kind, own in (("read", store.read), ("write", store.write)):
            row[kind], row[kind + "s"] = len(lanes), len(own)
            for lane in own:
                lanes.append((lane.block_s, len(lane_link)))
                lane_link += [links + numbers.setdefault(number, len(numbers)) for number in lane.links]
    for t, store in enumerate(tiers.stores):  # a tier of size 0 gets nothing
        source = source_of(tiers.stores, t)
        if store.blocks and source >= 0:
            tier[source][store.written] |= 1 << t
            tier[source]["counts"] |= store.written == "through" and store.uses > 1
    group = np.zeros(max(len(layout.groups), 1), GROUP)
    for g in range(len(layout.groups)):
        own_tiers = [t for t in range(count) if layout.group[t] == g]
        group[g] = (sum(1 << t for t in own_tiers), own_tiers[0])
    shelf = [first + x for first, partition in zip(layout.first_index, layout.groups, strict=True) for x in partition]
    alone = [partition.count(x) == 1 for partition in layout.groups for x in range(max(partition) + 1)]
    return {
        "tier": tier, "store": np.zeros(max(stores, 1), STORE), "lane": np.array(lanes or [(0.0, 0)], LANE),
        "lane_link": np.array(lane_link or [0], np.int32), "group": group, "shelf": np.array(shelf or [0], np.int32),
        "alone": np.array(alone or [False], np.int32), "pending": np.zeros(max(count * ranks, 1), np.int32),
        "errand": np.zeros(2 * MOST_TIERS, ERRAND), "more_links": np.zeros(len(numbers), np.int8),
    }  # fmt: skip


def tier_world(world: NDArray[Any], cluster: Cluster) -> None:
    """Write the settings that all tiers share into the record of the world."""
    tiers, front = cluster.tiers, cluster.pools[0]
    layout = TierLayout(tiers)
    world["tiers"], world["tier_groups"] = len(tiers.stores), len(layout.groups)
    world["tier_ranks"] = front.instances * front.ranks
    world["layerwise"], world["layers"] = tiers.load == "layerwise", tiers.layers
    world["fails"], world["tier_seed"] = tiers.on_failure == "fail", tiers.seed
    world["again_s"], world["again_position_s"] = tiers.block_s, tiers.position_s
    world["cell_words"] = world["cell_fresh"] = layout.words
    world["by_cost"] = any(store.eviction == "cost" for store in tiers.stores)
    for t, store in enumerate(tiers.stores):
        if store.prefetch != "none":
            world["prefetched"] |= 1 << t
        if store.blocks and source_of(tiers.stores, t) < 0:
            world[store.written] |= 1 << t
            world["counts"] |= store.written == "through" and store.uses > 1
    world["common"] = sum(1 << t for t, tier in enumerate(cluster.tiers.stores) if len(set(tier.stores)) == 1)
    world["alone"] = sum(any(partition.count(x) == 1 for x in partition) for partition in layout.groups)


def private_blocks(cluster: Cluster) -> int:
    """Blocks of all stores that a single rank uses, which the router may hear of."""
    return sum(
        store.blocks * sum(store.stores.count(number) == 1 for number in set(store.stores))
        for store in cluster.tiers.stores
    )  # fmt: skip


def node_arrays(cluster: Cluster, world: NDArray[Any]) -> dict[str, NDArray[np.int32]]:
    """What tiers must know of each block in HBM of the first pool; empty if they do not need it."""
    front = cluster.pools[0]
    nodes = front.instances * front.ranks * front.limits.kv_blocks
    return {
        "hint": np.zeros(max(nodes * int(world["tier_groups"][0]), 1), np.int32),
        "node_uses": np.zeros(nodes if world["counts"][0] else 1, np.int32),
        "node_position": np.zeros(nodes if world["by_cost"][0] else 1, np.int32),
    }


def _pages(count: int, kind: type[Any]) -> NDArray[Any]:
    """Zeros in pages of their own, huge ones if possible: random reads in them cost half as much."""
    if count < _HUGE_PAGE // 8 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(count, kind)
    pages = mmap.mmap(-1, 8 * count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, kind)


def cell_arrays(cells: int, words: int) -> dict[str, NDArray[Any]]:
    """Memory for a number of cells, and a hash table with room for them. Cells are zero until they are used."""
    numbers = _pages(words * (cells + 1) // 2, np.int64)
    return {
        "cell": numbers.view(np.int32), "cell_name": numbers,
        "cell_at": _pages(1 << max(2 * cells, 2).bit_length(), np.uint64),
    }  # fmt: skip


def set_size(world: NDArray[Any], width: int) -> None:
    """Note the length of the hash table of cells, a power of two."""
    world["cell_mask"], world["cell_shift"] = width - 1, 65 - width.bit_length()


def reserve(s: EngineState, cluster: Cluster, names: int, slots: int) -> EngineState:
    """Room for the blocks that tiers can hold, now that `names` block ids and `slots` requests were submitted.

    The room grows with the names, because a tier may be larger than all blocks that ever are.
    """
    world, layout = s.world, TierLayout(cluster.tiers)
    words = layout.words
    ahead = len(cluster.tiers.stores) + 1  # a block has its cell before a store evicts another one for it
    cells = sum(min(capacity + ahead, names) for capacity in layout.capacity)
    if cells * words >= 1 << 31:
        raise SpecError(f"{cells:,} blocks in KV tiers are too many for the engine", where="Cluster.tiers",
                        hint="give smaller tiers, or larger blocks")  # fmt: skip
    room: dict[str, NDArray[Any]] = {}
    if len(s.cell) < words * (cells + 1):
        least = len(s.cell) // words * 2 if len(s.cell) < 1 << 28 else 0
        most = sum(layout.capacity) + ahead * len(layout.capacity)
        room = cell_arrays(max(cells, min(least, most)), words)
        used = int(world["cell_fresh"][0])
        room["cell"][:used] = s.cell[:used]
        set_size(world, len(room["cell_at"]))
        world["rehash"] = 1
    flows = slots * (int(world["prefetched"][0]).bit_count() + 1) if world["prefetched"][0] else 0
    if len(s.flow) < flows:
        flow, heap = np.zeros(2 * flows, FLOW), np.zeros(2 * flows, np.int32)
        flow[: len(s.flow)], heap[: len(s.flow_heap)] = s.flow, s.flow_heap
        room |= {"flow": flow, "flow_heap": heap}
    if world["by_cost"][0]:
        room |= _heaps(s, cluster, names)
    return s._replace(**room)


def _heaps(s: EngineState, cluster: Cluster, names: int) -> dict[str, NDArray[Any]]:
    """Room for the heaps of the stores that evict by cost; nothing if there is enough."""
    sizes = [
        min(store.blocks, names) if store.eviction == "cost" else 0
        for store in cluster.tiers.stores
        for _ in set(store.stores)
    ]
    if sum(sizes) <= len(s.priority):
        return {}
    sizes = [2 * size for size in sizes]
    first = np.cumsum(sizes) - sizes
    priority = np.zeros(sum(sizes), PRIORITY)
    for k, low in enumerate(first.tolist()):
        used, before = int(s.store["used"][k]), int(s.store["heap"][k])
        if sizes[k]:
            priority[low : low + used] = s.priority[before : before + used]
    s.store["heap"] = first
    return {"priority": priority}
