"""KV tiers below HBM, as the engine sees them: stores of blocks, and links over which blocks travel.

Tiers belong to the first pool, which must have a prefix cache. A block is known by its id, a chained hash
(`types.Requests.block_ids`). The kernel relies on it: an id after two different blocks is two blocks of a tier there.
The reference (`reference_tiers`) and the kernel (`kernel.tiers`) follow the same rules:

1. *Lookup*. Admission looks up the prefix of a request in HBM, as without tiers. Each later block of the prefix is
   taken from the first store that holds it, in the order of `Tiers.stores`; stores with `prefetch` are passed over.
   The lookup ends at the first block that no store holds. Blocks from stores need new blocks in HBM: admission asks
   for the same room as without tiers, and HBM knows them when it knows the computed blocks of the request. A refused
   admission reads nothing.
2. *Load*. The blocks of one store are one read flow. A flow with a gateway goes from the store to the gateway, and
   from its end on from the gateway to HBM. The gateway keeps a copy. All flows are booked at admission, in the order
   of the stores. A load ends when its last flow ends.
   With `load="layerwise"` the request joins the step at once. Layers are loaded while earlier layers are computed, so
   the step of length `s` does not end before the end of the load + s / `layers`.
   With `load="async"` the request waits beside the queue. All blocks of its prompt are reserved. After the load its
   prefill starts before the waiting requests, in the order in which loads end, without a test of room.
3. *Flow*. A flow of `n` blocks occupies each of its lanes for n x `block_s`, as soon as the link is free. It ends when
   the last lane ends, plus `latency_s` of a read. Each link serves its flows in the order of booking.
4. *Write*. A store with `written="through"` gets a block from HBM, or from its gateway, when the block has been used
   `uses` times there, or more often. To store a block is its first use, each hit of an admission is one more. A store
   with `written="back"` gets a block when its source evicts it. The source is the gateway, else the store before it,
   else HBM. A store that holds the block already moves no bytes; the block counts as used there. The index of a store
   knows a block at once. All blocks that one event writes to a tier for one rank are one flow, booked at the end of
   the event, ranks in order and then tiers in order. The flow uses the lanes of the rank that acts, and a block that
   leaves a store goes on to a store of this rank. A step that evicts blocks from HBM into a store does not end before
   the end of that write. A simplification: blocks are written when the scheduler knows them, up to a step early.
5. *Eviction*. A full store evicts one block for each new block, as `eviction` says. A hit counts as a use of the block
   in the store that served the hit. The blocks of a hit count as used, and blocks that come together enter, from the
   end of the chain to its begin, so the begin of a prompt stays longest.
6. *Prefetch*. When a request reaches a rank, blocks of its prefix that are in stores with `prefetch` (which have a
   gateway) start to travel to the gateway: those which follow the blocks that HBM and faster stores hold, in one flow
   for each store. The blocks arrive one after the other, at the pace of the slowest lane, and enter the gateway at
   the end of the flow. The first attempt to admit the request ends its prefetch: the blocks that have arrived enter
   the gateway, the others are late and dropped. "best_effort" queues the request at once. "wait" queues the request
   after the flow has ended. "timeout" queues it at the end of the flow, or after `timeout_s`. A request that waits for
   a prefetch takes its place in the queue by its number.
7. *Failure*. The share `failures` of read flows fails, as a random stream says: one draw for each flow out of a store
   with `failures` above zero. A failed flow takes its time and brings nothing. With `on_failure="recompute"` the
   request computes its blocks and all blocks after them. With "fail" the request ends with the status FAILED, at the
   end of its step or of its load. A failed prefetch fails no request.
8. *Router*. Under prefix_aware, a rank holds a block if HBM or a store of this rank alone holds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from tokenworks.errors import SpecError

EvictionName = Literal["lru", "arc", "cost"]
"""lru : least recently used. arc : Megiddo and Modha, FAST 2003. cost : GreedyDual (Cao and Irani, USITS 1997) with the
time to compute the block again."""
WriteName = Literal["through", "back"]
PrefetchName = Literal["none", "best_effort", "wait", "timeout"]
LoadName = Literal["layerwise", "async"]
FailureName = Literal["recompute", "fail"]


def _need(condition: bool, message: str, where: str, hint: str = "") -> None:
    if not condition:
        raise SpecError(message, where=where, hint=hint)


@dataclass(frozen=True)
class Lane:
    """A link that the flows of a store occupy.

    Parameters
    ----------
    links : number of the link of each rank of the first pool; equal numbers, in all lanes of all stores, are one link
    block_s : time for which one block occupies the link [s]
    """

    links: tuple[int, ...]
    block_s: float

    def __post_init__(self) -> None:
        ok = math.isfinite(self.block_s) and self.block_s >= 0
        _need(ok, f"{self.block_s} must be finite and not negative", "Lane.block_s")
        _need(bool(self.links) and min(self.links) >= 0, "want a link number for each rank", "Lane.links")


@dataclass(frozen=True)
class Store:
    """One KV tier below HBM.

    Parameters
    ----------
    name : name of the tier in results
    blocks : capacity of each store of the tier [block]; 0 = the tier holds nothing
    stores : number of the store of each rank of the first pool; ranks with equal numbers share a store
    read, write : lanes of flows out of the store and into the store
    latency_s : time of a read flow beside its lanes [s]
    gateway : index of an earlier tier through which all blocks pass, -1 = blocks travel from and to HBM
    written : write policy
    uses : uses of a block from which on "through" writes it [count]
    eviction : eviction policy
    prefetch, timeout_s : prefetch policy, and the longest wait of "timeout" [s]
    failures : share of read flows that fail [-]
    survives : whether the blocks stay when all ranks that use the store are lost (`faults`, rule 7)
    """

    name: str
    blocks: int
    stores: tuple[int, ...]
    read: tuple[Lane, ...]
    write: tuple[Lane, ...]
    latency_s: float = 0.0
    gateway: int = -1
    written: WriteName = "through"
    uses: int = 1
    eviction: EvictionName = "lru"
    prefetch: PrefetchName = "none"
    timeout_s: float = 0.0
    failures: float = 0.0
    survives: bool = False

    def __post_init__(self) -> None:
        _need(self.blocks >= 0, f"{self.blocks} must not be negative", "Store.blocks")
        _need(self.uses >= 1, f"{self.uses} must be at least 1", "Store.uses")
        _need(0 <= self.failures <= 1, f"{self.failures} is not a share", "Store.failures")
        for name in ("latency_s", "timeout_s"):
            value = getattr(self, name)
            _need(math.isfinite(value) and value >= 0, f"{value} must be finite and not negative", f"Store.{name}")
        for name, names in (("written", WriteName), ("eviction", EvictionName), ("prefetch", PrefetchName)):
            value = getattr(self, name)
            _need(value in get_args(names), f"unknown policy {value!r}", f"Store.{name}", ", ".join(get_args(names)))
        ok = self.prefetch == "none" or self.gateway >= 0
        _need(ok, "a store without a gateway has nowhere to prefetch to", "Store.prefetch")
        _need(bool(self.read) and bool(self.write), "want at least one lane in each direction", "Store.read")
        ok = bool(self.stores) and min(self.stores) >= 0
        _need(ok, f"want a store number for each rank, not {self.stores}", "Store.stores")


@dataclass(frozen=True)
class Tiers:
    """All KV tiers below HBM, the fastest first.

    Parameters
    ----------
    stores : the tiers
    load : how a request waits for its blocks
    layers : layers of the model, for "layerwise" [count]
    on_failure : what happens to a request whose read flow fails
    seed : of the random stream of failures
    block_s, position_s : time to compute a block again, and its growth with the position of the block in the prompt;
        only eviction "cost" uses them [s], [s/block]
    """

    stores: tuple[Store, ...] = ()
    load: LoadName = "layerwise"
    layers: int = 1
    on_failure: FailureName = "recompute"
    seed: int = 0
    block_s: float = 0.0
    position_s: float = 0.0

    def __post_init__(self) -> None:
        _need(self.load in get_args(LoadName), f"unknown load {self.load!r}", "Tiers.load", "layerwise or async")
        ok = self.on_failure in get_args(FailureName)
        _need(ok, f"unknown policy {self.on_failure!r}", "Tiers.on_failure", "recompute or fail")
        _need(self.layers >= 1, f"{self.layers} must be at least 1", "Tiers.layers")
        for name in ("block_s", "position_s"):
            value = getattr(self, name)
            _need(math.isfinite(value) and value >= 0, f"{value} must be finite and not negative", f"Tiers.{name}")
        for i, store in enumerate(self.stores):
            ok = -1 <= store.gateway < i
            _need(ok, f"gateway {store.gateway} of {store.name!r} is not an earlier tier", "Store.gateway",
                  f"want -1 (none) .. {i - 1}")  # fmt: skip

    def source(self, tier: int) -> int:
        """Index of the tier whose evicted blocks a tier that is written "back" gets; -1 = HBM."""
        gateway = self.stores[tier].gateway
        return gateway if gateway >= 0 else tier - 1


@dataclass(frozen=True)
class TierCounts:
    """Counters of one KV tier, summed over its stores.

    A flow from a store to its gateway counts as read from the store, and not as written to the gateway.

    hit_blocks : blocks that first admissions found here, failed flows included; with prefetch, blocks that arrived at
        the gateway in time, which are hits of the gateway, too, when admission finds them [block]
    read_blocks, written_blocks : blocks that flows moved out of the store, and into the store [block]
    evictions : blocks that were evicted [block]
    failed : read flows that failed [count]
    late_blocks : prefetched blocks that had not arrived at the first attempt of admission [block]
    used, total : blocks that the stores hold now, and their capacity [block]
    read_s, write_s : time for which flows have booked the first lane, the future included [s]
    """

    hit_blocks: int
    read_blocks: int
    written_blocks: int
    evictions: int
    failed: int
    late_blocks: int
    used: int
    total: int
    read_s: float
    write_s: float

    def since(self, earlier: TierCounts) -> TierCounts:
        """Counters since an earlier time; `used` and `total` are the present values."""
        before = {**vars(earlier), "used": 0, "total": 0}
        return TierCounts(**{name: value - before[name] for name, value in vars(self).items()})
