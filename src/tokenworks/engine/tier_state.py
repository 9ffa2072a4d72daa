"""Memory of the KV tiers in the compiled engine: records of tiers, stores and lanes, and of the blocks in stores.

All stores of a rank that serve the same ranks form a *group*, and share an *index*.

A *run* is a chain of blocks whose names were new when the first one of them entered HBM or a gateway: those that the
prompt of one request has and no earlier one had. Block ids are chained hashes, so a block belongs to one run only. A
run stays while a block of it is in HBM or in a store. An *extent* is a range of blocks of a run that stand one after
the other in the list of a store, so a prompt costs a few operations, not a few for each block. A run of which a store
of an index has blocks, or remembers evicted ones (ARC), has a *cell* in this index: it leads to the extents of each
tier. The record of the run has its first cells; a hash table has the others, and the runs by their first names. Number
0 of runs, cells and extents stands for none.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
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
MOST_STORES = 1 << 15
OWN_CELLS = 4  # a record of a run then fills a cache line
RUNS, CELLS, EXTENTS = 0, 1, 2  # places of what has numbers in `World.fresh` and `World.spare`
_LEAST = 10  # the hash table of runs and cells begins with 2 ** _LEAST places
_HUGE_PAGE, _LINE = 1 << 21, 64  # [byte]
EVICTIONS: dict[EvictionName, int] = {"lru": 0, "arc": 1, "cost": 2}
PREFETCHES: dict[PrefetchName, int] = {"none": 0, "best_effort": 1, "wait": 2, "timeout": 3}


def _in_a_line(fields: list[Any]) -> np.dtype[Any]:
    """A record that fills a cache line, so that a random read of it fetches one line and no second one."""
    packed: Mapping[str, Any] = np.dtype(fields).fields or {}
    return np.dtype({
        "names": list(packed), "formats": [field[0] for field in packed.values()],
        "offsets": [field[1] for field in packed.values()], "itemsize": _LINE,
    })  # fmt: skip


TIER = np.dtype(
    [
        ("latency_s", "f8"), ("timeout_s", "f8"), ("failures", "f8"),
        ("slowest_s", "f8"),  # longest block_s of the read lanes
        ("blocks", "i8"), ("gateway", "i4"), ("uses", "i4"), ("eviction", "i4"), ("prefetch", "i4"),
        ("group", "i4"),
        ("first_store", "i4"),  # the store of index x has the number first_store + x
        ("read", "i4"), ("reads", "i4"), ("write", "i4"), ("writes", "i4"),  # first lane and number of lanes
        ("through", "i4"), ("back", "i4"),  # tiers that this tier is the source of, as bits, by their write policy
        ("most_uses", "i4"),  # uses that a tier of `through` wants at most; more are not counted
        ("found", "i8"),  # blocks of this tier in the last lookup
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
GROUP = np.dtype([("tiers", "i4"), ("cell", "i4")], align=True)  # cell: of `kernel.loads.look`
# Blocks lo to hi - 1 of a run that a tier is to get (`kernel.tiers.send`).
ERRAND = np.dtype([(name, "i4") for name in ("tier", "run", "lo", "hi", "known", "written")], align=True)
# head: name of its first block; first: place of this name in `run_name`, or the next spare run; count: blocks, 0 =
# spare; position: of the first block in its prompt; users: blocks in HBM, errands and lookups; cells: in all indexes;
# index, cell: indexes and cells that the record has room for; cell 0 = room.
RUN = np.dtype(
    [
        ("head", "i8"), ("first", "i8"), ("count", "i4"), ("position", "i4"), ("users", "i4"), ("cells", "i4"),
        ("index", "i4", (OWN_CELLS,)), ("cell", "i4", (OWN_CELLS,)),
    ],
    align=True,
)  # fmt: skip
# run: 0 = spare; index: of the cell, or the next spare cell; finger: an extent of each tier, where a search begins.
CELL = _in_a_line([("run", "i4"), ("index", "i4"), ("extents", "i4"), ("finger", "i4", (MOST_TIERS,))])
# uses: of each of its blocks in the store; list: 0 = LRU or T1, 1 to 3 = T2, B1 and B2 of ARC; prev, next: in this
# list; place: in the heap of a store that evicts by cost; below, above: in the cell.
EXTENT = _in_a_line(
    [(name, "i4") for name in ("cell", "lo", "hi", "uses", "list", "place", "prev", "next", "below", "above")]
)
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
PRIORITY = np.dtype([("h", "f8"), ("serial", "i8"), ("extent", "i4")], align=True)


def _partition(store: Store) -> tuple[int, ...]:
    """Numbers of the stores of all ranks, renumbered in the order of their first rank."""
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(number, len(numbers)) for number in store.stores)


class TierLayout:
    """How the tiers of a cluster lie in memory, as plain Python numbers.

    groups : partition of the ranks of each group, in the order of the first tier
    group : group of each tier
    first_index : number of the first index of each group
    capacity : most blocks of each store, with those that ARC remembers
    """

    def __init__(self, tiers: Tiers) -> None:
        partitions = [_partition(store) for store in tiers.stores]
        self.groups = list(dict.fromkeys(partitions))
        self.group = [self.groups.index(partition) for partition in partitions]
        self.first_index = [sum(max(g) + 1 for g in self.groups[:i]) for i in range(len(self.groups))]
        self.capacity = [
            store.blocks * (2 if store.eviction == "arc" else 1) for store in tiers.stores for _ in set(store.stores)
        ]
        for what, count, most in (("KV tiers", len(tiers.stores), MOST_TIERS),
                                  ("stores", len(self.capacity), MOST_STORES)):  # fmt: skip
            if count > most:
                raise SpecError(f"{count} {what}, the engine takes {most}", where="Cluster.tiers",
                                hint="give fewer tiers, or let ranks share stores")  # fmt: skip


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
        row["group"], row["most_uses"] = g, 1
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
            if store.written == "through":
                tier[source]["most_uses"] = max(tier[source]["most_uses"], store.uses)
    group = np.zeros(max(len(layout.groups), 1), GROUP)
    for g in range(len(layout.groups)):
        group[g]["tiers"] = sum(1 << t for t in range(count) if layout.group[t] == g)
    shelf = [first + x for first, partition in zip(layout.first_index, layout.groups, strict=True) for x in partition]
    alone = [partition.count(x) == 1 for partition in layout.groups for x in range(max(partition) + 1)]
    return {
        "tier": tier, "store": np.zeros(max(stores, 1), STORE), "lane": np.array(lanes or [(0.0, 0)], LANE),
        "lane_link": np.array(lane_link or [0], np.int32), "group": group, "shelf": np.array(shelf or [0], np.int32),
        "alone": np.array(alone or [False], np.int32), "pending": np.zeros(max(count * ranks, 1), np.int32),
        "errand": np.zeros(2 * MOST_TIERS**2, ERRAND), "more_links": np.zeros(len(numbers), np.int8),
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
    world["fresh"], world["key_shift"] = 1, 64 - _LEAST
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
    """What tiers must know of each block in HBM of the first pool: its run and its place there, and its uses."""
    front, tiers = cluster.pools[0], cluster.tiers
    nodes = front.instances * front.ranks * front.limits.kv_blocks if tiers.stores else 1
    return {
        "node_run": np.zeros(nodes, np.int32),
        "node_block": np.zeros(nodes, np.int32),
        "node_uses": np.zeros(nodes if world["counts"][0] else 1, np.int32),
    }


def block_arrays() -> dict[str, NDArray[Any]]:
    """Memory for blocks in stores, without room for any."""
    return {
        "run": np.zeros(1, RUN), "run_name": np.zeros(0, np.int64), "key_at": np.zeros(1 << _LEAST, np.uint64),
        "cell": np.zeros(1, CELL), "extent": np.zeros(1, EXTENT),
    }  # fmt: skip


def _pages(count: int, kind: np.dtype[Any] | type[Any]) -> NDArray[Any]:
    """Zeros in pages of their own, huge ones if possible: random reads in them cost half as much."""
    size = count * np.dtype(kind).itemsize
    if size < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(count, kind)
    pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, kind)


def _wider(old: NDArray[Any], used: int, count: int) -> NDArray[Any]:
    """`old` if it has room for `count` items, else a copy of its `used` first ones with twice the room."""
    if count <= len(old):
        return old
    new = _pages(max(count, 2 * len(old)), old.dtype)
    new[:used] = old[:used]
    return new


def reserve(s: EngineState, cluster: Cluster, names: int, ids: int, slots: int) -> EngineState:
    """Room for the blocks that tiers can hold.

    The room grows with the names, because a tier may be larger than all blocks that ever are.

    Parameters
    ----------
    s : the state
    cluster : the deployment
    names : block ids that were submitted so far
    ids : block ids in memory
    slots : requests in memory at the same time
    """
    world, layout, front = s.world, TierLayout(cluster.tiers), cluster.pools[0]
    # one more of each tier while its blocks enter, and three while an extent is cut in parts
    extents = 3 + MOST_TIERS + sum(min(capacity, names) for capacity in layout.capacity)
    runs = min(extents + front.instances * front.ranks * front.limits.kv_blocks, names) + 2
    if extents >= 1 << 31:
        raise SpecError(f"{extents:,} blocks in KV tiers are too many for the engine", where="Cluster.tiers",
                        hint="give smaller tiers, or larger blocks")  # fmt: skip
    used, text = world["fresh"][0].tolist(), int(world["text"][0])
    room: dict[str, NDArray[Any]] = {
        "run": _wider(s.run, used[RUNS], runs),
        "run_name": _wider(s.run_name, text, text + 2 * ids),
        "key_at": _wider(s.key_at, 1 << (64 - int(world["key_shift"][0])), 1 << (2 * (runs + extents)).bit_length()),
        "cell": _wider(s.cell, used[CELLS], extents),
        "extent": _wider(s.extent, used[EXTENTS], extents),
    }
    flows = slots * (int(world["prefetched"][0]).bit_count() + 1) if world["prefetched"][0] else 0
    if len(s.flow) < flows:
        flow, heap = np.zeros(2 * flows, FLOW), np.zeros(2 * flows, np.int32)
        flow[: len(s.flow)], heap[: len(s.flow_heap)] = s.flow, s.flow_heap
        room |= {"flow": flow, "flow_heap": heap}
    if any(store.eviction == "cost" for store in cluster.tiers.stores):
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
